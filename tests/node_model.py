"""An independent model of a small node: the content of its files, their defects, and who may have changed what.

It gives a second opinion without any code of certmond. It models one leaf at a time: whether it exists and is readable,
has its own key, is signed by the installed CA, and is in date.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

REPORTED = frozenset({"missing", "malformed", "key_missing", "key_mismatch", "no_path", "expired", "not_yet_valid"})
"""The reasons of this model. It has no opinion about other reasons."""


@dataclass(frozen=True)
class Leaf:
    """The files of one entry, as far as they are readable."""

    there: bool
    certificate: x509.Certificate | None
    key_there: bool
    key_fits: bool

    def wrong(self, ca: x509.Certificate | None, now: datetime) -> set[str]:
        """Return the reasons that certmond must report for the file."""
        if self.certificate is None:
            return {"malformed"} if self.there else {"missing"}
        reasons = set()
        if not self.key_there:
            reasons.add("key_missing")
        elif not self.key_fits:
            reasons.add("key_mismatch")
        if ca is None or not signed_by(self.certificate, ca):
            reasons.add("no_path")
        if now > self.certificate.not_valid_after_utc:
            reasons.add("expired")
        if now < self.certificate.not_valid_before_utc:
            reasons.add("not_yet_valid")
        return reasons


def read(root: Path, entry: dict[str, Any]) -> Leaf:
    """The leaf of an entry of the kinds file and kubeconfig."""
    path = root / entry["path"].lstrip("/")
    if not path.exists():
        return Leaf(False, None, False, False)
    if entry.get("kind") == "kubeconfig":
        try:
            user = yaml.safe_load(path.read_bytes())["users"][0]["user"]
            text, key = (base64.b64decode(user[f"client-{each}-data"]) for each in ("certificate", "key"))
        except (yaml.YAMLError, ValueError, LookupError, TypeError):
            return Leaf(True, None, False, False)
        return _leaf(text, key)
    key_path = root / entry["key"].lstrip("/")
    return _leaf(path.read_bytes(), key_path.read_bytes() if key_path.exists() else None)


def ca_of(root: Path, entry: dict[str, Any]) -> x509.Certificate | None:
    """Return the installed CA, with or without its key."""
    return _leaf((root / entry["path"].lstrip("/")).read_bytes(), None).certificate


def signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _leaf(text: bytes, key: bytes | None) -> Leaf:
    try:
        certificate = x509.load_pem_x509_certificate(text)
    except ValueError:
        return Leaf(True, None, key is not None, False)
    try:
        own = key is not None and _public(load_pem_private_key(key, None)) == _public(certificate)
    except ValueError:
        own = False
    return Leaf(True, certificate, key is not None, own)


def _public(holder: Any) -> bytes:
    found: bytes = holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found
