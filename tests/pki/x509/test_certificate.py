"""The facts of certificates: of a real kubeadm, of openssl, of malformed ones, and of other bytes."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
import tarfile
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.errors import MalformedError
from certmond.pki.x509.certificate import Certificate, attributes_of, load, load_request, parse_certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.path_building import find_paths
from certmond.pki.x509.public_key import describe_key, public_key_of
from tests.builders import (
    DAY,
    NOW,
    UNKNOWN_OID,
    YEAR,
    Issued,
    make_ca,
    make_leaf,
    make_server,
    new_key,
    oid,
    reissue,
    tlv,
)

REAL = Path(__file__).parents[2] / "data/kubeadm-1.24.tar"


@pytest.fixture(scope="module")
def kubeadm() -> dict[str, bytes]:
    """The files of a control-plane node as kubeadm 1.24 wrote them, by their path below /etc/kubernetes or /."""
    with tarfile.open(fileobj=io.BytesIO(REAL.read_bytes())) as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive if entry.isfile()}
        return {name.removeprefix("etc/kubernetes/"): file.read() for name, file in files.items() if file}


def real(files: dict[str, bytes], name: str) -> Certificate:
    document = decode(files[name], name)
    assert not document.faults
    (certificate,) = document.certificates
    return certificate


# --- real ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subject", "ca", "usages"),
    [
        ("pki/apiserver.crt", {"CN=kube-apiserver"}, "pki/ca.crt", {"server auth"}),
        (
            "pki/apiserver-kubelet-client.crt",
            {"CN=kube-apiserver-kubelet-client", "O=system:masters"},
            "pki/ca.crt",
            {"client auth"},
        ),
        (
            "pki/apiserver-etcd-client.crt",
            {"CN=kube-apiserver-etcd-client", "O=system:masters"},
            "pki/etcd/ca.crt",
            {"client auth"},
        ),
        ("pki/front-proxy-client.crt", {"CN=front-proxy-client"}, "pki/front-proxy-ca.crt", {"client auth"}),
        (
            "pki/etcd/healthcheck-client.crt",
            {"CN=kube-etcd-healthcheck-client", "O=system:masters"},
            "pki/etcd/ca.crt",
            {"client auth"},
        ),
        ("pki/etcd/server.crt", None, "pki/etcd/ca.crt", {"server auth", "client auth"}),
        ("pki/etcd/peer.crt", None, "pki/etcd/ca.crt", {"server auth", "client auth"}),
        ("/kubelet", None, "pki/ca.crt", {"client auth"}),
    ],
)
def test_a_leaf_of_a_real_kubeadm_is_parsed_and_has_a_path(
    kubeadm: dict[str, bytes], name: str, subject: set[str] | None, ca: str, usages: set[str]
) -> None:
    """Subject, usages and dates match kubeadm's documentation, and there is a path to the documented CA."""
    name = next(path for path in kubeadm if path == name or (name == "/kubelet" and "kubelet-client-20" in path))
    leaf, anchor = real(kubeadm, name), real(kubeadm, ca)
    assert subject is None or leaf.attributes == subject
    assert leaf.extended_usages == frozenset(usages)
    assert leaf.usages == frozenset({"digital signature", "key encipherment"})
    assert (leaf.version, leaf.is_ca, leaf.path_length, leaf.signature_hash) == (3, False, None, "sha256")
    assert str(leaf.key) == "RSA-2048"
    assert leaf.not_after.date() == datetime(2027, 11, 24, tzinfo=UTC).date()
    assert leaf.authority_key_id == anchor.subject_key_id
    assert not leaf.self_issued
    path = find_paths(leaf, [anchor], usages=usages).valid_at(datetime(2026, 11, 25, tzinfo=UTC))
    assert path is not None
    assert path.certificates == (leaf, anchor)
    assert path.until == leaf.not_after
    assert not find_paths(leaf, [anchor], usages=["code signing"]).paths


def test_the_ca_of_a_kubeadm_before_1_27_has_serial_number_zero(kubeadm: dict[str, bytes]) -> None:
    """It is parsed like any other: zero is a fact here, and an info elsewhere."""
    for name in ("pki/ca.crt", "pki/etcd/ca.crt", "pki/front-proxy-ca.crt"):
        ca = real(kubeadm, name)
        assert (ca.serial, ca.is_ca, ca.self_issued, ca.path_length) == (0, True, True, None)
        assert ca.usages == frozenset({"digital signature", "key encipherment", "cert sign"})
        assert ca.extended_usages is None
        assert ca.names == {f"DNS:{ca.common_name}"}
        assert ca.not_after.year == 2036


def test_the_names_of_a_real_apiserver_are_read(kubeadm: dict[str, bytes]) -> None:
    """DNS names and addresses match kubeadm's documentation."""
    names = real(kubeadm, "pki/apiserver.crt").names
    assert {"DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc", "IP:10.96.0.1"} <= names


def test_serial_number_zero_prints_no_warning() -> None:
    """cryptography warns about it on standard error. certmond has a finding for it, and no warning in its log."""
    module = "certmond.pki.x509.certificate"
    code = f"import sys; from {module} import parse_certificate as p; p(sys.stdin.buffer.read()).serial"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], input=make_ca(serial=0).der, capture_output=True, check=True
    )
    assert done.stderr == b""


# --- facts ------------------------------------------------------------------------------------------------------------


def test_every_field_is_parsed() -> None:
    """The facts match the content of the certificate."""
    ca = make_ca("a CA", path_length=1, key="rsa", serial=7, subject_key_id=b"own", authority_key_id=b"other")
    facts = ca.facts
    assert (facts.subject, facts.issuer, facts.common_name) == ("CN=a CA", "CN=a CA", "a CA")
    assert facts.subject_der == facts.issuer_der == ca.cert.subject.public_bytes()
    assert (facts.serial, facts.version, facts.path_length) == (7, 3, 1)
    assert (facts.subject_key_id, facts.authority_key_id) == (b"own", b"other")
    assert (facts.not_before, facts.not_after) == (NOW - 30 * DAY, NOW + 10 * YEAR)
    assert facts.not_before.tzinfo is not None
    assert facts.key == public_key_of(ca.key)
    assert not facts.constrains_names
    assert make_ca(excluded=["DNS:a"]).facts.constrains_names


def test_common_parts_of_certificates_are_one_object() -> None:
    """Ten thousand leaves of one CA share its name and their usages."""
    ca = make_ca()
    one, other = (decode(make_leaf(ca, name).pem, "/a").certificates[0] for name in ("one", "other"))
    assert one.subject_der != other.subject_der
    for fact in ("issuer", "issuer_der", "usages", "extended_usages", "authority_key_id"):
        assert getattr(one, fact) is getattr(other, fact)
    assert ca.facts.subject_der is ca.facts.issuer_der is one.issuer_der


@pytest.mark.long
def test_large_removed_certificates_use_no_memory() -> None:
    """A user who can write a file can have the daemon read a thousand names of a megabyte, one after the other."""

    def one_path(number: int) -> None:
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{number}{'x' * 100_000}")])
        ca = make_ca(subject=subject)
        leaf = make_leaf(ca, subject=subject, extended_usages=[f"1.3.{each}" for each in range(number, 500)])
        assert find_paths(leaf.facts, [ca.facts], [], frozenset()).valid_at(NOW)

    one_path(0)
    tracemalloc.start()
    try:
        for number in range(1, 11):
            one_path(number)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000


def test_a_certificate_of_version_1_has_no_extensions() -> None:
    """Absent extensions are None, not empty: they restrict nothing."""
    facts = make_ca(version=1).facts
    assert (facts.version, facts.is_ca, facts.usages, facts.extended_usages) == (1, None, None, None)
    assert (facts.names, facts.subject_key_id, facts.authority_key_id) == (frozenset(), None, None)


@pytest.mark.parametrize("serial", [0, 1, -1, -(1 << 63), 1 << 158])
def test_any_serial_number_is_read(serial: int) -> None:
    """Zero and below are against RFC 5280, and in the field."""
    assert make_ca(serial=serial).facts.serial == serial


def test_names_of_every_kind_in_go_are_parsed_and_others_are_omitted() -> None:
    """DNS, IP, email and URI are text. A directory name is no name of a host."""
    names = ["DNS:a.example", "IP:10.0.0.1", "IP:fd00::1", "email:a@b", "URI:spiffe://a/b", "dirName:c"]
    assert make_server(make_ca(), names=names).facts.names == set(names[:-1])


def test_usages_have_the_names_that_kubernetes_gives_them() -> None:
    """An extended usage without such a name has its OID."""
    facts = make_leaf(make_ca(), usages=["key agreement", "decipher only"], extended_usages=["any", "1.2.3.4"]).facts
    assert facts.usages == frozenset({"key agreement"})
    assert facts.extended_usages == frozenset({"any", "1.2.3.4"})
    assert make_leaf(make_ca(), usages=[]).facts.usages == frozenset()


@pytest.mark.parametrize(
    ("usages", "extended", "usage", "expected"),
    [
        (None, None, "cert sign", True),
        (["cert sign"], None, "cert sign", True),
        (["crl sign"], None, "cert sign", False),
        (None, ["client auth"], "client auth", True),
        (None, ["client auth"], "server auth", False),
        (None, ["any"], "server auth", True),
        ([], None, "digital signature", False),
        (["cert sign"], None, "server auth", True),
    ],
)
def test_a_usage_is_granted_by_its_extension_or_its_absence(
    usages: list[str] | None, extended: list[str] | None, usage: str, expected: bool
) -> None:
    """keyUsage and extendedKeyUsage each restrict their own usages. anyExtendedKeyUsage restricts nothing."""
    assert make_leaf(make_ca(), usages=usages, extended_usages=extended).facts.has_usage(usage) is expected


def test_unknown_critical_extensions_are_listed() -> None:
    """Only critical ones are listed: an unknown extension that is not critical may be ignored."""
    extra = [(UNKNOWN_OID, True, b"\x05\x00"), (UNKNOWN_OID + ".2", False, b"\x05\x00")]
    assert make_leaf(make_ca(), extra=extra).facts.unknown_critical == (UNKNOWN_OID,)


def test_attributes_are_parsed_in_any_order_and_grouping() -> None:
    """A name with two attributes in one RDN equals one with two RDNs."""
    common, organization = (
        x509.NameAttribute(NameOID.COMMON_NAME, "a,b"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "c"),
    )
    apart = x509.Name([organization, common])
    together = x509.Name([x509.RelativeDistinguishedName([common, organization])])
    assert attributes_of(apart) == attributes_of(together) == {"CN=a\\,b", "O=c"}
    facts = make_leaf(make_ca(), subject=apart).facts
    assert facts.attributes == {"CN=a\\,b", "O=c"}
    assert make_leaf(make_ca(), subject=x509.Name([organization])).facts.common_name is None


def test_two_certificates_are_equal_exactly_if_their_der_is() -> None:
    """The same name, key and dates in another certificate make another certificate."""
    ca = make_ca()
    assert ca.facts == parse_certificate(ca.der)
    assert len({ca.facts, parse_certificate(ca.der), reissue(ca).facts}) == 2
    assert ca.facts != reissue(ca).facts
    assert ca.facts != ca.facts.sha256


def test_the_facts_are_shown_without_their_encoding() -> None:
    """A log line with a certificate in it stays a line."""
    facts = make_leaf(make_ca()).facts
    assert repr(facts.subject) in repr(facts)
    assert "der=" not in repr(facts)


@pytest.mark.parametrize(
    ("kind", "shown", "bits"),
    [
        ("rsa", "RSA-2048", 2048),
        ("rsa-1024", "RSA-1024", 1024),
        ("ec", "ECDSA-256", 256),
        ("ec-p521", "ECDSA-521", 521),
        ("ec-secp256k1", "secp256k1", 256),
        ("ed25519", "Ed25519", 256),
        ("ed448", "Ed448", 0),
        ("dsa", "DSA-2048", 2048),
    ],
)
def test_a_key_is_named_by_algorithm_and_size_and_is_the_same_in_certificate_and_key_file(
    kind: str, shown: str, bits: int
) -> None:
    """An elliptic curve that Go does not have is called by its own name, for it is not ECDSA to Kubernetes."""
    key = new_key(kind)
    described = make_leaf(make_ca(), key=key).facts.key
    assert (str(described), described.bits) == (shown, bits)
    assert described == public_key_of(key)


def test_a_key_that_cannot_sign_is_named_all_the_same() -> None:
    """X25519 is for key agreement; it is no certificate's key in Kubernetes, and no reason to fail."""
    assert str(describe_key(x25519.X25519PrivateKey.generate().public_key())) == "X25519"


@pytest.mark.parametrize(
    ("key", "digest", "expected"),
    [("ec", "sha1", "sha1"), ("rsa", "md5", "md5"), ("rsa", "sha256-pss", "sha256"), ("ed25519", "sha256", None)],
)
def test_the_digest_of_the_signature_is_read(key: str, digest: str, expected: str | None) -> None:
    """Ed25519 has no separate digest."""
    assert make_ca(key=key, hash=digest).facts.signature_hash == expected


def test_a_signature_algorithm_without_a_name_is_shown_by_its_oid() -> None:
    """The certificate is still read: its dates matter even without a verification."""
    unknown = "1.2.840.10045.4.3.99"
    der = make_ca().der.replace(oid("1.2.840.10045.4.3.2"), oid(unknown))
    assert parse_certificate(der).signature_hash == unknown


# --- malformed certificates -------------------------------------------------------------------------------------------

LEAF = make_leaf(make_ca())
GOOD = LEAF.der
POINT = LEAF.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)[-64:]
MALFORMED = {
    "nothing": b"",
    "zero bytes": bytes(100),
    "text": b"-----BEGIN CERTIFICATE-----",
    "a private key": make_ca().key_pem,
    "half a certificate": GOOD[: len(GOOD) // 2],
    "all but the last byte": GOOD[:-1],
    "a byte too many": GOOD + b"\x00",
    "two certificates": GOOD + GOOD,
    "another value": tlv(0x30, b"\x02\x01\x01"),
}


@pytest.mark.parametrize("der", MALFORMED.values(), ids=MALFORMED)
def test_anything_except_one_usable_certificate_is_malformed(der: bytes) -> None:
    """Whatever the parser raises, the caller gets one kind of error with one sentence."""
    with pytest.raises(MalformedError, match="certificate"):
        parse_certificate(der)


def test_a_malformed_request_is_refused_with_a_reason() -> None:
    """A request is public, so the error contains the message of cryptography."""
    with pytest.raises(MalformedError, match=r"^not a certificate request \(.*PEM.*\)$"):
        load_request(b"no PEM")


def test_load_gives_cryptographys_own_object() -> None:
    """It serves callers that need more than the facts."""
    ca = make_ca()
    assert load(ca.der) == ca.cert
    with pytest.raises(MalformedError):
        load(b"")


NETWORK = tlv(0x30, tlv(0xA0, tlv(0x30, tlv(0x87, bytes([10, 0, 0, 1])))))
REFUSED = {
    "version 4": (make_leaf(make_ca(), version=4), "x509: invalid version"),
    "an extension twice": (make_leaf(make_ca(), extra=[("2.5.29.19", True, b"\x30\x00")]), "duplicate extension"),
    "a broken subjectAltName": (
        make_leaf(make_ca(), extra=[("2.5.29.17", False, b"\x05\x01")]),
        "x509: invalid subject alternative name",
    ),
    "an address of three octets": (
        make_leaf(make_ca(), extra=[("2.5.29.17", False, tlv(0x30, tlv(0x87, b"abc")))]),
        "x509: cannot parse IP address of length 3",
    ),
    "a network without a mask": (
        make_ca(extra=[("2.5.29.30", True, NETWORK)]),
        "x509: IP constraint contained value of length 4",
    ),
}


@pytest.mark.parametrize(("issued", "objection"), REFUSED.values(), ids=REFUSED)
def test_the_dates_of_a_certificate_that_go_refuses_are_read(issued: Issued, objection: str) -> None:
    """Its expiry is exported, and a finding quotes Go's error."""
    facts = parse_certificate(issued.der)
    assert objection in "; ".join(facts.objections)
    assert facts.not_after > NOW
    assert facts.subject.startswith("CN=")


def test_a_key_that_is_no_point_of_its_curve_is_refused_by_go() -> None:
    """The key then has a fingerprint, by which it is no other key."""
    facts = parse_certificate(GOOD.replace(POINT, POINT[:-1] + bytes([POINT[-1] ^ 1])))
    assert facts.objections == ("x509: failed to unmarshal elliptic curve point",)
    assert (facts.key.algorithm, facts.key.bits) == ("ECDSA", 0)
    assert facts.key != LEAF.facts.key


READ = {
    "a path length without CA:TRUE": make_leaf(make_ca(), path_length=0).der,
    "no extended usage in the list of them": make_leaf(make_ca(), extended_usages=[]).der,
    "version 2": make_leaf(make_ca(), version=2).der,
    "a public key of an unknown kind": GOOD.replace(oid("1.2.840.10045.2.1"), oid("1.2.840.10045.2.99")),
    "a subject in Latin-1": GOOD.replace(b"\x0c\x04leaf", b"\x14\x04caf\xe9"),
    "dates without seconds": GOOD.replace(b"\x30\x1e\x17\x0d", b"\x30\x1c\x17\x0d", 1).replace(
        b"\x17\x0d271124120000Z", b"\x17\x0b2711241200Z", 1
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_certificate_that_only_go_parses_has_its_dates(name: str) -> None:
    """The error of cryptography is stored beside."""
    der = READ[name]
    short = len(GOOD) - len(der) if "dates" in name else 0
    facts = parse_certificate(shortened(der, short))
    assert facts.objections == ()
    assert facts.unread
    assert facts.not_after == LEAF.facts.not_after
    assert facts.issuer == "CN=kubernetes"


def shortened(der: bytes, octets: int) -> bytes:
    """Return `der` with so many octets removed from the signed part, and the two lengths around it corrected."""
    if not octets:
        return der
    outer, inner = (int.from_bytes(der[at : at + 2]) - octets for at in (2, 6))
    return der[:2] + outer.to_bytes(2) + der[4:6] + inner.to_bytes(2) + der[8:]


def test_latin_1_is_shown_as_text() -> None:
    """A T61String of older tools."""
    assert parse_certificate(READ["a subject in Latin-1"]).attributes == {"CN=café"}


@settings(deadline=None)
@given(st.binary() | st.binary().map(lambda data: tlv(0x30, data)))
def test_any_bytes_are_a_certificate_or_malformed(data: bytes) -> None:
    """No bytes raise another error."""
    with pytest.raises(MalformedError):
        parse_certificate(data)


@pytest.mark.long
@settings(deadline=None, max_examples=500)
@given(place=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255))
def test_a_certificate_with_one_byte_changed_is_a_certificate_or_malformed(place: int, value: int) -> None:
    """Almost valid bytes do not either."""
    changed = GOOD[:place] + bytes([value]) + GOOD[place + 1 :]
    try:
        facts = parse_certificate(changed)
    except MalformedError:
        return
    assert facts.der == changed
    assert isinstance(repr(facts), str)
