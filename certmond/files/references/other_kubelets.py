"""The configuration of kubelets other than the kubelet of the enabled unit.

The flags of such a kubelet come from a process, k3s, RKE2, an argument file or a second unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.flag_source import Source, UnreadFile
from certmond.files.references.kubelet_view import ServedFiles
from certmond.files.references.merged_kubelet_configuration import (
    DEFAULT_DIRECTORY,
    FileSet,
    KubeletFiles,
    MergedConfiguration,
)
from certmond.files.references.node_kubelet_reader import KubeletConfiguration
from certmond.files.references.unit_files import Place
from certmond.pki.catalog.component_certificate_flags import KUBELET, REQUESTED


class _Kubelet(NamedTuple):
    files: KubeletFiles
    merged: MergedConfiguration


class OtherKubelets:
    """Finder of the files that the flags of other kubelets name. `own` is the kubelet of the enabled unit."""

    def __init__(self, reader: DocumentReader, files: Files, own: KubeletConfiguration) -> None:
        self._reader, self._files, self._own = reader, files, own
        self._found: dict[FileSet, _Kubelet] = {}
        self._refused: tuple[UnreadFile, ...] = ()
        self.directories: tuple[str, ...] = ()
        """The directories of drop-ins."""
        self.served = ServedFiles()
        """The certificates that these kubelets serve or might serve."""

    def read(self, sources: Iterable[Source]) -> None:
        """Find the kubelets in `sources`. Read no file that a flag names if another user can change this flag."""
        kubelets, own = [self._kubelet(each) for each in sources if _is_other(each)], self._own.paths()
        named = {each.paths: each for each in kubelets if each.paths.named}
        self._found = {paths: _Kubelet(each, each.merged()) for paths, each in named.items()}
        followed = {path for paths in (own, *named) for path in paths.named}
        self._refused = tuple(flag for each in kubelets for flag in each.refused(followed))
        served = [each.served(self._merged(each)) for each in kubelets if each.has_flags]
        self.served = ServedFiles(
            frozenset(path for each in served for path in each.served if path),
            frozenset(path for each in served for path in each.requested if path),
        )
        self.directories = tuple(path for each in named.values() for path in each.directories())

    def used_flags(self, source: Source) -> Source:
        """Return the source. If a kubelet uses no certificate in --cert-dir, remove this flag.

        If the kubelet requests the certificate, the flag `REQUESTED` replaces --cert-dir. If a kubelet without
        --cert-dir uses a certificate in the default directory, add the flag for this directory.
        """
        if not _is_other(source):
            return source
        kubelet = self._kubelet(source)
        used = kubelet.certificate_flag(self._merged(kubelet)) if kubelet.has_flags else ()
        flags = (*(each for each in source.container.flags if each[0] != "cert-dir"), *used)
        place = source.place("cert-dir")
        if not source.container.values("cert-dir"):
            place = Place(source.file, DEFAULT_DIRECTORY)
        places = {**source.places, REQUESTED: place, "cert-dir": place}
        return source._replace(container=replace(source.container, flags=flags), places=places)

    def _merged(self, kubelet: KubeletFiles) -> MergedConfiguration:
        known = self._found.get(kubelet.paths)
        return known.merged if known else MergedConfiguration(None, {})

    def fields(self) -> Iterator[Source]:
        """Yield each kubelet with the fields of its configuration."""
        for kubelet, merged in self._found.values():
            if fields := kubelet.fields(merged):
                yield fields._replace(additional=True)

    def unread_files(self) -> Iterator[UnreadFile]:
        """Yield each file that certmond cannot read, and each flag that certmond does not follow, for all kubelets."""
        found = [*self._own.unread_files()]
        found += (each for kubelet, merged in self._found.values() for each in kubelet.unread_files(merged))
        yield from {(each.name, each.file): each for each in reversed(found)}.values()
        yield from self._refused

    def static_pods(self) -> list[str]:
        """Return the directories and single files of static Pods."""
        found = (kubelet.static_pods(merged) for kubelet, merged in self._found.values())
        return [pods.path for pods in found if pods.path and not pods.fact]

    def _kubelet(self, source: Source) -> KubeletFiles:
        return KubeletFiles(self._reader, self._files, source)


def _is_other(source: Source) -> bool:
    return source.component == KUBELET and not source.only_listed
