"""Record of the last subject of each entry that accepts several subjects: `<state directory>/subjects.json`.

A repair needs the subject of a certificate that an operator has installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from certmond.errors import CertmondError
from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.assessment.repairable_damage import last_issued
from certmond.pki.catalog.entries import CertificateSpec
from certmond.state.json_file import Memory


class LastSubjects:
    """The last subject of each entry that accepts several subjects, by the name of the entry."""

    def __init__(self, state_dir: Path, specs: Iterable[CertificateSpec]) -> None:
        self._identities = [(spec.name, spec.path) for spec in specs if len(spec.subject) > 1 and not spec.is_glob]
        self._file = Memory(state_dir, "subjects.json", dict[str, str])
        self._recorded = dict[str, CertificateStatus]()

    def read(self) -> dict[str, str]:
        """Return the recorded subjects by entry, or {} if the record is missing or unusable."""
        return self._file.read() or {}

    def record(self, assessment: Assessment) -> None:
        """Record the subject of each present certificate that its CA signed. The next pass repeats a failed write."""
        found = dict[str, str]()
        for identity in self._identities:
            status = assessment.status(*identity)
            if status is None or status.stale or status is self._recorded.get(identity[0]):
                continue
            self._recorded[identity[0]] = status
            if certificate := last_issued(status.certificate, (*status.issuers, *status.anchors)):
                found[identity[0]] = certificate.subject
        if found and (known := self.read()) != (now := {**known, **found}):
            try:
                self._file.write(now)
            except CertmondError:
                for name in found:  # so that the next pass tries again
                    del self._recorded[name]
