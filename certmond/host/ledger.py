"""What certmond remembers of its renewals from one process to the next: the last attempt for each certificate.

Owns `<state directory>/renewals.json`. It is a memory, not a source of truth: without it nothing is wrong but that a
failure is tried again sooner. What is remembered of files that are gone is forgotten, but for the latest. Holds no key;
times are UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from certmond.host.memory import Memory
from certmond.host.place import can_be_a_path
from certmond.pki.fields import Instant
from certmond.pki.plan import Attempt
from certmond.pki.steps import Identity

_ABSENT = 100
"""Of so many files that are gone the attempts are kept: those that were tried last, for they may come back."""


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


class Ledger:
    """The attempts, by name and path of the certificate. Who writes holds the lock of the transactions, and says
    whether a file is `there`.
    """

    def __init__(self, state_dir: Path, there: Callable[[str], bool] = lambda _: True) -> None:
        self._there, self._enough = there, 2 * _ABSENT
        self._memory = Memory(state_dir, "renewals.json", TypeAdapter(tuple[_Entry, ...]))

    def attempts(self) -> dict[Identity, Attempt]:
        """What is remembered; nothing where the file is not there or cannot be used."""
        entries = self._memory.read() or ()
        return {(entry.name, entry.path): Attempt(**entry.model_dump(exclude={"name", "path"})) for entry in entries}

    def renewed(self) -> dict[str, datetime]:
        """When certmond put a certificate in place, by its SHA-256."""
        return {each.sha256: each.put_in_place_at for each in self.attempts().values() if each.sha256}

    def remember(self, identity: Identity, attempt: Attempt) -> None:
        """Note the last attempt for a certificate. Raises WriteError."""
        self._write(self._without_gone({**self.attempts(), identity: attempt}))

    def check(self) -> None:
        """Raise WriteError where nothing could be noted now."""
        self._write(self.attempts())

    def forget(self, identity: Identity) -> None:
        """As if it had never been tried. Raises WriteError."""
        self._write({other: attempt for other, attempt in self.attempts().items() if other != identity})

    def tidy(self) -> None:
        """Remove what a process left that was killed while it noted something."""
        self._memory.tidy()

    def _without_gone(self, attempts: Mapping[Identity, Attempt]) -> Mapping[Identity, Attempt]:
        """Looks at the files only where many attempts have come since it did so last: that takes its time."""
        if len(attempts) <= self._enough:
            return attempts
        gone = [identity for identity in attempts if not self._there(identity[1])]
        forgotten = set(sorted(gone, key=lambda identity: attempts[identity].at)[:-_ABSENT])
        kept = {identity: attempt for identity, attempt in attempts.items() if identity not in forgotten}
        self._enough = len(kept) + _ABSENT
        return kept

    def _write(self, attempts: Mapping[Identity, Attempt]) -> None:
        entries = [_Entry(name=name, path=path, **asdict(each)) for (name, path), each in attempts.items()]
        self._memory.write(tuple(entries))
