"""What a document says once its file is read: which certificate is the end entity's, and what is known of a key in it.

Owns the answers for one document at a time. Pure: it reads no file, and judges nothing; which files make an observation
is the store's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from certmond.pki.findings import Fault, Reason
from certmond.pki.x509.certificate import PublicKey
from certmond.pki.x509.parsing import Document


def leaf_of(document: Document) -> dict[str, Any]:
    """The fields of an observation: the end entity first, whatever the order in the file. It is the one whose key is
    there, else the first non-CA.
    """
    certificates = document.certificates
    if len(certificates) < 2:
        return {"certificates": certificates}
    own = [item for item in certificates if document.key and item.key.sha256 == document.key.sha256]
    leaf = (own or [item for item in certificates if not item.is_ca] or list(certificates))[0]
    rest = tuple(item for item in certificates if item != leaf)
    return {"certificates": (leaf, *rest), "leaf_first": certificates[0] == leaf}


def public_key_in(document: Document, key: PublicKey | None) -> PublicKey | None:
    """The public key in a file; of several (service-account keys while they change), the one that belongs to `key`."""
    found = (*document.public_keys, *filter(None, (document.key,)), *(item.key for item in document.certificates))
    return next((one for one in found if key and one.sha256 == key.sha256), next(iter(found), None))


def has_key(document: Document) -> bool:
    """There is a private key in it, be it encrypted."""
    return document.key is not None or document.encrypted_key


def may_hide_key(document: Document) -> bool:
    """There is, or may be, a private key in it whose public half cannot be told."""
    return document.encrypted_key or any(f.reason in {Reason.UNREADABLE, Reason.MALFORMED} for f in document.faults)


def is_broken(document: Document) -> bool:
    """That something is not in it says nothing: a fault is told already."""
    return any(fault.reason is not Reason.TRAILING_DATA for fault in document.faults)


def encrypted_key_in(document: Document, path: str) -> Iterator[Fault]:
    """The fault that a key in it is encrypted, if it is."""
    if document.encrypted_key:
        fact = f"the private key in {path} is encrypted, which no component of Kubernetes can read"
        yield Fault(Reason.UNREADABLE, fact, "store it decrypted, mode 0600")


def not_pem(document: Document, path: str) -> Iterator[Fault]:
    """The fault that certificates are not PEM, where Kubernetes reads PEM only: a pair of files, and trust anchors."""
    if document.certificates and not document.pem:
        fact = f"{path} is not PEM, and tls.LoadX509KeyPair and client-go read certificates in PEM only"
        yield Fault(Reason.MALFORMED, fact, "write it as PEM: openssl x509 -inform DER")


def without_missing(faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """The faults of what is there."""
    return tuple(fault for fault in faults if fault.reason is not Reason.MISSING)
