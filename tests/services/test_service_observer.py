"""A probe runs in a separate thread: no caller waits for a server, and of waiting requests only the last is made."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from certmond.pki.catalog.endpoint import Endpoint, Served, Unserved
from certmond.pki.services.service_observation import Live
from certmond.services.observed_subjects import Pod, Question
from certmond.services.observer_thread import ObserverThread
from certmond.services.service_observer import observe
from tests.builders import Issued, make_ca
from tests.conftest import no_thread_left
from tests.services.test_tls_probe import (
    ALWAYS,
    GENEROUS,
    SHORT,
    Files,
    Server,
    saying,
    server_certificate,
    tls,
    until_closed,
)

Serve = Callable[[Callable[[socket.socket], object]], Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(answer: Callable[[socket.socket], object]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def ca() -> Issued:
    return make_ca("ca", **ALWAYS)


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


class Asker:
    """A caller of probes, which is woken once for each."""

    def __init__(self, limit: float = GENEROUS) -> None:
        self._woken = threading.Semaphore(0)
        self.lookout = ObserverThread(self._woken.release, limit)

    def ask(self, *endpoints: Endpoint) -> None:
        self.lookout.ask(Question(endpoints=endpoints))

    def seen(self) -> Live:
        assert self.lookout.seen
        return self.lookout.seen

    def served(self) -> dict[Endpoint, str]:
        """What the latest look has seen: a digest, or the reason why not."""
        seen = self.lookout.seen.served if self.lookout.seen else {}
        return {each: found.sha256 if isinstance(found, Served) else found.reason for each, found in seen.items()}

    def woken(self) -> None:
        assert self._woken.acquire(timeout=GENEROUS)

    def idle(self) -> bool:
        return not self._woken.acquire(blocking=False)


@pytest.fixture
def asker() -> Iterator[Asker]:
    asker = Asker()
    yield asker
    asker.lookout.close()


class Gate:
    """A server that keeps its client waiting, and signals when it has one."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        connection.recv(1 << 16)
        self.reached.set()
        self.opened.wait(GENEROUS)


def test_a_probe_wakes_its_caller(serve: Serve, files: Files, ca: Issued, asker: Asker) -> None:
    """Then the results are available, and are those of that probe alone."""
    leaf = server_certificate(ca)
    first, second = (serve(tls(files.context(leaf))).endpoint for _ in range(2))
    assert asker.served() == {}
    asker.ask(first)
    asker.woken()
    before = asker.seen()
    assert asker.served() == {first: leaf.facts.sha256}
    asker.ask(second)
    asker.woken()
    assert asker.served() == {second: leaf.facts.sha256}
    assert list(before.served) == [first]
    assert asker.idle()


def test_no_caller_waits_for_a_server(serve: Serve, files: Files, ca: Issued, asker: Asker) -> None:
    """While one server hangs, more requests are possible. Of the waiting ones only the last is made."""
    leaf, gate = server_certificate(ca), Gate()
    passed_over, wanted = (serve(tls(files.context(leaf))) for _ in range(2))
    asker.ask(serve(gate).endpoint)
    assert gate.reached.wait(GENEROUS)
    asker.ask(passed_over.endpoint)
    asker.ask(wanted.endpoint)
    assert asker.served() == {}
    gate.opened.set()
    asker.woken()
    asker.woken()
    assert list(asker.served()) == [wanted.endpoint]
    assert asker.idle()
    assert passed_over.asked == 0


def test_after_a_look_that_saw_nothing_the_next_one_is_made(serve: Serve, files: Files, ca: Issued) -> None:
    """The thread lives on."""
    asker = Asker(limit=SHORT)
    mute = serve(saying(b"")).endpoint
    asker.ask(mute)
    asker.woken()
    assert asker.served() == {mute: "the server did not answer in time"}
    closed = Endpoint("127.0.0.1", 1)
    asker.ask(closed)
    asker.woken()
    assert isinstance(asker.seen().served[closed], Unserved)
    asker.lookout.close()


def looking() -> bool:
    return "observer" in {thread.name for thread in threading.enumerate()}


def test_closing_ends_the_thread(serve: Serve) -> None:
    """The thread may be idle or in the middle of a probe. A waiting request is dropped, and a second close has no
    effect.
    """
    Asker().lookout.close()
    assert not looking()
    gate, asker, other = Gate(), Asker(), serve(until_closed)
    asker.ask(serve(gate).endpoint)
    assert gate.reached.wait(GENEROUS)
    asker.ask(other.endpoint)
    assert looking()
    lookout = asker.lookout
    closing = threading.Thread(target=lookout.close)
    closing.start()
    with lookout._changed:
        assert lookout._changed.wait_for(lambda: lookout._closed, GENEROUS)
    gate.opened.set()  # the probe ends after the request to close
    closing.join(GENEROUS)
    assert not closing.is_alive()
    assert not looking()
    lookout.close()
    asker.ask(other.endpoint)
    assert other.asked == 0


def test_without_a_thread_the_state_is_unknown(asker: Asker) -> None:
    """If no thread can be started, the caller gets the reason without an exception. When one can, the probe is made."""
    with no_thread_left():
        asker.lookout.ask(Question(units={"kubelet": "kubelet.service"}))
    problem = asker.seen().services["kubelet"].problem
    assert problem
    assert "cannot start a thread" in problem
    asker.ask()
    asker.woken()
    assert asker.seen().services == {}


@pytest.mark.long
def test_a_process_ends_though_its_lookout_was_not_closed() -> None:
    """As when the daemon dies of something else."""
    script = (
        "from certmond.services.observed_subjects import Question\n"
        "from certmond.services.observer_thread import ObserverThread; ObserverThread(print).ask(Question())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=GENEROUS, check=True)
    assert done.stderr == b""


_IMPORTS_BY_THREAD = """
import sys, threading
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        print(threading.current_thread().name, name)

sys.meta_path.insert(0, Finder())
from certmond.services.observed_subjects import Question
from certmond.services.observer_thread import ObserverThread
from certmond.pki.catalog.endpoint import Endpoint
seen = threading.Event()
lookout = ObserverThread(seen.set, 1)
lookout.ask(Question(endpoints=(Endpoint("127.0.0.1", 1),), health={"http://127.0.0.1:1/": None}))
seen.wait()
lookout.close()
"""


@pytest.mark.long
def test_the_thread_that_looks_imports_no_package_that_another_thread_may_import() -> None:
    """Python cannot import asyncio in one thread and asyncio.subprocess in another at the same time: both fail, and so
    does every later import in the process. The client of the Kubernetes API begins with asyncio.subprocess.
    """
    run = subprocess.run([sys.executable, "-c", _IMPORTS_BY_THREAD], capture_output=True, text=True, check=True)
    imported = [line.split()[1] for line in run.stdout.splitlines() if line.startswith("observer ")]
    assert [name for name in imported if name.partition(".")[0] in {"asyncio", "certmond", "concurrent"}] == []
    assert "MainThread asyncio.subprocess" in run.stdout


def test_a_later_observation_continues_an_outage() -> None:
    """The outage of a Pod that does not run keeps its start, and has the time of the latest observation."""
    question = Question(pods={"web": Pod(container="web", name="web-nowhere", executable="certmond-test-nowhere")})
    first = observe(question)
    second = observe(question, first)
    (before, after) = (each.services["web"].outage for each in (first, second))
    assert before
    assert after
    assert (before.until, after.since, after.until) == (first.at, before.since, second.at)
    assert first.at < second.at


def test_a_known_process_stays_known_after_a_correction_of_the_clock(tmp_path: Path) -> None:
    """A PID file that seems older than its process is no problem if an earlier observation found the same process."""
    path = tmp_path / "web.pid"
    path.write_text(str(os.getpid()))
    question = Question(pid_files={"web": str(path)})
    before = observe(question)
    assert before.services["web"].running
    os.utime(path, (1, 1))
    assert observe(question).services["web"].running is None
    assert observe(question, before).services == before.services
