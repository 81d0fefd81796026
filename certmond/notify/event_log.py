"""Log of `certmond run`, `certmond serve` and the commands.

This module defines the kinds of events with their MESSAGE_IDs. No entry contains a key or the content of a file.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum

from certmond.notify import renderers
from certmond.notify.structlog_subset import (
    BoundLoggerBase,
    EventDict,
    WrappedLogger,
    add_log_level,
    bound_contextvars,
    merge_contextvars,
)
from certmond.pki.findings import printable
from certmond.redaction import redacted_value

LONGEST = 4096
"""Maximum number of characters of a message or a field in the log."""
RECENT = 50
_SOCKET = "/run/systemd/journal/socket"  # systemd-journald.service(8)


class Event(StrEnum):
    """Kinds of events. Each kind has a constant MESSAGE_ID, so `journalctl MESSAGE_ID=…` finds all events of a kind."""

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
    WEB_EXPOSED = "web_exposed"
    WEB_CONFIG_REFUSED = "web_config_refused"
    REQUEST_FAILED = "request_failed"
    CONDITION_FAILED = "condition_failed"
    LIBRARY = "library"


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
    Event.WEB_EXPOSED: "c725a5596dfe4a9a8e256660420c2f7d",
    Event.WEB_CONFIG_REFUSED: "57ae3c3911be4ba8b200ccff7748bd89",
    Event.REQUEST_FAILED: "90ee0b468e104a75b178d127b1fc31ee",
    Event.CONDITION_FAILED: "a1c0f3b5d27e4e0f9b6c84d5e3f7192a",
    Event.LIBRARY: "6fc11b4eab2a4995976d5a60b2d6048c",
}

_RENDERERS = {
    "journal": renderers.journald, "plain": renderers.console, "json": renderers.json_lines,
    "message": renderers.sentences, "none": renderers.nowhere,
}  # fmt: skip

bound = bound_contextvars
"""`with bound(certificate=…, path=…):` adds these fields to each event that this thread logs in the block.

A field of the event itself takes precedence.
"""


class Journal:
    """Writer of events to the log.

    `style` is "journal", "plain", "json", "message" or "none". The values "auto" and "serve" select "journal" if
    journald reads standard error, otherwise "plain" and "message". The value "command" selects "journal" if journald
    runs, otherwise "none".
    """

    def __init__(self, style: str = "auto", verbose: bool = False) -> None:
        if style in {"auto", "serve"}:
            style = "journal" if _stderr_is_of_journald() else {"auto": "plain", "serve": "message"}[style]
        if style == "command":  # a command prints its result, so only journald needs the events
            style = "journal" if os.path.exists(_SOCKET) else "none"
        self.recent: deque[dict[str, str]] = deque(maxlen=RECENT)
        """The last entries, newest first, for the status page."""
        self.logged = 0
        self._verbose = verbose
        renderer = _RENDERERS[style]()
        self._logger = _EventLogger(
            renderer.logger,
            [
                merge_contextvars, _redact, _shorten, add_log_level, _add_message_id, _add_timestamp, self._keep_recent,
                renderer.render,
            ],
            {},
        )  # fmt: skip

    def tell(self, event: Event, message: str, level: str = "info", **fields: object) -> None:
        """Log one event. `fields` become CERTMOND_… fields of the journal."""
        self._log(event, message, level, fields)

    def detail(self, event: Event, message: str, **fields: object) -> None:
        """Log a detail if `--verbose` is set. The status page shows no details."""
        if self._verbose:
            self._log(event, message, "debug", fields)

    def _log(self, event: Event, message: str, level: str, fields: Mapping[str, object]) -> None:
        with suppress(
            OSError
        ):  # stderr is closed, the disk is full or journald has stopped: continue without the entry
            self._logger.log(level, message, {"kind": event.value, **fields})

    def _keep_recent(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if event["level"] != "debug":
            at = f"{event['timestamp'][:19]}Z"
            shown = {"at": at, "event": event["kind"], "level": event["level"], "message": event["event"]}
            self.recent.appendleft(shown)
            self.logged += 1
        return event


class _EventLogger(BoundLoggerBase):
    """A structlog logger with one method, whose first argument is the level."""

    def log(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        self._proxy_to_logger(level, message, **fields)


def _stderr_is_of_journald() -> bool:
    """Return whether journald reads the standard error of this process (systemd.exec(5)).

    The presence of JOURNAL_STREAM is not sufficient, because a terminal can inherit this variable from a service.
    """
    with suppress(OSError):
        found = os.fstat(2)
        return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return False


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: redacted_value(value) for name, value in event.items()}


def _shorten(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: _shown(value) if isinstance(value, str) else value for name, value in event.items()}


def _add_message_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**event, "message_id": MESSAGE_IDS[Event(event["kind"])]}


def _add_timestamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**event, "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def _shown(text: str) -> str:
    """Return the text on one line. Omit the middle of a long text, because a message ends with the remedy."""
    shown = printable(text)
    if len(shown) <= LONGEST:
        return shown
    return f"{shown[: LONGEST // 2]} … ({len(shown) - LONGEST} characters) … {shown[-LONGEST // 2 :]}"
