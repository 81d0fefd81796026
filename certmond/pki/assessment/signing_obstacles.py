"""Rule for a due certificate that certmond does not renew, because the CA's key must not sign the contents again.

`signing.policy` decides which contents certmond may sign.
"""

from __future__ import annotations

from collections.abc import Iterator

from certmond.pki.assessment.rule_input import Case, finding
from certmond.pki.findings import Finding, Reason
from certmond.pki.signing.policy import successor_denial


def not_issued_by_ca(case: Case) -> Iterator[Finding]:
    """Report a due certificate with contents that neither the entry nor a certificate from the CA permits."""
    if case.basis is None or case.certificate.not_before <= case.now < case.renew_at:
        return
    if case.self_signed or case.certificate.refused:
        return  # a certificate that no CA can renew, or that Go or cryptography refuses, has a separate finding
    if denial := successor_denial(case.certificate, case.spec, case.facts, case.basis, case.now):
        remedy = f"see the contents that certmond would sign: certmond renew {case.seen.name} --dry-run"
        yield finding(Reason.NOT_ISSUED_BY_CA, f"certmond does not renew {case.where}: {denial}; {remedy}")
