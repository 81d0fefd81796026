"""The bed on which a rotation is tried: a right order is no outage in it, and each wrong one is an outage where it is.

What a stand-in reads again, and what once, is that of the real component; the places are named in components/.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.control_plane import ELECTING, PKI, SCHEDULER_CONF
from tests.rotation.backend import SigningError
from tests.rotation.bed import Bed
from tests.rotation.node import SERVER_CURRENT, like
from tests.rotation.record import LATE, Record, summary
from tests.rotation.scripted import EtcdCA, RootCA

pytestmark = [
    *(pytest.mark.real(part) for part in ("cgroup", "go", "unshare")),
    pytest.mark.timeout(300),  # a machine that has much else to do makes few connections
]

API = "kube-apiserver"
CLIENTS = {(name, API) for name in (*ELECTING, "kubelet", "kubectl")}
FROM_MEMORY = {(name, API) for name in (*ELECTING, "kubelet")}
UNAUTHORIZED = "HTTP/1.1 401 Unauthorized"

INTERVAL = 50.0
"""Milliseconds: with more connections there would be no time left for what the tests themselves do on two cores."""

Make = Callable[..., Bed]


@pytest.fixture
def make(programs: Path, tmp_path: Path) -> Iterator[Make]:
    """A bed that runs."""
    with ExitStack() as open_beds:

        def made(**terms: Any) -> Bed:
            terms = {"control_planes": 1, "interval": INTERVAL, **terms}
            bed = open_beds.enter_context(Bed(tmp_path, programs, **terms))
            bed.start()
            return bed

        yield made


@contextmanager
def no_outage(bed: Bed) -> Iterator[None]:
    mark = bed.settled()
    yield
    bed.settled()
    failures = bed.failures(mark)
    assert not failures, summary(failures)


def reasons(bed: Bed, since: float, by: str = "", to: str = "") -> set[str]:
    return {failure.reason for failure in bed.failures(since, by, to)}


# --- The right order --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("verified", [False, True], ids=["by-default", "kubelets-verified"])
def test_root_ca(make: Make, verified: bool) -> None:
    """All phases of a rotation of the Root CA in their order: nobody ever fails to reach anybody, whether or not API
    servers verify the kubelets, and CSRs are signed all the time. At the end, whoever shows a certificate of the old CA
    is refused by each server.
    """
    bed = make(control_planes=2, workers=1, verified=verified)
    script = RootCA(bed)
    admin = like(bed.nodes[0].client_of("/etc/kubernetes/admin.conf"), script.old)
    api = like(bed.nodes[0].tree.certificate(f"{PKI[1:]}/apiserver-kubelet-client.crt"), script.old)
    signer = script.old
    for phase in (script.detach, script.trust, script.issue, script.distrust, script.attach):
        signer = script.new if phase == script.issue else signer
        phase()
        for node in bed.control_planes:
            node.canary().verify_directly_issued_by(signer.cert)
        bed.settled()
        assert not bed.failures(), summary(bed.failures())
    for node in bed.control_planes:
        assert bed.nodes[-1].asked(f"{node.address}:6443", admin) == f"answer {UNAUTHORIZED}"
    for node in bed.nodes:
        assert bed.nodes[0].asked(f"{node.address}:10250", api) == f"answer {UNAUTHORIZED}"


@pytest.mark.slow
def test_etcd_ca(make: Make) -> None:
    """So for etcd's CA, where members and API servers are started again one at a time; and at the end etcd refuses a
    client and a peer of the old CA in the handshake.
    """
    bed = make(control_planes=2)
    script = EtcdCA(bed)
    old = {
        port: like(bed.nodes[0].tree.certificate(f"{PKI[1:]}/{name}.crt"), script.old)
        for name, port in (("apiserver-etcd-client", 2379), ("etcd/peer", 2380))
    }
    for phase in (script.trust, script.issue, script.distrust):
        phase()
        bed.settled()
        assert not bed.failures(), summary(bed.failures())
    for node in bed.control_planes:
        for port, client in old.items():
            assert "unknown certificate authority" in bed.nodes[0].asked(f"{node.address}:{port}", client)


# --- Wrong orders: each is an outage, and for those who are concerned -------------------------------------------------


def test_a_leaf_before_trust(make: Make) -> None:
    """A server that shows a certificate of the new CA too early is refused by all who verify it, and by nobody else."""
    bed = make(workers=1)
    script = RootCA(bed)
    script.leaves(script.new, "apiserver")
    mark = bed.settled()
    assert bed.failing(mark) == CLIENTS
    assert all("certificate signed by unknown authority" in reason for reason in reasons(bed, mark))


def test_a_client_before_trust(make: Make) -> None:
    """A client that shows one is unauthorized with all whom it asks."""
    bed = make(workers=1)
    script = RootCA(bed)
    script.leaves(script.new, "apiserver-kubelet-client")
    bed.until(lambda: bed.failing(0), "the pair is loaded")
    mark = bed.settled()
    assert bed.failing(mark) == {(API, "kubelet")}
    assert reasons(bed, mark) == {UNAUTHORIZED}
    assert {failure.direction.to for failure in bed.failures(mark)} == {"node-1/kubelet", "node-2/kubelet"}


def test_distrust_before_leaves(make: Make) -> None:
    """Where the old CA is taken away first, whoever still shows a certificate of it is unauthorized."""
    bed = make(workers=1)
    script = RootCA(bed)
    script.bundle(script.new)
    mark = bed.settled()
    assert bed.failing(mark) == {*CLIENTS, (API, "kubelet")}
    assert reasons(bed, mark) == {UNAUTHORIZED}


def test_all_at_once(make: Make) -> None:
    """CA and leaves replaced at once: who read them once is out until it is started again, and then all is well."""
    bed = make(workers=1)
    script = RootCA(bed)
    script.key(script.new)
    script.bundle(script.new)
    script.embed(script.new)
    script.leaves(script.new)
    script.clients(script.new)
    bed.until(lambda: not bed.failing(bed.settled()) - FROM_MEMORY, "those who read again are well")
    assert bed.failing(bed.settled()) == FROM_MEMORY
    script.recreate()
    assert bed.failing(bed.settled()) == set()


def test_a_bundle_as_signer(make: Make) -> None:
    """A controller-manager whose signer's file holds two certificates signs nothing, and once it has ended it does not
    start again. No connection fails: only a CSR shows it.
    """
    bed = make()
    script, (node,) = RootCA(bed), bed.nodes
    node.canary()
    with no_outage(bed):
        script.bundle(script.old, script.new)
        with pytest.raises(SigningError, match="expected 1 certificate, found 2"):
            node.canary()
    node.stop("kube-controller-manager")
    node.pods.until(
        lambda: "expected 1 certificate, found 2" in node.log(node.starts("kube-controller-manager")[-1]), "it refuses"
    )


def test_kubeconfigs_that_are_not_taken_up(make: Make) -> None:
    """Controller-manager and scheduler that are not created again hold the former CA, and a new certificate of the API
    server is one that they refuse; the kubelet, which was, does not.
    """
    bed = make(workers=1)
    script = RootCA(bed)
    with no_outage(bed):
        script.detach()
        script.bundle(script.old, script.new)
        script.embed(script.old, script.new)
        for node in bed.nodes:
            node.restart("kubelet")
    script.leaves(script.new, "apiserver")
    assert bed.failing(bed.settled()) == {(name, API) for name in ELECTING}


def test_etcd_that_is_not_restarted(make: Make) -> None:
    """etcd that was not started again after its bundle refuses the new clients and peers."""
    bed = make(control_planes=2)
    script = EtcdCA(bed)
    with no_outage(bed):
        script.bundle(script.old, script.new)
        script.restart(API)
    script.leaves(script.new)
    mark = bed.settled()
    assert bed.failing(mark) == {(API, "etcd"), ("etcd", "etcd")}
    assert all("unknown certificate authority" in why or "unknown authority" in why for why in reasons(bed, mark))


def test_an_api_server_that_is_not_restarted(make: Make) -> None:
    """API servers that were not started again after etcd's bundle refuse the new certificate of etcd; its peers do
    not.
    """
    bed = make(control_planes=2)
    script = EtcdCA(bed)
    with no_outage(bed):
        script.bundle(script.old, script.new)
        script.restart("etcd")
    script.leaves(script.new, "etcd/server", "etcd/peer")
    assert bed.failing(bed.settled()) == {(API, "etcd")}


def test_kubelets_whose_verifier_is_not_restarted(make: Make) -> None:
    """API servers that verify kubelets read that CA once: a new certificate of a kubelet is refused."""
    bed = make(workers=1, verified=True)
    script, (first, worker) = RootCA(bed), bed.nodes
    script.bundle(script.old, script.new)
    worker.put_current(SERVER_CURRENT, like(worker.current(SERVER_CURRENT), script.new))
    worker.restart("kubelet")
    mark = bed.settled()
    assert {failure.direction for failure in bed.failures(mark)} == {(f"{first.name}/{API}", f"{worker.name}/kubelet")}


# --- What the stand-ins are like --------------------------------------------------------------------------------------


def test_a_torn_pair(make: Make) -> None:
    """With a key that does not fit, an API server goes on with its last good pair; each handshake of etcd fails."""
    bed = make()
    (node,) = bed.nodes
    for name in ("apiserver", "etcd/server"):
        key = node.read(f"{PKI}/{name}.key")
        node.replace(f"{PKI}/{name}.key", node.read(f"{PKI}/front-proxy-client.key"))
        mark = bed.settled()
        assert bed.failing(mark) == ({(API, "etcd")} if name == "etcd/server" else set())
        node.replace(f"{PKI}/{name}.key", key)
    assert bed.failing(bed.settled()) == set()


def test_a_file_that_is_mounted_by_itself(make: Make) -> None:
    """In a container it stays the former one when another is renamed there, until the container is another; a
    directory shows what is renamed in it.
    """
    bed = make()
    (node,) = bed.nodes

    def seen(component: str, path: str) -> bytes:
        root = f"/proc/{node.starts(component)[-1]['pid']}/root"
        return Path(root + path).read_bytes()

    former = node.read(SCHEDULER_CONF)
    node.replace(SCHEDULER_CONF, former + b"# another\n")
    node.replace(f"{PKI}/ca.crt", node.read(f"{PKI}/ca.crt") + b"# another\n")
    assert seen("kube-scheduler", SCHEDULER_CONF) == former
    assert seen(API, f"{PKI}/ca.crt") == node.read(f"{PKI}/ca.crt")
    node.restart("kube-scheduler")
    assert seen("kube-scheduler", SCHEDULER_CONF) == node.read(SCHEDULER_CONF)


def test_what_is_down(tmp_path: Path) -> None:
    """Only a connection that breaks while the server's process is away tells nothing: not one that breaks without that,
    and not a refusal, whenever it is.
    """
    record = Record(tmp_path / "record")
    lines: list[dict[str, Any]] = [
        {"by": "n/server", "at": at, "event": event} for at, event in ((10, "ready"), (20, "ends"), (30, "ready"))
    ]
    for at in (5, 15, 25, 30 + LATE / 2, 35):
        ends = ("network", "trust")
        lines += [{"by": "n/it", "to": "n/server", "at": at, "kind": kind, "reason": ""} for kind in ends]
    lines.append({"by": "n/it", "to": "n/server", "at": 36, "good": 7})
    record.path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"half": a line')
    (tally,) = record.tallies().values()
    assert [each.at for each in record.failures() if each.kind == "network"] == [15, 35]
    assert [each.at for each in record.failures() if each.kind == "trust"] == [5, 15, 25, 30 + LATE / 2, 35]
    assert (tally.good, tally.down) == (7, 3)
    assert [each.at for each in record.failures(since=35)] == [35, 35]


def test_a_restart_is_no_failure(make: Make) -> None:
    """While a server's process is away, connections to it are counted as down; what ends with it is seen again."""
    bed = make(workers=1)
    with no_outage(bed):
        for name in ("etcd", API, "kubelet"):
            bed.nodes[0].restart(name)
    down = {direction.to for direction, tally in bed.tallies().items() if tally.down}
    assert down >= {f"node-1/{name}" for name in ("etcd", API)}


# --- certmond on it ---------------------------------------------------------------------------------------------------


def test_daemons(make: Make) -> None:
    """certmond runs on each node, sees its components and its kubelet's unit, and asks the API of the cluster itself
    for its turn: a kubeconfig that is replaced has its reader restarted, without an outage.
    """
    settings = {"cluster": {"kubeconfig": "/etc/kubernetes/kubelet.conf"}}
    bed = make(control_planes=2, workers=1, settings=settings)
    script, node = RootCA(bed), bed.nodes[0]
    with no_outage(bed), bed.daemons() as daemons:
        first = daemons[node.name]
        node.edit_kubeconfig(SCHEDULER_CONF, client=like(node.client_of(SCHEDULER_CONF), script.old))
        proven = 'certmond_restarts_total{result="proven",service="kube-scheduler"}'
        first.until(lambda: first.number(proven) == 1, "the scheduler is restarted")
        restarted = bed.nodes[-1].certmond("restart", "kubelet")
        assert (restarted.returncode, restarted.stderr) == (0, ""), restarted.stdout
        assert "kubelet.service was restarted" in restarted.stdout
    assert any("leases" in call for call in bed.backend.calls)
    assert node.attempts() == {name: int(name == "kube-scheduler") for name in node.components}
    assert (bed.nodes[-1].work / "kubelet-unit.log").read_text().count("ready\n") == 2
