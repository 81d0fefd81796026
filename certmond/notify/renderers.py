"""Renderers of log entries: for journald, for a console, as JSON lines, as messages only, and without output."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

from certmond.notify.structlog_subset import EventDict, Processor, WrappedLogger

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)


class Renderer(NamedTuple):
    """The processor that renders an event, and the logger that writes the result."""

    render: Processor
    logger: WrappedLogger


class JournaldLogger:
    """Logger that sends entries to journald, or to stderr if journald does not answer."""

    def msg(self, message: str, **fields: object) -> None:
        import systemd.journal  # noqa: PLC0415 - a laptop without libsystemd writes plain lines

        try:
            systemd.journal.send(message, **fields)
        except OSError:
            sys.stderr.write(f"{message}\n")

    debug = info = warning = error = critical = msg


class StderrLogger:
    """Logger that writes each line immediately to standard error."""

    def msg(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    debug = info = warning = error = critical = msg


class NoLogger:
    """Logger that writes nothing."""

    def msg(self, message: str) -> None: ...

    debug = info = warning = error = critical = msg


def journald() -> Renderer:
    """Return the renderer for the systemd journal, with a CERTMOND_… field for each field of the event."""
    return Renderer(_journal_entry, JournaldLogger())


def console() -> Renderer:
    """Return the renderer that writes readable lines to standard error, with colors on a terminal."""
    import structlog.dev  # noqa: PLC0415 - 3.5 MB with rich, which only a terminal needs

    return Renderer(_line(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)), StderrLogger())


def json_lines() -> Renderer:
    """Return the renderer that writes one JSON object per line to standard error."""
    import structlog.processors  # noqa: PLC0415 - as in `console`

    return Renderer(_line(structlog.processors.JSONRenderer()), StderrLogger())


def sentences() -> Renderer:
    """Return the renderer that writes only the message of each event to standard error."""
    return Renderer(lambda _logger, _method, event: str(event["event"]), StderrLogger())


def nowhere() -> Renderer:
    """Return the renderer that writes nothing, for a command that prints its result."""
    return Renderer(lambda _logger, _method, event: str(event["event"]), NoLogger())


def _line(render: Processor) -> Processor:
    """Return a processor that renders an event without its MESSAGE_ID, which only journald uses."""
    return lambda logger, method, event: render(logger, method, _without(event, {"message_id"}))


def _journal_entry(_logger: WrappedLogger, _method: str, event: EventDict) -> tuple[tuple[str], Mapping[str, object]]:
    """Return the arguments of `JournaldLogger.msg`. journald adds the timestamp."""
    others = _without(event, {"event", "level", "timestamp", "message_id"})
    return (event["event"],), {
        "MESSAGE_ID": event["message_id"], "PRIORITY": _PRIORITIES[event["level"]], "SYSLOG_IDENTIFIER": "certmond",
        **{f"CERTMOND_{name.upper()}": str(value) for name, value in others.items()},
    }  # fmt: skip


def _without(event: EventDict, names: set[str]) -> EventDict:
    return {name: value for name, value in event.items() if name not in names}
