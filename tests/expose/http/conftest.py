"""Fixtures of the tests of the HTTP server."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from certmond.expose.http import basic_auth, server


@pytest.fixture(autouse=True)
def queue_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each check of a password, however long the other checks take. Otherwise, a slow host refuses the check."""
    monkeypatch.setattr(basic_auth, "WAIT_SECONDS", 1000)


@pytest.fixture
def without_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no deadline of a connection pass: the clock with which the server compares the deadlines does not advance."""
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=time.sleep))
