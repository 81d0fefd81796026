"""Signing with the key of a CA on this node, as kubeadm and k3s keep it; and the self-signed Root CA.

Owns the steps from the CA's two files to a signature. Both are read when used, checked against each other and the
clock, and dropped after the call. Nothing is cached or written, and no message quotes a key or a passphrase.
`pki.signing.template` defines the content of a certificate.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.errors import KeyUnusableError, MalformedError, RefusedError
from certmond.files.consistent_read import content_of
from certmond.formats.private_key import PrivateKey, load_key
from certmond.pki.signing.template import Template, builder
from certmond.pki.x509.certificate import Certificate, load, public_key_of, to_pem
from certmond.pki.x509.library_guard import guarded
from certmond.pki.x509.parsing import decode
from certmond.signers.protocol import Issued, Request

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY  # does not block on a FIFO or a device


class LocalSigner:
    """Signs with the CA whose certificate and key are at these paths, symlinks and root directory resolved.

    `passphrase` names the systemd credential that decrypts the key.
    """

    def __init__(
        self,
        certificate: str,
        key: str,
        passphrase: str | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._passphrase = passphrase
        self._clock = clock

    def sign(self, request: Request) -> Issued:
        """Return the certificate; if an intermediate CA signs, followed by its chain without the root.

        Raises RefusedError if the CA may not sign, KeyUnusableError if its key cannot be used.
        """
        if request.template.is_ca:
            raise RefusedError(f"{request.name} is to be a CA, and no CA is signed by another; let it sign itself")
        key = self._read_key()
        known = self._read_certificates()
        ca = self._issuer(known, key)
        template = replace(request.template, not_after=min(request.template.not_after, ca.not_after))
        made = builder(template, request.key.public_key(), x509.random_serial_number(), load(ca.der))
        leaf = signed(made, key, self._key)
        return Issued(b"".join((leaf.public_bytes(Encoding.PEM), *map(to_pem, _below_root(ca, known)))))

    def _read_certificates(self) -> tuple[Certificate, ...]:
        try:
            data = read_file(self._certificate)
        except OSError as error:
            detail = f"the CA's certificate {self._certificate} cannot be read ({error.strerror})"
            raise RefusedError(f"{detail}; put it there, or choose another signer") from error
        return decode(data, self._certificate).certificates

    def _read_key(self) -> PrivateKey:
        passphrase = _credential(self._passphrase) if self._passphrase else None
        try:
            return load_key(read_file(self._key), self._key, passphrase)
        except OSError as error:
            detail = f"the CA's key {self._key} cannot be read ({error.strerror})"
            raise KeyUnusableError(f"{detail}; put it there, or choose another signer") from error
        except KeyUnusableError as error:
            if passphrase is None:
                raise
            raise KeyUnusableError(f"{error}, or put its passphrase into the credential {self._passphrase}") from None

    def _issuer(self, known: tuple[Certificate, ...], key: PrivateKey) -> Certificate:
        """Return the certificate of this key; of several, as after a reissue, the valid one that ends last."""
        own = public_key_of(key)
        candidates = sorted((each for each in known if each.key == own), key=lambda each: each.not_after, reverse=True)
        if not candidates:
            detail = f"{self._certificate} holds no certificate of the key in {self._key}"
            raise RefusedError(f"{detail}; put the two that belong together there")
        now = self._clock()
        objections = [_objection(candidate, now) for candidate in candidates]
        if None not in objections:
            raise RefusedError(f"the CA in {self._certificate} {objections[0]}")
        return candidates[objections.index(None)]


def self_signed(template: Template, key: PrivateKey) -> bytes:
    """Return the PEM of a certificate that is signed with its own key: a Root CA."""
    made = builder(template, key.public_key(), x509.random_serial_number(), None)
    return made.sign(key, _digest(key)).public_bytes(Encoding.PEM)


def signed(made: x509.CertificateBuilder, key: PrivateKey, where: str) -> x509.Certificate:
    """Sign `made` with the CA's key in the file `where`. Raises KeyUnusableError if the key cannot sign."""
    try:
        with guarded("does not sign"):
            return made.sign(key, _digest(key))
    except MalformedError:  # OpenSSL's error for a key whose numbers are inconsistent
        fact = f"the CA's key {where} is damaged: nothing can be signed with it"
        raise KeyUnusableError(f"{fact}; put it back from a backup") from None


def read_file(path: str) -> bytes:
    """Return the content of a regular file of at most MAX_SIZE, without blocking. Raises OSError."""
    with open(os.open(path, _OPEN), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return content_of(file)


def _credential(name: str) -> bytes:
    """Return the first line of a systemd credential (systemd.exec(5), LoadCredential= and LoadCredentialEncrypted=)."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    remedy = f"add LoadCredentialEncrypted={name}:FILE to the unit that runs certmond"
    if directory is None:
        raise KeyUnusableError(f"the systemd credential {name} was not handed to this process; {remedy}")
    try:
        lines = read_file(f"{directory}/{name}").splitlines()
    except OSError as error:
        raise KeyUnusableError(f"the systemd credential {name} cannot be read ({error.strerror}); {remedy}") from error
    if not lines:
        raise KeyUnusableError(f"the systemd credential {name} is empty; its first line has to be the passphrase")
    return lines[0]


def _objection(ca: Certificate, now: datetime) -> str | None:
    """Return why this certificate may not sign now (RFC 5280, 4.2.1.3, 4.2.1.9 and 6.1.4), with the remedy, or None."""
    if ca.refused:
        return f"({ca.subject}) is not usable: {ca.refused}; replace that CA"
    if not ca.is_ca:
        return f"({ca.subject}) is no CA: it lacks CA:TRUE; put a CA certificate there"
    if not ca.has_usage("cert sign"):
        return f"({ca.subject}) may not sign certificates: its key usage lacks it; put one there that may"
    if now >= ca.not_after:
        return f"({ca.subject}) expired at {ca.not_after:%Y-%m-%d %H:%M:%S} UTC; renew the CA first"
    if now < ca.not_before:
        return f"({ca.subject}) is not valid before {ca.not_before:%Y-%m-%d %H:%M:%S} UTC; check this host's clock"
    return None


def _below_root(ca: Certificate | None, known: tuple[Certificate, ...]) -> Iterator[Certificate]:
    """Yield `ca` and its issuers without the root: none if `ca` is a root."""
    rest = list(known)
    while ca is not None and not ca.self_issued:
        yield ca
        rest.remove(ca)
        issuer = ca.issuer_der
        ca = next((each for each in rest if each.subject_der == issuer), None)


def _digest(key: PrivateKey) -> SHA256 | SHA384 | SHA512 | None:
    """Return the digest to sign with: as strong as the curve, like Go's x509.CreateCertificate."""
    match key:
        case ed25519.Ed25519PrivateKey():
            return None
        case ec.EllipticCurvePrivateKey(key_size=384):
            return SHA384()
        case ec.EllipticCurvePrivateKey(key_size=521):
            return SHA512()
        case _:
            return SHA256()
