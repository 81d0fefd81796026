"""Keys of service-account tokens on this node, and the checks of a new key.

This module uses only public keys. `ca_validation` validates a Root CA.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.x509.public_key import PublicKey

_CURVES = (256, 384, 521)
"""Sizes in bits of the curves with which Kubernetes can sign tokens (pkg/serviceaccount/jwt.go,
signerFromECDSAPrivateKey).
"""
_LEAST_RSA = 2048


@immutable
class TokenKeys:
    """Service-account keys of one entry.

    `trusted` contains the public keys in the order of the file. `key` is the public key of the private key on this
    node. If the private key is unreadable, `key` is None and `holds_key` is True. `unread` contains a sentence for each
    file that no known service reads.
    """

    spec: CertificateSpec
    trusted: tuple[PublicKey, ...]
    key: PublicKey | None
    holds_key: bool
    unread: tuple[str, ...] = ()


def keys_of(assessment: Assessment, name: str) -> TokenKeys | None:
    """Return the service-account keys of the entry `name`, or None if the entry has no public key."""
    for status in assessment.statuses:
        seen = status.seen
        if seen.spec.name == name and seen.spec.kind is Kind.KEY_PAIR and seen.public_keys:
            files = {path for consumer in status.presence.consumers for path in consumer.files}
            flags = {seen.path: "--service-account-key-file", seen.key_path: "--service-account-signing-key-file"}
            unread = tuple(
                f"no known service on this node reads {path}; check {flag} of kube-apiserver, and `consumers` of {name}"
                for path, flag in flags.items()
                if path and path not in files
            )
            return TokenKeys(seen.spec, seen.public_keys, seen.key, seen.key is not None or seen.key_unknown, unread)
    return None


def objections(key: PublicKey, present: Sequence[PublicKey], where: str) -> Iterator[str]:
    """Yield the reasons why the key in the file `where` cannot replace the keys in `present`, as sentences."""
    match key.algorithm, key.bits:
        case "RSA", bits if bits < _LEAST_RSA:
            yield f"the RSA key in {where} has {bits} bits; give a key of at least {_LEAST_RSA} bits"
        case ("RSA", _):
            pass
        case "ECDSA", bits if bits in _CURVES:
            pass
        case _:
            yield (
                f"Kubernetes cannot sign tokens with the {key} key in {where}; give an RSA key, or an ECDSA "
                "key on P-256, P-384 or P-521"
            )
    if key in present:
        yield f"the key in {where} is in use already; give another key"
