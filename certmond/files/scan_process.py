"""A forked worker that shares the work on many things, such as the first scan of ten thousand files.

Owns the worker from fork to exit, and the distribution: this process takes pieces from the front, the worker from the
back. Pieces that the worker does not deliver are done here. So the worker changes only the duration.

The worker is a fork(2) of this process, with its memory, user and rights. It writes only its results, into a pipe. It
keeps the standard descriptors and two pipes, and runs no signal handler. It dies with this process, and is the first
victim of the OOM killer. It is started only if this process has one thread: locks of other threads would stay locked in
the worker.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from itertools import pairwise
from typing import Any, NoReturn, TypeVar

MANY = 2_000
"""The number of things from which a fork, which takes a few milliseconds, pays off."""

_PIECE = 250  # minimum number of things
_MOST_PIECES = 4096  # a byte in a pipe for each; every user may fill a pipe with this many
_PATIENCE = 5.0  # seconds to wait for a piece, which takes hundredths of a second
_LENGTH = 8  # bytes of the length of a result
_ROOM = 1 << 20  # bytes of results that may wait for this process; the kernel grants it to every user
_PR_SET_PDEATHSIG = 1

T = TypeVar("T")
R = TypeVar("R")


def _as_it_is(_: object, told: Any) -> Any:
    return told


def _nothing(_: object) -> Sequence[object]:
    return ()


def in_two(
    things: Sequence[T],
    work: Callable[[Sequence[T]], R],
    *,
    tell: Callable[[Sequence[T], R], object] = _as_it_is,
    take: Callable[[Sequence[T], Any], R] = _as_it_is,
    shared: Callable[[Sequence[T]], Sequence[object]] = _nothing,
) -> Iterator[R]:
    """Yield what `work` returns for `things`, piece by piece and in their order. If a worker cannot run or pay off,
    there is one piece.

    The worker takes as many pieces as it can, also while the caller processes one. `tell` turns its result into facts,
    and `take` turns these into the result here. `shared` lists the objects of a piece that both processes have. `tell`
    runs only in the worker, and may drop what it has returned. Raises what `work` and `take` raise here. A piece that
    fails in the worker is done here again.
    """
    if len(things) < MANY or not _possible():
        yield work(things)
        return
    from certmond.files.scan_process_messages import pack, unpack  # noqa: PLC0415 - pickle, which most nodes never need

    size = max(_PIECE, -(-len(things) // _MOST_PIECES))
    pieces = [things[at : at + size] for at in range(0, len(things), size)]
    front, back = 0, list[R]()

    def there(piece: Sequence[T]) -> bytes:
        return pack(tell(piece, work(piece)), shared(piece))

    def bring(result: bytes) -> None:
        piece = pieces[-1 - len(back)]
        back.append(take(piece, unpack(result, shared(piece))))

    with ExitStack() as stack:
        with suppress(OSError):  # no process, descriptor or memory is available
            second = None
            second = stack.enter_context(_second(pieces, there))
        while second and second.leaves_one():
            yield work(pieces[front])
            front += 1
            for result in second.results():
                bring(result)
        late = second.results(_PATIENCE) if second else iter(())
        while front + len(back) < len(pieces) and (last := next(late, None)) is not None:
            bring(last)
    yield from map(work, pieces[front : len(pieces) - len(back)])
    yield from reversed(back)


def _possible() -> bool:
    """Return whether a worker can run: two processors, one thread, and exited children stay zombies until waitpid(2).

    Without zombies, the pid of the worker could be reused.
    """
    reaped = signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN
    return len(os.sched_getaffinity(0)) > 1 and threading.active_count() == 1 and reaped


class _Second:
    """The worker, as this process uses it."""

    def __init__(self, turns: FileIO, told: FileIO) -> None:
        self._turns, self._told = turns, told
        self._poll = select.poll()
        self._poll.register(told, select.POLLIN)
        self._heard = True

    def leaves_one(self) -> bool:
        """Return whether a piece is left; this process has then taken it."""
        return bool(self._turns.read(1))

    def results(self, patience: float = 0) -> Iterator[bytes]:
        """Yield the results since the last call, waiting at most `patience` seconds for each."""
        while self._heard and self._poll.poll(patience * 1000):
            if result := self._read(int.from_bytes(self._read(_LENGTH))):
                yield result
            else:  # ended, or stopped in the middle of a result: later bytes have no start
                self._heard = False

    def _read(self, size: int) -> bytes:
        """Return `size` bytes, or b"" if they do not arrive."""
        data = bytearray()
        while len(data) < size:
            some = self._told.read(size - len(data)) if self._poll.poll(_PATIENCE * 1000) else b""
            if not some:
                return b""
            data += some
        return bytes(data)


@contextmanager
def _second(pieces: Sequence[Sequence[T]], work: Callable[[Sequence[T]], bytes]) -> Iterator[_Second]:
    """Start and end the worker. Raises OSError if that is not possible."""
    with ExitStack() as stack:
        turns, give = _pipe(stack)
        told, tell = _pipe(stack)
        with suppress(OSError):  # a smaller pipe works too
            fcntl.fcntl(tell, fcntl.F_SETPIPE_SZ, _ROOM)
        give.write(b"." * len(pieces))
        give.close()
        parent = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # no handler runs in it
        try:
            child = os.fork()
            if child == 0:
                _be_second(lambda: _work_through(pieces, work, turns, tell), (turns, tell), parent, mask)
            stack.callback(_end, child)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        tell.close()
        yield _Second(turns, told)


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    """Return the read end and the write end."""
    out, into = os.pipe()
    return stack.enter_context(FileIO(out)), stack.enter_context(FileIO(into, "w"))


def _end(child: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _be_second(work: Callable[[], None], files: Iterable[FileIO], parent: int, mask: Iterable[int]) -> NoReturn:
    try:
        for each in signal.valid_signals():
            if callable(signal.getsignal(each)):
                signal.signal(each, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        kept = sorted(file.fileno() for file in files)
        for below, above in pairwise((2, *kept, os.sysconf("SC_OPEN_MAX"))):
            os.closerange(below + 1, above)
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
        if os.getppid() == parent:  # else the parent had already exited
            work()
    finally:
        os._exit(0)  # no message, which may quote a file; this process repeats the piece and reports


def _work_through(
    pieces: Sequence[Sequence[T]], work: Callable[[Sequence[T]], bytes], turns: FileIO, tell: FileIO
) -> None:
    for piece in reversed(pieces):
        if not turns.read(1):
            break
        result = work(piece)
        tell.write(len(result).to_bytes(_LENGTH) + result)
