"""What certmond remembers of its renewals from one process to the next: the last attempt for each certificate.

Owns `<state directory>/renewals.json` and, while many renewals are under way, `renewals.log` beside it: one line for
each attempt that the document does not have yet. It is a memory, not a source of truth: without it nothing is wrong but
that a failure is tried again sooner. Attempts of files that are gone are dropped, but for the latest ones and those of
the last hour. Holds no key; times are UTC.
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
from certmond.host.lines import append
from certmond.host.memory import Memory
from certmond.host.place import Place, can_be_a_path
from certmond.host.staging import remove
from certmond.host.state_directory import VERSION, opened_state, understood
from certmond.pki.attempt import Attempt
from certmond.pki.entry_share import RENEWALS, WINDOW
from certmond.pki.fields import Instant
from certmond.pki.steps import Identity

_LOG = "renewals.log"
_LONGEST_LOG = 64 << 20
"""Bytes that are read of the log."""
_ABSENT = 100
"""Of so many files that are gone the attempts are kept: those that were tried last, for they may come back. Besides
these, the last one for each common name of an entry is kept, as its owner may put a former certificate in a file of
another name, and those of an hour, which count in the quota of their entry.
"""


def _nameable(text: str) -> str:
    if not can_be_a_path(text):
        raise ValueError("is nothing that a name, a path or a cookie could be")
    return text


_Text = Annotated[str, AfterValidator(_nameable)]


class _Entry(BaseModel):
    """An attempt in the file. What a later version adds is passed over."""

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
    """A line of the log: an attempt, or that the certificate's attempt is forgotten."""

    model_config = ConfigDict(frozen=True)

    entry: _Entry
    forgotten: bool = False


class Ledger:
    """The attempts, by name and path of the certificate. Who writes holds the lock of the transactions, and says
    whether a file is `there`.
    """

    def __init__(self, state_dir: Path, there: Callable[[str], bool] = lambda _: True) -> None:
        self._there, self._enough = there, 2 * _ABSENT
        self._state_dir = state_dir
        self._memory = Memory(state_dir, "renewals.json", TypeAdapter(tuple[_Entry, ...]))
        self._held: dict[Identity, Attempt] | None = None
        self._written = self._noted = False

    def attempts(self) -> dict[Identity, Attempt]:
        """Return what is remembered; nothing where neither file is there or can be used."""
        return self._load() if self._held is None else dict(self._held)

    def renewed(self) -> dict[str, datetime]:
        """When certmond put a new certificate in place, by its SHA-256: not one from the archive."""
        new = (each for each in self.attempts().values() if not each.restored)
        return {each.sha256: each.put_in_place_at for each in new if each.sha256}

    def remember(self, identity: Identity, attempt: Attempt) -> None:
        """Note the last attempt for a certificate. Raises WriteError."""
        if self._held is None:
            self._write(self._without_gone({**self._load(), identity: attempt}))
        else:
            self._note(identity, attempt)
            self._held[identity] = attempt

    def check(self) -> None:
        """Raise WriteError where nothing could be noted now."""
        if self._held is None or not self._written:
            self._write(self.attempts())
            self._written = True
        else:
            append(self._state_dir, _LOG, [b""])  # an empty line says nothing, and shows that another has room

    def forget(self, identity: Identity) -> None:
        """As if it had never been tried. Raises WriteError."""
        if self._held is None:
            self._write({other: attempt for other, attempt in self._load().items() if other != identity})
        elif before := self._held.get(identity):
            self._note(identity, before, forgotten=True)
            del self._held[identity]

    def tidy(self) -> None:
        """Remove what a process left that was killed while it noted something."""
        self._memory.tidy()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Note each attempt as a line of the log, and write the document once, at the end of the `with`.

        Each attempt is on the disk when `remember` returns, as without. A process that is killed leaves the log, which
        every `attempts` reads, and which the next document replaces.
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
        with suppress(StateError), _opened_log(self._state_dir) as log:  # before the document, which removes the log
            known = {(each.name, each.path): _attempt(each) for each in self._memory.read() or ()}
            for line in _lines(log, str(self._state_dir / _LOG)):
                identity = line.entry.name, line.entry.path
                known.pop(identity, None)
                if not line.forgotten:
                    known[identity] = _attempt(line.entry)
        return known

    def _without_gone(self, attempts: Mapping[Identity, Attempt]) -> Mapping[Identity, Attempt]:
        """Looks at the files only where many attempts have come since it did so last: that takes its time."""
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
        """Write the document, and remove the log that it takes over. Raises WriteError, StateError."""
        with _opened_log(self._state_dir) as log:
            for _ in _lines(log, str(self._state_dir / _LOG)):
                pass  # one of a later version is not removed
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
    """A descriptor of the log; None where there is none."""
    descriptor = None
    with suppress(OSError), opened_state(state_dir) as directory:
        descriptor = Place(directory, _LOG).open()
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lines(log: int | None, path: str) -> Iterator[_Line]:
    """The lines that can be used: a torn one is passed over. Raises StateError for one of a later version."""
    if log is None:
        return
    with suppress(OSError), open(log, "rb", closefd=False) as file:
        for line in file.read(_LONGEST_LOG).splitlines():
            with suppress(ValueError, OverflowError, RecursionError, ValidationError):
                yield _Line.model_validate(understood(json.loads(line), path))
