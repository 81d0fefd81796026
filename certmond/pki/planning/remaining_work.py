"""Work that the steps of a plan leave: due certificates without a step, and critical findings that no step clears."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.assessment.self_signed_leaves import is_renewed_elsewhere, is_self_signed
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.planning.forecast import is_rotated
from certmond.pki.planning.planner_inputs import Policy
from certmond.pki.planning.renewal_obstacles import renewal_obstacle
from certmond.pki.planning.steps import Derive, Held, Identity, Issue, Plan, Restart, Restore, Rotate

_OF_SERVICES = frozenset({Reason.SERVED_DIFFERS, Reason.RESTART_PENDING, Reason.RESTART_FAILED})
"""Reasons of findings that a restart clears."""


@immutable
class Waiting:
    """A due certificate that no step renews.

    `until` is the time at which certmond plans again, or None. `renewed_by` is the component or person that renews the
    certificate, or None if certmond would renew the certificate without the obstacle in `because`.
    """

    target: str
    path: str
    because: str
    until: datetime | None = None
    renewed_by: str | None = None


@immutable
class RemainingWork:
    """Due certificates without a step, and critical findings that no step clears, each with its certificate."""

    waiting: tuple[Waiting, ...] = ()
    unresolved: tuple[tuple[Finding, CertificateStatus], ...] = ()


def remaining_work(assessment: Assessment, plan: Plan, policy: Policy) -> RemainingWork:
    """Return the work that `plan` leaves.

    If a hold ends at a known time, certmond acts at that time. The result then contains no finding about these files.
    """
    found = _Remains(assessment, plan, policy)
    return RemainingWork(tuple(found.waiting()), tuple(found.unresolved()))


class _Remains:
    def __init__(self, assessment: Assessment, plan: Plan, policy: Policy) -> None:
        self._assessment, self._policy, self._now = assessment, policy, assessment.taken_at
        self._authorities = {status.seen.name: status for status in assessment.trust_anchors}
        self._written = {path for step in plan.writes for path in _files(step)}
        restarts = [step for step in plan.steps if isinstance(step, Restart)]
        self._restarted = {(each.name, each.path) for step in restarts for each in step.targets}
        self._held: dict[Identity, Held] = {(each.target, each.path): each for each in plan.held}

    def waiting(self) -> Iterator[Waiting]:
        """Yield the due certificates that no step renews."""
        for status in self._assessment.certificates:
            certificate, due = status.certificate, status.renew_at
            if certificate is None or due is None or status.stale or self._is_written(status):
                continue
            if certificate.not_before <= self._now < due or status.seen.identity in self._restarted:
                continue
            because, until = self._reason(status)
            if because:
                yield Waiting(*status.seen.identity, because, until, self._renewer(status))

    def unresolved(self) -> Iterator[tuple[Finding, CertificateStatus]]:
        """Yield the critical findings that no step clears.

        If a renewal would clear the finding, the message contains the reason why no step renews the certificate.
        """
        reasons = {(each.target, each.path): each.because for each in self.waiting()}
        for status in self._assessment.statuses:
            if status.severity is not Severity.CRITICAL or self._ends(status):
                continue
            because = reasons.get(status.seen.identity)
            for item in status.findings:
                if item.severity is Severity.CRITICAL and not self._is_cleared(item, status):
                    fact = item.message.partition("; ")[0]
                    renewable = because and item.reason.cleared_by_renewal
                    yield replace(item, message=f"{fact}; {because}") if renewable else item, status

    def _reason(self, status: CertificateStatus) -> tuple[str | None, datetime | None]:
        """Return why no step renews the certificate, and the end of the hold, if any."""
        if held := self._held.get(status.seen.identity):
            return held.because, held.until
        return renewal_obstacle(status, self._authorities, self._policy), None

    def _renewer(self, status: CertificateStatus) -> str | None:
        self_signed = is_self_signed(status.seen, status.trust_anchor, status.issuers)
        if is_renewed_elsewhere(status.seen.spec, self_signed=self_signed):
            return status.seen.spec.renewed_by
        return "the kubelet" if is_rotated(status, self._now) else None

    def _ends(self, status: CertificateStatus) -> bool:
        held = self._held.get(status.seen.identity)
        return held is not None and held.until is not None

    def _is_written(self, status: CertificateStatus) -> bool:
        return not self._written.isdisjoint(filter(None, (status.seen.path, *status.seen.pair)))

    def _is_cleared(self, item: Finding, status: CertificateStatus) -> bool:
        if item.reason in _OF_SERVICES:
            return status.seen.identity in self._restarted
        if not (item.reason.cleared_by_renewal or item.reason is Reason.ROOT_CA_CHANGED):
            return False
        starts = status.seen.identity in self._restarted and status.seen.spec.renewed_at_start is not None
        return starts or self._is_written(status)


def _files(step: Issue | Restore | Derive | Rotate) -> Iterator[str]:
    if isinstance(step, Issue | Restore):
        yield from filter(None, (step.path, *step.status.seen.pair))
    else:
        yield from (change.path for change in step.wants) if isinstance(step, Rotate) else (step.path,)
