"""Findings about certificates and certificate requests in objects of the cluster."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from certmond.pki.assessment.assess import CertificateStatus, assess
from certmond.pki.assessment.cluster_rules import MAX_FINDINGS, cluster_state
from certmond.pki.assessment.node_condition import node_condition
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.findings import Fault, Finding, Reason, Severity
from certmond.pki.services.cluster_objects import (
    CertificateData,
    CertificateFacts,
    ClusterReading,
    ClusterRequest,
    ClusterState,
    Listing,
    Place,
    RequestPhase,
    Unread,
)
from certmond.pki.services.staleness import Surroundings
from tests.builders import DAY, NOW, make_ca

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
RENEW_BEFORE = 30 * DAY
TLS = Place("Secret", "default", "web", "tls.crt")
HOOK = Place("MutatingWebhookConfiguration", "", "inject", "webhooks/0/clientConfig/caBundle")
KUBELET, SERVING = "system:node:n1", "kubernetes.io/kubelet-serving"


def certificate(left: timedelta, life: timedelta = 90 * DAY, subject: str = "CN=web") -> CertificateFacts:
    """A certificate that ends `left` after NOW."""
    end = NOW + left
    return CertificateFacts(subject, "CN=ca", 0xAB, "00" * 32, end - life, end)


def holding(*certificates: CertificateFacts, place: Place = TLS, fault: Fault | None = None) -> CertificateData:
    return CertificateData(place, b"", certificates, (fault,) if fault else ())


def request(
    name: str, age: timedelta, phase: RequestPhase = RequestPhase.PENDING, user: str = KUBELET
) -> ClusterRequest:
    return ClusterRequest(name, SERVING, user, NOW - age, phase)


def reading(*data: CertificateData, requests: tuple[ClusterRequest, ...] = ()) -> ClusterReading:
    secrets = Listing(Place("Secret"), NOW, len(data), data)
    csrs = Listing(Place("CertificateSigningRequest"), NOW, len(requests), requests=requests)
    return ClusterReading(True, (secrets, csrs))


def state(known: ClusterReading, now: datetime = NOW) -> ClusterState:
    return cluster_state(known, now, RENEW_BEFORE)


def found(known: ClusterReading, now: datetime = NOW) -> list[Finding]:
    """The findings of a pass on a node with this reading."""
    assessment = assess(Inventory(()), now, around=Surroundings(cluster=state(known, now)))
    assert assessment.cluster is known
    return list(assessment.loose_findings)


@pytest.mark.parametrize(
    ("left", "life", "severity", "verb"),
    [
        (13 * DAY, 90 * DAY, None, ""),
        (12 * DAY, 90 * DAY, Severity.WARNING, "expires"),
        (6 * DAY, 90 * DAY, Severity.CRITICAL, "expires"),
        (-MINUTE, 90 * DAY, Severity.CRITICAL, "expired"),
        (13 * DAY, 365 * DAY, None, ""),
        (12 * DAY, 365 * DAY, Severity.WARNING, "expires"),
        (15 * DAY - HOUR, 90 * DAY, None, ""),  # duration 2160h, renewBefore 360h
        (5 * MINUTE - MINUTE / 2, HOUR, Severity.WARNING, "expires"),  # renewBefore 5m
        (4 * HOUR, 24 * HOUR, None, ""),
        (3 * HOUR, 24 * HOUR, Severity.WARNING, "expires"),
        (HOUR, 24 * HOUR, Severity.CRITICAL, "expires"),
    ],
)
def test_a_certificate_that_its_controller_does_not_renew_is_reported(
    left: timedelta, life: timedelta, severity: Severity | None, verb: str
) -> None:
    """From three sevenths of `renew_before`, or a seventh of the lifetime, the finding is a warning. In the second half
    of this time, or the last 7 days, it is critical. With `renewBefore` of a sixth, a renewed certificate has no
    finding, and with a twelfth, no critical finding.
    """
    findings = found(reading(holding(certificate(left, life))))
    assert [each.severity for each in findings] == ([severity] if severity else [])
    if severity:
        (finding,) = findings
        assert finding.reason is Reason.CLUSTER_EXPIRY
        fact = f"tls.crt in the Secret default/web: CN=web (serial ab) {verb} on {NOW + left:%Y-%m-%d %H:%M} UTC"
        run = "kubectl -n default describe secret web"
        assert finding.message == f"{fact}; find out why no controller renews the certificate: {run}"


@pytest.mark.parametrize("end", [datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_a_time_at_the_end_of_the_calendar_is_no_finding(end: datetime) -> None:
    """RFC 5280 gives a certificate without an end this `notAfter`. A request can also have this time."""
    last = CertificateFacts("CN=forever", "CN=ca", 1, "00" * 32, NOW, end)
    made = state(
        reading(holding(last), requests=(ClusterRequest("csr-a", SERVING, KUBELET, end, RequestPhase.PENDING),))
    )
    assert made.observations == ()
    assert made.changes_at
    assert NOW < made.changes_at < end
    assert [each.severity for each in found(reading(holding(last)), end)] == [Severity.CRITICAL]


def test_the_critical_window_is_at_most_seven_days() -> None:
    """With a longer `renew_before`, the warning begins earlier."""
    held = reading(holding(certificate(30 * DAY, 365 * DAY)))
    changes = [cluster_state(held, NOW + days * DAY, 60 * DAY).changes_at for days in (0, 10)]
    assert changes == [NOW + 30 * DAY - 60 * DAY * 3 / 7, NOW + 23 * DAY]


def test_a_chain_ends_with_its_first_certificate_to_end() -> None:
    """An intermediate CA that expires before the leaf makes the chain unusable."""
    (finding,) = found(reading(holding(certificate(80 * DAY), certificate(DAY, subject="CN=intermediate"))))
    assert "CN=intermediate" in finding.message


def test_a_bundle_of_cas_ends_with_its_last_ca() -> None:
    """An expired CA beside a valid CA is usual after a rotation, and no finding. Without a valid CA, all calls fail."""
    expired = certificate(-DAY, subject="CN=old")
    assert found(reading(holding(expired, certificate(80 * DAY), place=HOOK))) == []
    (finding,) = found(reading(holding(expired, certificate(DAY, subject="CN=new"), place=HOOK)))
    assert finding.severity is Severity.CRITICAL
    assert finding.message.startswith(
        "webhooks/0/clientConfig/caBundle in the MutatingWebhookConfiguration inject: CN=new "
    )
    assert finding.message.endswith(
        "renew the CA, and replace the bundle, or find out why no controller replaces the bundle: kubectl describe "
        "mutatingwebhookconfiguration inject"
    )


def test_the_fault_of_an_object_is_reported_while_no_certificate_ends() -> None:
    """An object has one finding, the most severe one."""
    fault = Fault(Reason.CLUSTER_MALFORMED, "tls.crt in the Secret default/web is empty", "write it again")
    assert found(reading(holding(fault=fault))) == [
        Finding(
            Reason.CLUSTER_MALFORMED,
            Severity.WARNING,
            "tls.crt in the Secret default/web is empty; write it again",
        )
    ]
    assert [each.reason for each in found(reading(holding(certificate(DAY), fault=fault)))] == [Reason.CLUSTER_EXPIRY]
    assert [each.reason for each in found(reading(holding(certificate(80 * DAY), fault=fault)))] == [fault.reason]


def test_a_request_without_a_decision_is_reported_after_a_quarter_of_an_hour() -> None:
    """The oldest request of the user has the time, so that the finding stays the same while a kubelet creates more
    requests. The command names the last request, because the kubelet uses only this one.
    """
    assert found(reading(requests=(request("csr-a", 14 * MINUTE),))) == []
    requests = (request("csr-b", MINUTE), request("csr-a", 15 * MINUTE), request("csr-c", 15 * MINUTE))
    (finding,) = found(reading(requests=requests))
    assert (finding.reason, finding.severity) == (Reason.REQUEST_WAITING, Severity.WARNING)
    fact = f"{KUBELET} has waited for the approval of a CertificateSigningRequest to {SERVING} since"
    last = "the last request is csr-b; check this request, and then approve it: kubectl describe csr csr-b"
    assert finding.message == f"{fact} {NOW - 15 * MINUTE:%Y-%m-%d %H:%M} UTC; {last}"
    two = reading(requests=(*requests, request("csr-d", HOUR, user="system:node:n2")))
    assert len(found(two)) == 2


def test_an_approved_request_waits_for_its_signer() -> None:
    """The remedy is the log of the signer."""
    (finding,) = found(reading(requests=(request("csr-a", HOUR, RequestPhase.APPROVED),)))
    assert "has waited for the signature of a CertificateSigningRequest" in finding.message
    assert "kube-controller-manager" in finding.message


@pytest.mark.parametrize("phase", [RequestPhase.ISSUED, RequestPhase.DENIED, RequestPhase.FAILED])
def test_a_decision_ends_the_wait_of_older_requests(phase: RequestPhase) -> None:
    """The client no longer uses them. Requests after the decision, to other signers and of other users wait."""
    older, decided = request("csr-a", 3 * HOUR), request("csr-b", 2 * HOUR, phase)
    assert found(reading(requests=(older, decided))) == []
    (finding,) = found(reading(requests=(older, decided, request("csr-c", HOUR))))
    assert f"since {NOW - HOUR:%Y-%m-%d %H:%M} UTC; the last request is csr-c" in finding.message
    other = older._replace(user="system:node:n2"), older._replace(signer="example.com/it")
    assert len(found(reading(requests=(decided, *other)))) == 2


@pytest.mark.parametrize("phase", [RequestPhase.DENIED, RequestPhase.FAILED])
def test_a_decided_request_is_no_finding(phase: RequestPhase) -> None:
    """An operator or a controller has decided, and kube-controller-manager deletes the request."""
    assert found(reading(requests=(request("csr-a", DAY, phase),))) == []


def test_a_refused_listing_is_reported_at_once_and_a_silent_one_later() -> None:
    """A restart of the API server is no finding. After ten minutes without an answer, the finding is there."""
    known = reading()
    unread = Unread(Place("Secret"), "the user may not list the secrets", "grant this user a role", NOW, lasting=True)
    refused = replace(known, listings=(Listing(Place("Secret"), unread=unread),))
    (finding,) = found(refused)
    assert finding.message == "not watched: the user may not list the secrets; grant this user a role"
    assert (finding.reason, finding.severity) == (Reason.CLUSTER_UNREAD, Severity.WARNING)
    silent = replace(known, lease=replace(unread, place=Place("Lease"), lasting=False))
    assert found(silent) == []
    assert len(found(silent, NOW + 10 * MINUTE)) == 1


def test_the_number_of_findings_is_limited() -> None:
    """The most urgent objects have a separate finding each, and one more finding has the number of the others."""
    data = [
        holding(certificate(timedelta(days=number % 12)), place=replace(TLS, name=f"web-{number}"))
        for number in range(MAX_FINDINGS + 7)
    ]
    findings = found(reading(*data))
    assert len(findings) == MAX_FINDINGS + 1
    assert findings[-1].message.startswith("7 further objects of the cluster have a finding")
    severities = [each.severity for each in findings[:-1]]
    assert severities == sorted(severities, key=lambda each: -each.rank)
    assert len({each.seen.identity for each in assess_of(reading(*data))}) == len(findings)


def test_many_objects_of_one_namespace_hide_no_object_of_another_namespace() -> None:
    """Of equally severe objects, each namespace has the same number. The finding about the others has the severity of
    the most severe of them.
    """

    def expiring(namespace: str, count: int, left: timedelta) -> list[CertificateData]:
        places = (replace(TLS, namespace=namespace, name=f"{namespace}-{number}") for number in range(count))
        return [holding(certificate(left), place=place) for place in places]

    many, few = expiring("tenant", MAX_FINDINGS + 60, -DAY), expiring("ingress", 3, DAY)
    findings = found(reading(*many, *few))
    assert sum("Secret ingress/" in each.message for each in findings) == 3
    assert findings[-1].message.startswith("63 further objects")
    assert findings[-1].severity is Severity.CRITICAL
    shown = [each.severity for each in found(reading(*many[:MAX_FINDINGS], *expiring("ingress", 3, 10 * DAY)))]
    assert shown == [Severity.CRITICAL] * MAX_FINDINGS + [Severity.WARNING]


def assess_of(known: ClusterReading) -> tuple[CertificateStatus, ...]:
    return assess(Inventory(()), NOW, around=Surroundings(cluster=state(known))).statuses


def test_the_next_change_is_the_next_time_at_which_a_finding_changes() -> None:
    """A pass is due at this time, without another reading."""
    held = reading(holding(certificate(20 * DAY, 84 * DAY)), requests=(request("csr-a", 5 * MINUTE),))
    assert state(held).changes_at == NOW + 10 * MINUTE
    assert state(held, NOW + HOUR).changes_at == NOW + 8 * DAY
    assert state(held, NOW + 8 * DAY).changes_at == NOW + 14 * DAY
    assert state(held, NOW + 14 * DAY).changes_at == NOW + 20 * DAY + timedelta(seconds=1)
    assert state(held, NOW + 21 * DAY).changes_at is None
    unread = Unread(Place("Lease"), "no answer", "wait", NOW, lasting=False)
    assert state(ClusterReading(lease=unread)).changes_at == NOW + 10 * MINUTE


def test_a_finding_of_the_cluster_says_nothing_about_the_node() -> None:
    """The condition of the Node counts no object of the cluster, and the object is no certificate of the node."""
    ca = make_ca(not_after=NOW + 3000 * DAY)
    seen = Observation("ca", CertificateSpec(name="ca", path="/ca", authority=True), "/ca", (ca.facts,))
    around = Surroundings(cluster=state(reading(holding(certificate(-DAY)))))
    assessment = assess(Inventory((seen,)), NOW, around=around)
    assert assessment.severity is Severity.CRITICAL
    assert (assessment.catalogued, len(list(assessment.certificates))) == (1, 1)
    assert node_condition(assessment).reason == "NoFindings"


def test_without_a_reader_there_is_no_reading() -> None:
    """A command, and a daemon without `cluster.reader`, have neither findings nor a reading."""
    assert assess(Inventory(()), NOW).cluster is None
    assert assess(Inventory(()), NOW, around=Surroundings()).cluster is None
