"""The policy for what the CA's key does not sign: a certificate that is due, and has no successor.

Owns the sentence of that finding. What may be signed is decided by `signing_policy`.
"""

from __future__ import annotations

from collections.abc import Iterator

from certmond.pki.checks import Case, finding
from certmond.pki.reason import Finding, Reason
from certmond.pki.signing_policy import successor_denial


def not_issued_by_ca(case: Case) -> Iterator[Finding]:
    """The certificate is due, and neither its entry nor a certificate of the CA covers what a successor would say."""
    if case.basis is None or case.certificate.refused or case.certificate.not_before <= case.now < case.renew_at:
        return  # of a certificate that is refused, its own finding says that it is not renewed
    if denial := successor_denial(case.certificate, case.spec, case.facts, case.basis, case.now):
        remedy = f"see what would be signed: certmond renew {case.seen.name} --dry-run"
        yield finding(Reason.NOT_ISSUED_BY_CA, f"{case.where} is not renewed: {denial}; {remedy}")
