"""How often something may be reported, and what was left out.

Owns the arithmetic alone: time is an argument, in seconds of a clock that never goes back. A `Budget` is that of the
generic cell rate algorithm (ITU-T I.371, Annex A): in any window of `w` seconds no more than `burst + w / every`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """So many at once, and then one more every so many seconds."""

    burst: int
    every: float

    def free_at(self, used_until: float) -> float:
        """The instant from which on one more is within the budget."""
        return used_until - (self.burst - 1) * self.every

    def after(self, used_until: float, now: float) -> float:
        """What `used_until` is after one more at `now`."""
        return max(used_until, now) + self.every


class Quota:
    """A budget for `each` key, and one `overall`. What is urgent, of a key that has used no more than half of its own
    budget, is admitted beyond the overall one, from the `reserve`.
    """

    def __init__(self, each: Budget, overall: Budget, reserve: Budget) -> None:
        self._each, self._overall, self._reserve = each, overall, reserve
        self._used: dict[Hashable, float] = {}
        self._enough = 1024  # so many keys are kept before those are dropped that have their whole budget again
        self._overall_used = self._reserve_used = float("-inf")

    def free_at(self, key: Hashable, now: float, *, urgent: bool = False) -> float:
        """The earliest instant, `now` or later, at which one more of `key` is admitted if nothing else is before."""
        own = self._each.free_at(self._used.get(key, float("-inf")))
        overall = self._overall.free_at(self._overall_used)
        if urgent and self.is_calm(key, now):
            overall = min(overall, self._reserve.free_at(self._reserve_used))
        return max(now, own, overall)

    def admits(self, key: Hashable, now: float, *, urgent: bool = False) -> bool:
        """Whether one more of `key` is within the budgets."""
        return self.free_at(key, now, urgent=urgent) <= now

    def take(self, key: Hashable, now: float, *, urgent: bool = False) -> bool:
        """Count one more of `key` where the budgets admit it; return whether they do."""
        if not self.admits(key, now, urgent=urgent):
            return False
        if self._overall.free_at(self._overall_used) <= now:
            self._overall_used = self._overall.after(self._overall_used, now)
        else:
            self._reserve_used = self._reserve.after(self._reserve_used, now)
        self._used[key] = self._each.after(self._used.get(key, float("-inf")), now)
        if len(self._used) > self._enough:
            self._used = {known: until for known, until in self._used.items() if until > now}
            self._enough = 1024 + 2 * len(self._used)
        return True

    def is_calm(self, key: Hashable, now: float) -> bool:
        """Whether `key` has at least half of its own budget left."""
        return self._used.get(key, float("-inf")) - now <= self._each.burst * self._each.every / 2


class Omissions:
    """What was left out, by key, until it is reported: at most once in `interval` seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._count, self._keys = 0, set[Hashable]()
        self.due_at: float | None = None
        """When there is something to report; None while nothing was left out."""

    def add(self, key: Hashable, count: int, now: float) -> None:
        """Count what was left out of `key`."""
        if count:
            self._count += count
            self._keys.add(key)
            self.due_at = now + self._interval if self.due_at is None else self.due_at

    def reported(self, now: float) -> tuple[int, int] | None:
        """How many were left out, and of how many keys, where that is due now; from then on they count no more."""
        if self.due_at is None or now < self.due_at:
            return None
        found = self._count, len(self._keys)
        self._count, self._keys, self.due_at = 0, set(), None
        return found
