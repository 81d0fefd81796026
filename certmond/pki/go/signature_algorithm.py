"""Signature algorithms of certificates as Go 1.24 identifies them (crypto/x509, getSignatureAlgorithmFromAI).

Go accepts RSASSA-PSS only if all parameters name the same hash, and the salt is as long as the hash.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from certmond.errors import MalformedError
from certmond.pki.asn1.der import Value, read_value
from certmond.pki.go.der import INTEGER, SEQUENCE, dotted, read, small_integer
from certmond.pki.go.public_key import NULL_ENCODED, Algorithm, parse_algorithm

_SHA2 = {
    bytes.fromhex(f"60864801650304020{n}"): (f"sha{bits}", bits // 8) for n, bits in ((1, 256), (2, 384), (3, 512))
}
_MGF1 = bytes.fromhex("2a864886f70d010108")
_ED25519, _PSS = bytes.fromhex("2b6570"), bytes.fromhex("2a864886f70d01010a")


class Signature(NamedTuple):
    """A signature algorithm: the kind of key, the digest, and whether RSA uses PSS padding."""

    key: str
    digest: str | None  # None for Ed25519, or the object identifier of an algorithm that Go does not support
    pss: bool = False


_PLAIN = {
    "2a864886f70d010104": Signature("RSA", "md5"),
    "2a864886f70d010105": Signature("RSA", "sha1"),
    "2b0e03021d": Signature("RSA", "sha1"),
    "2a864886f70d01010b": Signature("RSA", "sha256"),
    "2a864886f70d01010c": Signature("RSA", "sha384"),
    "2a864886f70d01010d": Signature("RSA", "sha512"),
    "2a8648ce380403": Signature("DSA", "sha1"),
    "608648016503040302": Signature("DSA", "sha256"),
    "2a8648ce3d0401": Signature("ECDSA", "sha1"),
    "2a8648ce3d040302": Signature("ECDSA", "sha256"),
    "2a8648ce3d040303": Signature("ECDSA", "sha384"),
    "2a8648ce3d040304": Signature("ECDSA", "sha512"),
}
_ALGORITHMS = {bytes.fromhex(text): signature for text, signature in _PLAIN.items()}


def signature_of(algorithm: Algorithm) -> Signature:
    """Return the signature algorithm of an AlgorithmIdentifier. `key` is empty if Go does not support the algorithm."""
    if algorithm.oid == _ED25519 and not algorithm.parameters:
        return Signature("Ed25519", None)
    unknown = Signature("", dotted(algorithm.oid))
    if algorithm.oid == _PSS:
        return _pss(algorithm.parameters) or unknown
    return _ALGORITHMS.get(algorithm.oid, unknown)


@lru_cache(maxsize=256)
def signature_algorithm_of(encoded: bytes) -> Signature:
    """Return the signature algorithm of an encoded AlgorithmIdentifier. Raises MalformedError for other bytes."""
    return signature_of(parse_algorithm(read_value(encoded)))


def _pss(parameters: bytes) -> Signature | None:
    """Return the algorithm with these RSASSA-PSS-params (RFC 4055, 3.1), or None if Go refuses the parameters."""
    words = "x509: unsupported RSASSA-PSS parameters"
    try:
        whole = read(parameters, 0, len(parameters), SEQUENCE, words)
        fields = [value.encoded for value in whole.values()]
        hashing, mask, salt = (_explicit(field, 0xA0 + n) for n, field in enumerate(fields[:3]))
        digest, generator = parse_algorithm(hashing), parse_algorithm(mask)
        masked = parse_algorithm(read(generator.parameters, 0, len(generator.parameters), SEQUENCE, words))
        length = small_integer(salt.content, words)
        trailer = small_integer(_explicit(fields[3], 0xA3).content, words) if len(fields) > 3 else 1
    except (MalformedError, ValueError):
        return None
    name, size = _SHA2.get(digest.oid, ("", 0))
    sequences = hashing.tag == mask.tag == SEQUENCE
    plain = sequences and {digest.parameters, masked.parameters} <= {b"", NULL_ENCODED}
    known = plain and generator.oid == _MGF1 and masked.oid == digest.oid and trailer == 1 and salt.tag == INTEGER
    return Signature("RSA", name, pss=True) if name and known and length == size else None


def _explicit(encoded: bytes, tag: int) -> Value:
    words = "x509: unsupported RSASSA-PSS parameters"
    outer = read(encoded, 0, len(encoded), tag, words)
    return read_value(encoded, outer.content_start, outer.end)
