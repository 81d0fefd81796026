"""What renewing is made of on this node: policy, circumstances, plan and signers, put together from a configuration.

Owns the wiring that the daemon and the command line share. It decides nothing: when a certificate is renewed is
`pki.plan`'s, and how is `host.execute`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from certmond.conducting import Conductor, SingleNode
from certmond.config import Config
from certmond.errors import RefusedError, WriteError
from certmond.host.audit import Audit
from certmond.host.boot import boot_id
from certmond.host.changes import Changes
from certmond.host.circumstances import doubt_of_the_clock, reason_to_wait
from certmond.host.derivation import Derivations
from certmond.host.derived import Absent, Current, Foreign, Stale, State, Unready
from certmond.host.execute import Executor
from certmond.host.former import FormerFiles
from certmond.host.history import History
from certmond.host.ledger import Ledger
from certmond.host.neighbourhood import Neighbourhood
from certmond.host.node_files import NodeFiles
from certmond.host.provenance import ProvenanceLookup
from certmond.host.rotation_record import RotationRecord
from certmond.host.signers.local import LocalSigner
from certmond.host.signers.signer import Signer
from certmond.host.staged import Staging
from certmond.host.store import Store
from certmond.host.transaction import Transactions
from certmond.pki.assess import Assessment, assess
from certmond.pki.certificate import certificates_of
from certmond.pki.holding import Surroundings
from certmond.pki.inventory import Inventory
from certmond.pki.plan import Circumstances, Policy, plan
from certmond.pki.restarts import Caution, restarts
from certmond.pki.rotation_pace import pace
from certmond.pki.rotation_steps import Lacks
from certmond.pki.settings import LOCAL, SignerSpec
from certmond.pki.steps import Derive, Held, Issue, Plan, Step
from certmond.restarting import Progress, Restarting
from certmond.rotating import Rotating
from certmond.standing import Standing
from certmond.turns import Alone, Scattered, Turn

_EVIDENCE = 0.5
"""Seconds of a pass for looking up where certificates that are due come from; the next pass goes on with that."""
_GLANCE = timedelta(seconds=2)
"""So long at most does who only looks wait for an answer of the Kubernetes API."""
KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
"""With whose rights the Kubernetes API is asked where the configuration does not say, and a node writes to its Node."""
API_SERVER = "/etc/kubernetes/manifests/kube-apiserver.yaml"
"""Where it is, the node is of the control plane: with a kubelet's rights it is refused a Lease, and told so."""


def policy_of(config: Config) -> Policy:
    """What the configuration says of renewing."""
    return Policy(
        validity=config.validity,
        key=config.key_algorithm,
        spread=config.spread,
        signers={spec.name: spec.kind for spec in config.signers},
        services=config.services,
    )


def _awake() -> float:
    """Seconds, those that the host sleeps included: a host that sleeps does not hold its turn."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _holds_something(assessment: Assessment) -> bool:
    return any(status.presence.stale for status in assessment.statuses)


class Enforcer:
    """Plans and carries out, for one configuration and one node.

    With `scattered` a worker restarts at a moment of its own, as its daemon does; who asks by hand waits for none.
    """

    def __init__(
        self,
        config: Config,
        *,
        root: str,
        state_dir: Path,
        audit: Audit,
        clock: Callable[[], datetime],
        acting: bool = False,
        keeps: bool = False,
        scattered: bool = False,
        alive: Callable[[], None] = lambda: None,
        wake: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = _awake,
    ) -> None:
        self._config, self._root, self._state_dir, self._clock = config, root, state_dir, clock
        self._monotonic = monotonic
        self._alive, self._scattered = alive, scattered
        self.audit = audit
        self._files = NodeFiles(root)
        self._transactions = Transactions(root, state_dir)
        self._ledger = Ledger(state_dir)
        self._derivations = Derivations(config.derived, config.certificates, self._files)
        self.executor = Executor(
            config, root=root, state_dir=state_dir, audit=audit, signer=self._signer_of, clock=clock, alive=alive
        )
        self.neighbourhood = Neighbourhood(config, root, Changes(state_dir, keeps=keeps), acting=acting, wake=wake)
        record, staging, conductor = RotationRecord(state_dir), Staging(state_dir), self._conductor(alone=not acting)
        self.standing = Standing(
            config, node=self._identity, files=self._files, record=record, staging=staging, conductor=conductor
        )
        self.rotating = Rotating(
            config, self.executor, self.standing, files=self._files, record=record, staging=staging,
            conductor=conductor, audit=audit, clock=clock,
        )  # fmt: skip
        self.provenance = ProvenanceLookup(config, root, state_dir)
        self._former = FormerFiles(config, root, state_dir, clock)
        self.restarting = Restarting(
            config,
            self.executor,
            History(state_dir),
            self._former,
            audit,
            turn=self._turn() if acting else Alone(),
            alive=alive,
        )

    def renewed(self) -> dict[str, datetime]:
        """When certmond put a certificate in place, by its SHA-256."""
        return self._ledger.renewed()

    def circumstances(self) -> Circumstances:
        """Which derived files there are, and which of them are to be made again. One that is not ours is in neither."""
        return self._circumstances(self._derivations.states())

    def _circumstances(self, states: Mapping[str, State]) -> Circumstances:
        paths, stale = {}, {}
        for spec in self._config.derived:
            match states[spec.name]:
                case Foreign():
                    continue
                case Absent():
                    stale[spec.name] = f"{spec.path} is not there"
                case Stale():
                    stale[spec.name] = f"{spec.path} is not as {spec.source} is"
                case Current() | Unready():
                    pass
            paths[spec.name] = (spec.path, spec.source)
        return Circumstances(None, stale, paths)

    def see(self, at: datetime | None = None) -> tuple[Assessment, Surroundings]:
        """One look at everything, waited for, and judged as of `at` or of now."""
        store = Store(self._config.certificates, self._root, self._config.given_facts)
        inventory = store.observe()
        now = at or self._clock()
        told = self.standing.look(inventory, store.components(), now, self.rotating.waits)
        provenance = self.provenance.of_due(inventory, now, family=self.standing.family, everything=True)
        view = self.neighbourhood.view(store, inventory, self.restarting.past())
        around = replace(view, told=told, provenance=provenance)
        renew_before = self._config.renew_before
        return assess(inventory, now, renew_before=renew_before, renewed=self.renewed(), around=around), around

    def around(self, store: Store, inventory: Inventory) -> Surroundings:
        """What is known of the node besides its certificates."""
        now = self._clock()
        told = self.standing.look(inventory, store.components(), now, self.rotating.waits)
        provenance = self.provenance.of_due(inventory, now, family=self.standing.family, within=_EVIDENCE)
        around = self.neighbourhood.around(store, inventory, self.restarting.past())
        return replace(around, told=told, provenance=provenance)

    def restart(self, plan: Plan, assessment: Assessment, around: Surroundings, patience: float = 0) -> Progress | None:
        """One step of a restart: see `Restarting.step`."""
        return self.restarting.step(plan, assessment, around, self.neighbourhood, patience=patience)

    def rotate(self, assessment: Assessment, around: Surroundings, plan: Plan) -> str | None:
        """Bring a rotation on: see `Rotating.advance`."""
        return self.rotating.advance(assessment, around, plan)

    def keep_former(self, assessment: Assessment, around: Surroundings) -> None:
        """Note what is good, and what services use, so that both are known later. Raises BusyError, WriteError."""
        self.restarting.meet(assessment, around)
        if unkept := self._former.unkept(tuple(assessment.certificates), self.restarting.restarted_now()):
            with self.executor.writing():
                self._former.keep(unkept)

    def plan(
        self, assessment: Assessment, asked: frozenset[str] | None = None, around: Surroundings | None = None
    ) -> Plan:
        """The steps for what was seen, and what is left alone; `asked` as for `pki.plan.plan`.

        Whether to wait is asked of the host only where something is due: a program may have to be run for that.
        """
        states = self._derivations.states()
        policy, past, now = policy_of(self._config), self._ledger.attempts(), self._circumstances(states)
        now = replace(now, unsure=self.standing.unsure)
        left = self.standing.lacks(assessment) if asked is None else Lacks()
        rotating = pace(left, past, assessment.taken_at)
        if rotating.first:  # the anchors change first: whatever else there is comes after a new look
            return rotating.beside(Plan(plan(assessment, policy, past, now, frozenset()).steps))
        under = certificates_of((self.standing.rotation.new,)) if self.standing.rotation else ()
        reissue = {identity: each for each in under for identity in left.reissue}
        made = plan(assessment, policy, past, now, asked, reissue=reissue)
        hold = None
        if asked is None and (any(isinstance(step, Issue) for step in made.steps) or _holds_something(assessment)):
            hold = reason_to_wait(self._config.hold, self._root, self._alive)
            doubt = doubt_of_the_clock(self._config.hold)
            made = plan(assessment, policy, past, replace(now, hold=hold, clock=doubt), asked, reissue=reissue)
        made = self._without_hurry(replace(made, held=(*made.held, *self._left_alone(states))), assessment.taken_at)
        made = rotating.beside(made)
        unmade = {spec.source: held.because for spec in self._config.derived for held in made.held
                  if held.target == spec.name and isinstance(states[spec.name], Absent | Stale)}  # fmt: skip
        family = self.standing.family
        changing = frozenset([family]) if family and not left.frozen else frozenset[str]()
        return self._with_restarts(made, assessment, around, Caution(hold, unmade, changing))

    def foresee(self, assessment: Assessment, around: Surroundings | None = None) -> Plan:
        """The steps as far as what is seen alone tells them: for who only observes."""
        made = plan(assessment, policy_of(self._config), self._ledger.attempts(), Circumstances())
        return self._with_restarts(made, assessment, around, Caution())

    def restarts(self, assessment: Assessment, around: Surroundings, asked: frozenset[str]) -> Plan:
        """The restarts of these services, whatever they hold: by hand."""
        return restarts(assessment, around, (), self.restarting.terms, caution=Caution(), asked=asked)

    def _with_restarts(self, made: Plan, assessment: Assessment, around: Surroundings | None, caution: Caution) -> Plan:
        """The plan with the restarts behind all that changes files."""
        around = around or Surroundings(self._config.services)
        after = restarts(assessment, around, made.steps, self.restarting.terms, caution=caution)
        instants = [at for at in (made.changes_at, after.changes_at) if at]
        return Plan((*made.steps, *after.steps), (*made.held, *after.held), min(instants, default=None))

    def _conductor(self, *, alone: bool) -> Conductor:
        kubeconfig = self._config.cluster.kubeconfig
        if kubeconfig is None:
            return SingleNode(self._config, clock=self._clock, monotonic=self._monotonic)
        from certmond.cluster.access import Access

        if alone:
            from certmond.cluster.estranged import estranged

            looking = Access(partial(self._real_kubeconfig, kubeconfig), _GLANCE, self._alive)
            ask = partial(estranged, looking)
            return SingleNode(self._config, clock=self._clock, monotonic=self._monotonic, strange=ask)
        from certmond.cluster.conductor import ClusterConductor
        from certmond.cluster.lease import ROTATION, ClusterLease

        identity, find = self._identity, partial(self._real_kubeconfig, kubeconfig)
        lead = ClusterLease(find, identity=identity, name=ROTATION, alive=self._alive, monotonic=_awake)
        access, own = (
            Access(rights, timedelta(seconds=5), self._alive) for rights in (find, partial(self._as_itself, kubeconfig))
        )
        return ClusterConductor(
            access, lead, self._config, node=identity, own=own, boot=boot_id(), clock=self._clock,
            monotonic=self._monotonic,
        )  # fmt: skip

    def _as_itself(self, otherwise: str) -> str:
        """With whose rights the node writes to its own Node: the kubelet's, where it has one in the usual place."""
        with suppress(RefusedError):
            if Path(own := self._real_kubeconfig(KUBELET_CONF)).exists():
                return own
        return self._real_kubeconfig(otherwise)

    @property
    def _identity(self) -> str:
        return self._config.node_name or os.uname().nodename.lower()

    def _turn(self) -> Turn:
        kubeconfig = self._config.cluster.kubeconfig
        if kubeconfig is None:
            return Alone()
        if kubeconfig == KUBELET_CONF and not self._files.exists(API_SERVER):  # a worker keeps nobody waiting
            if not self._scattered:
                return Alone()
            return Scattered(self._identity, self._config.cluster.spread, called=lambda: self.standing.called)
        from certmond.cluster.lease import RESTART, ClusterLease

        return ClusterLease(
            partial(self._real_kubeconfig, kubeconfig),  # who only plans may not even be able to look for it
            identity=self._identity, name=RESTART, duration=self._config.cluster.lease_duration, alive=self._alive,
            monotonic=_awake,
        )  # fmt: skip

    def _real_kubeconfig(self, path: str) -> str:
        try:
            return str(self._transactions.real(path))
        except WriteError as error:
            raise RefusedError(str(error)) from error

    def _without_hurry(self, made: Plan, now: datetime) -> Plan:
        """The plan without the derived files whose making has failed not long ago, unless their source is renewed."""
        past, renewed = self._ledger.attempts(), {step.target for step in made.steps if isinstance(step, Issue)}
        steps, held, instants = list[Step](), list[Held](), [made.changes_at] if made.changes_at else []
        for step in made.steps:
            attempt = past.get((step.target, step.path))
            may_wait = isinstance(step, Derive) and step.source not in renewed
            if may_wait and attempt and (again := attempt.file_retry_at) > now >= attempt.at:
                held.append(Held(step.target, step.path, attempt.message, again))
                instants.append(again)
            else:
                steps.append(step)
        return replace(made, steps=tuple(steps), held=(*made.held, *held), changes_at=min(instants, default=None))

    def _left_alone(self, states: Mapping[str, State]) -> Iterator[Held]:
        """The derived files that are not made, and why."""
        for spec in self._config.derived:
            state = states[spec.name]
            if isinstance(state, Foreign | Unready):
                yield Held(spec.name, spec.path, state.message)

    def _signer_of(self, step: Issue) -> Signer:
        spec = next((spec for spec in self._config.signers if spec.name == step.signer), None)
        match spec.kind if spec else LOCAL:
            case "local":
                return self._local(step, spec)
            case "command" if spec:
                from certmond.host.signers.command import CommandSigner

                return CommandSigner(spec.name, spec.command, time_limit=spec.time_limit, ca_profile=spec.ca_profile)
            case "kubeadm" if spec:
                from certmond.host.signers.kubeadm import KubeadmSigner

                certificate, key = self._authority(step)
                return KubeadmSigner(
                    spec.command, certificate, key, directory=str(self._state_dir), time_limit=spec.time_limit
                )
            case "csr" if spec:
                from certmond.cluster.csr import CsrSigner

                kubeconfig = self._transactions.real(spec.kubeconfig or KUBELET_CONF)
                return CsrSigner(str(kubeconfig), time_limit=spec.time_limit, approve=spec.approve)
            case kind:
                raise RefusedError(f"{step.target} names the signer {step.signer}, of the unknown kind {kind}")

    def _local(self, step: Issue, spec: SignerSpec | None) -> Signer:
        certificate, key = self._authority(step)
        return LocalSigner(certificate, key, spec.passphrase if spec else None, clock=self._clock)

    def _authority(self, step: Issue) -> tuple[str, str]:
        """Where certificate and key of the CA really are."""
        entries: Mapping[str, tuple[str, str | None]] = {s.name: (s.path, s.key) for s in self._config.certificates}
        path, key = entries.get(step.authority or "", ("", None))
        if not key:
            raise RefusedError(f"{step.target} has no CA with a key in the catalogue; name its `ca`, or a `signer`")
        return str(self._transactions.real(path)), str(self._transactions.real(key))
