"""Times at which a pass of the daemon or a check of the running services is due."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.service_rules import changes_without_event
from certmond.pki.services.outage import CHECK_INTERVAL, has_outage
from certmond.pki.services.staleness import Surroundings

_CHECKS_SERVICES = frozenset({"start", "reload", "resync", "step", "retry", "clock"})


@immutable(slots=False)
class Cause:
    """The cause of a pass, and the files that the pass reads."""

    name: str
    # The changed paths ("directory/name"), or None for all files.
    touched: frozenset[str] | None
    # Time of the first event on the monotonic clock.
    since: float | None = None

    @property
    def checks_services(self) -> bool:
        """Whether the daemon checks the running services after this pass."""
        return self.name in _CHECKS_SERVICES


@immutable
class Deadlines:
    """Intervals and times that determine the next pass."""

    # Intervals between full scans. `poll` is None if inotify reports every change.
    resync: timedelta
    poll: timedelta | None
    assessed_at: datetime | None
    # Time of the next attempt to execute the plan, on the monotonic clock.
    retry_at: float | None
    # Times at which a finding, the plan or the rotation changes.
    instants: tuple[datetime, ...]


class PassSchedule:
    """Schedule of full scans and of checks of the running services."""

    def __init__(self) -> None:
        self._scanned_at = self._resynced_at = 0.0
        self._service_check_at: float | None = None

    def full_scan_begins(self, cause: Cause, now: float) -> None:
        """Record `now`, on the monotonic clock, as the start of the last full scan.

        A scan that checks no services, such as a poll, does not postpone the next resync.
        """
        self._scanned_at = now
        if cause.checks_services:
            self._resynced_at = now

    def check_services_within(self, seconds: float) -> None:
        """Schedule a check of the running services in `seconds`, unless an earlier check is already scheduled."""
        at = time.monotonic() + seconds
        # Keep the earlier time: otherwise frequent passes would postpone the check without end.
        self._service_check_at = min(self._service_check_at or at, at)

    def check_later(self, assessment: Assessment, surroundings: Surroundings, poll: timedelta) -> None:
        """Schedule a check of services whose state can change without an event.

        Such a service has an old certificate, refuses TLS handshakes, or does not run.
        """
        if any(changes_without_event(status.seen, status.presence) for status in assessment.statuses):
            self.check_services_within(poll.total_seconds())
        if has_outage(surroundings):
            self.check_services_within(CHECK_INTERVAL.total_seconds())

    def service_check_begins(self) -> bool:
        """Return whether a check of the running services is due, and remove the check from the schedule."""
        if not self._service_check_at or time.monotonic() < self._service_check_at:
            return False
        self._service_check_at = None
        return True

    def due(self, deadlines: Deadlines, now: datetime) -> Cause | None:
        """Return the cause of the pass that is due at the system time `now`, or None if no pass is due."""
        if name := next((name for name, seconds in self._scans(deadlines) if seconds <= 0), None):
            return Cause(name, None)
        if deadlines.assessed_at and now < deadlines.assessed_at:
            return Cause("clock", None)
        if deadlines.retry_at and time.monotonic() >= deadlines.retry_at:
            return Cause("retry", frozenset())
        return Cause("deadline", frozenset()) if any(now >= instant for instant in deadlines.instants) else None

    def seconds_left(self, deadlines: Deadlines, now: datetime) -> float:
        """Return the seconds until the first deadline or service check. A negative number means a missed deadline."""
        left = [seconds for _, seconds in self._scans(deadlines)]
        left += [at - time.monotonic() for at in (self._service_check_at, deadlines.retry_at) if at]
        left += [(instant - now).total_seconds() for instant in deadlines.instants]
        return min(left)

    def _scans(self, deadlines: Deadlines) -> Iterator[tuple[str, float]]:
        """Yield the name and the remaining seconds of each interval between full scans."""
        now = time.monotonic()
        yield "resync", self._resynced_at + deadlines.resync.total_seconds() - now
        if deadlines.poll is not None:
            yield "poll", self._scanned_at + deadlines.poll.total_seconds() - now
