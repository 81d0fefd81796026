"""Comparison of the files, metrics, status, journal and audit log of one node.

The comparison uses no code of certmond: openssl reads the files and the served certificate, and all other sources are
text or JSON. The comparison does not check growth.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERIES = re.compile(r'certmond_certificate_not_after_timestamp_seconds\{certificate="\w+",path="([^"]+)"\} (\S+)')
_FINDING = re.compile(r'certmond_finding\{certificate="([^"]+)",path="([^"]+)",reason="(\w+)",severity="(\w+)"\} 1')
_SERVED = re.compile(r"certmond_certificate_served_matches\{[^}]*\} (\d)")
_COUNTS = re.compile(r'certmond_(renewals|restarts)_total\{[^}]*result="(\w+)"[^}]*\} (\S+)')

Kind = tuple[str, str, str, str]
"""A finding: the name and the path of the certificate, the reason, and the severity."""


@dataclass(frozen=True)
class Opinions:
    """State of each source at one moment.

    `disk` contains the expiry of each certificate by path, or None for an invalid file. `shown` is the certificate that
    the service serves, `file` is the certificate in its file, and `starts` is the number of starts of the service.
    """

    disk: dict[str, float | None]
    shown: str
    file: str
    starts: int
    metrics: str
    status: dict[str, Any]
    standing: frozenset[Kind]
    trail: tuple[dict[str, str], ...]

    def disagreements(self) -> list[str]:
        """Return every difference between two sources."""
        return [*self._ends(), *self._findings(), *self._service(), *self._acts()]

    def _ends(self) -> Iterator[str]:
        shown = {path: float(value) for path, value in _SERIES.findall(self.metrics)}
        for path, end in self.disk.items():
            if end is not None and shown.get(path) != end:
                yield f"{path} expires at {end}, but the metrics contain {shown.get(path)}"
        for path in shown.keys() - self.disk.keys():
            yield f"{path} is in the metrics, but does not exist"

    def _findings(self) -> Iterator[str]:
        found: set[Kind] = set(_FINDING.findall(self.metrics))
        listed = self.status["certificates"]
        shown = {(e["name"], e["path"], f["reason"], f["severity"]) for e in listed for f in e["findings"]}
        bad = {path for path, end in self.disk.items() if end is None}
        malformed = {path for _, path, reason, _ in found if reason == "malformed"}
        if malformed != bad:
            yield f"malformed only in the metrics, or only on the disk: {sorted(malformed ^ bad)}"
        if shown != found:
            yield f"only in the status document, or only in the metrics: {sorted(shown ^ found)}"
        if self.standing != found:
            yield f"only in the journal, or only in the metrics: {sorted(self.standing ^ found)}"

    def _service(self) -> Iterator[str]:
        if not self.file or self.shown != self.file:
            yield f"the service serves {self.shown or 'nothing'}, but its file contains {self.file or 'nothing'}"
        if (matches := _SERVED.findall(self.metrics)) != ["1"]:
            yield f"the metrics of the served certificate: {matches}"

    def _acts(self) -> Iterator[str]:
        counted = Counter[tuple[str, str]]()
        for kind, result, value in _COUNTS.findall(self.metrics):
            counted[kind, result] += int(float(value))
        renewed, proven = self.acts("issue", "done"), self.acts("restart", "proven")
        for what, many in (("renewals", renewed), ("restarts", proven)):
            number = counted[what, "proven" if what == "restarts" else "done"]
            if number != many:
                yield f"{many} {what} in the audit log, but {number} in the metrics"
        if self.starts != 1 + proven:
            yield f"{proven} restarts in the audit log, but the service has started {self.starts} times"

    def acts(self, step: str, result: str) -> int:
        """Return the number of steps of the kind `step` with the result `result` in the audit log."""
        return sum((line.get("step"), line.get("result")) == (step, result) for line in self.trail)


class Journal:
    """The findings that the journal, a growing file of JSON lines, reports as raised but not yet as cleared."""

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._standing = path, 0, set[Kind]()

    def standing(self) -> frozenset[Kind]:
        with self._path.open() as log:
            log.seek(self._read)
            for line in iter(log.readline, ""):
                if not line.endswith("\n"):
                    break
                self._read += len(line.encode())
                entry = json.loads(line)
                if entry["kind"].startswith("finding_"):
                    kind = (entry["certificate"], entry["path"], entry["reason"], entry["severity"])
                    (self._standing.add if entry["kind"] == "finding_raised" else self._standing.remove)(kind)
        return frozenset(self._standing)
