"""Input of the rules for one certificate, and functions that create findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from certmond.immutable_class import immutable
from certmond.pki.assessment.copies import Difference
from certmond.pki.catalog.entries import SELF, CertificateSpec
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Fault, Finding, Reason, Severity, printable
from certmond.pki.signing.policy import Basis
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import Path, PathSearch

_REMEDIES = {
    Reason.UNREADABLE: "make the file readable by root, or replace the file",
    Reason.NOT_PERMITTED: "run certmond as root",
    Reason.MISSING: "restore the file, or issue the certificate again",
    Reason.MALFORMED: "restore the file from a backup, or issue the certificate again",
    Reason.TRAILING_DATA: "remove this harmless data",
    Reason.KEY_UNUSABLE: "write the key as PEM, or issue the pair again",
}
"""Usual remedies, for faults that have no specific remedy."""


@immutable
class Case:
    """Input of a check: a certificate with its files, paths and trust anchors, the facts of the node, and the time."""

    seen: Observation
    certificate: Certificate
    search: PathSearch
    path: Path | None  # the path that is valid now
    anchors: tuple[Certificate, ...]
    anchors_reported: bool  # all trust anchors are missing, and an entry in `ca` reports this
    embeddable: tuple[Certificate, ...]
    facts: Mapping[str, str]
    renew_at: datetime
    now: datetime
    renewed_at: datetime | None = None
    basis: Basis | None = None
    difference: Difference | None = None
    signing_obstacle: str | None = None  # why this node cannot sign the next certificate
    self_signed: bool = False  # no CA can sign the next certificate: see `self_signed_leaves`

    @property
    def spec(self) -> CertificateSpec:
        return self.seen.spec

    @property
    def shown(self) -> Path | None:
        """The path that is valid now, or else the path that ends last, or None if the search found no path."""
        return self.path or self.search.best

    @property
    def where(self) -> str:
        """The location of the certificate, for a message: a file, a user or cluster of a kubeconfig, or an endpoint."""
        seen = self.seen
        if seen.holder and (seen.named_file or seen.name != seen.spec.name):
            whose = "{} {!r}".format(*seen.holder)
            return f"{seen.named_file} ({whose} of {seen.path})" if seen.named_file else f"{seen.path} ({whose})"
        return f"the certificate at {seen.path}" if seen.endpoint else seen.path

    @property
    def further_anchor(self) -> bool:
        """Whether the certificate is a trust anchor, but not the first certificate of its file."""
        return self.spec.authority and self.seen.name != self.spec.name


Check = Callable[[Case], Iterator[Finding]]


def finding(reason: Reason, message: str, severity: Severity | None = None) -> Finding:
    """Return a finding with the given severity, or with the usual severity of its reason."""
    return Finding(reason, severity or reason.severity, printable(message))


def fault_finding(fault: Fault) -> Finding:
    """Return the finding for a fault. If the fault has no remedy, use the usual remedy of its reason."""
    return finding(fault.reason, f"{fault.detail}; {fault.remedy or _REMEDIES[fault.reason]}")


def has_entry(case: Case, anchor: Certificate) -> bool:
    """Return whether the trust anchor of this certificate has a separate entry in the catalogue."""
    return SELF not in (case.spec.ca or (SELF,)) or anchor not in case.seen.certificates
