"""Simulation of the planner over time: future renewals and restarts, and problems that an operator must solve.

For each instant, `renewals` returns the steps. The simulation does not execute these steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.assessment.repairable_damage import damage
from certmond.pki.assessment.self_signed_leaves import is_self_signed
from certmond.pki.assessment.validity_rules import renewal_point
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.served_entries import ServedSpec, renewed_at_start
from certmond.pki.planning.plan_parts import PlanParts
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewal_holds import day
from certmond.pki.planning.renewal_obstacles import renewal_obstacle
from certmond.pki.planning.renewal_quota import WINDOW
from certmond.pki.planning.renewal_time import renewal_time
from certmond.pki.planning.renewals import plan_with_times
from certmond.pki.planning.renewals_at_start import StartRenewal, StartRenewals, start_renewals
from certmond.pki.planning.steps import Derive, Identity, Issue, Plan
from certmond.pki.x509.certificate import Certificate

MAX_EVENTS = 5000
"""Maximum number of events in a forecast. Certificates with a lifetime of minutes would cause millions of events."""


class What(StrEnum):
    """Kind of an event in a forecast."""

    RENEW = "renew"
    RESTART = "restart"
    DERIVE = "derive"
    CLAMP = "clamp"
    HOLD = "hold"
    DUE = "due"
    EXPIRE = "expire"


class NextEvent(NamedTuple):
    """The earliest event of all certificates.

    `what` is `DUE` if certmond cannot renew the certificate, and `EXPIRE` for the end of a certificate that the kubelet
    rotates.
    """

    at: datetime
    target: str
    what: What


@immutable
class ForecastEvent:
    """One line of the forecast. `bad` is True for a problem that an operator can prevent."""

    at: datetime
    what: What
    target: str
    detail: str
    bad: bool = False


@immutable
class Forecast:
    """The events from `since` to `until`. `complete` is False if the simulation stopped at `MAX_EVENTS`."""

    since: datetime
    until: datetime
    events: tuple[ForecastEvent, ...]
    complete: bool = True


def forecast(
    assessment: Assessment, policy: Policy, until: datetime, circumstances: Circumstances | None = None
) -> Forecast:
    """Return the events from the time of `assessment` to `until`.

    The simulation assumes that all steps succeed, that no operator acts, and that the host holds no step.
    """
    return _Simulation(assessment, policy, until, circumstances or Circumstances()).run()


def next_event(assessment: Assessment, policy: Policy) -> NextEvent | None:
    """Return the first event of all assessed certificates, or None if there is no event.

    The events are renewals, certificates that become due, and the ends of certificates. A restart for a renewal is the
    event of the certificate.
    """
    node, now = assessment.facts.get("node_name", ""), assessment.taken_at
    authorities = {status.seen.name: status for status in assessment.trust_anchors}
    starts = start_renewals(assessment, policy).planned
    earliest = ((_earliest(status, policy, node, now), status) for status in assessment.certificates)
    first: NextEvent | None = None
    for at, status in sorted(((at, each) for at, each in earliest if at), key=lambda pair: pair[0]):
        if first and at > first.at:
            break  # a certificate is due only after its planned renewal
        start = starts.get(status.seen.identity)
        if instant := start[1] if start else _due_at(status, authorities, policy, at, now):
            able = bool(start) or renewal_obstacle(status, authorities, policy) is None
            found = NextEvent(max(instant, now), status.seen.name, What.RENEW if able else What.DUE)
            first = min(first, found) if first else found
    return _first_end(assessment, before=first)


def _first_end(assessment: Assessment, before: NextEvent | None) -> NextEvent | None:
    """Return the earliest end of a certificate if this end comes before the event `before`, otherwise `before`."""
    ends = (
        (status.certificate.expires_at, status.seen.name)
        for status in assessment.certificates
        if status.certificate and not status.stale and status.certificate.expires_at >= assessment.taken_at
    )
    at, name = min(ends, default=(None, ""))
    return NextEvent(at, name, What.EXPIRE) if at and (before is None or at < before.at) else before


def _earliest(status: CertificateStatus, policy: Policy, node: str, now: datetime) -> datetime | None:
    """Return the earliest time at which certmond could renew the certificate, or None if the dates are unknown."""
    at, certificate = renewal_time(status, policy, node), status.certificate
    if at is None or certificate is None:
        return None
    return now if now < certificate.not_before or status.seen.symlink is False else max(at, now)


def _due_at(
    status: CertificateStatus,
    authorities: Mapping[str, CertificateStatus],
    policy: Policy,
    at: datetime,
    now: datetime,
) -> datetime | None:
    """Return `at` if certmond can renew the certificate, otherwise the renewal point of the certificate.

    In the second case, return None if the certificate is missing or expired, or if the kubelet rotates the certificate.
    """
    certificate = status.certificate
    if renewal_obstacle(status, authorities, policy) is None:
        return at
    if certificate is None or status.stale or certificate.expires_at < now or is_rotated(status, now):
        return None
    return status.renew_at


def is_rotated(status: CertificateStatus, now: datetime) -> bool:
    """Return whether the kubelet rotates this certificate.

    The kubelet rotates neither an expired certificate nor a regular file in place of the symlink.
    """
    over = status.certificate is not None and status.certificate.expires_at < now
    return status.seen.spec.kind is Kind.KUBELET and status.seen.symlink is not False and not over


def _is_kept(status: CertificateStatus) -> bool:
    """Return whether the files are intact and the certificate is self-signed. No CA can renew such a certificate."""
    intact = not (status.stale or damage(status.seen))
    return intact and is_self_signed(status.seen, status.trust_anchor, status.issuers)


def _after_repair(status: CertificateStatus) -> CertificateStatus:
    """Return the status of damaged files after their repair, with unknown dates."""
    return replace(status, seen=replace(status.seen, certificates=(), faults=()), certificate=None, renew_at=None)


class _Simulation:
    def __init__(self, assessment: Assessment, policy: Policy, until: datetime, circumstances: Circumstances) -> None:
        self._assessment, self._policy, self._until = assessment, policy, until
        self._circumstances = replace(circumstances, hold=None, clock=None)
        self._parts = PlanParts(assessment, circumstances.derived)
        self._renewed_once: set[Identity] = set()
        self._recent: dict[Identity, Attempt] = {}  # renewals of the last hour: of these, pauses and quotas depend
        self._events: list[ForecastEvent] = []
        self._told: set[tuple[What, str, str]] = set()

    def run(self) -> Forecast:
        since = now = self._assessment.taken_at
        while now <= self._until and len(self._events) < MAX_EVENTS:
            due = self._parts.due(now)
            made, times = self._plan(due)
            starts = start_renewals(self._parts.of_services(now), self._policy)
            self._carry_out([step for step in made.steps if isinstance(step, Issue | Derive)], due)
            self._circumstances = replace(self._circumstances, stale={})
            self._tell_held(due, made, starts)
            for renewal in starts.by_service.values():
                self._restart_for_renewal(renewal, now)
            if made.steps or starts.by_service:  # plan for this instant again, because a new one can be due
                due = self._parts.due(now)
                made, times = self._plan(due)
                starts = start_renewals(self._parts.of_services(now), self._policy)
                self._tell_held(due, made, starts)
            following = self._parts.schedule(times, (step.identity for step in made.steps if isinstance(step, Issue)))
            instants = [at for at in (following, starts.changes_at) if at]
            if not instants:
                break
            now = min(instants)
        complete = len(self._events) < MAX_EVENTS
        end = self._until if complete else now
        fates = sorted(self._fates(self._assessment), key=lambda event: event.at)
        events = [event for event in (*self._events, *fates) if event.at <= end]
        return Forecast(since, self._until, tuple(sorted(events, key=lambda event: event.at)), complete)

    def _plan(self, due: Assessment) -> tuple[Plan, dict[Identity, datetime]]:
        while self._recent and next(iter(self._recent.values())).at <= due.taken_at - WINDOW:
            del self._recent[next(iter(self._recent))]
        made, times = plan_with_times(due, self._policy, self._recent, self._circumstances)
        for held in made.held:  # at its end, a held certificate has an event
            status = self._parts.status((held.target, held.path))
            if status and status.certificate and (end := status.certificate.expires_at) > due.taken_at:
                times[status.seen.identity] = min(end, times.get(status.seen.identity, end))
        return made, times

    def _carry_out(self, steps: list[Issue | Derive], due: Assessment) -> None:
        renewed, now = dict[Identity, CertificateStatus](), due.taken_at
        for step in steps:
            if isinstance(step, Derive):
                self._events.append(ForecastEvent(now, What.DERIVE, step.target, step.detail))
                continue
            self._tell_clamped(due, step)
            self._events.append(ForecastEvent(now, What.RENEW, step.target, self._detail(step)))
            # a damaged certificate has no dates to continue from
            renewed[step.identity] = self._renewed(step, step.old) if step.old else _after_repair(step.status)
            self._renewed_once.add(step.identity)
            self._recent.pop(step.identity, None)
            self._recent[step.identity] = Attempt(now)
        services = dict.fromkeys(service for step in steps for service in step.restarts)
        for service in services:
            why = ", ".join(step.target for step in steps if service in step.restarts)
            self._events.append(ForecastEvent(now, What.RESTART, service, f"has {why} in memory"))
        self._parts.update(renewed)

    def _restart_for_renewal(self, renewal: StartRenewal, now: datetime) -> None:
        """Add the events of a restart in which the service issues its certificates again."""
        renewed = {}
        for status in (*renewal.certificates, *renewal.copies):
            spec, old = status.seen.spec, status.certificate
            end = now + spec.validity if spec.validity else None
            dates = f"valid until {day(end)}" if end else "the end is unknown without `validity` in the entry"
            detail = f"{renewal.service} issues the certificate again at its start; {dates}"
            self._events.append(ForecastEvent(now, What.RENEW, status.seen.name, detail))
            new = replace(old, not_before=now, not_after=end) if old and end else None
            due = renewal_point(new, spec, self._assessment.renew_before) if new else None
            renewed[status.seen.identity] = replace(status, certificate=new, renew_at=due)
        names = ", ".join(status.seen.name for status in renewal.certificates)
        self._events.append(ForecastEvent(now, What.RESTART, renewal.service, f"issues {names} again"))
        self._parts.update(renewed)

    def _renewed(self, step: Issue, old: Certificate) -> CertificateStatus:
        status, template = step.status, step.template
        new = replace(old, not_before=template.not_before, not_after=template.not_after)
        seen = replace(status.seen, symlink=True if status.seen.symlink is False else status.seen.symlink)
        if damage(seen):
            seen = replace(seen, key=old.key, faults=())
        due = renewal_point(new, seen.spec, self._assessment.renew_before)
        return replace(status, seen=seen, certificate=new, renew_at=due, key_matches=True)

    def _detail(self, step: Issue) -> str:
        """Return the detail of the step. From the second renewal on, omit the changes to the contents."""
        if step.identity not in self._renewed_once:
            return step.detail
        return "; ".join(part for part in step.detail.split("; ") if part not in step.template.changes)

    def _tell_clamped(self, due: Assessment, step: Issue) -> None:
        end = step.template.not_after
        for ca in due.trust_anchors:
            if ca.seen.name == step.authority and ca.certificate and ca.certificate.not_after == end:
                fact = f"the CA ends on {end:%Y-%m-%d}, and the certificates that the CA signs now end on the same day"
                detail = f"{fact}; rotate the CA"
                self._tell_once(ForecastEvent(due.taken_at, What.CLAMP, ca.seen.name, detail, bad=True))

    def _tell_held(self, due: Assessment, made: Plan, starts: StartRenewals) -> None:
        now = due.taken_at
        for held in made.held:
            status = self._parts.status((held.target, held.path))  # None for a derived file
            barred = starts.barred.get((held.target, held.path))
            if not barred and status and (status.seen.spec.renewed_by or _is_kept(status)):
                continue  # `_fates` or the restart of its service has its events
            why = barred or held.because
            if held.until is None:
                self._tell_once(ForecastEvent(now, What.HOLD, held.target, why, bad=True), held.path)
            ends = status and status.certificate and status.certificate.not_after < now
            if status and ends and (barred or not self._is_never_renewed(due, status)):
                self._tell_once(ForecastEvent(now, What.EXPIRE, held.target, f"expires: {why}", bad=True), held.path)

    def _is_never_renewed(self, due: Assessment, status: CertificateStatus) -> bool:
        """Return whether certmond never renews the certificate. `_fates` has the events of such a certificate."""
        authorities = {each.seen.name: each for each in due.trust_anchors}
        return not status.stale and renewal_obstacle(status, authorities, self._policy) is not None

    def _tell_once(self, event: ForecastEvent, path: str = "") -> None:
        """Add the event if the forecast has no event of this kind for the target and the path."""
        key = (event.what, event.target, path)
        if key not in self._told:
            self._told.add(key)
            self._events.append(event)

    def _fates(self, first: Assessment) -> Iterator[ForecastEvent]:
        """Yield the `due` and `expire` events of the certificates that certmond does not renew, such as CAs.

        `first` is the assessment at the start of the simulation.
        """
        since = first.taken_at
        authorities = {status.seen.name: status for status in first.trust_anchors}
        starts = start_renewals(first, self._policy)
        at_start = starts.planned.keys() | starts.barred.keys()  # the restarts have their events
        for status in first.certificates:
            why = renewal_obstacle(status, authorities, self._policy)
            if status.certificate is None or status.stale or why is None or status.seen.identity in at_start:
                continue
            name, rotates = status.seen.name, is_rotated(status, since)
            for certificate, due, restart in self._lives(status, status.certificate):
                life = replace(status, certificate=certificate, renew_at=due)
                at, end = _due_at(life, authorities, self._policy, since, since), certificate.expires_at
                if at and (restart is None or at <= restart):
                    yield ForecastEvent(max(at, since), What.DUE, name, f"is due: {why}", bad=True)
                if restart is None:
                    fact = f"expired on {certificate.not_after:%Y-%m-%d}" if end < since else "expires"
                    fact += ", unless the kubelet rotates it before" if rotates else ""
                    yield ForecastEvent(max(end, since), What.EXPIRE, name, f"{fact}: {why}", bad=not rotates)

    def _lives(
        self, status: CertificateStatus, first: Certificate
    ) -> Iterator[tuple[Certificate, datetime | None, datetime | None]]:
        """Yield `first` and each certificate that replaces it: with its renewal point, and the time of its replacement.

        A service that has its certificate only in memory creates a certificate of the same validity at each start. The
        last certificate has no replacement, or expires before its replacement.
        """
        spec, certificate, due = status.seen.spec, first, status.renew_at
        if isinstance(spec, ServedSpec) and spec.renewed_by == renewed_at_start(spec.service):
            for at in (each.at for each in self._events if (each.what, each.target) == (What.RESTART, spec.service)):
                if certificate.expires_at < at:
                    break
                yield certificate, due, at
                certificate = replace(first, not_before=at, not_after=at + (first.not_after - first.not_before))
                due = renewal_point(certificate, spec, self._assessment.renew_before)
        yield certificate, due, None
