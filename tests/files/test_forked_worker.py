"""A second process beside this one: its share of the work, and the independence from it."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, cast

import pytest

from certmond.files import forked_worker as second
from certmond.files.forked_worker import in_two_processes
from certmond.files.forked_worker_messages import pack
from tests.files.beside import FORKS, worthwhile

pytestmark = pytest.mark.filterwarnings(FORKS)

THINGS = range(1000)
HERE = os.getpid()
Made = list[tuple[int, int]]
"""For each item, its result and the process that made it."""


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    worthwhile(monkeypatch, least=len(THINGS), piece=10)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Assert that no process, no descriptor and no blocked signal remains."""
    gc.collect()  # files of earlier tests would be closed later
    before, known = set(os.listdir("/proc/self/fd")), children()
    yield
    assert set(os.listdir("/proc/self/fd")) <= before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert children() <= known


def children() -> set[str]:
    """Return the child processes of this process, also the zombies."""
    found = set[str]()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended
            found |= {*(task / "children").read_text().split()}
    return found


def made(things: Sequence[int]) -> Made:
    return [(os.getpid(), 2 * thing) for thing in things]


def shared_out(work: Callable[[Sequence[int]], Made] = made) -> set[int]:
    """The processes that had a part in it; whichever they were, all is there, once and in its order."""
    results = [*in_two_processes(THINGS, work)]
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


@pytest.mark.long
def test_two_processes_share_what_is_many(tmp_path: Path) -> None:
    """Each piece is done once, by the one or the other, and the results come in order."""
    pids = shared_out(Patient(tmp_path))
    assert len(pids) == 2
    assert HERE in pids


@pytest.mark.long
@pytest.mark.parametrize(
    "end",
    [
        lambda _: os.kill(os.getpid(), signal.SIGKILL),
        lambda _: os.kill(os.getpid(), signal.SIGTERM),
        lambda _: 1 / 0,
        lambda _: sys.exit(3),
    ],
)
def test_this_process_makes_the_missing_results(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], end: Callable[[object], Made]
) -> None:
    """The second process is killed or fails at its first piece, without a message that could quote a file."""
    assert shared_out(Patient(tmp_path, end)) == {HERE}
    assert capfd.readouterr() == ("", "")


@pytest.mark.long
@pytest.mark.parametrize("brought", [1, 3])
def test_results_before_its_end_count(tmp_path: Path, brought: int) -> None:
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


@pytest.mark.long
def test_a_stopped_process_is_not_waited_for_without_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped second process is killed, and this process does its piece."""
    monkeypatch.setattr(second, "_PIECE_TIMEOUT", 0.05)

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


@pytest.mark.long
@pytest.mark.parametrize("room", range(7))
def test_without_descriptors_all_is_done_here(room: int) -> None:
    """Whichever is the one that there is no room for."""
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    with limited(resource.RLIMIT_NOFILE, used + room):
        shared_out()


@pytest.mark.long
def test_without_a_second_process_this_one_does_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of processes is reached."""

    def refused() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refused)
    assert shared_out() == {HERE}


def test_a_truncated_result_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No part of a result counts as all of it: this process does the piece."""

    def breaks_off(_pieces: object, _work: object, turns: FileIO, tell: FileIO) -> None:
        turns.read(1)
        (tmp_path / "fifo").write_bytes(b"")
        tell.write((1000).to_bytes(8) + b"half")

    monkeypatch.setattr(second, "_work_backwards", breaks_off)
    assert shared_out(Patient(tmp_path)) == {HERE}


@pytest.mark.long
def test_a_process_that_stopped_within_a_result_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its further output begins in the middle of a message, and would be misread."""
    monkeypatch.setattr(second, "_PIECE_TIMEOUT", 0.05)
    go_on, gone_on = tmp_path / "continue", tmp_path / "continued"
    os.mkfifo(go_on)
    os.mkfifo(gone_on)

    def stops(_pieces: object, _work: object, turns: FileIO, tell: FileIO) -> None:
        turns.read(1)
        (tmp_path / "fifo").write_bytes(b"")
        tell.write((1000).to_bytes(8) + b"half")
        go_on.read_bytes()
        other = pack([(0, -1)] * 10)
        tell.write(len(other).to_bytes(8) + other)
        gone_on.write_bytes(b"")

    done = []

    def work(things: Sequence[int]) -> Made:
        done.append(things)
        if len(done) == 2:
            go_on.write_bytes(b"")
            gone_on.read_bytes()
        return patient(things)

    patient = Patient(tmp_path)
    monkeypatch.setattr(second, "_work_backwards", stops)
    assert shared_out(work) == {HERE}


@pytest.mark.long
def test_results_that_are_larger_than_the_pipe_arrive(tmp_path: Path) -> None:
    """The other process waits until they are read, and this one until they have come."""
    size = 3 * second._PIPE_BYTES

    results = in_two_processes(
        THINGS, Patient(tmp_path), encode=lambda _, some: (bytes(size), some), decode=lambda _, reported: reported[1]
    )
    assert len({pid for some in results for pid, _ in some}) == 2


@pytest.mark.long
def test_only_missing_results_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the second process stops without a piece, this process does everything, and does not wait."""
    monkeypatch.setattr(second, "_PIECE_TIMEOUT", 10**6)
    monkeypatch.setattr(second, "_work_backwards", lambda *_: os.kill(os.getpid(), signal.SIGSTOP))
    assert shared_out() == {HERE}


@pytest.mark.long
def test_an_interrupt_at_the_very_beginning_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt is delivered when the handler can end the other process."""
    fork = os.fork
    # What is started in the background ignores it, and so may this process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted() -> int:
        child = fork()
        if child:
            signal.raise_signal(signal.SIGINT)
        return child

    monkeypatch.setattr(os, "fork", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            shared_out()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.long
def test_each_piece_is_there_for_the_caller_before_the_next_is_begun(tmp_path: Path) -> None:
    """The caller uses a piece while the other process continues."""
    begun, patient = [], Patient(tmp_path)

    def work(things: Sequence[int]) -> Made:
        begun.append(things)
        return patient(things)

    results = in_two_processes(THINGS, work)
    assert begun == []
    next(results)
    assert len(begun) == 1
    del results


@pytest.mark.long
@pytest.mark.parametrize("error", [OSError("no file"), MemoryError(), KeyboardInterrupt()])
def test_a_failure_here_is_raised_and_ends_the_other(tmp_path: Path, error: BaseException) -> None:
    """No failure counts as the absence of a second process."""
    calls = []
    patient = Patient(tmp_path)

    def work(things: Sequence[int]) -> Made:
        if os.getpid() == HERE:
            calls.append(things)
            raise error
        return patient(things)

    with pytest.raises(type(error)):
        [*in_two_processes(THINGS, work)]
    assert len(calls) == 1


def test_it_has_only_the_memory_of_this_process(tmp_path: Path) -> None:
    """It has no open file, lock or socket, no signal handler and no blocked signal."""
    received: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: received.append(number))
    waking, wake = os.pipe()
    os.set_blocking(wake, False)
    woken = signal.set_wakeup_fd(wake)
    reported: list[Any] = []
    os.dup2(wake, 200)

    def look(_: Sequence[int]) -> Any:
        return (
            sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")),
            [int(each) for each in signal.valid_signals() if callable(signal.getsignal(each))],
            [int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
            signal.set_wakeup_fd(-1),
        )

    def take(things: Sequence[int], found: Any) -> Made:
        if isinstance(found, tuple):
            reported.append(found)
            return made(things)
        return cast("Made", found)

    try:
        [*in_two_processes(THINGS, Patient(tmp_path, look), decode=take)]
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.set_wakeup_fd(woken)
        for each in (waking, wake, 200):
            os.close(each)
    ((descriptors, handled, held, woke),) = reported
    assert len(descriptors) == 5, "those of every process, the pipe of pieces, and the pipe of results"
    assert descriptors[:3] == [0, 1, 2]
    assert (handled, held, woke) == ([], [], -1)


@pytest.mark.parametrize("why", ["few", "one processor", "threads", "reaped"])
def test_one_process_works_if_two_are_not_worthwhile(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """The cases are a few items, one processor, another thread whose locks would be copied, and a process that waits
    for no child, so that the number of a child is soon reused. Then all items are one piece.
    """
    match why:
        case "few":
            monkeypatch.setattr(second, "MIN_ITEMS", 1001)
        case "one processor":
            monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7})
        case "reaped":
            monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
        case _:
            monkeypatch.undo()
            monkeypatch.setattr(second, "MIN_ITEMS", 1)
            monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    results = [*in_two_processes(THINGS, made)]
    done.set()
    thread.join()
    assert results == [made(THINGS)]


@pytest.mark.long
def test_however_many_there_are_the_sharing_out_does_not_stall(tmp_path: Path) -> None:
    """A pipe has room for 4,096 turns, whatever else the user has open; so many more have larger pieces."""
    things = range(5_000 * second._MIN_PIECE)
    results = [*in_two_processes(things, Patient(tmp_path))]
    assert len(results) <= 4096
    assert sum(map(len, results)) == len(things)


ENDS_IN_THE_MIDDLE = """
import os, signal, sys
from certmond.files import forked_worker as second
second.MIN_ITEMS = 1
os.sched_getaffinity = lambda _: {0, 1}
here = os.getpid()

def work(things):
    if os.getpid() == here:
        open(sys.argv[1], "rb").read()
        os.kill(here, signal.SIGKILL)
    open(sys.argv[1], "wb").close()
    os.kill(os.getpid(), signal.SIGSTOP)

list(second.in_two_processes(range(1000), work))
"""


@pytest.mark.long
def test_it_ends_with_this_process(tmp_path: Path) -> None:
    """Also a stopped process ends: no process of a killed daemon remains, or holds its locks."""
    os.mkfifo(tmp_path / "fifo")
    command = [sys.executable, "-c", ENDS_IN_THE_MIDDLE, str(tmp_path / "fifo")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"", "which ends when both have ended"
    assert process.returncode == -signal.SIGKILL


@pytest.mark.long
def test_the_kernel_kills_it_first_when_memory_is_short(tmp_path: Path) -> None:
    """The kernel kills it, and not this process."""

    def look(_: Sequence[int]) -> Any:
        return Path("/proc/self/oom_score_adj").read_text()

    taken: list[str] = []

    def take(things: Sequence[int], reported: Any) -> Made:
        if isinstance(reported, str):
            taken.append(reported)
            return made(things)
        return cast("Made", reported)

    list(in_two_processes(THINGS, Patient(tmp_path, look), decode=take))
    assert taken == ["1000\n"]
