"""Expected downtime of services without a replica in each phase of a rotation, for the preview.

Owns the sum of two fields of a service. `drain` is the time for which a process runs after it has closed its listener.
`restart_takes` is the time until the next process serves. `preview` owns the list of services that restart. Pure.
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
    """Downtime of `service` in `phase`, of about `length`. It must restart to read the file `because` again."""

    phase: Phase
    service: str
    length: timedelta
    because: str


def absences(previews: Sequence[Preview], services: Iterable[ServiceSpec]) -> Iterator[Absence]:
    """Yield the downtime of each planned restart of a service that has `restart_takes`."""
    lengths = {each.name: each.restart_takes + (each.drain or timedelta()) for each in services if each.restart_takes}
    for found in previews:
        for name in found.restarts:
            if name in lengths:
                yield Absence(found.phase, name, lengths[name], found.because[name])
