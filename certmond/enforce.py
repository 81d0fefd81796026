"""What renewing is made of on this node: policy, circumstances, plan and signers, put together from a configuration.

Owns the wiring that the daemon and the command line share. It decides nothing: when a certificate is renewed is
`pki.plan`'s, and how is `host.execute`'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from certmond.conducting import Conductor
from certmond.conductors import KUBELET_CONF, awake, conductor_of
from certmond.config import Config
from certmond.errors import RefusedError, WriteError
from certmond.host.audit import Audit
from certmond.host.changes import Changes
from certmond.host.circumstances import HostHolds
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
from certmond.host.salvage import SalvageLookup
from certmond.host.searching import find_in_two
from certmond.host.staged import Staging
from certmond.host.store import Store
from certmond.host.transaction import Transactions
from certmond.host.watch import Interest
from certmond.pki.assess import Assessment, assess
from certmond.pki.certificate import certificates_of
from certmond.pki.circumstances import Circumstances, Policy
from certmond.pki.holding import Surroundings
from certmond.pki.inventory import Inventory
from certmond.pki.plan import plan
from certmond.pki.restarts import Caution, restarts
from certmond.pki.rotation import Rotation
from certmond.pki.rotation_holds import Hold, holds, waits_here
from certmond.pki.rotation_pace import pace
from certmond.pki.rotation_steps import Lacks
from certmond.pki.steps import Derive, Held, Issue, Plan, Restore, Step
from certmond.restarting import Progress, Restarting
from certmond.rotating import Rotating
from certmond.signing import SignerChoice
from certmond.standing import Standing
from certmond.turns import Alone, Scattered, Turn

_EVIDENCE = 0.5
"""Seconds of a pass for looking up where certificates that are due come from; the next pass goes on with that."""
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


def _replaced(made: Plan) -> frozenset[str]:
    """The names of the entries whose certificates the plan replaces."""
    return frozenset(step.target for step in made.steps if isinstance(step, Issue | Restore))


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
        monotonic: Callable[[], float] = awake,
    ) -> None:
        self._config, self._root, self._state_dir, self._clock = config, root, state_dir, clock
        self._monotonic = monotonic
        self._alive, self._scattered = alive, scattered
        self.audit = audit
        self.interest: Interest = {}
        """The files behind the latest look of `see`, for who waits for them to change."""
        self._files = NodeFiles(root)
        self._transactions = Transactions(root, state_dir)
        self._ledger = Ledger(state_dir)
        self._host = HostHolds(config, root, alive, monotonic)
        self._derivations = Derivations(config.derived, config.certificates, self._files)
        self.executor = Executor(
            config,
            root=root,
            state_dir=state_dir,
            audit=audit,
            signer=SignerChoice(config, self._transactions, state_dir, clock, kubeconfig=KUBELET_CONF).of,
            clock=clock,
            alive=alive,
        )
        self.neighbourhood = Neighbourhood(config, root, Changes(state_dir, keeps=keeps), acting=acting, wake=wake)
        record, staging, conductor = RotationRecord(state_dir), Staging(state_dir), self._conductor(acting=acting)
        self.standing = Standing(
            config, node=self._identity, files=self._files, record=record, staging=staging, conductor=conductor
        )
        self.rotating = Rotating(
            config, self.executor, self.standing, files=self._files, record=record, staging=staging,
            conductor=conductor, audit=audit, clock=clock,
        )  # fmt: skip
        self.provenance = ProvenanceLookup(config, root, state_dir)
        self.salvage = SalvageLookup(config, root, state_dir, policy_of(config))
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

    def see(
        self, at: datetime | None = None, *, everything: bool = True, private: bool = True, waits: bool = False
    ) -> tuple[Assessment, Surroundings]:
        """Look at everything, wait for the answers, and judge it as of `at` or of now.

        With `everything` the origin of each certificate is looked up, else of those that are due. `private` says that
        the caller may read the state directory. With `waits` a pair that may be half written is not judged yet.
        """
        store = Store(self._config.certificates, self._root, self._config.given_facts)
        inventory, now = store.observe(), at or self._clock()
        seen = self.neighbourhood.view(store, inventory, self.restarting.past())
        around = self._told(store, inventory, now, seen, everything=everything) if private else seen
        self.interest = store.interest
        return self.judge(inventory, now, around, waits=waits), around

    def around(self, store: Store, inventory: Inventory) -> Surroundings:
        """Return what is known of the node besides its certificates at this moment. Waits for nothing."""
        seen = self.neighbourhood.around(store, inventory, self.restarting.past())
        return self._told(store, inventory, self._clock(), seen, within=_EVIDENCE)

    def _told(
        self,
        store: Store,
        inventory: Inventory,
        now: datetime,
        seen: Surroundings,
        *,
        everything: bool = False,
        within: float | None = None,
    ) -> Surroundings:
        """Return `seen` with what the records of the state directory say of the anchors, of what is due and of what is
        damaged. `within` limits the time for new evidence of what is due, in seconds.
        """
        told = self.standing.look(inventory, store.components(), now, self.rotating.waits)
        provenance = self.provenance.of_due(
            inventory, now, family=self.standing.family, everything=everything, within=within
        )  # fmt: skip
        salvage = self.salvage.of_damaged(inventory, now)
        return replace(seen, told=told, provenance=provenance, salvage=salvage)

    def judge(
        self,
        inventory: Inventory,
        now: datetime,
        around: Surroundings,
        before: Assessment | None = None,
        *,
        waits: bool = True,
    ) -> Assessment:
        """Return the verdicts on `inventory`. The daemon and each command judge the node by this function alone."""
        return assess(
            inventory, now, before, self._config.renew_before, renewed=self.renewed(), around=around,
            waits=waits, searching=find_in_two,
        )  # fmt: skip

    def restart(
        self,
        plan: Plan,
        assessment: Assessment,
        around: Surroundings,
        *,
        hands_over: bool = False,
    ) -> Progress | None:
        """One step of a restart: see `Restarting.step`."""
        return self.restarting.step(plan, assessment, around, self.neighbourhood, hands_over=hands_over)

    def rotate(self, assessment: Assessment, around: Surroundings, plan: Plan) -> str | None:
        """Bring a rotation on: see `Rotating.give_first_aid` and `advance`."""
        said = self.rotating.give_first_aid(around, assessment.taken_at)
        return said or self.rotating.advance(assessment, around, plan)

    def keep_former(self, assessment: Assessment, around: Surroundings) -> None:
        """Note what is good, and what services use, so that both are known later. Raises BusyError, WriteError."""
        self.restarting.meet(assessment, around)
        if unkept := self._former.unkept(tuple(assessment.certificates), self.restarting.restarted_now()):
            with self.executor.writing():
                self._former.keep(unkept, assessment.facts)

    def plan(
        self, assessment: Assessment, asked: frozenset[str] | None = None, around: Surroundings | None = None
    ) -> Plan:
        """The steps for what was seen, and what is left alone; `asked` as for `pki.plan.plan`.

        Whether to wait is asked of the host only where something is due: a program may have to be run for that.
        """
        states = self._derivations.states()
        policy, past, now = policy_of(self._config), self._ledger.attempts(), self._circumstances(states)
        now = replace(now, unsure=self.standing.unsure, in_use=self.standing.in_use, healing=self.standing.healing)
        left = self.standing.lacks(assessment) if asked is None else Lacks()
        rotating = pace(left, past, assessment.taken_at)
        if rotating.first:  # the anchors change first: whatever else there is comes after a new look
            return rotating.beside(Plan(plan(assessment, policy, past, now, frozenset()).steps))
        under = certificates_of((self.standing.rotation.new,)) if self.standing.rotation else ()
        reissue = {identity: each for each in under for identity in left.reissue}
        signing = self.standing.signing
        made = plan(assessment, policy, past, now, asked, reissue=reissue, signing=signing)
        hold = None
        if asked is None and (_replaced(made) or _holds_something(assessment)):
            hold, doubt = (each.fact if each else None for each in self._host.now())
            now = replace(now, hold=hold, clock=doubt)
            made = plan(assessment, policy, past, now, asked, reissue=reissue, signing=signing)
        made = self._without_hurry(replace(made, held=(*made.held, *self._left_alone(states))), assessment.taken_at)
        if asked is None and (ground := self.standing.ground) and self.standing.rotation:
            stops = self.stops(self.standing.rotation, assessment, around or Surroundings())
            instants = filter(None, (made.changes_at, *(each.until for each in stops)))
            made = replace(made, held=(*made.held, *(each.held(ground) for each in stops)))
            made = replace(made, changes_at=min(instants, default=None))
        made = rotating.beside(made)
        unmade = {spec.source: held.because for spec in self._config.derived for held in made.held
                  if held.target == spec.name and isinstance(states[spec.name], Absent | Stale)}  # fmt: skip
        family = self.standing.family
        changing = frozenset([family]) if family and not left.frozen else frozenset[str]()
        return self._with_restarts(made, assessment, around, Caution(hold, unmade, changing, now.healing))

    def asks_again(self, step: Step) -> datetime | None:
        """Return when a signer that has not decided wants to be asked again; None where any time will do."""
        attempt = self._ledger.attempts().get((step.target, step.path))
        of_api = isinstance(step, Issue) and policy_of(self._config).signers.get(step.signer) == "csr"
        return attempt.wait_until if attempt and not of_api else None

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

    def stops(self, rotation: Rotation, assessment: Assessment, around: Surroundings) -> tuple[Hold, ...]:
        """What would stop the rotation on this node later, and keeps it where it is; nothing where it does not wait."""
        if not waits_here(rotation):
            return ()
        upgrade, clock = self._host.lately()
        return tuple(holds(rotation, assessment, around, self._ledger.attempts(), upgrade=upgrade, clock=clock))

    def _conductor(self, *, acting: bool) -> Conductor:
        return conductor_of(
            self._config, node=self._identity, real=self._real_kubeconfig, root=self._root, acting=acting,
            clock=self._clock, monotonic=self._monotonic, alive=self._alive,
        )  # fmt: skip

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
            monotonic=awake,
        )  # fmt: skip

    def _real_kubeconfig(self, path: str) -> str:
        try:
            return str(self._transactions.real(path))
        except WriteError as error:
            raise RefusedError(str(error)) from error

    def _without_hurry(self, made: Plan, now: datetime) -> Plan:
        """The plan without the derived files whose making has failed not long ago, unless their source is renewed."""
        past, renewed = self._ledger.attempts(), _replaced(made)
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
