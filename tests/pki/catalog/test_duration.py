"""Durations in the configuration and in options."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from certmond.pki.catalog.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30d", timedelta(days=30)),
        ("12h", timedelta(hours=12)),
        ("1y6d", timedelta(days=371)),
        ("1h30m", timedelta(minutes=90)),
        ("90s", timedelta(seconds=90)),
        ("2y1d1h1m1s", timedelta(days=731, hours=1, minutes=1, seconds=1)),
    ],
)
def test_a_duration_is_written_in_units_from_large_to_small(text: str, value: timedelta) -> None:
    """A year is 365 days; units may be left out, but not turned round."""
    assert parse_duration(text) == value
    assert parse_duration(value) is value


@pytest.mark.parametrize(
    "text", ["", "30", "d", "0d", "-1d", "1m1h", "1.5h", " 1d", "1d ", "9999999d", "1w", 30, None, []]
)
def test_anything_else_is_no_duration(text: object) -> None:
    """A text without a unit, an empty text, and another type are errors with the accepted form."""
    with pytest.raises(ValueError, match="must be"):
        parse_duration(text)


def test_a_number_of_days_with_more_than_six_digits_is_written_with_years() -> None:
    """The parser accepts at most six digits before a unit, so more than 999,999 days need years."""
    assert format_duration(timedelta(days=999_999)) == "999999d"
    assert format_duration(timedelta(days=1_000_000)) == "2739y265d"
    assert parse_duration("2739y265d") == timedelta(days=1_000_000)


@given(st.integers(min_value=1, max_value=999_999 * 365 * 86400))
@example(10**6 * 86400)
def test_a_duration_is_parsed_as_it_was_written(seconds: int) -> None:
    """`config validate` accepts the output of `config show`, which contains years only for more than 999,999 days."""
    value = timedelta(seconds=seconds)
    assert parse_duration(format_duration(value)) == value
    assert ("y" in format_duration(value)) == (value.days > 999_999)
