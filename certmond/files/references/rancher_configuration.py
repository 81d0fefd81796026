"""The flags of k3s and RKE2, and the flags that these programs pass to the components.

This module reads the configuration file with its drop-ins, and the enabled services of systemd (k3s-io/k3s,
pkg/cli/cmds/server.go and agent.go).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.flag_source import Source, UnreadFile, is_known
from certmond.files.references.unit_files import Place, Service, UnitFiles
from certmond.formats.manifest import Container
from certmond.formats.rancher_config import (
    Option,
    component_flag,
    endpoint_flags,
    merged_options,
    parse_rancher_config,
)
from certmond.pki.catalog.component_certificate_flags import (
    APISERVER,
    CLOUD,
    ETCD,
    K3S,
    KUBELET,
    MANAGER,
    PROXY,
    RKE2,
    SCHEDULER,
)

_DIRECTORIES = {program: f"/etc/rancher/{program}" for program in (K3S, RKE2)}
_ARGUMENTS = {
    **{f"{component}-arg": component for component in (APISERVER, MANAGER, SCHEDULER, ETCD, KUBELET, PROXY)},
    f"kube-{CLOUD}-arg": CLOUD,
    "kube-controller-arg": MANAGER,
    "kube-cloud-controller-arg": CLOUD,
}
"""The flags with an argument for a component. The last two are the hidden aliases in pkg/cli/cmds/server.go."""
_OF_AGENTS = frozenset({"kubelet-arg", "kube-proxy-arg", "private-registry"})
"""The flags that also apply to an agent."""
_SUBCOMMANDS = frozenset({"server", "agent"})
_DROP_INS = "agent/etc/kubelet.conf.d"
"""The kubelet's --config-dir in the data directory, since v1.32 (k3s-io/k3s, pkg/daemons/agent/agent_linux.go)."""
_MAX_DROP_INS = 256


class _Instance(NamedTuple):
    """Configuration of one service that runs k3s or RKE2. If `service` is None, the file is the default file."""

    service: Service | None
    inside: str  # the configuration file in the mount namespace of the service
    file: str  # the configuration file on the host, or `inside` if this path is unknown
    is_on_host: bool
    directory: str  # of the drop-ins on the host, or "" if this path is unknown
    mounts: Mapping[str, str | None]


class RancherConfiguration:
    """Finder of the flags in the configuration of k3s and RKE2."""

    def __init__(self, reader: DocumentReader, files: Files, units: UnitFiles) -> None:
        self._reader, self._files, self._units = reader, files, units

    def names(self) -> tuple[tuple[str, ...], ...]:
        """Return the names in the directories of the configuration."""
        inner = (each.directory for program in _DIRECTORIES for each in self._instances(program))
        directories = dict.fromkeys((*_DIRECTORIES.values(), *filter(None, inner)))
        return tuple(map(self._files.listing, directories))

    def sources(self) -> Iterator[Source]:
        """Yield k3s and RKE2 with their flags in files, and each component with the flags that k3s or RKE2 passes."""
        for program, directory in _DIRECTORIES.items():
            services = self._services(program)
            if services or self._files.listing(directory):
                for instance in self._instances(program):
                    yield from self._of_instance(program, instance)
            for service in services:
                if service.obstacle:
                    yield from _component_sources(_options_of(service), service.file, {}, service.obstacle)

    def _of_instance(self, program: str, instance: _Instance) -> Iterator[Source]:
        file, mounts = instance.file, instance.mounts
        registries = f"{_DIRECTORIES[program]}/registries.yaml"
        own = [Option("private-registry", registries, file), *self._options(instance)]
        # The flags of the command line follow those of the file.
        given = [*own, *(_options_of(instance.service) if instance.service else ())]
        services = self._services(program)
        is_used = services or any(not self._reader.entry(path).missing for path in self._paths(instance))
        unused = "" if is_used else f"no enabled unit starts {program}, and {file} does not exist"
        yield from self._own_drop_ins(program, given, file, mounts, unused)
        if instance.service:
            services = [instance.service]
        if services and all(each.subcommand == "agent" for each in services):
            own, given = ([each for each in some if each.name in _OF_AGENTS] for some in (own, given))
        yield _own_source(program, own, file, mounts)
        yield from _component_sources(given, file, mounts)

    def _own_drop_ins(
        self, program: str, options: Iterable[Option], file: str, mounts: Mapping[str, str | None], obstacle: str
    ) -> Iterator[Source]:
        """Yield the kubelet with the --config-dir that k3s or RKE2 passes, unless this directory is missing.

        To this directory, k3s and RKE2 copy the files of the arguments `config` and `config-dir`. The directory might
        remain from an uninstalled k3s or RKE2.
        """
        default = Option("data-dir", f"/var/lib/rancher/{program}", file)
        data = [default, *(each for each in options if each.name in {"data-dir", "d"} and each.value)][-1]
        directory = posixpath.join("/", data.value, _DROP_INS)
        container = Container(KUBELET, (("config-dir", directory),), mounts, KUBELET)
        host = container.on_host(directory) if is_known(directory) else None
        if host is None or not self._reader.entry(host).missing:
            phrase, fact = f"kubelet of {program}", f"{directory} might be unused: {obstacle}" if obstacle else ""
            yield Source(KUBELET, container, data.file, fact, in_pod=False, process=phrase)

    def unread_files(self) -> Iterator[UnreadFile]:
        """Yield each file of the configuration that certmond cannot read or parse."""
        for program in _DIRECTORIES:
            instances = self._instances(program)
            for inside in dict.fromkeys(each.inside for each in instances if not each.is_on_host):
                fact = f"{inside[:200]} is not the path of a file on this host"
                yield UnreadFile(f"{program}.config", f"any flag in {inside}", inside, fact)
            for path in dict.fromkeys(path for each in instances for path in self._paths(each)):
                entry, config = self._reader.entry(path), self._files.value(path, parse_rancher_config)
                fact = entry.fault.detail if entry.fault and not entry.missing else ""
                if config and config.fault:
                    fact = f"{path} {config.fault}"
                if fact:
                    yield UnreadFile(f"{program}.config", f"any flag in {path}", path, fact)

    def _services(self, program: str) -> list[Service]:
        """Return the services that run `program` as a server or as an agent, or else all services that run it.

        Another service can run `k3s etcd-snapshot`, for example.
        """
        found = [service for service in self._units.services() if service.component == program]
        return [each for each in found if each.subcommand in _SUBCOMMANDS] or found

    def _instances(self, program: str) -> list[_Instance]:
        """Return the configuration of each service whose flags certmond follows.

        Also return the default configuration if there is no such service, or if certmond does not follow a server.
        """
        services = self._services(program)
        found = [_instance(program, each) for each in services if not each.obstacle]
        is_server = any(each.obstacle and each.subcommand != "agent" for each in services)
        return [*found, *([] if found and not is_server else [_instance(program, None)])]

    def _paths(self, instance: _Instance) -> Iterator[str]:
        if instance.is_on_host:
            yield instance.file
        directory = instance.directory
        names = self._files.listing(directory) if directory else ()
        yield from (f"{directory}/{name}" for name in names[:_MAX_DROP_INS] if name.lower().endswith((".yaml", ".yml")))

    def _options(self, instance: _Instance) -> list[Option]:
        parsed = ((path, self._files.value(path, parse_rancher_config)) for path in self._paths(instance))
        return merged_options((path, config.settings) for path, config in parsed if config)


def _instance(program: str, service: Service | None) -> _Instance:
    """Return the configuration of `service`, or the default configuration if `service` is None.

    The source is k3s-io/k3s, pkg/configfilearg/defaultparser.go and parser.go.
    """
    path = f"{_DIRECTORIES[program]}/config.yaml"
    container = service.container if service else Container(program, (), {})
    given = [value for name, value in container.flags if name in {"config", "c"} and value]
    values = container.values("config-file") or given  # the variable takes precedence
    inside = posixpath.join("/", values[0] if values else path)
    file, directory = (container.on_host(each) if is_known(each) else None for each in (inside, f"{inside}.d"))
    return _Instance(service, inside, file or inside, file is not None, directory or "", container.mounts)


def _options_of(service: Service) -> list[Option]:
    """Return the flags in the command line of a service."""
    flags = service.container.flags
    return [
        Option(name, value, service.places[name].file if name in service.places else service.file)
        for name, value in flags
    ]


def _own_source(program: str, options: Iterable[Option], file: str, mounts: Mapping[str, str | None]) -> Source:
    own = [each for each in options if each.name not in _ARGUMENTS]
    places = {each.name: Place(each.file, each.name) for each in own}
    flags = tuple((each.name, each.value) for each in own)
    container = Container(program, (*flags, *endpoint_flags(flags)), mounts, program)
    return Source(program, container, file, in_pod=False, places=places)


def _component_sources(
    options: list[Option], file: str, of_unit: Mapping[str, str | None], obstacle: str = ""
) -> Iterator[Source]:
    """Yield each component with its flags. `of_unit` contains the mounts of the unit.

    RKE2 mounts each file that a flag names at the same path into the Pod (rancher/rke2, pkg/podtemplate, ReadFiles).
    A flag such as `kube-apiserver-extra-mount` names other paths.
    """
    for argument, component in _ARGUMENTS.items():
        found = [(component_flag(each.value), each.file) for each in options if each.name == argument]
        if not found:
            continue
        mounts = dict(of_unit)
        for each in options:
            if each.name == f"{component}-extra-mount":
                host, inside, *_ = *each.value.split(":"), ""
                if host.startswith("/") and inside.startswith("/"):
                    mounts[inside.rstrip("/")] = host.rstrip("/")
        places = {name: Place(where, f"--{name}") for (name, _), where in found}
        container = Container(component, tuple(flag for flag, _ in found), mounts, component)
        # k3s passes tlsCertFile to the kubelet (pkg/daemons/agent/agent.go, defaultKubeletConfig).
        has_certificate = component == KUBELET
        yield Source(component, container, file, obstacle, in_pod=False, places=places, has_certificate=has_certificate)
