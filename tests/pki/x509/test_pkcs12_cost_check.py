"""The cost of opening a PKCS#12 file, in any form of its BER; an excessive one is refused beforehand."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import PrivateFormat, pkcs12
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import LimitError, MalformedError
from certmond.pki.findings import Reason
from certmond.pki.x509.certificate_file_parser import decode, opened_here
from certmond.pki.x509.pkcs12_cost_check import MAX_ITERATIONS, check_iterations
from tests.builders import integer, make_ca, oid, tlv

CA = make_ca()
PBES2, PBKDF2, SCRYPT = oid("1.2.840.113549.1.5.13"), oid("1.2.840.113549.1.5.12"), oid("1.3.6.1.4.1.11591.4.11")
PBE_3DES, DATA, SHROUDED = "1.2.840.113549.1.12.1.3", oid("1.2.840.113549.1.7.1"), oid("1.2.840.113549.1.12.10.1.2")
SHA256, SHA512 = "1.2.840.113549.2.9", "1.2.840.113549.2.11"
SALT = tlv(0x04, b"\1" * 8)
MANY = integer(1 << 31)


def indefinite(tag: int, *content: bytes) -> bytes:
    value = b"".join(content)
    return indefinite(0x24, tlv(0x04, value)) if tag == 0x04 else bytes([tag, 0x80]) + value + b"\0\0"


def long_form(tag: int, *content: bytes) -> bytes:
    """Return the value with a longer length than needed, and with a low tag number in the high form."""
    value = b"".join(content)
    return bytes([tag | 0x1F, tag & 0x1F, 0x84]) + len(value).to_bytes(4) + value


def in_pieces(tag: int, *content: bytes) -> bytes:
    """An octet string that is cut in two; all else as it is."""
    value = b"".join(content)
    return tlv(tag, value) if tag != 0x04 else tlv(0x24, tlv(0x04, value[:5]), indefinite(0x24, tlv(0x04, value[5:])))


def bag(parameters: bytes, form: object = tlv) -> bytes:
    """A file with one key, which is encrypted with these parameters, and no MAC."""
    put = form if callable(form) else tlv
    key = put(0x30, put(0x30, parameters), tlv(0x04, b"\1" * 16))
    contents = put(0x30, put(0x30, SHROUDED, put(0xA0, key)))
    safes = put(0x30, put(0x30, DATA, put(0xA0, put(0x04, contents))))
    return tlv(0x30, integer(3), put(0x30, DATA, put(0xA0, put(0x04, safes))))


def pbkdf2(*numbers: bytes, prf: str | None = None) -> bytes:
    algorithm = tlv(0x30, oid(prf), tlv(0x05)) if prf else b""
    return PBES2 + tlv(0x30, tlv(0x30, PBKDF2, tlv(0x30, SALT, *numbers, algorithm)), tlv(0x30, DATA))


def with_mac(iterations: bytes) -> bytes:
    digest = tlv(0x30, tlv(0x30, oid("2.16.840.1.101.3.4.2.1")), tlv(0x04, b"\1" * 32))
    content = tlv(0x30, DATA, tlv(0xA0, tlv(0x04, tlv(0x30))))
    return tlv(0x30, integer(3), content, tlv(0x30, digest, SALT, iterations))


@pytest.mark.parametrize(
    "data",
    [
        with_mac(MANY),
        bag(oid(PBE_3DES) + tlv(0x30, SALT, MANY)),
        *(bag(oid(PBE_3DES) + tlv(0x30, SALT, MANY), form) for form in (indefinite, long_form, in_pieces)),
        bag(pbkdf2(MANY)),
        bag(pbkdf2(integer(1 << 100_000))),
        bag(pbkdf2(integer(1000), integer(1 << 20))),
        bag(pbkdf2(MANY, prf=SHA256)),
        bag(pbkdf2(MANY, integer(32), prf=SHA256)),
        bag(PBES2 + tlv(0x30, tlv(0x30, SCRYPT, tlv(0x30, SALT, integer(1 << 20), integer(8), integer(1))))),
    ],
)
def test_a_file_that_needs_minutes_is_malformed_with_the_number(data: bytes) -> None:
    """The iterations may be at any place, with any encoding of the values around them."""
    with pytest.raises(LimitError, match="more than the 5,000,000"):
        check_iterations(data)
    if data[0] == 0x30:
        (fault,) = decode(data, "/a.p12").faults
        assert fault.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("prf", "weight"), [(SHA256, 1), (None, 4), (SHA512, 6)], ids=["HMAC-SHA-256", "HMAC-SHA-1", "another"]
)
def test_an_iteration_counts_by_its_cost(prf: str | None, weight: int) -> None:
    """The limit is that of HMAC-SHA-256, and proportionally lower for others."""
    most = MAX_ITERATIONS // weight
    check_iterations(bag(pbkdf2(integer(most), prf=prf)))
    with pytest.raises(LimitError):
        check_iterations(bag(pbkdf2(integer(most + 1), prf=prf)))


def test_a_key_that_is_longer_than_a_digest_counts_twice() -> None:
    """PBKDF2 runs all iterations again for each 32 bytes of the key (RFC 8018, 5.2)."""
    check_iterations(bag(pbkdf2(integer(MAX_ITERATIONS), integer(32), prf=SHA256)))
    with pytest.raises(LimitError):
        check_iterations(bag(pbkdf2(integer(MAX_ITERATIONS), integer(33), prf=SHA256)))


def test_a_number_of_any_length_has_a_largest_cost() -> None:
    """A number above 2**63 counts as 2**63, so that the message stays short."""
    for number in (1 << 63, (1 << 63) + 1, 1 << 4000):
        with pytest.raises(LimitError, match=f"requires {1 << 63:,} iterations"):
            check_iterations(bag(pbkdf2(integer(number), prf=SHA256)))


def test_the_iterations_of_a_whole_file_count_together() -> None:
    """Two keys that each ask for half of the limit, and one iteration more."""
    half = bag(pbkdf2(integer(MAX_ITERATIONS // 2), prf=SHA256))
    more = bag(pbkdf2(integer(MAX_ITERATIONS // 2 + 1), prf=SHA256))
    check_iterations(tlv(0x30, half, half))
    with pytest.raises(LimitError, match="5,000,001"):
        check_iterations(tlv(0x30, half, more))


@pytest.mark.parametrize("algorithm", [pkcs12.PBES.PBESv2SHA256AndAES256CBC, pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC])
def test_a_file_of_the_usual_tools_is_opened(algorithm: pkcs12.PBES) -> None:
    """With 20,000 iterations, which no tool exceeds by default."""
    form = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(20_000).hmac_hash(hashes.SHA256())
    protection = form.key_cert_algorithm(algorithm).build(b"secret")
    data = pkcs12.serialize_key_and_certificates(b"a", CA.key, CA.cert, None, protection)
    assert decode(data, "/a.p12", b"secret", opened_here).certificates == (CA.facts,)
    (fault,) = decode(data, "/a.p12", b"secret").faults
    assert "encrypted part this check does not open" in fault.detail


@pytest.mark.parametrize(
    "data",
    [
        b"\x30", b"\x30\x05\x01", b"\x3f\x81", b"\x04\x80\1", b"\x30\x80\x04\x01\x01", b"\x30\x80\x04\x01\x01\0",
        b"\x30\x82\1",
    ],
)  # fmt: skip
def test_what_is_cut_off_is_malformed(data: bytes) -> None:
    """OpenSSL could only see less in it."""
    with pytest.raises(MalformedError):
        check_iterations(data)


def test_depth_and_number_of_values_have_a_limit() -> None:
    """Otherwise a megabyte of them would take seconds."""
    deep, wide = b"", tlv(0x30, b"\x05\0" * 30_000)
    for _ in range(40):
        deep = tlv(0x30, deep)
    for data in (deep, wide, tlv(0xA0, tlv(0x04, wide))):
        with pytest.raises(LimitError, match="has more than 20,000 values"):
            check_iterations(data)


@given(st.binary(max_size=200))
def test_any_bytes_pass_or_are_malformed(data: bytes) -> None:
    """No other exception is raised."""
    for each in (data, tlv(0x30, data), tlv(0xA0, tlv(0x04, data)), bag(data)):
        try:
            check_iterations(each)
        except MalformedError as error:
            assert str(error)  # noqa: PT017 - it may pass
