"""A cluster that grants exactly what config/rbac.yaml grants, and that must never receive a private key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from certmond.cluster.api_access import Access
from tests.cluster.api_server import ApiServer
from tests.cluster.leaks import leaks
from tests.cluster.patience import be_patient
from tests.cluster.rbac import Rbac
from tests.deadline import DEADLINE

MANIFEST = Path(__file__).parents[2] / "config/rbac.yaml"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch)


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

    def make(name: str, *groups: str, seconds: float = DEADLINE) -> Access:
        path = cluster.user(name, *groups)
        return Access(lambda: path, timedelta(seconds=seconds), lambda: None)

    return make


@pytest.fixture
def access(access_of: Callable[..., Access]) -> Access:
    """Return the access of a node that may lead: the group of config/rbac.yaml."""
    return access_of("certmond", "certmond")


@pytest.fixture
def time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each time limit pass at once, however long it is."""

    async def sleep(_: float) -> None:
        raise TimeoutError

    monkeypatch.setattr("asyncio.sleep", sleep)


class Limits:
    """The time limits that were set, so that a test ends one when it likes.

    However long it is: one that ends by the clock may end before there is a connection.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._set: list[tuple[asyncio.Timeout, asyncio.AbstractEventLoop]] = []
        real = asyncio.timeout

        def timeout(seconds: float | None) -> asyncio.Timeout:
            limit = real(seconds)
            if seconds is not None:
                self._set.append((limit, asyncio.get_running_loop()))
            return limit

        monkeypatch.setattr("asyncio.timeout", timeout)

    def reset(self) -> None:
        self._set.clear()

    def end(self, position: int = -1) -> None:
        """End the time limit that was set in this place; the last one is that of the present call."""
        limit, loop = self._set[position]

        def up() -> None:
            with suppress(RuntimeError):  # the limit has ended already
                limit.reschedule(loop.time())

        loop.call_soon_threadsafe(up)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    return Limits(monkeypatch)


Silence = Callable[[str], None]


@pytest.fixture
def silence(cluster: ApiServer, limits: Limits) -> Silence:
    """Stop all answers of the API server. The time limit of the check, or of each call, passes after the first
    request.
    """

    def begin(whose: str) -> None:
        asked: list[str] = []

        def silent(method: str, path: str) -> None:
            position = 0 if whose == "check" and not asked else -1
            asked.append(path)
            limits.end(position)
            cluster.closing.wait(30)

        limits.reset()
        cluster.before = silent

    return begin
