"""Limits on keys and serial numbers. certmond checks the limits of a key before a library loads the key.

The time that a library needs for a key depends on the size of the numbers in the key. For example, a DSA key of 10,000
bits takes half a second.
"""

from __future__ import annotations

from itertools import islice

from certmond.errors import LimitError, MalformedError
from certmond.pki.asn1.der import Value, read_value

MAX_RSA_BITS = 16_384
"""Maximum size of each number of an RSA key, as in OpenSSL (OPENSSL_RSA_MAX_MODULUS_BITS)."""
MAX_RSA_EXPONENT_BITS = 64
"""Maximum size of the public exponent, as in OpenSSL for large moduli (OPENSSL_RSA_MAX_PUBEXP_BITS)."""
MAX_DSA_BITS, MAX_DSA_ORDER_BITS = 3_072, 256
"""Maximum sizes of the modulus of a DSA key, and of its order and private value (FIPS 186-4, 4.2)."""
MAX_EC_BITS = 1_024
"""Maximum size of the private value of an elliptic-curve key. The largest curve of OpenSSL has 571 bits."""
MAX_SERIAL_BITS = 8_192
"""Maximum size of a serial number. RFC 5280, 4.1.2.2, allows 160 bits."""

_INTEGER, _OCTETS, _SEQUENCE = 0x02, 0x04, 0x30
_RSA = frozenset(map(bytes.fromhex, ("2a864886f70d010101", "2a864886f70d010107", "2a864886f70d01010a")))
"""Object identifiers of RSA keys: rsaEncryption, id-RSAES-OAEP, id-RSASSA-PSS (RFC 4055)."""
_DSA = frozenset(map(bytes.fromhex, ("2a8648ce380401", "2b0e03020c")))
_DH = frozenset(map(bytes.fromhex, ("2a864886f70d010301", "2a8648ce3e0201")))  # PKCS #3 and X9.42
_SMALL = 300  # bytes: a library loads a shorter public key fast, regardless of the numbers
_PRIVATE_FIELDS, _DSA_FIELDS, _MOST = (
    4,
    6,
    16,
)  # version, n, e, d; version, p, q, g, y, x; the maximum number of values in any of these structures
_EC = bytes.fromhex("2a8648ce3d0201")
_LENGTHS = {
    bytes.fromhex("2b656e"): ("X25519", 32),
    bytes.fromhex("2b656f"): ("X448", 56),
    bytes.fromhex("2b6570"): ("Ed25519", 32),
    bytes.fromhex("2b6571"): ("Ed448", 57),
}
"""Kinds of keys with a fixed length in bytes (RFC 8410)."""


def check_serial(serial: int) -> None:
    """Raise LimitError if a serial number has more than MAX_SERIAL_BITS bits."""
    if serial.bit_length() > MAX_SERIAL_BITS:
        raise LimitError(_too_large("a serial number", serial.bit_length(), MAX_SERIAL_BITS))


def check_request(der: bytes) -> None:
    """Raise LimitError if the key of a certificate request exceeds a limit (RFC 2986, 4.1).

    Raises MalformedError for malformed DER.
    """
    check_public_key(_values(_values(read_value(der), 1)[0], 3)[2].encoded)


def check_public_key(der: bytes) -> None:
    """Raise LimitError if a public key of more than `_SMALL` bytes exceeds a limit.

    Raises MalformedError for malformed DER.

    `der` is a SubjectPublicKeyInfo (RFC 5280, 4.1.2.7) or an RSAPublicKey (RFC 8017, A.1.1).
    """
    if len(der) <= _SMALL:
        return
    fields = _values(read_value(der), 2)
    if fields[0].tag == _INTEGER:
        _check_rsa(fields)
        return
    algorithm, key = _values(fields[0], 1), fields[1].content[1:]  # without the count of unused bits
    kind = algorithm[0].content
    if kind in _RSA:
        _check_rsa(_values(read_value(key), 2, 2))  # Go ignores data after the modulus and the exponent
    elif kind in _DSA:
        _check_dsa(algorithm, [read_value(key)], [])
    _check_kind(kind, key)


def check_private_key(der: bytes) -> None:
    """Raise LimitError if a private key exceeds a limit. Accepts every encrypted key.

    `der` has the format PKCS #8 (RFC 5958), PKCS #1 (RFC 8017, A.1.2), SEC 1 (RFC 5915), or OpenSSL's format of a DSA
    key. Raises MalformedError for malformed DER.
    """
    fields = _values(read_value(der), 2)
    if fields[0].tag == _SEQUENCE:
        return  # an encrypted key
    if fields[1].tag == _SEQUENCE:
        _check_pkcs8(fields)
    elif fields[1].tag == _OCTETS:
        _check_bits("an EC private value", fields[1], MAX_EC_BITS)
    elif len(fields) == _DSA_FIELDS:
        _check_dsa([], [fields[1], fields[3], fields[4]], [fields[2], fields[5]])
    else:
        _check_rsa(fields)


def _check_pkcs8(fields: list[Value]) -> None:
    algorithm, key = _values(fields[1], 1), b"".join(field.content for field in fields[2:3])
    kind = algorithm[0].content
    if kind in _RSA:
        _check_rsa(_values(read_value(key), 2))
    elif kind in _DSA:
        _check_dsa(algorithm, [], [read_value(key)])
    elif kind == _EC:
        _check_bits("an EC private value", _values(read_value(key), 2)[1], MAX_EC_BITS)
    _check_kind(kind, read_value(key).content if kind in _LENGTHS else key)


def _check_kind(kind: bytes, key: bytes) -> None:
    if kind in _DH:
        raise LimitError("is a Diffie-Hellman key, which cannot sign")
    name, length = _LENGTHS.get(kind, ("", len(key)))
    if len(key) != length:
        raise LimitError(f"is an {name} key of {len(key)} bytes instead of {length}")


def _check_rsa(numbers: list[Value]) -> None:
    """Raise LimitError if a number of an RSA key exceeds a limit.

    `numbers` starts with the modulus or, for a private key, with a version.
    """
    for number in numbers:
        _check_bits("an RSA modulus or exponent", number, MAX_RSA_BITS)
    public = numbers if len(numbers) < _PRIVATE_FIELDS else numbers[1:]
    _check_bits("a public RSA exponent", public[1], MAX_RSA_EXPONENT_BITS)


def _check_dsa(algorithm: list[Value], large: list[Value], small: list[Value]) -> None:
    """Raise LimitError if a number of a DSA key exceeds a limit.

    `algorithm` contains the parameters p, q and g (RFC 3279, 2.3.2). The limit of p applies to the numbers in `large`,
    and the limit of q applies to the numbers in `small`.
    """
    parameters = _values(algorithm[1], 0) if len(algorithm) > 1 else []
    for number in (*parameters[:1], *parameters[2:], *large):
        _check_bits("a DSA modulus", number, MAX_DSA_BITS)
    for number in (*parameters[1:2], *small):
        _check_bits("a DSA order or private value", number, MAX_DSA_ORDER_BITS)


def _check_bits(what: str, value: Value, most: int) -> None:
    bits = int.from_bytes(value.content).bit_length()
    if bits > most:
        raise LimitError(_too_large(what, bits, most))


def _too_large(what: str, bits: int, most: int) -> str:
    return f"has {what} of {bits:,} bits, more than the {most:,} that certmond reads"


def _values(value: Value, least: int, most: int = _MOST) -> list[Value]:
    """Return the first `most` values inside `value`. Raises MalformedError for fewer than `least` values."""
    found = [*islice(value.values(), most)]
    if len(found) < least:
        raise MalformedError("the DER value contains too few values")
    return found
