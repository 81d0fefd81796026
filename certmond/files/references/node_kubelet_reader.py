"""The flags and the configuration of the kubelet of this node.

This kubelet is the kubelet of the enabled unit or, without such a unit, the kubelet of kubeadm.
`merged_kubelet_configuration` reads the configuration of each kubelet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.flag_source import Source, UnreadFile
from certmond.files.references.merged_kubelet_configuration import (
    DEFAULT_DIRECTORY,
    FileSet,
    KubeletFiles,
    MergedConfiguration,
)
from certmond.files.references.unit_files import Place, Service, UnitFiles
from certmond.formats.kubelet.serving import DEFAULT_FILES, KubeletServing
from certmond.formats.manifest import Container, Manifest, kubelet_environment
from certmond.pki.catalog.component_certificate_flags import KUBELET, REQUESTED

CONFIG, FLAGS = "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubeadm-flags.env"
_ENVIRONMENTS = (FLAGS, "/etc/sysconfig/kubelet", "/etc/default/kubelet")
"""Environment files of the kubelet's unit, in the order of their flags (kubeadm, 10-kubeadm.conf)."""


class KubeletConfiguration:
    """Reader of the flags and the configuration of the node's kubelet."""

    def __init__(self, reader: DocumentReader, files: Files, units: UnitFiles) -> None:
        self._reader, self._files, self._units = reader, files, units
        self._merged_from: tuple[FileSet | Manifest | None, ...] = ()
        self._merged = MergedConfiguration(None, {})

    def flags(self) -> dict[str, tuple[str, str]]:
        """Return (value, file) of each flag, from the enabled unit, or else from the environment files of kubeadm."""
        found = dict[str, tuple[str, str]]()
        if unit := self.unit():
            files = {flag: place.file for flag, place in unit.places.items()}
            return {name: (value, files.get(name, unit.file)) for name, value in unit.container.flags}
        for path in _ENVIRONMENTS:
            self._reader.entry(path)
            parsed = self._files.value(path, _parse_environment)
            found.update((name, (value, path)) for name, value in (parsed.flags if parsed else ()))
        return found

    def unit(self) -> Service | None:
        """Return the enabled unit of the kubelet whose flags certmond knows and trusts, or None.

        Prefer a unit with --kubeconfig or --config, then kubelet.service, then the first unit. Other services can
        contain the word `kubelet` in their commands, as a monitor does.
        """
        units = (each for each in self._units.services() if each.component == KUBELET and not each.obstacle)
        return max((each for each in units if each.container.flags or not each.faults), key=_rank, default=None)

    def paths(self) -> FileSet:
        """Return the paths in the flags."""
        return self._kubelet().paths

    def manifest(self) -> Manifest | None:
        """Return the configuration merged with the drop-ins, or None if there is no readable file.

        The result is the same object until a file changes. With drop-ins, the paths in the result are absolute.
        """
        return self._configuration(self._kubelet()).manifest

    def _kubelet(self) -> KubeletFiles:
        flags, unit = self.flags(), self.unit()
        given = tuple((name, value) for name, (value, _) in flags.items())
        container = Container(KUBELET, given, unit.container.mounts if unit else {})
        places = {name: Place(file, f"--{name}") for name, (_, file) in flags.items()}
        source = Source(KUBELET, container, FLAGS, in_pod=False, only_listed=True, places=places)
        # The kubelet reads no file without --config. Without a unit, the flags of kubeadm's drop-in are unknown.
        is_known = unit and unit.container.flags and not unit.faults
        return KubeletFiles(self._reader, self._files, source, "" if is_known else CONFIG)

    def _configuration(self, kubelet: KubeletFiles) -> MergedConfiguration:
        read_from = (kubelet.paths, *kubelet.parts())
        known = self._merged_from[:1] == read_from[:1] and len(read_from) == len(self._merged_from)
        if not known or any(one is not other for one, other in zip(read_from[1:], self._merged_from[1:], strict=True)):
            self._merged_from, self._merged = read_from, kubelet.merged()
        return self._merged

    def unread_files(self) -> Iterator[UnreadFile]:
        """Yield each file that certmond cannot read, and each flag that certmond does not follow."""
        if self.unit() is None:
            for path in _ENVIRONMENTS:
                entry = self._reader.entry(path)
                if entry.fault and not entry.missing:
                    yield UnreadFile("kubelet.flags", f"any flag of the kubelet in {path}", path, entry.fault.detail)
        kubelet = self._kubelet()
        yield from kubelet.unread_files(self._configuration(kubelet))
        yield from kubelet.refused(())

    def serving(self) -> KubeletServing | None:
        """Return the file of the certificate that the kubelet serves, with paths on the host.

        `unused` also contains the files in the default directory that the kubelet does not serve. Return None in the
        same cases as `KubeletFiles.serving`.
        """
        kubelet = self._kubelet()
        merged = self._configuration(kubelet)
        if (found := kubelet.serving(merged)) is None:
            return None
        return replace(found, unused=(found.unused | DEFAULT_FILES) - kubelet.served(merged).served)

    @property
    def mounts(self) -> Mapping[str, str | None]:
        """The mounts of the kubelet's unit, as in `Container`, or {}.

        If certmond does not follow the flags of a unit, these are the mounts of a unit with another root directory.
        """
        others = (each for each in self._units.services() if each.component == KUBELET and "" in each.container.mounts)
        unit = self.unit() or next(others, None)
        return unit.container.mounts if unit else {}

    def flags_manifest(self) -> Manifest:
        """Return a manifest whose text contains the flags, as in an environment file."""
        return Manifest(" ".join(f"--{name}={value}" for name, (value, _) in self.flags().items()), {}, {}, FLAGS)

    def sources(self) -> Iterator[Source]:
        """Yield the fields that no flag overrides, and the flags of each file."""
        flags, kubelet = self.flags(), self._kubelet()
        merged = self._configuration(kubelet)
        if fields := kubelet.fields(merged):
            yield fields
        _, given = flags.pop("cert-dir", ("", ""))
        unit = self.unit()
        file = given or (unit.file if unit else merged.manifest.path if merged.manifest else FLAGS)
        text = "--cert-dir" if given else DEFAULT_DIRECTORY
        flags |= {name: (value, file) for name, value in kubelet.certificate_flag(merged)}
        for path in dict.fromkeys((*_ENVIRONMENTS, *(file for _, file in flags.values()))):
            own = tuple((name, value) for name, (value, file) in flags.items() if file == path)
            if own:
                places = dict.fromkeys((REQUESTED, "cert-dir"), Place(path, text))
                yield Source(KUBELET, Container(KUBELET, own, {}), path, in_pod=False, only_listed=True, places=places)

    def static_pods(self) -> str:
        """Return the directory or the single file of the static Pods, or "" if certmond can follow no such path."""
        kubelet = self._kubelet()
        found = kubelet.static_pods(self._configuration(kubelet))
        return "" if found.fact else found.path


def _rank(unit: Service) -> tuple[bool, bool]:
    """Return the precedence of a unit that runs the kubelet. The path of a drop-in contains the name of its unit."""
    starts = any(unit.container.values(name) for name in ("kubeconfig", "config"))
    return starts, "/kubelet.service" in unit.file


def _parse_environment(data: bytes, _path: str) -> Container:
    return kubelet_environment(data.decode("utf-8", "replace"))
