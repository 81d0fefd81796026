"""The bed for rotations: a right order causes no outage in it, and each wrong one causes an outage at its place.

A stand-in reloads a file, or reads it once, like the real component; the sources are in components/.
"""

from __future__ import annotations

import pytest

from tests.builders import make_ca
from tests.control_plane import ELECTING, PKI
from tests.rotation.backend import SigningError
from tests.rotation.bed import Bed, Make
from tests.rotation.node import SERVER_CURRENT, like
from tests.rotation.phase_script import EtcdCA, RootCA
from tests.rotation.record import summary
from tests.rotation.refusals import old_clients, servers

pytestmark = [
    *(pytest.mark.real(part) for part in ("cgroup", "go", "unshare")),
    pytest.mark.timeout(300),  # a machine that has much else to do makes few connections
]

API = "kube-apiserver"
CLIENTS = {(name, API) for name in (*ELECTING, "kubelet", "kubectl")}
FROM_MEMORY = {(name, API) for name in (*ELECTING, "kubelet")}
UNAUTHORIZED = "HTTP/1.1 401 Unauthorized"


def reasons(bed: Bed, since: float, by: str = "", to: str = "") -> set[str]:
    return {failure.reason for failure in bed.failures(since, by, to)}


# --- The right order --------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("verified", [False, True], ids=["by-default", "kubelets-verified"])
def test_root_ca(make: Make, verified: bool) -> None:
    """All phases of a rotation of the Root CA in their order: no connection fails, whether or not API servers verify
    the kubelets, and CSRs are signed all the time. At the end each server refuses a certificate of the old CA.
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


@pytest.mark.long
def test_etcd_ca(make: Make) -> None:
    """The same holds for etcd's CA, where members and API servers restart one at a time. At the end etcd refuses a
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


# --- Wrong orders: each is an outage of exactly the affected components ----------------------------------------------


@pytest.mark.long
def test_a_leaf_before_trust(make: Make) -> None:
    """A server that shows a certificate of the new CA too early is refused by all clients that verify it, and by no
    others.
    """
    bed = make(workers=1)
    script = RootCA(bed)
    script.leaves(script.new, "apiserver")
    mark = bed.settled()
    assert bed.failing(mark) == CLIENTS
    assert all("certificate signed by unknown authority" in reason for reason in reasons(bed, mark))


@pytest.mark.long
def test_a_client_before_trust(make: Make) -> None:
    """A client with one is unauthorized at all its servers."""
    bed = make(workers=1)
    script = RootCA(bed)
    script.leaves(script.new, "apiserver-kubelet-client")
    bed.until(lambda: bed.failing(0), "the pair is loaded")
    mark = bed.settled()
    assert bed.failing(mark) == {(API, "kubelet")}
    assert reasons(bed, mark) == {UNAUTHORIZED}
    assert {failure.direction.to for failure in bed.failures(mark)} == {"node-1/kubelet", "node-2/kubelet"}


@pytest.mark.long
def test_distrust_before_leaves(make: Make) -> None:
    """If the old CA is removed first, a client with a certificate of it is unauthorized."""
    bed = make(workers=1)
    script = RootCA(bed)
    script.bundle(script.new)
    mark = bed.settled()
    assert bed.failing(mark) == {*CLIENTS, (API, "kubelet")}
    assert reasons(bed, mark) == {UNAUTHORIZED}


@pytest.mark.long
def test_all_at_once(make: Make) -> None:
    """CA and leaves are replaced at once: a component that read them once is down until it restarts, and then all is
    well.
    """
    bed = make(workers=1)
    script = RootCA(bed)
    script.key(script.new)
    script.bundle(script.new)
    script.embed(script.new)
    script.leaves(script.new)
    script.clients(script.new)
    bed.until(lambda: not bed.failing(bed.settled()) - FROM_MEMORY, "the clients that read again are answered")
    assert bed.failing(bed.settled()) == FROM_MEMORY
    script.recreate()
    assert bed.failing(bed.settled()) == set()


@pytest.mark.long
def test_a_bundle_as_signer(make: Make) -> None:
    """A controller-manager whose signer's file has two certificates signs nothing, and does not start again after it
    has ended. No connection fails: only a CSR shows it.
    """
    bed = make()
    script, (node,) = RootCA(bed), bed.nodes
    node.canary()
    with bed.no_outage():
        script.bundle(script.old, script.new)
        with pytest.raises(SigningError, match="expected 1 certificate, found 2"):
            node.canary()
    node.stop("kube-controller-manager")
    node.pods.until(
        lambda: "expected 1 certificate, found 2" in node.log(node.starts("kube-controller-manager")[-1]), "it refuses"
    )


@pytest.mark.long
def test_kubeconfigs_without_a_restart(make: Make) -> None:
    """Controller-manager and scheduler that are not restarted use the old CA, and refuse a new certificate of the API
    server. The restarted kubelet does not.
    """
    bed = make(workers=1)
    script = RootCA(bed)
    with bed.no_outage():
        script.detach()
        script.bundle(script.old, script.new)
        script.embed(script.old, script.new)
        for node in bed.nodes:
            node.restart("kubelet")
    script.leaves(script.new, "apiserver")
    assert bed.failing(bed.settled()) == {(name, API) for name in ELECTING}


@pytest.mark.long
def test_etcd_that_is_not_restarted(make: Make) -> None:
    """etcd that was not started again after its bundle refuses the new clients and peers."""
    bed = make(control_planes=2)
    script = EtcdCA(bed)
    with bed.no_outage():
        script.bundle(script.old, script.new)
        script.restart(API)
    script.leaves(script.new)
    mark = bed.settled()
    assert bed.failing(mark) == {(API, "etcd"), ("etcd", "etcd")}
    assert all("unknown certificate authority" in why or "unknown authority" in why for why in reasons(bed, mark))


@pytest.mark.long
def test_an_api_server_that_is_not_restarted(make: Make) -> None:
    """API servers that were not started again after etcd's bundle refuse the new certificate of etcd; its peers do
    not.
    """
    bed = make(control_planes=2)
    script = EtcdCA(bed)
    with bed.no_outage():
        script.bundle(script.old, script.new)
        script.restart("etcd")
    script.leaves(script.new, "etcd/server", "etcd/peer")
    assert bed.failing(bed.settled()) == {(API, "etcd")}


@pytest.mark.long
def test_kubelets_whose_verifier_is_not_restarted(make: Make) -> None:
    """API servers that verify kubelets read that CA once: a new certificate of a kubelet is refused."""
    bed = make(workers=1, verified=True)
    script, (first, worker) = RootCA(bed), bed.nodes
    script.bundle(script.old, script.new)
    worker.put_current(SERVER_CURRENT, like(worker.current(SERVER_CURRENT), script.new))
    worker.restart("kubelet")
    mark = bed.settled()
    assert {failure.direction for failure in bed.failures(mark)} == {(f"{first.name}/{API}", f"{worker.name}/kubelet")}


def test_a_front_proxy_before_trust(make: Make) -> None:
    """An API server that shows itself as a front proxy of a CA that is not known yet is unauthorized as one."""
    bed = make()
    (node,) = bed.nodes
    node.put_pair("front-proxy-client", like(node.tree.certificate(f"{PKI[1:]}/front-proxy-client.crt"), make_ca()))
    bed.until(lambda: bed.failing(0), "the pair is loaded")
    mark = bed.settled()
    assert bed.failing(mark) == {(API, API)}
    assert reasons(bed, mark) == {UNAUTHORIZED}


@pytest.mark.long
def test_tokens_before_trust(make: Make) -> None:
    """Tokens of another key are refused until its public key is known, which takes a restart."""
    bed, other = make(tokens=2.0), make_ca()
    (node,) = bed.nodes
    with bed.no_outage():
        node.replace(f"{PKI}/sa.key", other.key_pem)
    node.restart(API)
    bed.until(lambda: bed.failing(0), "a pod has another token")
    mark = bed.settled()
    assert bed.failing(mark) == {("pod", API)}
    assert reasons(bed, mark) == {UNAUTHORIZED}
    node.replace(f"{PKI}/sa.pub", node.read(f"{PKI}/sa.pub") + other.public_pem)
    node.restart(API)
    with bed.no_outage():
        pass


@pytest.mark.long
def test_no_server_refuses_the_present_anchor(make: Make) -> None:
    """Before a rotation, none of the servers that are checked at its end counts as one that refuses."""
    bed = make(workers=1)
    for family, name in (("ca", "ca"), ("etcd-ca", "etcd/ca"), ("front-proxy-ca", "front-proxy-ca")):
        present = bed.nodes[0].authority(name)
        assert len(old_clients(bed, family, present, present)) == len(list(servers(bed, family))) > 0
