"""Certificates of the old CA for which a phase of a rotation waits.

A user other than root who can write a certificate's file could delay a phase. So a phase does not wait for such a
certificate if `signing.policy` denies its renewal, or if the file changed after the phase began. certmond then issues
the certificate again, or reports that it cannot. All functions are pure.
"""

from __future__ import annotations

from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.rotation.phases import Rotation
from certmond.pki.signing.policy import Denial, successor_denial


def is_awaited(rotation: Rotation, status: CertificateStatus, assessment: Assessment) -> bool:
    """Return whether the phase waits until certmond has issued this certificate of the old CA again.

    The phase waits if no user other than root can write the file. Otherwise, it waits if the policy does not deny the
    renewal, and the file has not changed since the start of the phase.
    """
    origin, changed_at = status.presence.provenance, status.seen.changed_at
    if origin is None or not (origin.path_writers or origin.file_writers or origin.owner_writes):
        return True  # only root can write it
    return denial(status, assessment) is None and not (changed_at and changed_at > rotation.since)


def denial(status: CertificateStatus, assessment: Assessment) -> Denial | None:
    """Return why `signing.policy` denies the renewal of this certificate.

    Return None if the policy permits the renewal, or if certmond could not check the certificate or its origin.
    """
    certificate, basis = status.certificate, status.basis
    if certificate is None or basis is None or certificate.refused:
        return None
    return successor_denial(certificate, status.seen.spec, assessment.facts, basis, assessment.taken_at)
