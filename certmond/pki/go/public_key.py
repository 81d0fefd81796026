"""Public keys as Go 1.24 parses them (crypto/x509/parser.go, parsePublicKey) and as crypto/tls uses them.

This module decides which keys Go refuses, and which of the accepted keys Go cannot use.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from certmond.errors import MalformedError
from certmond.pki.asn1.der import Value
from certmond.pki.go.der import (
    BIT_STRING,
    INTEGER,
    OID,
    SEQUENCE,
    bits,
    dotted,
    integer,
    is_object_identifier,
    only,
    read,
    read_any,
    small_integer,
)

RSA, RSA_PSS, EC = (bytes.fromhex(text) for text in ("2a864886f70d010101", "2a864886f70d01010a", "2a8648ce3d0201"))
ED25519, X25519, DSA = (bytes.fromhex(text) for text in ("2b6570", "2b656e", "2a8648ce380401"))
NULL_ENCODED = b"\x05\x00"
LARGEST_RSA, SMALLEST_RSA, LARGEST_EXPONENT = 8192, 1024, (1 << 31) - 1
"""Limits of crypto/tls and crypto/rsa: maximum and minimum bits of an RSA key, and its maximum public exponent."""
_COMMON_EXPONENT = b"\x02\x03\x01\x00\x01"


_NAMES = {RSA: "RSA", EC: "ECDSA", ED25519: "Ed25519", DSA: "DSA", RSA_PSS: "RSASSA-PSS"}


class Algorithm(NamedTuple):
    """An AlgorithmIdentifier (RFC 5280, 4.1.1.2). The parameters are DER."""

    oid: bytes
    parameters: bytes


class Key(Protocol):
    """Interface of the public keys that this module checks."""

    @property
    def algorithm(self) -> str: ...
    @property
    def bits(self) -> int: ...
    @property
    def der(self) -> bytes: ...


class Curve(NamedTuple):
    """An elliptic curve y² = x³ - 3x + b over the prime field of order p, with a base point of order n.

    See FIPS 186-4, D.1.2.
    """

    name: str
    p: int
    b: int
    n: int

    @property
    def size(self) -> int:
        """Number of octets of one coordinate."""
        return (self.p.bit_length() + 7) // 8

    def has(self, point: bytes) -> bool:
        """Return whether `point` is the uncompressed form of a point on the curve, as elliptic.Unmarshal requires."""
        size = self.size
        if len(point) != 1 + 2 * size or point[0] != 4:
            return False
        x, y = int.from_bytes(point[1 : 1 + size]), int.from_bytes(point[1 + size :])
        return x < self.p and y < self.p and (y * y - x * x * x + 3 * x - self.b) % self.p == 0


LIBRARY_CURVES: dict[str, ec.EllipticCurve] = {
    "P-224": ec.SECP224R1(), "P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1(),
}  # fmt: skip
_P256_NAME = bytes.fromhex("2a8648ce3d030107")
CURVES = {
    bytes.fromhex("2b81040021"): Curve(
        "P-224",
        2**224 - 2**96 + 1,
        0xB4050A850C04B3ABF54132565044B0B7D7BFD8BA270B39432355FFB4,
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFF16A2E0B8F03E13DD29455C5C2A3D,
    ),
    _P256_NAME: Curve(
        "P-256",
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    bytes.fromhex("2b81040022"): Curve(
        "P-384",
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    ),
    bytes.fromhex("2b81040023"): Curve(
        "P-521",
        2**521 - 1,
        0x0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
        2**521 - 2**260 + 0xA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409,
    ),
}


def parse_algorithm(value: Value) -> Algorithm:
    """Return the AlgorithmIdentifier in this SEQUENCE (parseAI). Raises MalformedError with Go's message."""
    name = read(value.data, value.content_start, value.end, OID, "x509: malformed OID")
    if not is_object_identifier(name.content):
        raise MalformedError("x509: malformed OID")
    if name.end == value.end:
        return Algorithm(name.content, b"")
    parameters = read_any(value.data, name.end, value.end, "x509: malformed parameters")
    return Algorithm(name.content, parameters.encoded)


_RSA_2048 = bytes.fromhex("30820122300d06092a864886f70d01010105000382010f003082010a0282010100")
_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


def is_plain_public_key(info: bytes) -> bool:
    """Return whether the key is RSA-2048 with the exponent 65,537, or P-256. Go accepts such keys."""
    if info.startswith(_RSA_2048):
        return len(info) == 294 and info[33] >= 0x80 and info.endswith(_COMMON_EXPONENT)
    return info.startswith(_P256) and len(info) == 91 and CURVES[_P256_NAME].has(info[26:])


def require_public_key(info: bytes) -> Algorithm:
    """Return the algorithm of a SubjectPublicKeyInfo.

    Raises MalformedError, with Go's message, if ParseCertificate refuses the key. Go parses a key of an unknown
    algorithm, but cannot use the key.
    """
    whole = only(info, SEQUENCE, "x509: malformed spki")
    identifier = read(info, whole.content_start, whole.end, SEQUENCE, "x509: malformed public key algorithm identifier")
    algorithm = parse_algorithm(identifier)
    encoded = read(info, identifier.end, whole.end, BIT_STRING, "x509: malformed subjectPublicKey")
    key = bits(encoded.content, "x509: malformed subjectPublicKey").right_aligned
    if check := _CHECKS.get(algorithm.oid):
        check(key, algorithm.parameters)
    return algorithm


def _require_rsa(key: bytes, parameters: bytes) -> None:
    if parameters != NULL_ENCODED:
        raise MalformedError("x509: RSA key missing NULL parameters")
    modulus, exponent = _rsa(key)
    if modulus <= 0:
        raise MalformedError("x509: RSA modulus is not a positive number")
    if exponent <= 0:
        raise MalformedError("x509: RSA public exponent is not a positive number")


def _rsa(key: bytes) -> tuple[int, int]:
    whole = only(key, SEQUENCE, "x509: invalid RSA public key")
    modulus = read(key, whole.content_start, whole.end, INTEGER, "x509: invalid RSA modulus")
    exponent = read(key, modulus.end, whole.end, INTEGER, "x509: invalid RSA public exponent")
    return (
        integer(modulus.content, "x509: invalid RSA modulus"),
        small_integer(exponent.content, "x509: invalid RSA public exponent"),
    )


def _require_ec(key: bytes, parameters: bytes) -> None:
    named = only(parameters, OID, "x509: invalid ECDSA parameters")
    if not is_object_identifier(named.content):
        raise MalformedError("x509: invalid ECDSA parameters")
    curve = CURVES.get(named.content)
    if curve is None:
        raise MalformedError("x509: unsupported elliptic curve")
    if not curve.has(key):
        raise MalformedError("x509: failed to unmarshal elliptic curve point")


def _require_ed25519(key: bytes, parameters: bytes) -> None:
    if parameters:
        raise MalformedError("x509: Ed25519 key encoded with illegal parameters")
    if len(key) != 32:
        raise MalformedError("x509: wrong Ed25519 public key size")


def _require_dsa(key: bytes, parameters: bytes) -> None:
    numbers = [integer(only(key, INTEGER, "x509: invalid DSA public key").content, "x509: invalid DSA public key")]
    words = "x509: invalid DSA parameters"
    whole = only(parameters, SEQUENCE, words)
    at = whole.content_start
    for _ in range(3):
        value = read(parameters, at, whole.end, INTEGER, words)
        numbers.append(integer(value.content, words))
        at = value.end
    if min(numbers) <= 0:
        raise MalformedError("x509: zero or negative DSA parameter")


_CHECKS = {RSA: _require_rsa, EC: _require_ec, ED25519: _require_ed25519, DSA: _require_dsa}


def public_key_of_info(info: bytes) -> PublicKeyTypes | None:
    """Return the key of a SubjectPublicKeyInfo, or None if Go or cryptography does not support the key.

    Raises MalformedError if Go refuses the SubjectPublicKeyInfo.
    """
    algorithm = require_public_key(info)
    key = _key_bits(info)
    try:
        if algorithm.oid == RSA:
            modulus, exponent = _rsa(key)
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        if algorithm.oid == EC:
            name = CURVES[only(algorithm.parameters, OID, "x509: invalid ECDSA parameters").content].name
            return ec.EllipticCurvePublicKey.from_encoded_point(LIBRARY_CURVES[name], key)
        return ed25519.Ed25519PublicKey.from_public_bytes(key) if algorithm.oid == ED25519 else None
    except ValueError:
        return None


def unusable(key: Key) -> str | None:
    """Return Go's message if crypto/tls or crypto/rsa cannot use this RSA key. Return None for any other key."""
    if key.algorithm != "RSA":
        return None
    if key.bits > LARGEST_RSA:
        return f"tls: server sent certificate containing RSA key larger than {LARGEST_RSA} bits"
    if key.der.endswith(_COMMON_EXPONENT) and key.der[-6] % 2:
        return None  # the modulus, which is before the exponent, is odd
    try:
        modulus, exponent = _rsa(_key_bits(key.der))
    except MalformedError:
        return "crypto/rsa: public exponent too large"
    return rsa_objection(modulus, exponent)


def _key_bits(info: bytes) -> bytes:
    whole = only(info, SEQUENCE, "x509: malformed spki")
    identifier = read_any(info, whole.content_start, whole.end, "x509: malformed spki")
    encoded = read(info, identifier.end, whole.end, BIT_STRING, "x509: malformed subjectPublicKey")
    return bits(encoded.content, "x509: malformed subjectPublicKey").right_aligned


def rsa_objection(modulus: int, exponent: int) -> str | None:
    """Return Go's message if crypto/rsa refuses these numbers (checkPublicKey), otherwise None."""
    if modulus % 2 == 0:
        return "crypto/rsa: public modulus is even"
    if exponent < 2:
        return "crypto/rsa: public exponent too small or negative"
    if exponent % 2 == 0:
        return "crypto/rsa: public exponent is even"
    if exponent > LARGEST_EXPONENT:
        return "crypto/rsa: public exponent too large"
    return None


def key_name(info: bytes) -> str:
    """Return the name or the object identifier of the key's algorithm, or "unknown" for malformed DER."""
    try:
        whole = only(info, SEQUENCE, "x509: malformed spki")
        algorithm = parse_algorithm(read_any(info, whole.content_start, whole.end, "x509: malformed spki"))
    except MalformedError:
        return "unknown"
    return _NAMES.get(algorithm.oid) or dotted(algorithm.oid)
