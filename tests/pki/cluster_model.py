"""A model of the trust in a small cluster: the files of its nodes, what each process has read of them, and its peers.

Every process has its real reload behavior: kube-apiserver and the kubelet reload client CA and pairs after a while,
kube-controller-manager and kube-scheduler read their kubeconfig once, and the kubelet its identity. Flags are those of
the start. `pki.rotation_steps` alone decides the steps of a node, from observations of the files; the model has no
order. `rotation_invariants` has the invariants of every point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache

from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.observation import Embedded, Inventory, Observation
from certmond.pki.planning.steps import AbsentFile, Bundle, Flags, Identity, KeyOf, Rotate, Trusting
from certmond.pki.rotation.gates import Member, Report, closed
from certmond.pki.rotation.phases import Phase, Rotation, desired, following
from certmond.pki.rotation.planner import MissingSteps, missing_steps
from certmond.pki.rotation.trust_anchor_state import Ground, Signer
from certmond.pki.rotation.worker_batches import behind, is_released, next_batch
from certmond.pki.services.trust_set_digest import digest_of
from certmond.pki.x509.certificate import Certificate, certificates_of
from tests.builders import NOW, YEAR, make_ca, make_leaf, reissue

PKI = "/etc/kubernetes/pki"
SHARED, APART = (f"{PKI}/ca.crt", f"{PKI}/ca.key"), (f"{PKI}/signing-ca.crt", f"{PKI}/signing-ca.key")

OLD, NEW = make_ca(not_before=NOW - YEAR), make_ca(not_before=NOW - YEAR)
REISSUED = reissue(OLD, not_before=NOW - YEAR, not_after=NOW + 20 * YEAR)
"""OLD with its key, and other dates."""
BATCH = "2"
"""The number of workers in a batch."""
ISSUERS = {OLD.facts: OLD, NEW.facts: NEW, REISSUED.facts: REISSUED}
_CA = CertificateSpec(
    name="ca", path=SHARED[0], key=SHARED[1], key_optional=True, authority=True, usages=("cert sign",)
)
_PAIRS = {
    name: CertificateSpec(name=name, path=f"{PKI}/{name}.crt", key=f"{PKI}/{name}.key", ca=("ca",), usages=(usage,))
    for name, usage in (("apiserver", "server auth"), ("apiserver-kubelet-client", "client auth"))
}
_CONFS = {
    name: CertificateSpec(
        name=name,
        path=f"/etc/kubernetes/{name}",
        kind=Kind.KUBECONFIG,
        ca=("ca",),
        embedded_ca="ca",
        usages=("client auth",),
    )
    for name in ("admin.conf", "controller-manager.conf", "scheduler.conf", "kubelet.conf")
}

Trust = tuple[Certificate, ...]
Pair = tuple[str, Certificate]
Conf = tuple[str, tuple[Trust, Certificate]]


@cache
def verifies(issuer: Certificate | None, trust: Trust) -> bool:
    """Return whether a verifier with these anchors accepts certificates of `issuer`: a signature proves a key, and no
    dates.
    """
    return issuer is None or issuer.key in {each.key for each in trust}


@cache
def leaf(name: str, issuer: Certificate) -> Certificate:
    """Return a certificate of `issuer` for `name`: the same each time, which suffices for a test."""
    usage = "server auth" if name == "apiserver" else "client auth"
    return make_leaf(ISSUERS[issuer], name, extended_usages=[usage]).facts


@cache
def observation(
    spec: CertificateSpec, name: str, certificate: Certificate, trust: Trust, key: Certificate | None
) -> Observation:
    embedded = (Embedded(spec.path, trust),) if spec.kind is Kind.KUBECONFIG else ()
    return Observation(
        name, spec, spec.path, (certificate,), key=key.key if key else None, key_path=spec.key, embedded=embedded
    )


@dataclass
class Process:
    """The memory of a process: the issuer of its serving and client certificates, its trust as server and as client
    (None for other roles), its publication, and its signing flags.
    """

    serves: Certificate | None = None
    presents: Certificate | None = None
    accepts: Trust | None = None
    trusts: Trust | None = None
    publishes: Trust = ()
    flags: tuple[str, str] | None = None


@cache
def judged(rotation: Rotation, ground: Ground, pairs: Sequence[Pair], confs: Sequence[Conf]) -> MissingSteps:
    """Return the missing steps of a node with this state: the result is the same each time, and so cached."""
    seen = [
        observation(_CA, "ca" if n == 1 else f"ca#{n}", each, (), each if n == 1 and ground.key == each.key else None)
        for n, each in enumerate(ground.trust, 1)
    ]
    seen += [observation(_PAIRS[name], name, leaf(name, issuer), (), None) for name, issuer in pairs]
    seen += [observation(_CONFS[name], name, leaf(name, issuer), trust, None) for name, (trust, issuer) in confs]
    return missing_steps(rotation, ground, assess(Inventory(tuple(seen)), NOW))


@dataclass
class Node:
    """One node. `rotation` is its copy of the cluster's record, which may be late. `keys` are the CAs whose key it has.
    `sent` are the reports that have not arrived yet, and `said` is the last one that has. `acted` is the rotation and
    phase of its last change of a file.
    """

    name: str
    control_plane: bool
    rotation: Rotation
    trust: Trust = (OLD.facts,)
    keys: set[Certificate] = field(default_factory=set)
    key: Certificate | None = None
    own: Certificate | None = None
    own_key: Certificate | None = None
    flags: tuple[str, str] = SHARED
    pairs: dict[str, Certificate] = field(default_factory=dict)
    confs: dict[str, tuple[Trust, Certificate]] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    sent: list[Report] = field(default_factory=list)
    said: Report | None = None
    acted: tuple[str, Phase] | None = None
    known: tuple[object, MissingSteps] | None = None

    def __post_init__(self) -> None:
        confs = tuple(_CONFS) if self.control_plane else ("kubelet.conf",)
        self.confs = dict.fromkeys(confs, (self.trust, OLD.facts))
        self.pairs = dict.fromkeys(_PAIRS, OLD.facts) if self.control_plane else {}
        self.key = OLD.facts if self.control_plane else None
        self.keys = {OLD.facts} if self.control_plane else set()
        names = ("apiserver", "controller-manager", "scheduler", "kubelet") if self.control_plane else ("kubelet",)
        self.processes = {name: Process() for name in names}
        for name in names:
            self.restart(name)

    def fresh(self, name: str) -> Process:
        """Return the memory of the process if it started now."""
        trusts, presents = self.confs.get(f"{name}.conf", (None, None))
        match name:
            case "apiserver":
                pairs = self.pairs
                return Process(pairs["apiserver"], pairs["apiserver-kubelet-client"], accepts=self.trust)
            case "controller-manager":
                return Process(None, presents, trusts=trusts, publishes=self.trust, flags=self.flags)
            case "kubelet":
                return Process(None, presents, accepts=self.trust, trusts=trusts)
            case _:
                return Process(None, presents, trusts=trusts)

    def restart(self, name: str) -> None:
        """Restart the process, which reads all its files."""
        self.processes[name] = self.fresh(name)

    def reload(self, name: str) -> None:
        """Let the process read again the files that it reloads."""
        match name:
            case "apiserver":
                self.restart(name)
            case "kubelet":
                self.processes[name].accepts = self.trust
            case _:
                pass  # it reads no file again

    def stale(self) -> list[str]:
        """The processes that have something older than the files in memory."""
        return [name for name, process in self.processes.items() if self.fresh(name) != process]

    def replace_anchor(self, by: Certificate) -> None:
        """Install another CA with its key, and remove the old key."""
        self.trust, self.key, self.keys = (by,), by, {by}

    def signer(self) -> Certificate | None:
        """Return the signer of the controller-manager, or None: it follows files, but not flags."""
        flags = self.processes["controller-manager"].flags if self.control_plane else None
        if flags == APART:
            return self.own
        return self.trust[0] if flags == SHARED and len(self.trust) == 1 else None

    def ground(self) -> Ground:
        signer = None
        if self.control_plane:
            holds = (self.own,) if self.own else ()
            present = APART if self.own else ()
            signer = Signer(
                "/m/kcm.yaml", "kube-controller-manager", self.flags, SHARED, APART, APART, holds,
                self.own_key.key if self.own_key else None, present,
            )  # fmt: skip
        return Ground("ca", SHARED[0], SHARED[1], self.trust, self.key.key if self.key else None, signer=signer)

    def missing_steps(self) -> MissingSteps:
        pairs, confs = tuple(self.pairs.items()), tuple(self.confs.items())
        shown = self.rotation, self.trust, self.key, self.own, self.own_key, self.flags, pairs, confs
        if self.known is None or self.known[0] != shown:
            rotation = replace(self.rotation, since=NOW, released=0.0)  # these fields do not affect its files
            self.known = shown, judged(rotation, self.ground(), pairs, confs)
        return self.known[1] if self.may_act() else MissingSteps()

    def may_act(self) -> bool:
        """Return whether the node is in the phase, and is no worker before its batch."""
        return self.control_plane or is_released(self.rotation, self.name)

    def carry_out(self, step: Rotate, parts: int | None = None) -> None:
        """Make all changes of the step, or none if a key is missing. `parts` limits the number of changes."""
        if any(isinstance(want, KeyOf) and want.anchor not in self.keys for want in step.wants):
            return
        self.acted = self.rotation.id, self.rotation.phase
        for want in step.wants[:parts]:
            match want:
                case Bundle(path, anchors) if path == SHARED[0]:
                    self.trust = certificates_of(anchors)
                case Bundle(_, anchors):
                    (self.own,) = certificates_of(anchors)
                case KeyOf(path, anchor) if path == SHARED[1]:
                    (self.key,) = certificates_of((anchor,))
                case KeyOf(_, anchor):
                    (self.own_key,) = certificates_of((anchor,))
                case Flags():
                    self.flags = (want.flags[0][1], want.flags[1][1])
                case Trusting(path, anchors):
                    name = path.rpartition("/")[2]
                    self.confs[name] = certificates_of(anchors), self.confs[name][1]
                case AbsentFile():
                    self.own = self.own_key = None

    def issue(self, identity: Identity, by: Certificate) -> None:
        """Return another certificate: from the CA whose key this node has, or from the controller-manager of `by`."""
        name = identity[0]
        if name in self.pairs:
            self.pairs[name] = by
        else:
            self.confs[name] = self.confs[name][0], by

    def report(self) -> None:
        """Send the report that the phase is reached, if it is. It arrives later."""
        left = self.missing_steps()
        if left.frozen or left.steps or left.reissue or self.stale() or not self.may_act():
            return
        issuers = {*self.pairs.values(), *(issuer for _, issuer in self.confs.values())}
        issuer = issuers.pop().sha256 if len(issuers) == 1 else ""
        ready = self.rotation.new in self.keys
        trust, signs = digest_of(self.trust), self.control_plane
        made = Report(self.rotation.id, self.rotation.phase, trust, issuer, signs, ready)
        if made != (self.sent[-1] if self.sent else self.said):  # an unchanged report is not sent again
            self.sent.append(made)

    def leaves(self) -> Iterator[Certificate]:
        """The issuers of all certificates in its files."""
        yield from self.pairs.values()
        yield from (issuer for _, issuer in self.confs.values())

    def anchors(self) -> Iterator[tuple[str, Trust]]:
        """Return the CAs that its files trust."""
        yield f"ca.crt of {self.name}", self.trust
        yield from ((f"{name} of {self.name}", trust) for name, (trust, _) in self.confs.items())


@dataclass
class Cluster:
    """The nodes, the record of the API, and a workload that trusts the CAs of its start.

    Without `gated` no node is waited for, and without `whole` a step is made in parts.
    """

    rotation: Rotation
    kinds: Mapping[str, bool] = field(default_factory=lambda: {"cp-1": True, "cp-2": True, "worker": False})
    nodes: list[Node] = field(default_factory=list)
    workload: Trust = (OLD.facts,)
    gated: bool = True
    whole: bool = True

    def __post_init__(self) -> None:
        self.nodes = [Node(name, control_plane, self.rotation) for name, control_plane in self.kinds.items()]
        if self.rotation.found:
            self.nodes[0].replace_anchor(*certificates_of((self.rotation.new,)))

    def issue(self, node: Node, identity: Identity) -> None:
        """Return another certificate: from the CA whose key the node has, or, for a worker, from a controller-manager
        that signs.
        """
        by = node.trust[0] if node.control_plane else self.nodes[0].signer()
        node.acted = node.rotation.id, node.rotation.phase
        if by and identity[0] in node.pairs:
            node.pairs[identity[0]] = by
        elif by:
            node.confs[identity[0]] = node.confs[identity[0]][0], by

    def published(self) -> Trust:
        return self.nodes[0].processes["controller-manager"].publishes

    def advance(self) -> None:
        """Advance like the coordinator: release the next workers, and start the next phase when every node has reported
        and the workload has restarted.
        """
        wanted = desired(self.rotation)
        members = [Member(node.name, node.control_plane, node.said) for node in self.nodes]
        late = wanted is not None and frozenset(self.workload) != frozenset(wanted.trust)
        waits = self.gated and behind(self.rotation, members)
        if raised := None if waits else next_batch(self.rotation, members, BATCH).noted:
            self.rotation = raised
            return
        if self.gated and (late or any(closed(self.rotation, members))):
            return
        self.rotation = following(self.rotation, self.rotation.since + timedelta(minutes=1))

    def trusting(self) -> Iterator[tuple[str, Trust]]:
        """Yield each component with its present trust, as a server or as a client."""
        yield "a workload", self.workload
        for node in self.nodes:
            for name, process in node.processes.items():
                for trust in (process.accepts, process.trusts):
                    if trust is not None:
                        yield f"the {name} of {node.name}", trust
            yield from node.anchors()
