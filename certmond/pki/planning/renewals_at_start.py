"""Renewals by a restart: the services that must restart, because they issue due certificates again at their start.

k3s and RKE2 are such services. `restarts` decides when each restart begins.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import field
from datetime import datetime, timedelta

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.planning.planner_inputs import Policy
from certmond.pki.planning.renewal_holds import day
from certmond.pki.planning.renewal_obstacles import authority_of, renewing_service, start_obstacle
from certmond.pki.planning.renewal_time import renewal_time
from certmond.pki.planning.steps import Held, Identity, Restart, Step

_TOGETHER = timedelta(days=1)
"""Maximum time before its renewal at which an earlier restart of the service also renews a certificate.

A service issues its certificates one after the other, so their ends differ by seconds.
"""


@immutable
class StartRenewal:
    """Certificates that a service must issue again at a start.

    `since` is the earliest time at which one of these certificates became due. `copies` are further files that contain
    one of these certificates. The service also writes these files again.
    """

    service: str
    certificates: tuple[CertificateStatus, ...]
    since: datetime
    copies: tuple[CertificateStatus, ...] = ()


@immutable
class StartRenewals:
    """Services that must restart now, by their names.

    `planned` contains the service and the planned time for each certificate that a start issues again. `barred`
    contains the reason for each certificate that a start cannot renew. `changes_at` is the next time at which this
    result changes.
    """

    by_service: Mapping[str, StartRenewal] = field(default_factory=dict)
    planned: Mapping[Identity, tuple[str, datetime]] = field(default_factory=dict)
    barred: Mapping[Identity, str] = field(default_factory=dict)
    changes_at: datetime | None = None


NO_START_RENEWALS = StartRenewals()


def start_renewals(assessment: Assessment, policy: Policy) -> StartRenewals:
    """Return the services that must restart because their certificates are due, if the policy permits this."""
    if not policy.restarts_for_renewal:
        return NO_START_RENEWALS
    node, now = assessment.facts.get("node_name", ""), assessment.taken_at
    authorities = {status.seen.name: status for status in assessment.trust_anchors}
    expected = [ca for ca in assessment.statuses if ca.seen.spec.authority and (ca.certificate or ca.findings)]
    barred, planned = dict[Identity, str](), dict[Identity, tuple[str, datetime]]()
    candidates = dict[str, list[tuple[datetime, datetime, CertificateStatus]]]()
    for status in assessment.certificates:
        if (service := renewing_service(status)) is None or status.stale:
            continue
        at, old = start_renewal_time(status, policy, node), status.certificate
        if at is None or old is None:
            continue
        if reason := start_obstacle(service, expected) or _ca_obstacle(status, authorities, now):
            barred[status.seen.identity] = reason
        else:
            planned[status.seen.identity] = service, at
            together = min(_TOGETHER, (old.not_after - old.not_before) / 20)
            candidates.setdefault(service, []).append((at, at - together, status))
    copies = _copies(assessment, {*planned, *barred}, (status for found in candidates.values() for *_, status in found))
    planned |= {copy.seen.identity: planned[status.seen.identity] for status, copy in copies}
    held = [status for status in assessment.certificates if status.seen.identity in barred]
    for status, copy in _copies(assessment, {*planned, *barred}, held):
        barred[copy.seen.identity] = barred[status.seen.identity]
    by_service = {}
    for service, found in candidates.items():
        if (since := min(at for at, _, _ in found)) <= now:
            renewed = tuple(status for _, from_time, status in found if from_time <= now)
            copied = tuple(copy for status, copy in copies if status in renewed)
            by_service[service] = StartRenewal(service, renewed, since, copied)
    times = (at for _, at in planned.values())
    return StartRenewals(by_service, planned, barred, min((at for at in times if at > now), default=None))


def start_renewal_time(status: CertificateStatus, policy: Policy, node: str) -> datetime | None:
    """Return the time from which a start on this node issues the certificate again, or None if no start does so.

    Returns None also if the dates of the certificate are unknown.
    """
    at, certificate, within = renewal_time(status, policy, node), status.certificate, status.seen.spec.renewed_at_start
    if at is None or certificate is None or within is None:
        return None
    return max(at, certificate.not_before, certificate.not_after - within)


def _copies(
    assessment: Assessment, known: Container[Identity], found: Iterable[CertificateStatus]
) -> list[tuple[CertificateStatus, CertificateStatus]]:
    """Return pairs of a certificate in `found` and a further file that contains this certificate.

    For example, a kubeconfig can contain a certificate that is also in a file.
    """
    originals = {status.certificate: status for status in found}
    return [
        (originals[status.certificate], status)
        for status in assessment.certificates
        if status.certificate in originals and status.seen.spec.renewed_by and status.seen.identity not in known
    ]


def with_restart_times(held: Iterable[Held], found: StartRenewals, restarts: Iterable[Step | Held]) -> Iterator[Held]:
    """Yield the held renewals of `held`, each with the restart that renews the certificate, if such a restart exists.

    `restarts` contains the planned restarts and the held restarts. If no start can renew the certificate, the held
    renewal contains the reason.
    """
    by_service = {each.target: each for each in restarts}
    for each in held:
        identity = each.target, each.path
        service, at = found.planned.get(identity, ("", None))
        restart = by_service.get(service)
        fact = f"{service} issues this certificate again when it starts"
        if reason := found.barred.get(identity):
            yield Held(*identity, reason)
        elif at is None:
            yield each
        elif service not in found.by_service:
            yield Held(*identity, f"{fact}; certmond restarts {service} on {day(at)}", at)
        elif isinstance(restart, Restart):
            yield Held(*identity, f"{fact}; the plan contains this restart")
        elif isinstance(restart, Held):
            yield Held(*identity, f"{fact}; the restart is held: {restart.because}", restart.until)
        else:
            yield each


def _ca_obstacle(status: CertificateStatus, authorities: Mapping[str, CertificateStatus], now: datetime) -> str | None:
    """Return why a new certificate would not be valid for longer than the present certificate, or None."""
    authority, old = authority_of(status, authorities), status.certificate
    ca = authority.certificate if authority else None
    if authority is None or ca is None or old is None or ca.not_after > max(now, old.not_after):
        return None
    fact = f"a new certificate cannot outlive its CA, which ends on {day(ca.not_after)}"
    return f"{fact}; {authority.seen.ca_remedy(expired=now > ca.not_after)}"
