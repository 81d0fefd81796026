"""A real command beside a real daemon of the same node: the daemon leads the rotation in the cluster."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from certmond.cluster.api_access import Access
from certmond.pki.rotation.phases import Phase
from tests.cluster.api_server import CSRS, ApiServer
from tests.cluster.coordinator_world import World
from tests.cluster.lease_store import LEASES
from tests.cluster.test_rotation_coordinator import fit
from tests.deadline import DEADLINE
from tests.rotation_node import RotatingNode, root_ca

NODE = "node-1"
PROGRAM = """
import sys
import certmond.controllers.coordinator_factory
certmond.controllers.coordinator_factory.KUBELET_CONF = sys.argv.pop(1)
from certmond.cli.main import main
main()
"""


class Shared(RotatingNode):
    """The only node of a cluster. Its daemon and its commands call the API as separate users."""

    kubelet_conf = ""
    users: dict[str, str]

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-u", "-c", PROGRAM, self.kubelet_conf, *self.options, *words]

    def asks_as(self, user: str) -> None:
        """Use this user in each process that starts from now on."""
        self.configure(cluster={"kubeconfig": self.users[user], "workloads": "ignore"})

    @contextmanager
    def running(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        with (
            (self.place / "output").open("wb") as output,
            subprocess.Popen(self.command(*words), stdout=output, stderr=output) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    @property
    def said(self) -> str:
        """Return the output of the command."""
        return (self.place / "output").read_text()


class Watched:
    """The users that have changed requests and Leases, in order, as the API recorded them."""

    def __init__(self, api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests, self.leases = list[tuple[str, str]](), set[str]()
        answer = api.answer

        def watched(method: str, path: str, body: bytes, **more: Any) -> Any:
            if path.startswith(CSRS) and method in {"POST", "DELETE"}:
                self.requests.append((method, more.get("user", "")))
            if path.startswith(LEASES) and method != "GET":
                self.leases.add(more.get("user", ""))
            return answer(method, path, body, **more)

        monkeypatch.setattr(api, "answer", watched)


@pytest.fixture
def world(cluster: ApiServer, access_of: Callable[..., Access]) -> World:
    return World(cluster, access_of)


@pytest.fixture
def node(world: World, tmp_path: Path) -> Shared:
    made = Shared(tmp_path / "place", hurried=False)
    made.kubelet_conf = world.api.user(f"system:node:{NODE}", "system:nodes")
    made.users = {name: world.api.user(name, "certmond") for name in ("certmond-daemon", "certmond-command")}
    world.old, world.new = made.old, root_ca()
    world.api.store.add("nodes", NODE, metadata={"labels": {"node-role.kubernetes.io/control-plane": ""}})
    made.stage(world.new)
    fit(world, world.rotation(Phase.PREPARE))
    return made


def led(world: World, node: Shared, until: Callable[[], bool], what: str) -> None:
    """Wait; meanwhile the cluster becomes as it should be in each phase: in trust when the command waits for it."""
    end, before = time.monotonic() + 2 * DEADLINE, None
    while not until():
        assert time.monotonic() < end, f"{what}: never so; the phase is {node.phase}\n{node.said}"
        record = node.record
        if record and record != before and (record.phase is not Phase.TRUST or "kube-root-ca.crt" in node.said):
            before = record
            with world.api.lock:
                fit(world, record)
        signal.sigtimedwait([], 0.02)


@pytest.mark.long
def test_the_daemon_alone_leads_beside_a_command(world: World, node: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first phase to the last, the daemon files and deletes every request of the check, and holds the Lease.
    The command shows the phases with their reasons, and exits 0.
    """
    watched = Watched(world.api, monkeypatch)
    node.asks_as("certmond-daemon")
    with node.daemon() as daemon:
        node.asks_as("certmond-command")
        with node.running("root-ca", "rotate") as command:
            led(world, node, lambda: command.poll() is not None, "the command ends")
        assert command.returncode == 0, node.said
    said = node.said
    lines = said.splitlines()
    first = f"the daemon (process {daemon.process.pid}) executes steps on this node; this command shows the progress"
    assert lines[0] == first
    assert lines[-1] == "done"
    for phase in ("trust is reached, issue begins", "issue is reached, distrust begins"):
        assert any(line.startswith("daemon: ") and phase in line for line in lines), said
    wait = r"waiting: \[trust\] .*kube-root-ca.crt.+ \(since .+ UTC; to end the wait: certmond root-ca abort\)"
    assert any(re.fullmatch(wait, line) for line in lines), said
    assert {user for _, user in watched.requests} == {"certmond-daemon"}
    assert watched.leases == {"certmond-daemon"}
    assert node.unwell(world.new) == []


@pytest.mark.long
def test_a_command_leads_after_the_daemon_was_killed(
    world: World, node: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that followed the daemon completes the rotation."""
    watched = Watched(world.api, monkeypatch)
    node.asks_as("certmond-daemon")
    with node.daemon() as daemon:
        node.asks_as("certmond-command")
        with node.running("root-ca", "rotate") as command:
            led(world, node, lambda: node.phase is Phase.TRUST, "it is in trust")
            daemon.stop(signal.SIGKILL)
            filed = len(watched.requests)
            led(world, node, lambda: command.poll() is not None, "the command ends")
    assert command.returncode == 0, node.said
    assert {user for _, user in watched.requests[filed:]} == {"certmond-command"}
    assert node.unwell(world.new) == []
