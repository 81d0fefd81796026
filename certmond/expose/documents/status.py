"""The status document: the JSON output of `certmond check` and `certmond status`. The schema is stable."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from certmond.expose.documents.status_reader import SCHEMA
from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.catalog.entries import SELF, Kind
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Finding
from certmond.pki.planning.forecast import NextEvent
from certmond.pki.x509.certificate import Certificate


def status_document(assessment: Assessment, mode: str, following: NextEvent | None) -> dict[str, Any]:
    """Return the status document of an assessment, as values that `json` can encode."""
    return {
        **header(assessment, mode, following),
        "certificates": [certificate_entry(status) for status in assessment.certificates],
        "trust_anchors": [anchor_entry(status) for status in assessment.trust_anchors],
        "findings": _findings(assessment.loose_findings),
        "all_findings": all_findings(assessment),
    }


def header(assessment: Assessment, mode: str, following: NextEvent | None) -> dict[str, Any]:
    """Return the members of the status document that precede `certificates`."""
    return {
        "schema": SCHEMA,
        "taken_at": _time(assessment.taken_at),
        "node": assessment.facts.get("node_name", ""),
        "mode": mode,
        "next_event": event_entry(following),
        "coverage": coverage(assessment),
        "ca_only": _ca_only(assessment),
    }


def coverage(assessment: Assessment) -> dict[str, int]:
    """Return the number of certificates by source, and the number of references that certmond does not watch.

    `catalogued` is the number of files that entries name. If this number is 0, the profile does not fit the node.
    """
    found = [status.seen for status in assessment.certificates if status.certificate]
    return {
        "entries": sum(seen.is_catalogued for seen in found),
        "references": sum(bool(seen.named_by) for seen in found),
        "served": sum(seen.endpoint is not None for seen in found),
        "unwatched": assessment.unwatched,
        "catalogued": assessment.catalogued,
    }


def _ca_only(assessment: Assessment) -> list[str]:
    """Return the paths of the kubeconfigs that contain no certificate except the CA of the cluster.

    certmond compares this CA with the entry of the CA (`embedded_ca_differs`).
    """
    found = [status.seen for status in assessment.certificates]
    compared = {embedded.path for seen in found for embedded in seen.embedded if embedded.certificates}
    return sorted(compared.difference(seen.path for seen in found))


def event_entry(following: NextEvent | None) -> dict[str, str | None] | None:
    """Return the member `next_event` of a document, or None if there is no next event."""
    if following is None:
        return None
    return {"at": _time(following.at), "what": following.what.value, "target": following.target}


def certificate_entry(status: CertificateStatus) -> dict[str, Any]:
    """Return one element of `certificates` in the status document.

    For an unusable file, the element contains the facts of the certificate that certmond last read in this file.
    """
    certificate = status.certificate
    return {
        "name": status.seen.name,
        "path": status.seen.path,
        "kind": _kind(status.seen),
        "subject": certificate and certificate.subject,
        "issuer": certificate and certificate.issuer,
        "serial": str(certificate.serial) if certificate else None,
        "serial_hex": certificate and certificate.serial_hex,
        "sha256": certificate and certificate.sha256,
        "key": str(certificate.key) if certificate else None,
        "not_before": _time(certificate.not_before if certificate else None),
        "not_after": _time(certificate.not_after if certificate else None),
        "renew_at": _time(status.renew_at),
        "authority": status.trust_anchor.subject if status.trust_anchor else None,
        "trust_anchor": status.trust_anchor and _anchor_digest(status.trust_anchor),
        "chain_valid": status.chain_valid,
        "key_matches": status.key_matches,
        "stale": status.stale,
        "named_by": status.seen.named_by or None,
        "ca": [name for name in status.seen.spec.ca if name != SELF],
        "consumers": [each.service for each in status.presence.consumers] or list(status.seen.spec.consumers),
        "used_by": [
            {
                "service": each.service,
                "reloads": each.reloads,
                "running": each.running,
                "started_at": _time(each.started_at and each.started_at.replace(microsecond=0)),
            }
            for each in status.presence.consumers
        ],
        "served": [
            {
                "endpoint": str(each.endpoint),
                "service": each.service,
                "sha256": each.sha256,
                "matches": each.matches,
                "reason": each.reason or None,
            }
            for each in status.presence.served
        ],
        "findings": _findings(status.findings),
    }


_anchor_digests = WeakKeyDictionary[Certificate, str]()
"""The SHA-256 of each trust anchor. Thousands of certificates can have the same trust anchor."""


def _anchor_digest(anchor: Certificate) -> str:
    digest = _anchor_digests.get(anchor)
    if digest is None:
        digest = _anchor_digests[anchor] = anchor.sha256
    return digest


def _kind(seen: Observation) -> str:
    if seen.endpoint:
        return "served"
    return seen.spec.kind.value if seen.spec.kind is not Kind.KEY_PAIR else Kind.FILE.value


def anchor_entry(status: CertificateStatus) -> dict[str, Any]:
    """Return one element of `trust_anchors` in the status document.

    Raises ValueError if `status` contains no certificate.
    """
    certificate = status.certificate
    if certificate is None:
        raise ValueError("a trust anchor without a certificate")
    return {
        "name": status.seen.name,
        "path": status.seen.path,
        "subject": certificate.subject,
        "serial": str(certificate.serial),
        "serial_hex": certificate.serial_hex,
        "sha256": certificate.sha256,
        "not_before": _time(certificate.not_before),
        "not_after": _time(certificate.not_after),
        "self_signed": certificate.self_issued and not any(f.reason == "ca_not_self_signed" for f in status.findings),
        "findings": _findings(status.findings),
    }


def all_findings(assessment: Assessment) -> list[dict[str, str | None]]:
    """Return the member `all_findings`: every finding with its certificate, the most severe findings first."""
    found = [(item, status) for status in assessment.statuses if status.findings for item in status.findings]
    found.sort(key=lambda each: -each[0].severity.rank)
    return [finding_entry(item, status) for item, status in found]


def finding_entry(item: Finding, status: CertificateStatus) -> dict[str, str | None]:
    """Return one element of `all_findings`. `certificate` is None for a finding that belongs to no certificate."""
    return {
        "certificate": status.seen.name if status.seen.has_certificates else None,
        "path": status.seen.path,
        "reason": item.reason.value,
        "severity": item.severity.value,
        "message": item.message,
    }


def _findings(findings: Iterable[Finding]) -> list[dict[str, str]]:
    return [{"reason": f.reason.value, "severity": f.severity.value, "message": f.message} for f in findings]


def _time(instant: datetime | None) -> str | None:
    """Return the UTC time `instant` in the format of RFC 3339, or None if `instant` is None."""
    return instant.isoformat().replace("+00:00", "Z") if instant else None
