"""Observation of the services of a node, as the evidence on which a restart begins, continues or ends.

Evaluates one scan of the node. Reads no file, changes nothing, and does not block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from certmond.pki.assessment.assess import Assessment
from certmond.pki.catalog.entries import ServiceSpec
from certmond.pki.services.model import Live, ServiceSeen
from certmond.pki.services.restart_state_machine import Episode, Glance, Stage
from certmond.pki.services.staleness import ServedAt, Surroundings
from certmond.services.file_usage import KUBELET

_REST, _AT_MOST = timedelta(seconds=3), timedelta(minutes=1)
"""Time without a change of the files before a restart, and the longest wait for it.

A process that writes several files finishes within that time.
"""


@dataclass(frozen=True, slots=True)
class RestartObservation:
    """One scan of the node, with the state of its running services."""

    assessment: Assessment
    around: Surroundings
    live: Live

    def well(self, name: str) -> tuple[str, ...]:
        """Return the addresses at which the service is healthy."""
        health = self.around.survey.health.get(name, ())
        return tuple(address for address in health if self.live.health.get(address, "not asked") is None)

    def at_rest(self, now: datetime) -> datetime | None:
        """Return until when a restart waits, because a process may still write files; None where none does.

        The wait ends when the first change is a minute old, even if writes continue.
        """
        stale = [stale.since for status in self.assessment.statuses for stale in status.presence.stale]
        newest = max((content.since for content in self.around.contents.values() if content.since <= now), default=now)
        if now < newest + _REST and min(stale, default=now) > now - _AT_MOST:
            return newest + _REST
        return None

    def is_superseded(self, episode: Episode) -> bool:
        """Return whether the files have changed again, before a rollback."""
        if episode.stage is Stage.PUT_BACK or episode.put_back_at:
            return False
        now = self.around.contents
        wanted = {path: sha256 for target in episode.targets for path, sha256 in target.contents.items()}
        return any(path in now and now[path].sha256 != sha256 for path, sha256 in wanted.items())

    def glance(self, service: ServiceSpec) -> Glance:
        addresses = self.around.survey.health.get(service.name, ())
        ill = {
            address: why for address in addresses if (why := self.live.health.get(address, f"{address} was not asked"))
        }
        unproven = [
            _unproven(at, status.seen.path)
            for status in self.assessment.certificates
            for at in status.presence.served
            if at.service == service.name and not at.matches
        ]
        return Glance(self.live.at, self.service(service.name), ill, unproven)

    def kubelet(self, services: Iterable[ServiceSpec]) -> str | None:
        """Return what is wrong with the kubelet; None where it is healthy or not observed."""
        for service in services:
            if service.unit == KUBELET:
                ill = map(self.live.health.get, self.around.survey.health.get(service.name, ()))
                stopped = f"{service.name} does not run" if self.service(service.name).running is False else None
                return stopped or next(filter(None, ill), None)
        return None

    def service(self, name: str) -> ServiceSeen:
        return self.live.services.get(name, ServiceSeen(None))


def _unproven(at: ServedAt, path: str) -> str:
    if at.matches is False:
        return f"{at.endpoint} serves another certificate than {path}"
    if at.sha256:
        return f"{path} holds no certificate to compare with what {at.endpoint} serves"
    return f"{at.endpoint} serves none: {at.reason}"
