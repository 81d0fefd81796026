"""Rules for running services. Each service must use the certificate that is in the file.

`services.staleness` collects the evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from certmond.pki.assessment.rule_input import finding
from certmond.pki.assessment.validity_rules import CRITICAL_WINDOW
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.services.staleness import Presence, ServedAt, Stale


def about_services(presence: Presence, now: datetime) -> Iterator[Finding]:
    """Yield the findings about the services that use a certificate."""
    yield from served_differs(presence, now)
    yield from handshake_refused(presence)
    yield from restart_pending(presence)
    yield from restart_failed(presence)
    yield from presence.findings


def changes_without_event(seen: Observation, presence: Presence) -> bool:
    """Return whether a service can change the findings about a certificate without a change to a file.

    For example, a service reloads its files some time after a change to these files, and the restart of a kubelet
    changes no file.
    """
    return bool(presence.stale or presence.refusing or served_before_restart(seen, presence))


def served_before_restart(seen: Observation, presence: Presence) -> ServedAt | None:
    """Return the endpoint at which the kubelet serves a certificate although the requested certificate is missing.

    Return None if there is no such endpoint.

    Without a certificate, a kubelet that requests its certificate ends each handshake with an error
    (kubernetes/kubernetes, pkg/kubelet/kubelet.go, GetCertificate). Therefore, this kubelet has read its configuration
    before the setting changed, or still has a certificate in memory whose file was removed.
    """
    return next((each for each in presence.served if seen.requested and each.sha256), None)


def turning_points(presence: Presence) -> Iterator[datetime]:
    """Yield the times at which findings about services with an old certificate become critical."""
    for stale in presence.stale:
        if stale.ends_at:
            yield stale.ends_at - CRITICAL_WINDOW


def served_differs(presence: Presence, now: datetime) -> Iterator[Finding]:
    """Report an endpoint that does not serve the certificate in the file, although the time for a reload has passed."""
    for stale in presence.stale:
        if stale.reason is Reason.SERVED_DIFFERS and stale.due:
            soon = stale.ends_at is None or now >= stale.ends_at - CRITICAL_WINDOW
            end = f", and the served certificate ends on {stale.ends_at:%Y-%m-%d %H:%M} UTC" if stale.ends_at else ""
            yield finding(
                Reason.SERVED_DIFFERS,
                f"{stale.detail}{end}; {_remedy(stale)}",
                Severity.CRITICAL if soon else Severity.WARNING,
            )


def handshake_refused(presence: Presence) -> Iterator[Finding]:
    """Report an endpoint that should serve this certificate, but ends each TLS handshake without a certificate."""
    for refusing in presence.refusing:
        if refusing.due:
            at = refusing.at
            fact = f"{at.service or 'the listener'} at {at.endpoint} serves no certificate ({at.reason})"
            remedy = "see the log of the service, and restore the previous files: certmond archive restore NAME"
            yield finding(
                Reason.SERVED_DIFFERS,
                f"{fact}, but should serve the certificate in {refusing.path}; {remedy}",
                Severity.CRITICAL,
            )


def restart_pending(presence: Presence) -> Iterator[Finding]:
    """Report a process that started before the last change to a file and does not reload this file."""
    for stale in presence.stale:
        if stale.reason is Reason.RESTART_PENDING and stale.due:
            yield finding(Reason.RESTART_PENDING, f"{stale.detail}; {_remedy(stale)}")


def restart_failed(presence: Presence) -> Iterator[Finding]:
    """Report a service whose restart failed. The restart was necessary to load this certificate."""
    for message in presence.failures:
        yield finding(
            Reason.RESTART_FAILED,
            f"{message}; see the log of the service, then install another certificate, or run: certmond restart NAME",
        )


def _remedy(stale: Stale) -> str:
    return (
        f"run: certmond restart {stale.service}" if stale.service else "find the program that listens there: ss -ltnp"
    )


def no_longer_served(before: Iterable[Presence], after: Iterable[Presence]) -> Iterator[str]:
    """Yield a message for each endpoint that served a certificate in `before`, but serves none in `after`."""
    answered = {at.endpoint for presence in before for at in presence.served if at.sha256}
    silent = {at.endpoint: at for presence in after for at in presence.served if not at.sha256}
    for endpoint in sorted(answered & silent.keys(), key=str):
        at = silent[endpoint]
        fact = f"{at.service or 'the listener'} at {endpoint} no longer serves a certificate"
        yield (
            f"{fact}: {at.reason}; see the log of the service, and restore the previous files: "
            "certmond archive restore NAME"
        )
