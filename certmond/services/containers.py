"""Which process a static pod's container is: seen from the host, whatever the container runtime.

Owns the way from a name to a process: the kubelet's directory of logs tells a pod's uids, the control group of a
process its pod and its container, its first command word the program. So it takes neither a client of the runtime nor a
privilege, only a /proc that does not hide the processes of others. Sends no signal, opens no `exe`, judges nothing.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from certmond.errors import RestartError
from certmond.pki.services.model import ServiceSeen

_TICKS = os.sysconf("SC_CLK_TCK")  # a second, in /proc

_CONTAINER = re.compile(
    rb"(?:^|/)"
    rb"(?:kubepods(?:-burstable|-besteffort)?-)?pod(?P<uid>[^/:]+?)(?:\.slice)?"
    rb"[/:]"  # ":" where the kubelet is told systemd and the runtime is not
    # Not crio-conmon, which is no container.
    rb"(?:(?:cri-containerd|crio|cri-o|docker)[-:])?(?P<container>[0-9a-f]{64})(?:\.scope)?"
    rb"(?:/container)?\Z"  # a group of its own that crun makes inside
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """Which container of which static pod is meant.

    `container` is its name in the manifest. `name` is metadata.name of the manifest, "-" and the node's name, as the
    kubelet calls the mirror pod. `executable` is the last part of the container's first command word.
    """

    container: str
    name: str
    namespace: str = "kube-system"
    executable: str


@dataclass(frozen=True, slots=True)
class Found:
    """A container that runs, by its own process. `started_at` is by this host's clock (UTC), to about 10 ms.

    `ticks` is the same instant as the kernel counts it, which no change of the clock moves: with `pid` it names one
    process until the host is booted again.
    """

    pid: int
    container_id: str
    pod_uid: str
    started_at: datetime
    command: tuple[str, ...]
    ticks: int


def find(pods: Collection[Pod], proc: str = "/proc", logs: str = "/var/log/pods") -> dict[Pod, list[Found]]:
    """The running containers of each of the pods, in one look at `proc`: none, one, or more than one uid has left.

    Raises RestartError where `logs` is there and cannot be read: nobody could say then that nothing runs.
    """
    uids = {pod: set[str]() for pod in pods}
    for pod, uid in _uids(pods, logs):
        uids[pod].add(_plain(uid))
    wanted = set[str]().union(*uids.values())
    members = defaultdict[tuple[str, str], list[_Process]](list)
    for process in _processes(wanted, proc) if wanted else ():
        members[process.pod_uid, process.container_id].append(process)
    booted = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)
    found = [each for group in members.values() if (each := _found(_first(group), booted, proc))]
    return {
        pod: [each for each in found if each.pod_uid in uids[pod] and _program(each.command) == pod.executable]
        for pod in pods
    }


def seen(found: Sequence[Found]) -> ServiceSeen:
    """What `find` found of one pod, as a service."""
    if not found:
        return ServiceSeen(running=False)
    if len(found) > 1:
        named = ", ".join(f"{each.container_id[:13]} (PID {each.pid})" for each in found)
        return ServiceSeen(running=None, problem=f"{len(found)} of its containers run at once: {named}; see crictl ps")
    (only,) = found
    return ServiceSeen(True, only.container_id, only.started_at, command=only.command)


def is_still(found: Found, proc: str = "/proc") -> bool:
    """Whether its PID is the process that was found: in the same container, and started at the same instant."""
    process = _process(found.pid, proc)
    return process is not None and (process.container_id, process.ticks) == (found.container_id, found.ticks)


class _Process(NamedTuple):
    pid: int
    parent: int
    ticks: int
    pod_uid: str
    container_id: str


def _uids(pods: Iterable[Pod], logs: str) -> Iterator[tuple[Pod, str]]:
    """Each pod with each uid that it has or had: the kubelet names directories NAMESPACE_POD_UID/CONTAINER."""
    try:
        names = os.listdir(logs)
    except (FileNotFoundError, NotADirectoryError):  # no kubelet, no pods
        return
    except OSError as error:
        detail = f"{logs} cannot be read ({error.strerror}), so that no container can be told from another"
        raise RestartError(f"{detail}; let certmond read it") from error
    directories = [(name, name.split("_")) for name in names]
    for pod in pods:
        for directory, parts in directories:
            of_pod = parts[:-1] == [pod.namespace, pod.name]
            if of_pod and os.path.isdir(os.path.join(logs, directory, pod.container)):
                yield pod, parts[-1]


def _processes(uids: Collection[str], proc: str) -> Iterator[_Process]:
    """Every process that is in a container of one of these pods."""
    for name in os.listdir(proc):
        if name.isascii() and name.isdigit() and (process := _process(int(name), proc)) and process.pod_uid in uids:
            yield process


def _process(pid: int, proc: str) -> _Process | None:
    """None for a process that is in no container, or is no more."""
    try:
        group = _container(_read(proc, pid, "cgroup"))
        times = _times(_read(proc, pid, "stat")) if group else None
    except OSError:  # it has ended meanwhile
        return None
    return _Process(pid, *times, *group) if group and times else None


def _container(cgroup: bytes) -> tuple[str, str] | None:
    """(uid, container) by /proc/PID/cgroup, in hierarchies of version 1 and 2; None where they do not agree."""
    paths = (line.split(b":", 2)[2] for line in cgroup.split(b"\n") if line.count(b":") >= 2)
    matches = filter(None, map(_CONTAINER.search, paths))
    told = {(_plain(_text(match["uid"])), _text(match["container"])) for match in matches}
    return told.pop() if len(told) == 1 else None


def _times(stat: bytes) -> tuple[int, int] | None:
    """(parent, start in ticks) by /proc/PID/stat: fields 4 and 22. The name before them may hold anything."""
    fields = stat.rpartition(b")")[2].split()
    try:
        return int(fields[1]), int(fields[19])
    except (ValueError, IndexError):
        return None


def _first(group: Sequence[_Process]) -> _Process:
    """The container's own process: nobody's child in there, and of those (`crictl exec` makes more) the oldest."""
    inside = {process.pid for process in group}
    own = [process for process in group if process.parent not in inside]
    return min(own or group, key=lambda process: (process.ticks, process.pid))


def _found(process: _Process, booted: float, proc: str) -> Found | None:
    try:
        words = _read(proc, process.pid, "cmdline").split(b"\0")
        started = datetime.fromtimestamp(booted + process.ticks / _TICKS, UTC)
    except (OSError, ValueError, OverflowError):  # it has ended meanwhile, or no clock has such a time
        return None
    command = tuple(map(_text, words[:-1] if words[-1] == b"" else words))
    return Found(process.pid, process.container_id, process.pod_uid, started, command, process.ticks)


def _program(command: Sequence[str]) -> str:
    return os.path.basename(command[0]) if command else ""


def _plain(uid: str) -> str:
    """A uid in one way of writing: a systemd slice has "_" for its "-"."""
    return uid.replace("_", "-")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _read(proc: str, pid: int, name: str) -> bytes:
    with open(os.path.join(proc, str(pid), name), "rb") as file:
        return file.read()
