"""The journal of certmond: one entry for each event, with structured fields and a MESSAGE_ID for its kind.

Owns the kinds of events and three outputs: the systemd journal, plain lines, JSON lines. An entry reports an event, not
a lasting state. No entry has a key or a file's content.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum

from certmond.pki.findings import printable

LONGEST = 4096
"""Characters of a message or a field that are written."""
RECENT = 50
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)
_SOCKET = "/run/systemd/journal/socket"  # systemd-journald.service(8)


class Event(StrEnum):
    """The kinds of events. Each has a constant MESSAGE_ID: `journalctl MESSAGE_ID=…` finds them all."""

    STARTED = "started"
    STOPPED = "stopped"
    RELOADED = "reloaded"
    RELOAD_REFUSED = "reload_refused"
    FINDING_RAISED = "finding_raised"
    FINDING_CLEARED = "finding_cleared"
    CERTIFICATE_CHANGED = "certificate_changed"
    CERTIFICATE_GONE = "certificate_gone"
    LEFT_OUT = "left_out"
    WATCH_OVERFLOW = "watch_overflow"
    WATCH_DEGRADED = "watch_degraded"
    PUBLISH_FAILED = "publish_failed"
    STEP_PLANNED = "step_planned"
    STEP_HELD = "step_held"
    STEP_BEGUN = "step_begun"
    STEP_DONE = "step_done"
    STEP_FAILED = "step_failed"
    RECOVERED = "recovered"
    ROTATION = "rotation"
    HOOK_TOLD = "hook_told"
    HOOK_FAILED = "hook_failed"
    PASSED = "passed"


MESSAGE_IDS = {
    Event.STARTED: "5e1c6f0a93f24b7c8a4f0d1e7b9a2c31",
    Event.STOPPED: "a8b7d0c2f1e94d63b5a2c4e6f8091b23",
    Event.RELOADED: "0f4d2b6c8e1a4c37957b3d5f7a9c1e42",
    Event.RELOAD_REFUSED: "c3e5a7091b2d4f68a0c2e4f61830527d",
    Event.FINDING_RAISED: "7d9f1b3c5e704a2896b8d0f2143658ae",
    Event.FINDING_CLEARED: "91a3c5e7092b4d6f8193b5d7f91b3d5e",
    Event.CERTIFICATE_CHANGED: "2b4d6f81a3c54e7096b8daf21c3e5072",
    Event.CERTIFICATE_GONE: "d1f3a5b7c9e04826a4c6e8f0a1b3d5c7",
    Event.LEFT_OUT: "435a9866473b4bdc87dbdc777bd9f1f9",
    Event.WATCH_OVERFLOW: "64a6c8eaf0124b3597d9fb1d3f507192",
    Event.WATCH_DEGRADED: "ba0c2e4f61734d95a7c9ebfd0f213465",
    Event.PUBLISH_FAILED: "18395a7b9cbd4edf80a1c2e3f4051627",
    Event.STEP_PLANNED: "3f6a1c8e5d0b4927a8e4c2f19b7d6035",
    Event.STEP_HELD: "6de1f5a90b374c28b9f2d04c7a81e36f",
    Event.STEP_BEGUN: "e9b27d4f60c84a1db35f8e0a1c794d62",
    Event.STEP_DONE: "57c0e8a3d19f4b6ea2d47f30b85c9e14",
    Event.STEP_FAILED: "b48d1f6e2a7c4059916e3dc70f82ab5d",
    Event.RECOVERED: "0c95e7b2f84d4a3f8d61ba20e37f5c98",
    Event.ROTATION: "8e3a5b1d7c904f26ad58e1f3b6c27094",
    Event.HOOK_TOLD: "c83a145aa7fa457882147b9574779f4f",
    Event.HOOK_FAILED: "28aa285ec0ae45fb976465f02ac141dd",
    Event.PASSED: "38230448ef064b8fbcb4939e96adeeb9",
}


_Write = Callable[[str, str, Mapping[str, object]], None]
"""Level, message, fields."""


class Journal:
    """Writes events. `style` is "journal", "plain", "json", "none", "auto" or "command".

    "auto" is the journal under systemd, else plain. "command" is for a command that reports to its caller: the journal
    if this host has one, else none.
    """

    def __init__(self, style: str = "auto", verbose: bool = False) -> None:
        if style == "auto":
            style = "journal" if "JOURNAL_STREAM" in os.environ else "plain"
        if style == "command":
            style = "journal" if os.path.exists(_SOCKET) else "none"
        self.recent: deque[dict[str, str]] = deque(maxlen=RECENT)
        """The last entries, the newest first, in plain types."""
        self.told = 0
        self._verbose = verbose
        self._write: _Write = {"journal": _to_journal, "none": _to_nobody}.get(style) or _to_reader(style)

    def tell(self, event: Event, message: str, level: str = "info", **fields: object) -> None:
        """Write an entry. `fields` become CERTMOND_… fields of the journal."""
        at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self.recent.appendleft({"at": at, "event": event.value, "level": level, "message": _shown(message)})
        self.told += 1
        self._put(event, message, level, fields)

    def detail(self, event: Event, message: str, **fields: object) -> None:
        """Write an entry of level debug, with `--verbose` only. It reports no event and is not in `recent`."""
        if self._verbose:
            self._put(event, message, "debug", fields)

    def _put(self, event: Event, message: str, level: str, fields: Mapping[str, object]) -> None:
        shown = {name: _shown(value) if isinstance(value, str) else value for name, value in fields.items()}
        with suppress(OSError):  # stderr is closed, the disk is full or the journal has stopped: no reason to exit
            self._write(level, _shown(message), {"kind": event.value, **shown})


def _shown(text: str) -> str:
    """Return the text on one line, without the middle of a too long one: the remedy is at its end.

    A name in a kubeconfig may have half a megabyte, and fifty entries are kept.
    """
    shown = printable(text)
    if len(shown) <= LONGEST:
        return shown
    return f"{shown[: LONGEST // 2]} … ({len(shown) - LONGEST} characters) … {shown[-LONGEST // 2 :]}"


def _to_reader(style: str) -> _Write:
    """Return a function that writes one line for each entry to stderr, with structlog."""
    import structlog  # noqa: PLC0415 - 5 MB that a daemon with a journal does not need

    logger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer()
            if style == "json"
            else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0),
        ],
        wrapper_class=structlog.BoundLogger,
    )
    return lambda level, message, fields: getattr(logger, level)(message, **fields)


def _to_nobody(level: str, message: str, fields: Mapping[str, object]) -> None:
    """Write nothing; `recent` has the entry."""


def _to_journal(level: str, message: str, fields: Mapping[str, object]) -> None:
    """Send the entry to journald. If that fails, write the message to stderr."""
    import systemd.journal  # noqa: PLC0415 - without libsystemd, certmond writes plain lines

    kind = Event(str(fields["kind"]))
    try:
        systemd.journal.send(
            message, MESSAGE_ID=MESSAGE_IDS[kind], PRIORITY=_PRIORITIES[level], **dict(_journal_fields(fields))
        )
    except OSError:
        sys.stderr.write(f"{message}\n")


def _journal_fields(fields: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    yield "SYSLOG_IDENTIFIER", "certmond"
    for name, value in fields.items():
        yield f"CERTMOND_{name.upper()}", str(value)
