"""The years of a stored time, and its time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.instant import usable

FIRST, LAST = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
_zones = st.timedeltas(-timedelta(hours=23), timedelta(hours=23)).map(timezone)


@pytest.mark.parametrize(
    "text",
    [
        "9998-12-31T23:30:00-01:00", "0002-01-01T00:30:00+01:00", "9999-01-01T00:00:00+00:00",
        "9999-12-31T23:30:00-01:00", "0001-01-01T00:30:00+01:00",
    ],
)  # fmt: skip
def test_an_instant_has_a_year_to_either_end_of_the_calendar(text: str) -> None:
    """The rule holds in UTC, too, whatever zone the time has: calculations stay within the calendar."""
    with pytest.raises(ValueError, match=r"^must be a time between the years 2 and 9998$"):
        usable(datetime.fromisoformat(text))


def test_the_first_and_the_last_instant() -> None:
    """The first and the last year are part of the range."""
    assert (usable(FIRST), usable(LAST)) == (FIRST, LAST)


def test_an_instant_is_in_utc() -> None:
    """The rule holds for any zone in the text."""
    found = usable(datetime.fromisoformat("2026-11-24T13:00:00+01:00"))
    assert found.isoformat() == "2026-11-24T12:00:00+00:00"


@given(st.datetimes(timezones=_zones))
def test_any_time_is_an_instant_or_refused(at: datetime) -> None:
    """The same time results, in UTC. A year on either side of it exists."""
    try:
        found = usable(at)
    except ValueError:
        assert not FIRST + timedelta(days=1) < at < LAST - timedelta(days=1)
    else:
        assert (found, found.tzinfo) == (at, UTC)
        assert found - timedelta(days=365) < found < found + timedelta(days=365)
