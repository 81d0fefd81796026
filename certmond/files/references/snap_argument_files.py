"""The components whose flags are in the argument files of MicroK8s and of Canonical Kubernetes (k8s-snap)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.flag_source import Source, UnreadFile
from certmond.formats.argument_file import expanded, parse_arguments
from certmond.formats.manifest import Container, flags_of
from certmond.pki.catalog.component_certificate_flags import ETCD, KUBELET, PROGRAMS, PROXY


class _Snap(NamedTuple):
    """Directory of the argument files of a snap, and the variables that snapd sets for the programs of this snap."""

    arguments: str
    variables: Mapping[str, str]


def _snap(name: str, arguments: str) -> _Snap:
    data, common = f"/var/snap/{name}/current", f"/var/snap/{name}/common"
    variables = {"SNAP": f"/snap/{name}/current", "SNAP_DATA": data, "SNAP_COMMON": common}
    return _Snap(f"{variables[arguments]}/args", variables)


_SNAPS = (_snap("microk8s", "SNAP_DATA"), _snap("k8s", "SNAP_COMMON"))
_ON_WORKERS = frozenset({KUBELET, PROXY})
_OTHERS = frozenset({"flanneld", "cluster-agent"})
"""Programs of MicroK8s that are not components, but have flags for certificates."""

_LOCKED = frozenset({ETCD, "flanneld"})
"""Programs that MicroK8s does not start while the lock file of the program exists."""


class ArgumentFiles:
    """Finder of the components whose flags are in argument files."""

    def __init__(self, reader: DocumentReader, files: Files) -> None:
        self._reader, self._files = reader, files

    def names(self) -> tuple[tuple[str, ...], ...]:
        """Return the names in the directories of argument files."""
        return tuple(self._files.listing(snap.arguments) for snap in _SNAPS)

    def sources(self) -> Iterator[Source]:
        """Yield each component that runs, with its flags."""
        for snap in _SNAPS:
            group = self._group(snap.arguments)
            for name, path in self._paths(snap):
                words = expanded(self._files.value(path, parse_arguments) or (), snap.variables)
                container = Container(name, flags_of(name, words), {}, name)
                yield Source(PROGRAMS.get(name, ""), container, path, in_pod=False, group=group)

    def unread_files(self) -> Iterator[UnreadFile]:
        """Yield each argument file that certmond cannot read."""
        for snap in _SNAPS:
            for name, path in self._paths(snap):
                if fault := self._reader.entry(path).fault:
                    yield UnreadFile(f"{name}.arguments", f"any flag in {path}", path, fault.detail)

    def _paths(self, snap: _Snap) -> Iterator[tuple[str, str]]:
        """Yield the name of each component that runs, and the path of its argument file."""
        names = self._files.listing(snap.arguments)
        # On a worker of MicroK8s, kubelite starts only two components (scripts/wrappers/join.py).
        worker = ("start-control-plane", "false") in flags_of("", self._words(f"{snap.arguments}/kubelite"))
        # MicroK8s starts no etcd with dqlite, and no flanneld with Calico (microk8s-resources/actions/common/utils.sh).
        locks = f"{snap.variables['SNAP_DATA']}/var/lock/no-"
        for name in names:
            is_used = name in _OTHERS or (name in PROGRAMS and not (worker and name not in _ON_WORKERS))
            if is_used and not (name in _LOCKED and not self._reader.entry(f"{locks}{name}").missing):
                yield name, f"{snap.arguments}/{name}"

    def _words(self, path: str) -> tuple[str, ...]:
        self._reader.entry(path)
        return self._files.value(path, parse_arguments) or ()

    def _group(self, directory: str) -> int | None:
        """Return the group of the directory of argument files, or None if certmond cannot read the directory.

        In MicroK8s, the members of the group `microk8s` can write these files (snap/hooks/configure). These members set
        the flags of a process that runs as root, and can therefore read every file. For this reason, certmond follows
        the flags.
        """
        entry = self._reader.entry(directory)
        return status.gid if (status := entry.status) else None
