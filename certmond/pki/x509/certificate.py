"""One X.509 certificate as facts: parsed once, then compared, judged and shown without its encoding.

Owns the translation from DER to `Certificate`, and the public half of a key as `PublicKey`. Never judges: a
serial number of zero, a SHA-1 signature and a CA without CA:TRUE are facts here and findings elsewhere.
Never holds a private key.
"""

from __future__ import annotations

import hashlib
import warnings
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID as EKU

from certmond.errors import LimitError, MalformedError
from certmond.pki.asn1.key_limits import check_public_key, check_request
from certmond.pki.go.certificate import Fields, parse_fields
from certmond.pki.go.names import attribute_texts
from certmond.pki.go.public_key import RSA_PSS, is_plain_public_key, key_name, public_key_of_info
from certmond.pki.x509.library_guard import guarded

# Every kubeadm CA before v1.27 has serial number 0. That is a finding (nonpositive_serial), not a warning to print.
warnings.filterwarnings("ignore", message="Parsed a serial number", category=CryptographyDeprecationWarning)
# RFC 5280 bounds the lengths of attributes, and no component of Kubernetes cares.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)

# Kubernetes' own names of usages (certificates.k8s.io/v1, KeyUsage), which operators know from CSRs.
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
# The curves of Go's crypto/elliptic. A key on any other is called by its curve, for it is not "ECDSA" to Kubernetes.
_CURVES = (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


_INSTANT = timedelta(microseconds=1)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public half of a key. Two keys are the same key exactly if `sha256` (of the SubjectPublicKeyInfo) is."""

    algorithm: str
    bits: int
    sha256: str
    der: bytes = field(repr=False, compare=False)

    @property
    def key(self) -> PublicKey:
        """Itself: what a trust anchor proves with."""
        return self

    @property
    def called(self) -> str:
        """For people."""
        return f"the {self} key with the SHA-256 {self.sha256[:16]}…"

    def __str__(self) -> str:
        return f"{self.algorithm}-{self.bits}" if self.algorithm in {"RSA", "ECDSA", "DSA"} else self.algorithm


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Certificate:
    """The facts of one certificate (RFC 5280, section 4). Times are UTC. Equal exactly if the DER is.

    `usages` is None where the certificate has no keyUsage extension, `extended_usages` where it has no
    extendedKeyUsage: both then restrict nothing. `names` are the subjectAltName entries as "DNS:…", "IP:…", "email:…"
    or "URI:…". `is_ca` is None where there are no basicConstraints. `demands_policies` says that a path with it may
    fail for certificate policies (RFC 5280, 6.1), which certmond does not judge. `objections` has Go's words for what
    it refuses: no component of Kubernetes reads a certificate that has any. `unread` is why cryptography does not
    read it.
    """

    der: bytes = field(repr=False)
    sha256: str
    version: int
    serial: int
    subject: str
    issuer: str
    subject_der: bytes = field(repr=False)
    issuer_der: bytes = field(repr=False)
    attributes: frozenset[str]
    not_before: datetime
    not_after: datetime
    key: PublicKey
    signature_hash: str | None
    is_ca: bool | None
    path_length: int | None
    usages: frozenset[str] | None
    extended_usages: frozenset[str] | None
    names: frozenset[str]
    subject_key_id: bytes | None = field(repr=False)
    authority_key_id: bytes | None = field(repr=False)
    unknown_critical: tuple[str, ...]
    constrains_names: bool
    demands_policies: bool = False
    objections: tuple[str, ...] = ()
    unread: str | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def called(self) -> str:
        """For people."""
        return f"{self.subject} (serial {self.serial:x})"

    @property
    def refused(self) -> str | None:
        """Who does not read the certificate, and why: what it says is then taken over into no other."""
        if self.objections:
            return f"Go does not read it ({'; '.join(self.objections)})"
        return f"cryptography does not read it: {self.unread}" if self.unread else None

    @property
    def common_name(self) -> str | None:
        """The subject's CN, where it has one."""
        return next((text[3:] for text in sorted(self.attributes) if text.startswith("CN=")), None)

    @property
    def expires_at(self) -> datetime:
        """The first instant after its validity, of which notAfter itself is the last (RFC 5280, 4.1.2.5)."""
        return self.not_after + _INSTANT

    @property
    def self_issued(self) -> bool:
        """Subject and issuer are the same name (RFC 5280, section 3.2); says nothing of the signature."""
        return self.subject_der == self.issuer_der

    def has_usage(self, usage: str) -> bool:
        """The certificate may be used for `usage`, a Kubernetes name; an absent extension permits everything."""
        if usage in _KEY_USAGE_NAMES:
            return self.usages is None or usage in self.usages
        return self.extended_usages is None or "any" in self.extended_usages or usage in self.extended_usages


_KEY_USAGE_NAMES = frozenset(KEY_USAGES.values())


def parse_certificate(der: bytes) -> Certificate:
    """Return the facts of a DER certificate. Raises MalformedError where the encoding has no dates to watch, and
    LimitError for a serial number or a key that exceeds a limit.

    The facts are what Go reads (`pki.go_certificate`). What Go, or cryptography, refuses is in the certificate.
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
        key = _bare_key(fields.key)
    attributes = [[_common(each, ordinary) for each in together] for together in attributes]
    found = _ABSENT | fields.facts
    common = {name: _common(found[name], ordinary) for name in ("usages", "extended_usages", "authority_key_id")}
    return Certificate(
        der=der,
        sha256=hashlib.sha256(der).hexdigest(),
        version=fields.version,
        serial=fields.serial,
        subject=",".join(["+".join(together) for together in reversed(attributes)]),
        issuer=issuer,
        subject_der=issuer_der if fields.subject == issuer_der else fields.subject,
        issuer_der=issuer_der,
        attributes=frozenset([each for together in attributes for each in together]),
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
"""What others trust, and what is followed by another: a Root CA, or the key that signs service-account tokens."""


def to_pem(anchor: Anchor) -> bytes:
    """PEM with the label CERTIFICATE or PUBLIC KEY (RFC 7468). Raises MalformedError for an unusable public key."""
    if isinstance(anchor, PublicKey):
        with guarded("is not a usable public key"):
            return load_der_public_key(anchor.der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = b64encode(anchor.der)  # one that cryptography does not read has this form as well
    lines = (text[at : at + 64] for at in range(0, len(text), 64))
    return b"\n".join((b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""))


def certificates_of(anchors: Iterable[Anchor]) -> tuple[Certificate, ...]:
    """Those that are certificates."""
    return tuple(each for each in anchors if isinstance(each, Certificate))


def names_in(names: Iterable[x509.GeneralName]) -> frozenset[str]:
    """subjectAltName entries as "DNS:…", "IP:…", "email:…" and "URI:…"; what is of another kind is left out."""
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
    """cryptography's own object for a DER certificate. Raises MalformedError."""
    with guarded("not a certificate", quotable=True):
        return x509.load_der_x509_certificate(der)


def load_request(pem: bytes) -> x509.CertificateSigningRequest:
    """The same for a certificate request in PEM (RFC 2986). Raises MalformedError."""
    with guarded("not a certificate request", quotable=True):
        request = x509.load_pem_x509_csr(pem)
        check_request(request.public_bytes(Encoding.DER))
        return request


def public_key_of(holder: x509.Certificate | PrivateKeyTypes) -> PublicKey:
    """The public half of a certificate's or a private key's key. Raises MalformedError for an unknown algorithm."""
    with guarded("its public key cannot be used"):
        return describe_key(holder.public_key())


def describe_key(key: PublicKeyTypes) -> PublicKey:
    """Algorithm, size and fingerprint of a public key."""
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
    return PublicKey(algorithm, bits, hashlib.sha256(spki).hexdigest(), spki)


def attributes_of(name: x509.Name) -> frozenset[str]:
    """The attributes of a name as "CN=…", "O=…", whatever their order and grouping."""
    return frozenset(attribute.rfc4514_string() for attribute in name)


def is_ordinary(der: bytes) -> bool:
    """Whether something of a certificate is kept for the others that have it, too: of one that fills a page it is not.
    Else whoever puts ever other ones of a megabyte into one file would have a thousand of them in memory.
    """
    return len(der) <= 4096


def _common(value: T, ordinary: bool) -> T:
    """The same value; of an ordinary certificate the same object as others have for it."""
    return _shared(value) if ordinary else value


@lru_cache(maxsize=1024)
def _shared(value: T) -> T:
    """One object for equal values: ten thousand leaves of one CA hold its name and identifier once."""
    return value


@dataclass(frozen=True, slots=True)
class _Issuer:
    der: bytes
    certificate: x509.Certificate = field(compare=False)


@lru_cache(maxsize=256)
def _issuer(issuer: _Issuer) -> str:
    """The name of a certificate's issuer, which it has in common with all others of that CA."""
    return issuer.certificate.issuer.rfc4514_string()


_ABSENT = {
    "is_ca": None, "path_length": None, "usages": None, "extended_usages": None, "names": frozenset[str](),
    "subject_key_id": None, "authority_key_id": None, "constrains_names": False,
    "demands_policies": False,
}  # fmt: skip


def _by_library(der: bytes, fields: Fields, issuer: bytes, ordinary: bool) -> tuple[list[list[str]], str, PublicKey]:
    """The attributes of the subject, the issuer's name and the key. Raises MalformedError for any part that
    cryptography does not read, of extensions too: a renewal takes them over. Raises LimitError for a key that exceeds a
    limit.
    """
    check_public_key(fields.key)
    # cryptography parses lazily, and raises many types.
    with guarded("not a usable certificate", quotable=True):
        parsed = load(der)
        attributes = [[each.rfc4514_string() for each in together] for together in parsed.subject.rdns]
        name = _issuer(_Issuer(issuer, parsed)) if ordinary else parsed.issuer.rfc4514_string()
        key = _plain_key(fields.key) or public_key_of(parsed)
        tuple(parsed.extensions)
    if key.algorithm == "RSA" and key.der != fields.key and RSA_PSS in fields.key[:32]:
        key = replace(key, algorithm="RSASSA-PSS")  # Go knows it by its own name, and cannot use it
    return attributes, name, key


def _plain_key(info: bytes) -> PublicKey | None:
    """The key of an ordinary kind, which needs no library to be known; None for any other."""
    if not is_plain_public_key(info):
        return None
    algorithm, bits = ("RSA", 2048) if len(info) == 294 else ("ECDSA", 256)
    return PublicKey(algorithm, bits, hashlib.sha256(info).hexdigest(), info)


def _bare_key(info: bytes) -> PublicKey:
    """The key of a certificate that cryptography does not read: known where it is of a kind that Go uses."""
    try:
        check_public_key(info)
        if key := public_key_of_info(info):
            return describe_key(key)
    except MalformedError:
        pass
    return PublicKey(key_name(info), 0, hashlib.sha256(info).hexdigest(), info)
