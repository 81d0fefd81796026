"""Duration of a rotation's phase on a monotonic clock, so that a step of the system time does not shorten the phase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from certmond.pki.catalog.settings import RootCaSpec
from certmond.pki.rotation.gates import Gate, lasting
from certmond.pki.rotation.phases import Phase, Rotation
from certmond.pki.x509.public_key import PublicKey

_DRIFT = timedelta(minutes=1)
"""Unit to which certmond rounds a step of the system time. A slewed clock differs by less than half of this unit."""


class PhaseTimer:
    """Timer for the phases of rotations. `monotonic` returns seconds of a monotonic clock."""

    def __init__(self, spec: RootCaSpec, monotonic: Callable[[], float]) -> None:
        self._spec, self._monotonic = spec, monotonic
        self._first: tuple[tuple[str, Phase, datetime], datetime, float] | None = None

    def first_seen(self, rotation: Rotation, now: datetime) -> tuple[datetime, timedelta]:
        """Return the system time at which this process first observed the phase, and the time since then."""
        phase = rotation.id, rotation.phase, _counted_from(rotation)
        if self._first is None or self._first[0] != phase:
            self._first = phase, now, self._monotonic()
        _, at, seconds = self._first
        return at, timedelta(seconds=self._monotonic() - seconds)

    def gate(self, rotation: Rotation, now: datetime) -> Gate:
        """Return the gate that holds the phase for its minimum duration.

        If the recorded start of the phase is in the future, count from the first observation.
        """
        seen, elapsed = self.first_seen(rotation, now)
        stepped = _DRIFT * round((now - seen - elapsed) / _DRIFT)
        begun = min(_counted_from(rotation), seen) + stepped
        found = lasting(replace(rotation, since=begun, published=rotation.published and begun), self._spec, now)
        return replace(found, noted=replace(rotation, published=now)) if found.noted else found


def _counted_from(rotation: Rotation) -> datetime:
    """Return the time from which the minimum duration of the phase counts.

    For token keys, this is the time at which all API servers had the new key. For a CA in `issue`, this is the time at
    which the check found Pods with client certificates. Without such a time, this is the start of the phase.
    """
    counts = isinstance(rotation.new, PublicKey) or rotation.phase is Phase.ISSUE
    return rotation.published if counts and rotation.published is not None else rotation.since
