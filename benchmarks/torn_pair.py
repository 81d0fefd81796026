"""Benchmark that counts the failed handshakes with a running etcd during renewals of its certificate and key.

etcd reads its certificate and then its key for each handshake, and refuses a pair that does not match. If a program
replaces the key first, a handshake that reads the old certificate and the new key fails.

By default, certmond keeps the key of etcd, so this failure is impossible: one rename replaces one file, and etcd reads
either the old or the new certificate, which both match the key. Two control runs with other methods of replacement show
that the benchmark detects failures.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.handshakes import ADDRESS, PATIENCE, Credentials, Tally, client_context, clients, handshake
from benchmarks.processes import free_port
from certmond.cli.options import assess_node
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.daemon.enforcer import Enforcer
from certmond.notify.audit import Audit
from certmond.notify.event_log import Journal

PKI = "etc/kubernetes/pki/etcd"
NODE = f"node_name: node-1\nkey_algorithm: ECDSA-P256\ninit: {{advertise_address: {ADDRESS}}}\n"


@dataclass(frozen=True)
class Node:
    """A control-plane node that `certmond init` created below `place`, and on which certmond renews certificates."""

    place: Path

    @classmethod
    def make(cls, place: Path) -> Node:
        node = cls(place)
        node.root.mkdir(parents=True)
        node._config.write_text(NODE)
        command = [sys.executable, "-m", "certmond", "init", f"--root={node.root}", f"--state-dir={node._state}"]
        subprocess.run([*command, f"--config={node._config}"], check=True, stdout=subprocess.DEVNULL)
        return node

    @property
    def root(self) -> Path:
        return self.place / "root"

    @property
    def _state(self) -> Path:
        return self.place / "state"

    @property
    def _config(self) -> Path:
        return self.place / "config.yaml"

    @property
    def credentials(self) -> Credentials:
        """Return the credentials of a client of etcd."""
        pki = self.root / PKI
        return Credentials(pki / "ca.crt", pki / "healthcheck-client.crt", pki / "healthcheck-client.key")

    def pair(self, name: str) -> tuple[Path, Path]:
        """Return the paths of the key and the certificate of etcd-server or etcd-peer."""
        stem = self.root / PKI / name.removeprefix("etcd-")
        return stem.with_suffix(".key"), stem.with_suffix(".crt")

    def copy(self, place: Path) -> Node:
        """Return a copy of the node."""
        shutil.copytree(self.place, place, symlinks=True)
        return Node(place)

    def renewing(self, name: str, *, keep_key: bool | None = None) -> Callable[[], str]:
        """Return a function that renews as `certmond renew NAME` does, and returns the SHA-256 of the new leaf.

        `keep_key` has the same meaning as in the configuration. None keeps the value of the profile.
        """
        entry = "" if keep_key is None else f"certificates: [{{name: {name}, keep_key: {str(keep_key).lower()}}}]\n"
        config = parse([Source("benchmark", self._config.read_text() + entry)])
        audit = Audit(Journal("none"), self._state, "benchmark")
        root = str(self.root)
        enforcer = Enforcer(config, root=root, state_dir=self._state, audit=audit, clock=lambda: datetime.now(UTC))

        def renew() -> str:
            enforcer.executor.recover()
            made = enforcer.plan(assess_node(config, root, None, state_dir=self._state), frozenset({name}))
            (outcome,) = enforcer.executor.execute(made)
            assert outcome.issued, outcome.message
            return outcome.issued.sha256

        return renew


def writing_in_place(node: Node, name: str, spare: Node) -> Callable[[], str]:
    """Return a function that replaces the pair as kubeadm does: truncate and write each file, the key first.

    `spare` is a node with the same CA.
    """
    renew = spare.renewing(name, keep_key=False)

    def write() -> str:
        leaf = renew()
        contents = [path.read_bytes() for path in spare.pair(name)]
        for path, content in zip(node.pair(name), contents, strict=True):
            path.write_bytes(content)
        return leaf

    return write


@contextmanager
def etcd_on(node: Node, program: str = "etcd") -> Iterator[dict[str, int]]:
    """Run etcd with one member and the files of the node. After etcd responds, yield the port of each of its pairs."""
    ports = {"etcd-server": free_port(), "etcd-peer": free_port()}
    client, peer = (f"https://{ADDRESS}:{port}" for port in ports.values())
    pki = node.root / PKI
    command = [
        program, "--name=node-1", f"--data-dir={node.place}/etcd", "--log-level=error",
        f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--initial-cluster=node-1={peer}",
        f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
        f"--cert-file={pki}/server.crt", f"--key-file={pki}/server.key", "--client-cert-auth",
        f"--trusted-ca-file={pki}/ca.crt", f"--peer-cert-file={pki}/peer.crt", f"--peer-key-file={pki}/peer.key",
        "--peer-client-cert-auth", f"--peer-trusted-ca-file={pki}/ca.crt",
    ]  # fmt: skip
    with (node.place / "etcd.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _until_it_answers(process, node, ports)
            yield ports
        finally:
            process.terminate()


def _until_it_answers(process: subprocess.Popen[bytes], node: Node, ports: dict[str, int]) -> None:
    context, deadline = client_context(node.credentials), time.monotonic() + 3 * PATIENCE
    for port in ports.values():
        while True:
            try:
                handshake(port, context)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"etcd does not answer: {(node.place / 'etcd.log').read_text()}") from None
                time.sleep(0.02)  # etcd reports no event after its start


@dataclass(frozen=True)
class Count:
    """One row of the results: a count, and a remark."""

    what: str
    value: str
    remark: str
    wanted: str

    def row(self) -> str:
        return f"| {self.what} | {self.value} | {self.remark} | {self.wanted} |"


@dataclass(frozen=True)
class Run:
    """Result of repeated replacements of a pair during handshakes: the installed leaves, and the seconds in total."""

    tally: Tally
    issued: list[str]
    seconds: float

    @classmethod
    def of(cls, port: int, credentials: Credentials, replace: Callable[[], str], times: int) -> Run:
        with clients(port, credentials) as tally:
            start = time.perf_counter()
            issued = [replace() for _ in range(times)]
            seconds = time.perf_counter() - start
        assert len(tally.leaves.difference(issued)) <= 1, "only the first pair is from another source"
        return cls(tally, issued, seconds)

    def rows(self, what: str, wanted: str) -> Iterator[Count]:
        times, failed = len(self.issued), self.tally.failed.total()
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.tally.failed.items()))
        handshakes = self.tally.answered + failed
        yield Count(f"{what}, {times} x: handshakes that failed", f"{failed} of {handshakes}", kinds, wanted)
        seen = len(self.tally.leaves.intersection(self.issued))
        yield Count("  new leaves that clients saw", f"{seen} of {times}", f"in {self.seconds:.0f} s", "")


def measure_torn_pair(renewals: int) -> Iterator[Count]:
    """Yield the rows about etcd: `renewals` default renewals of its server pair, and a fifth as many control runs."""
    program = shutil.which("etcd")
    if program is None:
        raise SystemExit("etcd is not installed; install it (Debian: etcd-server), or name other parts")
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.split()[2]
    with tempfile.TemporaryDirectory(prefix="certmond-bench-") as directory:  # on a disk, like the files of a node
        node = Node.make(Path(directory) / "node")
        spare = node.copy(Path(directory) / "spare")
        few = max(1, renewals // 5)
        with etcd_on(node, program) as ports:
            for name, often in (("etcd-server", renewals), ("etcd-peer", few)):
                ways = [
                    ("key kept", node.renewing(name), often, "0"),
                    ("control: new key", node.renewing(name, keep_key=False), few, ""),
                    ("control: in place, as kubeadm", writing_in_place(node, name, spare), few, "> 0"),
                ]
                for what, replace, times, wanted in ways:
                    run = Run.of(ports[name], node.credentials, replace, times)
                    yield from run.rows(f"etcd {version}, {name}, {what}", wanted)
