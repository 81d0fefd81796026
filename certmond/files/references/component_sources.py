"""The components of a node with their flags, and the file that contains these flags.

The sources are the manifests of static Pods, the enabled services of systemd, argument files, and the command lines of
processes. Further sources are the files of the kubelet, and the configuration of k3s, RKE2 and k0s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.component_processes import ComponentProcess, component_processes
from certmond.files.references.flag_source import Source, UnreadFile
from certmond.files.references.k0s_configuration import K0sConfiguration
from certmond.files.references.kubelet_view import KubeletView
from certmond.files.references.microshift_configuration import MicroShiftConfiguration
from certmond.files.references.node_kubelet_reader import KubeletConfiguration
from certmond.files.references.other_kubelets import OtherKubelets
from certmond.files.references.rancher_configuration import RancherConfiguration
from certmond.files.references.snap_argument_files import ArgumentFiles
from certmond.files.references.unit_files import UnitFiles
from certmond.formats.manifest import Container, Manifest, init_containers
from certmond.pki.catalog.component_certificate_flags import KUBELET, PROGRAMS

KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
RANCHER_MANIFESTS = ("/var/lib/rancher/rke2/agent/pod-manifests", "/var/lib/rancher/k3s/agent/pod-manifests")
"""The static Pod directories of RKE2 and k3s (pkg/agent/config of k3s)."""


_Given = tuple[str, str, str | None]
"""The component, the name of a flag, and its value or the path on the host, or None if this path is unknown."""


class ComponentSources:
    """Finder of the components of a node.

    `manifests` is the default directory of static Pods. `proc` is the directory of the processes of this node, or "" if
    certmond must not read the processes.
    """

    def __init__(
        self,
        reader: DocumentReader,
        files: Files,
        kubelet: KubeletConfiguration,
        units: UnitFiles,
        *,
        manifests: str,
        proc: str,
    ) -> None:
        self._reader, self._files, self._kubelet, self._units = reader, files, kubelet, units
        self._rancher = RancherConfiguration(reader, files, units)
        self._arguments, self._k0s = ArgumentFiles(reader, files), K0sConfiguration(reader, files)
        self._microshift = MicroShiftConfiguration(reader, files)
        self._kubelets = OtherKubelets(reader, files, kubelet)
        self._usual, self._proc = manifests, proc
        self._processes: tuple[ComponentProcess, ...] = ()

    def read_processes(self) -> None:
        """Read the command lines of the running components again."""
        found = component_processes(self._proc) if self._proc else ()
        self._processes = self._processes if found == self._processes else found

    def names(self) -> tuple[tuple[str, ...], ...]:
        """Return the names in the directories that certmond lists.

        These include directories that the flags of a kubelet name. The last item contains the facts about directories
        that certmond cannot read.
        """
        own = (*map(self._files.listing, (*self._directories(), *self._kubelets.directories)), *self._units.listings())
        others = *self._rancher.names(), *self._arguments.names(), self._microshift.names()
        return (*own, *others, tuple(fact for *_, fact in self._unread_directories()))

    def revision(self) -> tuple[Manifest | None, tuple[ComponentProcess, ...]]:
        """Return the configuration of the kubelet and the processes.

        The result contains a new object only for a value that has changed.
        """
        return self._kubelet.manifest(), self._processes

    def view(self) -> KubeletView:
        """Return the certificates of the kubelets. `sources` must have found the other kubelets before this call."""
        return KubeletView(self._kubelet.serving(), self._kubelets.served, self._kubelet.mounts)

    def sources(self) -> Iterator[Source]:
        """Yield each component of the node with its flags."""
        files, running = [*self._of_files()], [*self._of_processes()]
        self._kubelets.read((*files, *running))
        found = [*self._of_pods(), *map(self._kubelets.used_flags, files), *self._kubelets.fields()]
        yield from found
        own = [
            Source(KUBELET, Container(KUBELET, ((name, value),), self._kubelet.mounts), file, in_pod=False)
            for name, (value, file) in self._kubelet.flags().items()
        ]
        every, trusted = self._given([*found, *own])
        for source in map(self._kubelets.used_flags, running):
            given = every if source.obstacle else trusted
            known = (flag for flag in source.container.flags if _on_host(source, flag) in given)
            yield source._replace(known=frozenset(known))

    def _given(self, sources: Iterable[Source]) -> tuple[set[_Given], set[_Given]]:
        """Return the flags in files, and the subset of these flags that no other user can change."""
        every, trusted = set[_Given](), set[_Given]()
        for source in sources:
            for flag in source.container.flags:
                if source.in_pod and flag[1].startswith("/") and source.container.mount_of(flag[1]) is None:
                    continue  # a file in the image of the container
                given = _on_host(source, flag)
                every.add(given)
                if not (source.obstacle or self._reader.changeable(source.place(flag[0]).file, source.group)):
                    trusted.add(given)
        return every, trusted

    def _of_pods(self) -> Iterator[Source]:
        for path in self._all_manifests():
            for each in self._containers(path):
                yield Source(_component(each), each, path)

    def _of_files(self) -> Iterator[Source]:
        """Yield each component with flags in files other than the manifests of static Pods."""
        own = self._kubelet.unit()
        for service in self._units.services():
            if service is own:  # `_kubelet_sources` has its flags
                container = replace(service.container, flags=())
                yield Source(KUBELET, container, service.file, in_pod=False)
            else:
                yield Source(
                    service.component, service.container, service.file, service.obstacle, in_pod=False,
                    places=service.places,
                )  # fmt: skip
        yield from self._kubelet_sources()
        yield from self._rancher.sources()
        yield from self._arguments.sources()
        yield from self._k0s.sources()
        yield from self._microshift.sources()

    def _of_processes(self) -> Iterator[Source]:
        for process in self._processes:
            unit = self._units.unit(process.unit)
            yield Source(
                process.component, replace(process.container, mounts=unit.mounts), unit.path,
                process.obstacle or unit.obstacle, in_pod=False,
                process=f"process {process.program} in {process.unit}", additional=True,
            )  # fmt: skip

    def _unread_directories(self) -> Iterator[tuple[str, str, str]]:
        """Yield the kind of the files, the path and a fact for each directory that certmond cannot read."""
        kinds, found = (("static-pod", self._directories()), ("systemd-unit", self._units.directories())), set[str]()
        for kind, directory in ((kind, each) for kind, directories in kinds for each in directories):
            if fault := self._files.listing_fault(directory):
                real = self._reader.entry(directory).real or directory  # /lib can be a symlink to /usr/lib
                if real not in found:
                    yield kind, directory, f"{fault.detail}; {fault.remedy}" if fault.remedy else fault.detail
                found.add(real)

    def unread_files(self) -> Iterator[UnreadFile]:
        """Yield each file, directory and process whose flags certmond cannot read."""
        for kind, directory, fact in self._unread_directories():
            yield UnreadFile(kind, f"any flag in the files of {directory}", directory, fact)
        for service in self._units.services():
            for file, fault in service.faults:
                yield UnreadFile("systemd-unit", f"any flag of {service.component} in {file}", file, fault)
        for file, fault in self._units.faults():
            yield UnreadFile("systemd-unit", f"any flag in {file}", file, fault)
        yield from self._kubelets.unread_files()
        for process in self._processes:
            if process.unread:
                phrase = f"any flag of the process {process.program} in {process.unit}"
                yield UnreadFile(process.component, phrase, self._units.unit(process.unit).path, process.unread)
        yield from self._rancher.unread_files()
        yield from self._arguments.unread_files()
        yield from self._k0s.unread_files()
        yield from self._microshift.unread_files()
        for path in self._all_manifests():
            entry, manifest = self._reader.entry(path), self._reader.manifest(path)
            if not entry.is_directory and not (manifest and "spec" in manifest.fields):
                fact = entry.fault.detail if entry.fault else f"{path} is not the manifest of a Pod"
                yield UnreadFile("static-pod", f"any flag in {path}", path, fact)
            unclear = {each.mentioned: each.name for each in self._containers(path) if not _component(each)}
            unclear.pop("", None)
            for component, name in unclear.items():
                fact = (
                    f"certmond cannot determine which words in the command of container {name} are flags of {component}"
                )
                yield UnreadFile("static-pod", f"any flag of {component} in {path}", path, fact)

    def manifests(self) -> tuple[str, ...]:
        """Return the paths of the kubelet's static Pod manifests."""
        return self._manifests_in(self.static_pods())

    def static_pods(self) -> str:
        """Return the directory or the single file of the kubelet's static Pods."""
        return self._kubelet.static_pods() or self._usual

    def _directories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.static_pods(), *RANCHER_MANIFESTS, *self._kubelets.static_pods())))

    def _all_manifests(self) -> list[str]:
        return [path for directory in self._directories() for path in self._manifests_in(directory)]

    def _manifests_in(self, directory: str) -> tuple[str, ...]:
        """Return the paths of the manifests in a directory.

        Skip unprintable names and, like the kubelet, names that begin with a dot.

        The kubelet also accepts the path of a single manifest (pkg/kubelet/config/file.go, listConfig).
        """
        entry = self._reader.entry(directory)
        if entry.state and not entry.is_directory:
            return (directory,)
        names = self._files.listing(directory)
        return tuple(f"{directory}/{name}" for name in names if not name.startswith(".") and name.isprintable())

    def _containers(self, path: str) -> tuple[Container, ...]:
        manifest = self._reader.manifest(path)
        return (*init_containers(manifest.fields), *manifest.containers) if manifest else ()

    def _kubelet_sources(self) -> Iterator[Source]:
        named, mounts = False, self._kubelet.mounts
        for source in self._kubelet.sources():
            named = named or bool(source.container.values("kubeconfig"))
            yield source._replace(container=replace(source.container, mounts=mounts))
        if not named and not self._reader.entry(KUBELET_CONF).missing:
            container = Container(KUBELET, (("kubeconfig", KUBELET_CONF),), mounts)
            yield Source(KUBELET, container, "the unit of the kubelet", in_pod=False, only_listed=True)


def _component(container: Container) -> str:
    return PROGRAMS.get(container.program) or PROGRAMS.get(container.name, "")


def _on_host(source: Source, flag: tuple[str, str]) -> _Given:
    name, value = flag
    return source.component, name, source.container.on_host(value) if value.startswith("/") else value
