"""Execution order of steps, and the hourly quota of renewals for an entry with a pattern.

The quota protects certmond from a user who creates many files that match the pattern.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from operator import itemgetter

from certmond.pki.planning.steps import Write

RENEWALS, WINDOW = 1000, timedelta(hours=1)
"""Maximum number of certificates that certmond renews within `WINDOW` for one entry with a pattern."""


def round_robin(steps: Iterable[Write], begun: Iterable[str]) -> tuple[Write, ...]:
    """Return the steps in execution order: the first step of each entry, then the second, and so on.

    `begun` contains the entry name of each started step. These steps count as the first steps of their entries.
    """
    taken, numbered = Counter(begun), list[tuple[int, Write]]()
    for step in steps:
        numbered.append((taken[step.target], step))
        taken[step.target] += 1
    return tuple(step for _, step in sorted(numbered, key=itemgetter(0)))


class RenewalQuota:
    """Hourly quota of renewals. `attempts` contains the entry name and the time of each past attempt."""

    def __init__(self, attempts: Iterable[tuple[str, datetime]], now: datetime) -> None:
        self._now = now
        self._used = dict[str, list[datetime]]()
        for name, at in sorted(attempts, key=itemgetter(1)):
            if at <= now and now - at < WINDOW:
                self._used.setdefault(name, []).append(at)

    def take(self, name: str) -> datetime | None:
        """Count a renewal and return None. If the quota is exhausted, return the time of the next permitted renewal."""
        used = self._used.setdefault(name, [])
        if len(used) >= RENEWALS:
            return used[-RENEWALS] + WINDOW
        used.append(self._now)
        return None
