"""Templates of new certificates, built from the catalogue and the old certificate.

The templates follow RFC 5280 (sections 4.1 and 4.2), kubeadm and the kubelet. This module signs no certificate and
reads no private key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes, CertificatePublicKeyTypes

from certmond.immutable_class import immutable
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm
from certmond.pki.catalog.unmet_requirements import accepted_subjects, has_accepted_subject, missing_names
from certmond.pki.x509.certificate import EXTENDED_USAGES, KEY_USAGES, Certificate, attributes_of, load, names_in
from certmond.pki.x509.public_key import PublicKey

BACKDATE = timedelta(minutes=5)
"""Time by which notBefore is in the past, because the clocks of some hosts are slow
(pkg/controller/certificates/authority/policies.go).
"""

_OIDS = {name: oid for oid, name in EXTENDED_USAGES.items()}
EXTENDED = frozenset(_OIDS)
"""Kubernetes names of all known extended key usages."""
_KEY_USAGES = frozenset(KEY_USAGES.values())
_OF_A_CA = frozenset({"cert sign", "crl sign"})
_OF_A_ROOT = frozenset({"key encipherment", "cert sign"})  # in addition to digital signature, as in a CA of kubeadm
_ENCIPHERING = frozenset({"key encipherment", "data encipherment"})
_UNFIT = {"ECDSA": _ENCIPHERING, "Ed25519": _ENCIPHERING | {"key agreement"}}
"""Key usages that are invalid for the algorithm of the key (RFC 8813, section 3; RFC 9295, section 3)."""
_SIGNS = "digital signature"
_FIRST = datetime.min.replace(tzinfo=UTC)
_FOREVER = datetime.max.replace(tzinfo=UTC)  # RFC 5280, 4.1.2.5: 99991231235959Z
_CREATED_EXTENSIONS = frozenset(
    {
        x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid, x509.SubjectAlternativeName.oid,
        x509.SubjectKeyIdentifier.oid, x509.AuthorityKeyIdentifier.oid,
    }
)  # fmt: skip

T = TypeVar("T")


@immutable
class Template:
    """Contents of a new certificate (RFC 4211, CertTemplate). Times are UTC.

    `usages` and `extended_usages` contain Kubernetes names or dotted OIDs. `changes` contains a text for each
    difference from the old certificate.
    """

    subject: x509.Name
    not_before: datetime
    not_after: datetime
    key: KeyAlgorithm
    usages: frozenset[str]
    extended_usages: tuple[str, ...] = ()
    names: tuple[x509.GeneralName, ...] = ()
    is_ca: bool = False
    changes: tuple[str, ...] = ()


@immutable
class Terms:
    """Inputs for a new certificate, in addition to the entry.

    `issuer_end` is the end of the signing CA, or None if unknown. `validity` and `key` apply if the entry sets no
    validity or key algorithm.
    """

    now: datetime
    issuer_end: datetime | None
    facts: Mapping[str, str]
    validity: timedelta = timedelta(days=365)
    key: KeyAlgorithm = KeyAlgorithm.RSA_2048

    def dates(self, spec: CertificateSpec) -> tuple[datetime, datetime]:
        """Return the start and the end of the validity period of a new certificate.

        The end is at most the end of the signing CA.
        """
        try:
            end = self.now + (spec.validity or self.validity)
        except OverflowError:
            end = _FOREVER
        start = self.now - BACKDATE if self.now - _FIRST > BACKDATE else _FIRST
        return _whole(start), _whole(min(end, self.issuer_end or end))


def successor(old: Certificate, spec: CertificateSpec, terms: Terms, *, inherits: bool = True) -> Template:
    """Return the template of the certificate that replaces `old`.

    If `inherits` is False, the values that the entry specifies replace the values of `old`. Raises MalformedError if
    cryptography cannot parse `old`.
    """
    parsed = load(old.der)
    key = spec.key_algorithm or algorithm_of(old.key) or terms.key
    had = old.usages or frozenset()
    accepted, had_subject = accepted_subjects(spec, terms.facts), parsed.subject
    present, had_names = tuple(_oids(parsed)), alternative_names(parsed)
    if not inherits:
        had, present, had_names = _left_open(spec, had, present, had_names)
    usages = _usages((*spec.usages, *had), key, signs=_SIGNS in had or not had)
    lacking = tuple(usage for usage in spec.usages if usage in _OIDS and usage not in present)
    kept = names_in(had_names)
    # Ignore an invalid name, because no certificate can contain such a name.
    names = {text: _possible(general_name, text) for text in missing_names(spec, terms.facts, kept)}
    missing = {text: name for text, name in names.items() if name}
    before = old.usages or frozenset()
    changes = [f"adds the usage {usage}" for usage in (*sorted(usages - before), *_not_in(lacking, _oids(parsed)))]
    dropped = (*sorted(before - usages), *_not_in(_oids(parsed), (*present, *lacking)))
    changes += [f"drops the usage {usage}" for usage in dropped]
    changes += [f"adds the name {text}" for text in missing if text not in old.names]
    changes += [f"drops the name {text}" for text in sorted(old.names - kept - names_in(missing.values()))]
    changes += [f"drops the extension {oid.dotted_string}" for oid in _dropped_extensions(parsed)]
    changes += ["is not a CA"] if old.is_ca else []
    subject = had_subject
    fits = inherits and has_accepted_subject(old, accepted)
    if accepted and not fits and (wanted := _possible(name_of, accepted[0])):
        subject = wanted
        if attributes_of(wanted) != old.attributes:
            changes.append(f"has the subject {accepted[0]}, not {old.subject}")
    if not is_a(old.key, key):
        changes.append(f"has a key {key.value}, not {old.key}")
    start, end = terms.dates(spec)
    return Template(
        subject=subject,
        not_before=start,
        not_after=end,
        key=key,
        usages=usages,
        extended_usages=(*present, *lacking),
        names=(*had_names, *missing.values()),
        changes=tuple(changes),
    )


def _left_open(
    spec: CertificateSpec, usages: frozenset[str], extended: tuple[str, ...], names: tuple[x509.GeneralName, ...]
) -> tuple[frozenset[str], tuple[str, ...], tuple[x509.GeneralName, ...]]:
    """Return the key usages, extended key usages and names that the new certificate keeps.

    The certificate keeps no values of a kind that the entry specifies. Only a certificate with the usage "server auth"
    keeps names.
    """
    fixes_usages = not EXTENDED.isdisjoint(spec.usages)
    return (
        frozenset() if spec.usages else usages,
        () if fixes_usages else extended,
        () if spec.names or "server auth" not in (*spec.usages, *extended) else names,
    )


def _not_in(usages: Iterable[str], others: Iterable[str]) -> Iterator[str]:
    known = {*others}
    return (usage for usage in usages if usage not in known)


def first(spec: CertificateSpec, subject: str, names: Iterable[str], terms: Terms, *, is_ca: bool = False) -> Template:
    """Return the template of the first certificate of an entry, with the names in `names` (DNS:…, IP:…).

    If `is_ca` is True, the template has the key usages of a Root CA of kubeadm. Raises ValueError for an invalid
    subject or name.
    """
    key = spec.key_algorithm or terms.key
    start, end = terms.dates(spec)
    asked = (*spec.usages, *_OF_A_ROOT) if is_ca else spec.usages
    return Template(
        subject=name_of(subject),
        not_before=start,
        not_after=end,
        key=key,
        usages=_usages(asked, key, is_ca=is_ca),
        extended_usages=tuple(usage for usage in spec.usages if usage in _OIDS),
        names=tuple(map(general_name, names)),
        is_ca=is_ca,
    )


def builder(
    template: Template, public_key: CertificatePublicKeyTypes, serial: int, issuer: x509.Certificate | None
) -> x509.CertificateBuilder:
    """Return a builder for the certificate, which the key of `issuer` must then sign.

    If `issuer` is None, the certificate is self-signed.
    """
    key_id = x509.SubjectKeyIdentifier.from_public_key(public_key)
    made = x509.CertificateBuilder(
        issuer_name=issuer.subject if issuer else template.subject,
        subject_name=template.subject,
        public_key=public_key,
        serial_number=serial,
        not_valid_before=template.not_before,
        not_valid_after=template.not_after,
    )
    for extension, critical in extensions(template):
        made = made.add_extension(extension, critical)
    return made.add_extension(key_id, critical=False).add_extension(_issuer_key_id(issuer, key_id), critical=False)


def extensions(template: Template) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """Yield each extension of the template with its critical flag, except the key identifiers.

    The order is the same as in Go's x509.CreateCertificate.
    """
    given = {field: name in template.usages for field, name in KEY_USAGES.items()}
    yield x509.KeyUsage(**given, encipher_only=False, decipher_only=False), True
    if template.extended_usages:
        oids = [_OIDS.get(usage) or x509.ObjectIdentifier(usage) for usage in template.extended_usages]
        yield x509.ExtendedKeyUsage(oids), False
    yield x509.BasicConstraints(ca=template.is_ca, path_length=None), True
    if template.names:
        yield x509.SubjectAlternativeName(template.names), not list(template.subject)  # RFC 5280, 4.2.1.6


def algorithm_of(key: PublicKey) -> KeyAlgorithm | None:
    """Return the algorithm for a new key that replaces `key`, or None if certmond does not create such keys."""
    match key.algorithm, key.bits:
        case "RSA", bits:
            sizes = {2048: KeyAlgorithm.RSA_2048, 3072: KeyAlgorithm.RSA_3072}
            return next((made for size, made in sizes.items() if bits <= size), KeyAlgorithm.RSA_4096)
        case "ECDSA", 256:
            return KeyAlgorithm.ECDSA_P256
        case "ECDSA", 384:
            return KeyAlgorithm.ECDSA_P384
        case "Ed25519", _:
            return KeyAlgorithm.ED25519
        case _:
            return None


def is_a(key: PublicKey, algorithm: KeyAlgorithm) -> bool:
    """Return whether `key` has exactly this algorithm and size."""
    return str(key) == algorithm.value.replace("-P", "-")


def general_name(text: str) -> x509.GeneralName:
    """Return the GeneralName for a text of the form "DNS:…", "IP:…" or "URI:…".

    An entry contains only names of the forms "DNS:…" and "IP:…".

    Raises ValueError for a text of another form, and for an invalid name or address.
    """
    kind, _, value = text.partition(":")
    match kind:
        case "DNS":
            return x509.DNSName(value)
        case "IP":
            return x509.IPAddress(ip_address(value))
        case "URI":
            return x509.UniformResourceIdentifier(value)
        case _:
            raise ValueError(f"{text} is neither DNS:…, IP:… nor URI:…")


def _possible(make: Callable[[str], T], text: str) -> T | None:
    try:
        return make(text)
    except ValueError:
        return None


def name_of(text: str) -> x509.Name:
    """Return the X.509 name for a subject in the format of RFC 4514. Raises ValueError for an invalid subject."""
    return x509.Name.from_rfc4514_string("".join(part.strip() for part in re.split(r"(?<!\\)([,+])", text)))


def _usages(asked: Iterable[str], key: KeyAlgorithm, *, is_ca: bool = False, signs: bool = True) -> frozenset[str]:
    """Return the key usages in `asked` that a key of this algorithm can have.

    If `is_ca` is False, omit the usages of a CA. If `signs` is True, add digital signature. The result is never empty,
    because the extension needs at least one usage (RFC 5280, 4.2.1.3).
    """
    unfit = unfit_usages(key.value.partition("-")[0])
    usages = _KEY_USAGES.intersection(asked) - unfit - (frozenset() if is_ca else _OF_A_CA)
    return usages | {_SIGNS} if signs or not usages else usages


def unfit_usages(algorithm: str) -> frozenset[str]:
    """Return the key usages that are invalid for the key algorithm "RSA", "ECDSA" or "Ed25519"."""
    return _UNFIT.get(algorithm, frozenset())


def _oids(parsed: x509.Certificate) -> Iterator[str]:
    try:
        usages = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    for oid in usages:
        yield EXTENDED_USAGES.get(oid, oid.dotted_string)


def alternative_names(parsed: x509.Certificate) -> tuple[x509.GeneralName, ...]:
    """Return all subject alternative names of the certificate, of any kind."""
    try:
        return tuple(parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def _dropped_extensions(parsed: x509.Certificate) -> Iterator[x509.ObjectIdentifier]:
    return (extension.oid for extension in parsed.extensions if extension.oid not in _CREATED_EXTENSIONS)


def _issuer_key_id(issuer: x509.Certificate | None, own: x509.SubjectKeyIdentifier) -> x509.AuthorityKeyIdentifier:
    """Return the authority key identifier of a new certificate (RFC 5280, 4.2.1.1).

    If the issuer has a subject key identifier, the result equals this identifier byte for byte, as OpenSSL requires.
    Otherwise, the result is the hash of the issuer's key. If `issuer` is None, the result equals `own`.
    """
    if issuer is None:
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
    try:
        known = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(_issuing(key))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


def _issuing(key: CertificatePublicKeyTypes) -> CertificateIssuerPublicKeyTypes:
    return key  # type: ignore[return-value]  # certmond has already refused a CA whose key cannot sign


def _whole(instant: datetime) -> datetime:
    return instant.replace(microsecond=0)
