"""Keys and signature algorithms as Go parses them: public keys, private keys, and their use in its TLS."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import MalformedError
from certmond.pki.go.private_key import Loaded, parse_private_key
from certmond.pki.go.public_key import (
    is_plain_public_key,
    key_name,
    public_key_of_info,
    require_public_key,
    unusable,
)
from certmond.pki.go.signature_algorithm import Signature, signature_algorithm_of
from certmond.pki.x509.public_key import describe_key
from tests.builders import integer, new_key, oid, tlv


def of_words(value: object) -> str:
    """Return the name of a case. Each process makes new keys, so no name contains one."""
    return value if isinstance(value, str) else ""


NULL = b"\x05\x00"
RSA_NAME, PSS_NAME, EC_NAME = (
    oid(name) for name in ("1.2.840.113549.1.1.1", "1.2.840.113549.1.1.10", "1.2.840.10045.2.1")
)
P256 = oid("1.2.840.10045.3.1.7")


def number(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, signed=True))


def info(identifier: bytes, key: bytes) -> bytes:
    return tlv(0x30, tlv(0x30, identifier) + tlv(0x03, b"\x00" + key))


def public(
    key: object, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo, encoding: Encoding = Encoding.DER
) -> bytes:
    octets: bytes = key.public_key().public_bytes(encoding, form)  # type: ignore[attr-defined]
    return octets


CURVE_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = new_key("rsa")
assert isinstance(RSA_KEY, rsa.RSAPrivateKey)
N = RSA_KEY.public_key().public_numbers().n


@pytest.mark.parametrize("kind", ["rsa", "rsa-1024", "ec", "ec-p224", "ec-p384", "ec-p521", "ed25519", "ed448", "dsa"])
def test_go_parses_the_public_keys_of_programs(kind: str) -> None:
    """Keys of unknown kinds are accepted without a check."""
    require_public_key(public(new_key(kind)))


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (b"\x30\x00", "public key algorithm identifier"),
        (tlv(0x30, tlv(0x30, b"\x06\x01\x80") + tlv(0x03, b"\x00")), "malformed OID"),
        (tlv(0x30, tlv(0x30, RSA_NAME + b"\x05") + tlv(0x03, b"\x00")), "malformed parameters"),
        (tlv(0x30, tlv(0x30, RSA_NAME + NULL) + tlv(0x03, b"\x08")), "malformed subjectPublicKey"),
        (info(RSA_NAME, b""), "missing NULL"),
        (info(RSA_NAME + NULL, b""), "invalid RSA public key"),
        (info(RSA_NAME + NULL, tlv(0x30, number(-5) + number(3))), "modulus is not a positive"),
        (info(RSA_NAME + NULL, tlv(0x30, number(N) + number(-3))), "exponent is not a positive"),
        (info(RSA_NAME + NULL, tlv(0x30, number(N) + number(0))), "exponent is not a positive"),
        (info(RSA_NAME + NULL, tlv(0x30, number(N) + number(1 << 63))), "invalid RSA public exponent"),
        (info(EC_NAME, b"\x04"), "invalid ECDSA parameters"),
        (info(EC_NAME + b"\x06\x01\x80", b"\x04"), "invalid ECDSA parameters"),
        (info(EC_NAME + oid("1.3.132.0.10"), b"\x04"), "unsupported elliptic curve"),
        (info(EC_NAME + P256, public(CURVE_KEY, PublicFormat.CompressedPoint, Encoding.X962)), "elliptic curve point"),
        (info(EC_NAME + P256, b"\x04" + bytes(64)), "elliptic curve point"),
        (info(EC_NAME + P256, b"\x04" + b"\xff" * 64), "elliptic curve point"),
        (info(oid("1.3.101.112") + NULL, bytes(32)), "illegal parameters"),
        (info(oid("1.3.101.112"), bytes(31)), "wrong Ed25519 public key size"),
        (info(oid("1.2.840.10040.4.1"), b""), "invalid DSA public key"),
        (info(oid("1.2.840.10040.4.1"), number(2)), "invalid DSA parameters"),
        (info(oid("1.2.840.10040.4.1") + tlv(0x30, number(0) * 3), number(2)), "zero or negative DSA"),
    ],
    ids=of_words,
)
def test_public_keys_that_go_refuses(encoded: bytes, words: str) -> None:
    """Go then does not parse the certificate."""
    with pytest.raises(MalformedError, match=words):
        require_public_key(encoded)


def test_plain_keys_are_those_that_go_reads_without_a_doubt() -> None:
    """RSA with 2,048 bits and the usual exponent, and points on P-256."""
    assert is_plain_public_key(public(RSA_KEY))
    assert is_plain_public_key(public(CURVE_KEY))
    assert not is_plain_public_key(public(new_key("rsa-1024")))
    assert not is_plain_public_key(public(CURVE_KEY)[:-1] + b"\x00")
    assert not is_plain_public_key(public(RSA_KEY)[:-1] + b"\x03")


@pytest.mark.parametrize(
    ("modulus", "exponent", "words"),
    [
        (N, 65537, None),
        (N, 3, None),
        (N, (1 << 31) - 1, None),
        (N - 1, 65537, "modulus is even"),
        (N, 1, "too small"),
        (N, 65536, "exponent is even"),
        (N, (1 << 31) + 1, "too large"),
        (N, (1 << 65) + 1, "too large"),
        ((1 << 8192) + 1, 65537, "larger than 8192 bits"),
        ((1 << 8191) + 1, 65537, None),
    ],
    ids=of_words,
)
def test_the_rsa_keys_that_go_can_use(modulus: int, exponent: int, words: str | None) -> None:
    """crypto/tls takes 8,192 bits at most, and crypto/rsa exponents below 2³¹."""
    described = describe_key(rsa.RSAPublicNumbers(65537, N).public_key())
    made = info(RSA_NAME + NULL, tlv(0x30, number(modulus) + number(exponent)))
    key = type(described)("RSA", modulus.bit_length(), made)
    found = unusable(key)
    assert (found is None) if words is None else (found is not None and words in found)
    assert unusable(describe_key(CURVE_KEY.public_key())) is None


def test_a_key_is_named_by_its_algorithm() -> None:
    """A key without a name has its object identifier."""
    assert key_name(info(PSS_NAME, b"")) == "RSASSA-PSS"
    assert key_name(info(oid("1.2.3"), b"")) == "1.2.3"
    assert key_name(b"\x30\x00") == key_name(b"\x02\x00") == "unknown"


# --- signature algorithms ---------------------------------------------------------------------------------------------

HASHES = {256: "2.16.840.1.101.3.4.2.1", 384: "2.16.840.1.101.3.4.2.2", 1: "1.3.14.3.2.26"}


def pss(digest: int = 256, mask: int = 256, salt: int = 32, *, end: bytes = b"", plain: bytes = NULL) -> bytes:
    generator = tlv(0x30, oid("1.2.840.113549.1.1.8") + tlv(0x30, oid(HASHES[mask]) + plain))
    hashing = tlv(0x30, oid(HASHES[digest]) + plain)
    fields = tlv(0xA0, hashing) + tlv(0xA1, generator) + tlv(0xA2, number(salt)) + end
    return tlv(0x30, PSS_NAME + tlv(0x30, fields))


@pytest.mark.parametrize(
    ("encoded", "signature"),
    [
        (tlv(0x30, oid("1.2.840.113549.1.1.11")), Signature("RSA", "sha256")),
        (tlv(0x30, oid("1.2.840.10045.4.3.3") + NULL), Signature("ECDSA", "sha384")),
        (tlv(0x30, oid("1.3.101.112")), Signature("Ed25519", None)),
        (tlv(0x30, oid("1.3.101.112") + NULL), Signature("", "1.3.101.112")),
        (tlv(0x30, oid("1.2.840.113549.1.1.14")), Signature("", "1.2.840.113549.1.1.14")),
        (pss(), Signature("RSA", "sha256", pss=True)),
        (pss(384, 384, 48, plain=b""), Signature("RSA", "sha384", pss=True)),
        (pss(end=tlv(0xA3, number(1))), Signature("RSA", "sha256", pss=True)),
        *(
            (each, Signature("", "1.2.840.113549.1.1.10"))
            for each in (
                pss(salt=20),
                pss(mask=1),
                pss(1, 1, 20),
                pss(end=tlv(0xA3, number(2))),
                pss(plain=b"\x04\x00"),
                tlv(0x30, PSS_NAME),
                tlv(0x30, PSS_NAME + b"\x30\x00"),
                tlv(0x30, PSS_NAME + NULL),
            )
        ),
    ],
)
def test_the_signature_algorithms_that_go_knows(encoded: bytes, signature: Signature) -> None:
    """RSASSA-PSS with one digest throughout and a salt of its length, and no other."""
    assert signature_algorithm_of(encoded) == signature


# --- private keys -----------------------------------------------------------------------------------------------------

NUMBERS = RSA_KEY.private_numbers()
VALUES = [0, N, 65537, NUMBERS.d, NUMBERS.p, NUMBERS.q, NUMBERS.dmp1, NUMBERS.dmq1, NUMBERS.iqmp]
SCALAR = CURVE_KEY.private_numbers().private_value.to_bytes(32)
SEED = bytes(range(32))


def pkcs1(*values: int, others: bytes = b"") -> bytes:
    return tlv(0x30, b"".join(map(number, values)) + others)


def changed(place: int, value: int) -> bytes:
    return pkcs1(*VALUES[:place], value, *VALUES[place + 1 :])


def pkcs8(identifier: bytes, inner: bytes, tail: bytes = b"") -> bytes:
    return tlv(0x30, number(0) + tlv(0x30, identifier) + tlv(0x04, inner) + tail)


def sec1(named: bytes = tlv(0xA0, P256), private: bytes = SCALAR, public_part: bytes = b"", version: int = 1) -> bytes:
    return tlv(0x30, number(version) + tlv(0x04, private) + named + public_part)


@pytest.mark.parametrize("kind", ["rsa", "rsa-1024", "ec", "ec-p224", "ec-p384", "ec-p521", "ed25519"])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_go_loads_the_private_keys_of_programs(kind: str, form: PrivateFormat) -> None:
    """The parser also gives the public half, as in certificates."""
    key = new_key(kind)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        form = PrivateFormat.PKCS8
    found = parse_private_key(key.private_bytes(Encoding.DER, form, NoEncryption()))
    assert found.objection is None
    assert describe_key(found.public) == describe_key(key.public_key())


@pytest.mark.parametrize(
    "der",
    [
        pkcs1(*VALUES[:6]),
        pkcs1(*VALUES[:8]),
        pkcs1(1, *VALUES[1:]),
        pkcs1(*VALUES[:6], others=NULL),
        changed(3, NUMBERS.d + 2),
        pkcs1(*VALUES, others=tlv(0x30, b"")),
        pkcs8(RSA_NAME, pkcs1(*VALUES)),
        pkcs8(EC_NAME + P256, sec1(b"")),
        pkcs8(EC_NAME + NULL, sec1()),
        pkcs8(EC_NAME, sec1()),
        sec1(private=b"\x00" + SCALAR),
        sec1(public_part=tlv(0xA1, b"\x03\x01\x00")),
        sec1() + b"trailing",
        pkcs8(oid("1.3.101.112"), tlv(0x04, SEED), tlv(0x81, b"\x00")),
        pkcs8(EC_NAME + P256, sec1(tlv(0xA0, NULL))),
    ],
    ids=of_words,
)
def test_go_loads_unusual_encodings(der: bytes) -> None:
    """The cases are no CRT values, an unused private exponent, and the curve in one place of two."""
    found = parse_private_key(der)
    assert found.objection is None
    assert found.public is not None


@pytest.mark.parametrize(
    ("curve", "name"),
    [
        (ec.SECP224R1(), "1.3.132.0.33"),
        (ec.SECP256R1(), "1.2.840.10045.3.1.7"),
        (ec.SECP384R1(), "1.3.132.0.34"),
        (ec.SECP521R1(), "1.3.132.0.35"),
    ],
    ids=["P-224", "P-256", "P-384", "P-521"],
)
def test_a_private_key_is_less_than_the_order_of_its_curve(curve: ec.EllipticCurve, name: str) -> None:
    """Go accepts the private value that is one less than the order, and refuses the order as a private value."""
    largest, order = (
        sec1(tlv(0xA0, oid(name)), value.to_bytes(66)) for value in (curve.group_order - 1, curve.group_order)
    )
    known = ec.derive_private_key(curve.group_order - 1, curve).public_key()
    assert describe_key(parse_private_key(largest).public) == describe_key(known)
    assert "x509: invalid elliptic curve private key value" in (parse_private_key(order).objection or "")


EXPLICIT = tlv(0x30, number(1) + tlv(0x30, oid("1.2.840.10045.1.1")))
PRIMES = tlv(0x30, tlv(0x30, number(3) + number(1) + number(1)))


@pytest.mark.long
@pytest.mark.parametrize(
    ("der", "words"),
    [
        (tlv(0x30, number(0) + b"\x02\x7f\x01"), "data truncated"),
        (pkcs8(PSS_NAME, pkcs1(*VALUES)), "unknown algorithm"),
        (pkcs8(oid("1.3.101.110"), tlv(0x04, SEED)), "unknown private key type"),
        (pkcs8(oid("1.3.101.112") + NULL, tlv(0x04, SEED)), "Ed25519 private key parameters"),
        (pkcs8(oid("1.3.101.112"), tlv(0x04, SEED[:-1])), "private key length: 31"),
        (pkcs8(oid("1.3.101.112"), SEED), "asn1"),
        (sec1(tlv(0xA0, EXPLICIT)), "unknown elliptic curve"),
        (pkcs8(EC_NAME + EXPLICIT, sec1(b"")), "unknown elliptic curve"),
        (sec1(b""), "unknown elliptic curve"),
        (sec1(version=0), "unknown EC private key version 0"),
        (sec1(private=b"\xff" * 32), "private key value"),
        (sec1(tlv(0xA0, b"\x06\x01\x80")), "asn1"),
        (sec1(b"\xa0\x00\x05\x00"), "asn1"),
        (sec1(b"\xa0\x00"), "asn1"),
        (sec1(b"\xa0\x04\x06\x7f\x00\x00"), "asn1"),
        (sec1(tlv(0xA0, P256), public_part=tlv(0xA1, b"\x03\x01\x08")), "asn1"),
        (pkcs1(*VALUES) + b"\x00", "trailing data"),
        (changed(0, 2), "unsupported private key version"),
        (changed(1, N + 2), "p \\* q != n"),
        (changed(1, N - 1), "modulus is even"),
        (changed(1, 1), "invalid private exponent"),
        (changed(2, 1), "too small"),
        (changed(2, 1 << 64), "too large"),
        (changed(3, -1), "zero or negative value"),
        (changed(3, N), "invalid private exponent"),
        (changed(3, 3), "d too small"),
        (changed(4, 1), "invalid prime"),
        (changed(6, NUMBERS.dmp1 + 2), "CRT exponent"),
        (changed(7, NUMBERS.dmq1 + 2), "CRT exponent"),
        (changed(8, NUMBERS.iqmp + 1), "CRT coefficient"),
        (pkcs1(*VALUES, others=tlv(0x30, tlv(0x30, number(-3) + number(1) + number(1)))), "negative prime"),
        (pkcs1(*VALUES, others=tlv(0x30, tlv(0x30, number(1) + number(1) + number(1)))), "prime factor"),
        (pkcs1(*VALUES, others=tlv(0x30, tlv(0x30, number(NUMBERS.p) + number(1) + number(1)))), "relatively prime"),
        (pkcs1(*VALUES, others=tlv(0x30, tlv(0x30, number(3) + number(1) + number(1)) * 15)), "17 primes"),
        (pkcs1(0, (1 << 16385) + 1, *VALUES[2:]), "more than 16384"),
        (pkcs1(0, 15, 3, 11, 3, 5), "4-bit keys are insecure"),
        (b"", "truncated"),
        (b"\x1f\x81\x00", "truncated"),
        (b"\x30\x05\x02", "truncated"),
        (b"\x30\x80", "non-minimal"),
        (b"\x30\x81\x01\x00", "non-minimal"),
        (pkcs8(b"\x06\x01\x80", b""), "asn1"),
    ],
    ids=of_words,
)
def test_private_keys_that_go_refuses(der: bytes, words: str) -> None:
    """The error has Go's words for the form of the key, without a number of the key."""
    found = parse_private_key(der)
    assert found.objection
    assert any(word in found.objection for word in words.replace("\\", "").split("|")), found.objection
    with pytest.raises(MalformedError):
        _ = found.public
    assert str(NUMBERS.p) not in found.objection


def test_a_multi_prime_key_is_loaded_without_a_look_at_its_primes() -> None:
    """Go computes without them."""
    assert parse_private_key(pkcs1(*VALUES, others=PRIMES)).objection is None


def small(p: int, q: int, *, crt: bool, d: int | None = None) -> bytes:
    """A key of two odd numbers."""
    n, order = p * q, (p - 1) * (q - 1)
    private = pow(65537, -1, order) if d is None else d
    values = [0, n, 65537, private, p, q]
    return pkcs1(*values, *([private % (p - 1), private % (q - 1), pow(q, -1, p)] if crt else []))


def test_an_rsa_key_below_1024_bits_is_refused() -> None:
    """crypto/rsa signs with none of them (checkKeySize)."""
    p, q = 2**521 - 1, 2**127 - 1  # primes of Mersenne
    assert "648-bit keys are insecure" in (parse_private_key(small(p, q, crt=True)).objection or "")


def test_close_or_equal_primes_are_refused() -> None:
    """Such a modulus is factored at once."""
    p = 2**521 - 1
    same = pkcs1(0, p * p, 65537, pow(65537, -1, p - 1), p, p, *[pow(65537, -1, p - 1)] * 2, 1)
    assert parse_private_key(same).objection
    found = NUMBERS.p + 4
    close = small(NUMBERS.p, found if (found - 1) % 65537 else found + 2, crt=True)
    assert "too small" in (parse_private_key(close).objection or "")


def test_an_even_prime_without_crt_values_is_refused() -> None:
    """Go computes the CRT values itself, and needs an odd one for it."""
    key = pkcs1(0, N, 65537, NUMBERS.d, NUMBERS.p + 1, NUMBERS.q)
    assert parse_private_key(key).objection


def test_a_large_key_without_crt_values_is_not_computed_with() -> None:
    """One inversion of that size takes a second."""
    p, q = (1 << 4423) - 1, (1 << 4253) - 1
    objection = parse_private_key(small(p, q, crt=False)).objection or ""
    assert "no CRT values" in objection
    assert parse_private_key(small(p, q, crt=True)).objection is None


def test_the_number_zero_has_no_public_half() -> None:
    """Go loads it, and it belongs to no certificate."""
    found = parse_private_key(sec1(private=bytes(32)))
    assert found.objection is None
    with pytest.raises(MalformedError, match="not a usable private key"):
        _ = found.public
    with pytest.raises(MalformedError):
        _ = Loaded(None, "no key").public


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda data: tlv(0x30, number(1) + tlv(0x04, data))))
def test_any_octets_are_a_private_key_or_refused(data: bytes) -> None:
    """No octets raise another error."""
    found = parse_private_key(data)
    assert (found.parsed is None) == (found.objection is not None)


@pytest.mark.parametrize("kind", ["rsa", "ec", "ec-p384", "ed25519"])
def test_the_key_of_an_info_is_the_same_key(kind: str) -> None:
    """Its SubjectPublicKeyInfo has the same bytes."""
    known = public(new_key(kind))
    found = public_key_of_info(known)
    assert found is not None
    assert found.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == known


def test_a_key_that_only_go_parses_is_none() -> None:
    """The example is an even exponent: Go's parser accepts it (x509, parsePublicKey), and cryptography refuses the
    numbers.
    """
    numbers: Any = new_key("rsa").public_key().public_numbers()  # type: ignore[union-attr]
    key = tlv(0x30, integer(numbers.n), integer(4))
    algorithm = tlv(0x30, oid("1.2.840.113549.1.1.1"), tlv(0x05))
    assert public_key_of_info(tlv(0x30, algorithm, tlv(0x03, b"\0" + key))) is None
