"""Properties of one parsed file: its end-entity certificate, its key, and its faults.

`files.catalog_observer` decides which files belong to an observation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from certmond.pki.findings import Fault, Reason
from certmond.pki.x509.certificate_file_parser import Document
from certmond.pki.x509.public_key import PublicKey

_HIDING = {Reason.UNREADABLE, Reason.NOT_PERMITTED, Reason.MALFORMED}


def leaf_of(document: Document) -> dict[str, Any]:
    """Return the certificates of a file as fields of an `Observation`, with the end-entity certificate first.

    The end-entity certificate is the certificate whose private key is in the file. Without such a certificate, the
    first certificate that is not a CA comes first. If all certificates are CAs, the order does not change.
    """
    certificates = document.certificates
    if len(certificates) < 2:
        return {"certificates": certificates}
    own = [item for item in certificates if document.key and item.key.der == document.key.der]
    leaf = (own or [item for item in certificates if not item.is_ca] or list(certificates))[0]
    rest = tuple(item for item in certificates if item != leaf)
    return {"certificates": (leaf, *rest), "leaf_first": certificates[0] == leaf}


def public_key_in(document: Document, key: PublicKey | None) -> PublicKey | None:
    """Return the public key in a file, or None if the file contains no key.

    If the file contains several keys, return `key` if the file contains `key`, or else the first key.
    """
    found = (*document.public_keys, *filter(None, (document.key,)), *(item.key for item in document.certificates))
    return next((one for one in found if key and one.der == key.der), next(iter(found), None))


def has_key(document: Document) -> bool:
    """Return whether the file contains a private key, plain or encrypted."""
    return document.key is not None or document.encrypted_key


def may_hide_key(document: Document) -> bool:
    """Return whether the file might contain a private key that certmond cannot read."""
    return document.encrypted_key or any(f.reason in _HIDING for f in document.faults)


def is_broken(document: Document) -> bool:
    """Return whether the file has a fault other than trailing data.

    Such a fault explains why the file lacks a certificate or a key.
    """
    return any(fault.reason is not Reason.TRAILING_DATA for fault in document.faults)


def encrypted_key_in(document: Document, path: str) -> Iterator[Fault]:
    """Yield a fault if the file contains an encrypted private key."""
    if document.encrypted_key:
        fact = f"the private key in {path} is encrypted, and no component of Kubernetes can read an encrypted key"
        yield Fault(Reason.UNREADABLE, fact, "decrypt the key (openssl pkey), and set mode 0600")


def not_pem(document: Document, path: str) -> Iterator[Fault]:
    """Yield a fault if the file contains certificates, but is not PEM.

    Kubernetes reads key pairs and trust anchors only in PEM.
    """
    if document.certificates and not document.pem:
        fact = f"{path} is not PEM, and tls.LoadX509KeyPair and client-go read certificates in PEM only"
        command = f"openssl x509 -inform DER -in {path} (for PKCS#12: openssl pkcs12 -nokeys -in {path})"
        yield Fault(Reason.MALFORMED, fact, f"convert the certificate to PEM: {command}")


def without_missing(faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """Return the faults that do not report a missing file."""
    return tuple(fault for fault in faults if fault.reason is not Reason.MISSING)
