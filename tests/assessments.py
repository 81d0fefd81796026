"""Access to the verdicts of an assessment in tests."""

from __future__ import annotations

from certmond.pki.assessment.assess import Assessment, CertificateStatus


def status_in(assessment: Assessment | None, name: str, path: str) -> CertificateStatus:
    """Return the verdict on the entry `name` at `path`, which the assessment must contain."""
    status = assessment and assessment.status(name, path)
    assert status, f"{name} {path} is not in the assessment"
    return status
