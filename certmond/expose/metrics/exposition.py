"""Writer of the metrics and the status document.

This module defines the metrics about certificates, and the names of the files in the runtime directory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from certmond.expose.documents.cluster_certificates_document import cluster_entry
from certmond.expose.documents.status import all_findings, anchor_entry, certificate_entry, header
from certmond.expose.metrics.label_escapes import escaped
from certmond.expose.metrics.row_file_writer import Sheet, encoded, replacing
from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.planning.forecast import NextEvent

if TYPE_CHECKING:
    from certmond.pki.services.cluster_objects import ClusterReading

METRICS, ACTIVITY, HEARTBEAT = "metrics.prom", "activity.json", "heartbeat.json"


@immutable(eq=False)
class Family:
    """A gauge with its help text (`meaning`) and the names of its labels, in the order of the exposition."""

    name: str
    meaning: str
    labels: tuple[str, ...]

    @property
    def head(self) -> str:
        """The lines HELP and TYPE, which precede the series of the gauge."""
        return f"# HELP {self.name} {self.meaning}\n# TYPE {self.name} gauge\n"


_OF = ("certificate", "path")
NOT_BEFORE = Family("certmond_certificate_not_before_timestamp_seconds", "Start of validity, Unix time", _OF)
NOT_AFTER = Family(
    "certmond_certificate_not_after_timestamp_seconds",
    "End of validity, Unix time. For an unusable file, the end of validity of the certificate that certmond last read",
    _OF,
)
RENEWAL = Family(
    "certmond_certificate_renewal_timestamp_seconds",
    "Time from which the certificate is due for renewal, Unix time",
    _OF,
)
CHAIN_VALID = Family(
    "certmond_certificate_chain_valid", "1 if a certification path to the trust anchor is valid, otherwise 0", _OF
)
INFO = Family(
    "certmond_certificate_info",
    "1, with the properties of the certificate as labels",
    (*_OF, "subject", "issuer", "serial", "sha256", "key"),
)
FINDING = Family("certmond_finding", "1 while the finding is open", (*_OF, "reason", "severity"))
TRUST_ANCHOR_NOT_AFTER = Family(
    "certmond_trust_anchor_not_after_timestamp_seconds",
    "End of validity of a trust anchor, Unix time",
    (*_OF, "sha256"),
)
SERVED_MATCHES = Family(
    "certmond_certificate_served_matches",
    "1 if the endpoint serves the certificate in the file, otherwise 0",
    (*_OF, "endpoint"),
)
FAMILIES = (
    NOT_BEFORE,
    NOT_AFTER,
    RENEWAL,
    CHAIN_VALID,
    INFO,
    FINDING,
    TRUST_ANCHOR_NOT_AFTER,
    SERVED_MATCHES,
)
"""The gauges about certificates, in the order of the exposition."""
COUNT = Family("certmond_findings", "Number of open findings", ("severity",))
"""The number of open findings for each severity, with 0 for a severity without a finding."""
UNWATCHED = Family("certmond_unwatched_references", "Number of referenced files that certmond does not watch", ())
"""The number of references that certmond does not watch."""

_Lines = tuple[str, ...]
"""The lines of one certificate: a text for each gauge of `FAMILIES`, or "" for a gauge without a series."""


class Renderer:
    """Writer of the metrics and of the status document. Both contain every certificate."""

    def __init__(self) -> None:
        self._metrics = Sheet(_lines)
        self._status = Sheet(_entry, separator=",")
        self._cluster: tuple[ClusterReading | None, str] = (None, "")

    def metrics(self, assessment: Assessment, own: str = "") -> str:
        """Return the metrics text (format 0.0.4).

        The text contains the gauges about certificates, the numbers of findings and of unwatched references, and the
        metrics text `own`.
        """
        lines = [_lines(status) for status in assessment.distinct]  # Prometheus rejects repeated series
        columns = [head + "".join(each[number] for each in lines) for number, head in enumerate(_HEADS)]
        return "".join(columns) + _tail(assessment, own)

    def write_metrics(self, path: Path, assessment: Assessment, own: str = "") -> None:
        """Write the metrics text to the file `path`. Raises RuntimeDirError if certmond cannot write the file."""
        self._metrics.write(path, assessment.distinct, _HEADS, _tail(assessment, own))

    def write_status(self, path: Path, assessment: Assessment, mode: str, following: NextEvent | None) -> None:
        """Write the status document to the file `path`. Raises RuntimeDirError if certmond cannot write the file."""
        head = json.dumps(header(assessment, mode, following))[:-1]
        anchors = json.dumps([anchor_entry(status) for status in assessment.trust_anchors])
        loose = json.dumps(
            [{"reason": f.reason, "severity": f.severity, "message": f.message} for f in assessment.loose_findings]
        )
        every = json.dumps(all_findings(assessment))
        further = f'"findings": {loose}, "all_findings": {every}{self._cluster_member(assessment.cluster)}'
        tail = f'], "trust_anchors": {anchors}, {further}}}\n'
        self._status.write(path, assessment.certificates, (f'{head}, "certificates": [\n',), tail)

    def _cluster_member(self, reading: ClusterReading | None) -> str:
        """Return the member `cluster`, or "" on a node without objects of the cluster. Repeat an unchanged member."""
        if reading is not self._cluster[0]:
            known = reading is not None and (reading.leads or reading.listings)
            self._cluster = reading, f', "cluster": {json.dumps(cluster_entry(reading))}' if reading and known else ""
        return self._cluster[1]


_HEADS = tuple(family.head for family in FAMILIES)


def _tail(assessment: Assessment, own: str) -> str:
    counts = dict.fromkeys(Severity, 0)
    for status in assessment.statuses:
        for item in status.findings:
            counts[item.severity] += 1
    lines = [f'{COUNT.name}{{severity="{severity}"}} {count}\n' for severity, count in counts.items()]
    unwatched = f"{UNWATCHED.head}{UNWATCHED.name} {assessment.unwatched}\n"
    return "".join((COUNT.head, *lines, unwatched, own))


def _entry(status: CertificateStatus) -> tuple[str]:
    return (f"{json.dumps(certificate_entry(status))}\n",)


def _lines(status: CertificateStatus) -> _Lines:
    texts = _texts(status)
    return tuple(texts.get(family, "") for family in FAMILIES)


def _texts(status: CertificateStatus) -> dict[Family, str]:
    certificate, seen = status.certificate, status.seen
    labels = f'certificate="{escaped(seen.name)}",path="{escaped(seen.path)}"'
    kinds = dict.fromkeys((item.reason.value, item.severity.value) for item in status.findings)
    findings = "".join(
        f'{FINDING.name}{{{labels},reason="{reason}",severity="{severity}"}} 1\n' for reason, severity in kinds
    )
    if not seen.has_certificates:
        return {FINDING: findings}
    chain = f"{CHAIN_VALID.name}{{{labels}}} {int(status.chain_valid)}\n"
    if certificate is None:
        return {CHAIN_VALID: chain, FINDING: findings}
    end = int(certificate.not_after.timestamp())
    facts = {
        "subject": certificate.subject, "issuer": certificate.issuer, "serial": str(certificate.serial),
        "sha256": certificate.sha256, "key": str(certificate.key),
    }  # fmt: skip
    info = ",".join(f'{name}="{escaped(value)}"' for name, value in facts.items())
    texts = {
        NOT_BEFORE: f"{NOT_BEFORE.name}{{{labels}}} {int(certificate.not_before.timestamp())}\n",
        NOT_AFTER: f"{NOT_AFTER.name}{{{labels}}} {end}\n",
        CHAIN_VALID: chain,
        INFO: f"{INFO.name}{{{labels},{info}}} 1\n",
        FINDING: findings,
        SERVED_MATCHES: "".join(
            f'{SERVED_MATCHES.name}{{{labels},endpoint="{escaped(str(at.endpoint))}"}} {int(at.matches)}\n'
            for at in status.presence.served if at.matches is not None
        ),
    }  # fmt: skip
    if status.renew_at:
        texts[RENEWAL] = f"{RENEWAL.name}{{{labels}}} {int(status.renew_at.timestamp())}\n"
    if seen.spec.authority:
        anchor = f'{labels},sha256="{certificate.sha256}"'
        texts[TRUST_ANCHOR_NOT_AFTER] = f"{TRUST_ANCHOR_NOT_AFTER.name}{{{anchor}}} {end}\n"
    return texts


def summary(assessment: Assessment, following: NextEvent | None, *, services_checked: bool = True) -> str:
    """Return one line for `systemctl status`: the number of certificates, the worst findings, and the next event.

    Before the first check of the services, the assessment contains no certificate of kind `served`. If the node has no
    certificate of the profile, the line states only this fact and the next command.
    """
    if not assessment.catalogued:
        return "this node has no certificate of the profile; to find the profile that fits, run: certmond check"
    certificates = [status for status in assessment.certificates if status.certificate]
    worst = [status for status in assessment.statuses if status.severity is Severity.CRITICAL]
    warned = [status for status in assessment.statuses if status.severity is Severity.WARNING]
    state = (
        f"{len(worst)} critical"
        if worst
        else f"{len(warned)} warning{'s' * (len(warned) != 1)}"
        if warned
        else "all well"
    )
    due = f"; next due {following.target} on {following.at:%Y-%m-%d}" if following else ""
    about = next((f" ({s.seen.name}: {_gravest(s).reason})" for s in (*worst, *warned)), "")
    count = f"{len(certificates)} certificate{'s' * (len(certificates) != 1)}"
    where, unchecked = ("", "") if services_checked else (" in files", ", services not checked yet")
    refused = any(f.reason is Reason.CONFIGURATION_REFUSED for f in assessment.loose_findings)
    invalid = "; the new configuration is invalid, see: certmond config validate" if refused else ""
    return f"{count}{where}, {state}{about}{unchecked}{invalid}{due}"


def _gravest(status: CertificateStatus) -> Finding:
    return max(status.findings, key=lambda item: item.severity.rank)


def replace_runtime_file(directory: Path, name: str, text: str) -> None:
    """Replace the file `name` in the runtime directory. Raises RuntimeDirError if certmond cannot write the file."""
    with replacing(directory / name) as descriptor, open(descriptor, "wb", closefd=False) as file:
        file.write(encoded(text))


def heartbeat(alive_at: float, pass_at: float | None, resync: float, ready: bool) -> str:
    """Return the heartbeat of the daemon as JSON, which `certmond serve` evaluates."""
    return json.dumps({"alive_at": alive_at, "pass_at": pass_at, "resync": resync, "ready": ready})
