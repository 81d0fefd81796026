"""Facts about a restart from one observation of the node."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.services.restart_episode import Episode, Stage, Target
from certmond.pki.services.restart_state_machine import HealthObservation
from certmond.pki.services.service_observation import Live, ServiceSeen
from certmond.pki.services.staleness import ServedAt, Surroundings
from certmond.services.file_usage import KUBELET

_REST, _AT_MOST = timedelta(seconds=3), timedelta(minutes=1)
"""Time without a change of a file that a restart requires, and the longest wait for this condition.

A process that writes several files pauses for a shorter time between two files.
"""


@immutable
class RestartObservation:
    """One assessment of the node, with the state of its running services."""

    assessment: Assessment
    around: Surroundings
    live: Live

    def healthy_addresses(self, name: str) -> tuple[str, ...]:
        """Return the addresses at which the service is healthy."""
        health = self.around.survey.health.get(name, ())
        return tuple(address for address in health if self.live.health.get(address, "not probed") is None)

    def files_settle_at(self, now: datetime) -> datetime | None:
        """Return the time until which a restart waits because files have just changed, or None if no wait is necessary.

        The wait ends at the latest one minute after the first change.
        """
        stale = [stale.since for status in self.assessment.statuses for stale in status.presence.stale]
        newest = max((content.since for content in self.around.contents.values() if content.since <= now), default=now)
        if now < newest + _REST and min(stale, default=now) > now - _AT_MOST:
            return newest + _REST
        return None

    def files_changed_again(self, episode: Episode) -> bool:
        """Return whether the files of a restart have changed after certmond planned the restart.

        Ignore the changes of a rollback, and of a service that issues its certificates again.
        """
        if episode.stage is Stage.PUT_BACK or episode.put_back_at or episode.renews:
            return False
        now = self.around.contents
        wanted = {path: sha256 for target in episode.targets for path, sha256 in target.contents.items()}
        return any(path in now and now[path].sha256 != sha256 for path, sha256 in wanted.items())

    def unrenewed(self, episode: Episode) -> tuple[str, ...]:
        """Return the names of the certificates that the service has not issued again in this restart."""
        return tuple(each.name for each in episode.targets if each.ends_at and not self._ends_later(each, each.ends_at))

    def _ends_later(self, target: Target, end: datetime) -> bool:
        status = self.assessment.status(target.name, target.path)
        known = status.certificate if status and not status.stale else None
        return known is not None and known.not_after > end

    def health(
        self, service: ServiceSpec, episode: Episode, node_problem: Callable[[], str | None]
    ) -> HealthObservation:
        """Return the state of a restarted service as input of the state machine.

        `node_problem` calls the Kubernetes API. Therefore, this method calls `node_problem` only for a renewal whose
        other evidence is complete.
        """
        addresses = self.around.survey.health.get(service.name, ())
        unhealthy = {
            address: why for address in addresses if (why := self.live.health.get(address, f"{address} was not probed"))
        }
        unproven = [
            _unproven(at, status.seen.path)
            for status in self.assessment.certificates
            for at in status.presence.served
            if at.service == service.name and not at.matches
        ]
        unrenewed = self.unrenewed(episode)
        if episode.renews and not (unhealthy or unproven or unrenewed) and (problem := node_problem()):
            unproven.append(problem)
        return HealthObservation(self.live.at, self.service(service.name), unhealthy, unproven, unrenewed)

    def kubelet_problem(self, services: Iterable[ServiceSpec]) -> str | None:
        """Return the problem of the kubelet, or None if the kubelet is healthy or is not in `services`."""
        for service in services:
            if service.unit == KUBELET:
                problems = map(self.live.health.get, self.around.survey.health.get(service.name, ()))
                stopped = f"{service.name} does not run" if self.service(service.name).running is False else None
                return stopped or next(filter(None, problems), None)
        return None

    def service(self, name: str) -> ServiceSeen:
        return self.live.services.get(name, ServiceSeen(None))


def _unproven(at: ServedAt, path: str) -> str:
    if at.matches is False:
        return f"{at.endpoint} serves a certificate other than the certificate in {path}"
    if at.sha256:
        return f"{path} contains no certificate to compare with the certificate that {at.endpoint} serves"
    return f"{at.endpoint} serves no certificate: {at.reason}"
