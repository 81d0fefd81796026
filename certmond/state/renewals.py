"""The last renewal attempt of each certificate, kept across processes.

Owns `<state directory>/renewals.json`. During many renewals `renewals.log` has one line for each attempt that the
document does not have yet. It is a cache: without it, certmond only retries a failure sooner. Attempts of deleted files
are pruned, except the most recent ones and those of the last hour. Holds no key; times are UTC.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from certmond.errors import StateError, WriteError
from certmond.pki.assessment.last_attempt import Attempt
from certmond.pki.catalog.field_types import Instant
from certmond.pki.planning.renewal_quota import RENEWALS, WINDOW
from certmond.pki.planning.steps import Identity
from certmond.state.append_only_file import append
from certmond.state.json_file import Memory
from certmond.transaction.dirfd import Place, can_be_a_path
from certmond.transaction.state_directory import VERSION, opened_state, understood
from certmond.transaction.temp_file import remove

_LOG = "renewals.log"
_LONGEST_LOG = 64 << 20
"""Bytes that are read of the log."""
_ABSENT = 100
"""Attempts of deleted files that are kept: the most recent ones, because the files may return.

The last one of each common name of an entry is kept too: its owner may put an old certificate into a file of another
name. Those of the last hour are kept, because they count in the quota of their entry.
"""


def _nameable(text: str) -> str:
    if not can_be_a_path(text):
        raise ValueError("is nothing that a name, a path or a cookie could be")
    return text


_Text = Annotated[str, AfterValidator(_nameable)]


class _Entry(BaseModel):
    """An attempt in the file. Fields of a later version are ignored."""

    model_config = ConfigDict(frozen=True)

    name: _Text
    path: _Text
    at: Instant
    failures: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    message: str = ""
    sha256: str | None = None
    issued_at: Instant | None = None
    wait_until: Instant | None = None
    cookie: _Text | None = None
    ends_at: Instant | None = None
    common_name: str | None = None
    restored: bool = False
    repaired_at: Instant | None = None
    repairs: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    subject: str | None = None


class _Line(BaseModel):
    """A line of the log: an attempt, or the removal of a certificate's attempt."""

    model_config = ConfigDict(frozen=True)

    entry: _Entry
    forgotten: bool = False


class Ledger:
    """The attempts by name and path of the certificate. A writer holds the lock of the transactions.

    `there` returns whether a file exists.
    """

    def __init__(self, state_dir: Path, there: Callable[[str], bool] = lambda _: True) -> None:
        self._there, self._enough = there, 2 * _ABSENT
        self._state_dir = state_dir
        self._memory = Memory(state_dir, "renewals.json", TypeAdapter(tuple[_Entry, ...]))
        self._held: dict[Identity, Attempt] | None = None
        self._written = self._noted = False

    def attempts(self) -> dict[Identity, Attempt]:
        """Return the stored attempts, or {} if neither file can be used."""
        return self._load() if self._held is None else dict(self._held)

    def renewed(self) -> dict[str, datetime]:
        """Return when certmond installed each new certificate, by SHA-256. Restored ones do not count."""
        new = (each for each in self.attempts().values() if not each.restored)
        return {each.sha256: each.put_in_place_at for each in new if each.sha256}

    def remember(self, identity: Identity, attempt: Attempt) -> None:
        """Store the last attempt for a certificate. Raises WriteError."""
        if self._held is None:
            self._write(self._without_gone({**self._load(), identity: attempt}))
        else:
            self._note(identity, attempt)
            self._held[identity] = attempt

    def check(self) -> None:
        """Raise WriteError if an attempt could not be stored now."""
        if self._held is None or not self._written:
            self._write(self.attempts())
            self._written = True
        else:
            append(self._state_dir, _LOG, [b""])  # a line without meaning, to test for space

    def forget(self, identity: Identity) -> None:
        """Remove the attempt of a certificate. Raises WriteError."""
        if self._held is None:
            self._write({other: attempt for other, attempt in self._load().items() if other != identity})
        elif before := self._held.get(identity):
            self._note(identity, before, forgotten=True)
            del self._held[identity]

    def tidy(self) -> None:
        """Remove the draft of a killed process."""
        self._memory.tidy()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Store each attempt as a line of the log, and write the document once, at the end of the `with`.

        Each attempt is on the disk when `remember` returns, as it is outside the `with`. A killed process leaves the
        log: `attempts` reads it, and the next write of the document replaces it.
        """
        self._held, self._written, self._noted = self._load(), False, False
        try:
            yield
        finally:
            known, self._held = self._held, None
            if self._noted:
                with suppress(WriteError):  # then the log stays
                    self._write(self._without_gone(known))

    def _note(self, identity: Identity, attempt: Attempt, *, forgotten: bool = False) -> None:
        line = _Line(entry=_entry(identity, attempt), forgotten=forgotten)
        self._noted = True
        append(
            self._state_dir,
            _LOG,
            [json.dumps({"version": VERSION, **line.model_dump()}, default=datetime.isoformat).encode()],
        )

    def _load(self) -> dict[Identity, Attempt]:
        known: dict[Identity, Attempt] = {}
        with suppress(StateError), _opened_log(self._state_dir) as log:  # first: `_write` removes the log
            known = {(each.name, each.path): _attempt(each) for each in self._memory.read() or ()}
            for line in _lines(log, str(self._state_dir / _LOG)):
                identity = line.entry.name, line.entry.path
                known.pop(identity, None)
                if not line.forgotten:
                    known[identity] = _attempt(line.entry)
        return known

    def _without_gone(self, attempts: Mapping[Identity, Attempt]) -> Mapping[Identity, Attempt]:
        """Return the attempts without those of deleted files. Checks files, which is slow, only now and then."""
        if len(attempts) <= self._enough:
            return attempts
        gone = sorted((each for each in attempts if not self._there(each[1])), key=lambda each: attempts[each].at)
        last = {(name, attempts[name, path].common_name): (name, path) for name, path in gone}
        kept_for_names = {each for (_, common_name), each in last.items() if common_name is not None}
        latest, forgotten, counted = max(each.at for each in attempts.values()), set[Identity](), Counter[str]()
        for identity in reversed(gone[:-_ABSENT]):
            counted[identity[0]] += 1
            if latest - attempts[identity].at >= WINDOW or counted[identity[0]] > RENEWALS:
                forgotten.add(identity)
        forgotten -= kept_for_names
        kept = {identity: attempt for identity, attempt in attempts.items() if identity not in forgotten}
        self._enough = len(kept) + _ABSENT
        return kept

    def _write(self, attempts: Mapping[Identity, Attempt]) -> None:
        """Write the document, and remove the log that it replaces. Raises WriteError, StateError."""
        with _opened_log(self._state_dir) as log:
            for _ in _lines(log, str(self._state_dir / _LOG)):
                pass  # raises for one of a later version, which is not removed
        self._memory.write(tuple(_entry(identity, attempt) for identity, attempt in attempts.items()))
        with suppress(OSError), opened_state(self._state_dir) as directory:
            remove(Place(directory, _LOG))


def _entry(identity: Identity, attempt: Attempt) -> _Entry:
    name, path = identity
    return _Entry(name=name, path=path, **asdict(attempt))


def _attempt(entry: _Entry) -> Attempt:
    return Attempt(**entry.model_dump(exclude={"name", "path"}))


@contextmanager
def _opened_log(state_dir: Path) -> Iterator[int | None]:
    """Open the log; yield its descriptor, or None if there is no log."""
    descriptor = None
    with suppress(OSError), opened_state(state_dir) as directory:
        descriptor = Place(directory, _LOG).open()
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lines(log: int | None, path: str) -> Iterator[_Line]:
    """Yield the valid lines; an incomplete one is skipped. Raises StateError for one of a later version."""
    if log is None:
        return
    with suppress(OSError), open(log, "rb", closefd=False) as file:
        for line in file.read(_LONGEST_LOG).splitlines():
            with suppress(ValueError, OverflowError, RecursionError, ValidationError):
                yield _Line.model_validate(understood(json.loads(line), path))
