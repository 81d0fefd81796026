"""Forked worker that processes a part of many items, such as the files of the first scan of a large node.

This process takes items from the front, and the worker takes items from the back. If the worker sends no result for an
item, this process processes the item again. Therefore, the worker affects only the duration.
"""

from __future__ import annotations

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

from certmond.parent_process import end_with

MIN_ITEMS = 2_000
"""Minimum number of items for a fork. With fewer items, the fork takes more time than it saves."""

_MIN_PIECE = 250  # minimum number of items
_MAX_PIECES = 4096  # a pipe contains one byte for each piece; the kernel permits a pipe of this size to every user
_PIECE_TIMEOUT = 5.0  # seconds to wait for the result of a piece; a piece takes a few hundredths of a second
_LENGTH_BYTES = 8  # bytes that encode the length of a result
_PIPE_BYTES = 1 << 20  # size of the pipe for results; the kernel permits it to every user

T = TypeVar("T")
R = TypeVar("R")


def _unchanged(_: object, results: Any) -> Any:
    return results


def _nothing(_: object) -> Sequence[object]:
    return ()


def in_two_processes(
    items: Sequence[T],
    work: Callable[[Sequence[T]], R],
    *,
    encode: Callable[[Sequence[T], R], object] = _unchanged,
    decode: Callable[[Sequence[T], Any], R] = _unchanged,
    shared: Callable[[Sequence[T]], Sequence[object]] = _nothing,
) -> Iterator[R]:
    """Yield the results of `work` for consecutive pieces of `items`, in the order of the items.

    `encode` prepares a result for the pipe and removes private keys. `decode` restores the result. `shared` returns the
    objects of a piece that exist in both processes. Raises each exception that `work` or `decode` raises.
    """
    if len(items) < MIN_ITEMS or not _can_fork():
        yield work(items)
        return
    from certmond.files.forked_worker_messages import pack, unpack  # noqa: PLC0415 - imports pickle, which most nodes never need

    size = max(_MIN_PIECE, -(-len(items) // _MAX_PIECES))
    pieces = [items[at : at + size] for at in range(0, len(items), size)]
    front, from_worker = 0, list[R]()

    def worker_result(piece: Sequence[T]) -> bytes:
        return pack(encode(piece, work(piece)), shared(piece))

    def add_result(result: bytes) -> None:
        piece = pieces[-1 - len(from_worker)]
        from_worker.append(decode(piece, unpack(result, shared(piece))))

    with ExitStack() as stack:
        with suppress(OSError):  # no process, descriptor or memory is available
            worker = None
            worker = stack.enter_context(_worker(pieces, worker_result))
        while worker and worker.claims_piece():
            yield work(pieces[front])
            front += 1
            for result in worker.results():
                add_result(result)
        pending_results = worker.results(_PIECE_TIMEOUT) if worker else iter(())
        while front + len(from_worker) < len(pieces) and (last := next(pending_results, None)) is not None:
            add_result(last)
    yield from map(work, pieces[front : len(pieces) - len(from_worker)])
    yield from reversed(from_worker)


def _can_fork() -> bool:
    """Return whether this process can use two or more processors, has only one thread, and does not ignore SIGCHLD."""
    # With several threads, locks of other threads would stay locked in the worker. If this process ignored SIGCHLD, the
    # kernel could give the PID of an ended worker to another process.
    reaped = signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN
    return len(os.sched_getaffinity(0)) > 1 and threading.active_count() == 1 and reaped


class _Worker:
    """Interface through which this process claims pieces and reads the results of the worker."""

    def __init__(self, tokens: FileIO, result_pipe: FileIO) -> None:
        self._tokens, self._result_pipe = tokens, result_pipe
        self._poll = select.poll()
        self._poll.register(result_pipe, select.POLLIN)
        self._readable = True

    def claims_piece(self) -> bool:
        """Claim a piece for this process. Return False if all pieces are claimed."""
        return bool(self._tokens.read(1))

    def results(self, timeout: float = 0) -> Iterator[bytes]:
        """Yield the encoded results that the worker has sent.

        Wait at most `timeout` seconds for the start of each result.
        """
        while self._readable and self._poll.poll(timeout * 1000):
            if result := self._read(int.from_bytes(self._read(_LENGTH_BYTES))):
                yield result
            else:  # the worker ended, or stopped during a result: the start of the next result is unknown
                self._readable = False

    def _read(self, size: int) -> bytes:
        """Return the next `size` bytes from the worker.

        Return b"" if the worker has ended or pauses for `_PIECE_TIMEOUT`.
        """
        data = bytearray()
        while len(data) < size:
            data_part = self._result_pipe.read(size - len(data)) if self._poll.poll(_PIECE_TIMEOUT * 1000) else b""
            if not data_part:
                return b""
            data += data_part
        return bytes(data)


@contextmanager
def _worker(pieces: Sequence[Sequence[T]], work: Callable[[Sequence[T]], bytes]) -> Iterator[_Worker]:
    """Start the worker, and kill it after the `with` block. Raises OSError if the worker cannot start."""
    with ExitStack() as stack:
        tokens, token_writer = _pipe(stack)
        result_pipe, result_writer = _pipe(stack)
        with suppress(OSError):  # a smaller pipe is sufficient
            fcntl.fcntl(result_writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        token_writer.write(b"." * len(pieces))
        token_writer.close()
        parent = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the worker runs no handler
        try:
            pid = os.fork()
            if pid == 0:
                _run_worker(
                    lambda: _work_backwards(pieces, work, tokens, result_writer), (tokens, result_writer), parent, mask
                )
            stack.callback(_kill, pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        result_writer.close()
        yield _Worker(tokens, result_pipe)


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    """Return the read end and the write end of a new pipe, which `stack` closes."""
    read_end, write_end = os.pipe()
    return stack.enter_context(FileIO(read_end)), stack.enter_context(FileIO(write_end, "w"))


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _run_worker(work: Callable[[], None], files: Iterable[FileIO], parent: int, mask: Iterable[int]) -> NoReturn:
    try:
        for each in signal.valid_signals():
            if callable(signal.getsignal(each)):
                signal.signal(each, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        end_with(parent)
        descriptors = sorted(file.fileno() for file in files)
        for below, above in pairwise((2, *descriptors, os.sysconf("SC_OPEN_MAX"))):
            os.closerange(below + 1, above)
        # The OOM killer prefers the worker.
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
        work()
    finally:
        os._exit(0)  # no traceback, which could quote a file; the parent repeats the piece and reports errors


def _work_backwards(
    pieces: Sequence[Sequence[T]], work: Callable[[Sequence[T]], bytes], tokens: FileIO, result_writer: FileIO
) -> None:
    for piece in reversed(pieces):
        if not tokens.read(1):
            break
        result = work(piece)
        result_writer.write(len(result).to_bytes(_LENGTH_BYTES) + result)
