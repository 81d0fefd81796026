"""Audit trail of all steps, in the journal and in a separate log.

This module writes `<state directory>/audit.log`, an append-only file with one JSON object per line. certmond starts a
step only after the entry of the step is on the disk.
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from certmond.errors import WriteError
from certmond.immutable_class import immutable
from certmond.notify.event_log import Event, Journal
from certmond.pki.findings import printable
from certmond.redaction import redacted
from certmond.state.append_only_file import append

LOG = "audit.log"
DAEMON = "daemon"

_NONE: Mapping[str, str | None] = MappingProxyType({})
_NO_LOGIN = 0xFFFFFFFF  # the login UID of a process without a login session (proc_pid_loginuid(5))


@immutable
class Note:
    """An entry of the audit trail."""

    event: Event
    message: str
    fields: Mapping[str, str | None] = field(default_factory=dict)


class Audit:
    """The writer of the audit trail. `actor` is "daemon", or the result of `caller`."""

    def __init__(self, journal: Journal, state_dir: Path, actor: str) -> None:
        self._journal = journal
        self._state_dir = state_dir
        self._actor = printable(actor)

    def note(
        self, event: Event, at: datetime, message: str, level: str = "info", fields: Mapping[str, str | None] = _NONE
    ) -> None:
        """Write an entry to audit.log, and then to the journal.

        Raises WriteError if certmond cannot write audit.log. In this case, the caller must not execute the step.
        """
        self.note_all([Note(event, message, fields)], at, level)

    def note_all(self, notes: Sequence[Note], at: datetime, level: str = "info") -> None:
        """Write several entries to audit.log in one write, and then to the journal.

        Raises WriteError if certmond cannot write audit.log.
        """
        self._log(notes, at)
        for note in notes:
            self._tell(note.event, note.message, level, note.fields)

    def conclude(
        self, event: Event, at: datetime, message: str, level: str = "info", fields: Mapping[str, str | None] = _NONE
    ) -> None:
        """Write an entry to audit.log, and then to the journal.

        If certmond cannot write audit.log, also log this error to the journal.
        """
        try:
            self._log([Note(event, message, fields)], at)
        except WriteError as error:
            self._journal.tell(Event.STEP_FAILED, str(error), "error")
        self._tell(event, message, level, fields)

    def _log(self, notes: Sequence[Note], at: datetime) -> None:
        lines = (
            {"at": at.isoformat(), "event": note.event.value, "by": self._actor, **_given(note.fields),
             "message": printable(redacted(note.message))}
            for note in notes
        )  # fmt: skip
        append(self._state_dir, LOG, [json.dumps(line, ensure_ascii=False).encode() for line in lines])

    def _tell(self, event: Event, message: str, level: str, fields: Mapping[str, str | None]) -> None:
        self._journal.tell(event, message, level, by=self._actor, **_given(fields))


def _given(fields: Mapping[str, str | None]) -> dict[str, str]:
    return {name: printable(redacted(value)) for name, value in fields.items() if value is not None}


def caller() -> str:
    """Return the name of the effective user, or "LOGIN as EFFECTIVE" after a login under another name.

    The login name belongs to the login UID of this process. Without a login UID, the login name is SUDO_USER.
    """
    name = _user(os.geteuid())
    with suppress(OSError, ValueError):
        login = int(Path("/proc/self/loginuid").read_text("ascii"))
        if login != _NO_LOGIN:
            return name if _user(login) == name else f"{_user(login)} as {name}"
    sudo = os.environ.get("SUDO_USER")
    return f"{sudo} as {name}" if sudo and sudo != name else name


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
