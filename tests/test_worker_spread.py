"""The time at which a worker restarts its kubelet: spread, so that not all workers restart at once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import count

import pytest

from certmond.config.model import Config
from certmond.controllers.restart_lock import RestartLockSession, WorkerDelay

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
