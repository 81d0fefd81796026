"""The certificate with which an old CA authorizes a rotation, if no node has the key of this CA.

A signer outside of certmond issues the rotation certificate. The certificate names exactly one rotation. No component
accepts the certificate from a client or a server.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import NameOID

from certmond.errors import MalformedError
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.findings import printable
from certmond.pki.signing.policy import Basis, Denial, Fixed, Grant, grant
from certmond.pki.signing.template import BACKDATE, Template, general_name
from certmond.pki.x509.certificate import Certificate, parse_certificate
from certmond.pki.x509.library_guard import guarded
from certmond.pki.x509.path_building import find_paths

USER = "certmond:rotation"
"""Common name in the request. Do not bind a role to this user."""
_URI = "urn:certmond:rotation:"
_USAGE = "code signing"  # every signer can issue this usage, and Kubernetes accepts no client or server with it
PERMISSIONS = f"the subject CN={USER}, the SAN URI {_URI}SHA256 and the extended key usage codeSigning"
"""What a signer must permit in a request for a rotation certificate."""


def rotation_grant(statement: bytes, now: datetime, until: datetime) -> Grant | Denial:
    """Return the permission to request the certificate that authorizes the rotation with this statement.

    Return a Denial if the policy does not permit the request.
    """
    name = _name_of(statement)
    template = Template(
        subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, USER)]),
        not_before=now - BACKDATE,
        not_after=until,
        key=KeyAlgorithm.ECDSA_P256,
        usages=frozenset({"digital signature"}),
        extended_usages=(_USAGE,),
        names=(general_name(name),),
    )
    return grant(template, Fixed((f"CN={USER}",), (_USAGE,), (name,)), Basis())


def encoded(certificate: Certificate) -> str:
    """Return the certificate as base64, for a record."""
    return b64encode(certificate.der).decode("ascii")


def decoded(text: str) -> Certificate | None:
    """Return the certificate in the base64 `text` of a record, or None if the text contains no certificate."""
    try:
        with guarded("is not base64"):
            der = b64decode(text, validate=True)
        return parse_certificate(der)
    except MalformedError:
        return None


def objection(certificate: Certificate | None, issuer: Certificate, statement: bytes, now: datetime) -> str | None:
    """Return why the certificate does not authorize the rotation with this statement, or None if it does.

    The CA `issuer` itself must have signed the certificate, because an intermediate CA can have other rules.
    """
    if certificate is None:
        return "the record contains no certificate of the old CA"
    if certificate.refused:
        return certificate.refused
    if certificate.names != {_name_of(statement)}:
        return f"the subject alternative names of the certificate are not exactly {_name_of(statement)}"
    if certificate.is_ca or certificate.extended_usages != frozenset({_USAGE}):
        return f"the certificate is a CA, or does not have exactly the extended key usage {_USAGE}"
    found = find_paths(certificate, [issuer], usages=[_USAGE])
    if not found.paths:
        why = f" ({printable(found.rejections[0].refusal)})" if found.rejections else ""
        return f"the CA {issuer.sha256[:16]}… has not signed the certificate{why}"
    if found.valid_at(now) is None:
        dates = f"{certificate.not_before:%Y-%m-%d %H:%M:%S} to {certificate.not_after:%Y-%m-%d %H:%M:%S} UTC"
        return f"the certificate (valid from {dates}) or its CA is not valid now"
    return None


def _name_of(statement: bytes) -> str:
    return f"URI:{_URI}{hashlib.sha256(statement).hexdigest()}"
