"""The components of a node with their flags, and the file that contains these flags.

The sources are the manifests of static Pods, the enabled services of systemd, and the files of the kubelet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from certmond.files.cache import Files
from certmond.files.document_reader import DocumentReader
from certmond.files.references.kubelet_configuration import KubeletConfiguration
from certmond.files.references.unit_files import Place, UnitFiles
from certmond.formats.manifest import Container, Manifest, containers, init_containers
from certmond.pki.catalog.references import KUBELET, PROGRAMS

KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
RANCHER_MANIFESTS = ("/var/lib/rancher/rke2/agent/pod-manifests", "/var/lib/rancher/k3s/agent/pod-manifests")
"""The static Pod directories of RKE2 and k3s (pkg/agent/config of k3s)."""


class Source(NamedTuple):
    """A component with its flags, and the file that contains these flags."""

    component: str
    container: Container
    file: str
    obstacle: str = ""  # the reason not to follow the flags
    in_pod: bool = True
    only_listed: bool = False  # True if only flags of the table name files
    places: Mapping[str, Place] = MappingProxyType({})  # of flags in other files

    def place(self, flag: str) -> Place:
        """Return the file that contains a flag, and the name of the flag in this file."""
        is_field = flag in {"tlsCertFile", "clientCAFile"}
        return self.places.get(flag) or Place(self.file, flag if is_field else f"--{flag}")


class UnreadFile(NamedTuple):
    """A file with flags that certmond cannot read. `fact` is a clause with the reason."""

    name: str  # of the entry
    named_by: str
    file: str
    fact: str


class ComponentSources:
    """Finder of the components of a node. `manifests` is the default directory of static Pods."""

    def __init__(
        self, reader: DocumentReader, files: Files, kubelet: KubeletConfiguration, units: UnitFiles, manifests: str
    ) -> None:
        self._reader, self._files, self._kubelet, self._units = reader, files, kubelet, units
        self._usual = manifests

    def names(self) -> tuple[tuple[str, ...], ...]:
        """Return the names in the directories that certmond lists."""
        return (*map(self._files.listing, self._directories()), *self._units.listings())

    def merged(self) -> Manifest | None:
        """Return the configuration of the kubelet: another object also if a drop-in appears."""
        return self._kubelet.manifest()

    def sources(self) -> Iterator[Source]:
        """Yield each component of the node."""
        for path in self._all_manifests():
            for each in self._containers(path):
                yield Source(_component(each), each, path, self._reader.changeable(path))
        for service in self._units.services():
            if service.component != KUBELET or service.obstacle:
                yield Source(
                    service.component, service.container, service.file, service.obstacle, in_pod=False,
                    places=service.places,
                )  # fmt: skip
        yield from self._kubelet_sources()

    def unread_files(self) -> Iterator[UnreadFile]:
        """Yield each file with flags that certmond cannot read."""
        for service in self._units.services():
            for file, fault in service.faults:
                yield UnreadFile("systemd-unit", f"any flag of {service.component} in {file}", file, fault)
        for file, fault in self._kubelet.faults:
            yield UnreadFile("kubelet.config-dir", f"any field in {file}", file, fault)
        for path in self._all_manifests():
            entry, manifest = self._reader.entry(path), self._reader.manifest(path)
            if not entry.is_directory and not (manifest and "spec" in manifest.fields):
                fact = entry.fault.detail if entry.fault else f"{path} is not the manifest of a Pod"
                yield UnreadFile("static-pod", f"any flag in {path}", path, fact)

    def manifests(self) -> tuple[str, ...]:
        """Return the paths of the kubelet's static Pod manifests."""
        return self._manifests_in(self._kubelet.manifest_directory() or self._usual)

    def _directories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self._kubelet.manifest_directory() or self._usual, *RANCHER_MANIFESTS)))

    def _all_manifests(self) -> list[str]:
        return [path for directory in self._directories() for path in self._manifests_in(directory)]

    def _manifests_in(self, directory: str) -> tuple[str, ...]:
        """Return the paths of the manifests in a directory. Like the kubelet, skip names that begin with a dot."""
        names = self._files.listing(directory)
        return tuple(f"{directory}/{name}" for name in names if not name.startswith(".") and name.isprintable())

    def _containers(self, path: str) -> tuple[Container, ...]:
        manifest = self._reader.manifest(path)
        return (*init_containers(manifest.fields), *containers(manifest.fields)) if manifest else ()

    def _kubelet_sources(self) -> Iterator[Source]:
        named = False
        for file, container in self._kubelet.sources():
            named = named or bool(container.values("kubeconfig"))
            obstacle = self._reader.changeable(file)
            yield Source(KUBELET, container, file, obstacle, in_pod=False, only_listed=True)
        if not named and not self._reader.entry(KUBELET_CONF).missing:
            container = Container(KUBELET, (("kubeconfig", KUBELET_CONF),), {})
            yield Source(KUBELET, container, "the unit of the kubelet", in_pod=False, only_listed=True)


def _component(container: Container) -> str:
    return PROGRAMS.get(container.program) or PROGRAMS.get(container.name, "")
