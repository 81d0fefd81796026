"""Parts of a node whose plans do not depend on each other, and the times at which these plans change.

A node can have thousands of certificates with different dates. If a simulation planned all certificates at each of
these dates, its duration would grow with the square of their number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from heapq import heappop, heappush

from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.assessment.repairable_damage import damage
from certmond.pki.planning.steps import Identity

_DAMAGED = object()


class PlanParts:
    """The certificates of a node, in parts.

    Two certificates are in one part if they use the same file, if certmond derives a file of one from the other, or if
    both are damaged. A plan also depends on the CAs of the certificates. In the beginning, all parts are due.
    """

    def __init__(self, assessment: Assessment, derived: Mapping[str, tuple[str, str]]) -> None:
        """`derived` contains the path and the source of each derived file."""
        self._assessment, self._statuses = assessment, [*assessment.statuses]
        self._part_of = _parts_of(self._statuses, derived)
        self._places, self._members = defaultdict[Identity, list[int]](list), defaultdict[int, list[int]](list)
        for place, (status, part) in enumerate(zip(self._statuses, self._part_of, strict=True)):
            self._places[status.seen.identity].append(place)
            self._members[part].append(place)
        self._cas = defaultdict[str, list[int]](list)
        for place, status in enumerate(self._statuses):
            if status.seen.spec.authority:
                self._cas[status.seen.name].append(place)
        self._of_services = [place for place, status in enumerate(self._statuses) if status.seen.spec.renewed_by]
        self._queue, self._time_of = list[tuple[datetime, int]](), dict[int, datetime]()
        self._due = {*self._members}

    def due(self, now: datetime) -> Assessment:
        """Return the certificates of the due parts, and their CAs. With a damaged file, return the whole node."""
        while self._queue and self._queue[0][0] <= now:
            at, part = heappop(self._queue)
            if self._time_of.get(part) == at:
                self._due.add(part)
        places: Collection[int] = [place for part in self._due for place in self._members[part]]
        if any(damage(self._statuses[place].seen) for place in places):
            places = range(len(self._statuses))
        return self._at(now, places)

    def status(self, identity: Identity) -> CertificateStatus | None:
        """Return the present status of a certificate, or None if the node has no such certificate."""
        places = self._places.get(identity)
        return self._statuses[places[-1]] if places else None

    def of_services(self, now: datetime) -> Assessment:
        """Return the certificates that a service or another program renews, and the CAs."""
        return self._at(now, self._of_services)

    def _at(self, now: datetime, places: Collection[int]) -> Assessment:
        specs = [self._statuses[place].seen.spec for place in places]
        # A start of a service can create a new CA in place of any CA without its key.
        names = {*self._cas} if any(spec.renewed_by for spec in specs) else {name for spec in specs for name in spec.ca}
        chosen = sorted({*places, *(place for name in names for place in self._cas.get(name, ()))})
        return replace(self._assessment, taken_at=now, statuses=tuple(self._statuses[place] for place in chosen))

    def update(self, changed: Mapping[Identity, CertificateStatus]) -> None:
        """Replace the status of certificates. Their parts are due."""
        for identity, status in changed.items():
            for place in self._places[identity]:
                self._statuses[place] = status
                self._due.add(self._part_of[place])

    def schedule(self, times: Mapping[Identity, datetime], unfinished: Iterable[Identity]) -> datetime | None:
        """Schedule the due parts from the next time at which the plan of each certificate changes.

        The parts of the `unfinished` certificates remain due. Return the next scheduled time, or None.
        """
        for part in self._due:
            members = (self._statuses[place].seen.identity for place in self._members[part])
            if at := min(filter(None, map(times.get, members)), default=None):
                heappush(self._queue, (at, part))
                self._time_of[part] = at
            else:
                self._time_of.pop(part, None)
        self._due = {self._part_of[place] for identity in unfinished for place in self._places[identity]}
        while self._queue and self._time_of.get(self._queue[0][1]) != self._queue[0][0]:
            heappop(self._queue)  # a later plan of this part has another time
        return self._queue[0][0] if self._queue else None


def _parts_of(statuses: Sequence[CertificateStatus], derived: Mapping[str, tuple[str, str]]) -> list[int]:
    """Return the number of the part of each certificate."""
    derived_from = defaultdict[str, list[str]](list)
    for path, source in derived.values():
        derived_from[source].append(path)
    above, first = [*range(len(statuses))], dict[Hashable, int]()

    def part(place: int) -> int:
        while above[place] != place:
            above[place] = place = above[above[place]]
        return place

    for place, status in enumerate(statuses):
        seen = status.seen
        links: list[Hashable] = [seen.path, *filter(None, seen.pair), *derived_from.get(seen.name, ())]
        for link in (*links, *([_DAMAGED] if damage(seen) else ())):
            above[part(place)] = part(first.setdefault(link, place))
    return [part(place) for place in range(len(statuses))]
