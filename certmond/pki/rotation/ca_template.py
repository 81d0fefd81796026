"""Templates of a new Root CA, with a new key or with the present key.

This module decides which parts certmond copies from the present CA. `ca_validation` decides whether the new CA may
replace the present CA.
"""

from __future__ import annotations

import re
from dataclasses import replace

from cryptography import x509

from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.signing.template import Template, Terms, algorithm_of, first
from certmond.pki.x509.certificate import Certificate, load

_DNS_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)


def following(present: Certificate, spec: CertificateSpec, terms: Terms) -> Template:
    """Return the template of a Root CA with a new key, the present subject, and the contents that kubeadm writes."""
    key = spec.key_algorithm or algorithm_of(present.key) or terms.key
    name = present.common_name or ""
    names = (f"DNS:{name}",) if _DNS_NAME.fullmatch(name) else ()
    template = first(spec, "CN=ca", names, replace(terms, key=key), is_ca=True)
    return replace(template, subject=load(present.der).subject)  # unchanged, because Go compares the bytes


def reissued(present: Certificate, spec: CertificateSpec, terms: Terms, serial: int) -> x509.CertificateBuilder:
    """Return a builder for the present CA with new dates and the serial number `serial`."""
    parsed = load(present.der)
    start, end = terms.dates(spec)
    made = x509.CertificateBuilder(
        issuer_name=parsed.subject,
        subject_name=parsed.subject,
        public_key=parsed.public_key(),
        serial_number=serial,
        not_valid_before=start,
        not_valid_after=end,
    )
    for extension in parsed.extensions:
        if extension.oid != x509.AuthorityKeyIdentifier.oid:  # it may contain the old serial number
            made = made.add_extension(extension.value, extension.critical)
    if present.subject_key_id is None:
        return made
    own = x509.SubjectKeyIdentifier(present.subject_key_id)
    return made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
