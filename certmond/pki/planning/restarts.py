"""Planner of the restarts of services that have an outdated file in memory.

This module decides the order of the restarts, and which restarts must wait. The daemon executes one restart at a time,
because one restart can also restart other services.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.service_entries import ServiceSpec
from certmond.pki.findings import Blocks, Reason, Severity
from certmond.pki.planning.renewal_holds import NO_REPLACED_CA, ReplacedCA
from certmond.pki.planning.steps import Cause, Held, Issue, Plan, Restart, Step
from certmond.pki.services.restart_episode import Past, Result, Target, Terms
from certmond.pki.services.staleness import Stale, Surroundings, files_of

_CAUSES = {Reason.SERVED_DIFFERS: Cause.SERVED_DIFFERS, Reason.RESTART_PENDING: Cause.RESTART_PENDING}


@dataclass(frozen=True, slots=True)
class RestartHolds:
    """Reasons to hold a restart.

    `hold` is the text for an upgrade. `unmade` contains the fault of each derived certificate that certmond could not
    write. `rotating` contains the trust anchors that a rotation changes.
    """

    hold: str | None = None
    unmade: Mapping[str, str] = field(default_factory=dict)
    rotating: frozenset[str] = frozenset()
    replaced_ca: ReplacedCA = NO_REPLACED_CA

    def is_urgent(self, statuses: Iterable[CertificateStatus]) -> bool:
        """Return whether a restart must not wait, because no component trusts the old CA of an outdated file."""
        return self.replaced_ca.at_once and any(self.replaced_ca.concerns(each.seen.spec) for each in statuses)


def restarts(
    assessment: Assessment,
    around: Surroundings,
    before: Sequence[Step],
    terms: Terms,
    *,
    holds: RestartHolds,
    asked: frozenset[str] | None = None,
) -> Plan:
    """Return the restarts in their order, and the held restarts.

    `before` contains the steps that come before all restarts. If `asked` is not None, the plan restarts exactly these
    services and holds no restart.
    """
    return _Planner(assessment, around, before, terms, holds=holds, asked=asked).plan()


def restart_order(services: Iterable[ServiceSpec]) -> list[ServiceSpec]:
    """Return the services in restart order: each service comes after the services in its `after`."""
    waiting, found = {service.name: service for service in services}, list[ServiceSpec]()
    while waiting:
        # The configuration rejects a cycle.
        ready = next((s for s in waiting.values() if not waiting.keys() & set(s.after)), next(iter(waiting.values())))
        found.append(waiting.pop(ready.name))
    return found


class _Planner:
    def __init__(
        self,
        assessment: Assessment,
        around: Surroundings,
        before: Sequence[Step],
        terms: Terms,
        *,
        holds: RestartHolds,
        asked: frozenset[str] | None,
    ) -> None:
        self._around, self._terms, self._holds, self._asked = around, terms, holds, asked
        self._statuses, self._now = assessment.statuses, assessment.taken_at
        self._renewed = [step for step in before if isinstance(step, Issue)]
        self._steps: list[Step] = []
        self._held: list[Held] = []
        self._instants: list[datetime] = []

    def plan(self) -> Plan:
        for service in restart_order(self._around.services):
            self._consider(service)
        later = [at for at in self._instants if at > self._now]
        return Plan(tuple(self._steps), tuple(self._held), min(later, default=None))

    def _consider(self, service: ServiceSpec) -> None:
        asked = self._asked is not None and service.name in self._asked
        if self._asked is not None and not asked:
            return
        found = list(self._stale(service.name))
        renewed = [step for step in self._renewed if service.name in step.restarts]
        if not (found or renewed or asked):
            return
        targets = tuple(self._target(status) for status in dict.fromkeys(status for status, _ in found))
        detail = "; ".join(dict.fromkeys(stale.detail for _, stale in found)) or "is requested"
        instance = self._instance(service.name)
        if asked:
            self._steps.append(Restart(service, targets, Cause.ASKED, detail, instance))
        elif found and (because := self._obstacle(service, found, targets)):
            self._held.append(because)
        elif found:
            self._steps.append(Restart(service, targets, _CAUSES[found[0][1].reason], detail, instance))
        else:
            names = ", ".join(dict.fromkeys(step.target for step in renewed))
            news = tuple(Target(step.target, step.path, {}) for step in renewed)
            why = f"certmond renews {names} first, and the service does not reload new certificates"
            self._steps.append(Restart(service, news, Cause.RENEWED, why, instance))

    def _stale(self, service: str) -> Iterator[tuple[CertificateStatus, Stale]]:
        """Yield each outdated certificate that the service should already have reloaded."""
        for status in self._statuses:
            if status.seen.named_by:
                continue  # certmond has no previous generation of the file, so the operator restarts the service
            for stale in status.presence.stale:
                if stale.service == service and stale.due:
                    yield status, stale
                elif stale.service == service:
                    # The service can reload the file until `due_at`.
                    self._instants.append(stale.due_at)

    def _obstacle(
        self, service: ServiceSpec, found: Sequence[tuple[CertificateStatus, Stale]], targets: Sequence[Target]
    ) -> Held | None:
        """Return the hold that delays the restart, or None."""
        name, path = service.name, found[0][1].path
        past = self._around.past.get(name)
        trusted = [s.seen.name for s, _ in found if s.seen.spec.is_trust and s.seen.name not in self._holds.rotating]
        if trusted:
            anchors = ", ".join(dict.fromkeys(trusted))
            return Held(
                name,
                path,
                f"{anchors} changed, and all nodes must trust the change first: start a rotation, not a restart",
            )
        if unfit := next((why for status, _ in found if (why := _unusable_reason(status))), None):
            return Held(name, path, f"the service would restart with an unusable file: {unfit}")
        if fault := next(self._start_faults(name), None):
            return Held(name, path, f"the service would not start again: {fault}")
        if unmade := next((self._holds.unmade[t.name] for t in targets if t.name in self._holds.unmade), None):
            return Held(name, path, f"certmond could not write a file that the service might read: {unmade}")
        if past and (tried := self._tried(past, targets)):
            return Held(name, path, tried)
        urgent = self._holds.is_urgent(status for status, _ in found)
        late = urgent or any(item.severity is Severity.CRITICAL for status, _ in found for item in status.findings)
        if self._holds.hold and not late:
            return Held(name, path, self._holds.hold)
        free = past is None or past.result is Result.SEEN or (past.result is Result.SUPERSEDED and not past.again)
        free = free or (urgent and past is not None and not past.again)  # components also refused the earlier files
        restarted_at = None if past is None or free else past.ended_at
        until = restarted_at + self._terms.spacing if restarted_at else None
        now = self._around.live.at if self._around.live else None
        # `restarted_at` can be later than `now`, because certmond observes the services before a restart of the same
        # pass ends, or because the clock was set back.
        if past and restarted_at and until and now and restarted_at - self._terms.spacing < now < until:
            self._instants.append(until)
            return Held(name, path, f"the last restart was at {restarted_at:%Y-%m-%d %H:%M} UTC: {past.message}", until)
        return None

    def _start_faults(self, service: str) -> Iterator[str]:
        """Yield the faults in the service's files that would prevent a start of the service."""
        for status in self._statuses:
            reads = any(consumer.service == service for consumer in status.presence.consumers)
            for item in status.findings if reads else ():
                of_a_ca = status.seen.spec.authority and item.reason in {Reason.KEY_MISSING, Reason.KEY_MISMATCH}
                if item.severity is Severity.CRITICAL and Blocks.START in item.reason.blocks and not of_a_ca:
                    yield item.message
            if reads and status.key_matches is False and not status.seen.spec.authority:
                # The assessment has no finding yet, because a program might be writing the files.
                yield f"the private key does not match {status.seen.path}"

    def _tried(self, past: Past, targets: Sequence[Target]) -> str | None:
        """Return why the daemon does not restart the service again for the same files, or None."""
        contents = {path: content.sha256 for path, content in self._around.contents.items()}
        if failure := past.failure(contents):
            return f"{failure}; install another certificate, or run: certmond restart {past.service}"
        wanted = {path: sha256 for target in targets for path, sha256 in target.contents.items()}
        if (
            past.result in {None, Result.SEEN, Result.SUPERSEDED, Result.REFUSED}
            or not wanted
            or not wanted.items() <= past.contents.items()
        ):
            return None
        return f"a restart for the same files had no effect; try again: certmond restart {past.service}"

    def _target(self, status: CertificateStatus) -> Target:
        contents = self._around.contents
        held = {path: contents[path].sha256 for path in files_of(status.seen) if path in contents}
        return Target(status.seen.name, status.seen.path, held)

    def _instance(self, service: str) -> str:
        live = self._around.live
        return live.services[service].instance if live and service in live.services else ""


def _unusable_reason(status: CertificateStatus) -> str | None:
    """Return why a service cannot use this certificate or key pair, or None."""
    seen, keys = status.seen, status.seen.spec.kind is Kind.KEY_PAIR
    if not keys and (status.stale or status.certificate is None):
        return f"{seen.path} contains no certificate"
    if status.key_matches is False:
        return f"the private key does not match {seen.path}"
    if not keys and not status.chain_valid:
        return f"{seen.path} has no valid certification path"
    blocking = (
        item.message
        for item in status.findings
        if item.severity is Severity.CRITICAL and Blocks.USE in item.reason.blocks
    )
    return next(blocking, None)
