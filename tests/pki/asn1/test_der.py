"""DER values are parsed by X.690, and the parts of a certificate equal those of cryptography."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import MalformedError
from certmond.pki.asn1.der import Value, leading_value, read_value
from certmond.pki.go.certificate import signed_part_of
from certmond.pki.x509.certificate import parse_certificate
from certmond.pki.x509.path_building import signed_by
from tests.builders import Issued, make_ca, make_leaf, tlv

ROOT, CURVED = make_ca(key="rsa"), make_ca()


@pytest.mark.parametrize(
    "issued",
    [
        ROOT,
        make_leaf(ROOT, "x" * 40),
        make_ca(version=1),
        make_ca(key="ed25519"),
        make_ca(key="rsa", hash="sha256-pss"),
    ],
)
def test_the_parts_are_those_of_the_certificate(issued: Issued) -> None:
    """The parts are the signed part and both names, byte for byte."""
    parts, facts = signed_part_of(issued.der), issued.facts
    assert parts.content == issued.cert.tbs_certificate_bytes
    assert parts.signature == issued.cert.signature
    assert (facts.issuer_der, facts.subject_der) == (
        issued.cert.issuer.public_bytes(),
        issued.cert.subject.public_bytes(),
    )
    assert parts.algorithm == parts.outer_algorithm != b""


def test_a_value_ends_where_its_length_says() -> None:
    """The length may have the short or the long form. An invalid length gives no value."""
    for length in (b"\x02", b"\x81\x02", b"\x82\x00\x02"):
        value = b"\x30" + length + b"ab"
        assert leading_value(value + b"more") == value
    for senseless in (b"", b"\x30", b"\x31\x02ab", b"\x30\x84\xff\xff\xff\xffab"):
        assert leading_value(senseless) == senseless


def test_another_algorithm_beside_the_signature_is_refused() -> None:
    """RFC 5280, 4.1.1.2: the algorithm must equal the one in the signed part. Here only the absent NULL differs, so
    that the signature itself would verify.
    """
    leaf = make_leaf(ROOT)
    parts = signed_part_of(leaf.der)
    identifier = parts.outer_algorithm[2:].removesuffix(b"\x05\x00")
    signature = leaf.der[leaf.der.index(parts.content) + len(parts.content) + len(parts.outer_algorithm) :]
    body = parts.content + b"\x30" + bytes([len(identifier)]) + identifier + signature
    other = parse_certificate(b"\x30\x82" + len(body).to_bytes(2) + body)
    assert signed_by(leaf.facts, ROOT.facts)
    assert not signed_by(other, ROOT.facts)


@pytest.mark.parametrize(("issuer", "other"), [(ROOT, CURVED), (CURVED, ROOT)], ids=["rsa", "ecdsa"])
def test_a_signature_of_another_key_type_is_refused(issuer: Issued, other: Issued) -> None:
    """A signature that verifies with the issuer's key counts only if both algorithm fields match the type of that key,
    as in cryptography.
    """
    for said, counts in ((issuer, True), (other, False)):
        made = signed_as(signed_part_of(make_leaf(said).der).algorithm, make_leaf(issuer), issuer)
        assert signed_by(parse_certificate(made), issuer.facts) is counts


def signed_as(algorithm: bytes, leaf: Issued, issuer: Issued) -> bytes:
    """Return the leaf with `algorithm` as its signature algorithm, signed again by the key of `issuer` over SHA-256."""
    parts = signed_part_of(leaf.der)
    header = 2 + (parts.content[1] & 0x7F if parts.content[1] & 0x80 else 0)
    body = tlv(0x30, parts.content[header:].replace(parts.algorithm, algorithm, 1))
    match issuer.key:
        case rsa.RSAPrivateKey() as key:
            signature = key.sign(body, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey() as key:
            signature = key.sign(body, ec.ECDSA(hashes.SHA256()))
        case _:
            raise AssertionError(issuer)
    return tlv(0x30, body, algorithm, tlv(0x03, b"\x00", signature))


def test_values_of_a_certificate_are_its_three_parts() -> None:
    """A Certificate (RFC 5280, 4.1) is a SEQUENCE of tbsCertificate, signatureAlgorithm and signatureValue."""
    certificate = read_value(ROOT.der)
    signed, algorithm, signature = certificate.values()
    assert (certificate.tag, certificate.encoded) == (0x30, ROOT.der)
    assert (signed.encoded, algorithm.tag, signature.tag) == (ROOT.cert.tbs_certificate_bytes, 0x30, 0x03)
    assert certificate.content == signed.encoded + algorithm.encoded + signature.encoded


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x30", b"\x30\x02a", b"\x30\x80ab\0\0", b"\x30\x81\x02ab", b"\x30\x82\0\x82" + bytes(0x82),
        b"\x30\x85\0\0\0\0\x01a", b"\x1f\x81\x01a", b"\x30\x84\xff\xff\xff\xffab", b"\x30\x82\x01",
    ],
)  # fmt: skip
def test_a_length_that_is_not_der_is_malformed(data: bytes) -> None:
    """A value that is cut off, or has an indefinite or longer length than needed, or a long tag (X.690, 10.1)."""
    with pytest.raises(MalformedError):
        read_value(data)


@pytest.mark.parametrize("tag", [0x1F, 0x3F, 0x5F, 0x9F, 0xBF, 0xFF])
def test_a_tag_number_above_30_is_malformed(tag: int) -> None:
    """Such a tag has further bytes after the first byte (X.690, 8.1.2.4). The tag number 30 is in the first byte."""
    with pytest.raises(MalformedError, match="a tag number greater than 30"):
        read_value(bytes([tag, 0]))
    assert read_value(bytes([tag - 1, 0])).tag == tag - 1


def test_a_value_does_not_go_beyond_the_one_that_holds_it() -> None:
    """The length of a value inside another one is checked against the end of the outer one."""
    outer = read_value(b"\x30\x03\x04\x02ab")
    with pytest.raises(MalformedError):
        list(outer.values())


@given(st.binary(max_size=64))
def test_any_bytes_give_a_value_inside_them_or_are_malformed(data: bytes) -> None:
    """`read_value` raises only MalformedError, and never reads beyond the bytes."""
    try:
        value = read_value(data)
    except MalformedError:
        return
    assert isinstance(value, Value)
    assert 0 <= value.content_start <= value.end <= len(data)
    assert value.encoded == data[: value.end]
