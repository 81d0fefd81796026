"""Log of the changes between passes: replaced and removed certificates, and raised and cleared findings.

Budgets limit the number of entries. certmond counts a change beyond a budget, and logs the resulting state later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from certmond.immutable_class import immutable
from certmond.notify.event_log import Event, Journal
from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.assessment.event_rate_limit import Budget, Omissions, Quota
from certmond.pki.findings import Finding, Severity
from certmond.pki.planning.steps import Identity
from certmond.unchanged_ends import unchanged_ends

EACH = Budget(burst=10, every=60)
"""Budget of one certificate: enough for a renewal, a restart and an error, and then one change per minute."""
OVERALL = Budget(burst=1000, every=2)
"""Budget of all certificates: enough for all renewals of a large node. The log grows by at most 20 MB per day."""
RESERVE = Budget(burst=10_000, every=1)
"""Budget for additional critical findings, such as those of 10,000 certificates of a broken CA.

journald accepts 10,000 entries of one unit in 30 s (RateLimitBurst=, journald.conf(5)).
"""
INTERVAL = 60.0
"""Seconds between two summaries of omitted changes."""
_SETTLE_INTERVAL = 1.0  # seconds between two attempts to write deferred changes

_NO_LONGER = {
    Severity.INFO: "is no longer only information",
    Severity.WARNING: "is no longer a warning",
    Severity.CRITICAL: "is no longer critical",
}
_LEVELS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "critical"}


@immutable
class Change:
    """One entry of the change log. `raises` is the severity of a raised finding, or None for any other event."""

    event: Event
    message: str
    level: str
    fields: dict[str, str]
    raises: Severity | None = None


@immutable
class _Owed:
    """The last logged state and the present state of a certificate with deferred changes."""

    written: CertificateStatus | None
    present: CertificateStatus | None


class ChangeLog:
    """Writer of the changes between assessments to the journal.

    `count` receives the number of omitted changes. `now` is in seconds of a monotonic clock.
    """

    def __init__(self, journal: Journal, count: Callable[[int], None] = lambda _: None) -> None:
        self._journal, self._count = journal, count
        self._quota, self._omissions = Quota(EACH, OVERALL, RESERVE), Omissions(INTERVAL)
        self._owed: dict[Identity, _Owed] = {}
        self._settle_at = 0.0

    def compare(self, before: Assessment | None, after: Assessment, now: float) -> None:
        """Write the changes between the assessments `before` and `after`, as far as the budgets permit."""
        present, former = after.distinct, before.distinct if before else ()
        head, tail = unchanged_ends(present, former)
        for status in present[head : len(present) - tail]:
            previous = before.status(*status.seen.identity) if before else None
            if previous is not status:
                self._write(status.seen.identity, previous, status, now)
        for previous in former[head : len(former) - tail]:
            if after.status(*previous.seen.identity) is None:
                self._write(previous.seen.identity, previous, None, now)
        self.settle(now)

    def settle(self, now: float) -> None:
        """Write the deferred changes that the budget now permits.

        If a summary of omitted changes is due, write the summary.
        """
        if self._owed and now >= self._settle_at:
            self._settle_at = now + _SETTLE_INTERVAL
            for identity, owed in list(self._owed.items()):
                self._write(identity, owed.present, owed.present, now)
        if report := self._omissions.reported(now):
            changes, certificates = report
            many = f"certmond did not log {changes} further changes of {certificates} certificates in the last minute"
            self._journal.tell(Event.LEFT_OUT, f"{many}; see: certmond status", "warning", count=changes)

    def _write(
        self, identity: Identity, before: CertificateStatus | None, after: CertificateStatus | None, now: float
    ) -> None:
        """Write the changes from the logged state to `after` if the budget permits.

        Otherwise, defer and count the changes.
        """
        owed = self._owed.pop(identity, None)
        written = owed.written if owed else before
        entries, fresh = list(changes(written, after)), len(list(changes(before, after))) if owed else 0
        if not entries:  # the certificate has returned to the logged state
            self._leave_out(identity, fresh, now)
            return
        critical = any(entry.raises is Severity.CRITICAL for entry in entries)
        if self._quota.take(identity, now, urgent=critical):
            for entry in entries:
                self._journal.tell(entry.event, entry.message, entry.level, **entry.fields)
            return
        self._owed[identity] = _Owed(written, after)
        self._leave_out(identity, fresh if owed else len(entries), now)

    def _leave_out(self, identity: Identity, count: int, now: float) -> None:
        if count:
            self._omissions.add(identity, count, now)
            self._count(count)


def changes(before: CertificateStatus | None, after: CertificateStatus | None) -> Iterator[Change]:
    """Yield the changes between two states of a certificate.

    A state is None if the assessment does not contain the entry.
    """
    if after is not None:
        yield from _replaced(before, after)
        yield from _findings(before, after)
    elif before is not None:
        if held := before.certificate:  # its file can still exist, for example after only its reference was removed
            message = f"certmond no longer watches {held.subject} (serial {held.serial_hex}) in {before.seen.path}"
            yield Change(Event.CERTIFICATE_GONE, message, "info", _fields(before))
        for item in before.findings:
            yield _cleared(before, item, "is cleared")


def _replaced(before: CertificateStatus | None, after: CertificateStatus) -> Iterator[Change]:
    old, new = before and before.certificate, after.certificate
    if old and new and old != new:
        message = f"{after.seen.path} has changed: serial {old.serial_hex} is now {new.serial_hex}"
        serials = {"old_serial": old.serial_hex, "new_serial": new.serial_hex}
        fields = _fields(after) | serials | {"not_after": new.not_after.isoformat()}
        yield Change(Event.CERTIFICATE_CHANGED, message, "info", fields)


def _findings(before: CertificateStatus | None, after: CertificateStatus) -> Iterator[Change]:
    old, new = _by_kind(before), _by_kind(after)
    for kind, item in new.items():
        if kind not in old:
            fields = _fields(after) | {"reason": item.reason.value, "severity": item.severity.value}
            yield Change(Event.FINDING_RAISED, item.message, _LEVELS[item.severity], fields, item.severity)
    remaining = {item.reason for item in new.values()}
    for kind, item in old.items():
        if kind not in new:
            yield _cleared(after, item, _NO_LONGER[item.severity] if item.reason in remaining else "is cleared")


def _cleared(status: CertificateStatus, item: Finding, end: str) -> Change:
    fields = _fields(status) | {"reason": item.reason.value, "severity": item.severity.value}
    return Change(Event.FINDING_CLEARED, f"{status.seen.path}: the finding {item.reason} {end}", "info", fields)


def _by_kind(status: CertificateStatus | None) -> dict[tuple[str, str], Finding]:
    return {(item.reason.value, item.severity.value): item for item in status.findings} if status else {}


def _fields(status: CertificateStatus) -> dict[str, str]:
    return {"certificate": status.seen.name, "path": status.seen.path}
