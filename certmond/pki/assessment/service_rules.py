"""The policy for what is not in a file: a certificate that is served, or held in memory, is the one on disk.

Owns these rules and the sentence of each, as `checks` does for the files. What was seen, and what follows from it, is
`holding`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from certmond.pki.assessment.rules import CRITICAL_WINDOW, finding
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.services.staleness import Presence, Stale


def about_services(presence: Presence, now: datetime) -> Iterator[Finding]:
    """What is wrong between the files of a certificate and those that use it."""
    yield from served_differs(presence, now)
    yield from handshake_refused(presence)
    yield from restart_pending(presence)
    yield from restart_failed(presence)
    yield from presence.told


def turning_points(presence: Presence) -> Iterator[datetime]:
    """The instants at which time alone makes it worse."""
    for stale in presence.stale:
        if stale.ends_at:
            yield stale.ends_at - CRITICAL_WINDOW


def served_differs(presence: Presence, now: datetime) -> Iterator[Finding]:
    """An endpoint serves another certificate than its file has, and has had the time to read it."""
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
    """An endpoint of which the node says that it serves the certificate ends each handshake without any."""
    for refusing in presence.refusing:
        if refusing.due:
            at = refusing.at
            fact = f"{at.service or 'what listens'} at {at.endpoint} serves no certificate ({at.reason})"
            remedy = "see its log, and put its former files back: certmond archive restore NAME"
            yield finding(Reason.SERVED_DIFFERS, f"{fact} in place of {refusing.path}; {remedy}", Severity.CRITICAL)


def restart_pending(presence: Presence) -> Iterator[Finding]:
    """A process is older than a file that it does not read again."""
    for stale in presence.stale:
        if stale.reason is Reason.RESTART_PENDING and stale.due:
            yield finding(Reason.RESTART_PENDING, f"{stale.detail}; {_remedy(stale)}")


def restart_failed(presence: Presence) -> Iterator[Finding]:
    """A service was restarted for its sake and did not come up as it should."""
    for message in presence.failures:
        yield finding(Reason.RESTART_FAILED, f"{message}; see its log, put another certificate there, or restart it")


def _remedy(stale: Stale) -> str:
    return f"restart {stale.service}" if stale.service else "see what listens there"


def no_longer_served(before: Iterable[Presence], after: Iterable[Presence]) -> Iterator[str]:
    """Return a sentence for each endpoint that answered with a certificate `before`, and `after` with none."""
    answered = {at.endpoint for presence in before for at in presence.served if at.sha256}
    silent = {at.endpoint: at for presence in after for at in presence.served if not at.sha256}
    for endpoint in sorted(answered & silent.keys(), key=str):
        at = silent[endpoint]
        fact = f"{at.service or 'what listens'} at {endpoint} served a certificate before, and serves none now"
        yield f"{fact}: {at.reason}; see its log, and put the former files back: certmond archive restore NAME"
