"""Transactions that replace several files of the node: after a crash all of them are old, or all are new.

Owns the order of every write: write the record, stage, verify, decide, then rename or remove. Until the decision a
failure leaves the old files untouched and removes the staged ones. After it the next process completes the transaction.
A file that another process has changed meanwhile is never overwritten. The module creates no directory on the node. In
a directory that the kubelet watches it only replaces a manifest. It does not interpret certificates.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from certmond.errors import BusyError, WriteError
from certmond.pki.findings import printable
from certmond.transaction.dirfd import Directories, Place, blaming, opened, sentence
from certmond.transaction.journal import Entry, Record, Records, State, staged_name
from certmond.transaction.node_lock import WRITING, Holder, name_holder, writer_of
from certmond.transaction.operations import (
    Change,
    NewFile,
    NewLink,
    Removed,
    aim,
    divided,
    is_followed,
    is_manifest,
    objections,
    shortages,
    size,
    started,
)
from certmond.transaction.recovery import Outcome, Recovery, damaged, elsewhere, pending, settle, undo
from certmond.transaction.state_directory import refuse_exposed, refuse_unfit
from certmond.transaction.temp_file import make_directory, stage

__all__ = ["Change", "NewFile", "NewLink", "Outcome", "Recovery", "Removed", "Transactions", "Writer"]

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL = 0.05  # seconds between two attempts to lock


class Transactions:
    """Transactions below `root`. One process at a time can write."""

    def __init__(self, root: str, state_dir: Path) -> None:
        self._root = root
        self._state_dir = state_dir

    def real(self, path: str) -> Path:
        """Return the file that a `NewFile` of this path replaces, as a path that this process can open."""
        with Directories(self._root) as directories, blaming(path, "read"):
            return Path(os.path.realpath(self._root).rstrip("/") + directories.resolve(path))

    @contextmanager
    def lock(self, timeout: float = 0) -> Iterator[Writer]:
        """Lock out other writers until the end of the `with`; wait at most `timeout` seconds for one.

        Raises BusyError, WriteError, and StateError if the state directory is not fit for use.
        """
        records = self._state_dir / "transactions"
        with blaming(str(self._state_dir)):
            make_directory(self._state_dir)
            refuse_exposed(self._state_dir)
            make_directory(records)
        with blaming(str(self._state_dir / WRITING)):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(self._state_dir / WRITING, flags, 0o600)
        try:
            with blaming(str(self._state_dir / WRITING), "locked"):
                self._take(lock, timeout)
            name_holder(lock)
            refuse_unfit(self._state_dir)
            with ExitStack() as held:
                with blaming(str(records)):
                    directory = held.enter_context(opened(records))
                yield Writer(self._root, records, directory)
        finally:
            os.close(lock)

    def _take(self, lock: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    writer = writer_of(self._state_dir) or Holder(0)
                    fact = f"{writer} is writing on this node"
                    raise BusyError(f"{fact}; try again when it is done (`{writer.shows}` shows it)") from None
            time.sleep(_POLL)


class Writer:
    """The holder of the lock. `Transactions.lock` creates it; it is valid until the end of that `with`."""

    def __init__(self, root: str, where: Path, directory: int) -> None:
        self._root = root
        self._where = where
        self._directory = directory
        self._records = Records(directory)

    def commit(
        self,
        changes: Sequence[Change],
        *,
        verify: Callable[[Mapping[str, bytes]], None],
        before_rename: Callable[[], None] = lambda: None,
    ) -> None:
        """Make all changes, in this order, or none.

        `verify` receives the content of each new file as it was read back, and raises to refuse it. `before_rename` is
        called after that, before the first rename. Raises WriteError.
        """
        with Directories(self._root) as directories, ExitStack() as files, ExitStack() as uninterrupted:
            record, held = self._plan(changes, directories, files)
            try:
                with blaming(str(self._where)):
                    self._records.write(record)
                staged = dict[str, bytes]()
                for change, entry, old in zip(changes, record.entries, held, strict=True):
                    with blaming(change.path):
                        staged |= _stage(change, directories.place(entry.staging), old)
                with blaming(", ".join(record.paths)):
                    directories.sync()
                verify(staged)
                before_rename()
                uninterrupted.enter_context(_signals_wait())
                with blaming(str(self._where)):
                    record = self._records.decide(record)
            except BaseException:
                with suppress(OSError):  # the next recovery undoes it and reports it
                    undo(record, self._records, directories)
                raise
            result = settle(record, self._records, directories)
            if result.outcome is Outcome.PENDING:  # decided: retry once
                result = settle(record, self._records, directories)
        if result.outcome is not Outcome.FINISHED:
            raise WriteError(result.message)

    def recover(self) -> tuple[Recovery, ...]:
        """Finish or undo the transactions of earlier processes. Callers do so at each start and before a commit."""
        with blaming(str(self._where)):
            return tuple(self._recover(record) for record in list(self._records.left()))

    def _recover(self, record: Record | str) -> Recovery:
        if isinstance(record, str):
            return damaged(str(self._where / record))
        if not self._is_ours(record):
            return elsewhere(record, os.path.normpath(os.path.join(os.path.realpath(self._where), record.root or "")))
        with Directories(self._root) as directories:
            if record.state is State.COMMIT:
                return settle(record, self._records, directories)
            try:
                return undo(record, self._records, directories)
            except OSError as error:
                return pending(record, error)

    def _is_ours(self, record: Record) -> bool:
        return record.root in {None, self._below()}

    def _below(self) -> str:
        """Return the root, relative to the directory of the records."""
        return os.path.relpath(os.path.realpath(self._root), os.path.realpath(self._where))

    def _plan(
        self, changes: Sequence[Change], directories: Directories, files: ExitStack
    ) -> tuple[Record, list[int | None]]:
        """Return the record, and the descriptors of the files to replace, open as long as `files`.

        Raises one WriteError with every obstacle.
        """
        identity = secrets.token_hex(8)
        entries, held, problems = list[Entry](), list[int | None](), list[str]()
        with blaming(str(self._where)):
            left = list(self._records.left())
        problems += [damaged(str(self._where / record)).message for record in left if isinstance(record, str)]
        ours = [record for record in left if isinstance(record, Record) and self._is_ours(record)]
        left_over = {entry.real for record in ours for entry in record.entries}
        taken = dict[str, str]()
        sizes = [(Place(self._directory, ""), str(self._where), 0)]
        with blaming("/etc/kubernetes/manifests", "read"):
            watched = directories.resolve("/etc/kubernetes/manifests", anyones=True)
        for number, change in enumerate(changes):
            try:
                real = directories.resolve(change.path, follow=is_followed(change))
                place = directories.place(real)
                old, descriptor = place.hold()
                if descriptor is not None:
                    files.callback(os.close, descriptor)
                place.check_replaceable()
                entry = Entry(
                    change.path, real, staged_name(identity, number), old, aim(change), manifest=is_manifest(change)
                )
                if entry.manifest:
                    staging = directories.place(entry.staging)
                    staging.check_replaceable()
                    problems += divided(entry, staging, place)
            except OSError as error:
                problems.append(sentence(change.path, error))
                continue
            if real in left_over:
                problems.append(f"{change.path} is part of a replacement that is not finished; that has to end first")
            if real in taken:
                problems.append(f"{change.path} and {taken[real]} are one file, {real}; give each a file of its own")
            problems += objections(change, old)
            taken[real] = change.path
            if not isinstance(change, Removed):
                sizes.append((place, change.path, size(change)))
            entries.append(entry)
            held.append(descriptor)
        problems += started(entries, watched)
        problems += shortages(sizes)
        if problems:
            raise WriteError(*map(printable, problems))
        return Record(identity, State.INTENT, tuple(entries), self._below()), held


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Defer signals that end this process to the end of the `with`, so that none arrives between key and certificate.

    Python runs signal handlers in the main thread only. In another thread this has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = list[int]()
    before = {number: signal.getsignal(number) for number in _ENDING}
    try:  # SIGINT is replaced first and restored last: its handler is the one that raises
        for number in before:
            signal.signal(number, lambda number, _: heard.append(number))
        yield
    finally:
        for number, handler in reversed(before.items()):
            signal.signal(number, handler)
        for each in heard:
            signal.raise_signal(each)


def _stage(change: Change, staged: Place, old: int | None) -> dict[str, bytes]:
    match change:
        case NewLink():
            os.symlink(change.target, staged.name, dir_fd=staged.directory)
            return {}
        case Removed():
            return {}
        case NewFile():
            mode = change.mode & change.at_most
            like = None if change.anew else old
            content = stage(staged, like, change.content, mode, change.owner, at_most=change.at_most)
            return {change.path: content}
