"""Obstacles to the renewal of a certificate: a missing CA key, an expired CA, and contents that the CA must not sign.

`signing.policy` decides which contents certmond may sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from certmond.pki.assessment.rule_input import Case, finding
from certmond.pki.assessment.trust_anchors import Anchors
from certmond.pki.catalog.entries import SELF, Kind
from certmond.pki.catalog.observation import Observation
from certmond.pki.catalog.settings import LOCAL, NO_SIGNER
from certmond.pki.findings import Finding, Reason
from certmond.pki.signing.policy import successor_denial


def missing_ca_keys(observations: Iterable[Observation]) -> dict[str, str]:
    """Return the key file of each CA whose key this node lacks, by the name of the entry.

    Only the first certificate of a CA file has a key. During a rotation, the file contains further CAs.
    """
    return {
        seen.spec.name: seen.key_path or seen.path
        for seen in observations
        if seen.spec.authority and seen.name == seen.spec.name and not seen.may_have_key
    }


def missing_ca_key(key: str, kind: Kind) -> str:
    """Return the fact that this node has no CA key in the file `key`, with the remedy for a certificate of `kind`.

    A worker has no CA key, and the client certificate of its kubelet is the only certificate that certmond could renew.
    """
    remedy = "see: certmond explain expired" if kind is Kind.KUBELET else "restore the key, or choose another signer"
    return f"the CA's key {key} is not on this node, or does not match the CA; {remedy}"


def signing_obstacle(
    seen: Observation, anchors: Mapping[str, Anchors], missing_keys: Mapping[str, str], now: datetime
) -> str | None:
    """Return why this node cannot sign the next certificate of the entry, with a remedy, or None.

    The configuration of a signer other than `local` is unknown here. Return None for such a signer.
    """
    if seen.spec.signer == NO_SIGNER:
        return "its entry has `signer: none`; to renew the certificate with certmond, set another `signer`"
    name = next((each for each in seen.spec.ca if each != SELF and anchors.get(each)), None)
    if name is None or seen.spec.authority or seen.spec.signer not in {None, LOCAL}:
        return None
    if name in missing_keys:
        return missing_ca_key(missing_keys[name], seen.spec.kind)
    if all(ca.not_after < now for ca in anchors[name]):
        return f"its CA {name} has expired, too; first replace the CA as the finding of {name} describes"
    return None


def not_issued_by_ca(case: Case) -> Iterator[Finding]:
    """Report a due certificate with contents that neither the entry nor a certificate from the CA permits."""
    if case.basis is None or case.certificate.not_before <= case.now < case.renew_at:
        return
    if case.self_signed or case.certificate.refused:
        return  # a certificate that no CA can renew, or that Go or cryptography refuses, has a separate finding
    if denial := successor_denial(case.certificate, case.spec, case.facts, case.basis, case.now):
        remedy = f"see the contents that certmond would sign: certmond renew {case.seen.name} --dry-run"
        yield finding(Reason.NOT_ISSUED_BY_CA, f"certmond does not renew {case.where}: {denial}; {remedy}")
