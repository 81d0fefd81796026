"""Limits on the rate of reported events, and a counter of omitted events.

Times are in seconds of a monotonic clock. A `Budget` implements the generic cell rate algorithm (ITU-T I.371, Annex A).
"""

from __future__ import annotations

from collections.abc import Hashable

from certmond.immutable_class import immutable


@immutable
class Budget:
    """A limit on the rate of events: `burst` events at the same time, and then one event every `every` seconds.

    `after` returns the state of the budget after an event. The caller passes this state as `used_until` later.
    """

    burst: int
    every: float

    def free_at(self, used_until: float) -> float:
        """Return the earliest time at which the budget admits another event."""
        return used_until - (self.burst - 1) * self.every

    def after(self, used_until: float, now: float) -> float:
        """Return the state of the budget after an event at `now`."""
        return max(used_until, now) + self.every


class Quota:
    """Budgets for events: one budget for each key, and an overall budget for all keys.

    If the overall budget is exhausted, the budget `reserve` admits urgent events of keys with few recent events.
    """

    def __init__(self, each: Budget, overall: Budget, reserve: Budget) -> None:
        self._each, self._overall, self._reserve = each, overall, reserve
        self._used: dict[Hashable, float] = {}
        self._enough = 1024  # above this number of keys, `take` removes the keys with an unused budget
        self._overall_used = self._reserve_used = float("-inf")

    def free_at(self, key: Hashable, now: float, *, urgent: bool = False) -> float:
        """Return the earliest time at which the budgets admit an event of `key`."""
        own = self._each.free_at(self._used.get(key, float("-inf")))
        overall = self._overall.free_at(self._overall_used)
        if urgent and self.is_calm(key, now):
            overall = min(overall, self._reserve.free_at(self._reserve_used))
        return max(now, own, overall)

    def admits(self, key: Hashable, now: float, *, urgent: bool = False) -> bool:
        """Return whether the budgets admit an event of `key` at `now`."""
        return self.free_at(key, now, urgent=urgent) <= now

    def take(self, key: Hashable, now: float, *, urgent: bool = False) -> bool:
        """Return whether the budgets admit an event of `key`, and count an admitted event."""
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
        """Return whether at least half of the budget of `key` is unused."""
        return self._used.get(key, float("-inf")) - now <= self._each.burst * self._each.every / 2


class Omissions:
    """Counter of omitted events. A report is due at most once every `interval` seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._count, self._keys = 0, set[Hashable]()
        self.due_at: float | None = None
        """The time of the next report, or None if there are no omitted events."""

    def add(self, key: Hashable, count: int, now: float) -> None:
        """Add `count` omitted events of `key`."""
        if count:
            self._count += count
            self._keys.add(key)
            self.due_at = now + self._interval if self.due_at is None else self.due_at

    def reported(self, now: float) -> tuple[int, int] | None:
        """Return and reset the number of omitted events and the number of keys, or return None if no report is due."""
        if self.due_at is None or now < self.due_at:
            return None
        found = self._count, len(self._keys)
        self._count, self._keys, self.due_at = 0, set(), None
        return found
