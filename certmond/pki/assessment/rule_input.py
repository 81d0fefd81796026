"""Input of a rule, one certificate with its files and paths, and the finding that a rule yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from certmond.pki.catalog.entries import SELF, CertificateSpec
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Fault, Finding, Reason, Severity, printable
from certmond.pki.signing.policy import Basis
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import PathSearch

_REMEDIES = {
    Reason.UNREADABLE: "make it readable for root, or replace it with the right file",
    Reason.MISSING: "restore it, or issue it again",
    Reason.MALFORMED: "restore it from a backup, or issue it again",
    Reason.TRAILING_DATA: "it is harmless, but remove it",
    Reason.KEY_UNUSABLE: "write it as PEM, or issue the pair again",
}
"""Remedies for faults that do not name a remedy."""


@dataclass(frozen=True, slots=True)
class Case:
    """Input of a check: one certificate, its files, its paths, its anchors, the facts of the node, and the time.

    `anchors_reported` is True if all trust anchors are missing and their entries report this.
    """

    seen: Observation
    certificate: Certificate
    search: PathSearch
    anchors: tuple[Certificate, ...]
    anchors_reported: bool
    embeddable: tuple[Certificate, ...]
    facts: Mapping[str, str]
    renew_at: datetime
    now: datetime
    renewed_at: datetime | None = None
    basis: Basis | None = None

    @property
    def spec(self) -> CertificateSpec:
        return self.seen.spec

    @property
    def where(self) -> str:
        return self.seen.path

    @property
    def further_anchor(self) -> bool:
        """Whether the certificate is a trust anchor in a bundle, but not the first: the others do not depend on it."""
        return self.spec.authority and self.seen.name != self.spec.name


Check = Callable[[Case], Iterator[Finding]]


def finding(reason: Reason, message: str, severity: Severity | None = None) -> Finding:
    """Return a finding with the given severity, or with the usual severity of its reason."""
    return Finding(reason, severity or reason.severity, printable(message))


def fault_finding(fault: Fault) -> Finding:
    """Return the finding for a fault of a file."""
    return finding(fault.reason, f"{fault.detail}; {fault.remedy or _REMEDIES[fault.reason]}")


def has_entry(case: Case, anchor: Certificate) -> bool:
    """Return whether another entry has the trust anchor. Otherwise the rules check the anchor with this file."""
    return SELF not in (case.spec.ca or (SELF,)) or anchor not in case.seen.certificates
