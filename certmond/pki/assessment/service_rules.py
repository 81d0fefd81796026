"""Rules for running services: the certificate that a service serves, or has in memory, must be the one on disk.

Owns these rules and their messages, as `rules` does for files. `services.staleness` owns the evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from certmond.pki.assessment.rule_input import finding
from certmond.pki.assessment.validity_rules import CRITICAL_WINDOW
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.services.staleness import Presence, Stale


def about_services(presence: Presence, now: datetime) -> Iterator[Finding]:
    """Yield the findings about services whose certificate differs from its files."""
    yield from served_differs(presence, now)
    yield from handshake_refused(presence)
    yield from restart_pending(presence)
    yield from restart_failed(presence)
    yield from presence.findings


def turning_points(presence: Presence) -> Iterator[datetime]:
    """Yield the instants at which a finding becomes more severe with time."""
    for stale in presence.stale:
        if stale.ends_at:
            yield stale.ends_at - CRITICAL_WINDOW


def served_differs(presence: Presence, now: datetime) -> Iterator[Finding]:
    """Report an endpoint that, after the time for a reload, still serves another certificate than the file contains."""
    for stale in presence.stale:
        if stale.reason is Reason.SERVED_DIFFERS and stale.due:
            soon = stale.ends_at is None or now >= stale.ends_at - CRITICAL_WINDOW
            end = f", which ends on {stale.ends_at:%Y-%m-%d %H:%M} UTC" if stale.ends_at else ""
            yield finding(
                Reason.SERVED_DIFFERS,
                f"{stale.detail}{end}; {_remedy(stale)}",
                Severity.CRITICAL if soon else Severity.WARNING,
            )


def handshake_refused(presence: Presence) -> Iterator[Finding]:
    """Report an endpoint of this certificate that ends each handshake without any certificate."""
    for refusing in presence.refusing:
        if refusing.due:
            at = refusing.at
            fact = f"{at.service or 'the listener'} at {at.endpoint} serves no certificate ({at.reason})"
            remedy = "see its log, and restore its previous files: certmond archive restore NAME"
            yield finding(Reason.SERVED_DIFFERS, f"{fact}, not {refusing.path}; {remedy}", Severity.CRITICAL)


def restart_pending(presence: Presence) -> Iterator[Finding]:
    """Report a process that is older than a file that it does not reload."""
    for stale in presence.stale:
        if stale.reason is Reason.RESTART_PENDING and stale.due:
            yield finding(Reason.RESTART_PENDING, f"{stale.detail}; {_remedy(stale)}")


def restart_failed(presence: Presence) -> Iterator[Finding]:
    """Report a service that was restarted for this certificate and failed."""
    for message in presence.failures:
        yield finding(
            Reason.RESTART_FAILED,
            f"{message}; see the log of the service, install another certificate, or restart the service",
        )


def _remedy(stale: Stale) -> str:
    return (
        f"run: certmond restart {stale.service}" if stale.service else "find the program that listens there: ss -ltnp"
    )


def no_longer_served(before: Iterable[Presence], after: Iterable[Presence]) -> Iterator[str]:
    """Yield a sentence for each endpoint that served a certificate `before` and serves no certificate `after`."""
    answered = {at.endpoint for presence in before for at in presence.served if at.sha256}
    silent = {at.endpoint: at for presence in after for at in presence.served if not at.sha256}
    for endpoint in sorted(answered & silent.keys(), key=str):
        at = silent[endpoint]
        fact = f"{at.service or 'the listener'} at {endpoint} no longer serves a certificate"
        yield f"{fact}: {at.reason}; see its log, and restore its previous files: certmond archive restore NAME"
