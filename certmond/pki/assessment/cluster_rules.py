"""Rules for the objects that the reader of the cluster has read: certificates, certificate requests, and failures.

certmond renews none of these certificates. Their thresholds are lower than those of files, because a controller such as
cert-manager renews a certificate when a third of its lifetime remains, and certmond reports only a missing renewal. In
the documentation of cert-manager, a certificate of 90 days is renewed at a sixth of its lifetime.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from certmond.pki.assessment.validity_rules import CRITICAL_WINDOW
from certmond.pki.catalog.observation import Observation
from certmond.pki.catalog.service_spec import ClusterObjectSpec
from certmond.pki.findings import Fault, Reason, Severity, printable
from certmond.pki.services.cluster_objects import (
    CHAIN,
    CertificateData,
    CertificateFacts,
    ClusterReading,
    ClusterRequest,
    ClusterState,
    Place,
    RequestPhase,
    Unread,
)
from certmond.pki.x509.serial_number import hexadecimal

REQUEST_WAIT = timedelta(minutes=15)
"""Age from which on certmond reports a request. A kubelet waits this long, and then creates another request."""
RETRY_TIME = timedelta(minutes=10)
"""Time for which certmond does not report a failure that can end without an operator, such as an API server restart."""
MAX_FINDINGS = 200
"""Maximum number of objects with a separate finding. One more finding contains the number of the other objects."""

_SECOND = timedelta(seconds=1)
_LAST = datetime.max.replace(tzinfo=UTC)  # RFC 5280 defines 9999-12-31T23:59:59Z for a certificate without an end
_PHASES = {RequestPhase.PENDING: "the approval", RequestPhase.APPROVED: "the signature"}


class _Reported(NamedTuple):
    """An observation with a fault. `group` is the namespace, or the kind of an object without a namespace."""

    severity: Severity
    at: datetime | None
    group: str
    observation: Observation

    @property
    def urgency(self) -> tuple[int, str, str]:
        """Order of the observations, the most urgent one first."""
        return -self.severity.rank, str(self.at or ""), self.observation.path


def cluster_state(reading: ClusterReading, now: datetime, renew_before: timedelta) -> ClusterState:
    """Return the observations of the objects and failures with a finding at `now`, and the time of the next change."""
    reported, instants = list[_Reported](), list[datetime]()
    for data in reading.data:
        reported += _about_data(data, now, renew_before)
        if data.certificates:
            instants += _turning_points(_decisive(data), renew_before)
    for oldest, last in _waiting(reading.every_request):
        reported += _about_request(last, oldest.created_at, now)
        instants.append(_after(oldest.created_at, REQUEST_WAIT))
    observations = _limited(reported)
    for unread in reading.unread:
        if unread.lasting or now - unread.since >= RETRY_TIME:
            observations.append(unread_observation(unread))
        instants.append(unread.since + RETRY_TIME)
    changes_at = min((at for at in instants if at > now), default=None)
    return ClusterState(reading, tuple(observations), changes_at)


def _limited(reported: list[_Reported]) -> list[Observation]:
    """Return the most severe observations, the same number of each namespace if possible, and one about the others."""
    counts, turns = Counter[tuple[int, str]](), list[tuple[int, int, _Reported]]()
    for each in sorted(reported, key=lambda each: each.urgency):
        rank = -each.severity.rank
        turns.append((rank, counts[rank, each.group], each))
        counts[rank, each.group] += 1
    turns.sort(key=lambda turn: turn[:2])
    ordered = [each for *_, each in turns]
    shown = sorted(ordered[:MAX_FINDINGS], key=lambda each: each.urgency)
    observations = [each.observation for each in shown]
    if others := ordered[MAX_FINDINGS:]:
        observations.append(_others(len(others), others[0].severity))  # the most severe one is the first one
    return observations


def _about_data(data: CertificateData, now: datetime, renew_before: timedelta) -> Iterator[_Reported]:
    """Yield at most one observation for one key: the expiration of a certificate, or else the first fault."""
    if data.certificates:
        last = _decisive(data)
        warned_at, critical_at, over_at = _turning_points(last, renew_before)
        if now >= warned_at:
            verb, severity = "expires", Severity.CRITICAL if now >= critical_at else Severity.WARNING
            if now >= over_at:
                verb = "expired"
            name = f"{last.subject} (serial {hexadecimal(last.serial)})"
            fact = f"{data.place.where}: {name} {verb} on {_time(last.not_after)}"
            fault = Fault(Reason.CLUSTER_EXPIRY, fact, _renewal(data.place))
            yield _reported(data.place, fault, severity, last.not_after)
            return
    for fault in data.faults[:1]:
        yield _reported(data.place, fault, fault.reason.severity)


def _decisive(data: CertificateData) -> CertificateFacts:
    """Return the certificate whose end makes the data unusable: in a chain the first to end, of CAs the last to end."""
    choose = min if data.place.key == CHAIN else max
    return choose(data.certificates, key=lambda each: each.not_after)


def _turning_points(certificate: CertificateFacts, renew_before: timedelta) -> tuple[datetime, datetime, datetime]:
    """Return the times at which the warning starts, the critical window starts, and the certificate has expired."""
    end, life = certificate.not_after, max(certificate.not_after - certificate.not_before, timedelta())
    warned = min(renew_before * 3, life) / 7
    return end - warned, end - min(CRITICAL_WINDOW, warned / 2), _after(end, _SECOND)


def _renewal(place: Place) -> str:
    if place.kind != "Secret":
        describe = f"kubectl describe {place.kind.lower()} {shlex.quote(place.name)}"
        return f"renew the CA, and replace the bundle, or find out why no controller replaces the bundle: {describe}"
    describe = f"kubectl -n {shlex.quote(place.namespace)} describe secret {shlex.quote(place.name)}"
    return f"find out why no controller renews the certificate: {describe}"


def _waiting(requests: Iterable[ClusterRequest]) -> Iterator[tuple[ClusterRequest, ClusterRequest]]:
    """Yield the oldest and the last waiting request of each user to each signer.

    A kubelet without an answer creates another request every 15 minutes, and certmond reports this kubelet once. A
    decision about a request ends the wait of the older requests, because their client no longer uses them.
    """
    waiting = dict[tuple[str, str], tuple[ClusterRequest, ClusterRequest]]()
    for each in sorted(requests, key=lambda request: (request.created_at, request.name)):
        client = each.user, each.signer
        if each.phase in _PHASES:
            waiting[client] = (waiting[client][0] if client in waiting else each), each
        else:
            waiting.pop(client, None)
    yield from waiting.values()


def _about_request(request: ClusterRequest, since: datetime, now: datetime) -> Iterator[_Reported]:
    """Yield an observation about the last request of a client that waits since `since`."""
    if now - since >= REQUEST_WAIT:
        fact = (
            f"{request.user} has waited for {_PHASES[request.phase]} of a CertificateSigningRequest to "
            f"{request.signer} since {_time(since)}; the last request is {request.name}"
        )
        describe = f"kubectl describe csr {shlex.quote(request.name)}"
        remedy = (
            f"check this request, and then approve it: {describe}"
            if request.phase is RequestPhase.PENDING
            else f"run: {describe}; then see the log of the signer (of kube-controller-manager for kubernetes.io/…)"
        )
        place = Place("CertificateSigningRequest", key=f"{request.user}:{request.signer}")
        fault = Fault(Reason.REQUEST_WAITING, fact, remedy)
        name = f"requests of {request.user}"
        yield _reported(place, fault, fault.reason.severity, since, name)


def _reported(
    place: Place, fault: Fault, severity: Severity, at: datetime | None = None, name: str | None = None
) -> _Reported:
    observation = _observation(name or place.called, place.path, fault, severity)
    return _Reported(severity, at, place.namespace or place.kind, observation)


def _others(count: int, severity: Severity) -> Observation:
    fact = f"{count} further objects of the cluster have a finding, and certmond reports {MAX_FINDINGS} in detail"
    fault = Fault(Reason.CLUSTER_EXPIRY, fact, "see certmond_cluster_certificate_not_after_timestamp_seconds")
    return _observation("further objects", "/api", fault, severity)


def unread_observation(unread: Unread) -> Observation:
    """Return the observation of objects that certmond does not watch."""
    fault = Fault(Reason.CLUSTER_UNREAD, f"not watched: {unread.fact}", unread.remedy)
    return _observation(unread.place.called, unread.place.path, fault, Severity.WARNING)


def _observation(name: str, path: str, fault: Fault, severity: Severity) -> Observation:
    at_most = severity if severity is not fault.reason.severity else None
    spec = ClusterObjectSpec(name="cluster", path="/api", at_most=at_most)
    return Observation(printable(name), spec, printable(path), faults=(fault,))


def _after(at: datetime, span: timedelta) -> datetime:
    """Return the time `span` after `at`, or the last time that Python can represent."""
    return at + min(span, _LAST - at)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
