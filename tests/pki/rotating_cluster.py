"""A small cluster as far as trust goes: files on three nodes, what each process has read of them, who talks to whom.

Every process has its true reload behaviour: kube-apiserver and the kubelet follow client CA and pairs after a while,
kube-controller-manager and kube-scheduler read their kubeconfig once, the kubelet its identity. What a node does is
decided by `pki.rotation_steps` alone, from observations made of the files; nothing here knows an order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache

from certmond.pki.assess import Assessment, assess
from certmond.pki.catalog import CertificateSpec, Kind
from certmond.pki.certificate import Certificate
from certmond.pki.inventory import Embedded, Inventory, Observation
from certmond.pki.rotation import Rotation, desired, following
from certmond.pki.rotation_gates import Member, Report, closed, digest_of
from certmond.pki.rotation_steps import Ground, Lacks, Signer, lacks
from certmond.pki.steps import Bundle, Flags, Gone, Identity, KeyOf, Rotate, Trusting
from tests.builders import NOW, YEAR, make_ca, make_leaf

PKI = "/etc/kubernetes/pki"
SHARED, APART = (f"{PKI}/ca.crt", f"{PKI}/ca.key"), (f"{PKI}/signing-ca.crt", f"{PKI}/signing-ca.key")

OLD, NEW = make_ca(not_before=NOW - YEAR), make_ca(not_before=NOW - YEAR)
ISSUERS = {OLD.facts: OLD, NEW.facts: NEW}
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


@cache
def leaf(name: str, issuer: Certificate) -> Certificate:
    """What `issuer` has signed for `name`: the same each time, which does for a test."""
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
    """What it has in memory: the issuer of what it serves and presents, whom it trusts as server and as client."""

    serves: Certificate | None = None
    presents: Certificate | None = None
    accepts: Trust = ()
    trusts: Trust = ()
    publishes: Trust = ()


@dataclass
class Node:
    """One node. `rotation` is what it has heard of the cluster's, which may be late."""

    name: str
    control_plane: bool
    rotation: Rotation
    trust: Trust = (OLD.facts,)
    key: Certificate | None = None
    own: Certificate | None = None
    own_key: Certificate | None = None
    flags: tuple[str, str] = SHARED
    pairs: dict[str, Certificate] = field(default_factory=dict)
    confs: dict[str, tuple[Trust, Certificate]] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    said: Report | None = None
    before: Assessment | None = None

    def __post_init__(self) -> None:
        confs = tuple(_CONFS) if self.control_plane else ("kubelet.conf",)
        self.confs = dict.fromkeys(confs, (self.trust, OLD.facts))
        self.pairs = dict.fromkeys(_PAIRS, OLD.facts) if self.control_plane else {}
        self.key = OLD.facts if self.control_plane else None
        names = ("apiserver", "controller-manager", "scheduler", "kubelet") if self.control_plane else ("kubelet",)
        self.processes = {name: Process() for name in names}
        for name in names:
            self.restart(name)

    def fresh(self, name: str) -> Process:
        """What the process would have in memory if it began now."""
        trusts, presents = self.confs.get(f"{name}.conf", ((), None))
        match name:
            case "apiserver":
                pairs = self.pairs
                return Process(pairs["apiserver"], pairs["apiserver-kubelet-client"], accepts=self.trust)
            case "controller-manager":
                return Process(None, presents, trusts=trusts, publishes=self.trust)
            case "kubelet":
                return Process(None, presents, accepts=self.trust, trusts=trusts)
            case _:
                return Process(None, presents, trusts=trusts)

    def restart(self, name: str) -> None:
        """The process begins anew, and reads all its files."""
        self.processes[name] = self.fresh(name)

    def reload(self, name: str) -> None:
        """The process reads again what it follows by itself."""
        match name:
            case "apiserver":
                self.restart(name)
            case "kubelet":
                self.processes[name].accepts = self.trust

    def stale(self) -> list[str]:
        """The processes that have something older than the files in memory."""
        return [name for name, process in self.processes.items() if self.fresh(name) != process]

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

    def assessment(self) -> Assessment:
        seen = [
            observation(_CA, "ca" if n == 1 else f"ca#{n}", each, (), self.key if n == 1 else None)
            for n, each in enumerate(self.trust, 1)
        ]
        seen += [observation(_PAIRS[name], name, leaf(name, issuer), (), None) for name, issuer in self.pairs.items()]
        seen += [
            observation(_CONFS[name], name, leaf(name, issuer), trust, None)
            for name, (trust, issuer) in self.confs.items()
        ]
        self.before = assess(Inventory(tuple(seen)), NOW, self.before)
        return self.before

    def lacks(self) -> Lacks:
        return lacks(self.rotation, self.ground(), self.assessment())

    def carry_out(self, step: Rotate) -> None:
        """All that the step wants."""
        for want in step.wants:
            match want:
                case Bundle(path, certificates) if path == SHARED[0]:
                    self.trust = certificates
                case Bundle(_, certificates):
                    (self.own,) = certificates
                case KeyOf(path, certificate) if path == SHARED[1]:
                    self.key = certificate
                case KeyOf(_, certificate):
                    self.own_key = certificate
                case Flags():
                    self.flags = (want.flags[0][1], want.flags[1][1])
                    self.restart("controller-manager")  # the kubelet does, for another manifest is another pod
                case Trusting(path, certificates):
                    name = path.rpartition("/")[2]
                    self.confs[name] = certificates, self.confs[name][1]
                case Gone():
                    self.own = self.own_key = None

    def issue(self, identity: Identity, by: Certificate) -> None:
        """Another certificate: from the CA whose key this node has, or `by` whom the controller-manager signs."""
        name = identity[0]
        if name in self.pairs:
            self.pairs[name] = by
        else:
            self.confs[name] = self.confs[name][0], by

    def report(self) -> None:
        """Say that the phase is reached, if it is."""
        left = self.lacks()
        if left.frozen or left.steps or left.reissue or self.stale():
            return
        issuers = {*self.pairs.values(), *(issuer for _, issuer in self.confs.values())}
        issuer = issuers.pop().sha256 if len(issuers) == 1 else ""
        self.said = Report(self.rotation.id, self.rotation.phase, digest_of(self.trust), issuer, self.control_plane)


@dataclass
class Cluster:
    """The nodes, the record that the API holds, and a workload that trusts what it was given when it began."""

    rotation: Rotation
    nodes: list[Node] = field(default_factory=list)
    workload: Trust = (OLD.facts,)
    gated: bool = True

    def __post_init__(self) -> None:
        kinds = (("cp-1", True), ("cp-2", True), ("worker", False))
        self.nodes = [Node(name, control_plane, self.rotation) for name, control_plane in kinds]

    def issue(self, node: Node, identity: Identity) -> None:
        """A worker asks the API for it, and some controller-manager signs."""
        leader = self.nodes[0]
        remote = leader.own if leader.flags == APART and leader.own else leader.trust[0]
        node.issue(identity, node.trust[0] if node.control_plane else remote)

    def published(self) -> Trust:
        return self.nodes[0].processes["controller-manager"].publishes

    def advance(self) -> None:
        """The coordinator: on to the next phase, where every node has said so and the workload has been restarted."""
        wanted = desired(self.rotation)
        members = [Member(node.name, node.control_plane, node.said) for node in self.nodes]
        behind = wanted is not None and frozenset(self.workload) != frozenset(wanted.trust)
        if self.gated and (behind or any(closed(self.rotation, members))):
            return
        self.rotation = following(self.rotation, self.rotation.since + timedelta(minutes=1))

    def refusals(self) -> Iterator[str]:
        """Every connection that should be served, and is not: I1 and I2, both ways."""
        for node in self.nodes:
            if node.control_plane:
                server = node.processes["apiserver"]
                for who, presents, trusts in self._clients():
                    if server.serves not in trusts:
                        yield f"{who} refuses the API server of {node.name}"
                    if presents is not None and presents not in server.accepts:
                        yield f"the API server of {node.name} refuses {who}"
        for node in self.nodes:
            for other in self.nodes:
                if (
                    other.control_plane
                    and other.processes["apiserver"].presents not in node.processes["kubelet"].accepts
                ):
                    yield f"the kubelet of {node.name} refuses the API server of {other.name}"

    def _clients(self) -> Iterator[tuple[str, Certificate | None, Trust]]:
        yield "a workload", None, self.workload
        for node in self.nodes:
            for name, process in node.processes.items():
                if name != "apiserver":
                    yield f"the {name} of {node.name}", process.presents, process.trusts
            if node.control_plane:
                trust, issuer = node.confs["admin.conf"]
                yield f"kubectl on {node.name}", issuer, trust
