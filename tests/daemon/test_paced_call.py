"""Calls that a pass makes at most twice a second."""

from __future__ import annotations

import os

import pytest

from certmond.daemon import paced_call
from certmond.daemon.paced_call import PacedCall


@pytest.mark.parametrize(("interval", "expected"), [(0.0, 3), (3600.0, 0)])
def test_calls_in_quick_succession_are_omitted(monkeypatch: pytest.MonkeyPatch, interval: float, expected: int) -> None:
    """Only a call after the interval calls the function."""
    monkeypatch.setattr(paced_call, "INTERVAL", interval)
    calls = list[None]()
    paced = PacedCall(lambda: calls.append(None))
    for _ in range(3):
        paced()
    assert len(calls) == expected


def test_the_interval_begins_with_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function is called after each whole interval."""
    times = iter([0.0, 0.4, 0.5, 0.9, 1.0, 1.2])
    monkeypatch.setattr("certmond.daemon.paced_call.time.monotonic", lambda: next(times))
    calls = list[None]()
    paced = PacedCall(lambda: calls.append(None))
    counts = list[int]()
    for _ in range(5):
        paced()
        counts.append(len(calls))
    assert counts == [0, 1, 1, 2, 2]


def test_a_forked_process_calls_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of the first scan is not the main process of the unit, and its work proves nothing about the loop."""
    monkeypatch.setattr(paced_call, "INTERVAL", 0)
    calls = list[None]()
    paced = PacedCall(lambda: calls.append(None))
    if not (pid := os.fork()):
        paced()
        os._exit(len(calls))
    assert os.waitpid(pid, 0)[1] == 0
    paced()
    assert len(calls) == 1
