"""A cluster that grants what config/rbac.yaml grants and no more, and that must never be sent a private key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from certmond.cluster.access import Access
from tests.cluster.api_server import ApiServer
from tests.cluster.leaks import leaks
from tests.cluster.rbac import Rbac

MANIFEST = Path(__file__).parents[2] / "config/rbac.yaml"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ApiServer]:
    """The API server, under the rules of config/rbac.yaml."""
    with ApiServer(tmp_path) as server:
        server.rbac = Rbac(MANIFEST.read_text())
        server.nodes.clear()
        yield server
    assert not leaks(bytes(server.received))


@pytest.fixture
def access_of(cluster: ApiServer) -> Callable[..., Access]:
    """The access of a user, by name and groups."""

    def make(name: str, *groups: str, seconds: float = 5) -> Access:
        path = cluster.user(name, *groups)
        return Access(lambda: path, timedelta(seconds=seconds), lambda: None)

    return make


@pytest.fixture
def access(access_of: Callable[..., Access]) -> Access:
    """That of a node that may lead: the group of config/rbac.yaml."""
    return access_of("certmond", "certmond")


@pytest.fixture
def time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever waits between two looks finds its time up then, however long that is."""

    async def sleep(_: float) -> None:
        raise TimeoutError

    monkeypatch.setattr("asyncio.sleep", sleep)


Silence = Callable[[str], None]


@pytest.fixture
def silence(cluster: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Silence:
    """The API server answers nothing from then on, and the time of the check, or of each call, is up once it was asked.

    However long that time is: a limit that ends by the clock may end before there is a connection.
    """
    limits: list[tuple[asyncio.Timeout, asyncio.AbstractEventLoop]] = []
    real = asyncio.timeout

    def timeout(seconds: float | None) -> asyncio.Timeout:
        limit = real(seconds)
        if seconds is not None:
            limits.append((limit, asyncio.get_running_loop()))
        return limit

    def up(limit: asyncio.Timeout, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # it is over already
            limit.reschedule(loop.time())

    def begin(whose: str) -> None:
        asked: list[str] = []

        def silent(method: str, path: str) -> None:
            limit, loop = limits[0] if whose == "check" and not asked else limits[-1]
            asked.append(path)
            loop.call_soon_threadsafe(up, limit, loop)
            cluster.closing.wait(30)

        limits.clear()
        cluster.before = silent

    monkeypatch.setattr("asyncio.timeout", timeout)
    return begin
