"""A second process beside this one: what it does, and that nothing depends on it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from certmond.host import second
from certmond.host.second import in_two
from tests.host.beside import FORKS, worthwhile

pytestmark = pytest.mark.filterwarnings(FORKS)

THINGS = range(1000)
HERE = os.getpid()
Made = list[tuple[int, int]]
"""Of each thing, what was made of it and in which process."""


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    worthwhile(monkeypatch, least=len(THINGS), piece=10)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No process stays, no descriptor, and no signal is held back."""
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def made(things: Sequence[int]) -> Made:
    return [(os.getpid(), 2 * thing) for thing in things]


def shared_out(work: Callable[[Sequence[int]], Made] = made) -> set[int]:
    """The processes that had a part in it; whichever they were, all is there, once and in its order."""
    results = [*in_two(THINGS, work)]
    assert [value for some in results for _, value in some] == [2 * thing for thing in THINGS]
    return {pid for some in results for pid, _ in some}


class Patient:
    """Work that begins in this process only when the other has come to its first piece, which `there` does."""

    def __init__(self, home: Path, there: Callable[[Sequence[int]], Made] = made) -> None:
        self.fifo, self.there = home / "fifo", there
        os.mkfifo(self.fifo)
        self.met = False

    def __call__(self, things: Sequence[int]) -> Made:
        met, self.met = self.met, True
        if met:
            return made(things)
        if os.getpid() == HERE:
            self.fifo.read_bytes()  # which ends when the other has opened it and closed it
            return made(things)
        self.fifo.write_bytes(b"")
        return self.there(things)


def test_two_processes_share_what_is_many(tmp_path: Path) -> None:
    """Each piece is done once, by the one or the other, and the results come in order."""
    pids = shared_out(Patient(tmp_path))
    assert len(pids) == 2
    assert HERE in pids


@pytest.mark.parametrize(
    "end",
    [
        lambda _: os.kill(os.getpid(), signal.SIGKILL),
        lambda _: os.kill(os.getpid(), signal.SIGTERM),
        lambda _: 1 / 0,
        lambda _: sys.exit(3),
    ],
)
def test_what_the_other_does_not_bring_is_done_here(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], end: Callable[[object], Made]
) -> None:
    """Whether it is killed or breaks down, at its first piece; and it says no word, which might quote a file."""
    assert shared_out(Patient(tmp_path, end)) == {HERE}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("brought", [1, 3])
def test_what_it_brought_before_its_end_counts(tmp_path: Path, brought: int) -> None:
    """It is killed at a later piece."""
    done: list[Sequence[int]] = []
    patient = Patient(tmp_path)

    def work(things: Sequence[int]) -> Made:
        if os.getpid() != HERE:
            if len(done) == brought:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(things)
        return patient(things)

    assert len(shared_out(work)) == 2


def test_it_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stands still is ended, and its piece is done here."""
    monkeypatch.setattr(second, "_PATIENCE", 0.05)

    def still(things: Sequence[int]) -> Made:
        os.kill(os.getpid(), signal.SIGSTOP)
        return made(things)

    assert shared_out(Patient(tmp_path, still)) == {HERE}


@contextmanager
def limited(limit: int, value: int) -> Iterator[None]:
    before = resource.getrlimit(limit)
    resource.setrlimit(limit, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(limit, before)


@pytest.mark.parametrize("room", range(7))
def test_without_descriptors_all_is_done_here(room: int) -> None:
    """Whichever is the one that there is no room for."""
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    with limited(resource.RLIMIT_NOFILE, used + room):
        shared_out()


def test_without_a_process_all_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are as many as there may be."""

    def refused() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refused)
    assert shared_out() == {HERE}


def test_without_room_for_its_results_all_is_done_here(tmp_path: Path) -> None:
    """No half of a result is taken for a whole one."""
    with limited(resource.RLIMIT_FSIZE, 20):
        assert shared_out(Patient(tmp_path)) == {HERE}


@pytest.mark.parametrize("error", [OSError("no file"), MemoryError(), KeyboardInterrupt()])
def test_what_fails_here_is_raised_and_ends_the_other(tmp_path: Path, error: BaseException) -> None:
    """Whatever it is: nothing is taken for a second process that cannot be had."""
    calls = []
    patient = Patient(tmp_path)

    def work(things: Sequence[int]) -> Made:
        if os.getpid() == HERE:
            calls.append(things)
            raise error
        return patient(things)

    with pytest.raises(type(error)):
        [*in_two(THINGS, work)]
    assert len(calls) == 1


def test_it_has_nothing_of_this_process_but_its_memory(tmp_path: Path) -> None:
    """No open file, lock or socket, no handler of a signal and none that is held back."""
    received: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: received.append(number))
    waking, wake = os.pipe()
    os.set_blocking(wake, False)
    woken = signal.set_wakeup_fd(wake)
    told: list[Any] = []

    def look(_: Sequence[int]) -> Any:
        return (
            sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")),
            [int(each) for each in signal.valid_signals() if callable(signal.getsignal(each))],
            [int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
            signal.set_wakeup_fd(-1),
        )

    def take(things: Sequence[int], found: Any) -> Made:
        if isinstance(found, tuple):
            told.append(found)
            return made(things)
        return cast("Made", found)

    try:
        [*in_two(THINGS, Patient(tmp_path, look), take=take)]
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.set_wakeup_fd(woken)
        os.close(waking)
        os.close(wake)
    ((descriptors, handled, held, woke),) = told
    assert len(descriptors) == 6, "those of every process, turns, results, and where they are told"
    assert descriptors[:3] == [0, 1, 2]
    assert (handled, held, woke) == ([], [], -1)


@pytest.mark.parametrize("why", ["few", "one processor", "threads"])
def test_there_is_one_process_where_two_are_not_worthwhile(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """Few things, one processor, or another thread, whose locks would be copied: then all is one piece."""
    match why:
        case "few":
            monkeypatch.setattr(second, "MANY", 1001)
        case "one processor":
            monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7})
        case _:
            monkeypatch.undo()
            monkeypatch.setattr(second, "MANY", 1)
            monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    results = [*in_two(THINGS, made)]
    done.set()
    thread.join()
    assert results == [made(THINGS)]


def test_however_many_there_are_the_sharing_out_does_not_stall(tmp_path: Path) -> None:
    """A pipe has room for 4,096 turns, whatever else the user has open; so many more have larger pieces."""
    things = range(5_000 * second._PIECE)
    results = [*in_two(things, Patient(tmp_path))]
    assert len(results) <= 4096
    assert sum(map(len, results)) == len(things)


ENDS_IN_THE_MIDDLE = """
import os, signal, sys
from certmond.host import second
second.MANY = 1
os.sched_getaffinity = lambda _: {0, 1}
here = os.getpid()
met = False

def work(things):
    global met
    if os.getpid() == here:
        open(sys.argv[1], "rb").read()
        os.kill(here, signal.SIGKILL)
    if not met:
        met = True
        open(sys.argv[1], "wb").close()
    return things

list(second.in_two(range(4096 * 250), work))
"""


def test_it_ends_with_this_process(tmp_path: Path) -> None:
    """After at most one piece more: nothing works on for a daemon that was killed, or holds what it left."""
    os.mkfifo(tmp_path / "fifo")
    command = [sys.executable, "-c", ENDS_IN_THE_MIDDLE, str(tmp_path / "fifo")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"", "which ends when both have ended"
    assert process.returncode == -signal.SIGKILL
