"""A second process for however few things, so that it can be tried with what a test can look at."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from certmond.files import forked_worker as second
from tests.deadline import DEADLINE


def worthwhile(monkeypatch: pytest.MonkeyPatch, least: int = 1, piece: int = 1) -> None:
    """As on a node with two processors, where there are `least` things, in pieces of `piece`; for a machine that is
    busy, with more patience.
    """
    monkeypatch.setattr(second, "_PIECE_TIMEOUT", DEADLINE)
    monkeypatch.setattr(second, "MIN_ITEMS", least)
    monkeypatch.setattr(second, "_MIN_PIECE", piece)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(threading, "active_count", lambda: 1)


FORKS = "ignore:This process .* is multi-threaded:DeprecationWarning"
"""For `filterwarnings`. A worker of pytest-xdist has a thread that waits for orders, and holds nothing meanwhile."""


@contextmanager
def elsewhere() -> Iterator[list[bytes]]:
    """All that can be done in a second process is done there. Gives what it brings."""
    brought: list[bytes] = []
    results = second._Worker.results

    def noted(self: second._Worker, timeout: float = 0) -> Iterator[bytes]:
        for result in results(self, timeout):
            brought.append(result)
            yield result

    with pytest.MonkeyPatch.context() as monkeypatch:
        worthwhile(monkeypatch)
        monkeypatch.setattr(second._Worker, "claims_piece", lambda _: False)
        monkeypatch.setattr(second._Worker, "results", noted)
        yield brought
