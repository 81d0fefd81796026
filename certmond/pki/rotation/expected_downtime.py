"""Expected downtime, in each phase of a rotation, of services without a replica.

The downtime is the time in which the old process drains (`drain`), plus the time until the new process serves
(`restart_takes`). `preview` lists the services that restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from certmond.immutable_class import immutable
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.rotation.phases import Phase
from certmond.pki.rotation.preview import Preview


@immutable
class Absence:
    """Expected downtime of a service that must restart in a phase to read the file `because`."""

    phase: Phase
    service: str
    length: timedelta
    because: str


def absences(previews: Sequence[Preview], services: Iterable[ServiceSpec]) -> Iterator[Absence]:
    """Yield the expected downtime of each restart in `previews`. Skips services whose `restart_takes` is not set."""
    lengths = {each.name: each.restart_takes + (each.drain or timedelta()) for each in services if each.restart_takes}
    for found in previews:
        for name in found.restarts:
            if name in lengths:
                yield Absence(found.phase, name, lengths[name], found.because[name])
