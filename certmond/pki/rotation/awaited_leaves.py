"""Certificates of the old CA for which a phase of a rotation waits.

The selection ensures that a user who can write a certificate's file cannot delay the rotation.
"""

from __future__ import annotations

from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.rotation.phases import Rotation
from certmond.pki.signing.policy import Denial, successor_denial


def is_awaited(rotation: Rotation, status: CertificateStatus, assessment: Assessment) -> bool:
    """Return whether the phase waits until certmond has issued this certificate of the old CA again."""
    origin, changed_at = status.presence.provenance, status.seen.changed_at
    if origin is None or not (origin.path_writers or origin.file_writers or origin.owner_writes):
        return True  # only root can write the file
    # Another user could change this file again and again to delay the phase.
    return denial(status, assessment) is None and not (changed_at and changed_at > rotation.since)


def denial(status: CertificateStatus, assessment: Assessment) -> Denial | None:
    """Return the denial if `signing.policy` denies the renewal of this certificate, otherwise None."""
    certificate, basis = status.certificate, status.basis
    if certificate is None or basis is None or certificate.refused:
        return None
    return successor_denial(certificate, status.seen.spec, assessment.facts, basis, assessment.taken_at)
