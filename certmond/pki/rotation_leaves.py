"""Which certificates of the former CA a phase of a rotation waits for.

Owns that decision. A phase does not wait for what another user than root can hold up: a certificate that the CA's key
does not sign because of its file, and one that came there after the phase began. Both are issued anew where that is
possible, and told where it is not. Pure.
"""

from __future__ import annotations

from certmond.pki.assess import Assessment, CertificateStatus
from certmond.pki.rotation import Rotation
from certmond.pki.signing_policy import Denial, successor_denial


def is_awaited(rotation: Rotation, status: CertificateStatus, assessment: Assessment) -> bool:
    """Return whether the phase waits until this certificate of the former CA is issued anew."""
    origin, changed_at = status.presence.provenance, status.seen.changed_at
    if origin is None or not (origin.path_writers or origin.file_writers or origin.owner_writes):
        return True  # only root can write it
    return denial(status, assessment) is None and not (changed_at and changed_at > rotation.since)


def denial(status: CertificateStatus, assessment: Assessment) -> Denial | None:
    """Return why the CA's key does not sign a successor of this certificate; None where it does."""
    certificate, basis = status.certificate, status.basis
    if certificate is None or basis is None or certificate.refused:
        return None
    return successor_denial(certificate, status.seen.spec, assessment.facts, basis, assessment.taken_at)
