"""How long a service is away in each phase of a rotation where nothing takes its place: told before it is begun.

Owns the sum: what a process may go on for after it has closed its listener, and how long the next one takes until it
serves, both of them fields of the service's row. What is restarted is `pki.rotation_preview`'s. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from certmond.pki.catalog.entries import ServiceSpec
from certmond.pki.rotation.phases import Phase
from certmond.pki.rotation.preview import Preview


@dataclass(frozen=True, slots=True)
class Absence:
    """In `phase`, `service` is away for about `length`, because it has to read `because` again."""

    phase: Phase
    service: str
    length: timedelta
    because: str


def absences(previews: Sequence[Preview], services: Iterable[ServiceSpec]) -> Iterator[Absence]:
    """Yield one for each planned restart of a service whose row says how long that takes."""
    lengths = {each.name: each.restart_takes + (each.drain or timedelta()) for each in services if each.restart_takes}
    for found in previews:
        for name in found.restarts:
            if name in lengths:
                yield Absence(found.phase, name, lengths[name], found.because[name])
