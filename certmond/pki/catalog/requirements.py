"""What a row of the catalogue demands of a certificate on this node, with the node's facts filled in.

Owns the comparison of a certificate's subject, usages and names with those demands; `checks` says what is lacking,
`issuance` adds it. A demand with a fact that the node cannot tell is not made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.field_types import expand, subject_attributes
from certmond.pki.x509.certificate import Certificate


def accepted_subjects(spec: CertificateSpec, facts: Mapping[str, str]) -> tuple[str, ...]:
    """The subjects that are right, the one to issue first; none where it cannot be told whether another one is."""
    texts = tuple(text for text in (expand(subject, facts) for subject in spec.subject) if text)
    return texts if len(texts) == len(spec.subject) else ()


def has_accepted_subject(certificate: Certificate, accepted: Iterable[str]) -> bool:
    """Subjects are compared by their attributes, whatever the order."""
    return any(subject_attributes(text) == certificate.attributes for text in accepted)


def lacking_usages(spec: CertificateSpec, certificate: Certificate) -> tuple[str, ...]:
    """Usages that are asked for and not permitted. Key encipherment is asked of RSA keys only."""
    lacking = tuple(usage for usage in spec.usages if not certificate.has_usage(usage))
    if certificate.key.algorithm == "RSA":
        return lacking
    return tuple(usage for usage in lacking if usage != "key encipherment")


def missing_names(spec: CertificateSpec, facts: Mapping[str, str], names: Iterable[str]) -> tuple[str, ...]:
    """Names that are asked for and not among `names`, each once."""
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
