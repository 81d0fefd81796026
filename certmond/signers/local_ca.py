"""Signing with the key of a CA on this node, and signing of a self-signed Root CA.

No message quotes a key or a passphrase. `pki.signing.template` defines the content of a certificate.
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
from certmond.pki.x509.certificate import Certificate, load, to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.library_guard import guarded
from certmond.pki.x509.public_key import public_key_of
from certmond.signers.protocol import Issued, Request

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY  # does not block on a FIFO or a device


class LocalSigner:
    """Signer that uses the CA in the files `certificate` and `key`, which are real paths.

    `passphrase` is the name of the systemd credential with the passphrase of the key.
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
        """Return the certificate. If an intermediate CA signs, append the chain without the root.

        Raises RefusedError if the request is for a CA, if the certificate of the CA is unreadable, or if the CA may not
        sign now. Raises KeyUnusableError if the key is unusable.
        """
        if request.template.is_ca:
            raise RefusedError(f"{request.name} is a CA, which no other CA signs; to create a CA, run: certmond init")
        key = self._read_key()
        known = self._read_certificates()
        ca = self._issuer(known, key)
        template = replace(request.template, not_after=min(request.template.not_after, ca.not_after))
        certificate_builder = builder(template, request.key.public_key(), x509.random_serial_number(), load(ca.der))
        leaf = signed(certificate_builder, key, self._key)
        return Issued(b"".join((leaf.public_bytes(Encoding.PEM), *map(to_pem, _below_root(ca, known)))))

    def _read_certificates(self) -> tuple[Certificate, ...]:
        try:
            data = read_file(self._certificate)
        except OSError as error:
            detail = f"certmond cannot read the CA's certificate {self._certificate} ({error.strerror})"
            raise RefusedError(f"{detail}; restore the file, or choose another signer") from error
        return decode(data, self._certificate).certificates

    def _read_key(self) -> PrivateKey:
        passphrase = _credential(self._passphrase) if self._passphrase else None
        try:
            return load_key(read_file(self._key), self._key, passphrase)
        except OSError as error:
            detail = f"certmond cannot read the CA's key {self._key} ({error.strerror})"
            raise KeyUnusableError(f"{detail}; restore the file, or choose another signer") from error
        except KeyUnusableError as error:
            if passphrase is None:
                raise
            raise KeyUnusableError(
                f"{error}; or put the passphrase of this key into the credential {self._passphrase}"
            ) from None

    def _issuer(self, known: tuple[Certificate, ...], key: PrivateKey) -> Certificate:
        """Return the CA certificate of `key` that may sign now and expires last.

        Raises RefusedError if there is no such certificate.
        """
        own = public_key_of(key)
        candidates = sorted((each for each in known if each.key == own), key=lambda each: each.not_after, reverse=True)
        if not candidates:
            detail = f"{self._certificate} contains no certificate of the key in {self._key}"
            raise RefusedError(f"{detail}; restore the certificate and the key from the same backup")
        now = self._clock()
        refusals = [_refusal(candidate, now) for candidate in candidates]
        if None not in refusals:
            raise RefusedError(f"the certificate in {self._certificate} {refusals[0]}")
        return candidates[refusals.index(None)]


def self_signed(template: Template, key: PrivateKey) -> bytes:
    """Return a self-signed certificate, such as a Root CA, as PEM."""
    certificate_builder = builder(template, key.public_key(), x509.random_serial_number(), None)
    return certificate_builder.sign(key, _digest(key)).public_bytes(Encoding.PEM)


def signed(certificate_builder: x509.CertificateBuilder, key: PrivateKey, where: str) -> x509.Certificate:
    """Return the certificate, signed with the CA's key from the file `where`.

    Raises KeyUnusableError if the key cannot sign.
    """
    try:
        with guarded("does not sign"):
            return certificate_builder.sign(key, _digest(key))
    except MalformedError:  # OpenSSL's error for a key whose numbers are inconsistent
        fact = f"the CA's key {where} is damaged and cannot sign"
        raise KeyUnusableError(f"{fact}; restore it from a backup") from None


def read_file(path: str) -> bytes:
    """Return the content of a regular file, without blocking.

    Raises OSError if the file is unreadable, is not a regular file, or has more than MAX_SIZE bytes.
    """
    with open(os.open(path, _OPEN), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return content_of(file)


def _credential(name: str) -> bytes:
    """Return the first line of a systemd credential (systemd.exec(5), LoadCredential= and LoadCredentialEncrypted=).

    Raises KeyUnusableError if the credential is unavailable or empty.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    remedy = f"add LoadCredentialEncrypted={name}:FILE to the unit that runs certmond"
    if directory is None:
        raise KeyUnusableError(f"the systemd credential {name} is not available to this process; {remedy}")
    try:
        lines = read_file(f"{directory}/{name}").splitlines()
    except OSError as error:
        raise KeyUnusableError(
            f"certmond cannot read the systemd credential {name} ({error.strerror}); {remedy}"
        ) from error
    if not lines:
        raise KeyUnusableError(f"the systemd credential {name} is empty; its first line must be the passphrase")
    return lines[0]


def _refusal(ca: Certificate, now: datetime) -> str | None:
    """Return why this CA may not sign now, or None if the CA may sign (RFC 5280, 4.2.1.3, 4.2.1.9 and 6.1.4)."""
    if ca.refused:
        return f"({ca.subject}) is not usable: {ca.refused}; replace that CA"
    if not ca.is_ca:
        return f"({ca.subject}) is not a CA: it lacks CA:TRUE; replace it with a CA certificate"
    if not ca.has_usage("cert sign"):
        return f"({ca.subject}) may not sign certificates: its key usage lacks keyCertSign; replace that CA"
    if now >= ca.not_after:
        return f"({ca.subject}) expired at {ca.not_after:%Y-%m-%d %H:%M:%S} UTC; rotate the CA first"
    if now < ca.not_before:
        return f"({ca.subject}) is not valid before {ca.not_before:%Y-%m-%d %H:%M:%S} UTC; check this host's clock"
    return None


def _below_root(ca: Certificate | None, known: tuple[Certificate, ...]) -> Iterator[Certificate]:
    """Yield `ca` and its issuers, except the root."""
    rest = list(known)
    while ca is not None and not ca.self_issued:
        yield ca
        rest.remove(ca)
        issuer = ca.issuer_der
        ca = next((each for each in rest if each.subject_der == issuer), None)


def _digest(key: PrivateKey) -> SHA256 | SHA384 | SHA512 | None:
    """Return the digest that Go's x509.CreateCertificate uses with this key, or None for Ed25519."""
    match key:
        case ed25519.Ed25519PrivateKey():
            return None
        case ec.EllipticCurvePrivateKey(key_size=384):
            return SHA384()
        case ec.EllipticCurvePrivateKey(key_size=521):
            return SHA512()
        case _:
            return SHA256()
