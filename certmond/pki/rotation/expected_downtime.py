"""Expected downtime of services without a replica in each phase of a rotation, for the preview.

The downtime of a service is the sum of two fields. `drain` is the time for which the old process runs after it has
closed its listener. `restart_takes` is the time until the new process serves. `preview` lists the services that
restart. All functions are pure.
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
    """Expected downtime of a service in a phase of the rotation. `length` is an estimate.

    The service must restart to read the file `because`.
    """

    phase: Phase
    service: str
    length: timedelta
    because: str


def absences(previews: Sequence[Preview], services: Iterable[ServiceSpec]) -> Iterator[Absence]:
    """Yield the expected downtime of each planned restart. Skip the services without a value for `restart_takes`."""
    lengths = {each.name: each.restart_takes + (each.drain or timedelta()) for each in services if each.restart_takes}
    for found in previews:
        for name in found.restarts:
            if name in lengths:
                yield Absence(found.phase, name, lengths[name], found.because[name])
