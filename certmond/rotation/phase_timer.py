"""How long a phase of a rotation has lasted, by a clock that nobody sets: a step of the time of day ends no overlap.

Owns when this process met the phase. What was before, only the record's time of day tells; from then on, elapsed time
does. How long a phase has to last is `pki.rotation_gates`'. Waits for nothing.
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
"""By less than half of it clocks differ that nobody has set: one of them is steered."""


class Lasting:
    """For one process. `monotonic` gives seconds of a clock that nobody sets."""

    def __init__(self, spec: RootCaSpec, monotonic: Callable[[], float]) -> None:
        self._spec, self._monotonic = spec, monotonic
        self._met: tuple[tuple[str, Phase, datetime], datetime, float] | None = None

    def meet(self, rotation: Rotation, now: datetime) -> tuple[datetime, timedelta]:
        """The rotation is in this phase: since when this process knows, and how long that is ago."""
        phase = rotation.id, rotation.phase, _counted_from(rotation)
        if self._met is None or self._met[0] != phase:
            self._met = phase, now, self._monotonic()
        _, at, seconds = self._met
        return at, timedelta(seconds=self._monotonic() - seconds)

    def gate(self, rotation: Rotation, now: datetime) -> Gate:
        """Whether the phase is to last although all nodes are ready. What the record has of a time that is yet to come,
        noted before a clock was set back, or by a node whose clock is ahead, counts from when this process met it.
        """
        met, ago = self.meet(rotation, now)
        stepped = _DRIFT * round((now - met - ago) / _DRIFT)
        begun = min(_counted_from(rotation), met) + stepped
        found = lasting(replace(rotation, since=begun, published=rotation.published and begun), self._spec, now)
        return replace(found, noted=replace(rotation, published=now)) if found.noted else found


def _counted_from(rotation: Rotation) -> datetime:
    """As `lasting` counts: with the keys of tokens from when all sign with the new one, where that is known."""
    seen = rotation.published if isinstance(rotation.new, PublicKey) else None
    return rotation.since if seen is None else seen
