"""One X.509 certificate as facts: parsed once, then compared, judged and shown without its encoding.

Owns the translation from DER to `Certificate`, and the public half of a key as `PublicKey`. Never judges: a
serial number of zero, a SHA-1 signature and a CA without CA:TRUE are facts here and findings elsewhere.
Never holds a private key.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID as EKU

from certmond.pki.der import parts_of
from certmond.pki.guard import guarded
from certmond.pki.limits import check_public_key, check_request, check_serial

# Every kubeadm CA before v1.27 has serial number 0. That is a finding (nonpositive_serial), not a warning to print.
warnings.filterwarnings("ignore", message="Parsed a serial number", category=CryptographyDeprecationWarning)

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
# Critical extensions that Go's crypto/x509 understands (parser.go, processExtensions); any other one makes it refuse.
# A key identifier must not be critical (RFC 5280, 4.2.1.1 and 4.2.1.2): Go does not even read such a certificate.
_UNDERSTOOD = frozenset(
    {
        x509.KeyUsage.oid,
        x509.BasicConstraints.oid,
        x509.SubjectAlternativeName.oid,
        x509.NameConstraints.oid,
        x509.ExtendedKeyUsage.oid,
        x509.CRLDistributionPoints.oid,
        x509.CertificatePolicies.oid,
        x509.ObjectIdentifier("2.5.29.33"),  # policyMappings
        x509.PolicyConstraints.oid,
        x509.InhibitAnyPolicy.oid,
    }
)
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
    or "URI:…". `is_ca` is None where there are no basicConstraints.
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def called(self) -> str:
        """For people."""
        return f"{self.subject} (serial {self.serial:x})"

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
    """The facts of a DER certificate. Raises MalformedError for anything that is not exactly one certificate."""
    parsed = load(der)
    # cryptography parses lazily: whatever it cannot read, these bytes are not a certificate that can be judged.
    with guarded("not a usable certificate", quotable=True):
        parts, names, ordinary = parts_of(der), parsed.subject, is_ordinary(der)
        check_serial(parsed.serial_number)
        check_public_key(parts.key)
        issuer_der = _common(parts.issuer, ordinary)
        attributes = [[_common(each.rfc4514_string(), ordinary) for each in together] for together in names.rdns]
        return Certificate(
            der=der,
            sha256=hashlib.sha256(der).hexdigest(),
            version=parsed.version.value + 1,
            serial=parsed.serial_number,
            subject=",".join(["+".join(together) for together in reversed(attributes)]),
            issuer=_issuer(_Issuer(issuer_der, parsed)) if ordinary else parsed.issuer.rfc4514_string(),
            subject_der=issuer_der if parts.subject == issuer_der else parts.subject,
            issuer_der=issuer_der,
            attributes=frozenset([each for together in attributes for each in together]),
            not_before=parsed.not_valid_before_utc,
            not_after=parsed.not_valid_after_utc,
            key=describe_key(parsed.public_key()),
            signature_hash=_signature_hash(parsed),
            **_extensions(parsed, ordinary),
        )


Anchor = Certificate | PublicKey
"""What others trust, and what is followed by another: a Root CA, or the key that signs service-account tokens."""


def to_pem(anchor: Anchor) -> bytes:
    """PEM with the label CERTIFICATE or PUBLIC KEY (RFC 7468). Raises MalformedError."""
    with guarded("is not a usable public key"):
        if isinstance(anchor, PublicKey):
            return load_der_public_key(anchor.der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return load(anchor.der).public_bytes(Encoding.PEM)


def certificates_of(anchors: Iterable[Anchor]) -> tuple[Certificate, ...]:
    """Those that are certificates."""
    return tuple(each for each in anchors if isinstance(each, Certificate))


def names_in(names: Iterable[x509.GeneralName]) -> frozenset[str]:
    """subjectAltName entries as "DNS:…", "IP:…", "email:…" and "URI:…"; what is of another kind is left out."""
    return frozenset(filter(None, map(_name, names)))


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
}  # fmt: skip


def _extensions(parsed: x509.Certificate, ordinary: bool) -> dict[str, Any]:
    """What the extensions say that Kubernetes' components look at."""
    found: dict[str, Any] = dict(_ABSENT)
    unknown = []
    for extension in parsed.extensions:
        if read := _READERS.get(extension.oid):
            found |= read(extension.value)
        if extension.critical and not _understood(extension):
            unknown.append(extension.oid.dotted_string)
    common = {name: _common(found[name], ordinary) for name in ("usages", "extended_usages", "authority_key_id")}
    return found | common | {"unknown_critical": tuple(unknown)}


def _extended_usages(usages: x509.ExtendedKeyUsage) -> frozenset[str]:
    return frozenset(EXTENDED_USAGES.get(oid, oid.dotted_string) for oid in usages)


# By OID: `match` would ask each extension for one abstract class after the other.
_READERS: dict[x509.ObjectIdentifier, Callable[[Any], dict[str, Any]]] = {
    x509.BasicConstraints.oid: lambda value: {"is_ca": value.ca, "path_length": value.path_length},
    x509.KeyUsage.oid: lambda value: {"usages": _key_usages(value)},
    x509.ExtendedKeyUsage.oid: lambda value: {"extended_usages": _extended_usages(value)},
    x509.SubjectAlternativeName.oid: lambda value: {"names": names_in(value)},
    x509.SubjectKeyIdentifier.oid: lambda value: {"subject_key_id": value.digest},
    x509.AuthorityKeyIdentifier.oid: lambda value: {"authority_key_id": value.key_identifier},
    x509.NameConstraints.oid: lambda _: {"constrains_names": True},
}


def _understood(extension: x509.Extension[x509.ExtensionType]) -> bool:
    """Go reads all of it that matters: of names, it knows the four kinds of `_name` and no other."""
    value: Any = extension.value
    if extension.oid == x509.SubjectAlternativeName.oid:
        return any(map(_name, value))
    if extension.oid == x509.NameConstraints.oid:
        return all(map(_name, (*(value.permitted_subtrees or ()), *(value.excluded_subtrees or ()))))
    return extension.oid in _UNDERSTOOD


def _key_usages(usage: x509.KeyUsage) -> frozenset[str]:
    return frozenset(name for attribute, name in KEY_USAGES.items() if getattr(usage, attribute))


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


def _signature_hash(parsed: x509.Certificate) -> str | None:
    """The digest that the signature is made over; None for Ed25519, which has none of its own."""
    try:
        algorithm = parsed.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return parsed.signature_algorithm_oid.dotted_string
    return None if algorithm is None else algorithm.name
