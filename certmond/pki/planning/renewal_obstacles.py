"""Reasons for which certmond cannot renew a certificate: its kind, its files, its signer, the key of its CA.

Owns these reasons, each with its remedy. `renewals` decides when a certificate is renewed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from certmond.pki.assessment.assess import CertificateStatus
from certmond.pki.catalog.entries import SELF, Kind
from certmond.pki.catalog.settings import LOCAL, NO_SIGNER
from certmond.pki.planning.planner_inputs import Policy

_NEED_CA_KEY = frozenset({LOCAL, "kubeadm"})  # kinds of signers that need the key of the CA on this node


def renewal_obstacle(
    status: CertificateStatus, authorities: Mapping[str, CertificateStatus], policy: Policy
) -> str | None:
    """Return why certmond cannot renew this certificate at any time, or None if it can."""
    spec, certificate = status.seen.spec, status.certificate
    signer = spec.signer or LOCAL
    if spec.renewed_by:
        return f"certmond does not renew it; it is renewed by {spec.renewed_by}"
    if spec.authority:
        return "it is a CA, which is rotated, not renewed"
    if spec.kind in {Kind.BUNDLE, Kind.KEY_PAIR} or status.seen.name != spec.name:
        return "it is not an entry of its own"
    if signer == NO_SIGNER:
        return "its entry says that nobody signs it"
    if certificate is None or status.stale:
        return "there is no certificate to renew: put it back first, from the archive or by `certmond init`"
    if fact := certificate.refused:
        return f"{fact}, and what it says cannot be taken over: move it and its key away, then `certmond init`"
    if not status.seen.renewable:
        files = "it refers to files: list those as an entry of kind file"
        return files if spec.kind is Kind.KUBECONFIG else "its file is not PEM, and certmond writes nothing else"
    if (
        SELF in spec.ca
        and status.trust_anchor in status.seen.certificates
        and status.trust_anchor not in status.issuers
    ):
        return "it is self-signed, and no CA signs its successor: remove certificate and key, and restart its service"
    if status.seen.key_path is None and spec.kind is not Kind.KUBELET:
        return "its entry does not say where its key is: give it a `key`"
    if policy.signers.get(signer, LOCAL) not in _NEED_CA_KEY:
        return None
    return _signing_obstacle(authority_of(status, authorities), [name for name in spec.ca if name != SELF])


def _signing_obstacle(authority: CertificateStatus | None, named: Sequence[str]) -> str | None:
    if authority is None and named:
        return f"the file of its CA, the entry {' or '.join(named)}, holds no certificate: put the CA back first"
    if authority is None:
        return "no CA of the catalogue signs it: name its `ca`, or a `signer`"
    if authority.certificate and authority.certificate.refused:
        return f"the certificate of its CA, {authority.seen.path}, is refused by Go or by cryptography: replace that CA"
    if not (authority.key_matches or authority.seen.key_unknown):
        return f"the key of its CA, {authority.seen.key_path or authority.seen.path}, is not on this node, or another's"
    return None


def authority_of(status: CertificateStatus, authorities: Mapping[str, CertificateStatus]) -> CertificateStatus | None:
    """Return the status of the CA that would sign it: the first one that its entry names."""
    return next((authorities[name] for name in status.seen.spec.ca if name != SELF and name in authorities), None)
