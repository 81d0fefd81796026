"""TLS probes in a new Python process: their results, and the memory of the process that asks for them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import SigningError, UnreachableError
from certmond.pki.catalog.endpoint import Endpoint, Seen, Served, Unserved
from certmond.services import probe_process, tls_probe
from certmond.services.observed_subjects import Question
from certmond.services.observer_thread import ObserverThread
from certmond.subprocesses import Ended
from tests.builders import Issued
from tests.deadline import DEADLINE
from tests.services.test_service_observer import Serve, ca, files, serve  # noqa: F401 - fixtures
from tests.services.test_tls_probe import GENEROUS, NOW, Files, saying, server_certificate, tls

CLOSED = Endpoint("127.0.0.1", 1)


def answered(monkeypatch: pytest.MonkeyPatch, output: bytes, status: int = 0) -> dict[Endpoint, Seen]:
    """Return the results for one endpoint if the process writes `output`."""
    monkeypatch.setattr(probe_process, "run_python", lambda *_: Ended(status, output, b""))
    return probe_process.served_certificates([CLOSED], NOW, None)


def test_the_results_are_those_of_this_process(serve: Serve, files: Files, ca: Issued) -> None:  # noqa: F811
    """The new process reports each certificate, and each reason, as this process does: for TLS 1.3 and 1.2, a server
    name, a closed port, and a server without TLS.
    """
    leaf = server_certificate(ca)
    old = serve(tls(files.context(leaf, ssl.TLSVersion.TLSv1_2))).endpoint
    new = serve(tls(files.context(leaf))).endpoint
    named = Endpoint(new.address, new.port, "api.example.com")
    endpoints = [old, new, named, CLOSED, serve(saying(b"220 mail\r\n")).endpoint]
    found = probe_process.served_certificates(endpoints, NOW, GENEROUS)
    assert found == asyncio.run(tls_probe.served_certificates(endpoints, NOW, limit=GENEROUS))
    assert [isinstance(each, Served) for each in found.values()] == [True, True, True, False, False]
    assert found[CLOSED] == Unserved("the connection was refused", NOW, refused=True)


@pytest.mark.parametrize(
    "output", [b"", b"[" * 100_000, b"[]", b"{}", b"[1]", b"[[1]]", b'[["x", "y"]]', b'[["x", 1, 2]]', b"[[]"]
)
def test_a_process_without_a_usable_answer_is_an_error(monkeypatch: pytest.MonkeyPatch, output: bytes) -> None:
    """The error has the exit status, or the signal that ended the process."""
    with pytest.raises(UnreachableError, match=r"sent no answer \(exit status 1\)"):
        answered(monkeypatch, output, 1)
    with pytest.raises(UnreachableError, match=r"sent no answer \(signal 9\)"):
        answered(monkeypatch, output, -9)


@given(st.binary(max_size=40) | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_output_is_a_result_or_an_error(output: bytes) -> None:
    """No output raises another exception."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            found = answered(patch, output)
        except SigningError:
            return
        assert list(found) == [CLOSED]


SCRIPT = """
import signal, sys, threading
from certmond.pki.catalog.endpoint import Endpoint
from certmond.services import probe_process
from certmond.services.observed_subjects import Question
from certmond.services.observer_thread import ObserverThread
seen = threading.Event()
thread = ObserverThread(seen.set, isolated=True)
exec("".join(sys.argv[1:]))
thread.ask(Question(endpoints=(Endpoint("127.0.0.1", 1),)))
seen.wait()
thread.close()
print(*(each.reason for each in thread.seen.served.values()), *sorted({"asyncio", "ssl"} & set(sys.modules)), sep="|")
"""


def observed(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_process_that_asks_loads_no_tls() -> None:
    """A thread for a daemon in observe mode gets the results, and loads neither OpenSSL's TLS nor an event loop."""
    assert observed() == "the connection was refused"


@pytest.mark.parametrize(
    "change",
    [
        "sys.executable = '/nonexistent'",
        "sys.executable = ''",
        "probe_process._PROGRAM = 'raise SystemExit(1)'",
        "probe_process._PROGRAM = 'print(7)'",
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    ],
    ids=["no program", "an unknown program", "it fails", "another answer", "SIGCHLD is ignored"],
)
def test_without_the_new_process_this_process_makes_the_probes(change: str) -> None:
    """If the new process cannot run, or gives no answer, the thread has the same results."""
    assert observed(change) == "the connection was refused|asyncio|ssl"


def test_a_probe_ends_when_its_thread_is_closed(serve: Serve) -> None:  # noqa: F811
    """`close` does not wait for a new process that runs for longer. The process ends."""
    reached, release = threading.Event(), threading.Event()

    def hang(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        reached.set()
        release.wait(DEADLINE)

    thread = ObserverThread(lambda: None, DEADLINE, isolated=True)
    thread.ask(Question(endpoints=(serve(hang).endpoint,)))
    assert reached.wait(DEADLINE)
    thread.close()
    assert not children()
    release.set()


def children() -> set[int]:
    """Return the processes that this process has started, and that make probes."""
    return {
        int(status.parent.name)
        for status in Path("/proc").glob("[0-9]*/stat")
        if (words := _read(status).rpartition(")")[2].split()) and int(words[1]) == os.getpid()
        if "probe_process" in _read(status.with_name("cmdline"))
    }


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")
    return ""
