"""The daemon's sign of life, as it is judged from outside: is its loop alive, and is what it rendered to be relied on.

Knows the form of `heartbeat.json`, which `render` writes. Imports the standard library only.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

ALIVE_SECONDS = 30  # the daemon rewrites its heartbeat at least every ten
UNREADABLE = (KeyError, OSError, OverflowError, RecursionError, TypeError, ValueError)
"""What reading or judging a file raises that is no sign of life, OSError for an instant that no calendar has."""
SEE_JOURNAL = "see `journalctl -u certmond`"


class Heartbeat(NamedTuple):
    alive_at: float
    pass_at: float | None
    resync: float
    ready: bool

    @classmethod
    def parse(cls, text: bytes) -> Self:
        beat = json.loads(text)
        pass_at = None if beat["pass_at"] is None else float(beat["pass_at"])
        return cls(float(beat["alive_at"]), pass_at, float(beat["resync"]), beat["ready"] is True)


def not_alive(beat: Heartbeat, now: float) -> str | None:
    """Why the daemon's loop cannot be called alive; a sign of life ahead of the clock is no better than an old one."""
    age = now - beat.alive_at
    if abs(age) < ALIVE_SECONDS:  # put this way round, NaN is not alive
        return None
    return f"the daemon's last sign of life is {age:.0f} s old; it gives one every 10 s: {SEE_JOURNAL}"


def silence(runtime_dir: Path) -> str | None:
    """Why the daemon that renders into `runtime_dir` cannot be called alive; None where it can."""
    path = runtime_dir / "heartbeat.json"
    try:
        return not_alive(Heartbeat.parse(path.read_bytes()), time.time())
    except UNREADABLE as error:
        return f"{path} is no sign of life ({error!r}): {SEE_JOURNAL}"


def not_ready(beat: Heartbeat, now: float) -> str | None:
    """Why what the daemon rendered should not be relied on."""
    if beat.pass_at is None or not beat.ready:
        return f"the daemon has not completed its first pass: {SEE_JOURNAL}"
    age, limit = now - beat.pass_at, 2 * beat.resync + 60
    if abs(age) < limit:
        return None
    return f"the daemon's last pass is {age:.0f} s old, and {limit:.0f} s is the limit: {SEE_JOURNAL}"


def halted(text: bytes | None, now: float) -> str | None:
    """Why the daemon may not have seen what is new, and since when, in words that stay the same as time goes on; None
    where it has. `text` is its sign of life; None where it left none.
    """
    if text is None:
        return "The daemon is not running"
    try:
        beat = Heartbeat.parse(text)
        if not_alive(beat, now):
            return f"The daemon has given no sign of life since {_written(beat.alive_at)}"
        if not_ready(beat, now):
            passed = f"The daemon's last pass was at {_written(beat.pass_at)}" if beat.pass_at else None
            return passed or "The daemon has not completed its first pass"
    except UNREADABLE:
        return "The daemon's sign of life cannot be read"
    return None


def _written(instant: float) -> str:
    return f"{datetime.fromtimestamp(instant, UTC):%Y-%m-%d %H:%M:%S} UTC"
