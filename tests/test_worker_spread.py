"""The time at which a worker restarts its kubelet: spread, so that not all workers restart at once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from certmond.cluster.lease_lock import ClusterLease
from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.controllers.restart_lock import AgentDelay, RestartLock, RestartLockSession, SingleNodeLock, WorkerDelay
from certmond.controllers.restart_lock_choice import restart_lock_of
from certmond.errors import RefusedError, UnreachableError
from certmond.transaction.node_file_reader import NodeFiles

SPREAD = timedelta(minutes=2)


def moments(names: list[str]) -> Iterator[float]:
    """Return after how many seconds from its first call each node may restart."""
    for name in names:
        turn = WorkerDelay(name, SPREAD, monotonic=count().__next__)
        yield next(number for number in count() if turn.take() is None)


def test_each_worker_has_its_own_moment() -> None:
    """All within the spread, and so that no quarter of it has many more than a quarter of the nodes."""
    found = sorted(moments([f"worker-{number}" for number in range(200)]))
    assert found[0] >= 0
    assert found[-1] <= 120
    quarters = [sum(low <= each < low + 30 for each in found) for low in (0, 30, 60, 90)]
    assert all(30 <= count <= 70 for count in quarters), quarters


def test_it_reports_how_long_it_waits() -> None:
    """The message has the seconds, and the same name has the same moment each time."""
    now = 100.0
    turn = WorkerDelay("worker-1", SPREAD, monotonic=lambda: now)
    (wait,) = moments(["worker-1"])
    said = str(turn.take())
    assert said.startswith("the delay of this worker ends in ")
    assert wait - 1 <= int(said.split()[-2]) <= wait
    now += wait
    assert turn.take() is None
    assert turn.held


def test_a_turn_that_is_given_back_is_waited_for_again() -> None:
    """The next restart is another occasion, for all of them."""
    now = 0.0
    turn = WorkerDelay("worker-2", SPREAD, monotonic=lambda: now)
    turn.take()
    now = 120.0
    assert turn.take() is None
    turn.keep()
    assert turn.take() is None
    turn.give_back()
    assert turn.take() is not None


@pytest.mark.parametrize("name", ["", "worker-1"])
def test_without_a_spread_no_worker_waits(name: str) -> None:
    """With a spread of 0 all workers restart at once."""
    assert WorkerDelay(name, timedelta()).take() is None


def test_a_released_worker_does_not_wait() -> None:
    """In a rotation only a few workers begin at a time. In other cases the moment applies."""
    called = [False]
    turn = WorkerDelay("worker-1", SPREAD, called=lambda: called[0], monotonic=lambda: 0.0)
    assert turn.take() is not None
    called[0] = True
    assert turn.take() is None
    called[0] = False
    assert turn.take() is not None


def test_a_restart_by_a_command_does_not_wait() -> None:
    """A worker restarts at once on a command. A restart that the daemon plans waits for its moment."""
    turns = RestartLockSession(WorkerDelay("worker-1", SPREAD, monotonic=lambda: 0.0), Config())
    assert turns.wait_for_others(asked=True) is None
    assert "the delay of this worker" in str(turns.wait_for_others())


# --- agents of k3s and RKE2 -------------------------------------------------------------------------------------------


def test_an_agent_waits_for_the_servers_after_its_delay() -> None:
    """Only a restart in which a server signs new certificates waits for the servers. A command does not wait."""
    clock, reasons = [0.0], ["server-1 holds the Lease"]
    turn = AgentDelay("agent-1", SPREAD, servers=lambda: next(iter(reasons), None), monotonic=lambda: clock[0])
    assert "the delay of this worker" in str(turn.take(renews=True))
    clock[0] = SPREAD.total_seconds()
    assert turn.take(renews=True) == "server-1 holds the Lease"
    assert turn.take() is None
    assert RestartLockSession(turn, Config()).wait_for_others(asked=True, renews=True) is None
    reasons.clear()
    assert turn.take(renews=True) is None
    turn.give_back("it failed")
    turn.settle()
    assert "the delay of this worker" in str(turn.take(renews=True))


@pytest.mark.parametrize("program", ["k3s", "rke2"])
def test_the_role_of_a_node_selects_its_lock(program: str, tmp_path: Path) -> None:
    """An agent has the kubeconfig of its kubelet, and no passwords of a server. A server takes the Lease."""
    config = parse([Source("test", "cluster: {kubeconfig: /etc/rancher/certmond.conf}")])

    def lock(*, scattered: bool = True) -> RestartLock:
        return restart_lock_of(
            config, node="n", files=NodeFiles(str(tmp_path)), real=str, alive=lambda: None, scattered=scattered,
            called=lambda: False,
        )  # fmt: skip

    assert isinstance(lock(), ClusterLease)
    for path, kinds in (("agent/kubelet.kubeconfig", (AgentDelay, SingleNodeLock)), ("server/cred/passwd", None)):
        file = tmp_path / "var/lib/rancher" / program / path
        file.parent.mkdir(parents=True)
        file.touch()
        found = type(lock()), type(lock(scattered=False))
        assert found == (kinds or (ClusterLease, ClusterLease))


@pytest.mark.parametrize(
    ("error", "without_api", "problem"),
    [
        (None, "hold", "the Node is not Ready"),
        (UnreachableError("no answer"), "hold", "no answer"),
        (UnreachableError("no answer"), "go_on", None),
        (RefusedError("may not list"), "hold", None),
    ],
)
def test_a_node_whose_state_is_forbidden_needs_no_state(
    error: Exception | None, without_api: str, problem: str | None
) -> None:
    """Without the right to read its Node, the health of the service is the proof."""

    def node() -> str:
        if error:
            raise error
        return "the Node is not Ready"

    config = parse([Source("test", f"cluster: {{without_api: {without_api}}}")])
    turn = AgentDelay("agent-1", SPREAD, servers=lambda: None, node=node)
    assert RestartLockSession(turn, config).node_problem() == problem
    assert RestartLockSession(WorkerDelay("a", SPREAD), config).node_problem() is None
    assert RestartLockSession(SingleNodeLock(), config).node_problem() is None
