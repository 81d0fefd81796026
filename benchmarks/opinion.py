"""What files, metrics, status, journal and trail say of one node, and where they do not say the same.

Owns the comparison, and asks nothing of certmond's own code: what is in the files, and what is served, is told by
openssl; the rest is text and JSON. Whether anything grows is not judged here.
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
"""Of a finding: the certificate's name and path, the reason, the severity."""


@dataclass(frozen=True)
class Opinions:
    """What each of them says at one moment. `disk` has the end of each certificate by path, None where it is none;
    `shown` and `file` are what the service serves and what its file has; `starts` how often it has begun.
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
        """Everything that one says and another does not."""
        return [*self._ends(), *self._findings(), *self._service(), *self._acts()]

    def _ends(self) -> Iterator[str]:
        told = {path: float(value) for path, value in _SERIES.findall(self.metrics)}
        for path, end in self.disk.items():
            if end is not None and told.get(path) != end:
                yield f"{path} ends at {end}, and the metrics say {told.get(path)}"
        for path in told.keys() - self.disk.keys():
            yield f"{path} is in the metrics and not there"

    def _findings(self) -> Iterator[str]:
        found: set[Kind] = set(_FINDING.findall(self.metrics))
        listed = self.status["certificates"]
        shown = {(e["name"], e["path"], f["reason"], f["severity"]) for e in listed for f in e["findings"]}
        bad = {path for path, end in self.disk.items() if end is None}
        malformed = {path for _, path, reason, _ in found if reason == "malformed"}
        if malformed != bad:
            yield f"malformed in the metrics or on the disk, and not in both: {sorted(malformed ^ bad)}"
        if shown != found:
            yield f"in status or metrics, and not in both: {sorted(shown ^ found)}"
        if self.standing != found:
            yield f"in journal or metrics, and not in both: {sorted(self.standing ^ found)}"

    def _service(self) -> Iterator[str]:
        if not self.file or self.shown != self.file:
            yield f"the service serves {self.shown or 'nothing'}, and its file has {self.file or 'nothing'}"
        if (told := _SERVED.findall(self.metrics)) != ["1"]:
            yield f"what the metrics say of what is served: {told}"

    def _acts(self) -> Iterator[str]:
        counted = Counter[tuple[str, str]]()
        for kind, result, value in _COUNTS.findall(self.metrics):
            counted[kind, result] += int(float(value))
        renewed, proven = self.acts("issue", "done"), self.acts("restart", "proven")
        for what, many in (("renewals", renewed), ("restarts", proven)):
            told = counted[what, "proven" if what == "restarts" else "done"]
            if told != many:
                yield f"{many} {what} in the trail, and {told} in the metrics"
        if self.starts != 1 + proven:
            yield f"{proven} restarts in the trail, and the service has begun {self.starts} times"

    def acts(self, step: str, result: str) -> int:
        """How many steps of this kind have ended so, as the trail has it."""
        return sum((line.get("step"), line.get("result")) == (step, result) for line in self.trail)


class Journal:
    """The findings that the journal, as JSON in a file that grows, has raised and not cleared."""

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
