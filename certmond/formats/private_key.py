"""Private keys: generation, parsing, signatures, and the encodings that kubeadm and the kubelet use.

No message quotes a private key. The module `pki.x509.public_key` parses public keys.
"""

from __future__ import annotations

import shlex

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from certmond.errors import KeyUnusableError, LimitError, MalformedError
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.x509.certificate_file_parser import check_private_keys, is_pkcs12
from certmond.pki.x509.library_guard import guarded

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
"""The types of private keys that the components of Kubernetes support."""
_TRIAL = b"certmond"


def make_key(algorithm: KeyAlgorithm) -> PrivateKey:
    """Return a new private key. OpenSSL generates the key."""
    match algorithm:
        case KeyAlgorithm.RSA_2048 | KeyAlgorithm.RSA_3072 | KeyAlgorithm.RSA_4096:
            return rsa.generate_private_key(public_exponent=65537, key_size=int(algorithm.value.partition("-")[2]))
        case KeyAlgorithm.ECDSA_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyAlgorithm.ECDSA_P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyAlgorithm.ED25519:
            return ed25519.Ed25519PrivateKey.generate()


def load_key(data: bytes, where: str, passphrase: bytes | None = None) -> PrivateKey:
    """Return the private key in `data`, which is PEM or DER.

    Raises KeyUnusableError if the key is unusable or unsupported, or if the key is encrypted and `passphrase` does not
    decrypt the key. The message names the file `where`, and never quotes the key.
    """
    file = "FILE" if " " in where and "/" not in where.partition(" ")[0] else where
    if is_pkcs12(data):
        command = f"openssl pkcs12 -in {shlex.quote(file)} -nocerts -nodes -out {shlex.quote(f'{file}.pem')}"
        raise KeyUnusableError(f"{where} is a PKCS#12 file; extract its private key: {command}")
    load = load_pem_private_key if b"-----BEGIN " in data else load_der_private_key
    key: PrivateKeyTypes | None
    try:
        check_private_keys(data)
        with guarded("is not a usable private key"):
            # Skip the consistency checks of OpenSSL, which take 36 ms for each RSA key. A damaged key cannot sign, or
            # its signature does not verify. certmond detects both cases before it writes a file.
            try:
                key = load(data, None, unsafe_skip_rsa_key_validation=True)
            except TypeError:  # cryptography raises it for an encrypted key
                key = None if passphrase is None else load(data, passphrase, unsafe_skip_rsa_key_validation=True)
    except LimitError as error:
        raise KeyUnusableError(f"the private key in {where} {error}; replace it with the right key") from None
    except MalformedError:
        raise KeyUnusableError(f"{where} contains no usable private key; replace it with the right key") from None
    if key is None:
        command = f"openssl pkey -in {shlex.quote(file)} -out {shlex.quote(f'{file}.new')}"
        remedy = f"provide its passphrase as a systemd credential, or decrypt it: {command}"
        raise KeyUnusableError(f"the private key in {where} is encrypted; {remedy}")
    if not isinstance(key, PrivateKey):
        raise KeyUnusableError(
            f"the private key in {where} is not an RSA, ECDSA or Ed25519 key; use a key of one of these types"
        )
    return key


def sign(key: PrivateKey, data: bytes) -> bytes:
    """Return the signature of `data`. RSA and ECDSA signatures use SHA-256.

    Raises KeyUnusableError if the key cannot sign.
    """
    try:
        with guarded("does not sign"):
            match key:
                case rsa.RSAPrivateKey():
                    return key.sign(data, padding.PKCS1v15(), SHA256())
                case ec.EllipticCurvePrivateKey():
                    return key.sign(data, ec.ECDSA(SHA256()))
                case ed25519.Ed25519PrivateKey():
                    return key.sign(data)
    except MalformedError:
        raise KeyUnusableError(
            "the private key creates no valid signature; replace it with the private key of this certificate"
        ) from None


def can_sign(key: PrivateKey) -> bool:
    """Return whether a signature of the key is valid. `load_key` does not check this."""
    try:
        with guarded("does not verify"):
            match key:
                case rsa.RSAPrivateKey():
                    signature = key.sign(_TRIAL, padding.PKCS1v15(), SHA256())
                    key.public_key().verify(signature, _TRIAL, padding.PKCS1v15(), SHA256())
                case ec.EllipticCurvePrivateKey():
                    key.public_key().verify(key.sign(_TRIAL, ec.ECDSA(SHA256())), _TRIAL, ec.ECDSA(SHA256()))
                case ed25519.Ed25519PrivateKey():
                    key.public_key().verify(key.sign(_TRIAL), _TRIAL)
    except MalformedError:  # OpenSSL reports an error for a damaged key
        return False
    return True


def key_pem(key: PrivateKey) -> bytes:
    """Return the private key in PEM. Raises MalformedError if OpenSSL cannot encode the key.

    The format is PKCS#1 for RSA and SEC 1 for ECDSA, as in client-go (keyutil, MarshalPrivateKeyToPEM). The format is
    PKCS#8 for Ed25519.
    """
    is_ed25519 = isinstance(key, ed25519.Ed25519PrivateKey)
    form = PrivateFormat.PKCS8 if is_ed25519 else PrivateFormat.TraditionalOpenSSL
    with guarded("certmond cannot encode the private key; replace it with the right key"):
        return key.private_bytes(Encoding.PEM, form, NoEncryption())


def public_pem(key: PrivateKey) -> bytes:
    """Return the public key of `key` in PEM, in the format of the file `sa.pub`."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
