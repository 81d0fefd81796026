"""The whole of it: real daemons carry a rotation through, on a bed where everybody connects to everybody all the time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from tests.builders import HOUR, YEAR, Issued, make_ca
from tests.cluster.leaks import leaks
from tests.control_plane import PKI
from tests.daemon_harness import Running, running
from tests.rotation.bed import Bed
from tests.rotation.making import built
from tests.rotation.node import BedNode, like
from tests.rotation.record import summary

pytestmark = [pytest.mark.real(part) for part in ("cgroup", "go", "openssl", "unshare")]

QUICK: dict[str, Any] = {
    "restart": {"reload_within": "3s", "ready_within": "20s", "stable": "1s", "spacing": "1s"},
    "root_ca": {"overlap": "1s"},
}
WITHIN = 420
"""Seconds for a rotation: its phases last as long as services take to come up again, one after the other."""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("programs"))


@contextmanager
def daemon(node: BedNode) -> Iterator[Running]:
    options = ("--state-dir", str(node.state))
    bus = f"unix:path={node.bus}"
    with running(Path("/"), node.work, *options, before=node.inside, DBUS_SYSTEM_BUS_ADDRESS=bus) as found:
        yield found


def successor() -> Issued:
    now = datetime.now(UTC)
    return make_ca("kubernetes", not_before=now - HOUR, not_after=now + 10 * YEAR)


def phases(node: BedNode) -> list[tuple[str, str]]:
    return [(entry["at"], entry["message"]) for entry in node.trail() if entry["event"] == "rotation"]


def told(bed: Bed, mark: float) -> str:
    lines = [f"{node.name}: {at} {what}" for node in bed.nodes for at, what in phases(node)]
    tallies = [
        f"{direction.by} -> {direction.to}: {tally.good} good, {tally.down} down, {len(tally.failures)} failed, "
        f"{tally.rate:.0f}/s"
        for direction, tally in bed.tallies(mark).items()
    ]
    return "\n".join((*lines, *tallies, summary(bed.failures(mark))))


def publish(bed: Bed, authorities: Sequence[Issued]) -> None:
    """Have the API publish what the controller-manager has read as the CA for workloads, in each namespace."""
    known = {}
    for count in (1, 2):
        for some in permutations(authorities, count):
            content = b"".join(each.pem for each in some)
            known[hashlib.sha256(content).hexdigest()] = content.decode()
    store = bed.backend.store
    for namespace in ("default", "kube-public", "kube-system"):
        store.add("configmaps", "kube-root-ca.crt", namespace, data={"ca.crt": authorities[0].pem.decode()})

    def before(method: str, path: str) -> None:
        if method == "GET" and path.endswith("/configmaps"):
            held = bed.nodes[0].held("kube-controller-manager").get(f"{PKI}/ca.crt", "")
            for namespace in ("default", "kube-public", "kube-system"):
                found = store.get("configmaps", "kube-root-ca.crt", namespace)
                if held in known and found["data"]["ca.crt"] != known[held]:
                    found["data"]["ca.crt"] = known[held]
                    store.change(found)

    bed.backend.before = before


def settings(node: BedNode) -> dict[str, Any]:
    """Control planes ask the API as administrators, a worker as its kubelet, and has its certificate from there."""
    kubeconfig = "/etc/kubernetes/kubelet.conf" if node.worker else "/etc/kubernetes/admin.conf"
    found: dict[str, Any] = {"cluster": {"kubeconfig": kubeconfig}}
    if node.worker:
        found |= {
            "signers": [{"name": "api", "kind": "csr"}],
            "certificates": [{"name": "kubelet-client", "signer": "api"}],
        }
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_ca_that_somebody_replaced(programs: Path, tmp_path: Path) -> None:
    """On one node, a CA that was put in the place of the other is rotated by the daemon alone: from the moment at which
    both are trusted to the end nobody is refused, and then whoever shows a certificate of the old one.
    """
    with Bed(tmp_path, programs, control_planes=1, interval=50.0, settings=QUICK) as bed:
        bed.start()
        (node,) = bed.nodes
        admin, new = like(node.client_of("/etc/kubernetes/admin.conf"), node.authority()), successor()
        with daemon(node) as found:
            found.until((node.state / "anchors.json").exists, "knows its anchors")
            mark = bed.settled()
            node.replace(f"{PKI}/ca.key", new.key_pem)
            node.replace(f"{PKI}/ca.crt", new.pem)
            found.until(lambda: b"".join([new.pem, admin.pem])[:10] and node.read(f"{PKI}/ca.crt").count(b"BEGIN") == 2, "trusts both")
            both = bed.settled()
            found.until((node.state / "rotation/last.json").exists, "comes to its end", within=WITHIN)
            bed.settled()
        print(told(bed, mark))
        assert not bed.failures(both), told(bed, mark)
        assert bed.nodes[0].asked(f"{node.address}:6443", admin) == "answer HTTP/1.1 401 Unauthorized"
        assert node.read(f"{PKI}/ca.crt") == new.pem


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster(programs: Path, tmp_path: Path) -> None:
    """Two control planes and a worker."""
    with Bed(tmp_path, programs, control_planes=2, workers=1, interval=100.0, settings=QUICK) as bed, ExitStack() as stack:
        for node in bed.nodes:
            node.configure(**settings(node))
        bed.start()
        backend = bed.backend
        for node in bed.nodes:
            labels = {} if node.worker else {"node-role.kubernetes.io/control-plane": ""}
            backend.store.add("nodes", node.name, metadata={"labels": labels}, status={})
        backend.approves = {"kubernetes.io/kube-apiserver-client-kubelet"}
        old, new = bed.nodes[0].authority(), successor()
        publish(bed, (old, new))
        admin = like(bed.nodes[0].client_of("/etc/kubernetes/admin.conf"), old)
        for node in bed.control_planes:
            (node.work / "new.crt").write_bytes(new.pem)
            (node.work / "new.key").write_bytes(new.key_pem)
            (node.work / "new.key").chmod(0o600)
            staged = node.certmond("root-ca", "stage", str(node.work / "new.crt"), str(node.work / "new.key"))
            assert staged.returncode == 0, staged.stderr
        daemons = [stack.enter_context(daemon(node)) for node in bed.nodes]
        mark = bed.settled()
        begun = bed.nodes[0].certmond("root-ca", "rotate", "--no-wait")
        assert begun.returncode == 0, begun.stderr
        try:
            for node, found in zip(bed.nodes, daemons, strict=True):
                found.until((node.state / "rotation/last.json").exists, "comes to its end", within=WITHIN)
            bed.settled()
        finally:
            print(told(bed, mark))
            for node in bed.nodes:
                waits = json.loads((node.work / "run/status.json").read_text())
                for each in waits["trust_anchors"]:
                    if each["name"] == "ca":
                        print(node.name, [item["message"] for item in each["findings"]])
        assert not bed.failures(mark), told(bed, mark)
        for node in bed.control_planes:
            assert bed.nodes[-1].asked(f"{node.address}:6443", admin) == "answer HTTP/1.1 401 Unauthorized"
        assert not leaks(bytes(backend.received))
