"""Transactions that replace several files of the node. After a crash and recovery, all files are old, or all are new.

This module defines the order of every write: write the record, stage, verify, decide, then rename or remove.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from certmond.errors import BusyError, WriteError
from certmond.pki.findings import printable
from certmond.transaction.dirfd import Directories, Place, blaming, opened, real_path, sentence
from certmond.transaction.journal import Entry, Record, Records, State, staged_name
from certmond.transaction.node_lock import WRITING, Holder, name_holder, writer_of
from certmond.transaction.operations import (
    Change,
    NewFile,
    NewLink,
    Removed,
    is_followed,
    is_manifest,
    mount_conflicts,
    size,
    space_conflicts,
    state_conflicts,
    static_pod_conflicts,
    target_fingerprint,
)
from certmond.transaction.recovery import Outcome, Recovery, damaged, elsewhere, pending, settle, undo
from certmond.transaction.state_directory import refuse_exposed, refuse_unfit
from certmond.transaction.temp_file import make_directory, stage

__all__ = ["Change", "NewFile", "NewLink", "Outcome", "Recovery", "Removed", "Transactions", "Writer"]

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL = 0.05  # seconds between two attempts to lock


class Transactions:
    """Transactions that replace files below `root`. Only one process at a time can write."""

    def __init__(self, root: str, state_dir: Path) -> None:
        self._root = root
        self._state_dir = state_dir

    def real(self, path: str) -> Path:
        """Return the real path, including the root directory, of the file that a `NewFile` with this path replaces."""
        return real_path(self._root, path)

    @contextmanager
    def lock(self, timeout: float = 0) -> Iterator[Writer]:
        """Hold the lock of all writers during the `with` block. Wait at most `timeout` seconds for another writer.

        Raises BusyError if another process holds the lock, StateError if the state directory is unfit for use, and
        WriteError if another operation fails.
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
                self._acquire(lock, timeout)
            name_holder(lock)
            refuse_unfit(self._state_dir)
            with ExitStack() as descriptors:
                with blaming(str(records)):
                    directory = descriptors.enter_context(opened(records))
                yield Writer(self._root, records, directory)
        finally:
            os.close(lock)

    def _acquire(self, lock: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    writer = writer_of(self._state_dir) or Holder(0)
                    fact = f"{writer} is writing on this node"
                    raise BusyError(
                        f"{fact}; repeat the command after this process has finished; to see the process, run: "
                        f"{writer.shows}"
                    ) from None
            time.sleep(_POLL)


class Writer:
    """Executor of changes to files under the lock of all writers. `Transactions.lock` yields this object."""

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
        """Make all changes, in this order, or make no change.

        `verify` receives the content of each new file, and raises an error to refuse the changes. `before_rename` runs
        after `verify`. Raises WriteError if a change is impossible or fails. If another process writes a file during
        the renames, keep that file, and raise WriteError after the other changes.
        """
        with Directories(self._root) as directories, ExitStack() as files, ExitStack() as uninterrupted:
            record, descriptors = self._plan(changes, directories, files)
            try:
                with blaming(str(self._where)):
                    self._records.write(record)
                staged = dict[str, bytes]()
                for change, entry, old in zip(changes, record.entries, descriptors, strict=True):
                    with blaming(change.path):
                        staged |= _stage(change, directories, entry, old)
                with blaming(", ".join(record.paths)):
                    directories.sync()
                verify(staged)
                before_rename()
                uninterrupted.enter_context(_signals_wait())
                with blaming(str(self._where)):
                    record = self._records.decide(record)
            except BaseException:
                with suppress(OSError):  # the next recovery reverts and reports the transaction
                    undo(record, self._records, directories)
                raise
            result = settle(record, self._records, directories)
            if result.outcome is Outcome.PENDING:  # the transaction is decided: retry once
                result = settle(record, self._records, directories)
        if result.outcome is not Outcome.FINISHED:
            raise WriteError(result.message)

    def recover(self) -> tuple[Recovery, ...]:
        """Complete or revert the transactions of earlier processes. Callers must call this method before `commit`."""
        with blaming(str(self._where)):
            return tuple(self._recover(record) for record in list(self._records.left()))

    def _recover(self, record: Record | str) -> Recovery:
        if isinstance(record, str):
            return damaged(str(self._where / record))
        if not self._is_own(record):
            return elsewhere(record, os.path.normpath(os.path.join(os.path.realpath(self._where), record.root or "")))
        with Directories(self._root) as directories:
            if record.state is State.COMMIT:
                return settle(record, self._records, directories)
            try:
                return undo(record, self._records, directories)
            except OSError as error:
                return pending(record, error)

    def _is_own(self, record: Record) -> bool:
        return record.root in {None, self._below()}

    def _below(self) -> str:
        """Return the root directory relative to the directory of the records."""
        return os.path.relpath(os.path.realpath(self._root), os.path.realpath(self._where))

    def _plan(
        self, changes: Sequence[Change], directories: Directories, files: ExitStack
    ) -> tuple[Record, list[int | None]]:
        """Return the record, and the descriptors of the files to replace, which `files` closes.

        Raises one WriteError that lists every problem.
        """
        identity = os.urandom(8).hex()
        entries, descriptors, problems = list[Entry](), list[int | None](), list[str]()
        with blaming(str(self._where)):
            left = list(self._records.left())
        problems += [damaged(str(self._where / record)).message for record in left if isinstance(record, str)]
        own_records = [record for record in left if isinstance(record, Record) and self._is_own(record)]
        unfinished_paths = {entry.real for record in own_records for entry in record.entries}
        paths_by_file = dict[str, str]()
        sizes = [(Place(self._directory, ""), str(self._where), 0)]
        with blaming("/etc/kubernetes/manifests", "read"):
            watched = directories.resolve("/etc/kubernetes/manifests", follow_any_link=True)
        for number, change in enumerate(changes):
            try:
                real = directories.resolve(change.path, follow=is_followed(change))
                place = directories.place(real)
                old, descriptor = place.open_fingerprinted()
                if descriptor is not None:
                    files.callback(os.close, descriptor)
                place.check_replaceable()
                entry = Entry(
                    change.path,
                    real,
                    staged_name(identity, number),
                    old,
                    target_fingerprint(change),
                    manifest=is_manifest(change),
                )
                if entry.manifest:
                    staging = directories.place(entry.staging)
                    staging.check_replaceable()
                    problems += mount_conflicts(entry, staging, place)
            except OSError as error:
                problems.append(sentence(change.path, error))
                continue
            if real in unfinished_paths:
                problems.append(
                    f"{change.path} is part of an unfinished replacement; the next start of certmond finishes or "
                    "undoes the replacement"
                )
            if real in paths_by_file:
                problems.append(
                    f"{change.path} and {paths_by_file[real]} are the same file, {real}; configure separate files"
                )
            problems += state_conflicts(change, old)
            paths_by_file[real] = change.path
            if not isinstance(change, Removed):
                sizes.append((place, change.path, size(change)))
            entries.append(entry)
            descriptors.append(descriptor)
        problems += static_pod_conflicts(entries, watched)
        problems += space_conflicts(sizes)
        if problems:
            raise WriteError(*map(printable, problems))
        return Record(identity, State.INTENT, tuple(entries), self._below()), descriptors


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Defer signals that end this process until after the `with` block, so that no signal interrupts the renames.

    Python runs signal handlers only in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = list[int]()
    before = {number: signal.getsignal(number) for number in _ENDING}
    try:  # replace SIGINT first and restore it last, because its handler raises
        for number in before:
            signal.signal(number, lambda number, _: heard.append(number))
        yield
    finally:
        for number, handler in reversed(before.items()):
            signal.signal(number, handler)
        for each in heard:
            signal.raise_signal(each)


def _stage(change: Change, directories: Directories, entry: Entry, old: int | None) -> dict[str, bytes]:
    staged = directories.place(entry.staging)
    match change:
        case NewLink():
            os.symlink(change.target, staged.name, dir_fd=staged.directory)
            return {}
        case Removed():
            return {}
        case NewFile():
            mode = change.mode & change.at_most
            like = None if change.new_metadata else old
            owner = directories.real_owner(change.owner) if change.owner else None
            content = stage(staged, like, change.content, mode, owner, at_most=change.at_most)
            return {change.path: content}
