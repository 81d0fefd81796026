"""The end of a transaction: either all new files get their final paths, or certmond removes every staged file.

A later process can repeat this code after a kill at any instruction. certmond keeps a file that another process has
changed in the meantime.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from itertools import takewhile

from certmond.immutable_class import immutable
from certmond.pki.findings import printable
from certmond.transaction.dirfd import Directories, Place, reason
from certmond.transaction.journal import Entry, Record, Records
from certmond.transaction.temp_file import remove


class Outcome(StrEnum):
    """The result of a transaction."""

    FINISHED = "finished"  # every new file is in place
    UNDONE = "undone"  # every old file is in place
    FROZEN = "frozen"  # another process has written a file in the meantime, and certmond keeps this file
    PENDING = "pending"  # certmond can neither complete nor revert the transaction now, and keeps the record
    DAMAGED = "damaged"  # certmond cannot parse the record, and has renamed the record


@immutable
class Recovery:
    """The result of a recovery. `paths` contains all paths of the transaction. `message` is one printable sentence."""

    outcome: Outcome
    paths: tuple[str, ...]
    message: str


def settle(record: Record, records: Records, directories: Directories) -> Recovery:
    """Complete a decided transaction, which can be partly complete already. Return the result.

    If no file is complete yet, and another process has changed a file or the first change fails, revert the transaction
    instead.
    """
    try:
        steps = [_Step.of(entry, directories) for entry in record.entries]
        ready = [step for step in steps if step.is_ready()]
        # In order: a missing file to remove does not prove that the transaction has begun while an earlier entry waits.
        begun = any(step.is_done() for step in takewhile(lambda step: not step.is_waiting(), steps))
        if not begun and len(ready) < len(steps):
            undo(record, records, directories)
            return _frozen(record, [step for step in steps if step not in ready])
        with _open_old_files(step.place for step in ready):
            for step in ready:
                try:
                    step.take()
                except OSError as error:
                    if begun:  # only a completion is correct now: the next process retries
                        raise
                    undo(record, records, directories)
                    content = f"could not be replaced {reason(error)}; the old files are unchanged"
                    return _recovery(Outcome.UNDONE, record, content)
                begun = True
        directories.sync()
        changed = [step for step in steps if step.place.fingerprint() != step.entry.new]
        _clear(record, records, directories)
    except OSError as error:
        return pending(record, error)
    if changed:
        return _frozen(record, changed, [step for step in steps if step not in changed])
    return _recovery(
        Outcome.FINISHED, record, "certmond finished an interrupted replacement; the new files are in place"
    )


def undo(record: Record, records: Records, directories: Directories) -> Recovery:
    """Remove every staged file, and return the result. Do not revert a rename. Raises OSError if a removal fails."""
    # First revoke the decision. Otherwise, a decided transaction would lose its staged files one by one, and could not
    # be completed.
    record = records.revoke(record)
    _clear(record, records, directories)
    return _recovery(Outcome.UNDONE, record, "certmond undid an interrupted replacement; the old files are in place")


def pending(record: Record, error: OSError) -> Recovery:
    fact = "certmond could neither finish nor undo a replacement"
    return _recovery(Outcome.PENDING, record, f"{fact} {reason(error)}; the next start of certmond tries again")


def elsewhere(record: Record, root: str) -> Recovery:
    """Return the result for a transaction below another root directory, which certmond cannot finish here."""
    what = f"a replacement below {root} is not finished; to finish the replacement, start certmond with `--root {root}`"
    return _recovery(Outcome.PENDING, record, what)


def damaged(where: str) -> Recovery:
    message = f"{where}: the record of an interrupted replacement is damaged, and certmond renamed it; "
    return Recovery(
        Outcome.DAMAGED,
        (),
        printable(
            f"{message}remove the files .certmond-* from the directories of the certificates and of the manifests"
        ),
    )


@contextmanager
def _open_old_files(places: Iterable[Place]) -> Iterator[None]:
    """Keep the old files open until certmond has replaced all files.

    A rename that also frees the old file takes twenty times as long. Fast renames shorten the time in which the key and
    the certificate do not match.
    """
    with ExitStack() as descriptors:
        for place in places:
            with suppress(OSError):  # the file does not exist yet
                old = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.directory)
                descriptors.callback(os.close, old)
        yield


@immutable
class _Step:
    """One file of the transaction, with the places of its staged file and of its final path."""

    entry: Entry
    staged: Place
    place: Place

    @classmethod
    def of(cls, entry: Entry, directories: Directories) -> _Step:
        return cls(entry, directories.place(entry.staging), directories.place(entry.real))

    def is_ready(self) -> bool:
        return self.staged.fingerprint() == self.entry.new and self.place.fingerprint() in {
            self.entry.old,
            self.entry.new,
        }

    def is_waiting(self) -> bool:
        """Return whether the rename or the removal of the file has certainly not happened."""
        return (
            self.place.fingerprint() == self.entry.old
            if self.entry.new is None
            else self.staged.fingerprint() is not None
        )

    def is_done(self) -> bool:
        return self.staged.fingerprint() is None and self.place.fingerprint() == self.entry.new

    def take(self) -> None:
        if self.entry.new is None:
            remove(self.place)
        else:
            source, target = self.staged, self.place
            os.rename(source.name, target.name, src_dir_fd=source.directory, dst_dir_fd=target.directory)


def _clear(record: Record, records: Records, directories: Directories) -> None:
    """Remove the staged files, then the record. The sync ensures this order on the disk."""
    for entry in record.entries:
        remove(directories.place(entry.staging))
    directories.sync()
    records.remove(record)


def _frozen(record: Record, changed: Sequence[_Step], done: Sequence[_Step] = ()) -> Recovery:
    paths = ", ".join(step.entry.path for step in changed)
    others = "".join(f", and {step.entry.path} is {'removed' if step.entry.new is None else 'new'}" for step in done)
    fact = f"another process wrote {paths} during the replacement, and certmond keeps the file of that process"
    return Recovery(Outcome.FROZEN, record.paths, printable(f"{fact}{others}; compare the files: certmond check"))


def _recovery(outcome: Outcome, record: Record, what: str) -> Recovery:
    return Recovery(outcome, record.paths, printable(f"{', '.join(record.paths)}: {what}"))
