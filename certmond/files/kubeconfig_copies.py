"""Observation of copies of kubeconfigs: those that are out of date, and those that certmond cannot read.

Owns which files are compared with which kubeconfigs of the catalogue. certmond does not assess a copy: a current
copy, and a kubeconfig of another cluster or user, give no observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from certmond.files.document_reader import DocumentReader
from certmond.files.mount_table import hidden_in, parse_mounts
from certmond.formats.kubeconfig_copy import Copy, copy_of
from certmond.pki.catalog.derived import CopySpec, DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Fault, Reason
from certmond.pki.x509.certificate import Certificate

_RENEWED_BY = "its operator, who copies the source again"
_UNREAD = "compare it yourself, or let certmond read it: certmond explain stale_copy"


class KubeconfigCopies:
    """The copies of kubeconfigs in `derived`, with their sources in `certificates`.

    `hidden` are the directories that a sandbox hides from this process.
    """

    def __init__(
        self,
        reader: DocumentReader,
        derived: Sequence[DerivedSpec],
        certificates: Sequence[CertificateSpec],
        hidden: Sequence[str] = (),
    ) -> None:
        self._reader, self._hidden = reader, hidden
        self._copies = {spec.path: spec for spec in reversed(derived) if spec.kind == "kubeconfig"}
        self._sources = [
            spec for spec in certificates if spec.kind is Kind.KUBECONFIG and spec.embedded_ca and not spec.is_glob
        ]
        self._before: dict[str, Observation] = {}

    def observations(self) -> tuple[Observation, ...]:
        """Return one observation for each copy with a fault. Unchanged files give the same objects."""
        found = [
            Observation(spec.name, _entry(spec), spec.path, faults=(fault,))
            for spec in self._copies.values()
            if (fault := self._fault(spec))
        ]
        known = [(self._before.get(each.path), each) for each in found]
        same = tuple(old if old == new else new for old, new in known)
        self._before = {each.path: each for each in same}
        return same

    def _fault(self, spec: DerivedSpec) -> Fault | None:
        """Return the fault of a copy, or None if it is current, absent or no copy."""
        entry, found = self._reader.entry(spec.path), self._reader.credentials(spec.path)
        sources = sorted(self._sources, key=lambda source: source.name != spec.source)
        for source in sources:
            copy = copy_of(self._reader.credentials(source.path), found)
            if copy:
                return _stale(spec.path, source.path, copy)
        own = next((source.path for source in sources if source.name == spec.source), "")
        if not own or self._reader.entry(own).missing:
            return None
        fact = found.faults[0].detail if found.faults else ""
        if entry.missing:
            hidden = next((each for each in self._hidden if spec.path.startswith(f"{each}/")), "")
            fact = f"the sandbox of this process hides {hidden}" if hidden else ""
        about = f"certmond does not compare {spec.path} with {own}"
        return Fault(Reason.NOT_WATCHED, f"{about}: {fact}", _UNREAD) if fact else None


def hidden_directories() -> tuple[str, ...]:
    """Return the directories that the sandbox of this process hides, or () without a mount table."""
    with suppress(OSError):
        return hidden_in(parse_mounts(Path("/proc/self/mountinfo").read_bytes()))
    return ()


def _entry(spec: DerivedSpec) -> CopySpec:
    return CopySpec(name=spec.name, path=spec.path, kind=Kind.KUBECONFIG, renewed_by=_RENEWED_BY)


def _stale(path: str, source: str, copy: Copy) -> Fault | None:
    """Return the fault of a copy that is out of date, or None."""
    facts = []
    if copy.older:
        old, leaf = copy.older
        facts.append(f"its certificate ends on {_day(old)}, and that of {source} on {_day(leaf)}")
    if copy.other_ca:
        facts.append("it trusts other CA certificates")
    if not facts:
        return None
    remedy = f"run: cp {source} {path}" if copy.alone else f"merge {source} into it: certmond explain stale_copy"
    return Fault(Reason.STALE_COPY, f"{path} is an old copy of {source}: {', and '.join(facts)}", remedy)


def _day(certificate: Certificate) -> str:
    return f"{certificate.not_after:%Y-%m-%d %H:%M} UTC"
