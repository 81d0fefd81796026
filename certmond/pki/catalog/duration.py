"""Durations in the configuration and in options, such as 30d or 1h30m.

This module imports no model, so that an option with a duration needs no model.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

DURATION = re.compile("".join(f"(?:([0-9]{{1,6}}){unit})?" for unit in "ydhms"))
_MOST = 999_999
_UNITS = (timedelta(days=365), timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1))


def parse_duration(value: Any) -> Any:
    """Return the timedelta for a text such as 30d, 12h or 1y6d. Return a timedelta unchanged.

    Raises ValueError for any other value, and for a text with the duration 0.
    """
    if isinstance(value, timedelta):
        return value
    match = DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if not match:
        raise ValueError("must be a duration such as 30d, 12h or 90s")
    total = sum((int(count) * unit for count, unit in zip(match.groups(), _UNITS, strict=True) if count), timedelta())
    if total <= timedelta():
        raise ValueError("must be positive")
    return total


def format_duration(value: timedelta) -> str:
    """Return the duration as a text for `parse_duration`, such as 5m, 30d or 1h30m."""
    rest, parts = value, []
    if value.days > _MOST:  # `parse_duration` accepts at most six digits
        years = min(value.days // 365, _MOST)
        rest, parts = value - years * _UNITS[0], [f"{years}y"]
    for unit, letter in zip(_UNITS[1:], "dhms", strict=True):
        count, rest = divmod(rest, unit)
        parts += [f"{count}{letter}"] if count else []
    return "".join(parts)
