"""Reasons why certmond cannot renew a certificate, each with its remedy.

`renewals` decides when certmond renews a certificate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from certmond.pki.assessment.assess import CertificateStatus
from certmond.pki.assessment.missing_ca_certificate import lacks_ca_certificate, missing_ca
from certmond.pki.assessment.self_signed_leaves import is_renewed_elsewhere, is_self_signed, replacement
from certmond.pki.assessment.signing_obstacles import missing_ca_key
from certmond.pki.catalog.entries import SELF, Kind
from certmond.pki.catalog.settings import LOCAL, NO_SIGNER
from certmond.pki.planning.planner_inputs import Policy

_NEED_CA_KEY = frozenset({LOCAL, "kubeadm"})  # kinds of signers that need the key of the CA on this node


def renewal_obstacle(
    status: CertificateStatus, authorities: Mapping[str, CertificateStatus], policy: Policy
) -> str | None:
    """Return why certmond cannot renew the certificate, or None if a renewal is possible."""
    spec, certificate = status.seen.spec, status.certificate
    signer = spec.signer or LOCAL
    self_signed = is_self_signed(status.seen, status.trust_anchor, status.issuers)
    if is_renewed_elsewhere(spec, self_signed=self_signed):
        renewer = f"certmond does not renew this certificate; it is renewed by {spec.renewed_by}"
        if (service := renewing_service(status)) is None:
            return renewer
        obstacle = start_obstacle(service, authorities.values())
        return f"{renewer}, but {obstacle}" if obstacle else f"{renewer}: certmond restart {service}"
    if spec.authority and lacks_ca_certificate(status.seen):
        return missing_ca([spec.name])
    if spec.authority:
        expired = certificate is not None and status.judged_at > certificate.not_after
        return f"this certificate is a CA; {status.seen.ca_remedy(expired=expired)}"
    if spec.kind in {Kind.BUNDLE, Kind.KEY_PAIR} or status.seen.name != spec.name:
        return "this certificate has no separate entry in the catalogue"
    if signer == NO_SIGNER:
        return "its entry has `signer: none`; to renew the certificate with certmond, set another `signer`"
    if certificate is None or status.stale:
        return "the file contains no certificate to renew; restore the file from the archive, or run: certmond init"
    if fact := certificate.refused:
        move = "move the certificate and the key away, then run: certmond init"
        return f"{fact}, so certmond cannot copy its contents into a new certificate; {move}"
    if not status.seen.renewable:
        files = "the kubeconfig refers to files; add an entry of kind file for these files"
        return (
            files
            if spec.kind is Kind.KUBECONFIG
            else "the file is not PEM, the only format that certmond writes; convert the file to PEM"
        )
    if self_signed:
        return replacement(status.seen)
    if status.seen.key_path is None and spec.kind is not Kind.KUBELET:
        return "the entry names no key file; set `key` in the entry"
    if policy.signers.get(signer, LOCAL) not in _NEED_CA_KEY:
        return None
    return _signing_obstacle(
        authority_of(status, authorities), [name for name in spec.ca if name != SELF], kind=spec.kind
    )


def renewing_service(status: CertificateStatus) -> str | None:
    """Return the service of this node that issues the certificate again when it starts.

    Returns None if there is no such service, or for a self-signed certificate. A service keeps its self-signed
    certificate at a start (k8s.io/apiserver, pkg/server/options/serving.go).
    """
    spec = status.seen.spec
    if not spec.renewed_at_start or is_self_signed(status.seen, status.trust_anchor, status.issuers):
        return None
    here = (consumer.service for consumer in status.presence.consumers)
    return next((service for service in here if service in spec.consumers), None)


def start_obstacle(service: str, authorities: Iterable[CertificateStatus]) -> str | None:
    """Return why a start of a service that issues certificates might create a new CA or fail, or None.

    k3s and k0s create a new CA if the certificate or the key of a CA is missing (k3s-io/k3s,
    pkg/daemons/control/deps/deps.go, createSigningCertKey; k0sproject/k0s, pkg/certificate/manager.go, EnsureCA).
    """
    for ca in authorities:
        if service in ca.seen.spec.consumers and ca.seen.spec.key and not ca.key_matches:
            key = ca.seen.key_path or ca.seen.path
            fact = f"certmond finds no key in {key} that matches the CA {ca.seen.path}"
            return f"{fact}, so a start of {service} might create a new CA or fail; restore the CA and its key first"
    return None


def _signing_obstacle(authority: CertificateStatus | None, named: Sequence[str], *, kind: Kind) -> str | None:
    if authority is None and named:
        return missing_ca(named)
    if authority is None:
        return "no CA of the catalogue signs this certificate; set `ca` or `signer` in its entry"
    if authority.certificate and authority.certificate.refused:
        return f"the CA {authority.seen.path} is unusable ({authority.certificate.refused}); replace this CA"
    if not authority.seen.may_have_key:
        key = authority.seen.key_path or authority.seen.path
        return missing_ca_key(key, kind)
    return None


def authority_of(status: CertificateStatus, authorities: Mapping[str, CertificateStatus]) -> CertificateStatus | None:
    """Return the status of the CA that would sign the renewal, or None if this node has no such CA."""
    return next((authorities[name] for name in status.seen.spec.ca if name != SELF and name in authorities), None)
