"""Search for the processes of static Pod containers on the host, without the container runtime.

The names of the kubelet's log directories contain the UIDs of Pods. The cgroup path of a process contains the UID of
the Pod to which the process belongs.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from certmond.errors import RestartError
from certmond.immutable_class import immutable
from certmond.pki.services.service_observation import ServiceSeen
from certmond.services.observed_subjects import Pod

_TICKS = os.sysconf("SC_CLK_TCK")  # clock ticks per second; times in /proc are in clock ticks

_ROOT = re.compile(rb"^Uid:(?:\t0){4}$", re.MULTILINE)  # real, effective, saved and file system user ID

_CONTAINER = re.compile(
    rb"(?:^|/)"
    rb"(?:kubepods(?:-burstable|-besteffort)?-)?pod(?P<uid>[^/:]+?)(?:\.slice)?"
    rb"[/:]"  # ":" if the kubelet uses the systemd cgroup driver, but the runtime does not
    # Do not match crio-conmon, which is not a container.
    rb"(?:(?:cri-containerd|crio|cri-o|docker)[-:])?(?P<container>[0-9a-f]{64})(?:\.scope)?"
    rb"(?:/container)?\Z"  # a nested cgroup of crun
)


@immutable
class RunningContainer:
    """A running container and its main process. `started_at` (UTC) is accurate to about 10 ms.

    `pid` and `ticks`, the start time in clock ticks, together identify the main process until the next boot.
    """

    pid: int
    container_id: str
    pod_uid: str
    started_at: datetime
    command: tuple[str, ...]
    ticks: int


def running_containers(
    pods: Collection[Pod], proc: str = "/proc", logs: str = "/var/log/pods"
) -> dict[Pod, list[RunningContainer]]:
    """Return, for each Pod, the running containers whose main process runs `executable`.

    Scan `proc` once for all Pods. Raises RestartError if `logs` exists but is unreadable.
    """
    uids = {pod: set[str]() for pod in pods}
    for pod, uid in _uids(pods, logs):
        uids[pod].add(_uid_with_hyphens(uid))
    wanted = set[str]().union(*uids.values())
    members = defaultdict[tuple[str, str], list[_Process]](list)
    for process in _processes(wanted, proc) if wanted else ():
        members[process.pod_uid, process.container_id].append(process)
    found = [each for group in members.values() if (each := _running_container(_main_process(group), proc))]
    return {
        pod: [each for each in found if each.pod_uid in uids[pod] and _program(each.command) == pod.executable]
        for pod in pods
    }


def service_state(found: Sequence[RunningContainer]) -> ServiceSeen:
    """Return the state of a service from the running containers of its Pod.

    The state is unknown if more than one container runs.
    """
    if not found:
        return ServiceSeen(running=False)
    if len(found) > 1:
        named = ", ".join(f"{each.container_id[:13]} (PID {each.pid})" for each in found)
        return ServiceSeen(
            running=None, problem=f"{len(found)} containers of the Pod run at the same time: {named}; see: crictl ps"
        )
    (only,) = found
    return ServiceSeen(True, only.container_id, only.started_at, command=only.command)


def process_start(pid: int, proc: str = "/proc") -> datetime | None:
    """Return the start time of a process (UTC), or None if certmond cannot read this time."""
    ticks = process_ticks(pid, proc)
    return None if ticks is None else ticks_to_time(ticks)


def process_ticks(pid: int, proc: str = "/proc") -> int | None:
    """Return the start time of a process in ticks since boot, or None if certmond cannot read this time.

    The ticks and the PID identify a process until the next boot.
    """
    try:
        times = _times(_read(proc, pid, "stat"))
    except OSError:
        return None
    return times[1] if times else None


def ticks_to_time(ticks: int) -> datetime | None:
    """Convert a start time in ticks since boot to a datetime (UTC), or return None if the time is out of range."""
    booted = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        return datetime.fromtimestamp(booted + ticks / _TICKS, UTC)
    except (ValueError, OverflowError):
        return None


def runs_anywhere(program: str, proc: str = "/proc") -> bool:
    """Return whether a process of root, or a process in a Pod, runs the program on this node.

    certmond ignores the processes of other users, because any user can choose the command line of a process.
    """
    pids = map(int, _pids(proc))
    return any(_program(_command(pid, proc)) == program and _is_of_root_or_pod(pid, proc) for pid in pids)


def log_directories(pod: Pod, logs: str = "/var/log/pods") -> Iterator[str]:
    """Yield the log directories of the container `pod`.

    Raises RestartError if `logs` exists but is unreadable.
    """
    for _, uid in _uids([pod], logs):
        yield os.path.join(logs, f"{pod.namespace}_{pod.name}_{uid}", pod.container)


def still_runs(found: RunningContainer, proc: str = "/proc") -> bool:
    """Return whether the PID still belongs to the process in `found`."""
    process = _process(found.pid, proc)
    return process is not None and (process.container_id, process.ticks) == (found.container_id, found.ticks)


class _Process(NamedTuple):
    pid: int
    parent: int
    ticks: int
    pod_uid: str
    container_id: str


def _uids(pods: Iterable[Pod], logs: str) -> Iterator[tuple[Pod, str]]:
    """Yield each Pod with each of its present and past UIDs.

    The UIDs are in the names of the kubelet's directories NAMESPACE_POD_UID/CONTAINER.
    """
    try:
        names = os.listdir(logs)
    except (FileNotFoundError, NotADirectoryError):  # no kubelet, no Pods
        return
    except OSError as error:
        detail = f"certmond cannot read {logs} ({error.strerror}), so it cannot identify the containers"
        raise RestartError(f"{detail}; give certmond read permission for this directory") from error
    directories = [(name, name.split("_")) for name in names]
    for pod in pods:
        for directory, parts in directories:
            of_pod = parts[:-1] == [pod.namespace, pod.name]
            if of_pod and os.path.isdir(os.path.join(logs, directory, pod.container)):
                yield pod, parts[-1]


def _processes(uids: Collection[str], proc: str) -> Iterator[_Process]:
    """Yield each process in a container of a Pod that has one of these UIDs."""
    for name in _pids(proc):
        if (process := _process(int(name), proc)) and process.pod_uid in uids:
            yield process


def _pids(proc: str) -> Iterator[str]:
    return (name for name in os.listdir(proc) if name.isascii() and name.isdigit())


def _process(pid: int, proc: str) -> _Process | None:
    """Return the process, or None if the process is not in a container or has ended."""
    try:
        group = _container(_read(proc, pid, "cgroup"))
        times = _times(_read(proc, pid, "stat")) if group else None
    except OSError:  # the process has ended
        return None
    return _Process(pid, *times, *group) if group and times else None


def _is_of_root_or_pod(pid: int, proc: str) -> bool:
    """Return whether all four user IDs of a process are root's, or the process is in a container of a Pod."""
    try:
        # The owner of /proc/PID is root for each process that is not dumpable, even of another user, see proc(5).
        is_of_root = _ROOT.search(_read(proc, pid, "status")) is not None
        return is_of_root or _container(_read(proc, pid, "cgroup")) is not None
    except OSError:  # the process has ended
        return False


def _container(cgroup: bytes) -> tuple[str, str] | None:
    """Return the Pod UID and the container ID from the content of /proc/PID/cgroup (cgroup v1 and v2).

    Return None unless the content names exactly one container.
    """
    paths = (line.split(b":", 2)[2] for line in cgroup.split(b"\n") if line.count(b":") >= 2)
    matches = filter(None, map(_CONTAINER.search, paths))
    pods_and_containers = {(_uid_with_hyphens(_text(match["uid"])), _text(match["container"])) for match in matches}
    return pods_and_containers.pop() if len(pods_and_containers) == 1 else None


def _times(stat: bytes) -> tuple[int, int] | None:
    """Return the parent PID and the start time in ticks from /proc/PID/stat, or None if the content is malformed."""
    fields = stat.rpartition(b")")[2].split()  # from field 3 on; the values are in the fields 4 and 22
    try:
        return int(fields[1]), int(fields[19])
    except (ValueError, IndexError):
        return None


def _main_process(group: Sequence[_Process]) -> _Process:
    """Return the main process of a container: the oldest process whose parent is outside the container.

    The parent of a process that `crictl exec` starts is also outside the container, but this process is younger.
    """
    inside = {process.pid for process in group}
    own = [process for process in group if process.parent not in inside]
    return min(own or group, key=lambda process: (process.ticks, process.pid))


def _running_container(process: _Process, proc: str) -> RunningContainer | None:
    command, started = _command(process.pid, proc), ticks_to_time(process.ticks)
    if not command or started is None:  # the process has ended
        return None
    return RunningContainer(process.pid, process.container_id, process.pod_uid, started, command, process.ticks)


def _command(pid: int, proc: str) -> tuple[str, ...]:
    """Return the command line of a process, or () if the process has ended."""
    try:
        words = _read(proc, pid, "cmdline").split(b"\0")
    except OSError:
        return ()
    return tuple(map(_text, words[:-1] if words[-1] == b"" else words))


def _program(command: Sequence[str]) -> str:
    return os.path.basename(command[0]) if command else ""


def _uid_with_hyphens(uid: str) -> str:
    """Return a Pod UID with hyphens. The name of a systemd slice contains underscores instead."""
    return uid.replace("_", "-")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _read(proc: str, pid: int, name: str) -> bytes:
    with open(os.path.join(proc, str(pid), name), "rb") as file:
        return file.read()
