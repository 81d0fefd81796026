"""A second process that takes a part of what is many: the first look at ten thousand files, and the proof of as many.

Owns that process from its beginning to its end, and the sharing out: whoever is done with a piece takes the next one,
this process from the front and the other from the back. What the other does not bring, whatever has become of it, is
done here. So it changes how long something takes, and nothing else.

It is this process once more (fork(2)), with what that has in memory, its user and its rights. It writes its results
into a pipe, and nothing else; of all descriptors it keeps the standard ones and two pipes, and it runs no handler of a
signal. It ends when this process does, however that comes about, and is the first to go where memory is short. It is
begun only where there is one thread: locks that another one has would be held for ever in it.
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
"""With so many, it is worth the few milliseconds that its beginning takes."""

_PIECE = 250  # things at least
_MOST_PIECES = 4096  # a byte in a pipe for each, and so many it takes of every user
_PATIENCE = 5.0  # seconds for a piece, which takes hundredths: after that it is not waited for any more
_LENGTH = 8  # bytes that say how long a result is
_ROOM = 1 << 20  # bytes of results that may wait for this process; as many as the kernel gives everybody
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
    """What `work` gives for `things`, a piece of them at a time and in their order. The other process does as many as
    it can, also while the caller does something with a piece. Where it is not worthwhile, there is one piece.

    Of its results the other process tells the facts that `tell` gives, of which `take` makes the result here; `shared`
    lists those in a piece that both have. `tell` is asked in the other process only, and may forget what it has told.
    Raises what `work` and `take` raise here; a piece that fails in the other process is done here again.
    """
    if len(things) < MANY or not _possible():
        yield work(things)
        return
    from certmond.files.scan_process_messages import pack, unpack  # noqa: PLC0415 - pickle: most nodes never have a use for it

    size = max(_PIECE, -(-len(things) // _MOST_PIECES))
    pieces = [things[at : at + size] for at in range(0, len(things), size)]
    front, back = 0, list[R]()

    def there(piece: Sequence[T]) -> bytes:
        return pack(tell(piece, work(piece)), shared(piece))

    def bring(result: bytes) -> None:
        piece = pieces[-1 - len(back)]
        back.append(take(piece, unpack(result, shared(piece))))

    with ExitStack() as stack:
        with suppress(OSError):  # there is no process to be had, no descriptor or no memory
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
    """There are two processors, one thread, and whoever ends is waited for: else its number might be another's."""
    reaped = signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN
    return len(os.sched_getaffinity(0)) > 1 and threading.active_count() == 1 and reaped


class _Second:
    """The other process, as it is seen from this one."""

    def __init__(self, turns: FileIO, told: FileIO) -> None:
        self._turns, self._told = turns, told
        self._poll = select.poll()
        self._poll.register(told, select.POLLIN)
        self._heard = True

    def leaves_one(self) -> bool:
        """Whether there is one more piece: it is this process's then."""
        return bool(self._turns.read(1))

    def results(self, patience: float = 0) -> Iterator[bytes]:
        """What it has done since the last time; each is waited for so many seconds, until it has ended."""
        while self._heard and self._poll.poll(patience * 1000):
            if result := self._read(int.from_bytes(self._read(_LENGTH))):
                yield result
            else:  # it has ended, or stopped in the middle of something: what it may still say has no beginning
                self._heard = False

    def _read(self, size: int) -> bytes:
        """So many bytes; none where they do not come."""
        data = bytearray()
        while len(data) < size:
            some = self._told.read(size - len(data)) if self._poll.poll(_PATIENCE * 1000) else b""
            if not some:
                return b""
            data += some
        return bytes(data)


@contextmanager
def _second(pieces: Sequence[Sequence[T]], work: Callable[[Sequence[T]], bytes]) -> Iterator[_Second]:
    """Begins it, and ends it. Raises OSError where it cannot be had."""
    with ExitStack() as stack:
        turns, give = _pipe(stack)
        told, tell = _pipe(stack)
        with suppress(OSError):  # less will do
            fcntl.fcntl(tell, fcntl.F_SETPIPE_SZ, _ROOM)
        give.write(b"." * len(pieces))
        give.close()
        parent = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # no handler of this one runs in it
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
    """The end that is read, and the one that is written."""
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
        if os.getppid() == parent:  # else it was gone before it was asked for its end
            work()
    finally:
        os._exit(0)  # without a word: what failed may quote a file, and is done again where it can be told


def _work_through(
    pieces: Sequence[Sequence[T]], work: Callable[[Sequence[T]], bytes], turns: FileIO, tell: FileIO
) -> None:
    for piece in reversed(pieces):
        if not turns.read(1):
            break
        result = work(piece)
        tell.write(len(result).to_bytes(_LENGTH) + result)
