"""Real daemons carry a rotation through, on a bed where everybody connects to everybody else all the time."""

from __future__ import annotations

import hashlib
import json
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any, Self, SupportsIndex

import pytest

from tests.builders import HOUR, YEAR, Issued, make_ca
from tests.cluster.api_server import Fault
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
AWAY = 8
"""Seconds without an API, several times as long as it is asked again."""
UNAUTHORIZED = "HTTP/1.1 401 Unauthorized"


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("programs"))


class Daemon:
    """That of a node: started by `with`, and as often as a test kills it."""

    def __init__(self, node: BedNode) -> None:
        self.node = node
        self._stack = ExitStack()
        self.running: Running

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        options = ("--state-dir", str(self.node.state))
        bus = f"unix:path={self.node.bus}"
        found = running(Path("/"), self.node.work, *options, before=self.node.inside, DBUS_SYSTEM_BUS_ADDRESS=bus)
        self.running = self._stack.enter_context(found)

    def kill(self) -> None:
        """With SIGKILL, wherever it is."""
        self._stack.close()

    @property
    def phase(self) -> str:
        """Of the rotation, as this node has it: "" where it has none."""
        with suppress(OSError, ValueError):
            return str(json.loads((self.node.state / "rotation/record.json").read_text())["phase"])
        return ""

    @property
    def over(self) -> bool:
        return (self.node.state / "rotation/last.json").exists()

    def says(self) -> str:
        """What is told of the Root CA."""
        status = json.loads((self.node.work / "run/status.json").read_text())
        found = next(each for each in status["trust_anchors"] if each["name"] == "ca")
        return "; ".join(each["message"] for each in found["findings"])


class Cut(list[Fault]):
    """The API answers nothing but 503, for as long as this is in the place of its faults."""

    def __init__(self) -> None:
        super().__init__([Fault(503)])

    def pop(self, index: SupportsIndex = -1) -> Fault:
        return self[index]


def successor() -> Issued:
    now = datetime.now(UTC)
    return make_ca("kubernetes", not_before=now - HOUR, not_after=now + 10 * YEAR)


def told(bed: Bed, mark: float) -> str:
    """What a failure is told with: when each phase began, how often who reached whom, who did not."""
    lines = [
        f"{node.name}: {entry['at']} {entry['message']}"
        for node in bed.nodes for entry in node.trail() if entry["event"] == "rotation"
    ]  # fmt: skip
    tallies = [
        f"{each.by} -> {each.to}: {tally.good} good, {tally.down} down, {len(tally.failures)} failed"
        for each, tally in bed.tallies(mark).items()
    ]
    return "\n".join((*lines, *tallies, summary(bed.failures(mark))))


def refused(bed: Bed, admin: Issued) -> bool:
    """Whoever shows a certificate of the former CA is nobody to any API server."""
    nodes = bed.control_planes
    return {bed.nodes[-1].asked(f"{node.address}:6443", admin) for node in nodes} == {f"answer {UNAUTHORIZED}"}


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
    found: dict[str, Any] = {"cluster": {"kubeconfig": kubeconfig, "lease_duration": "6s", "spread": "2s"}}
    if node.worker:
        found |= {
            "signers": [{"name": "api", "kind": "csr"}],
            "certificates": [{"name": "kubelet-client", "signer": "api"}],
        }
    return found


class Cluster:
    """Two control planes and a worker with their daemons, and a new CA on the control planes."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.old, self.new = bed.nodes[0].authority(), successor()
        self.admin = like(bed.nodes[0].client_of("/etc/kubernetes/admin.conf"), self.old)
        for node in bed.nodes:
            labels = {} if node.worker else {"node-role.kubernetes.io/control-plane": ""}
            bed.backend.store.add("nodes", node.name, metadata={"labels": labels}, status={})
        bed.backend.approves = {"kubernetes.io/kube-apiserver-client-kubelet"}
        publish(bed, (self.old, self.new))
        for node in bed.control_planes:
            for name, content in (("new.crt", self.new.pem), ("new.key", self.new.key_pem)):
                (node.work / name).write_bytes(content)
                (node.work / name).chmod(0o600)
            staged = node.certmond("root-ca", "stage", str(node.work / "new.crt"), str(node.work / "new.key"))
            assert staged.returncode == 0, staged.stderr
        self.daemons = [Daemon(node) for node in bed.nodes]

    def begin(self) -> None:
        begun = self.bed.nodes[0].certmond("root-ca", "rotate", "--no-wait")
        assert begun.returncode == 0, begun.stderr

    def check(self, mark: float) -> None:
        """All of it has come to its end, and nobody who should be served was refused."""
        self.bed.settled()
        assert not self.bed.failures(mark), told(self.bed, mark)
        assert refused(self.bed, self.admin)
        assert not leaks(bytes(self.bed.backend.received))
        for node in self.bed.nodes:
            assert node.read(f"{PKI}/ca.crt") == self.new.pem
            assert not any(node.at(f"{PKI}/signing-ca.{kind}").exists() for kind in ("crt", "key"))
            assert {path.name for path in (node.state / "rotation").iterdir()} == {"last.json", "closed.json"}
        worker = self.bed.nodes[-1]
        keys = {line for made in (self.old, self.new) for line in made.key_pem.splitlines() if b"-----" not in line}
        assert not [path for path in _files(worker) if any(key in path.read_bytes() for key in keys)]


@contextmanager
def cluster(programs: Path, work: Path, interval: float) -> Iterator[Cluster]:
    with Bed(work, programs, control_planes=2, workers=1, interval=interval, settings=QUICK) as bed:
        for node in bed.nodes:
            node.configure(**settings(node))
        bed.start()
        made = Cluster(bed)
        with ExitStack() as stack:
            for each in made.daemons:
                stack.enter_context(each)
            yield made


def _files(node: BedNode) -> Iterator[Path]:
    """All that a worker has: its tree, and what certmond keeps there."""
    for top in (node.root, node.state):
        yield from (path for path in top.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_ca_that_somebody_replaced(programs: Path, tmp_path: Path) -> None:
    """On one node, a CA that was put in the place of the other is rotated by the daemon alone: from the moment at which
    both are trusted to the end nobody is refused, and then whoever shows a certificate of the old one.
    """
    with Bed(tmp_path, programs, control_planes=1, interval=50.0, settings=QUICK) as bed:
        bed.start()
        (node,) = bed.nodes
        admin, new = like(node.client_of("/etc/kubernetes/admin.conf"), node.authority()), successor()
        with Daemon(node) as daemon:
            daemon.running.until((node.state / "anchors.json").exists, "knows its anchors")
            mark = bed.settled()
            node.replace(f"{PKI}/ca.key", new.key_pem)
            node.replace(f"{PKI}/ca.crt", new.pem)
            daemon.running.until(lambda: node.read(f"{PKI}/ca.crt").count(b"BEGIN") == 2, "trusts both")
            bed.settled()  # the API server has read it, too
            both = bed.settled()
            daemon.running.until(lambda: daemon.over, "comes to its end", within=WITHIN)
            bed.settled()
        assert not bed.failures(both), told(bed, mark)
        assert refused(bed, admin)
        assert node.read(f"{PKI}/ca.crt") == new.pem


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_cluster(programs: Path, tmp_path: Path) -> None:
    """On three nodes, from the first phase to the last, nobody is refused by anybody; in the end whoever shows a
    certificate of the old CA is. No CA's key has ever gone through the API, or is on the worker.
    """
    with cluster(programs, tmp_path, 50.0) as made:
        mark = made.bed.settled()
        made.begin()
        for each in made.daemons:
            each.running.until(lambda each=each: each.over, "comes to its end", within=WITHIN)  # type: ignore[misc]
        made.check(mark)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_bad_luck_in_each_phase(programs: Path, tmp_path: Path) -> None:
    """Whatever the phase: all daemons are killed in it, the API is gone for a while, in which every node holds, and a
    node is away, for which the others wait and which they name. It goes on, and nobody is refused.
    """
    chosen = random.Random(5)  # noqa: S311 - when a daemon is killed is no secret
    with cluster(programs, tmp_path, 100.0) as made:
        bed, mark = made.bed, made.bed.settled()
        first, last = made.daemons[0], made.daemons[-1]
        made.begin()
        for phase in ("prepare", "detach", "trust", "issue", "distrust", "attach"):
            first.running.until(lambda: first.phase == phase, f"is in {phase}", within=WITHIN)  # noqa: B023 - at once
            bed.backend.faults = Cut()
            last.kill()
            for each in made.daemons[:-1]:
                signal.sigtimedwait([], chosen.uniform(0, 3))
                each.kill()
                each.start()
            signal.sigtimedwait([], AWAY)
            assert first.phase == phase
            assert "this node holds its phase" in first.says() or "it waits" in first.says()
            bed.backend.faults = []
            first.running.until(lambda: "node-3 has" in first.says(), "names who is away", within=WITHIN)
            assert first.phase == phase
            last.start()
        for each in made.daemons:
            each.running.until(lambda each=each: each.over, "comes to its end", within=WITHIN)  # type: ignore[misc]
        made.check(mark)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_at_once(programs: Path, tmp_path: Path) -> None:
    """Without an overlap there is an outage, and it ends: then everybody trusts the new CA only."""
    with Bed(tmp_path, programs, control_planes=1, interval=50.0, settings=QUICK) as bed:
        bed.start()
        (node,) = bed.nodes
        node.configure(root_ca={"on_change": "replace"})
        admin, new = like(node.client_of("/etc/kubernetes/admin.conf"), node.authority()), successor()
        with Daemon(node) as daemon:
            daemon.running.until((node.state / "anchors.json").exists, "knows its anchors")
            mark = bed.settled()
            node.replace(f"{PKI}/ca.key", new.key_pem)
            node.replace(f"{PKI}/ca.crt", new.pem)
            daemon.running.until(lambda: daemon.over, "comes to its end", within=WITHIN)
        failures = bed.failures(mark)
        assert failures
        print(f"\nat once: an outage of {failures[-1].at - failures[0].at:.1f} s")  # noqa: T201 - the figure is asked for
        after = bed.settled()
        assert not bed.failures(after)
        assert refused(bed, admin)
