"""Handler that passes records of the standard library's `logging` to the journal.

The log contains only the type and the place of an exception, because the text of an exception might quote a key.
"""

from __future__ import annotations

import logging

from certmond.errors import defect
from certmond.notify.event_log import Event, Journal


class _Handler(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the arguments of a library do not fit its text
            message = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, Exception):
            message = f"{message}: {defect(error)}"
        kind = Event(getattr(record, "kind", Event.LIBRARY))
        fields = {"logger": record.name} if kind is Event.LIBRARY else {}
        for line in message.splitlines():
            self._journal.tell(kind, line, _level(record.levelno), **fields)


def log_to(journal: Journal) -> None:
    """Log the records of this process with the level WARNING or higher to `journal`."""
    root = logging.getLogger()
    for former in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(former)
    root.addHandler(_Handler(journal))


def _level(number: int) -> str:
    if number >= logging.CRITICAL:
        return "critical"
    return "error" if number >= logging.ERROR else "warning"
