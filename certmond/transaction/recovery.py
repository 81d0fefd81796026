"""The end of a transaction: put the new files into place, or remove every staged file.

Owns both ends, for the process that began the transaction and for a later one after a crash. Both run the same code,
which may be killed at any instruction and repeated. A file that another process has changed meanwhile is kept. Stages
no file and decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from certmond.pki.findings import printable
from certmond.transaction.dirfd import Directories, Place, reason
from certmond.transaction.journal import Entry, Record, Records
from certmond.transaction.temp_file import remove


class Outcome(StrEnum):
    """The result of a transaction."""

    FINISHED = "finished"  # every new file is in place
    UNDONE = "undone"  # every old file is in place
    FROZEN = "frozen"  # another process has written meanwhile; its file was kept
    PENDING = "pending"  # it can be neither finished nor undone now; its record is kept
    DAMAGED = "damaged"  # its record cannot be parsed; it was set aside


@dataclass(frozen=True, slots=True)
class Recovery:
    """`paths` are all that the transaction changes; `message` is one printable sentence."""

    outcome: Outcome
    paths: tuple[str, ...]
    message: str


def settle(record: Record, records: Records, directories: Directories) -> Recovery:
    """Finish a transaction that was decided, whichever part of it is already complete."""
    try:
        steps = [_Step.of(entry, directories) for entry in record.entries]
        ready = [step for step in steps if step.is_ready()]
        # In order: a missing file that an entry removes proves nothing while an earlier entry still waits.
        begun = any(step.is_done() for step in takewhile(lambda step: not step.is_waiting(), steps))
        if not begun and len(ready) < len(steps):
            undo(record, records, directories)
            return _frozen(record, [step for step in steps if step not in ready])
        with _held(step.place for step in ready):
            for step in ready:
                try:
                    step.take()
                except OSError as error:
                    if begun:  # it can only be completed: the next process tries again
                        raise
                    undo(record, records, directories)
                    said = f"could not be replaced {reason(error)}; the old files stay"
                    return _recovery(Outcome.UNDONE, record, said)
                begun = True
        directories.sync()
        changed = [step for step in steps if step.place.look() != step.entry.new]
        _clear(record, records, directories)
    except OSError as error:
        return pending(record, error)
    if changed:
        return _frozen(record, changed, [step for step in steps if step not in changed])
    return _recovery(Outcome.FINISHED, record, "an interrupted replacement was finished; the new files are in place")


def undo(record: Record, records: Records, directories: Directories) -> Recovery:
    """Remove every staged file; what was renamed stays. Raises OSError if that fails now."""
    # First revoke the decision. Otherwise a decided transaction would lose its staged files one by one and be
    # incomplete.
    record = records.take_back(record)
    _clear(record, records, directories)
    return _recovery(Outcome.UNDONE, record, "an interrupted replacement was undone; the old files are in place")


def pending(record: Record, error: OSError) -> Recovery:
    doing = "a replacement could neither be finished nor undone"
    return _recovery(Outcome.PENDING, record, f"{doing} {reason(error)}; the next start of certmond tries again")


def elsewhere(record: Record, root: str) -> Recovery:
    """Return the result for a transaction below another root, whose paths mean other files here."""
    what = f"a replacement below {root} is not finished; start certmond with `--root {root}`, which ends it"
    return _recovery(Outcome.PENDING, record, what)


def damaged(where: str) -> Recovery:
    message = f"{where}: the record of an interrupted replacement cannot be understood, and was put aside; "
    return Recovery(
        Outcome.DAMAGED,
        (),
        printable(
            f"{message}remove the files .certmond-* beside the certificates, and beside the manifests' directory"
        ),
    )


@contextmanager
def _held(places: Iterable[Place]) -> Iterator[None]:
    """Keep the old files open until all are replaced.

    A rename that frees a file takes twenty times as long, and between two renames key and certificate do not match.
    """
    with ExitStack() as held:
        for place in places:
            with suppress(OSError):  # the file does not exist yet
                old = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.directory)
                held.callback(os.close, old)
        yield


@dataclass(frozen=True, slots=True)
class _Step:
    """One file of the transaction, and the place of its staged content."""

    entry: Entry
    staged: Place
    place: Place

    @classmethod
    def of(cls, entry: Entry, directories: Directories) -> _Step:
        return cls(entry, directories.place(entry.staging), directories.place(entry.real))

    def is_ready(self) -> bool:
        return self.staged.look() == self.entry.new and self.place.look() in {self.entry.old, self.entry.new}

    def is_waiting(self) -> bool:
        """Return whether the step has certainly not been taken."""
        return self.place.look() == self.entry.old if self.entry.new is None else self.staged.look() is not None

    def is_done(self) -> bool:
        return self.staged.look() is None and self.place.look() == self.entry.new

    def take(self) -> None:
        if self.entry.new is None:
            remove(self.place)
        else:
            source, target = self.staged, self.place
            os.rename(source.name, target.name, src_dir_fd=source.directory, dst_dir_fd=target.directory)


def _clear(record: Record, records: Records, directories: Directories) -> None:
    """Remove the staged files, then the record. The sync keeps this order on the disk."""
    for entry in record.entries:
        remove(directories.place(entry.staging))
    directories.sync()
    records.remove(record)


def _frozen(record: Record, changed: Sequence[_Step], done: Sequence[_Step] = ()) -> Recovery:
    theirs = ", ".join(step.entry.path for step in changed)
    others = "".join(f", and {step.entry.path} is {'removed' if step.entry.new is None else 'new'}" for step in done)
    happened = "was written by somebody else while certmond replaced it, and is left as it is"
    return Recovery(Outcome.FROZEN, record.paths, printable(f"{theirs} {happened}{others}; look at it"))


def _recovery(outcome: Outcome, record: Record, what: str) -> Recovery:
    return Recovery(outcome, record.paths, printable(f"{', '.join(record.paths)}: {what}"))
