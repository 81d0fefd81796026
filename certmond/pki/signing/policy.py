"""Policy for the certificates that the key of a CA may sign.

certmond checks this policy before each signature, and no signer signs without a `Grant`. The contents of a new
certificate must come from the entry, or from a predecessor that a CA of this node has signed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import NameOID

from certmond.errors import MalformedError
from certmond.immutable_class import immutable
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm
from certmond.pki.catalog.field_types import USAGES, expand
from certmond.pki.catalog.observation import Provenance
from certmond.pki.catalog.unmet_requirements import accepted_subjects
from certmond.pki.findings import printable
from certmond.pki.signing.template import (
    EXTENDED,
    Template,
    Terms,
    alternative_names,
    general_name,
    name_of,
    successor,
    unfit_usages,
)
from certmond.pki.x509.certificate import KEY_USAGES, Certificate, attributes_of, load
from certmond.pki.x509.issuance import is_issued
from certmond.pki.x509.library_guard import guarded

_RESERVED = ("system:", "kubeadm:")
"""Prefixes of users and groups to which Kubernetes (RBAC, default roles) and kubeadm v1.29 grant permissions."""
_SIGNS = "digital signature"


@immutable
class Basis:
    """Sources of the contents of a renewed certificate, in addition to the entry.

    The renewed certificate can have the subject, usages and names of `predecessor`, except those that a certificate in
    `later` lacks. `reasons` explains why there is no predecessor. If `barrier` is not empty, the policy denies every
    certificate.
    """

    predecessor: Certificate | None = None
    reasons: tuple[str, ...] = ()
    later: tuple[Certificate, ...] = ()
    barrier: str = ""


@immutable
class Fixed:
    """Contents that an entry specifies: the accepted subjects, the usages and the subject alternative names."""

    subjects: tuple[str, ...] = ()
    usages: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@immutable
class Grant:
    """Permission to sign a certificate with exactly the contents of `template`. Only `grant` creates permissions."""

    template: Template


@immutable
class Denial:
    """Refusal to sign a certificate, with the reasons."""

    problems: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.problems)


def fixed_by(spec: CertificateSpec, facts: Mapping[str, str]) -> Fixed:
    """Return the subjects, usages and names that the entry specifies, with the values of `facts`.

    Omits a name that contains an unknown fact.
    """
    names = (expand(name, facts) for name in spec.names)
    return Fixed(accepted_subjects(spec, facts), spec.usages, tuple(filter(None, names)))


def basis(
    certificate: Certificate, chain: Sequence[Certificate], issuers: Sequence[Certificate], provenance: Provenance
) -> Basis:
    """Return the sources of the contents with which certmond may renew `certificate`.

    `chain` contains the other certificates in the same file. `issuers` contains the present certificates of the signing
    CA. These certificates can be expired.
    """
    if provenance.path_writers:
        fact = f"{provenance.path_writers}, who could take the key of a new certificate"
        return Basis(barrier=f"{fact}; change the owner to root, or set `owner` in the entry to the permitted user")
    reasons = []
    if provenance.file_writers:
        reasons.append(f"{provenance.file_writers}, so certmond does not use the contents of the certificate")
    if provenance.ca_writers:
        reasons.append(f"{provenance.ca_writers}, so this file does not prove that the CA has signed the certificate")
    known = tuple(dict.fromkeys((*issuers, *provenance.former)))
    if certificate.refused:
        reasons.append(certificate.refused)
    elif not is_issued(certificate, chain, known):
        reasons.append("no current or old CA of the entry has signed the certificate")
    if provenance.owner_writes and not provenance.possessed:
        reasons.append(
            "the private key of the certificate is not in the key file, and the `owner` of the entry "
            "could have replaced the certificate"
        )
    if provenance.lost:
        fact = f"certmond installed a later certificate on {provenance.lost:%Y-%m-%d %H:%M} UTC"
        reasons.append(f"{fact}, and this later certificate is neither in a file nor in the archive")
    if provenance.uncompared:
        reasons.append("the plan did not compare the certificate with the other files of the pattern")
    if provenance.more_later:
        reasons.append("the pattern contains many later certificates with different contents")
    later = tuple(each for each in provenance.later if is_issued(each, provenance.intermediates, known))
    return Basis(None if reasons else certificate, tuple(reasons), (*later, *provenance.later_issued))


def contents_of(certificate: Certificate) -> Hashable:
    """Return the contents that this policy compares with a template, as one value.

    Two certificates with an equal value permit the same renewals. If cryptography cannot parse the certificate, the
    value is the certificate itself.
    """
    try:
        with guarded("has contents that cryptography cannot parse"):
            parsed = load(certificate.der)
            subject = attributes_of(parsed.subject), tuple(_common_names(parsed.subject))
            names = frozenset(alternative_names(parsed))
    except MalformedError:
        return certificate
    return subject, certificate.usages, certificate.extended_usages, names, certificate.key.algorithm


def successor_denial(
    certificate: Certificate, spec: CertificateSpec, facts: Mapping[str, str], basis: Basis, now: datetime
) -> Denial | None:
    """Return the denial if the policy denies a renewal of the certificate, otherwise None.

    Raises MalformedError if cryptography cannot parse the certificate.
    """
    template = successor(certificate, spec, Terms(now, None, facts), inherits=basis.predecessor is not None)
    made = grant(template, fixed_by(spec, facts), basis)
    return made if isinstance(made, Denial) else None


def grant(template: Template, fixed: Fixed, basis: Basis) -> Grant | Denial:
    """Return the permission to sign `template`, or a denial that contains the reasons."""
    if basis.barrier:
        return Denial((basis.barrier,))
    problems = list(_uncovered(template, fixed, basis.predecessor))
    if problems:
        return Denial((*problems, *basis.reasons))
    for each in basis.later:
        if uncovered := list(_uncovered(_as_of_its_key(template, each), fixed, each)):
            fact = f"a later certificate (serial {each.serial_hex}) lacks these contents"
            return Denial((*uncovered, fact))
    return Grant(template)


def outdone(
    certificate: Certificate, chain: Sequence[Certificate], issuers: Sequence[Certificate], provenance: Provenance,
    fixed: Fixed,
) -> tuple[str, ...]:  # fmt: skip
    """Return the contents of `certificate` that a later certificate lacks, and that the entry does not specify.

    If a later certificate is lost, return all contents that the entry does not specify. If the result is not empty, an
    old certificate has replaced a later certificate.
    """
    found = [each for later in basis(certificate, chain, issuers, provenance).later
             for each in surplus(certificate, later, fixed)]  # fmt: skip
    if provenance.lost:
        found += surplus(certificate, None, fixed)
    return tuple(dict.fromkeys(found))


def surplus(certificate: Certificate, later: Certificate | None, fixed: Fixed) -> tuple[str, ...]:
    """Return a text for each part of `certificate` (subject, usages, names) that `later` and the entry both lack.

    If the entry accepts several subjects, compare the subject only with `later`. If `later` is None, compare only with
    the entry. If Go or cryptography refuses the certificate, return only the reason.
    """
    if certificate.refused:
        return (certificate.refused,)
    parsed = load(certificate.der)
    has = Template(
        subject=parsed.subject,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        key=KeyAlgorithm.RSA_2048,
        usages=frozenset(KEY_USAGES.values()) if certificate.usages is None else certificate.usages,
        extended_usages=tuple(certificate.extended_usages or ()),
        names=alternative_names(parsed),
    )
    has = _as_of_its_key(has, later or certificate)
    accepted = is_fixed(has.subject, fixed)
    same = (accepted and (later is None or len(fixed.subjects) == 1)) or (
        later is not None and _is_part(has.subject, load(later.der).subject)
    )
    fact = "the certificate has another accepted subject," if accepted else "the entry does not specify the subject"
    subject = () if same else (f"{fact} {printable(certificate.subject)}",)
    return (*subject, *_uncovered_usages(has, fixed, later), *_uncovered_names(has, fixed, later))


def is_fixed(subject: x509.Name, fixed: Fixed) -> bool:
    """Return whether `subject` is one of the subjects that the entry specifies."""
    return any(_same_subject(subject, each) for each in map(_possible_name, fixed.subjects) if each)


def entry_that_fixes(spec: CertificateSpec, certificate: Certificate) -> dict[str, str | list[str]]:
    """Return a configuration entry that specifies the contents of `certificate`. The operator must check this entry."""
    usages = [usage for usage in (certificate.usages or ()) if usage in USAGES]
    extended = [usage for usage in (certificate.extended_usages or ()) if usage in USAGES]
    names = sorted(name for name in certificate.names if name.startswith(("DNS:", "IP:")))
    return {"name": spec.name, "subject": certificate.subject, "usages": sorted(usages + extended), "names": names}


def is_reserved(subject: x509.Name) -> bool:
    """Return whether an attribute of the subject has a prefix that Kubernetes or kubeadm reserves."""
    values = (each.value if isinstance(each.value, str) else each.value.decode("utf-8", "replace") for each in subject)
    return any(value.strip().casefold().startswith(_RESERVED) for value in values)


def _uncovered(template: Template, fixed: Fixed, predecessor: Certificate | None) -> Iterator[str]:
    """Yield a text for each part of the template that the entry and the predecessor both lack.

    The entry must specify a reserved subject. Also yield a text if the template is a CA.
    """
    if template.is_ca:
        yield "the certificate would be a CA"
    if not is_fixed(template.subject, fixed):
        subject = printable(template.subject.rfc4514_string()) or "(empty)"
        if is_reserved(template.subject):
            yield f"the subject {subject} is reserved, but the entry does not specify exactly this subject"
        elif predecessor is None or not _same_subject(template.subject, load(predecessor.der).subject):
            yield f"the entry does not specify the subject {subject}"
    yield from _uncovered_usages(template, fixed, predecessor)
    yield from _uncovered_names(template, fixed, predecessor)


def _uncovered_usages(template: Template, fixed: Fixed, predecessor: Certificate | None) -> Iterator[str]:
    usages = predecessor.usages if predecessor else frozenset({_SIGNS})
    extended = predecessor.extended_usages if predecessor else frozenset[str]()
    lacking = frozenset[str]() if usages is None else template.usages - usages - {*fixed.usages}
    if extended is not None and "any" not in extended:
        lacking |= {*template.extended_usages} - extended - EXTENDED.intersection(fixed.usages)
    if lacking:
        yield f"the entry does not specify the usage {', '.join(sorted(lacking))}"
    if not template.extended_usages and extended is not None:
        yield "the entry specifies no extended key usage, and a certificate without one is valid for every use"


def _uncovered_names(template: Template, fixed: Fixed, predecessor: Certificate | None) -> Iterator[str]:
    known = {name for name in map(_possible_general_name, fixed.names) if name}
    if predecessor:
        known |= {*alternative_names(load(predecessor.der))}
    if lacking := [name for name in template.names if name not in known]:
        yield (
            "the entry does not specify the subject alternative name "
            f"{', '.join(printable(str(each.value)) for each in lacking)}"
        )
    if predecessor is None and "server auth" in template.extended_usages and not template.names:
        yield "the entry specifies no subject alternative name, and no client accepts a server certificate without one"


def _as_of_its_key(template: Template, other: Certificate) -> Template:
    """Return the template without the usages that the key of `other` cannot have."""
    return replace(template, usages=template.usages - unfit_usages(other.key.algorithm))


def _same_subject(one: x509.Name, other: x509.Name) -> bool:
    """Return whether the names have the same attributes, and their common names are in the same order.

    Kubernetes uses the last common name as the user name.
    """
    return attributes_of(one) == attributes_of(other) and _common_names(one) == _common_names(other)


def _is_part(one: x509.Name, other: x509.Name) -> bool:
    """Return whether `other` contains all attributes of `one`, and both have equal common names in the same order."""
    return attributes_of(one) <= attributes_of(other) and _common_names(one) == _common_names(other)


def _common_names(name: x509.Name) -> list[str | bytes]:
    return [each.value for each in name.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _possible_name(text: str) -> x509.Name | None:
    try:
        return name_of(text)
    except ValueError:
        return None


def _possible_general_name(text: str) -> x509.GeneralName | None:
    try:
        return general_name(text)
    except ValueError:
        return None
