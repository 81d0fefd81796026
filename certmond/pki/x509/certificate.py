"""Parser of one X.509 certificate.

The parser reports no findings. Other modules assess facts such as a serial number of zero or a SHA-1 signature.
"""

from __future__ import annotations

import hashlib
import warnings
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID as EKU

from certmond.errors import LimitError, MalformedError
from certmond.immutable_class import immutable
from certmond.pki.asn1.key_limits import check_public_key, check_request
from certmond.pki.go.certificate import Fields, parse_fields
from certmond.pki.go.distinguished_names import attribute_texts
from certmond.pki.go.public_key import RSA_PSS
from certmond.pki.x509.library_guard import guarded
from certmond.pki.x509.public_key import PublicKey, bare_key, plain_key, public_key_of
from certmond.pki.x509.serial_number import hexadecimal

# Every kubeadm CA before v1.27 has serial number 0. certmond reports the finding nonpositive_serial and prints no
# warning.
warnings.filterwarnings("ignore", message="Parsed a serial number", category=CryptographyDeprecationWarning)
# RFC 5280 limits the lengths of attributes. No component of Kubernetes enforces these limits.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)

# The Kubernetes names of usages, as in certificate signing requests (certificates.k8s.io/v1, KeyUsage).
EXTENDED_USAGES = {
    EKU.ANY_EXTENDED_KEY_USAGE: "any",
    EKU.SERVER_AUTH: "server auth",
    EKU.CLIENT_AUTH: "client auth",
    EKU.CODE_SIGNING: "code signing",
    EKU.EMAIL_PROTECTION: "email protection",
    EKU.TIME_STAMPING: "timestamping",
    EKU.OCSP_SIGNING: "ocsp signing",
}
KEY_USAGES = {
    "digital_signature": "digital signature",
    "content_commitment": "content commitment",
    "key_encipherment": "key encipherment",
    "data_encipherment": "data encipherment",
    "key_agreement": "key agreement",
    "key_cert_sign": "cert sign",
    "crl_sign": "crl sign",
}

_INSTANT = timedelta(microseconds=1)

T = TypeVar("T")


@immutable(eq=False, weakref_slot=True)
class Certificate:
    """Contents of one certificate (RFC 5280, section 4). Times are UTC.

    If `usages` or `extended_usages` is None, the certificate permits all usages of this kind. `alternative_names`
    contains the subject alternative names as "DNS:…", "IP:…", "email:…" or "URI:…". `demands_policies` is True if
    certificate policies can invalidate a path (RFC 5280, 6.1). `objections` contains the reasons why Go refuses the
    certificate. `unread` is the reason why cryptography cannot parse the certificate.
    """

    der: bytes = field(repr=False)
    version: int
    serial: int
    subject: str
    issuer: str
    subject_der: bytes = field(repr=False)
    issuer_der: bytes = field(repr=False)
    subject_attributes: tuple[str, ...]  # a set with one element takes four times the memory of such a tuple
    not_before: datetime
    not_after: datetime
    key: PublicKey
    signature_hash: str | None
    is_ca: bool | None
    path_length: int | None
    usages: frozenset[str] | None
    extended_usages: frozenset[str] | None
    alternative_names: tuple[str, ...]
    subject_key_id: bytes | None = field(repr=False)
    authority_key_id: bytes | None = field(repr=False)
    unknown_critical: tuple[str, ...]
    constrains_names: bool
    demands_policies: bool = False
    objections: tuple[str, ...] = ()
    unread: str | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.der == other.der

    def __hash__(self) -> int:
        return hash(self.der)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the certificate in hexadecimal digits."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def serial_hex(self) -> str:
        """The serial number in hexadecimal digits, for texts."""
        return hexadecimal(self.serial)

    @property
    def called(self) -> str:
        """The subject and the hexadecimal serial number, for messages."""
        return f"{self.subject} (serial {self.serial_hex})"

    @property
    def refused(self) -> str | None:
        """The reason why Go or cryptography refuses the certificate, or None if both accept the certificate.

        certmond copies no contents from a refused certificate.
        """
        if self.objections:
            return f"Go refuses the certificate ({'; '.join(self.objections)})"
        return f"cryptography refuses the certificate: {self.unread}" if self.unread else None

    @property
    def attributes(self) -> frozenset[str]:
        """The attributes of the subject, such as "CN=…" and "O=…"."""
        return frozenset(self.subject_attributes)

    @property
    def names(self) -> frozenset[str]:
        """The names in `alternative_names`."""
        return frozenset(self.alternative_names)

    @property
    def common_name(self) -> str | None:
        """The common name (CN) of the subject, or None if the subject has no common name.

        If the subject has several common names, the property is the first of these names in alphabetical order.
        """
        return next((text[3:] for text in sorted(self.subject_attributes) if text.startswith("CN=")), None)

    @property
    def expires_at(self) -> datetime:
        """The first instant after the validity period, which includes notAfter (RFC 5280, 4.1.2.5)."""
        return self.not_after + _INSTANT

    @property
    def self_issued(self) -> bool:
        """Whether subject and issuer are the same name (RFC 5280, section 3.2)."""
        return self.subject_der == self.issuer_der

    def has_usage(self, usage: str) -> bool:
        """Return whether the certificate permits `usage`, a Kubernetes name such as "server auth"."""
        if usage in _KEY_USAGE_NAMES:
            return self.usages is None or usage in self.usages
        return self.extended_usages is None or "any" in self.extended_usages or usage in self.extended_usages


_KEY_USAGE_NAMES = frozenset(KEY_USAGES.values())


def parse_certificate(der: bytes) -> Certificate:
    """Return the contents of a DER certificate, as Go reads them.

    Raises MalformedError if the bytes are not a certificate, and LimitError if the serial number or the key exceeds a
    limit.
    """
    try:
        fields = parse_fields(der)
    except LimitError:
        raise
    except MalformedError as error:
        raise MalformedError(f"not a certificate ({error})") from None
    ordinary, unread = is_ordinary(der), None
    issuer_der = _common(fields.issuer, ordinary)
    try:
        attributes, issuer, key = _by_library(der, fields, issuer_der, ordinary)
    except LimitError:
        raise
    except MalformedError as error:
        unread = str(error)
        attributes = attribute_texts(fields.subject)
        issuer = ",".join(map("+".join, reversed(attribute_texts(issuer_der))))
        key = bare_key(fields.key)
    attributes = [[_common(each, ordinary) for each in together] for together in attributes]
    found = _ABSENT | fields.facts
    common = {name: _common(found[name], ordinary) for name in ("usages", "extended_usages", "authority_key_id")}
    return Certificate(
        der=der,
        version=fields.version,
        serial=fields.serial,
        subject=",".join(["+".join(together) for together in reversed(attributes)]),
        issuer=issuer,
        subject_der=issuer_der if fields.subject == issuer_der else fields.subject,
        issuer_der=issuer_der,
        subject_attributes=tuple([each for together in attributes for each in together]),
        not_before=fields.not_before,
        not_after=fields.not_after,
        key=key,
        signature_hash=fields.signature.digest,
        unknown_critical=fields.unknown_critical,
        objections=fields.objections,
        unread=unread,
        **found | common,
    )


Anchor = Certificate | PublicKey
"""Trust anchor that a rotation replaces: a Root CA, or the public key that verifies service-account tokens."""


def to_pem(anchor: Anchor) -> bytes:
    """Return the anchor as PEM with the label CERTIFICATE or PUBLIC KEY (RFC 7468).

    Raises MalformedError for a public key that cryptography cannot load.
    """
    if isinstance(anchor, PublicKey):
        with guarded("is not a usable public key"):
            return load_der_public_key(anchor.der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = b64encode(anchor.der)  # also works for a certificate that cryptography cannot parse
    lines = (text[at : at + 64] for at in range(0, len(text), 64))
    return b"\n".join((b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""))


def certificates_of(anchors: Iterable[Anchor]) -> tuple[Certificate, ...]:
    """Return the anchors that are certificates."""
    return tuple(each for each in anchors if isinstance(each, Certificate))


def names_in(names: Iterable[x509.GeneralName]) -> frozenset[str]:
    """Return the names as texts "DNS:…", "IP:…", "email:…" and "URI:…". Omits names of other kinds."""
    return frozenset(filter(None, map(_name, names)))


def _name(name: x509.GeneralName) -> str | None:
    match name:
        case x509.DNSName(value=value):
            return f"DNS:{value}"
        case x509.IPAddress(value=address):
            return f"IP:{address}"
        case x509.RFC822Name(value=value):
            return f"email:{value}"
        case x509.UniformResourceIdentifier(value=value):
            return f"URI:{value}"
        case _:
            return None


def load(der: bytes) -> x509.Certificate:
    """Return the certificate in `der` as an object of cryptography.

    Raises MalformedError if cryptography refuses the certificate.
    """
    with guarded("not a certificate", quotable=True):
        return x509.load_der_x509_certificate(der)


def load_request(pem: bytes) -> x509.CertificateSigningRequest:
    """Return the certificate request in PEM (RFC 2986) as an object of cryptography.

    Raises MalformedError if cryptography refuses the request, and LimitError if the key in the request exceeds a limit.
    """
    with guarded("not a certificate request", quotable=True):
        request = x509.load_pem_x509_csr(pem)
        check_request(request.public_bytes(Encoding.DER))
        return request


def attributes_of(name: x509.Name) -> frozenset[str]:
    """Return the attributes of a name as texts such as "CN=…" and "O=…"."""
    return frozenset(attribute.rfc4514_string() for attribute in name)


def is_ordinary(der: bytes) -> bool:
    """Return whether the certificate has at most 4096 bytes.

    certmond caches only values of such certificates. Otherwise, large certificates could fill the memory.
    """
    return len(der) <= 4096


def _common(value: T, ordinary: bool) -> T:
    """Return `value`, or an equal object that ordinary certificates share."""
    return _shared(value) if ordinary else value


@lru_cache(maxsize=1024)
def _shared(value: T) -> T:
    """Return the same object for equal values, so that thousands of leaves share the name of their CA."""
    return value


@immutable
class _Issuer:
    """The issuer name of a certificate. Two names are equal if their DER is equal."""

    der: bytes
    certificate: x509.Certificate = field(compare=False)


@lru_cache(maxsize=256)
def _issuer(issuer: _Issuer) -> str:
    """Return the issuer's name as RFC 4514 text. The cache avoids repeated parsing of the same name."""
    return issuer.certificate.issuer.rfc4514_string()


_ABSENT = {
    "is_ca": None, "path_length": None, "usages": None, "extended_usages": None, "alternative_names": (),
    "subject_key_id": None, "authority_key_id": None, "constrains_names": False,
    "demands_policies": False,
}  # fmt: skip


def _by_library(der: bytes, fields: Fields, issuer: bytes, ordinary: bool) -> tuple[list[list[str]], str, PublicKey]:
    """Return the attributes of the subject, the issuer's name and the key, as cryptography reads them.

    Raises MalformedError if cryptography cannot parse a part of the certificate, and LimitError if the key exceeds a
    limit.
    """
    check_public_key(fields.key)
    # cryptography parses lazily and raises many types of exceptions.
    with guarded("not a usable certificate", quotable=True):
        parsed = load(der)
        attributes = [[each.rfc4514_string() for each in together] for together in parsed.subject.rdns]
        name = _issuer(_Issuer(issuer, parsed)) if ordinary else parsed.issuer.rfc4514_string()
        key = plain_key(fields.key) if fields.has_plain_key else public_key_of(parsed)
        # Parse the extensions here, because a renewal copies them.
        tuple(parsed.extensions)
    if key.algorithm == "RSA" and key.der != fields.key and RSA_PSS in fields.key[:32]:
        key = replace(key, algorithm="RSASSA-PSS")  # for Go, this is a separate algorithm, which Go cannot use
    return attributes, name, key
