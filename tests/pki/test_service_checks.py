"""The policy for what is served and held: when something is said, how bad it is, and what to do about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from certmond.pki.checks import CRITICAL_WINDOW
from certmond.pki.holding import NOWHERE, Presence, Stale
from certmond.pki.reason import Finding, Reason, Severity
from certmond.pki.service_checks import about_services, turning_points
from tests.builders import DAY, NOW

TICK = timedelta(microseconds=1)
HELD = Stale("web", Reason.RESTART_PENDING, "/a", NOW, NOW, due=True, detail="web has not read /a")
SERVED = Stale(
    "web", Reason.SERVED_DIFFERS, "/a", NOW, NOW, due=True, detail="web serves another", ends_at=NOW + 99 * DAY
)


def said(*stale: Stale, now: datetime = NOW, failures: tuple[str, ...] = ()) -> list[Finding]:
    return list(about_services(Presence(stale=stale, failures=failures), now))


def test_where_nothing_is_stale_nothing_is_said() -> None:
    """Nor of what still has time to read its file again."""
    assert list(about_services(NOWHERE, NOW)) == []
    assert said(replace(SERVED, due=False), replace(HELD, due=False)) == []


@pytest.mark.parametrize(
    ("left", "severity"),
    [
        (CRITICAL_WINDOW + TICK, Severity.WARNING),
        (CRITICAL_WINDOW, Severity.CRITICAL),
        (-DAY, Severity.CRITICAL),
        (None, Severity.CRITICAL),
    ],
)
def test_what_is_served_is_as_bad_as_its_end_is_near(left: timedelta | None, severity: Severity) -> None:
    """In its last week it is critical, and so is one whose end cannot be told."""
    (found,) = said(replace(SERVED, ends_at=None if left is None else NOW + left))
    assert (found.reason, found.severity) == (Reason.SERVED_DIFFERS, severity)


def test_it_says_until_when_and_whom_to_restart() -> None:
    """Where no service of the configuration listens there, somebody has to look."""
    (known,) = said(SERVED)
    assert known.message == "web serves another, which ends on 2027-03-03 12:00 UTC; restart web"
    (unknown,) = said(replace(SERVED, service="", ends_at=None))
    assert unknown.message == "web serves another; see what listens there"


def test_a_process_that_holds_an_older_one_is_to_be_restarted() -> None:
    """How bad that is, is the vocabulary's."""
    (found,) = said(HELD)
    assert (found.reason, found.message) == (Reason.RESTART_PENDING, "web has not read /a; restart web")


def test_a_restart_that_failed_is_told() -> None:
    """With where to look and what ends it."""
    (found,) = said(failures=("web did not come up",))
    assert found.reason is Reason.RESTART_FAILED
    assert found.message == (
        "web did not come up; see its log, put another certificate there, or restart it"
    )  # fmt: skip


def test_the_instants_at_which_it_gets_worse_are_told() -> None:
    """So that a daemon may sleep until then."""
    presence = Presence(stale=(SERVED, HELD))
    (only,) = turning_points(presence)
    severities = [found.severity for at in (only - TICK, only) for found in about_services(presence, at)]
    assert severities[::2] == [Severity.WARNING, Severity.CRITICAL]
