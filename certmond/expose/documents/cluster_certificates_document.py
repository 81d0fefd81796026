"""Member `cluster` of the status document: the certificates and certificate requests in objects of the cluster."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from certmond.pki.x509.serial_number import hexadecimal

if TYPE_CHECKING:
    from certmond.pki.services.cluster_objects import ClusterReading


def cluster_entry(reading: ClusterReading) -> dict[str, Any]:
    """Return the member `cluster`, as values that `json` can encode."""
    return {
        "read_at": _time(reading.read_at),
        "certificates": [
            {
                "kind": data.place.kind,
                "namespace": data.place.namespace or None,
                "name": data.place.name,
                "key": data.place.key,
                "subject": each.subject,
                "issuer": each.issuer,
                "serial": str(each.serial),
                "serial_hex": hexadecimal(each.serial),
                "sha256": each.sha256,
                "not_before": _time(each.not_before),
                "not_after": _time(each.not_after),
            }
            for data in reading.data
            for each in data.certificates
        ],
        "requests": [
            {
                "name": each.name,
                "signer": each.signer,
                "user": each.user,
                "created_at": _time(each.created_at),
                "phase": each.phase.value,
            }
            for each in reading.requests
        ],
    }


def _time(instant: datetime | None) -> str | None:
    return instant.isoformat().replace("+00:00", "Z") if instant else None
