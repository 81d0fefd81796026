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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from certmond.host.place import Place, blaming, opened
from certmond.host.staging import make_directory, new_file, remove
from certmond.pki.plan import Attempt, Identity

_NAME, _DRAFT = "renewals.json", ".renewals.json.new"
_TIMES = frozenset({"at", "wait_until"})


class Ledger:
    """The attempts, by name and path of the certificate. Who writes holds the lock of the transactions."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def attempts(self) -> dict[Identity, Attempt]:
        """What is remembered; nothing where the file is not there or cannot be used."""
        try:
            entries = json.loads((self._state_dir / _NAME).read_bytes())
            return {(str(entry["name"]), str(entry["path"])): _attempt(entry) for entry in entries}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def renewed(self) -> dict[str, datetime]:
        """When certmond put a certificate in place, by its SHA-256."""
        return {attempt.sha256: attempt.at for attempt in self.attempts().values() if attempt.sha256}

    def remember(self, identity: Identity, attempt: Attempt) -> None:
        """Note the last attempt for a certificate. Raises WriteError."""
        self._write({**self.attempts(), identity: attempt})

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


def _plain(attempt: Attempt) -> Mapping[str, Any]:
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in asdict(attempt).items()}


def _attempt(entry: Mapping[str, Any]) -> Attempt:
    fields = {key: value for key, value in entry.items() if key not in {"name", "path"}}
    times = {key: _time(fields[key]) for key in _TIMES.intersection(fields) if fields[key]}
    return Attempt(**{**fields, **times})


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
