"""Evaluation of the heartbeat of the daemon: whether the daemon is alive, and whether its output is current."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

ALIVE_SECONDS = 30  # the daemon rewrites its heartbeat at least every 10 s
UNREADABLE = (KeyError, OSError, OverflowError, RecursionError, TypeError, ValueError)
"""Exceptions that an invalid heartbeat can cause."""
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
    """Return the reason for which the daemon does not count as alive, or None if its heartbeat is recent."""
    age = now - beat.alive_at
    if abs(age) < ALIVE_SECONDS:  # this comparison is false for NaN
        return None
    return f"the daemon's last heartbeat is {age:.0f} s old, but the daemon writes one every 10 s: {SEE_JOURNAL}"


def silence(runtime_dir: Path) -> str | None:
    """Read the heartbeat in `runtime_dir`.

    Return why the daemon does not count as alive, or None if its heartbeat is recent.
    """
    path = runtime_dir / "heartbeat.json"
    try:
        return not_alive(Heartbeat.parse(path.read_bytes()), time.time())
    except FileNotFoundError:
        return "the daemon is not running: start it with `systemctl start certmond`"
    except UNREADABLE as error:
        return f"{path} contains no valid heartbeat ({error!r}): {SEE_JOURNAL}"


def not_ready(beat: Heartbeat, now: float) -> str | None:
    """Return the reason for which the output of the daemon is not current, or None if its last pass is recent."""
    if beat.pass_at is None or not beat.ready:
        return f"the daemon has not completed its first pass: {SEE_JOURNAL}"
    age, limit = now - beat.pass_at, 2 * beat.resync + 60
    if abs(age) < limit:
        return None
    return f"the daemon's last pass is {age:.0f} s old, but the limit is {limit:.0f} s: {SEE_JOURNAL}"


def halted(text: bytes | None, now: float) -> str | None:
    """Return a sentence for the page if the daemon has stopped, its heartbeat is invalid, or its output is not current.
    Otherwise return None.

    The sentence contains a time instead of an age, so that the page does not change every second.
    """
    if text is None:
        return "The daemon is not running"
    try:
        beat = Heartbeat.parse(text)
        if not_alive(beat, now):
            return f"The daemon has written no heartbeat since {_written(beat.alive_at)}"
        if not_ready(beat, now):
            passed = f"The daemon's last pass was at {_written(beat.pass_at)}" if beat.pass_at else None
            return passed or "The daemon has not completed its first pass"
    except UNREADABLE:
        return "certmond cannot read the daemon's heartbeat"
    return None


def _written(instant: float) -> str:
    return f"{datetime.fromtimestamp(instant, UTC):%Y-%m-%d %H:%M:%S} UTC"
