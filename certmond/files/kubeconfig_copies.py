"""Observation of those copies of kubeconfigs that are out of date or unreadable.

This module chooses the kubeconfig of the catalogue with which certmond compares a file. There is no observation for a
current copy, or for a kubeconfig of another cluster or user.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.mount_table import Mount, hiding_directory, parse_mounts
from certmond.formats.kubeconfig_copy import Copy, copy_of
from certmond.pki.catalog.derived_file_spec import CopySpec, DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Fault, Reason
from certmond.pki.x509.certificate import Certificate

_HOST = "/proc/1/root"
"""Root directory of systemd, which runs in no sandbox.

The daemon can read this directory only with CAP_SYS_PTRACE (ptrace(2), PTRACE_MODE_READ_FSCREDS), which the daemon has
only in enforce mode.
"""
_RENEWED_BY = "its operator, who copies the source again"
_UNREAD = "compare the files yourself, or permit certmond to read the copy; see: certmond explain stale_copy"


class KubeconfigCopies:
    """The copies of kubeconfigs in `derived`, with their sources in `certificates`.

    A file with its own entry in `certificates` does not count as a copy.

    `mounts` are the mounts of this process, because a sandbox can hide the directory of a copy. `host` is the root
    directory outside the sandbox.
    """

    def __init__(
        self,
        reader: DocumentReader,
        derived: Sequence[DerivedSpec],
        certificates: Sequence[CertificateSpec],
        mounts: Iterable[Mount] = (),
        host: str = _HOST,
    ) -> None:
        self._reader, self._host = reader, host
        taken = {spec.path for spec in certificates}
        ordered = sorted(derived, key=lambda spec: spec.write == "always")  # the entry that certmond writes is the last
        self._copies = {spec.path: spec for spec in ordered if spec.kind == "kubeconfig" and spec.path not in taken}
        mounts = tuple(mounts)
        self._hidden = {path: hiding_directory(path, mounts) for path in self._copies}
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
        """Return the fault of a copy that is out of date or unreadable.

        Return None for any other file, and for an unreadable copy whose source does not exist.
        """
        entry, found = self._reader.entry(spec.path), self._reader.credentials(spec.path)
        sources = sorted(self._sources, key=lambda source: source.name != spec.source)
        for source in sources:
            copy = copy_of(self._reader.credentials(source.path), found)
            if copy:
                is_whole = copy.same_server and not self._reader.content_names(spec.path) - self._reader.content_names(
                    source.path
                )
                return _stale(spec.path, source.path, copy, is_whole=is_whole)
        own = next((source.path for source in sources if source.name == spec.source), "")
        if not own or self._reader.entry(own).missing:
            return None
        fact = found.faults[0].detail if found.faults else ""
        if entry.missing:
            hidden = self._hidden[spec.path]
            fact = (
                f"the sandbox of this process hides {hidden}"
                if hidden and not is_known_absent(spec.path, self._host)
                else ""
            )
        about = f"certmond does not compare {spec.path} with {own}"
        return Fault(Reason.NOT_WATCHED, f"{about}: {fact}", _UNREAD) if fact else None


def is_known_absent(path: str, root: str) -> bool:
    """Return whether the file, or a directory on the path of the file, does not exist below `root`.

    Return False if this process cannot read `root`, or if the path contains a symlink, because an absolute target would
    lead out of `root`.
    """
    place = root
    for part in path.strip("/").split("/"):
        place = os.path.join(place, part)
        try:
            status = os.lstat(place)
        except FileNotFoundError:
            return os.path.isdir(root)
        except OSError:
            return False
        if stat.S_ISLNK(status.st_mode):
            return False
    return False


def own_mounts() -> tuple[Mount, ...]:
    """Return the mounts of this process, or () if certmond cannot read the mount table."""
    with suppress(OSError):
        return parse_mounts(Path("/proc/self/mountinfo").read_bytes())
    return ()


def _entry(spec: DerivedSpec) -> CopySpec:
    return CopySpec(name=spec.name, path=spec.path, kind=Kind.KUBECONFIG, renewed_by=_RENEWED_BY)


def _stale(path: str, source: str, copy: Copy, *, is_whole: bool) -> Fault | None:
    """Return the fault of a copy that is out of date, or None if the copy is current.

    A whole copy names the server of the source, and contains nothing that the source does not contain.
    """
    facts = []
    if copy.older:
        old, leaf = copy.older
        facts.append(
            f"the certificate in the copy ends on {_day(old)}, but the certificate in {source} ends on {_day(leaf)}"
        )
    if copy.other_ca:
        facts.append("the copy trusts other CA certificates")
    if not facts:
        return None
    remedy = (
        f"run: cp {source} {path}" if is_whole else f"merge {source} into the copy; see: certmond explain stale_copy"
    )
    return Fault(Reason.STALE_COPY, f"{path} is an old copy of {source}: {', and '.join(facts)}", remedy)


def _day(certificate: Certificate) -> str:
    return f"{certificate.not_after:%Y-%m-%d %H:%M} UTC"
