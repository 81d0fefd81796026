"""The plan run forward in time: what renews and restarts when, and what goes wrong if nobody acts.

Owns the simulation. It carries nothing out and knows no rule of its own: each instant's steps are `plan`'s, and a
renewed certificate is the old one with the dates of the step's template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from certmond.pki.assess import Assessment, CertificateStatus
from certmond.pki.attempt import Attempt
from certmond.pki.catalog import Kind
from certmond.pki.certificate import Certificate
from certmond.pki.checks import renewal_point
from certmond.pki.circumstances import Circumstances, Policy
from certmond.pki.damage import damage
from certmond.pki.obstacles import unable
from certmond.pki.plan import plan, turn
from certmond.pki.steps import Derive, Held, Identity, Issue

MAX_EVENTS = 5000
"""A forecast ends after so many: certificates of minutes' life would fill years with them."""


class What(StrEnum):
    """What happens."""

    RENEW = "renew"
    RESTART = "restart"
    DERIVE = "derive"
    CLAMP = "clamp"
    HOLD = "hold"
    DUE = "due"
    EXPIRE = "expire"


class NextEvent(NamedTuple):
    """What happens first to a certificate (`target`): certmond renews it, or it is due and certmond does not."""

    at: datetime
    target: str
    what: What


@dataclass(frozen=True, slots=True)
class ForecastEvent:
    """One line of the timeline. `bad` says that it hurts if nobody acts before."""

    at: datetime
    what: What
    target: str
    detail: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Forecast:
    """The timeline until `until`; `complete` says that it was not cut off."""

    since: datetime
    until: datetime
    events: tuple[ForecastEvent, ...]
    complete: bool = True


def forecast(
    assessment: Assessment, policy: Policy, until: datetime, circumstances: Circumstances | None = None
) -> Forecast:
    """What happens from the instant of `assessment` to `until`, if all steps succeed and nobody does more."""
    return _Simulation(assessment, policy, until, circumstances or Circumstances()).run()


def next_event(assessment: Assessment, policy: Policy) -> NextEvent | None:
    """Return the first `renew` or `due` of a forecast without a past: when the first certificate is renewed or, where
    certmond cannot renew it, due. An instant that has passed counts as now. None where no such certificate is left.
    """
    node, now = assessment.facts.get("node_name", ""), assessment.taken_at
    authorities = {status.seen.name: status for status in assessment.trust_anchors}
    earliest = ((_earliest(status, policy, node, now), status) for status in assessment.certificates)
    first: NextEvent | None = None
    for at, status in sorted(((at, each) for at, each in earliest if at), key=lambda pair: pair[0]):
        if first and at > first.at:
            break  # what is due is due after its turn
        if instant := _due_at(status, authorities, policy, at, now):
            able = unable(status, authorities, policy) is None
            found = NextEvent(max(instant, now), status.seen.name, What.RENEW if able else What.DUE)
            first = min(first, found) if first else found
    return first


def _earliest(status: CertificateStatus, policy: Policy, node: str, now: datetime) -> datetime | None:
    """Return when certmond renews the certificate if it can; None where that has no date."""
    at, certificate = turn(status, policy, node), status.certificate
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
    """Return when a certificate is renewed, which is `at` if certmond can, or due; None where its life simply ends."""
    certificate = status.certificate
    if unable(status, authorities, policy) is None:
        return at
    if certificate is None or status.stale or certificate.expires_at < now or _is_rotated(status, now):
        return None
    return status.renew_at


def _is_rotated(status: CertificateStatus, now: datetime) -> bool:
    """Whether the kubelet renews this certificate itself, as it does from the link to its dated file."""
    over = status.certificate is not None and status.certificate.expires_at < now
    return status.seen.spec.kind is Kind.KUBELET and status.seen.symlink is not False and not over


def _put_right(status: CertificateStatus) -> CertificateStatus:
    """The entry of damaged files after their repair: what has no predecessor has no dates to go on from."""
    return replace(status, seen=replace(status.seen, certificates=(), faults=()), certificate=None, renew_at=None)


class _Simulation:
    def __init__(self, assessment: Assessment, policy: Policy, until: datetime, circumstances: Circumstances) -> None:
        self._assessment, self._policy, self._until = assessment, policy, until
        self._circumstances = replace(circumstances, hold=None, clock=None)
        self._past: dict[Identity, Attempt] = {}
        self._events: list[ForecastEvent] = []
        self._told: set[tuple[What, str, str]] = set()

    def run(self) -> Forecast:
        since = now = self._assessment.taken_at
        fates = sorted(self._fates(), key=lambda event: event.at)
        while now <= self._until and len(self._events) < MAX_EVENTS:
            self._assessment = replace(self._assessment, taken_at=now)
            made = plan(self._assessment, self._policy, self._past, self._circumstances)
            self._carry_out([step for step in made.steps if isinstance(step, Issue)], now)
            self._events += [
                ForecastEvent(now, What.DERIVE, step.target, step.detail)
                for step in made.steps
                if isinstance(step, Derive)
            ]
            self._circumstances = replace(self._circumstances, stale={})
            for held in made.held:
                self._tell_held(now, held)
            if made.steps:  # the same instant is planned again: what was renewed has another turn
                made = plan(self._assessment, self._policy, self._past, self._circumstances)
            if made.changes_at is None:
                break
            now = made.changes_at
        complete = len(self._events) < MAX_EVENTS
        end = self._until if complete else now
        told = [event for event in (*self._events, *fates) if event.at <= end]
        return Forecast(since, self._until, tuple(sorted(told, key=lambda event: event.at)), complete)

    def _carry_out(self, issues: list[Issue], now: datetime) -> None:
        renewed = {}
        for step in issues:
            self._tell_clamped(now, step)
            self._events.append(ForecastEvent(now, What.RENEW, step.target, self._detail(step)))
            renewed[step.identity] = self._renewed(step, step.old) if step.old else _put_right(step.status)
            self._past[step.identity] = Attempt(now)
        services = dict.fromkeys(service for step in issues for service in step.restarts)
        for service in services:
            why = ", ".join(step.target for step in issues if service in step.restarts)
            self._events.append(ForecastEvent(now, What.RESTART, service, f"it holds {why}"))
        statuses = tuple(renewed.get(status.seen.identity, status) for status in self._assessment.statuses)
        self._assessment = replace(self._assessment, statuses=statuses)

    def _renewed(self, step: Issue, old: Certificate) -> CertificateStatus:
        status, template = step.status, step.template
        new = replace(old, not_before=template.not_before, not_after=template.not_after)
        seen = replace(status.seen, symlink=True if status.seen.symlink is False else status.seen.symlink)
        if damage(seen):
            seen = replace(seen, key=old.key, faults=())
        due = renewal_point(new, seen.spec, self._assessment.renew_before)
        return replace(status, seen=seen, certificate=new, renew_at=due, key_matches=True)

    def _detail(self, step: Issue) -> str:
        """What the plan says; but what changes does so once, the first time."""
        if step.identity not in self._past:
            return step.detail
        return "; ".join(part for part in step.detail.split("; ") if part not in step.template.changes)

    def _tell_clamped(self, now: datetime, step: Issue) -> None:
        end = step.template.not_after
        for ca in self._assessment.trust_anchors:
            if ca.seen.name == step.authority and ca.certificate and ca.certificate.not_after == end:
                detail = f"ends on {end:%Y-%m-%d}: from now on it cuts the life of what it signs short; rotate it"
                self._tell_once(ForecastEvent(now, What.CLAMP, ca.seen.name, detail, bad=True))

    def _tell_held(self, now: datetime, held: Held) -> None:
        status = self._assessment.by_identity.get((held.target, held.path))  # None of a derived file
        if status and status.seen.spec.renewed_by:
            return  # its fate says so already
        if held.until is None:
            self._tell_once(ForecastEvent(now, What.HOLD, held.target, held.because, bad=True), held.path)
        certificate = status.certificate if status else None
        if certificate and certificate.not_after < now:
            self._tell_once(
                ForecastEvent(now, What.EXPIRE, held.target, f"expires: {held.because}", bad=True), held.path
            )

    def _tell_once(self, event: ForecastEvent, path: str = "") -> None:
        """The first of its kind about this target."""
        key = (event.what, event.target, path)
        if key not in self._told:
            self._told.add(key)
            self._events.append(event)

    def _fates(self) -> Iterator[ForecastEvent]:
        """What comes to those that certmond does not renew: the CAs, and what it cannot sign. The past comes first."""
        since = self._assessment.taken_at
        authorities = {status.seen.name: status for status in self._assessment.trust_anchors}
        for status in self._assessment.certificates:
            certificate = status.certificate
            why = unable(status, authorities, self._policy)
            if certificate is None or status.stale or why is None:
                continue
            name, end = status.seen.name, certificate.expires_at
            over, rotates = end < since, _is_rotated(status, since)
            if at := _due_at(status, authorities, self._policy, since, since):
                detail = f"due, and not renewed by certmond: {why}"
                yield ForecastEvent(max(at, since), What.DUE, name, detail, bad=True)
            said = f"expired on {certificate.not_after:%Y-%m-%d}" if over else "expires"
            said += ", unless the kubelet rotates it before" if rotates else ""
            yield ForecastEvent(max(end, since), What.EXPIRE, name, f"{said}: {why}", bad=not rotates)
