"""The last renewal attempt of each certificate, stored across processes.

This module reads and writes `<state directory>/renewals.json` and `renewals.log`. Both files are a cache: without these
files, certmond only retries a failed renewal sooner.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Annotated

from certmond.errors import StateError, WriteError
from certmond.immutable_class import immutable
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.instant import Instant
from certmond.pki.planning.renewal_quota import RENEWALS, WINDOW
from certmond.pki.planning.steps import Identity
from certmond.state.append_only_file import append
from certmond.state.json_decoder import between, decoded, encoded
from certmond.state.json_file import Memory
from certmond.transaction.dirfd import Place, can_be_a_path
from certmond.transaction.state_directory import VERSION, opened_state, understood
from certmond.transaction.temp_file import remove

_LOG = "renewals.log"
_LONGEST_LOG = 64 << 20
"""Maximum number of bytes to read from the log."""
_FIELDS = tuple(each.name for each in fields(Attempt))
_ABSENT = 100
"""Number of the most recent attempts of deleted files to keep, because the files might return."""


def _nameable(text: str) -> str:
    if not can_be_a_path(text):
        raise ValueError("contains characters that are invalid in a name, a path or a cookie")
    return text


_Text = Annotated[str, _nameable]
_Count = Annotated[int, between(0, 1 << 31)]


@immutable
class _Entry:
    """An attempt in the document. The document may contain fields of a later version."""

    name: _Text
    path: _Text
    at: Instant
    failures: _Count = 0
    message: str = ""
    sha256: str | None = None
    issued_at: Instant | None = None
    wait_until: Instant | None = None
    cookie: _Text | None = None
    ends_at: Instant | None = None
    common_name: str | None = None
    restored: bool = False
    repaired_at: Instant | None = None
    repairs: _Count = 0
    subject: str | None = None


@immutable
class _Line:
    """A line of the log: a new attempt, or a removed attempt, which is `forgotten`."""

    entry: _Entry
    forgotten: bool = False


class Ledger:
    """Record of the renewal attempts, by the name and the path of the certificate.

    `exists` returns whether a file exists at a path. The caller of a method that writes must hold the lock of all
    writers.
    """

    def __init__(self, state_dir: Path, exists: Callable[[str], bool] = lambda _: True) -> None:
        self._exists, self._enough = exists, 2 * _ABSENT
        self._state_dir = state_dir
        self._memory = Memory(state_dir, "renewals.json", tuple[_Entry, ...])
        self._batch: dict[Identity, Attempt] | None = None
        self._written = self._noted = False

    def attempts(self) -> dict[Identity, Attempt]:
        """Return the stored attempts, or {} if neither file is usable."""
        return self._load() if self._batch is None else dict(self._batch)

    def attempt(self, identity: Identity) -> Attempt | None:
        """Return the stored attempt of one certificate, or None if neither file is usable or contains it."""
        return (self._load() if self._batch is None else self._batch).get(identity)

    def renewed(self) -> dict[str, datetime]:
        """Return the time at which certmond installed each new certificate, by the SHA-256 of the certificate.

        Omit restored certificates.
        """
        new = (each for each in self.attempts().values() if not each.restored)
        return {each.sha256: each.put_in_place_at for each in new if each.sha256}

    def store(self, identity: Identity, attempt: Attempt) -> None:
        """Store the last attempt for a certificate. Raises WriteError if the write fails."""
        if self._batch is None:
            self._write(self._pruned({**self._load(), identity: attempt}))
        else:
            self._note(identity, attempt)
            self._batch[identity] = attempt

    def check(self) -> None:
        """Raise WriteError if `store` would fail now."""
        if self._batch is None or not self._written:
            self._write(self.attempts())
            self._written = True
        else:
            append(self._state_dir, _LOG, [b""])  # an empty line, to test for space on the disk

    def remove(self, identity: Identity) -> None:
        """Remove the attempt of a certificate. Raises WriteError if the write fails."""
        if self._batch is None:
            self._write({other: attempt for other, attempt in self._load().items() if other != identity})
        elif before := self._batch.get(identity):
            self._note(identity, before, removed=True)
            del self._batch[identity]

    def tidy(self) -> None:
        """Remove the temporary file of a killed process."""
        self._memory.tidy()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Store each attempt of the `with` block as a line of the log, and write the document after the block.

        When `store` returns, the attempt is on the disk.
        """
        self._batch, self._written, self._noted = self._load(), False, False
        try:
            yield
        finally:
            known, self._batch = self._batch, None
            if self._noted:
                with suppress(WriteError):  # after an error the log stays
                    self._write(self._pruned(known))

    def _note(self, identity: Identity, attempt: Attempt, *, removed: bool = False) -> None:
        line = encoded(_Line(_entry(identity, attempt), forgotten=removed))
        self._noted = True
        append(self._state_dir, _LOG, [json.dumps({"version": VERSION, **line}, default=encoded).encode()])

    def _load(self) -> dict[Identity, Attempt]:
        known: dict[Identity, Attempt] = {}
        with suppress(StateError), _opened_log(self._state_dir) as log:  # open it first: `_write` removes the log
            known = {(each.name, each.path): _attempt(each) for each in self._memory.read() or ()}
            for line in _lines(log, str(self._state_dir / _LOG)):
                identity = line.entry.name, line.entry.path
                known.pop(identity, None)
                if not line.forgotten:
                    known[identity] = _attempt(line.entry)
        return known

    def _pruned(self, attempts: Mapping[Identity, Attempt]) -> Mapping[Identity, Attempt]:
        """Return the attempts, except old attempts of deleted files."""
        if len(attempts) <= self._enough:  # the check of the files is slow
            return attempts
        # Keep the last renewal of each common name, because the owner might copy an old certificate to another file.
        # Keep the attempts of the last hour, because these attempts count in the quota of their entry.
        deleted = sorted((each for each in attempts if not self._exists(each[1])), key=lambda each: attempts[each].at)
        installed = (each for each in deleted if attempts[each].sha256 and attempts[each].common_name is not None)
        by_time = sorted(installed, key=lambda each: attempts[each].put_in_place_at)
        newest_of_names = {*{(each[0], attempts[each].common_name): each for each in by_time}.values()}
        latest, pruned, counted = max(each.at for each in attempts.values()), set[Identity](), Counter[str]()
        for identity in reversed(deleted[:-_ABSENT]):
            counted[identity[0]] += 1
            if latest - attempts[identity].at >= WINDOW or counted[identity[0]] > RENEWALS:
                pruned.add(identity)
        pruned -= newest_of_names
        remaining = {identity: attempt for identity, attempt in attempts.items() if identity not in pruned}
        self._enough = len(remaining) + _ABSENT
        return remaining

    def _write(self, attempts: Mapping[Identity, Attempt]) -> None:
        """Write the document with all attempts, and remove the log.

        Raises WriteError if the write fails, and StateError if a later version of certmond has written the log.
        """
        with _opened_log(self._state_dir) as log:
            for _ in _lines(log, str(self._state_dir / _LOG)):
                pass  # raises StateError for a line of a later version, so that the log stays
        self._memory.write(tuple(_entry(identity, attempt) for identity, attempt in attempts.items()))
        with suppress(OSError), opened_state(self._state_dir) as directory:
            remove(Place(directory, _LOG))


def _entry(identity: Identity, attempt: Attempt) -> _Entry:
    name, path = identity
    return _Entry(name=name, path=path, **asdict(attempt))


def _attempt(entry: _Entry) -> Attempt:
    return Attempt(**{name: getattr(entry, name) for name in _FIELDS})


@contextmanager
def _opened_log(state_dir: Path) -> Iterator[int | None]:
    """Open the log, and yield its descriptor. Yield None if certmond cannot open the log."""
    descriptor = None
    with suppress(OSError), opened_state(state_dir) as directory:
        descriptor = Place(directory, _LOG).open()
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lines(log: int | None, path: str) -> Iterator[_Line]:
    """Yield the valid lines of the log. Raises StateError for a line of a later version."""
    if log is None:
        return
    with suppress(OSError), open(log, "rb", closefd=False) as file:
        for line in file.read(_LONGEST_LOG).splitlines():
            with suppress(ValueError, OverflowError, RecursionError):
                yield decoded(understood(json.loads(line), path), _Line)
