"""The processes of components that services of systemd have started on this host, with the flags of each process.

A process counts if its control group belongs to a service other than the service of certmond. The process must also
have the root directory of certmond. Processes of containers and of login sessions therefore do not count.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import NamedTuple

from certmond.files.mount_table import parse_mounts
from certmond.formats.manifest import Container, flags_of
from certmond.formats.started_program import STARTERS, program_name, program_of
from certmond.pki.catalog.component_certificate_flags import PROGRAMS

_UIDS = re.compile(rb"^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$", re.MULTILINE)
_CANDIDATES = STARTERS | PROGRAMS.keys()
_MAX_BYTES = 1 << 17
_MAX_WORD = 4096  # characters; a longer word names no file
_MAX_OF_USERS = 4
"""The maximum number of processes of users other than root, for each program of a service."""


class ComponentProcess(NamedTuple):
    """A process of a component, with its service, its flags, and the reason not to trust these flags, or ""."""

    unit: str
    program: str
    flags: tuple[tuple[str, str], ...]
    obstacle: str = ""
    unread: str = ""  # a fact if certmond has not read the flags

    @property
    def component(self) -> str:
        """Name of the component."""
        return PROGRAMS[self.program]

    @property
    def container(self) -> Container:
        """Component with its flags."""
        return Container(self.program, self.flags, {}, self.program)


def component_processes(proc: str = "/proc") -> tuple[ComponentProcess, ...]:
    """Return the processes of components in the order of their units. Omit processes that end during the search."""
    own_unit, own_root = _unit(proc, "self"), _root(proc, "self")
    found, of_users = set[ComponentProcess](), Counter[tuple[str, str]]()
    for pid in _pids(proc):
        words, unread = _words(proc, pid)
        unit = _unit(proc, pid) if words and program_name(words[0]) in _CANDIDATES else ""
        if not unit or unit == own_unit or own_root is None or _root(proc, pid) != own_root:
            continue
        program, arguments = program_of(words)
        if program not in PROGRAMS:
            continue
        obstacle = _obstacle(proc, pid)
        if obstacle and of_users[unit, program] >= _MAX_OF_USERS:
            fact = f"users other than root run more than {_MAX_OF_USERS} such processes"
            found.add(ComponentProcess(unit, program, (), unread=fact))
            continue
        flags = () if unread else flags_of(program, arguments)
        process = ComponentProcess(unit, program, flags, obstacle, unread)
        of_users[unit, program] += bool(obstacle) and process not in found
        found.add(process)
    return tuple(sorted(found))


def _pids(proc: str) -> list[str]:
    try:
        return sorted((name for name in os.listdir(proc) if name.isdecimal()), key=int)
    except OSError:
        return []


def _words(proc: str, pid: str) -> tuple[list[str], str]:
    """Return the words of a command line, and a fact if the command line is too long, otherwise ""."""
    line = _read(proc, pid, "cmdline")
    words = line[:_MAX_BYTES].decode("utf-8", "replace").split("\0")
    fact = f"the command line of this process has more than {_MAX_BYTES} bytes" if len(line) > _MAX_BYTES else ""
    return [word[:_MAX_WORD] for word in (words if words[-1] else words[:-1])], fact


def _unit(proc: str, pid: str) -> str:
    """Return the service whose control group contains the process, or "" if there is no such service.

    A control group below the control group of a service belongs to a container or to a systemd user manager. systemd
    creates its control groups in the hierarchy of version 2, in its own hierarchy of version 1, or in both
    (cgroups(7)).
    """
    groups = set[str]()
    for line in os.fsdecode(_read(proc, pid, "cgroup")).split("\n"):
        _, _, rest = line.partition(":")
        controllers, is_group, path = rest.partition(":")
        if is_group and controllers in {"", "name=systemd"} and path != "/":
            groups.add(path)
    if len(groups) != 1:
        return ""
    *slices, name = groups.pop().split("/")
    is_unit = name.endswith(".service") and name.isprintable()
    return name if is_unit and not any(each.endswith((".service", ".scope")) for each in slices) else ""


def _root(proc: str, pid: str) -> tuple[str, str] | None:
    """Return the device of the root directory of a process, and the path of this directory on the device.

    Return None if the root directory is unknown.
    """
    roots = [(mount.device, mount.root) for mount in parse_mounts(_read(proc, pid, "mountinfo")) if mount.point == "/"]
    return roots[-1] if roots else None


def _obstacle(proc: str, pid: str) -> str:
    """Return the reason not to trust the flags of a process, or "" if certmond can trust them.

    The user who runs a process can change the command line of this process.
    """
    match = _UIDS.search(_read(proc, pid, "status"))
    if match is None:
        return "the user who runs this process is unknown"
    users = sorted({int(user) for user in match.groups()} - {0})
    return f"user {users[0]} runs this process, and can change its command line" if users else ""


def _read(proc: str, pid: str, name: str) -> bytes:
    """Return at most _MAX_BYTES + 1 bytes of a file of a process, or b"" if the process has ended or is hidden."""
    try:
        with open(os.path.join(proc, pid, name), "rb") as file:
            return file.read(_MAX_BYTES + 1)
    except OSError:
        return b""
