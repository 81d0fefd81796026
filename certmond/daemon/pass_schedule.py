"""Schedule of the loop: when a pass or a check of the running services is due without an event.

Intervals count on the monotonic clock. The caller passes the system time. Starts no pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

_CHECKS_SERVICES = frozenset({"start", "reload", "resync", "step", "retry", "clock"})


@dataclass(frozen=True)
class Cause:
    """The cause of a pass, and its scope: `touched` has the changed paths ("directory/name"), or None for all files.

    `since` is the time of the first event, on the monotonic clock.
    """

    name: str
    touched: frozenset[str] | None
    since: float | None = None

    @property
    def checks_services(self) -> bool:
        """Return whether a check of the running services follows the pass."""
        return self.name in _CHECKS_SERVICES


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The deadlines after a pass.

    `resync` and `poll` count from the last full scan. `poll` is None if inotify reports every change. `assessed_at` is
    the time of the last assessment. `retry_at` is on the monotonic clock. At one of the `instants`, a verdict, the plan
    or the rotation changes without an event.
    """

    resync: timedelta
    poll: timedelta | None
    assessed_at: datetime | None
    retry_at: float | None
    instants: tuple[datetime, ...]


class PassSchedule:
    """The schedule of one loop."""

    def __init__(self) -> None:
        self._scanned_at = 0.0
        self._service_check_at: float | None = None

    def full_scan_begins(self, now: float) -> None:
        """Record the start of a scan of all files, on the monotonic clock."""
        self._scanned_at = now

    def check_services_within(self, seconds: float) -> None:
        """Schedule a check of the running services in `seconds`, or keep an earlier check that is scheduled.

        Without this rule, frequent passes, such as those with polling, would always postpone the check.
        """
        at = time.monotonic() + seconds
        self._service_check_at = min(self._service_check_at or at, at)

    def service_check_begins(self) -> bool:
        """Return whether the scheduled check of the running services is due, and remove it from the schedule."""
        if not self._service_check_at or time.monotonic() < self._service_check_at:
            return False
        self._service_check_at = None
        return True

    def due(self, deadlines: Deadlines, now: datetime) -> Cause | None:
        """Return the cause of the pass that is due, or None."""
        if name := next((name for name, seconds in self._scans(deadlines) if seconds <= 0), None):
            return Cause(name, None)
        if deadlines.assessed_at and now < deadlines.assessed_at:
            return Cause("clock", None)
        if deadlines.retry_at and time.monotonic() >= deadlines.retry_at:
            return Cause("retry", frozenset())
        return Cause("deadline", frozenset()) if any(now >= instant for instant in deadlines.instants) else None

    def seconds_left(self, deadlines: Deadlines, now: datetime) -> float:
        """Return the seconds until the first deadline. Negative if the deadline has passed."""
        left = [seconds for _, seconds in self._scans(deadlines)]
        left += [at - time.monotonic() for at in (self._service_check_at, deadlines.retry_at) if at]
        left += [(instant - now).total_seconds() for instant in deadlines.instants]
        return min(left)

    def _scans(self, deadlines: Deadlines) -> Iterator[tuple[str, float]]:
        """Yield the cause of each full scan, and the seconds until it is due."""
        elapsed = time.monotonic() - self._scanned_at
        yield "resync", deadlines.resync.total_seconds() - elapsed
        if deadlines.poll is not None:
            yield "poll", deadlines.poll.total_seconds() - elapsed
