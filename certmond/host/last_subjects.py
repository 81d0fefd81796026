"""Which of several accepted subjects the certificate of an entry had last: `<state directory>/subjects.json`.

Owns that memory, because an operator can replace a certificate by one with another of these subjects, and the record of
renewals knows only what certmond put in place. It is a memory only: without it, a repair takes no subject of the group
`system:masters` where the entry accepts another. Holds subjects, which are public.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter

from certmond.errors import CertmondError
from certmond.host.memory import Memory
from certmond.pki.assess import Assessment, CertificateStatus
from certmond.pki.catalog import CertificateSpec
from certmond.pki.damage import last_issued


class LastSubjects:
    """The subjects that were seen last on one node, by the name of their entry."""

    def __init__(self, state_dir: Path, specs: Iterable[CertificateSpec]) -> None:
        self._identities = [(spec.name, spec.path) for spec in specs if len(spec.subject) > 1 and not spec.is_glob]
        self._memory = Memory(state_dir, "subjects.json", TypeAdapter(dict[str, str]))
        self._noted = dict[str, CertificateStatus]()

    def read(self) -> dict[str, str]:
        """Return what is remembered; nothing where that cannot be used."""
        return self._memory.read() or {}

    def note(self, assessment: Assessment) -> None:
        """Remember the subject of each certificate that is in the files now, if their CA signed it."""
        found = dict[str, str]()
        for identity in self._identities:
            status = assessment.by_identity.get(identity)
            if status is None or status.stale or status is self._noted.get(identity[0]):
                continue
            self._noted[identity[0]] = status
            if certificate := last_issued(status.certificate, (*status.issuers, *status.anchors)):
                found[identity[0]] = certificate.subject
        if found and (known := self.read()) != (now := {**known, **found}):
            try:
                self._memory.write(now)
            except CertmondError:
                for name in found:  # the next pass tries again
                    del self._noted[name]
