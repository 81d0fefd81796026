"""The latest time at which a service that does not run now might have run.

The evidence is the start of the node, the end of the service, its log files, and the last change to its unit file. For
a container that crashes repeatedly, the evidence also includes the starts of its previous attempts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

from certmond.pki.services.outage import BACK_OFF, STEADY
from certmond.services.containers import log_directories, process_start, runs_anywhere
from certmond.services.observed_subjects import Pod

_INIT = 1
"""PID of the first process. This process starts with the node, even if the node is a container."""


def pod_idle_since(
    pod: Pod, proc: str = "/proc", logs: str = "/var/log/pods", pods: str = "/var/lib/kubelet/pods"
) -> datetime | None:
    """Return the latest time at which the container of a Pod might have run steadily.

    Return None if a process runs the program of the container, or if certmond cannot read the start of the node. Raises
    RestartError if `logs` exists but is unreadable.
    """
    began = process_start(_INIT, proc)
    if began is None or runs_anywhere(pod.executable, proc):
        return None
    directories = list(log_directories(pod, logs))
    lines = [changed for directory in directories for changed in _changes(_files(directory))]
    starts = [start for directory in directories for start in _attempts(directory, pods)]
    return max(began, _end_of_steady_run(max(lines), starts)) if lines else began


def unit_idle_since(path: str, exits: Iterable[datetime], proc: str = "/proc") -> datetime | None:
    """Return the latest time at which the unit with the unit file `path` might have run.

    `exits` are the times at which the unit ended. Return None if certmond cannot read the start of the node.
    """
    began = process_start(_INIT, proc)
    return max((began, *exits, *_changes([path]))) if began else None


def _end_of_steady_run(end: datetime, starts: Iterable[datetime]) -> datetime:
    """Return the latest time at which a steady run of a container might have ended, or the start of its first attempt.

    The last attempt ended at `end`. For an earlier attempt, only the start of the next attempt is known. The kubelet
    delays the next attempt after a run that was not steady.
    """
    steady = STEADY
    for start in sorted((start for start in starts if start <= end), reverse=True):
        if end - start >= steady:
            break
        end, steady = start, STEADY + BACK_OFF
    return end


def _attempts(log_directory: str, pods: str) -> Iterator[datetime]:
    """Yield the starts of the attempts of the container that logs into NAMESPACE_POD_UID/CONTAINER.

    For each attempt, the kubelet creates a file for the termination message of the container
    (pkg/kubelet/kuberuntime/kuberuntime_container.go, makeMounts). The kubelet keeps this file as long as the Pod. The
    kubelet keeps only the logs of the last attempts.
    """
    pod, container = os.path.split(log_directory)
    for path in _files(os.path.join(pods, pod.rpartition("_")[2], "containers", container)):
        with suppress(OSError, ValueError, OverflowError):  # as in `_changes`
            yield datetime.fromtimestamp(os.stat(path).st_mtime, UTC)  # a change of the mode or label is no start


def _files(directory: str) -> Iterator[str]:
    with suppress(OSError):  # the kubelet has removed the directory
        yield from (os.path.join(directory, name) for name in os.listdir(directory))


def _changes(paths: Iterable[str]) -> Iterator[datetime]:
    """Yield the time of the last change (ctime) of each file."""
    for path in paths:
        with suppress(OSError, ValueError, OverflowError):  # the file was removed, or its ctime is out of range
            yield datetime.fromtimestamp(os.stat(path).st_ctime, UTC)
