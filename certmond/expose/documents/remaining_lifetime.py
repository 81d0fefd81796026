"""Remaining lifetime of a certificate, as text and as a percentage."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

_UNITS = (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("m", 60))


def residual(end: str | None, now: datetime) -> str:
    """Return the time from `now` to `end` in the format of kubeadm, such as 364d, or -2d if `end` has passed.

    Return "" if `end` is None.
    """
    if end is None:
        return ""
    left = (datetime.fromisoformat(end) - now).total_seconds()
    unit, seconds = next((item for item in _UNITS if abs(left) >= item[1]), _UNITS[-1])
    amount = f"{int(abs(left) // seconds)}{unit}"
    return f"-{amount}" if left < 0 else amount


class Lifetime(NamedTuple):
    """The remaining lifetime of a certificate, in percent, now (`left`) and at the renewal time (`renewal`)."""

    left: float
    renewal: float | None

    @classmethod
    def of(cls, entry: dict[str, Any], now: datetime) -> Lifetime | None:
        """Return the lifetime for an entry of the status document, or None if the entry contains no dates."""
        if entry["not_before"] is None or entry["not_after"] is None:
            return None
        start, end = datetime.fromisoformat(entry["not_before"]), datetime.fromisoformat(entry["not_after"])
        life = (end - start).total_seconds()

        def share(instant: datetime) -> float:
            return max(0.0, min(100.0, 100 * (end - instant).total_seconds() / life)) if life > 0 else 0.0

        renewal = datetime.fromisoformat(entry["renew_at"]) if entry.get("renew_at") else None
        return cls(share(now), share(renewal) if renewal else None)

    @property
    def due(self) -> bool:
        """Whether the renewal time has passed."""
        return self.renewal is not None and self.left <= self.renewal

    def __str__(self) -> str:
        if not self.left:
            return "0 % of its lifetime remains"
        renewal = "" if self.renewal is None else f", due since {self.renewal:.0f} %" if self.due else ""
        planned = "" if self.renewal is None or self.due else f", renewal at {self.renewal:.0f} %"
        return f"{self.left:.0f} % of its lifetime remains{renewal}{planned}"
