"""Time limits of calls to the API that no call reaches on a host that stalls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from certmond.cluster import client
from tests.deadline import DEADLINE


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a call of this process that waits for an answer end after DEADLINE, however short its own time limit is.

    A message still contains the time limit of the call. A test whose subject is the end of a limit ends it itself.
    """
    limit, connect = asyncio.timeout, client._client

    def timeout(seconds: float | None) -> asyncio.Timeout:
        return limit(None if seconds is None else max(seconds, DEADLINE))

    def connected(kubeconfig: str, seconds: float) -> Any:
        return connect(kubeconfig, max(seconds, DEADLINE))

    monkeypatch.setattr("asyncio.timeout", timeout)
    monkeypatch.setattr(client, "_client", connected)
