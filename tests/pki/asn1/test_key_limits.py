"""Limits of the size of a key, and the error for a larger one before any library parses it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import LimitError, MalformedError
from certmond.pki.asn1.der import read_value
from certmond.pki.asn1.key_limits import check_private_key, check_public_key, check_request, check_serial
from certmond.pki.x509.certificate_file_parser import decode
from tests.builders import Key, integer, make_ca, new_key, oid, pem_block, tlv

RSA, DSA, EC = "1.2.840.113549.1.1.1", "1.2.840.10040.4.1", "1.2.840.10045.2.1"
DH, X942, ED25519, X448 = "1.2.840.113549.1.3.1", "1.2.840.10046.2.1", "1.3.101.112", "1.3.101.111"
P256 = oid("1.2.840.10045.3.1.7")
KINDS = ("rsa", "ec", "ec-p384", "ec-p521", "ec-secp256k1", "ed25519", "ed448", "dsa")
SMALL, BOUND, LARGE = integer(7), integer((1 << 16_384) - 1), integer(1 << 16_384)
"""A number, the largest that an RSA key may have, and one that is larger by a bit."""


def spki(kind: str, parameters: bytes, key: bytes) -> bytes:
    return tlv(0x30, tlv(0x30, oid(kind), parameters), tlv(0x03, b"\0", key))


def pkcs8(kind: str, parameters: bytes, key: bytes) -> bytes:
    return tlv(0x30, integer(0), tlv(0x30, oid(kind), parameters), tlv(0x04, key))


def dsa(p: int, q: int = 1, g: int = 1) -> bytes:
    return tlv(0x30, integer(1 << p - 1), integer(1 << q - 1), integer(1 << g - 1))


PKCS1 = tlv(0x30, integer(0), BOUND, *(SMALL,) * 7)
PRIVATE = {
    "a public RSA exponent of 65 bits, more than the 64": [
        tlv(0x30, integer(0), BOUND, integer(1 << 64), *(SMALL,) * 6),
    ],
    "an RSA modulus or exponent of 16,385 bits": [
        tlv(0x30, integer(0), LARGE, *(SMALL,) * 7),
        tlv(0x30, integer(0), SMALL, SMALL, LARGE, *(SMALL,) * 5),
        pkcs8(RSA, tlv(0x05), tlv(0x30, integer(0), LARGE, *(SMALL,) * 7)),
    ],
    "a DSA modulus of 3,073 bits": [
        pkcs8(DSA, dsa(3073), SMALL),
        pkcs8(DSA, dsa(3072, 256, 3073), SMALL),
        tlv(0x30, integer(0), integer(1 << 3072), *(SMALL,) * 4),
        tlv(0x30, integer(0), SMALL, SMALL, SMALL, integer(1 << 3072), SMALL),
    ],
    "a DSA order or private value of 257 bits": [
        pkcs8(DSA, dsa(3072, 257), SMALL),
        pkcs8(DSA, dsa(3072), integer(1 << 256)),
        tlv(0x30, integer(0), *(SMALL,) * 4, integer(1 << 256)),
    ],
    "an EC private value of 1,025 bits": [
        tlv(0x30, integer(1), tlv(0x04, b"\1" + b"\0" * 128), tlv(0xA0, P256)),
        pkcs8(EC, P256, tlv(0x30, integer(1), tlv(0x04, b"\1" + b"\0" * 128))),
    ],
    "is a Diffie-Hellman key": [pkcs8(DH, dsa(64), SMALL), pkcs8(X942, dsa(64), SMALL)],
    "is an Ed25519 key of 31 bytes instead of 32": [pkcs8(ED25519, b"", tlv(0x04, b"\1" * 31))],
    "is an X448 key of 57 bytes instead of 56": [pkcs8(X448, b"", tlv(0x04, b"\1" * 57))],
}
PUBLIC = {
    "a public RSA exponent of 65 bits, more than the 64": [
        spki(RSA, tlv(0x05), tlv(0x30, integer(1 << 3000), integer(1 << 64))),
        tlv(0x30, integer(1 << 3000), integer(1 << 64)),
    ],
    "an RSA modulus or exponent of 16,385 bits": [
        spki(RSA, tlv(0x05), tlv(0x30, LARGE, SMALL)),
        spki(RSA, tlv(0x05), tlv(0x30, SMALL, LARGE)),
        tlv(0x30, LARGE, SMALL),
    ],
    "a DSA modulus of 10,000 bits": [
        spki(DSA, dsa(10_000), SMALL),
        spki(DSA, dsa(64, 64, 10_000), SMALL),
        spki(DSA, b"", integer(1 << 9_999)),
    ],
    "a DSA order or private value of 10,000 bits": [spki(DSA, dsa(64, 10_000), SMALL)],
    "is a Diffie-Hellman key": [spki(DH, dsa(10_000), SMALL)],
    "is an Ed25519 key of 1000 bytes": [spki(ED25519, b"", b"\1" * 1000)],
}


def cases(table: dict[str, list[bytes]]) -> list[tuple[bytes, str]]:
    return [(der, said) for said, some in table.items() for der in some]


@pytest.mark.parametrize(("der", "said"), cases(PRIVATE))
def test_a_private_key_beyond_a_limit_is_refused_with_the_number(der: bytes, said: str) -> None:
    """The rule covers each of its forms. In a file it is malformed, in PEM and in DER."""
    with pytest.raises(LimitError, match=said):
        check_private_key(der)
    for data in (der, pem_block("PRIVATE KEY", der)):
        (fault,) = decode(data, "/a.key").faults
        assert said in fault.detail


@pytest.mark.parametrize(("der", "said"), cases(PUBLIC))
def test_a_public_key_beyond_a_limit_is_refused_with_the_number(der: bytes, said: str) -> None:
    """In a file it is malformed."""
    with pytest.raises(LimitError, match=said):
        check_public_key(der)
    (fault,) = decode(pem_block("PUBLIC KEY", der), "/a.pub").faults
    assert said in fault.detail


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_no_key_of_a_usual_size_exceeds_a_limit(kind: str, form: PrivateFormat) -> None:
    """The rule covers each kind that OpenSSL makes."""
    key: Key = new_key(kind)
    if kind.startswith("ed"):
        form = PrivateFormat.PKCS8
    check_private_key(key.private_bytes(Encoding.DER, form, NoEncryption()))
    check_public_key(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


@pytest.mark.parametrize(
    ("check", "der"),
    [
        (check_private_key, PKCS1),
        (check_private_key, pkcs8(DSA, dsa(3072, 256, 3072), integer((1 << 256) - 1))),
        (check_private_key, tlv(0x30, tlv(0x30, oid(RSA)), tlv(0x04, b"encrypted"))),
        (check_private_key, pkcs8("1.2.3", b"", b"of an unknown kind")),
        (check_public_key, spki(RSA, tlv(0x05), tlv(0x30, BOUND, SMALL))),
        (check_public_key, tlv(0x30, BOUND, SMALL)),
        (check_public_key, spki("1.2.3", b"", b"\1" * 10_000)),
    ],
)
def test_a_value_at_a_limit_passes(check: Callable[[bytes], None], der: bytes) -> None:
    """The limit itself is allowed. An encrypted key, or one of an unknown kind, is left to the library."""
    check(der)


def test_a_serial_number_has_a_limit() -> None:
    """In a certificate that exceeds it, it is malformed, and the fault has the number of bits."""
    check_serial((1 << 8192) - 1)
    check_serial(-((1 << 8192) - 1))
    with pytest.raises(LimitError, match=r"a serial number of 8,193 bits, more than the 8,192"):
        check_serial(1 << 8192)
    (fault,) = decode(make_ca(serial=1 << 20_000).pem, "/a.crt").faults
    assert "a serial number of 20,001 bits" in fault.detail


def test_the_key_of_a_certificate_has_a_limit() -> None:
    """A certificate whose key exceeds it is malformed, in PEM and in DER."""
    ca = make_ca(key="ec")
    own = ca.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    hostile = spki(RSA, tlv(0x05), tlv(0x30, LARGE, SMALL))
    der = rebuilt(ca.der, own, hostile)
    for data in (der, pem_block("CERTIFICATE", der)):
        (fault,) = decode(data, "/a.crt").faults
        assert "an RSA modulus or exponent of 16,385 bits" in fault.detail


def rebuilt(der: bytes, old: bytes, new: bytes) -> bytes:
    """The certificate with another SubjectPublicKeyInfo."""
    body, *rest = read_value(der).values()
    fields = [new if field.encoded == old else field.encoded for field in body.values()]
    return tlv(0x30, tlv(0x30, *fields), *(each.encoded for each in rest))


def test_the_key_of_a_request_has_a_limit() -> None:
    """The author of a request chooses its key."""
    body = tlv(0x30, integer(0), tlv(0x30), spki(RSA, tlv(0x05), tlv(0x30, LARGE, SMALL)), tlv(0xA0))
    with pytest.raises(LimitError, match="16,385 bits"):
        check_request(tlv(0x30, body, tlv(0x30, oid(RSA)), tlv(0x03, b"\0")))


@given(st.binary(max_size=60) | st.binary(min_size=700, max_size=900))
def test_any_bytes_pass_or_are_malformed(data: bytes) -> None:
    """No other exception is raised, for any content of a SEQUENCE."""
    for check in (check_private_key, check_public_key, check_request):
        for der in (data, tlv(0x30, data), tlv(0x30, integer(0), tlv(0x30, oid(RSA)), tlv(0x04, data))):
            try:
                check(der)
            except MalformedError as error:
                assert str(error)  # noqa: PT017 - they may pass
