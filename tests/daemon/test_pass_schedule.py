"""Schedule of the passes: full scans, and checks of the running services."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from certmond.daemon.pass_schedule import Cause, Deadlines, PassSchedule

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DEADLINES = Deadlines(
    resync=timedelta(minutes=5), poll=timedelta(seconds=10), assessed_at=None, retry_at=None, instants=()
)


def due(schedule: PassSchedule) -> str | None:
    cause = schedule.due(DEADLINES, NOW)
    return cause.name if cause else None


@pytest.mark.parametrize("cause", ["poll", "overflow"])
def test_a_scan_without_a_check_of_services_does_not_postpone_the_resync(cause: str) -> None:
    """The resync checks the services. So it is due `resync` after the last scan that checked them, however often the
    daemon polls a directory or has lost events.
    """
    schedule, now = PassSchedule(), time.monotonic()
    schedule.full_scan_begins(Cause("start", None), now - 301)
    schedule.full_scan_begins(Cause(cause, None), now)
    assert due(schedule) == "resync"
    schedule.full_scan_begins(Cause("resync", None), now)
    assert due(schedule) is None


def test_a_poll_is_due_after_any_full_scan() -> None:
    """The interval of polls begins with the last full scan, whatever its cause."""
    schedule, now = PassSchedule(), time.monotonic()
    schedule.full_scan_begins(Cause("start", None), now - 11)
    assert due(schedule) == "poll"
    schedule.full_scan_begins(Cause("poll", None), now)
    assert due(schedule) is None
