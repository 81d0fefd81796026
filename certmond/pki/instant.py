"""A time that permits additions: in UTC, between the years 2 and 9998."""

from __future__ import annotations

from datetime import MAXYEAR, MINYEAR, UTC, datetime
from typing import Annotated


def usable(at: datetime) -> datetime:
    """Return the time in UTC. Raises ValueError for a year before 2 or after 9998, to avoid overflows in additions."""
    if MINYEAR < at.year < MAXYEAR and MINYEAR < (utc := at.astimezone(UTC)).year < MAXYEAR:
        return utc
    raise ValueError("must be a time between the years 2 and 9998")


Instant = Annotated[datetime, usable]
"""A time in a stored document."""
