"""Planner of the restarts of services that have an outdated file in memory, or that renew certificates at their start.

This module decides the order of the restarts, and which restarts must wait. The daemon executes one restart at a time,
because one restart can also restart other services.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from datetime import datetime

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.catalog.entries import ROOT_CAS, Kind
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.findings import Blocks, Reason, Severity
from certmond.pki.planning.host_hold_rules import NO_REPLACED_CA, HostHold, ReplacedCA
from certmond.pki.planning.renewal_holds import day
from certmond.pki.planning.renewals_at_start import NO_START_RENEWALS, StartRenewal, StartRenewals, with_restart_times
from certmond.pki.planning.steps import Cause, Derive, Held, Identity, Issue, Plan, Restart, Step
from certmond.pki.services.restart_episode import Past, Result, Target, Terms
from certmond.pki.services.service_observation import ServiceSeen
from certmond.pki.services.staleness import Stale, Surroundings, files_of
from certmond.pki.x509.certificate import Certificate

_WITHOUT_EFFECT = frozenset({None, Result.SEEN, Result.SUPERSEDED, Result.REFUSED})
"""Results after which the files of an episode say nothing about a further restart."""
_CAUSES = {Reason.SERVED_DIFFERS: Cause.SERVED_DIFFERS, Reason.RESTART_PENDING: Cause.RESTART_PENDING}


@immutable
class RestartHolds:
    """Reasons to hold a restart.

    `hold` is the text for an upgrade. `unmade` contains the fault of each derived certificate that certmond could not
    write. `rotating` contains the trust anchors that a rotation changes. `clock` is the text for a clock that is not
    synchronized. This text holds only restarts in which a service issues its certificates again.
    """

    hold: str | None = None
    unmade: Mapping[str, str] = field(default_factory=dict)
    rotating: frozenset[str] = frozenset()
    replaced_ca: ReplacedCA = NO_REPLACED_CA
    clock: str | None = None

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
    renewals: StartRenewals = NO_START_RENEWALS,
) -> Plan:
    """Return the restarts in their order, and the held restarts.

    `before` contains the steps that come before all restarts. If `asked` is not None, the plan restarts exactly these
    services and holds no restart. `renewals` contains the services that issue their certificates again when they
    restart.
    """
    return _Planner(assessment, around, before, terms, holds=holds, asked=asked, renewals=renewals).plan()


def with_restarts(
    made: Plan,
    assessment: Assessment,
    around: Surroundings,
    terms: Terms,
    *,
    holds: RestartHolds,
    renewals: StartRenewals,
) -> Plan:
    """Return the plan `made`, followed by the necessary restarts."""
    after = restarts(assessment, around, made.steps, terms, holds=holds, renewals=renewals)
    held = with_restart_times(made.held, renewals, (*after.steps, *after.held))
    instants = [at for at in (made.changes_at, after.changes_at) if at]
    return Plan((*made.steps, *after.steps), (*held, *after.held), min(instants, default=None))


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
        renewals: StartRenewals,
    ) -> None:
        self._around, self._terms, self._holds, self._asked = around, terms, holds, asked
        self._renewals = renewals
        self._statuses, self._now = assessment.statuses, assessment.taken_at
        self._written = [step for step in before if isinstance(step, Issue | Derive)]
        self._steps: list[Step] = []
        self._held: list[Held] = []
        self._instants: list[datetime] = [renewals.changes_at] if renewals.changes_at else []

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
        written = [step for step in self._written if service.name in step.restarts]
        renewal = self._renewals.by_service.get(service.name) if self._around.live else None
        if not (found or written or asked or renewal):
            return
        issued = renewal.certificates if renewal else ()
        targets = tuple(self._target(each, issued) for each in dict.fromkeys((*issued, *(old for old, _ in found))))
        detail = "; ".join(dict.fromkeys(stale.detail for _, stale in found)) or "is requested"
        instance = self._seen(service.name).instance
        if asked:
            self._steps.append(Restart(service, targets, Cause.ASKED, detail, instance))
        elif renewal and (because := self._renewal_obstacle(service, renewal, found, targets)):
            self._held.append(because)
        elif renewal:
            self._steps.append(Restart(service, targets, Cause.RENEWED_AT_START, _renewal_detail(renewal), instance))
        elif found and (because := self._obstacle(service, found, targets)):
            self._held.append(because)
        elif found:
            self._steps.append(Restart(service, targets, _CAUSES[found[0][1].reason], detail, instance))
        else:
            names = ", ".join(dict.fromkeys(step.target for step in written))
            news = tuple(Target(step.target, step.path, {}) for step in written)
            why = f"certmond replaces {names} first, and the service does not reload new certificates"
            self._steps.append(Restart(service, news, Cause.RENEWED, why, instance))

    def _stale(self, service: str) -> Iterator[tuple[CertificateStatus, Stale]]:
        """Yield each outdated certificate for which a restart of the service is due. Skips the files of references."""
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
        """Return the hold that delays the restart, or None if the restart can begin."""
        path = found[0][1].path
        if changed := self._changed_anchors(found):
            return Held(service.name, path, changed)
        if unfit := next((why for status, _ in found if (why := _unusable_reason(status))), None):
            return Held(service.name, path, f"the service would restart with an unusable file: {unfit}")
        past = self._around.past.get(service.name)
        if lasting := self._lasting_obstacle(service, targets) or (past and self._tried(past, targets)):
            return Held(service.name, path, lasting)
        urgent = self._holds.is_urgent(status for status, _ in found)
        late = urgent or any(item.severity is Severity.CRITICAL for status, _ in found for item in status.findings)
        if self._holds.hold and not late:
            return Held(service.name, path, self._holds.hold)
        # If the restart is urgent, components also refused the earlier files.
        return None if urgent and past and not past.again else self._too_soon(service.name, path)

    def _renewal_obstacle(
        self,
        service: ServiceSpec,
        renewal: StartRenewal,
        found: Sequence[tuple[CertificateStatus, Stale]],
        targets: Sequence[Target],
    ) -> Held | None:
        """Return the hold that delays a restart in which the service issues its certificates again.

        Returns None if this restart can begin.
        """
        name, path, names = service.name, targets[0].path, _names_of(renewal)
        now = self._seen(name)
        if now.running is False:
            return Held(name, path, f"{name} does not run; start {name}, so that it issues {names} again")
        if now.running is None and service.is_observable:
            return Held(name, path, f"certmond cannot observe {name}: {now.problem or 'its state is unknown'}")
        renewed = frozenset(status.seen.identity for status in renewal.certificates)
        obstacle = self._changed_anchors(found) or self._lasting_obstacle(service, targets, renewed)
        if obstacle := obstacle or self._renewal_tried(renewal, targets):
            return Held(name, path, obstacle)
        host = HostHold(self._holds.hold, self._holds.clock)
        waits = [host.of(old, status.seen.spec, self._renewal_cause(old), self._now)
                 for status in renewal.certificates if (old := status.certificate)]  # fmt: skip
        if all(because for because, _ in waits):
            because, until = min(waits, key=lambda wait: wait[1] or self._now)
            self._instants += [until] if until else []
            return Held(name, path, because or "", until)
        return self._too_soon(name, path)

    def _renewal_cause(self, old: Certificate) -> Cause:
        return Cause.EXPIRED if self._now > old.not_after else Cause.DUE

    def _changed_anchors(self, found: Sequence[tuple[CertificateStatus, Stale]]) -> str | None:
        """Return why the service must not read the new version of a trust anchor, or None."""
        trusted = [s.seen.spec for s, _ in found if s.seen.spec.is_trust and s.seen.name not in self._holds.rotating]
        if not trusted:
            return None
        anchors = ", ".join(dict.fromkeys(spec.name for spec in trusted))
        rotates = all(spec.name in ROOT_CAS or spec.kind is Kind.KEY_PAIR for spec in trusted)
        by_hand = f"copy the file to all nodes, then run: certmond restart {found[0][1].service}"
        remedy = "start a rotation instead of a restart" if rotates else by_hand
        return f"{anchors} changed, and all nodes must trust the new version first; {remedy}"

    def _lasting_obstacle(
        self, service: ServiceSpec, targets: Sequence[Target], renewed: frozenset[Identity] = frozenset()
    ) -> str | None:
        """Return the fault of a file that forbids a restart of the service, or None if there is no such fault.

        Ignore faults of the certificates in `renewed`, which the service issues again.
        """
        if fault := next(self._start_faults(service.name, renewed), None):
            return f"the service would not start again: {fault}"
        if unmade := next((self._holds.unmade[t.name] for t in targets if t.name in self._holds.unmade), None):
            return f"certmond could not write a file that the service might read: {unmade}"
        return None

    def _too_soon(self, name: str, path: str) -> Held | None:
        """Return the hold for a service whose last restart was less than `spacing` ago, or None."""
        past = self._around.past.get(name)
        free = past is None or past.result is Result.SEEN or (past.result is Result.SUPERSEDED and not past.again)
        restarted_at = None if past is None or free else past.ended_at
        until = restarted_at + self._terms.spacing if restarted_at else None
        now = self._around.live.at if self._around.live else None
        # `restarted_at` can be later than `now`, because certmond observes the services before a restart of the same
        # pass ends, or because the clock was set back.
        if past and restarted_at and until and now and restarted_at - self._terms.spacing < now < until:
            self._instants.append(until)
            return Held(name, path, f"the last restart was at {restarted_at:%Y-%m-%d %H:%M} UTC: {past.message}", until)
        return None

    def _start_faults(self, service: str, renewed: frozenset[Identity]) -> Iterator[str]:
        """Yield the faults in the service's files that would prevent a start of the service."""
        for status in self._statuses:
            reads = any(consumer.service == service for consumer in status.presence.consumers)
            reads = reads and status.seen.identity not in renewed
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
        if past.result in _WITHOUT_EFFECT or not wanted or not wanted.items() <= past.contents.items():
            return None
        return f"a restart for the same files had no effect; try again: certmond restart {past.service}"

    def _renewal_tried(self, renewal: StartRenewal, targets: Sequence[Target]) -> str | None:
        """Return why the daemon does not restart the service again for the same due certificates, or None."""
        past = self._around.past.get(renewal.service)
        wanted = {path: sha256 for target in targets for path, sha256 in target.contents.items()}
        if past is None or past.result in _WITHOUT_EFFECT or not wanted.items() <= past.contents.items():
            return None
        if past.ended_at is None or past.ended_at < renewal.since:
            return None  # the restart was before these certificates were due
        again = f"read the log of the service, then run: certmond restart {past.service}"
        if past.result is Result.PROVEN:
            return f"a restart of {past.service} did not renew {_names_of(renewal)}; {again}"
        return f"{past.message}; {again}"

    def _target(self, status: CertificateStatus, issued: Sequence[CertificateStatus]) -> Target:
        """Return the target of a restart. At the restart, the service issues the certificates in `issued` again."""
        contents = self._around.contents
        held = {path: contents[path].sha256 for path in files_of(status.seen) if path in contents}
        ends_at = status.certificate.not_after if status.certificate and status in issued else None
        return Target(status.seen.name, status.seen.path, held, ends_at)

    def _seen(self, service: str) -> ServiceSeen:
        live = self._around.live
        return live.services[service] if live and service in live.services else ServiceSeen(None)


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


def _names_of(renewal: StartRenewal) -> str:
    return ", ".join(dict.fromkeys(status.seen.name for status in renewal.certificates))


def _renewal_detail(renewal: StartRenewal) -> str:
    ends = [status.certificate.not_after for status in renewal.certificates if status.certificate]
    fact = f"{renewal.service} issues {_names_of(renewal)} again when it starts"
    return f"{fact}; the first of these certificates ends on {day(min(ends))}"
