"""How the work is shared among the entries of the catalogue: whose step is next, and how often a pattern is renewed.

Owns the order in which steps are begun, and the hourly quota of an entry with a pattern. A user who can create files in
a directory of a pattern chooses how many certificates of it are due. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from operator import itemgetter

from certmond.pki.planning.steps import Write

RENEWALS, WINDOW = 1000, timedelta(hours=1)
"""So many certificates of one entry with a pattern are renewed within this time, at most."""


def in_turn(steps: Iterable[Write], begun: Iterable[str]) -> tuple[Write, ...]:
    """Return the steps in the order in which they are begun: one of each entry, then the next one of each.

    `begun` has the name of the entry of each step that was begun before in this round.
    """
    taken, numbered = Counter(begun), list[tuple[int, Write]]()
    for step in steps:
        numbered.append((taken[step.target], step))
        taken[step.target] += 1
    return tuple(step for _, step in sorted(numbered, key=itemgetter(0)))


class RenewalQuota:
    """The quota as of `now`. `attempts` has the name of the entry and the time of each renewal that was tried."""

    def __init__(self, attempts: Iterable[tuple[str, datetime]], now: datetime) -> None:
        self._now = now
        self._used = dict[str, list[datetime]]()
        for name, at in sorted(attempts, key=itemgetter(1)):
            if at <= now and now - at < WINDOW:
                self._used.setdefault(name, []).append(at)

    def take(self, name: str) -> datetime | None:
        """Count one more renewal of the entry, and return None; where its quota is used up, return when it no longer
        is.
        """
        used = self._used.setdefault(name, [])
        if len(used) >= RENEWALS:
            return used[-RENEWALS] + WINDOW
        used.append(self._now)
        return None
