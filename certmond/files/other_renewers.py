"""Observation of other programs on the node that renew the certificates of kubeadm.

systemd or cron starts such a program. certmond reads the enabled timers and services, the crontabs, and the scripts
that these files name. certmond sends no request to systemd.
"""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from certmond.files.cache import Files
from certmond.files.cache_entry import Entry
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.unit_files import UnitFiles
from certmond.pki.catalog.other_renewer_spec import Renewer
from certmond.pki.catalog.renewal_commands import runs_renewal, started_programs

_CRON_DIRECTORY = "/etc/cron.d"
_USER_CRONTABS = ("/var/spool/cron/crontabs/root", "/var/spool/cron/tabs/root", "/var/spool/cron/root")
"""The crontab of root: on Debian, SUSE and Red Hat."""
_SCRIPT_DIRECTORIES = tuple(f"/etc/cron.{period}" for period in ("hourly", "daily", "weekly", "monthly"))
_IGNORED = re.compile(r"\..*|.*(~|\.swp|\.rpm(save|orig|new)|\.dpkg-\w+|,v)")
"""The names in directories of cron that cron and run-parts ignore."""
_OPERATOR_DIRECTORIES = ("/etc/systemd/system/", "/run/systemd/system/")
_DEBIAN = "/etc/debian_version"
_DEBIAN_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""The names in directories of cron that cron and run-parts of Debian do not ignore."""
_MAX_SCRIPT = 64 << 10
"""Maximum size of a script in bytes. certmond does not read larger files, which are usually programs."""
_MAX_PATHS = 64
"""Maximum number of possible paths of the scripts and programs of a job."""
_MAX_LEVELS = 3
"""Maximum number of scripts of which each one starts the next one."""
_SEARCH_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_PROGRAM = re.compile(r"[\w.+-]+")
_VARIABLE = re.compile(r"""\s*["']?(\w+)["']?\s*=(.*)""")
_TIME = re.compile(r"\s*(?:@\w+|(?:\S+\s+){4}\S+)\s+")
_ANACRON_TIME = re.compile(r"\s*\S+\s+\S+\s+\S+\s+")
_USER = re.compile(r"\S+\s+")
_INPUT = re.compile(r"(?<!\\)%.*")
"""The standard input of a command in a crontab."""


class OtherRenewers:
    """Finder of other programs that renew the certificates of kubeadm."""

    def __init__(self, reader: DocumentReader, files: Files, units: UnitFiles) -> None:
        self._reader, self._files, self._units = reader, files, units
        self._names: tuple[tuple[str, ...], ...] = ()
        self._used: tuple[Entry, ...] | None = None
        self._found: tuple[Renewer, ...] = ()

    def found(self) -> tuple[Renewer, ...]:
        """Return the programs that systemd starts, then those that cron starts, as the same object without a change."""
        directories = (_CRON_DIRECTORY, *_SCRIPT_DIRECTORIES)
        names = (*self._units.listings(), *map(self._files.listing, directories))
        if names != self._names or self._used is None or not self._is_current(self._used):
            before, self._reader.used = self._reader.used, {}
            self._names, self._found = names, (*self._of_systemd(), *self._of_cron())
            self._used = tuple(self._reader.used.values())
            self._reader.used = before | self._reader.used
        return self._found

    def _is_current(self, used: tuple[Entry, ...]) -> bool:
        """Return whether no file has changed, and keep the files watched."""
        return all(self._files.entry(each.path, each.referrer) is each for each in used)

    def _of_systemd(self) -> Iterator[Renewer]:
        """Yield the enabled timers and services that renew certificates. Omit masked units, and a timer's service.

        A service without a timer renews at each boot, or again and again if its script contains a loop.
        """
        timers = {timer: self._units.started_by(timer) for timer in self._units.enabled("timer")}
        timers = {timer: service for timer, service in timers.items() if self._units.path(timer)}
        for timer, service in timers.items():
            if (script := self._script_of(service)) is not None:
                yield from self._of_unit(timer, "timer", script)
        for service in self._units.enabled("service"):
            if service not in timers.values() and (script := self._script_of(service)) is not None:
                yield from self._of_unit(service, "service", script)

    def _script_of(self, service: str) -> str | None:
        """Return the script through which a service renews certificates, as `_script` does for a command."""
        scripts = (self._script(command, self._units.path(service)) for command in self._units.commands(service))
        return next((each for each in scripts if each is not None), None)

    def _of_unit(self, unit: str, kind: str, script: str) -> Iterator[Renewer]:
        if path := self._units.path(unit):
            stop = _stop(unit, path, self._units.enabled(kind)[unit])
            yield Renewer(_name(unit), path, 0, script, f"run: {stop}")

    def _of_cron(self) -> Iterator[Renewer]:
        for path in ("/etc/crontab", *(f"{_CRON_DIRECTORY}/{name}" for name in self._names_in(_CRON_DIRECTORY))):
            yield from self._of_crontab(path, (_TIME, _USER), "remove this line")
        yield from self._of_crontab("/etc/anacrontab", (_ANACRON_TIME,), "remove this line")
        for path in _USER_CRONTABS:
            yield from self._of_crontab(path, (_TIME,), "remove this line: crontab -u root -e")
        for directory in _SCRIPT_DIRECTORIES:
            for name in self._names_in(directory):
                path = f"{directory}/{name}"
                is_run = self._reader.entry(path).mode & stat.S_IXUSR
                if is_run and (script := self._script(path, path)) is not None:
                    yield Renewer(_name(name), path, 0, script if script != path else "", f"run: chmod a-x {path}")

    def _names_in(self, directory: str) -> Iterator[str]:
        """Yield the names in a directory of cron that cron and run-parts do not ignore."""
        is_debian = not self._reader.entry(_DEBIAN).missing
        for name in self._files.listing(directory):
            if _DEBIAN_NAME.fullmatch(name) if is_debian else not _IGNORED.fullmatch(name):
                yield name

    def _of_crontab(self, path: str, fields: Sequence[re.Pattern[str]], stop: str) -> Iterator[Renewer]:
        """Yield the first line of a crontab that renews certificates. `fields` are the fields before the command."""
        self._reader.entry(path)
        directories: Sequence[str] = _SEARCH_PATH
        for line in self._files.value(path, _parse_crontab) or ():
            if variable := _VARIABLE.fullmatch(line.text):
                if variable[1] == "PATH":
                    directories = variable[2].strip("\"' \t\r").split(":")
                continue
            command = _INPUT.sub("", line.text)
            for each in fields:
                command = each.sub("", command, count=1)
            if (script := self._script(command, path, directories)) is not None:
                name = posixpath.basename(path)
                yield Renewer(_name(f"crontab-{name}" if name == "root" else name), path, line.number, script, stop)
                return

    def _script(self, command: str, file: str, directories: Sequence[str] = _SEARCH_PATH) -> str | None:
        """Return the script through which the command in `file` renews certificates.

        Return "" if the command itself renews certificates, and None if the command does not renew certificates.
        Follow the scripts that a script starts. Search a program without a path in `directories`.
        """
        if runs_renewal(command):
            return ""
        seen, found = set[str](), [*started_programs(command)]
        for _ in range(_MAX_LEVELS):
            started = list[str]()
            for path in (path for name in found for path in _paths(name, directories)):
                if path in seen or len(seen) >= _MAX_PATHS:
                    continue
                seen.add(path)
                if script := self._read(path, file):
                    if script.renews:
                        return path
                    started += (each for each in script.starts if "/" in each or each.endswith(".sh"))
            found = started
        return None

    def _read(self, path: str, file: str) -> _Script | None:
        """Return the script `path`, which `file` names. Return None for a file that is not a script."""
        referrer = self._reader.referrer(file)
        entry = self._reader.entry(path, referrer)
        if entry.size is None or entry.size > _MAX_SCRIPT:
            return None
        script = self._files.value(path, _parse_script, referrer)
        return script if script and (script.is_marked or entry.mode & stat.S_IXUSR) else None


class _Script(NamedTuple):
    """A script that certmond has read. `is_marked` is true if the first line of the script names an interpreter."""

    is_marked: bool
    renews: bool
    starts: tuple[str, ...]


class _Line(NamedTuple):
    """A line of a crontab, numbered from 1."""

    number: int
    text: str


def _stop(unit: str, path: str, links: Sequence[str]) -> str:
    """Return the commands that stop a unit with this path, also after a boot. `links` are the symlinks that enable it.

    `systemctl disable` removes only symlinks in the directories of the operator, and those in /run only with --runtime.
    `systemctl mask` fails if a file with the name of the unit is in /etc/systemd/system.
    """
    others = [link for link in links if not link.startswith(_OPERATOR_DIRECTORIES)]
    if not others:
        until_boot = " --runtime" if all(link.startswith("/run/") for link in links) else ""
        return f"systemctl disable --now{until_boot} {unit}"
    if path != f"/etc/systemd/system/{unit}":
        return f"systemctl mask --now {unit}"
    return f"rm {' '.join(links)}; systemctl stop {unit}"


def _parse_crontab(data: bytes, _path: str) -> tuple[_Line, ...]:
    lines = enumerate(data.decode("utf-8", "replace").split("\n"), start=1)
    return tuple(_Line(number, text) for number, text in lines if text.strip() and not text.lstrip().startswith("#"))


def _parse_script(data: bytes, _path: str) -> _Script:
    text = data.decode("utf-8", "replace") if b"\0" not in data else ""
    return _Script(text.startswith("#!"), runs_renewal(text), started_programs(text))


def _paths(name: str, directories: Sequence[str]) -> Iterator[str]:
    """Yield the possible paths of a program. Yield nothing for a name with a variable."""
    if name.startswith("/") and name.isprintable() and "$" not in name:
        yield name
    elif _PROGRAM.fullmatch(name):
        yield from (f"{directory}/{name}" for directory in directories if directory.startswith("/"))


def _name(text: str) -> str:
    """Return `text` as a valid name of an entry."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-")[:63] or "renewer"
