"""The content of a new certificate: that of the old one, adapted to the catalogue, within the lifetime of its CA."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm
from certmond.pki.catalog.validator import validated
from certmond.pki.signing.template import (
    BACKDATE,
    Template,
    Terms,
    algorithm_of,
    builder,
    extensions,
    first,
    general_name,
    is_a,
    successor,
)
from certmond.pki.x509.certificate import parse_certificate, to_pem
from certmond.pki.x509.path_building import find_paths
from tests.builders import (
    DAY,
    NOW,
    SECOND,
    UNKNOWN_OID,
    YEAR,
    Issued,
    Key,
    Modifiers,
    make_ca,
    make_leaf,
    make_server,
    new_key,
    tlv,
)
from tests.builders import general_name as encoded_name
from tests.builders import oid as encoded_oid
from tests.conftest import real_part

ROOT = make_ca()
EC, RSA, ED = new_key("ec"), new_key("rsa"), new_key("ed25519")
TERMS = Terms(NOW, ROOT.facts.not_after, {"node_name": "worker-1"})
CERT_SIGN, SAN, AIA = "cert sign", "2.5.29.17", "1.3.6.1.5.5.7.1.1"
MAKES = {
    KeyAlgorithm.RSA_2048: "rsa",
    KeyAlgorithm.RSA_3072: "rsa-3072",
    KeyAlgorithm.RSA_4096: "rsa-4096",
    KeyAlgorithm.ECDSA_P256: "ec",
    KeyAlgorithm.ECDSA_P384: "ec-p384",
    KeyAlgorithm.ED25519: "ed25519",
}

PLACES = tlv(0x30, tlv(0x30, encoded_oid("1.3.6.1.5.5.7.48.2"), encoded_name("URI:http://ca.example/")))
"""An authorityInfoAccess with one address of the CA."""


def row(**fields: Any) -> CertificateSpec:
    return validated(CertificateSpec, {"name": "leaf", "path": "/pki/leaf.crt", "ca": "ca"} | fields)


def following(old: Issued, terms: Terms = TERMS, **fields: Any) -> Template:
    return successor(old.facts, row(**fields), terms)


def signed(template: Template, key: Key, issuer: Issued | None = ROOT) -> Issued:
    """The certificate, signed as a signer does it."""
    signing = issuer.key if issuer else key
    made = builder(template, key.public_key(), 4711, issuer.cert if issuer else None)
    digest = None if type(signing).__name__.startswith("Ed") else SHA256()
    certificate = made.sign(signing, digest)
    ski = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    return Issued(certificate.public_bytes(Encoding.DER), key, certificate.subject, ski, None)


def renewed(old: Issued, terms: Terms = TERMS, issuer: Issued = ROOT, **fields: Any) -> Issued:
    template = following(old, terms, **fields)
    return signed(template, key_for(template.key), issuer)


@cache
def key_for(algorithm: KeyAlgorithm) -> Key:
    return new_key(MAKES[algorithm])


def extension(issued: Issued, kind: type[x509.ExtensionType]) -> x509.Extension[Any]:
    return issued.cert.extensions.get_extension_for_class(kind)


def raw(certificate: Issued, oid: x509.ObjectIdentifier) -> bytes:
    value = certificate.cert.extensions.get_extension_for_oid(oid).value
    return value.public_bytes()


# --- inherited content ------------------------------------------------------------------------------------------------


def odd_names() -> tuple[str, bool, bytes]:
    """A subjectAltName with every kind that cryptography knows, byte by byte."""
    other = tlv(0xA0, encoded_oid(UNKNOWN_OID), tlv(0xA0, tlv(0x0C, b"worker-1@REALM")))
    kinds = ["DNS:worker-1", "DNS:*.example", "IP:10.0.0.1", "IP:fd00::1", "email:a@b.example", "URI:spiffe://x/y"]
    registered = tlv(0x88, encoded_oid(UNKNOWN_OID)[2:])
    return SAN, False, tlv(0x30, *map(encoded_name, [*kinds, "dirName:worker"]), other, registered)


def test_subject_names_and_usages_are_taken_over_byte_by_byte() -> None:
    """Names of every kind, in their order, and extended usages that have no name."""
    old = make_leaf(ROOT, extra=[odd_names()], extended_usages=["client auth", UNKNOWN_OID, "server auth"])
    new = renewed(old, usages="client auth")
    for kind in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage):
        assert raw(new, kind.oid) == raw(old, kind.oid)
    assert new.facts.subject_der == old.facts.subject_der
    assert following(old).extended_usages == ("client auth", UNKNOWN_OID, "server auth")


@pytest.mark.parametrize("kind", ["PrintableString", "UTF8String", "T61String", "BMPString", "IA5String"])
def test_a_subject_keeps_its_encoding_and_its_grouping(kind: str) -> None:
    """Go compares names by their bytes, and writes all organizations into one group."""
    form = x509.name._ASN1Type[kind]
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name, form) for name in ("system:nodes", "more")]
    name = x509.Name(
        [
            x509.RelativeDistinguishedName(groups),
            x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, "w" * 64, form)]),
        ]
    )
    old = make_leaf(ROOT, subject=name)
    assert renewed(old).facts.subject_der == old.facts.subject_der


class Raw(x509.Name):
    """A name that is encoded without validation."""

    def __init__(self, der: bytes) -> None:
        super().__init__([])
        self._der = der

    def public_bytes(self, backend: object = None) -> bytes:
        return self._der


@pytest.mark.filterwarnings("ignore:Attribute's length")  # cryptography's remark on it
def test_a_common_name_longer_than_the_standard_permits_is_taken_over() -> None:
    """A node's name may have 253 letters (RFC 1123), a common name 64 (RFC 5280, appendix A); Go does not count."""
    name = tlv(0x30, tlv(0x31, tlv(0x30, encoded_oid("2.5.4.3"), tlv(0x0C, b"system:node:" + b"n" * 200))))
    old = make_leaf(ROOT, subject=Raw(name))
    assert renewed(old, subject="CN=system:node:" + "n" * 200).facts.subject_der == name


def test_a_conforming_certificate_changes_only_key_and_dates() -> None:
    """No change is reported, and the two differ only in serial number, dates, key and its identifiers."""
    old = make_server(ROOT, "worker-1", key="rsa")
    fields: dict[str, Any] = {
        "usages": ["digital signature", "key encipherment", "server auth"],
        "names": "DNS:${node_name}",
    }
    template = following(old, subject="CN=worker-1", **fields)
    assert template.changes == ()
    new = signed(template, new_key("rsa"))
    kept = ["subject", "issuer", "names", "usages", "extended_usages", "is_ca", "authority_key_id", "unknown_critical"]
    assert [getattr(new.facts, name) for name in kept] == [getattr(old.facts, name) for name in kept]
    assert new.facts.key != old.facts.key


TEXT = st.text("abcdefghij-.:*", min_size=1, max_size=20)
NAMES = st.one_of(
    TEXT.map(lambda text: f"DNS:{text}"),
    st.ip_addresses().map(lambda address: f"IP:{address}"),
    TEXT.map(lambda text: f"email:{text}@b"),
    TEXT.map(lambda text: f"URI:x://{text}"),
    TEXT.map(lambda text: f"dirName:{text}"),
)
KEY_USAGE = ["digital signature", "content commitment", "key encipherment", "data encipherment", "key agreement"]


@st.composite
def leaves(draw: st.DrawFn) -> Issued:
    said: Modifiers = {
        "names": draw(st.none() | st.lists(NAMES, max_size=4)),
        "usages": draw(st.none() | st.lists(st.sampled_from([*KEY_USAGE, CERT_SIGN, "crl sign"]), unique=True)),
        "extended_usages": draw(
            st.none() | st.lists(st.sampled_from(["any", "client auth", UNKNOWN_OID]), unique=True, min_size=1)
        ),
        "is_ca": draw(st.sampled_from([None, False, True])),
        "key": draw(st.sampled_from([EC, RSA, ED])),
    }
    return make_leaf(ROOT, draw(TEXT), **said)


@pytest.mark.long
@settings(deadline=None)
@given(
    leaves(),
    st.lists(st.sampled_from(["server auth", "client auth", "key encipherment", "digital signature", CERT_SIGN])),
    st.lists(st.sampled_from(["DNS:a", "IP:10.0.0.1", "DNS:${node_name}", "DNS:${dns_domain}", "IP:${node_name}"])),
    st.none() | st.sampled_from(list(KeyAlgorithm)),
)
def test_every_change_is_reported_and_a_second_renewal_has_none(
    old: Issued, usages: list[str], names: list[str], key: KeyAlgorithm | None
) -> None:
    """For any old certificate: the new one is a leaf with all possible requirements, each loss is reported, and its
    successor is equal. A certificate that Go or cryptography does not read is not renewed.
    """
    assume(not (old.facts.objections or old.facts.unread))
    fields: dict[str, Any] = {"usages": usages, "names": names, "key_algorithm": key}
    template = following(old, **fields)
    new = signed(template, key_for(template.key)).facts
    assert new.is_ca is False
    assert new.usages
    assert not new.usages & {CERT_SIGN, "crl sign"}
    assert old.facts.names <= new.names
    assert (old.facts.extended_usages or frozenset()) <= (new.extended_usages or frozenset())
    said = " ".join(template.changes)
    for usage in (new.usages or frozenset()) ^ (old.facts.usages or frozenset()):
        assert f"s the usage {usage}" in said
    for name in new.names - old.facts.names:
        assert f"adds the name {name}" in said
    assert successor(new, row(**fields), TERMS).changes == ()


# --- content of the catalogue -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "fields", "said"),
    [
        ({"extended_usages": ["client auth"]}, {"usages": "server auth"}, "adds the usage server auth"),
        ({"extended_usages": None}, {"usages": "client auth"}, "adds the usage client auth"),
        ({"usages": None}, {}, "adds the usage digital signature"),
        ({"usages": ["digital signature", CERT_SIGN]}, {}, "drops the usage cert sign"),
        ({"names": ["DNS:a"]}, {"names": ["DNS:A.", "IP:::1"]}, "adds the name IP:::1"),
        ({"is_ca": True}, {}, "is not a CA"),
        ({"extra": [(AIA, False, PLACES)]}, {}, f"drops the extension {AIA}"),
        ({}, {"subject": "CN=other, O=b"}, "has the subject CN=other, O=b, not CN=leaf"),
        ({}, {"key_algorithm": "RSA-2048"}, "has a key RSA-2048, not ECDSA-256"),
    ],
)
def test_each_difference_from_the_old_certificate_is_reported(old: Any, fields: Any, said: str) -> None:
    """Each difference has one sentence, and an unchanged field has none."""
    plain: dict[str, Any] = {"usages": ["digital signature"]}
    template = following(make_leaf(ROOT, **(plain | old)), **fields)
    assert template.changes == (said,)


def test_added_values_follow_the_existing_ones() -> None:
    """The order is that of a person."""
    old = make_leaf(ROOT, extended_usages=["client auth"], names=["DNS:b"])
    template = following(old, usages="server auth", names=["DNS:a", "IP:10.0.0.1"])
    assert template.extended_usages == ("client auth", "server auth")
    assert template.names == tuple(map(general_name, ["DNS:b", "DNS:a", "IP:10.0.0.1"]))


def test_the_first_accepted_subject_is_issued() -> None:
    """Another accepted one stays, and so does a subject that the node cannot judge."""
    accepted: dict[str, Any] = {"subject": ["CN=admin,O=kubeadm:cluster-admins", "CN=admin,O=system:masters"]}
    masters = x509.Name.from_rfc4514_string("CN=admin,O=system:masters")
    assert following(make_leaf(ROOT, subject=masters), **accepted).subject == masters
    wrong = following(make_leaf(ROOT, "root"), **accepted)
    assert wrong.subject.rfc4514_string() == "CN=admin,O=kubeadm:cluster-admins"
    assert following(make_leaf(ROOT, "root"), subject="CN=${dns_domain}").subject.rfc4514_string() == "CN=root"


@pytest.mark.parametrize("subject", ["FOO=x", "C=Atlantis", "CN=#x", "CN=" + "x" * 65])
def test_an_impossible_subject_is_not_required(subject: str) -> None:
    """It stays a finding, but the certificate is renewed unchanged before it ends."""
    template = following(make_leaf(ROOT, usages=["digital signature"]), subject=subject)
    assert (template.subject.rfc4514_string(), template.changes) == ("CN=leaf", ())


@pytest.mark.parametrize("name", ["IP:${node_name}", "DNS:k\u00f6ln.example", "${control_plane_name}"])
def test_an_impossible_name_is_not_required(name: str) -> None:
    """Facts come from the node's files, and may have any value."""
    terms = replace(TERMS, facts={"node_name": "worker-1", "control_plane_name": "k8s.example"})
    template = following(make_leaf(ROOT, usages=["digital signature"]), terms, names=name)
    assert (template.names, template.changes) == ((), ())


def test_a_recomputed_extension_is_not_reported_as_dropped() -> None:
    """Key identifiers are computed for the new key. An extension that certmond cannot make is named by its OID."""
    old = make_leaf(ROOT, usages=["digital signature"], subject_key_id=b"other", extra=[(UNKNOWN_OID, False, b"\5\0")])
    assert following(old).changes == (f"drops the extension {UNKNOWN_OID}",)


# --- its key ----------------------------------------------------------------------------------------------------------

KEYS = [
    ("rsa-1024", KeyAlgorithm.RSA_2048),
    ("rsa", KeyAlgorithm.RSA_2048),
    ("rsa-2056", KeyAlgorithm.RSA_3072),
    ("rsa-3072", KeyAlgorithm.RSA_3072),
    ("rsa-3080", KeyAlgorithm.RSA_4096),
    ("ec", KeyAlgorithm.ECDSA_P256),
    ("ec-p384", KeyAlgorithm.ECDSA_P384),
    ("ed25519", KeyAlgorithm.ED25519),
    ("ec-p224", None),
    ("ec-p521", None),
    ("ec-secp256k1", None),
    ("ed448", None),
    ("dsa", None),
]


@pytest.mark.long
@pytest.mark.parametrize(("kind", "made"), KEYS)
def test_a_new_key_equals_the_old_one_if_certmond_makes_its_kind(kind: str, made: KeyAlgorithm | None) -> None:
    """A key that is too short becomes RSA-2048, and an unsupported kind becomes the configured one. Both are reported.
    The kind in the entry takes precedence.
    """
    leaf = make_leaf(ROOT, key=kind, usages=["digital signature"], not_after=NOW + DAY)
    terms = replace(TERMS, key=KeyAlgorithm.ECDSA_P384)
    template = following(leaf, terms)
    assert algorithm_of(leaf.facts.key) == made
    assert template.key == (made or KeyAlgorithm.ECDSA_P384)
    same = MAKES.get(template.key) == kind
    assert is_a(leaf.facts.key, template.key) is same
    assert template.changes == (() if same else (f"has a key {template.key.value}, not {leaf.facts.key}",))
    assert following(leaf, terms, key_algorithm="Ed25519").key is KeyAlgorithm.ED25519


def test_a_longer_key_becomes_the_longest_supported() -> None:
    """The change is reported, because the new key is shorter."""
    facts = replace(make_leaf(ROOT, key="rsa").facts.key, bits=8192)
    assert algorithm_of(facts) is KeyAlgorithm.RSA_4096
    assert not is_a(facts, KeyAlgorithm.RSA_4096)


@pytest.mark.parametrize("key", list(KeyAlgorithm))
def test_usages_match_the_key(key: KeyAlgorithm) -> None:
    """Only RSA enciphers keys (RFC 8813, section 3), and Ed25519 agrees on none (RFC 9295, section 3)."""
    usages = following(make_leaf(ROOT, usages=KEY_USAGE), key_algorithm=key, usages="key encipherment").usages
    lost = {"RSA": set(), "ECDSA": {"key encipherment", "data encipherment"}}.get(key.value.split("-")[0])
    assert usages == set(KEY_USAGE) - (
        {"key encipherment", "data encipherment", "key agreement"} if lost is None else lost
    )


# --- its dates --------------------------------------------------------------------------------------------------------


def test_it_begins_five_minutes_ago_and_lasts_as_long_as_entry_and_ca_allow() -> None:
    """The dates are whole seconds, because a certificate has no others (RFC 5280, 4.1.2.5)."""
    leaf, now = make_leaf(ROOT), NOW + timedelta(microseconds=999_999)
    terms = replace(TERMS, now=now, validity=90 * DAY)
    template = following(leaf, terms)
    assert (template.not_before, template.not_after) == (NOW - BACKDATE, NOW + 90 * DAY)
    assert timedelta(minutes=5) == BACKDATE
    assert following(leaf, terms, validity="20y").not_after == ROOT.facts.not_after
    assert following(leaf, replace(terms, issuer_end=None), validity="20y").not_after == NOW + 20 * YEAR


def test_a_validity_beyond_the_calendar_is_no_end() -> None:
    """The last second that a certificate can name (RFC 5280, 4.1.2.5), and the CA's end where that is known."""
    forever: dict[str, Any] = {"validity": "999999y"}
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert following(make_leaf(ROOT), replace(TERMS, issuer_end=None), **forever).not_after == last
    new = signed(following(make_leaf(ROOT), replace(TERMS, issuer_end=None), **forever), EC)
    assert new.facts.not_after == last
    assert following(make_leaf(ROOT), **forever).not_after == ROOT.facts.not_after


# --- the encoding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identifier", [b"any bytes at all", None])
def test_the_authority_key_identifier_is_the_issuers_own(identifier: bytes | None) -> None:
    """It is copied byte for byte, whatever its form, and computed from the key (RFC 5280, 4.2.1.2) if the issuer has
    none.
    """
    ca = make_ca(subject_key_id=identifier)
    new = renewed(make_leaf(ca), issuer=ca)
    digest = x509.SubjectKeyIdentifier.from_public_key(ca.key.public_key()).digest
    assert new.facts.authority_key_id == (identifier or digest)
    assert new.facts.subject_key_id == x509.SubjectKeyIdentifier.from_public_key(new.key.public_key()).digest
    assert find_paths(new.facts, [ca.facts]).valid_at(NOW)


def test_an_empty_subject_makes_its_names_critical() -> None:
    """RFC 5280, 4.2.1.6; in a request as in a certificate."""
    old = make_server(ROOT, subject=x509.Name([]), names=["DNS:a"], names_critical=True)
    new = renewed(old)
    assert extension(new, x509.SubjectAlternativeName).critical
    assert not extension(renewed(make_server(ROOT)), x509.SubjectAlternativeName).critical
    asked = {type(value): critical for value, critical in extensions(following(old))}
    assert asked == {
        x509.KeyUsage: True, x509.ExtendedKeyUsage: False, x509.BasicConstraints: True,
        x509.SubjectAlternativeName: True,
    }  # fmt: skip


def test_a_leaf_without_names_and_extended_usages_gets_none() -> None:
    """An empty extension would be malformed (RFC 5280, 4.2.1.6 and 4.2.1.12)."""
    template = following(make_leaf(ROOT, extended_usages=None, names=None))
    assert [type(value) for value, _ in extensions(template)] == [x509.KeyUsage, x509.BasicConstraints]


def root(key: KeyAlgorithm = KeyAlgorithm.RSA_2048, subject: str = "CN=kubernetes") -> Template:
    spec = row(name="ca", authority=True, ca=[], usages=CERT_SIGN, validity="10y", key_algorithm=key)
    return first(spec, subject, ["DNS:kubernetes"], replace(TERMS, issuer_end=None), is_ca=True)


def test_a_root_ca_is_as_kubeadm_makes_it() -> None:
    """cmd/kubeadm/app/util/pkiutil and client-go's NewSelfSignedCACert: the same extensions with the same content."""
    made = signed(root(), new_key("rsa"), None)
    like = make_ca(key=made.key, not_before=NOW - BACKDATE)
    assert [(e.oid, e.critical) for e in made.cert.extensions if e.oid != x509.AuthorityKeyIdentifier.oid] == [
        (x509.KeyUsage.oid, True), (x509.BasicConstraints.oid, True), (x509.SubjectAlternativeName.oid, False),
        (x509.SubjectKeyIdentifier.oid, False),
    ]  # fmt: skip
    same = [
        "subject_der", "issuer_der", "not_before", "not_after", "key", "is_ca", "path_length", "usages",
        "extended_usages", "names", "subject_key_id", "authority_key_id", "version", "signature_hash",
    ]  # fmt: skip
    assert [getattr(made.facts, name) for name in same] == [getattr(like.facts, name) for name in same]
    assert made.facts.usages == frozenset({"digital signature", "key encipherment", CERT_SIGN})


def test_a_first_certificate_has_the_requirements_of_its_entry() -> None:
    """It has the given names, and no right to sign, whatever the entry contains."""
    spec = row(usages=["digital signature", "key encipherment", CERT_SIGN, "server auth"], validity="1d")
    template = first(spec, "CN=system:node:a, O=system:nodes", ["DNS:a", "IP:10.0.0.1"], TERMS)
    assert template.subject.rfc4514_string() == "CN=system:node:a,O=system:nodes"
    assert template.usages == {"digital signature", "key encipherment"}
    assert template.extended_usages == ("server auth",)
    assert template.names == (general_name("DNS:a"), general_name("IP:10.0.0.1"))
    assert (template.key, template.not_after, template.is_ca) == (KeyAlgorithm.RSA_2048, NOW + DAY, False)
    with pytest.raises(ValueError, match="neither DNS:"):
        general_name("email:x")


CHAINS = [(ca, leaf) for ca in KeyAlgorithm for leaf in KeyAlgorithm if KeyAlgorithm.ECDSA_P256 in {ca, leaf}]


def chain(ca_key: KeyAlgorithm, leaf_key: KeyAlgorithm) -> tuple[Issued, Issued]:
    ca = signed(root(ca_key), new_key(MAKES[ca_key]), None)
    old = make_server(ca, "worker-1", names=["DNS:worker-1"], extended_usages=["server auth", "client auth"])
    return ca, renewed(old, replace(TERMS, issuer_end=ca.facts.not_after), ca, key_algorithm=leaf_key)


@pytest.mark.long
@pytest.mark.parametrize(("ca_key", "leaf_key"), CHAINS)
def test_a_signed_certificate_is_a_path_for_go_and_cryptography(ca_key: KeyAlgorithm, leaf_key: KeyAlgorithm) -> None:
    """The rule covers every kind of key, for CA and leaf. cryptography's verifier does not accept Ed25519 yet."""
    ca, leaf = chain(ca_key, leaf_key)
    assert find_paths(leaf.facts, [ca.facts], (), {"server auth", "client auth"}).valid_at(NOW)
    assert is_a(ca.facts.key, ca_key)
    assert is_a(leaf.facts.key, leaf_key)
    leaf.cert.verify_directly_issued_by(ca.cert)
    if KeyAlgorithm.ED25519 not in {ca_key, leaf_key}:
        policy = PolicyBuilder().store(Store([ca.cert])).time(NOW.replace(tzinfo=None))
        verifier = policy.build_server_verifier(x509.DNSName("worker-1"))
        assert verifier.verify(leaf.cert, []) == [leaf.cert, ca.cert]


def test_cryptography_requires_only_a_san_of_a_client_certificate() -> None:
    """kubeadm's client certificates have no subjectAltName, and Go does not require one."""
    ca = signed(root(), new_key("rsa"), None)
    leaf = renewed(make_leaf(ca, key="rsa"), issuer=ca)
    lenient = ExtensionPolicy.webpki_defaults_ee().may_be_present(
        x509.SubjectAlternativeName, Criticality.AGNOSTIC, None
    )
    policy = PolicyBuilder().store(Store([ca.cert])).time(NOW.replace(tzinfo=None))
    policy = policy.extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=lenient)
    assert len(policy.build_client_verifier().verify(leaf.cert, []).chain) == 2


@pytest.mark.long
@pytest.mark.real("openssl")
@pytest.mark.parametrize(("ca_key", "leaf_key"), CHAINS)
def test_openssl_accepts_it_in_strict_mode(ca_key: KeyAlgorithm, leaf_key: KeyAlgorithm, tmp_path: Path) -> None:
    """-x509_strict checks every rule of RFC 5280 that OpenSSL implements, including for self-signed roots."""
    openssl = real_part("openssl")
    ca, leaf = chain(ca_key, leaf_key)
    for name, made in (("ca.pem", ca), ("leaf.pem", leaf)):
        (tmp_path / name).write_bytes(to_pem(made.facts))
    at = str(int((NOW + SECOND).timestamp()))
    for purpose in ("sslserver", "sslclient"):
        strict = ["-x509_strict", "-check_ss_sig", "-purpose", purpose, "-attime", at]
        reported = subprocess.run(
            [openssl, "verify", *strict, "-CAfile", "ca.pem", "leaf.pem"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (reported.returncode, reported.stdout) == (0, "leaf.pem: OK\n"), reported.stderr


def test_its_serial_number_is_the_one_that_is_given() -> None:
    """This module draws no random numbers."""
    assert parse_certificate(renewed(make_leaf(ROOT)).der).serial == 4711
