"""Private keys as Go 1.24 loads them (tls.X509KeyPair), with crypto/rsa's checks.

The functions follow x509.ParsePKCS1PrivateKey, ParsePKCS8PrivateKey and ParseECPrivateKey. No message contains a secret
value of the key.
"""

from __future__ import annotations

import re
from itertools import combinations
from math import gcd
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from certmond.errors import MalformedError
from certmond.pki.asn1.key_limits import MAX_RSA_BITS
from certmond.pki.go.der import (
    BIT_STRING,
    INTEGER,
    OCTET_STRING,
    OID,
    SEQUENCE,
    bits,
    integer,
    is_object_identifier,
    small_integer,
)
from certmond.pki.go.public_key import (
    CURVES,
    EC,
    ED25519,
    LARGEST_RSA,
    LIBRARY_CURVES,
    RSA,
    SMALLEST_RSA,
    X25519,
    Curve,
    rsa_objection,
)

_CONSTRUCTED = 0x20
_MOST_PRIMES = 16
_LIKELY = re.compile(rb"\x30(?:\x82..|\x81.|.)\x02\x01.(.)", re.DOTALL)
"""Start of a SEQUENCE with a version, and the tag after the version: 02 in PKCS#1, 30 in PKCS#8, 04 in SEC 1."""
_WORDS = "asn1: structure error"


class _RefusedError(MalformedError):
    """Error for a key that has a known structure, but contents that Go refuses."""


class _Rsa(NamedTuple):
    modulus: int
    exponent: int


class _Point(NamedTuple):
    curve: Curve
    scalar: int


_Parsed = _Rsa | _Point | bytes


class Loaded(NamedTuple):
    """The parsed values of a private key, or Go's reason to refuse the key."""

    parsed: _Parsed | None
    objection: str | None = None

    @property
    def public(self) -> PublicKeyTypes:
        """The public key. Raises MalformedError if Go refuses the key, or for an invalid private value such as 0."""
        try:
            match self.parsed:
                case _Rsa(modulus, exponent):
                    return rsa.RSAPublicNumbers(exponent, modulus).public_key()
                case _Point(curve, scalar):
                    return ec.derive_private_key(scalar, LIBRARY_CURVES[curve.name]).public_key()
                case bytes() as seed:
                    return ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key()
                case _:
                    raise MalformedError("is not a usable private key")
        except ValueError:
            raise MalformedError("is not a usable private key") from None


class _Element(NamedTuple):
    """An ASN.1 value as Go's encoding/asn1 parses it."""

    tag: int
    content: bytes
    end: int


def parse_private_key(der: bytes) -> Loaded:
    """Return the private key in `der`, or Go's objection. Does not raise MalformedError.

    Go tries the forms PKCS#1, PKCS#8 and SEC 1 in this order. The objection is Go's message for the form of the key.
    """
    objections = list[tuple[int, str]]()
    likely = _LIKELY.match(der)  # no key has two of these forms: the order only saves time
    forms = {b"\x30": (_pkcs8, _pkcs1, _sec1), b"\x04": (_sec1, _pkcs1, _pkcs8)}
    for parse in forms.get(likely[1] if likely else b"", (_pkcs1, _pkcs8, _sec1)):
        try:
            return Loaded(parse(der))
        except _RefusedError as error:
            objections.append((1, str(error)))
        except MalformedError as error:
            objections.append((0, str(error)))
    return Loaded(None, f"tls: failed to parse private key: {max(objections, key=lambda each: each[0])[1]}")


def _pkcs1(der: bytes) -> _Rsa:
    """Return the RSA key in PKCS#1 (RFC 8017, A.1.2). Raises MalformedError if ParsePKCS1PrivateKey refuses the key."""
    whole = _element(der, 0, SEQUENCE)
    if whole.end != len(der):
        raise MalformedError("asn1: syntax error: trailing data")
    contents, at = _integers(whole.content, most=9)
    if len(contents) < 6:
        raise MalformedError(f"{_WORDS}: tags don't match")
    words = "asn1: integer not minimally-encoded, or too large"
    version, exponent = small_integer(contents[0], words), small_integer(contents[2], words)
    modulus, private, p, q, *crt = (integer(contents[place], words) for place in (1, *range(3, len(contents))))
    data = whole.content
    others = [*_primes(data, at)]
    if version > 1:
        raise _RefusedError("x509: unsupported private key version")
    if min(modulus, private, p, q, *crt) <= 0:
        raise _RefusedError("x509: private key contains zero or negative value")
    if others and min(others) <= 0:
        raise _RefusedError("x509: private key contains zero or negative prime")
    _require_consistent(_Rsa(modulus, exponent), private, (p, q, *others), crt)
    if modulus.bit_length() < SMALLEST_RSA:
        raise _RefusedError(f"crypto/rsa: {modulus.bit_length()}-bit keys are insecure")
    return _Rsa(modulus, exponent)


def _integers(data: bytes, most: int) -> tuple[list[bytes], int]:
    """Return the contents of the INTEGERs at the start of `data`, and the position of the next value.

    Raises MalformedError if Go refuses one of these values.
    """
    found, at = list[bytes](), 0
    while len(found) < most and at < len(data):
        tag, start, length = _header(data, at)
        if tag != INTEGER:
            break
        at = start + length
        if at > len(data):
            raise MalformedError("asn1: syntax error: data truncated")
        found.append(data[start:at])
    return found, at


def _primes(data: bytes, at: int) -> list[int]:
    """Return the third and later primes of an RSA key. Raises MalformedError if Go refuses one of these values."""
    if at == len(data):
        return []
    several, found, at = _any(data, at), list[int](), 0
    if several.tag != SEQUENCE:
        return []
    while at < len(several.content):
        prime = _element(several.content, at, SEQUENCE)
        at, inner = prime.end, 0
        for place in range(3):
            number = _element(prime.content, inner, INTEGER)
            inner, value = number.end, integer(number.content, "asn1: integer not minimally-encoded")
            found += [value] if place == 0 else []
    return found


def _require_consistent(key: _Rsa, private: int, primes: tuple[int, ...], crt: list[int]) -> None:
    """Raise MalformedError if the numbers of a key are inconsistent (crypto/internal/fips140/rsa, checkPrivateKey)."""
    modulus, exponent = key
    if private >= modulus or modulus < 2:
        raise _RefusedError("crypto/rsa: invalid private exponent")
    if why := rsa_objection(modulus, exponent):
        raise _RefusedError(why)
    if modulus.bit_length() > MAX_RSA_BITS:  # certmond does not compute with a longer modulus
        raise _RefusedError(f"the modulus has {modulus.bit_length()} bits, more than {MAX_RSA_BITS}")
    if len(primes) > 2:
        _require_coprime(primes, modulus)
        return  # Go does not use the primes of a key with more than two primes
    p, q = primes
    if not (2 < p < modulus and 2 < q < modulus):
        raise _RefusedError("crypto/rsa: invalid prime")
    if p * q % modulus:
        raise _RefusedError("crypto/rsa: p * q != n")
    given = len(crt) == 3
    dp, dq = crt[:2] if given else (private % (p - 1), private % (q - 1))
    if not (dp < p - 1 and dq < q - 1) or exponent * dp % (p - 1) != 1 or exponent * dq % (q - 1) != 1:
        raise _RefusedError("crypto/rsa: invalid CRT exponent")
    if not given and modulus.bit_length() > LARGEST_RSA:
        raise _RefusedError(f"the key has no CRT values, and {modulus.bit_length()} bits, more than {LARGEST_RSA}")
    inverse = crt[2] if given else pow(q, p - 2, p)
    if inverse >= p or inverse * q % p != 1:
        raise _RefusedError("crypto/rsa: invalid CRT coefficient")
    if p == q or abs(p - q).bit_length() <= modulus.bit_length() // 2 - 100:
        raise _RefusedError("crypto/rsa: |p - q| too small")
    if private.bit_length() <= modulus.bit_length() // 2:
        raise _RefusedError("crypto/rsa: d too small")


def _require_coprime(primes: tuple[int, ...], modulus: int) -> None:
    if len(primes) > _MOST_PRIMES:
        raise _RefusedError(f"the key has {len(primes)} primes, more than {_MOST_PRIMES}")
    if not all(1 < prime < modulus for prime in primes):
        raise _RefusedError("crypto/rsa: prime factor is <= 1")
    if any(gcd(one, other) != 1 for one, other in combinations(primes, 2)):
        raise _RefusedError("crypto/rsa: prime factors are not relatively prime")


def _pkcs8(der: bytes) -> _Parsed:
    """Return the key in PKCS#8 (RFC 5208). Raises MalformedError if ParsePKCS8PrivateKey refuses the key."""
    whole = _element(der, 0, SEQUENCE)
    version = _element(whole.content, 0, INTEGER)
    small_integer(version.content, "asn1: integer too large")
    identifier = _element(whole.content, version.end, SEQUENCE)
    private = _element(whole.content, identifier.end, OCTET_STRING).content
    name = _element(identifier.content, 0, OID)
    if not is_object_identifier(name.content):
        raise MalformedError(_WORDS)
    parameters = identifier.content[name.end :]
    if parameters:
        parameters = parameters[: _any(parameters, 0).end]
    try:
        return _wrapped(name.content, parameters, private)
    except MalformedError as error:
        raise _RefusedError(f"x509: failed to parse private key embedded in PKCS#8: {error}") from None


def _wrapped(oid: bytes, parameters: bytes, private: bytes) -> _Parsed:
    if oid == RSA:
        return _pkcs1(private)
    if oid == EC:
        return _sec1(private, _named(parameters))
    if oid == ED25519:
        if parameters:
            raise _RefusedError("x509: invalid Ed25519 private key parameters")
        seed = _element(private, 0, OCTET_STRING).content
        if len(seed) != 32:
            raise _RefusedError(f"x509: invalid Ed25519 private key length: {len(seed)}")
        return seed
    if oid == X25519:
        raise _RefusedError("tls: found unknown private key type in PKCS#8 wrapping")
    raise _RefusedError("x509: PKCS#8 wrapping contained private key with unknown algorithm")


def _named(parameters: bytes) -> bytes | None:
    """Return the object identifier of the curve in `parameters`, or None for other parameters."""
    try:
        name = _element(parameters, 0, OID).content
    except MalformedError:
        return None
    return name if is_object_identifier(name) else None


def _sec1(der: bytes, curve: bytes | None = None) -> _Point:
    """Return the key in SEC 1 (RFC 5915). `curve` is the object identifier of the curve that PKCS#8 names, or None.

    Raises MalformedError if parseECPrivateKey refuses the key.
    """
    whole = _element(der, 0, SEQUENCE)
    data = whole.content
    version = _element(data, 0, INTEGER)
    number = small_integer(version.content, "asn1: integer too large")
    private = _element(data, version.end, OCTET_STRING)
    named, at = _explicit(data, private.end, 0xA0, OID)
    if named is not None and not is_object_identifier(named):
        raise MalformedError(_WORDS)
    public, _ = _explicit(data, at, 0xA1, BIT_STRING)
    if public is not None:
        bits(public, "asn1: syntax error: invalid padding bits in BIT STRING")
    if number != 1:
        raise _RefusedError(f"x509: unknown EC private key version {number}")
    found = CURVES.get(curve or named or b"")
    if found is None:
        raise _RefusedError("x509: unknown elliptic curve")
    scalar = int.from_bytes(private.content)
    if scalar >= found.n:
        raise _RefusedError("x509: invalid elliptic curve private key value")
    return _Point(found, scalar)


def _explicit(data: bytes, at: int, tag: int, inner: int) -> tuple[bytes | None, int]:
    """Return the content of an optional value in an explicit tag, or None, and the position of the next value.

    Raises MalformedError if Go refuses the value.
    """
    if at == len(data):
        return None, at
    outer, content, length = _header(data, at)
    if content == len(data):
        raise MalformedError("asn1: structure error: explicit tag has no child")
    if outer & ~_CONSTRUCTED != tag & ~_CONSTRUCTED or not (length == 0 or outer & _CONSTRUCTED):
        return None, at
    if length == 0:
        raise MalformedError("asn1: structure error: zero length explicit tag was not an asn1.Flag")
    child, content, length = _header(data, content)
    if child != inner:
        return None, at
    if content + length > len(data):
        raise MalformedError("asn1: syntax error: data truncated")
    return data[content : content + length], content + length


def _element(data: bytes, at: int, tag: int) -> _Element:
    """Return the value at `at`. Raises MalformedError for another tag, a bad header, or a value that is cut off."""
    found = _any(data, at)
    if found.tag != tag:
        raise MalformedError(f"{_WORDS}: tags don't match")
    return found


def _any(data: bytes, at: int) -> _Element:
    tag, content, length = _header(data, at)
    if content + length > len(data):
        raise MalformedError("asn1: syntax error: data truncated")
    return _Element(tag, data[content : content + length], content + length)


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag, and the start and the length of the content (parseTagAndLength).

    Raises MalformedError if Go refuses the header.
    """
    if len(data) - at < 2 or data[at] & 0x1F == 0x1F:
        raise MalformedError("asn1: syntax error: truncated tag or length")
    tag, length, at = data[at], data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[at : at + count])
        if not 1 <= count <= 4 or at + count > len(data) or length < 0x80 or not data[at]:
            raise MalformedError("asn1: structure error: non-minimal length")
        at += count
    return tag, at, length
