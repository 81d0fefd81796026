"""An assessment -> the texts that the runtime directory holds: metrics and status, written as one, atomically.

Owns the exposition of everything about certificates and the writing of the runtime directory. What did not change since
the last pass is not rendered again: the lines and the JSON of each certificate are kept with its verdict, and go into
the files as they stand. The daemon never makes a text of all certificates: it would be the largest thing in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from certmond.errors import RuntimeDirError
from certmond.expose.document import SCHEMA, anchor_entry, certificate_entry, header
from certmond.expose.text import escaped
from certmond.pki.assess import Assessment, CertificateStatus
from certmond.pki.catalog import Kind
from certmond.pki.reason import Finding, Severity

METRICS, STATUS, ACTIVITY, HEARTBEAT = "metrics.prom", "status.json", "activity.json", "heartbeat.json"

_OF = ("certificate", "path")
FAMILIES = (
    ("certmond_certificate_not_before_timestamp_seconds", "Start of validity, Unix time", _OF),
    (
        "certmond_certificate_not_after_timestamp_seconds",
        "End of validity, Unix time; of the last good file where it broke",
        _OF,
    ),
    ("certmond_certificate_renewal_timestamp_seconds", "From when on it is due for renewal, Unix time", _OF),
    ("certmond_certificate_chain_valid", "1 if a certification path to its trust anchor holds now", _OF),
    (
        "certmond_certificate_info",
        "1, with the certificate's facts as labels",
        (*_OF, "subject", "issuer", "serial", "sha256", "key"),
    ),
    ("certmond_finding", "1 while the finding stands", (*_OF, "reason", "severity")),
    (
        "certmond_trust_anchor_not_after_timestamp_seconds",
        "End of validity of a trust anchor, Unix time",
        (*_OF, "sha256"),
    ),
    (
        "certmond_certificate_served_matches",
        "1 if what is served at the endpoint is what the file has",
        (*_OF, "endpoint"),
    ),
)
"""The families of gauges about certificates: name, meaning, labels."""
COUNT = ("certmond_findings", "How many findings stand", ("severity",))
"""The gauge that is always exported, with 0 where nothing stands."""

_BUFFER = 1 << 20  # bytes of a file that are collected before they are written

_Lines = tuple[str, ...]
"""The lines of one certificate, one text for each family (empty where it has none)."""


class _Rendered(NamedTuple):
    status: CertificateStatus
    lines: _Lines
    entry: str
    """Its JSON."""


class Renderer:
    """Keeps what it rendered of each verdict of the last assessment."""

    def __init__(self) -> None:
        self._assessment: Assessment | None = None
        self._kept: dict[int, _Rendered] = {}

    def metrics(self, assessment: Assessment, own: str = "") -> str:
        """The metrics text (format 0.0.4): the certificates' families, the counts of findings, `own` as it stands."""
        return "".join(self.metrics_parts(assessment, own))

    def metrics_parts(self, assessment: Assessment, own: str = "") -> Iterator[str]:
        """The same, piece by piece."""
        # By identity, because that is what the labels are: a series that stands there twice spoils the whole text.
        kept = self._rendered(assessment)
        columns = list(zip(*(kept[id(status)].lines for status in assessment.by_identity.values()), strict=True))
        for (name, explanation, _), column in zip(FAMILIES, columns or [()] * len(FAMILIES), strict=True):
            yield f"# HELP {name} {explanation}\n# TYPE {name} gauge\n"
            yield from column
        counts = dict.fromkeys(Severity, 0)
        for status in assessment.statuses:
            for item in status.findings:
                counts[item.severity] += 1
        name, explanation, _ = COUNT
        yield f"# HELP {name} {explanation}\n# TYPE {name} gauge\n"
        yield from (f'{name}{{severity="{severity}"}} {count}\n' for severity, count in counts.items())
        yield own

    def status(self, assessment: Assessment, mode: str) -> str:
        """The JSON of `status`."""
        return "".join(self.status_parts(assessment, mode))

    def status_parts(self, assessment: Assessment, mode: str) -> Iterator[str]:
        """The same, piece by piece."""
        kept = self._rendered(assessment)
        head = json.dumps(header(assessment, mode))[:-1]
        yield f'{head}, "certificates": ['
        between = "\n"
        for status in assessment.certificates:
            yield between
            yield kept[id(status)].entry
            between = ",\n"
        anchors = json.dumps([anchor_entry(status) for status in assessment.trust_anchors])
        loose = json.dumps(
            [{"reason": f.reason, "severity": f.severity, "message": f.message} for f in assessment.loose_findings]
        )
        yield f'\n], "trust_anchors": {anchors}, "findings": {loose}}}\n'

    def _rendered(self, assessment: Assessment) -> dict[int, _Rendered]:
        """What each verdict comes to, by the object that it is: one that is kept cannot be another's."""
        if assessment is not self._assessment:
            kept = self._kept
            self._kept = {id(status): kept.get(id(status)) or _render(status) for status in assessment.statuses}
            self._assessment = assessment
        return self._kept


def _render(status: CertificateStatus) -> _Rendered:
    is_certificate = status.seen.spec.kind is not Kind.KEY_PAIR
    return _Rendered(status, _lines(status), json.dumps(certificate_entry(status)) if is_certificate else "")


def _lines(status: CertificateStatus) -> _Lines:
    certificate, seen = status.certificate, status.seen
    labels = f'certificate="{escaped(seen.name)}",path="{escaped(seen.path)}"'
    kinds = dict.fromkeys((item.reason.value, item.severity.value) for item in status.findings)
    findings = "".join(
        f'certmond_finding{{{labels},reason="{reason}",severity="{severity}"}} 1\n' for reason, severity in kinds
    )
    if seen.spec.kind is Kind.KEY_PAIR:
        return "", "", "", "", "", findings, "", ""
    served = "".join(
        f'{FAMILIES[7][0]}{{{labels},endpoint="{escaped(str(at.endpoint))}"}} {int(at.matches)}\n'
        for at in status.presence.served if at.matches is not None
    )  # fmt: skip
    chain = f"{FAMILIES[3][0]}{{{labels}}} {int(status.chain_valid)}\n"
    if certificate is None:
        return "", "", "", chain, "", findings, "", ""
    end = int(certificate.not_after.timestamp())
    facts = {
        "subject": certificate.subject, "issuer": certificate.issuer, "serial": str(certificate.serial),
        "sha256": certificate.sha256, "key": str(certificate.key),
    }  # fmt: skip
    info = ",".join(f'{name}="{escaped(value)}"' for name, value in facts.items())
    anchor = f'{FAMILIES[6][0]}{{{labels},sha256="{certificate.sha256}"}} {end}\n' if seen.spec.authority else ""
    return (
        f"{FAMILIES[0][0]}{{{labels}}} {int(certificate.not_before.timestamp())}\n",
        f"{FAMILIES[1][0]}{{{labels}}} {end}\n",
        f"{FAMILIES[2][0]}{{{labels}}} {int(status.renew_at.timestamp())}\n" if status.renew_at else "",
        chain,
        f"{FAMILIES[4][0]}{{{labels},{info}}} 1\n",
        findings,
        anchor,
        served,
    )


def summary(assessment: Assessment) -> str:
    """One line for `systemctl status`: how many, how bad, what is next. Where there is nothing, nothing is well."""
    if not assessment.statuses:
        return "no certificate to watch: `certmond check` says which profile fits"
    certificates = [status for status in assessment.certificates if status.certificate]
    worst = [status for status in assessment.statuses if status.severity is Severity.CRITICAL]
    warned = [status for status in assessment.statuses if status.severity is Severity.WARNING]
    state = f"{len(worst)} critical" if worst else f"{len(warned)} to look at" if warned else "all well"
    due = min(((s.renew_at, s.seen.name) for s in certificates if s.renew_at), default=None)
    following = f"; next due {due[1]} on {due[0]:%Y-%m-%d}" if due else ""
    about = next((f" ({s.seen.name}: {_gravest(s).reason})" for s in (*worst, *warned)), "")
    return f"{len(certificates)} certificate{'s' * (len(certificates) != 1)}, {state}{about}{following}"


def _gravest(status: CertificateStatus) -> Finding:
    return max(status.findings, key=lambda item: item.severity.rank)


def write(directory: Path, name: str, parts: Iterable[str]) -> None:
    """Put a text into the runtime directory: a reader sees the old or the new, never half. Raises RuntimeDirError."""
    target, staged = directory / name, directory / f".{name}.new"
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "w", _BUFFER, encoding="utf-8", errors="backslashreplace") as file:
            os.fchmod(file.fileno(), 0o644)  # the unit's umask is for everything else: this is for all to read
            file.writelines(parts)
        staged.replace(target)
    except OSError as error:
        raise RuntimeDirError(
            f"{target} cannot be written ({error.strerror}); see that it is there and not full"
        ) from error


def heartbeat(alive_at: float, pass_at: float | None, resync: float, ready: bool) -> str:
    """What `serve` judges the daemon's health by."""
    return json.dumps({"alive_at": alive_at, "pass_at": pass_at, "resync": resync, "ready": ready})


def read_status(directory: Path) -> dict[str, Any]:
    """The document that the daemon last rendered. Raises RuntimeDirError."""
    path = directory / STATUS
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = document["schema"] == SCHEMA and datetime.fromisoformat(document["taken_at"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise RuntimeDirError(f"{path} cannot be read ({error}); is `certmond run` running?") from error
    if not known:
        raise RuntimeDirError(f"{path} has another schema than {SCHEMA}; is the daemon of another version?")
    return document
