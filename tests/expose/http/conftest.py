"""Fixtures of the tests of the HTTP server."""

from __future__ import annotations

import pytest

from certmond.expose.http import basic_auth


@pytest.fixture(autouse=True)
def queue_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each check of a password, however long the other checks take. Otherwise, a slow host refuses the check."""
    monkeypatch.setattr(basic_auth, "WAIT_SECONDS", 1000)
