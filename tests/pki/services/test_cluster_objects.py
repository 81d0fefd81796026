"""The parser of certificates in objects of the cluster, and the values of a reading."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.findings import Fault, Reason
from certmond.pki.services.cluster_objects import (
    MAX_BYTES,
    MAX_CERTIFICATES,
    CertificateData,
    ClusterReading,
    ClusterRequest,
    Listing,
    Place,
    RequestPhase,
    Unread,
    certificate_data,
    requests_with_issued,
)
from tests.builders import DAY, NOW, Issued, bundle, make_ca, make_leaf
from tests.cluster.leaks import leaks

CA = make_ca()
LEAF = make_leaf(CA, "web")
TLS = Place("Secret", "default", "web", "tls.crt")
CAS = replace(TLS, key="ca.crt")
REMEDY = "let the controller that owns the object write this key again"


def coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def subjects(data: CertificateData) -> list[str]:
    return [each.subject for each in data.certificates]


def test_a_place_has_the_path_of_its_object_in_the_api() -> None:
    """The path is that of `kubectl get --raw`, and an operator recognizes the name."""
    assert TLS.path == "/api/v1/namespaces/default/secrets/web#tls.crt"
    assert TLS.called == "Secret default/web"
    assert TLS.where == "tls.crt in the Secret default/web"
    hook = Place("ValidatingWebhookConfiguration", "", "it", "webhooks/0/clientConfig/caBundle")
    assert hook.path.startswith("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/it#webhooks/0/")
    assert hook.called == "ValidatingWebhookConfiguration it"
    assert (Place("Secret").path, Place("Secret").called) == ("/api/v1/secrets", "Secret")
    assert Place("Secret", "web").path == "/api/v1/namespaces/web/secrets"
    assert Place("Secret", "web").called == "Secret web"


def test_the_certificates_of_a_chain_are_read_in_order() -> None:
    """Each certificate has its subject, issuer, serial number, digest and validity."""
    data = certificate_data(TLS, coded(bundle(LEAF, CA)))
    assert [each.sha256 for each in data.certificates] == [LEAF.facts.sha256, CA.facts.sha256]
    facts = data.certificates[0]
    assert (facts.subject, facts.issuer, facts.serial) == (LEAF.facts.subject, CA.facts.subject, LEAF.facts.serial)
    assert (facts.not_before, facts.not_after) == (LEAF.facts.not_before, LEAF.facts.not_after)
    assert data.faults == ()


def test_a_long_name_is_shortened() -> None:
    """An ellipsis replaces the end of a subject or issuer with more than 256 characters."""
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, f"{number:064}") for number in range(5)]
    data = certificate_data(TLS, coded(make_ca(subject=x509.Name(units)).pem))
    (facts,) = data.certificates
    assert facts.subject == facts.issuer
    assert (len(facts.subject), facts.subject[-1]) == (256, "…")


def test_unchanged_data_is_not_parsed_again() -> None:
    """For the same bytes, the result is the previous object."""
    first = certificate_data(TLS, coded(LEAF.pem))
    assert certificate_data(TLS, coded(LEAF.pem), first) is first
    other = certificate_data(TLS, coded(CA.pem), first)
    assert subjects(other) == [CA.facts.subject]


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("%%%", "tls.crt in the Secret default/web is not base64"),
        ("", "tls.crt in the Secret default/web is empty"),
        (coded(CA.public_pem), "tls.crt in the Secret default/web contains no certificate"),
    ],
    ids=["no base64", "empty", "no certificate"],
)
def test_data_without_a_certificate_is_a_fault(text: str, fact: str) -> None:
    """The fault names the key and the object, and quotes no part of the data."""
    assert certificate_data(TLS, text).faults == (Fault(Reason.CLUSTER_MALFORMED, fact, REMEDY),)


def test_a_broken_certificate_beside_a_good_one_is_a_fault() -> None:
    """certmond still watches the good certificate."""
    broken = LEAF.pem.replace(b"MII", b"MIA", 1)
    data = certificate_data(TLS, coded(CA.pem + broken))
    assert subjects(data) == [CA.facts.subject]
    assert [each.reason for each in data.faults] == [Reason.CLUSTER_MALFORMED]


def test_data_that_is_too_long_is_not_watched() -> None:
    """The message contains the limit."""
    data = certificate_data(TLS, "A" * (MAX_BYTES + 1))
    (fault,) = data.faults
    assert fault.reason is Reason.CLUSTER_UNREAD
    assert fault.detail.startswith("not watched: tls.crt in the Secret default/web has ")
    assert str(MAX_BYTES) in fault.detail
    assert certificate_data(TLS, "A" * MAX_BYTES).faults[0].reason is Reason.CLUSTER_MALFORMED


def test_of_many_cas_those_that_end_last_are_watched() -> None:
    """certmond watches the CAs that expire last, or the start of a chain. The message contains the number of all."""
    cas: list[Issued] = [
        make_ca(f"ca-{number}", not_after=NOW + number * DAY) for number in range(1, MAX_CERTIFICATES + 3)
    ]
    data = certificate_data(CAS, coded(bundle(*cas)))
    assert len(data.certificates) == MAX_CERTIFICATES
    assert subjects(data)[0] == f"CN=ca-{MAX_CERTIFICATES + 2}"
    assert "CN=ca-1" not in subjects(data)
    (fault,) = data.faults
    assert fault.reason is Reason.CLUSTER_UNREAD
    assert f"contains {MAX_CERTIFICATES + 2} certificates" in fault.detail
    assert subjects(certificate_data(TLS, coded(bundle(*cas))))[0] == "CN=ca-1"


def test_a_private_key_is_not_kept() -> None:
    """A key in the same data, as in a combined PEM, is in no part of the result."""
    data = certificate_data(TLS, coded(LEAF.pem + LEAF.key_pem))
    assert subjects(data) == [LEAF.facts.subject]
    assert not leaks(repr(data).encode() + data.digest, LEAF)


@given(st.one_of(st.text(), st.binary().map(coded), st.binary().map(lambda each: coded(LEAF.pem + each))))
def test_any_data_has_a_result(text: str) -> None:
    """The parser raises no error. Data without a certificate has a fault, and every message is on one line."""
    data = certificate_data(TLS, text)
    assert data.certificates or data.faults
    assert all(each.subject.isprintable() and each.issuer.isprintable() for each in data.certificates)


def test_a_deleted_request_with_a_certificate_still_ends_the_wait_of_older_requests() -> None:
    """It stays as long as an older request of the same user to the same signer is listed."""

    def request(name: str, days: int, phase: RequestPhase = RequestPhase.PENDING, user: str = "n1") -> ClusterRequest:
        return ClusterRequest(name, "example.com/it", user, NOW + days * DAY, phase)

    old, issued, denied = request("a", 0), request("b", 1, RequestPhase.ISSUED), request("c", 1, RequestPhase.DENIED)
    other = request("d", 1, RequestPhase.ISSUED, user="n2")
    later = request("e", 2)
    assert requests_with_issued((old, issued), ()) == (old, issued)
    assert requests_with_issued((old, later), (old, issued, denied, other)) == (old, later, issued)
    assert requests_with_issued((old,), (old, issued, denied, other)) == (old, issued)
    assert requests_with_issued((old, issued), (old, issued)) == (old, issued)
    assert requests_with_issued((later,), (old, issued)) == (later,)


def test_a_reading_is_as_old_as_its_oldest_listing() -> None:
    """If a listing has not succeeded yet, the time is unknown."""
    early, late = Listing(Place("Secret"), NOW), Listing(Place("APIService"), NOW + DAY)
    assert ClusterReading(True, (late, early)).read_at == NOW
    assert ClusterReading(True, (late, Listing(Place("Secret")))).read_at is None
    assert ClusterReading().read_at is None


def test_the_requests_of_a_reading_have_no_certificate() -> None:
    """The rules also need the requests with a certificate."""
    phases = (RequestPhase.PENDING, RequestPhase.ISSUED)
    pending, issued = (ClusterRequest("a", "example.com/it", "n1", NOW, phase) for phase in phases)
    reading = ClusterReading(True, (Listing(Place("CertificateSigningRequest"), requests=(pending, issued)),))
    assert (list(reading.requests), list(reading.every_request)) == ([pending], [pending, issued])


def test_a_reading_has_the_causes_of_all_listings() -> None:
    """The failure of the Lease is the first one."""
    lease = Unread(Place("Lease"), "no right", "", NOW, lasting=True)
    secrets = Unread(Place("Secret"), "no right", "", NOW, lasting=True)
    listings = (Listing(Place("Secret"), unread=secrets), Listing(Place("APIService"), NOW))
    assert list(ClusterReading(True, listings, lease).unread) == [lease, secrets]
