"""What certmond remembers of its renewals from one process to the next: the last attempt for each certificate.

Owns `<state directory>/renewals.json`. It is a memory, not a source of truth: without it nothing is wrong but that a
failure is tried again sooner. Holds no key; times are UTC.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter

from certmond.host.place import Place, blaming, can_be_a_path, opened
from certmond.host.staging import make_directory, new_file, remove
from certmond.pki.plan import Attempt
from certmond.pki.steps import Identity

_NAME, _DRAFT = "renewals.json", ".renewals.json.new"


def _usable(at: datetime) -> datetime:
    """In UTC, and with a year to either end of the calendar: the planner counts on from it."""
    at = at.astimezone(UTC)
    if not MINYEAR < at.year < MAXYEAR:
        raise ValueError("is no time at which anything was renewed")
    return at


_Instant = Annotated[AwareDatetime, AfterValidator(_usable)]


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
    at: _Instant
    failures: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    message: str = ""
    sha256: str | None = None
    issued_at: _Instant | None = None
    wait_until: _Instant | None = None
    cookie: _Text | None = None


_ENTRIES = TypeAdapter(tuple[_Entry, ...])


class Ledger:
    """The attempts, by name and path of the certificate. Who writes holds the lock of the transactions."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def attempts(self) -> dict[Identity, Attempt]:
        """What is remembered; nothing where the file is not there or cannot be used."""
        try:
            with opened(self._state_dir) as directory:
                entries = _ENTRIES.validate_python(json.loads(Place(directory, _NAME).read()))
        except (OSError, ValueError, OverflowError, RecursionError):
            return {}
        return {(entry.name, entry.path): Attempt(**entry.model_dump(exclude={"name", "path"})) for entry in entries}

    def renewed(self) -> dict[str, datetime]:
        """When certmond put a certificate in place, by its SHA-256."""
        return {each.sha256: each.put_in_place_at for each in self.attempts().values() if each.sha256}

    def remember(self, identity: Identity, attempt: Attempt) -> None:
        """Note the last attempt for a certificate. Raises WriteError."""
        self._write({**self.attempts(), identity: attempt})

    def check(self) -> None:
        """Raise WriteError where nothing could be noted now."""
        self._write(self.attempts())

    def forget(self, identity: Identity) -> None:
        """As if it had never been tried. Raises WriteError."""
        self._write({other: attempt for other, attempt in self.attempts().items() if other != identity})

    def _write(self, attempts: Mapping[Identity, Attempt]) -> None:
        entries = [{"name": name, "path": path, **_plain(each)} for (name, path), each in attempts.items()]
        with blaming(str(self._state_dir)):
            make_directory(self._state_dir)
            with opened(self._state_dir) as directory:
                remove(Place(directory, _DRAFT))
                with new_file(Place(directory, _DRAFT), json.dumps(entries, indent=1).encode()):
                    pass
                os.rename(_DRAFT, _NAME, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)

    def tidy(self) -> None:
        """Remove what a process left that was killed while it noted something."""
        with suppress(OSError), opened(self._state_dir) as directory:
            remove(Place(directory, _DRAFT))


def _plain(attempt: Attempt) -> dict[str, object]:
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in asdict(attempt).items()}
