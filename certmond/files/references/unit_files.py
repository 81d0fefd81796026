"""The enabled services of systemd that run a component, with their flags and the files of these flags.

This module defines the search path of units and drop-ins (systemd.unit(5)). certmond reads the files, and sends no
request to systemd.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import NamedTuple, TypeVar

from certmond.files.cache import Files
from certmond.files.cache_entry import Entry, EntryKey, Parser
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.systemd_default_environment import ManagerConfiguration
from certmond.formats.manifest import Container, Variable, flags_of, variables_of
from certmond.formats.rancher_config import endpoint_flags, flag_variables
from certmond.formats.started_program import mentioned_component, only_prints, program_name, program_of, subcommand_of
from certmond.formats.unit_file import (
    Environment,
    Word,
    command_line,
    parse_environment,
    parse_timer,
    parse_unit,
    places,
    settings,
    split_words,
    with_specifiers,
)
from certmond.formats.unit_mounts import unit_mounts
from certmond.immutable_class import immutable
from certmond.pki.catalog.component_certificate_flags import ETCD, PROGRAMS

DIRECTORIES = (
    "/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/generator.early",
    "/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator", "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/generator.late",
)  # fmt: skip
"""The directories of units, in order of precedence. /lib is a separate directory only if /usr is not merged.

Generators create the units in /run/systemd/generator. For example, Podman creates a unit for each Quadlet file.
`systemctl set-property` writes drop-ins in the directories system.control.
"""
_OTHER_ROOTS = ("RootDirectory", "RootImage")
_MAX_FILES = 512
_TRANSIENT = "/run/systemd/transient"
"""The directory of units that a program creates, as systemd-run(1) does."""

_T = TypeVar("_T")


class Place(NamedTuple):
    """The file that contains a flag, and the name of the flag in this file, such as ETCD_CERT_FILE."""

    file: str
    text: str


class Unit(NamedTuple):
    """The path and the mounts of a unit, and the reason not to trust the command line of its process, or ""."""

    path: str
    obstacle: str
    mounts: Mapping[str, str | None]  # as in `Container`


@immutable
class Service:
    """An enabled service that runs a component."""

    component: str
    container: Container
    file: str  # the unit or drop-in with the command
    places: Mapping[str, Place] = field(default_factory=dict)  # of the flags whose file is known
    obstacle: str = ""  # the reason not to follow the flags
    faults: tuple[tuple[str, str], ...] = ()  # unit or drop-in, and a fact about flags that certmond cannot read
    subcommand: str = ""  # of k3s and RKE2


class UnitFiles:
    """Finder of the enabled services that run a component."""

    def __init__(self, reader: DocumentReader, files: Files) -> None:
        self._reader, self._files = reader, files
        self._manager = ManagerConfiguration(reader, files)
        self._names: tuple[tuple[str, ...], ...] = ()
        self._units: tuple[tuple[str, ...], ...] = ()
        self._inner: list[str] = []
        self._found_in = -1
        self._used: dict[EntryKey, Entry] | None = None
        self._services: tuple[Service, ...] = ()
        self._faults: tuple[tuple[str, str], ...] = ()

    def services(self) -> tuple[Service, ...]:
        """Return the services in the order of their names. The result is the same object until a file changes."""
        found, self._found_in = self._found_in, self._files.generation
        if self._used is not None and found == self._files.generation:
            self._reader.used |= self._used
            return self._services
        names = self.listings()
        if names != self._names or self._used is None or not self._is_current(self._used):
            before, self._reader.used = self._reader.used, {}
            self._names, self._services = names, tuple(self._find())
            self._faults = tuple(self._find_faults())
            self._used = self._reader.used
            self._reader.used = before | self._used
        return self._services

    def faults(self) -> tuple[tuple[str, str], ...]:
        """Return each file of an enabled unit that certmond cannot read, with a fact about this file."""
        self.services()
        return self._faults

    def unit(self, name: str) -> Unit:
        """Return the unit `name`, whether it is enabled or not.

        The result contains the reason why certmond does not trust the command line of the unit's process, or "".
        """
        paths = [*self._paths(name)]
        found = settings([(path, self._value(path, parse_unit) or ()) for path in paths])
        environments = [with_specifiers(word.text, name).removeprefix("-") for word in found.get("EnvironmentFile", ())]
        environments += (file for _, file in self._manager.environment().values())
        files = (*paths, *(path for path in environments if path.startswith("/") and path.isprintable()))
        obstacle = next(filter(None, map(self._reader.changeable, files)), "")
        return Unit(paths[0] if paths else f"{_TRANSIENT}/{name}", obstacle, self._mounts(name, found))

    def listings(self) -> tuple[tuple[str, ...], ...]:
        """Return the names in the directories of units, of drop-ins, of enabled units and of system.conf."""
        units = tuple(map(self._files.listing, DIRECTORIES))
        if [*map(id, units)] != [*map(id, self._units)]:  # a directory can have hundreds of names
            self._units = units
            self._inner = [
                f"{directory}/{name}"
                for directory, names in zip(DIRECTORIES, units, strict=True)
                for name in names
                if name.endswith(("service.d", "timer.d")) or _enables(name)
            ]
        return (*units, *map(self._files.listing, self._inner), *self._manager.names())

    def directories(self) -> tuple[str, ...]:
        """Return the directories of units, of drop-ins and of enabled units. The last call of `listings` found them."""
        return (*DIRECTORIES, *self._inner)

    def _is_current(self, used: Mapping[EntryKey, Entry]) -> bool:
        """Return whether no file has changed, and record the files in the reader."""
        return all(self._reader.entry(each.path) is each for each in used.values())

    def _find(self) -> Iterator[Service]:
        defaults = self._manager.environment()
        for unit in self.enabled("service"):
            paths = [*self._paths(unit)]
            if not paths or self._value(paths[0], parse_unit) is None:  # masked, for example
                continue
            found = settings([(path, self._value(path, parse_unit) or ()) for path in paths])
            mentioned, commands, has_component = dict[str, Service](), found.get("ExecStart", []), False
            for command in commands:
                if service := self._service(unit, command, found, paths, defaults):
                    has_component = True
                    yield service
                elif service := _mentioned(unit, command):
                    mentioned.setdefault(service.component, service)
            yield from mentioned.values()
            if not (has_component or mentioned) and (service := _named(unit, commands)):
                yield service

    def _find_faults(self) -> Iterator[tuple[str, str]]:
        """Yield each file of systemd or of an enabled unit that certmond cannot read, with a fact about this file.

        Omit missing files, and masked units, which are symlinks to a character device.
        """
        yield from self._manager.faults()
        for path in dict.fromkeys(path for unit in self.enabled("service") for path in self._paths(unit)):
            entry = self._reader.entry(path)
            if entry.fault and not (entry.missing or entry.is_character_device):
                yield path, entry.fault.detail

    def enabled(self, kind: str) -> dict[str, tuple[str, ...]]:
        """Return the enabled units of a kind, such as "service", sorted by name. Omit units after the first _MAX_FILES.

        The value of a unit contains the paths of the symlinks that enable the unit, in order of `DIRECTORIES`.
        """
        found = dict[str, tuple[str, ...]]()
        for directory in DIRECTORIES:
            for group in filter(_enables, self._files.listing(directory)):
                for name in self._files.listing(f"{directory}/{group}"):
                    if name.endswith(f".{kind}") and name.isprintable():
                        found[name] = (*found.get(name, ()), f"{directory}/{group}/{name}")
        return dict(sorted(found.items())[:_MAX_FILES])

    def path(self, unit: str) -> str:
        """Return the path of a unit file, or "" for a missing or masked unit."""
        path = next(self._paths(unit), "")
        return path if path and not self._reader.entry(path).fault else ""

    def commands(self, service: str) -> list[str]:
        """Return the commands of a service, in order. Return [] for a missing or masked service.

        Omit the characters before the path of the program, which change how systemd starts it (systemd.service(5)).
        """
        paths = [*self._paths(service)] if self.path(service) else []
        found = settings([(path, self._value(path, parse_unit) or ()) for path in paths])
        commands = (each for name in ("ExecStartPre", "ExecStart", "ExecStartPost") for each in found.get(name, ()))
        return [with_specifiers(each.text, service).lstrip("@-:+!|") for each in commands]

    def started_by(self, timer: str) -> str:
        """Return the unit that a timer starts."""
        found = settings([(path, self._value(path, parse_timer) or ()) for path in self._paths(timer)])
        default = f"{timer.removesuffix('.timer')}.service"
        return next((with_specifiers(each.text, timer) for each in reversed(found.get("Unit", ()))), default)

    def _paths(self, unit: str) -> Iterator[str]:
        """Yield the paths of a unit and of its drop-ins, in the order in which systemd reads these files."""
        whole, _, kind = unit.rpartition(".")
        stem, at, _ = whole.partition("@")
        names = [unit, f"{stem}@.{kind}"] if at else [unit]
        files = [f"{each}/{name}" for name in names for each in DIRECTORIES if name in self._files.listing(each)]
        yield from files[:1]
        drop_ins = dict[str, str]()
        prefixes = [stem[: number + 1] for number, character in enumerate(stem) if character == "-"]
        for name in (kind, *(f"{prefix}.{kind}" for prefix in prefixes), *reversed(names)):
            for directory in reversed(DIRECTORIES):
                inner = f"{name}.d" in self._files.listing(directory) and self._files.listing(f"{directory}/{name}.d")
                for each in inner or ():
                    if each.endswith(".conf") and each.isprintable():
                        drop_ins[each] = f"{directory}/{name}.d/{each}"
        yield from (drop_ins[each] for each in sorted(drop_ins)[:_MAX_FILES])

    def _value(self, path: str, parse: Parser[_T]) -> _T | None:
        self._reader.entry(path)
        return self._files.value(path, parse)

    def _service(
        self, unit: str, command: Word, found: Mapping[str, list[Word]], paths: list[str], defaults: Environment
    ) -> Service | None:
        own = command_line(command, {}, unit)
        if not own or program_of([each.text for each in own])[0] not in PROGRAMS:
            return None
        files = dict.fromkeys((*paths, *(file for _, file in defaults.values())))
        obstacle = next(filter(None, map(self._reader.changeable, files)), "")
        for name in _OTHER_ROOTS:
            if found.get(name):
                obstacle = obstacle or f"{unit} sets {name}=, so the paths in the unit are not paths on this host"
        environment = dict(defaults)
        for word in found.get("Environment", ()):
            pairs = (with_specifiers(each, unit).partition("=") for each in split_words(word.text))
            environment.update((name, (value, word.file)) for name, is_set, value in pairs if is_set)
        faults = list[tuple[str, str]]()
        for word in found.get("EnvironmentFile", ()) if not obstacle else ():
            path = with_specifiers(word.text, unit)
            variables, fault = self._variables(path.removeprefix("-"), optional=path.startswith("-"))
            environment.update((name, (value, path.removeprefix("-"))) for name, value in variables.items())
            obstacle = obstacle or (self._reader.changeable(path.removeprefix("-")) if variables else "")
            if fault:
                faults.append((word.file, fault))
        for word in found.get("UnsetEnvironment", ()):  # after all other settings (systemd.exec(5))
            for each in split_words(word.text):
                name, is_given, value = with_specifiers(each, unit).partition("=")
                if name in environment and (not is_given or environment[name][0] == value):
                    del environment[name]
        words = command_line(command, environment, unit)
        program, arguments = program_of([each.text for each in words])
        if only_prints(arguments):
            return None
        flags = flags_of(program, arguments, [(name, value) for name, (value, _) in environment.items()])
        variables = flag_variables(program, environment)
        if program != ETCD:  # `flags_of` has those of etcd
            given = [(flag, environment[name][0]) for flag, name in variables.items()]
            flags = (*given, *endpoint_flags(given), *flags)
        found_in = {flag: Place(environment[name][1], name) for flag, name in variables.items()}
        found_in |= {flag: Place(file, f"--{flag}") for flag, file in places(words).items()}
        others = (Variable(name, value, file) for name, (value, file) in environment.items())
        mounts = self._mounts(unit, found)
        container = Container(program, flags, mounts, program, variables_of(program, flags, others))
        subcommand = subcommand_of(program, arguments)
        return Service(PROGRAMS[program], container, command.file, found_in, obstacle, tuple(faults), subcommand)

    def _mounts(self, unit: str, found: Mapping[str, list[Word]]) -> dict[str, str | None]:
        """Return the mounts in the namespace of a service, as in `Container`."""
        mounts = dict[str, str | None]({"": None} if any(map(found.get, _OTHER_ROOTS)) else {})
        for point, source, optional in unit_mounts(found, unit):
            if not (optional and source and source.isprintable() and self._reader.entry(source).missing):
                mounts[point] = source
        return mounts

    def _variables(self, path: str, *, optional: bool) -> tuple[Mapping[str, str], str]:
        """Return the variables of an environment file, and why certmond cannot read this file.

        The second value is "" if certmond can read the file, or if the file is optional and missing.
        """
        if not path.startswith("/") or any(character in "*?[%" for character in path) or not path.isprintable():
            return {}, f"EnvironmentFile={path[:200]} is not the path of a single file"
        entry, variables = self._reader.entry(path), self._value(path, parse_environment)
        if variables is None and entry.fault and not (optional and entry.missing):
            return {}, entry.fault.detail
        return variables or {}, ""


def _mentioned(unit: str, command: Word) -> Service | None:
    """Return the component, without flags, that a command of another program mentions.

    Return None if the command mentions no component.
    """
    words = [each.text for each in command_line(command, {}, unit)]
    component = mentioned_component(words)
    return _unclear(component, words, command) if component else None


def _named(unit: str, commands: Sequence[Word]) -> Service | None:
    """Return the component in the name of a unit, or None. For example, etcd.service can run `podman kube play`."""
    component = PROGRAMS.get(program_name(unit.removesuffix(".service").partition("@")[0]))
    words = [each.text for each in command_line(commands[0], {}, unit)] if commands else []
    if not (component and words):
        return None
    found = _unclear(component, words, commands[0])
    return replace(found, obstacle=found.faults[0][1])  # so that this unit is not the source of all flags


def _unclear(component: str, words: Sequence[str], command: Word) -> Service:
    """Return a component whose flags certmond cannot find in the command."""
    fact = f"certmond cannot determine which words in the command line of {words[0][:200]} are flags of {component}"
    return Service(component, Container(component, (), {}, component), command.file, faults=((command.file, fact),))


def _enables(name: str) -> bool:
    """Return whether a directory of this name enables units."""
    return name.endswith((".wants", ".requires", ".upholds"))
