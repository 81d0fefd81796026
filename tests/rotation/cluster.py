"""Nodes of a bed with their daemons, and the rotation that they complete.

It configures and kills the daemons, fills the API, stages and begins a rotation, and checks its end. A test controls
the events in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any, Self

from tests.builders import HOUR, YEAR, Issued, make_ca
from tests.cluster.leaks import leaks
from tests.control_plane import PKI
from tests.daemon_harness import Running, running
from tests.deadline import AMPLE
from tests.rotation.bed import DENSE, Bed
from tests.rotation.node import BedNode
from tests.rotation.record import summary
from tests.rotation.refusals import VERIFYING, old_clients, old_servers

QUICK: dict[str, Any] = {
    "restart": {"reload_within": "3s", "ready_within": AMPLE, "stable": "1s", "spacing": "1s"},
    "root_ca": {"overlap": "1s"},
}
HELD = QUICK | {"root_ca": {"overlap": AMPLE}}
"""Both anchors are trusted until a test reconfigures the daemon."""
ASKED = os.environ.get("CERTMOND_DENSE", "")
INTERVAL = DENSE if ASKED == "1" else 200.0
"""Milliseconds between two connections in each direction."""
WITHIN = 420
"""Seconds for a rotation: its phases last as long as services take to restart, one after the other."""
FILES = {"ca": "ca", "etcd-ca": "etcd/ca", "front-proxy-ca": "front-proxy-ca", "sa": "sa"}
"""The path of each family below pki/."""


class Daemon:
    """The daemon of a node: started by `with`, and after each kill by a test."""

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
        terms: Any = {"before": self.node.inside, "program": self.node.program}
        bus = f"unix:path={self.node.bus}"
        found = running(Path("/"), self.node.work, *options, **terms, DBUS_SYSTEM_BUS_ADDRESS=bus)
        self.running = self._stack.enter_context(found)

    def reconfigure(self, **settings: Any) -> None:
        """Change its configuration once while it runs."""
        self.node.configure(**settings)
        self.running.process.send_signal(signal.SIGHUP)
        self.running.until(lambda: '"reloaded"' in self.running.log.read_text(), "has read its configuration again")

    def kill(self) -> None:
        """With SIGKILL, wherever it is."""
        self._stack.close()

    @property
    def phase(self) -> str:
        """Return the phase of the rotation on this node, or ""."""
        with suppress(OSError, ValueError):
            return str(json.loads((self.node.state / "rotation/record.json").read_text())["phase"])
        return ""

    @property
    def over(self) -> bool:
        return (self.node.state / "rotation/last.json").exists()

    def findings(self, family: str = "ca") -> list[dict[str, str]]:
        """Return the findings of the anchor."""
        status = json.loads((self.node.work / "run/status.json").read_text())
        found = next(each for each in (*status["trust_anchors"], *status["certificates"]) if each["name"] == family)
        return list(found["findings"])

    def reasons(self, family: str = "ca") -> set[str]:
        return {each["reason"] for each in self.findings(family)}

    def says(self, family: str = "ca") -> str:
        return "; ".join(each["message"] for each in self.findings(family))


def successor(name: str = "kubernetes") -> Issued:
    now = datetime.now(UTC)
    return make_ca(name, not_before=now - HOUR, not_after=now + 10 * YEAR)


def reported(bed: Bed, mark: float) -> str:
    """Return the message of a failure: the start of each phase, the number of connections by direction, and the
    failures.
    """
    lines = [
        f"{node.name}: {entry['at']} {entry['message']}"
        for node in bed.nodes for entry in node.trail() if entry["event"] == "rotation"
    ]  # fmt: skip
    tallies = [
        f"{each.by} -> {each.to}: {tally.good} good, {tally.down} down, {len(tally.failures)} failed"
        for each, tally in bed.tallies(mark).items()
    ]
    return "\n".join((*lines, *tallies, summary(bed.failures(mark))))


def publish(bed: Bed, authorities: Sequence[Issued]) -> None:
    """Publish the CA of the controller-manager for workloads, in each namespace."""
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
            leader = next(node for node in bed.control_planes if bed.is_there(node))
            held = leader.held("kube-controller-manager").get(f"{PKI}/ca.crt", "")
            for namespace in ("default", "kube-public", "kube-system"):
                found = store.get("configmaps", "kube-root-ca.crt", namespace)
                if held in known and found["data"]["ca.crt"] != known[held]:
                    found["data"]["ca.crt"] = known[held]
                    store.change(found)

    bed.backend.before = before


def settings(node: BedNode, spread: str) -> dict[str, Any]:
    """Control planes ask the API as administrators, a worker as its kubelet, and has its certificates from there."""
    kubeconfig = "/etc/kubernetes/kubelet.conf" if node.worker else "/etc/kubernetes/admin.conf"
    found: dict[str, Any] = {"cluster": {"kubeconfig": kubeconfig, "lease_duration": "6s", "spread": spread}}
    if node.worker:
        names = ("kubelet-client", *(["kubelet-server"] if node.verified else ()))
        found |= {
            "signers": [{"name": "api", "kind": "csr"}],
            "certificates": [{"name": name, "signer": "api"} for name in names],
        }
    return found


class Cluster:
    """The nodes of a bed with their daemons, and the successor of the family's anchor on the control planes."""

    def __init__(self, bed: Bed, family: str = "ca") -> None:
        self.bed, self.family = bed, family
        first, self._file = bed.control_planes[0], FILES[family]
        self.root = first.authority()
        self.old = self.root if family in {"ca", "sa"} else first.authority(self._file)
        self.new = successor(self.old.cert.subject.rfc4514_string().removeprefix("CN="))
        store = bed.backend.store
        for node in bed.nodes:
            labels = {} if node.worker else {"node-role.kubernetes.io/control-plane": ""}
            store.add("nodes", node.name, metadata={"labels": labels}, status={})
        for name, namespace in (("certmond", "kube-system"), ("pod", "default")):
            store.add("serviceaccounts", name, namespace)
        bed.backend.approves = {
            f"kubernetes.io/{name}" for name in ("kube-apiserver-client-kubelet", "kubelet-serving")
        }
        publish(bed, (self.old, self.new) if family == "ca" else (self.root,))
        for node in bed.control_planes:
            self.stage(node)
        self.daemons = [Daemon(node) for node in bed.nodes]

    def stage(self, node: BedNode) -> None:
        content = {"new.key": self.new.key_pem, **({} if self.family == "sa" else {"new.crt": self.new.pem})}
        for name, text in content.items():
            (node.work / name).touch(0o600)
            (node.work / name).write_bytes(text)
        paths = (str(node.work / name) for name in sorted(content))
        staged = node.certmond("root-ca", "stage", *paths, "--family", self.family)
        assert staged.returncode == 0, staged.stderr

    @property
    def phase(self) -> str:
        """Return the phase of the rotation in the cluster."""
        found = self.bed.backend.store.get("configmaps", "certmond-rotation", "kube-system")
        return str(json.loads(found["data"]["record"])["phase"])

    def begin(self, *more: str) -> None:
        begun = self.bed.nodes[0].certmond("root-ca", "rotate", "--no-wait", "--family", self.family, *more)
        assert begun.returncode == 0, begun.stderr

    @property
    def concerned(self) -> list[Daemon]:
        """Return the involved nodes that exist."""
        return [each for each in self.daemons if self.bed.is_there(each.node) and not self._beside(each.node)]

    def _beside(self, node: BedNode) -> bool:
        return node.worker and self.family != "ca"

    def ends(self) -> None:
        """Wait until all of them have reached the end."""
        for each in self.concerned:
            each.running.until(lambda each=each: each.over, "comes to its end", within=WITHIN)  # type: ignore[misc]

    def check(self, mark: float) -> None:
        """Assert that all is complete, that no valid client was refused, and that each component refuses the old
        anchor. Ends the daemons.
        """
        self.bed.settled()
        assert not self.bed.failures(mark), reported(self.bed, mark)
        assert not leaks(bytes(self.bed.backend.received))
        for each in self.concerned:
            assert self._is_new(each.node)
            assert {path.name for path in (each.node.state / "rotation").iterdir()} == {"last.json", "closed.json"}
        for node in (each for each in self.bed.nodes if each.worker):
            keys = {line for made in (self.old, self.new) for line in made.key_pem.splitlines() if b"-----" not in line}
            assert not [path for path in _files(node) if any(key in path.read_bytes() for key in keys)]
        for each in self.daemons:
            each.kill()
        if self.family in VERIFYING:
            self._refuses_old()

    def _is_new(self, node: BedNode) -> bool:
        if self.family == "sa":
            return node.read(f"{PKI}/sa.pub") == self.new.public_pem
        own = not any(node.at(f"{PKI}/signing-ca.{kind}").exists() for kind in ("crt", "key"))
        return own and node.read(f"{PKI}/{self._file}.crt") == self.new.pem

    def _refuses_old(self) -> None:
        assert not old_clients(self.bed, self.family, self.old, self.new)
        verified = self.family == "ca" and any(node.verified for node in self.bed.nodes)
        verifying = VERIFYING[self.family] | ({("kube-apiserver", "kubelet")} if verified else set())
        assert old_servers(self.bed, self.family, self.old) == verifying


@contextmanager
def cluster(
    programs: Path,
    work: Path,
    interval: float = INTERVAL,
    *,
    family: str = "ca",
    verified: bool = False,
    tokens: float | None = None,
    root_ca: Mapping[str, Any] = QUICK["root_ca"],
    control_planes: int = 2,
    workers: int = 1,
    spread: str = "2s",
) -> Iterator[Cluster]:
    """Control planes and workers, with daemons that run. Outside of a batch workers restart within `spread`."""
    terms: dict[str, Any] = {"interval": interval, "verified": verified, "tokens": tokens, "dense": ASKED.split(",")}
    terms |= {"control_planes": control_planes, "workers": workers}
    with Bed(work, programs, settings=QUICK | {"root_ca": dict(root_ca)}, **terms) as bed:
        for node in bed.nodes:
            node.configure(**settings(node, spread))
        bed.start()
        made = Cluster(bed, family)
        with ExitStack() as stack:
            for each in made.daemons:
                stack.enter_context(each)
            yield made


def _files(node: BedNode) -> Iterator[Path]:
    """Return all files of a worker: its tree, and certmond's state."""
    for top in (node.root, node.state):
        yield from (path for path in top.rglob("*") if path.is_file() and not path.is_symlink())
