"""The duration of a rotation's phase by a monotonic clock, so that a step of the system time ends no overlap early.

Owns when this process first saw the phase. Before that, only the time in the record counts; after it, elapsed time
does. `pki.rotation.gates` defines how long a phase must last. Waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from certmond.pki.catalog.settings import RootCaSpec
from certmond.pki.rotation.gates import Gate, lasting
from certmond.pki.rotation.phases import Phase, Rotation
from certmond.pki.x509.certificate import PublicKey

_DRIFT = timedelta(minutes=1)
"""Clocks that are only slewed, not stepped, differ by less than half of it."""


class PhaseTimer:
    """The timer of one process. `monotonic` returns seconds of a monotonic clock."""

    def __init__(self, spec: RootCaSpec, monotonic: Callable[[], float]) -> None:
        self._spec, self._monotonic = spec, monotonic
        self._met: tuple[tuple[str, Phase, datetime], datetime, float] | None = None

    def meet(self, rotation: Rotation, now: datetime) -> tuple[datetime, timedelta]:
        """Return since when this process has seen the phase, by the system time, and the elapsed time since then."""
        phase = rotation.id, rotation.phase, _counted_from(rotation)
        if self._met is None or self._met[0] != phase:
            self._met = phase, now, self._monotonic()
        _, at, seconds = self._met
        return at, timedelta(seconds=self._monotonic() - seconds)

    def gate(self, rotation: Rotation, now: datetime) -> Gate:
        """Return the gate that holds the phase for its minimal duration, although all nodes are ready.

        A time of the record in the future counts from when this process saw it. A clock was set back after it was
        stored, or the node that stored it was ahead.
        """
        met, ago = self.meet(rotation, now)
        stepped = _DRIFT * round((now - met - ago) / _DRIFT)
        begun = min(_counted_from(rotation), met) + stepped
        found = lasting(replace(rotation, since=begun, published=rotation.published and begun), self._spec, now)
        return replace(found, noted=replace(rotation, published=now)) if found.noted else found


def _counted_from(rotation: Rotation) -> datetime:
    """Return the start for `lasting`: for token keys, since when all sign with the new one, if known."""
    seen = rotation.published if isinstance(rotation.new, PublicKey) else None
    return rotation.since if seen is None else seen
