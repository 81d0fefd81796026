"""Requirements of an entry for a certificate on this node.

`assessment.certificate_rules` reports the missing contents of a certificate, and `signing.template` adds these contents
to a new certificate. certmond skips a requirement that contains an unknown fact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.field_types import expand, subject_attributes
from certmond.pki.x509.certificate import Certificate


def accepted_subjects(spec: CertificateSpec, facts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the accepted subjects of an entry, or () if a subject contains an unknown fact."""
    texts = tuple(text for text in (expand(subject, facts) for subject in spec.subject) if text)
    return texts if len(texts) == len(spec.subject) else ()


def has_accepted_subject(certificate: Certificate, accepted: Iterable[str]) -> bool:
    """Return whether the subject of the certificate is in `accepted`, with attributes in any order."""
    return any(subject_attributes(text) == certificate.attributes for text in accepted)


def node_name_of(certificate: Certificate, spec: CertificateSpec, facts: Mapping[str, str]) -> str | None:
    """Return the value of the fact `node_name` with which the entry accepts the subject, or None.

    Also return None if the entry accepts only subjects without this fact.
    """
    patterns = [part.partition("${node_name}") for text in spec.subject for part in subject_attributes(text)]
    for before, fact, after in patterns:
        for own in certificate.attributes if fact else ():
            name = own.removeprefix(before).removesuffix(after)
            if has_accepted_subject(certificate, accepted_subjects(spec, {**facts, "node_name": name})):
                return name
    return None


def lacking_usages(spec: CertificateSpec, certificate: Certificate) -> tuple[str, ...]:
    """Return the required usages that the certificate lacks. Only an RSA key needs key encipherment."""
    lacking = tuple(usage for usage in spec.usages if not certificate.has_usage(usage))
    if certificate.key.algorithm == "RSA":
        return lacking
    return tuple(usage for usage in lacking if usage != "key encipherment")


def missing_names(spec: CertificateSpec, facts: Mapping[str, str], names: Iterable[str]) -> tuple[str, ...]:
    """Return the subject alternative names that the entry requires, but `names` does not contain."""
    if not spec.names:
        return ()
    wanted = {_comparable(text): text for text in (expand(name, facts) for name in spec.names) if text}
    present = set(map(_comparable, names))
    return tuple(text for name, text in wanted.items() if name not in present)


def _comparable(name: str) -> str:
    kind, _, value = name.partition(":")
    if kind == "IP":
        try:
            return f"IP:{ip_address(value)}"
        except ValueError:
            return name
    return f"{kind}:{value.lower().rstrip('.')}"
