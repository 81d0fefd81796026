"""Three daemons of three nodes with one Kubernetes API restart their services one after the other."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests import hurried_certmond
from tests.builders import Issued, make_ca, make_server
from tests.cluster.api_server import ApiServer
from tests.daemon_harness import Running

NODES = ("node-1", "node-2", "node-3")
ROUNDS = 3
SLOW = 0.4
"""Seconds that a restart takes here: long enough for an overlap, if the lock allowed it."""


class Span(NamedTuple):
    """A restart, by the clock of this host; `end` is None if its daemon was killed in it."""

    node: str
    begin: float
    end: float | None


class Node:
    """A node's certificate, its one service, and its daemon, all of them on this host. No Lease expires here: a killed
    daemon's successor takes the Lease again.
    """

    def __init__(self, name: str, home: Path, ca: Issued, log: Path, kubeconfig: str) -> None:
        self.name, self.home, self._ca = name, home, ca
        for directory in (home, home / "run", home / "conf.d"):
            directory.mkdir()
        program = home / "restart"
        stamp = "import sys,time; print(*sys.argv[1:], time.monotonic(), flush=True)"
        program.write_text(
            f"#!/bin/sh\n{sys.executable} -c '{stamp}' begin {name} $PPID >>{log}\n"
            f"sleep {SLOW}\n{sys.executable} -c '{stamp}' end {name} $PPID >>{log}\n"
        )
        program.chmod(0o755)
        (home / "ca.crt").write_bytes(ca.pem)
        self.replace()
        entry = {"name": "web", "path": str(home / "web.crt"), "key": str(home / "web.key"), "ca": "ca",
                 "usages": ["server auth"], "consumers": ["web"]}  # fmt: skip
        self.config = home / "config.yaml"
        self.config.write_text(yaml.safe_dump({
            "mode": "enforce", "profile": "none", "node_name": name, "poll": "1s",
            "restart": {"stable": "1s", "spacing": "1s"},
            "cluster": {"kubeconfig": kubeconfig, "lease_duration": "120s"},
            "certificates": [
                {"name": "ca", "path": str(home / "ca.crt"), "authority": True, "key_optional": True}, entry
            ],
            "services": [{"name": "web", "kind": "command", "command": [str(program)]}],
        }))  # fmt: skip

    def replace(self) -> None:
        """Install another certificate and key, as an operator does."""
        now = datetime.now(UTC)
        made = make_server(self._ca, "web", names=["DNS:web"], not_before=now, not_after=now + timedelta(days=90))
        for name, content in (("web.key", made.key_pem), ("web.crt", made.pem)):
            staged = self.home / f".{name}"
            staged.write_bytes(content)
            staged.chmod(0o600)
            staged.rename(self.home / name)

    def audit(self, result: str) -> int:
        """Return the number of restarts with this result."""
        with suppress(FileNotFoundError):
            return (self.home / "state/audit.log").read_text().count(f'"result": "{result}"')
        return 0

    @contextmanager
    def daemon(self) -> Iterator[Running]:
        log = self.home / "log"
        options = ["--config", self.config, "--state-dir", self.home / "state", "--runtime-dir", self.home / "run"]
        command = [sys.executable, *hurried_certmond.PROGRAM, "run", "--log", "json", *map(str, options)]
        with log.open("a") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
        running = Running(process, self.home / "run", log)
        try:
            running.until((self.home / "state/restarts.json").exists, "has met its service")
            yield running
        finally:
            process.kill()
            process.wait()


def spans(log: Path) -> list[Span]:
    begun, found = dict[tuple[str, str], float](), list[Span]()
    for line in log.read_text().splitlines():
        what, node, parent, at = line.split()
        if what == "begin":
            begun[node, parent] = float(at)
        else:
            found.append(Span(node, begun.pop((node, parent)), float(at)))
    return found + [Span(node, at, None) for (node, _), at in begun.items()]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


@pytest.fixture
def nodes(tmp_path: Path, api: ApiServer) -> list[Node]:
    now = datetime.now(UTC)
    ca = make_ca("ca", not_before=now - timedelta(days=1), not_after=now + timedelta(days=900))
    tmp_path.chmod(0o755)
    return [Node(name, tmp_path / name, ca, tmp_path / "spans", api.kubeconfig) for name in NODES]


@pytest.mark.long
def test_no_two_nodes_restart_at_once(nodes: list[Node], api: ApiServer) -> None:
    """Certificates change on all nodes at once, and a daemon is killed while it holds the lock. No restarts overlap,
    and at the end each service uses its newest certificate.
    """
    log = nodes[0].home.parent / "spans"
    with nodes[0].daemon() as first, nodes[1].daemon() as second:
        for number in range(ROUNDS):
            with nodes[2].daemon() as third:
                before = {node.name: node.audit("proven") for node in nodes}
                began = len(log.read_text().splitlines()) if log.exists() else 0
                for node in nodes:
                    node.replace()
                if number == 1:
                    third.until(partial(_begun, log, "node-3", began), "has begun")
                    third.process.send_signal(signal.SIGKILL)
                    third.process.wait()
                    with nodes[2].daemon() as again:
                        again.until(partial(_more_than, nodes[2], before["node-3"]), "has continued")
                        again.until(lambda: api.leases.only["spec"]["holderIdentity"] != "node-3", "released the Lease")
                for node in nodes:
                    proven = partial(_more_than, node, before[node.name])
                    (first if node is nodes[0] else second).until(proven, f"{node.name} is proven")
    found = sorted((span for span in spans(log) if span.end is not None), key=lambda span: span.begin)
    assert all(sum(span.node == name for span in found) >= ROUNDS for name in NODES)
    assert [(a, b) for a, b in pairwise(found) if a.node != b.node and (a.end or 0) > b.begin] == []


def _begun(log: Path, name: str, before: int) -> bool:
    return any(line.startswith(f"begin {name} ") for line in log.read_text().splitlines()[before:])


def _more_than(node: Node, before: int) -> bool:
    return node.audit("proven") > before
