"""Public keys as immutable values, which never contain a private key."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certmond.errors import MalformedError
from certmond.immutable_class import immutable
from certmond.pki.asn1.key_limits import check_public_key
from certmond.pki.go.public_key import key_name, public_key_of_info
from certmond.pki.x509.library_guard import guarded

# The curves of Go's crypto/elliptic. For a key on any other curve, which Kubernetes cannot use, `algorithm` is the name
# of the curve.
_CURVES = (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@immutable
class PublicKey:
    """Public key. `der` is its SubjectPublicKeyInfo (RFC 5280, 4.1.2.7), as cryptography encodes it, or as in the
    certificate if cryptography cannot parse the key.

    `bits` is 0 if the size is unknown.
    """

    algorithm: str
    bits: int
    der: bytes

    @property
    def sha256(self) -> str:
        """The SHA-256 of `der` in hexadecimal digits."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def key(self) -> PublicKey:
        """The key itself. Certificates and public keys both have the property `key`."""
        return self

    @property
    def called(self) -> str:
        """The algorithm and the start of the SHA-256, for messages."""
        return f"the {self} key with the SHA-256 {self.sha256[:16]}…"

    def __repr__(self) -> str:
        return f"PublicKey({self}, sha256={self.sha256})"

    def __str__(self) -> str:
        return f"{self.algorithm}-{self.bits}" if self.algorithm in {"RSA", "ECDSA", "DSA"} else self.algorithm


def public_key_of(holder: x509.Certificate | PrivateKeyTypes) -> PublicKey:
    """Return the public key of a certificate or private key. Raises MalformedError if cryptography refuses the key."""
    with guarded("the public key is not usable"):
        return describe_key(holder.public_key())


def describe_key(key: PublicKeyTypes) -> PublicKey:
    """Return a public key of cryptography as a `PublicKey`."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    match key:
        case rsa.RSAPublicKey():
            algorithm, bits = "RSA", key.key_size
        case ec.EllipticCurvePublicKey():
            algorithm, bits = "ECDSA" if isinstance(key.curve, _CURVES) else key.curve.name, key.key_size
        case ed25519.Ed25519PublicKey():
            algorithm, bits = "Ed25519", 256
        case _:
            algorithm, bits = type(key).__name__.strip("_").removesuffix("PublicKey"), getattr(key, "key_size", 0)
    return PublicKey(algorithm, bits, spki)


def plain_key(info: bytes) -> PublicKey:
    """Return the RSA-2048 or P-256 key in a SubjectPublicKeyInfo that `is_plain_public_key` accepts.

    This function is faster than cryptography.
    """
    algorithm, bits = ("RSA", 2048) if len(info) == 294 else ("ECDSA", 256)
    return PublicKey(algorithm, bits, info)


def bare_key(info: bytes) -> PublicKey:
    """Return the key in the SubjectPublicKeyInfo of a certificate that cryptography cannot parse.

    The size of the key is 0 if Go refuses the key, or if Go or cryptography does not support the key. The size is also
    0 if the key exceeds a limit of `asn1.key_limits`.
    """
    try:
        check_public_key(info)
        if key := public_key_of_info(info):
            return describe_key(key)
    except MalformedError:
        pass
    return PublicKey(key_name(info), 0, info)
