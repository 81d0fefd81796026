"""Order of the steps among the entries of the catalogue, and the hourly quota of an entry with a pattern.

A user who can create files in a directory of a pattern chooses how many certificates of its entry are due. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from operator import itemgetter

from certmond.pki.planning.steps import Write

RENEWALS, WINDOW = 1000, timedelta(hours=1)
"""Maximum number of certificates of one entry with a pattern that certmond renews within `WINDOW`."""


def round_robin(steps: Iterable[Write], begun: Iterable[str]) -> tuple[Write, ...]:
    """Return the steps in the order of their execution: one of each entry, then the next one of each.

    `begun` has the name of the entry for each step that began earlier in this round.
    """
    taken, numbered = Counter(begun), list[tuple[int, Write]]()
    for step in steps:
        numbered.append((taken[step.target], step))
        taken[step.target] += 1
    return tuple(step for _, step in sorted(numbered, key=itemgetter(0)))


class RenewalQuota:
    """The quota at `now`. `attempts` has the name of the entry and the time of each attempted renewal."""

    def __init__(self, attempts: Iterable[tuple[str, datetime]], now: datetime) -> None:
        self._now = now
        self._used = dict[str, list[datetime]]()
        for name, at in sorted(attempts, key=itemgetter(1)):
            if at <= now and now - at < WINDOW:
                self._used.setdefault(name, []).append(at)

    def take(self, name: str) -> datetime | None:
        """Count a renewal of the entry, and return None. Return the next possible time if its quota is exhausted."""
        used = self._used.setdefault(name, [])
        if len(used) >= RENEWALS:
            return used[-RENEWALS] + WINDOW
        used.append(self._now)
        return None
