"""The latest time at which a service that does not run now might have run.

The evidence is the start of the node, the end of the service, its log files, and the last change to its unit file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

from certmond.services.containers import Pod, log_directories, process_start, runs_anywhere

_INIT = 1
"""PID of the first process. This process starts with the node, even if the node is a container."""


def pod_idle_since(pod: Pod, proc: str = "/proc", logs: str = "/var/log/pods") -> datetime | None:
    """Return the latest time at which the container of a Pod might have run.

    Return None if a process runs the program of the container, or if certmond cannot read the start of the node.
    """
    began = process_start(_INIT, proc)
    if began is None or runs_anywhere(pod.executable, proc):
        return None
    return max((began, *_changes(_log_files(pod, logs))))


def unit_idle_since(path: str, exits: Iterable[datetime], proc: str = "/proc") -> datetime | None:
    """Return the latest time at which the unit with the unit file `path` might have run.

    `exits` are the times at which the unit ended. Return None if certmond cannot read the start of the node.
    """
    began = process_start(_INIT, proc)
    return max((began, *exits, *_changes([path]))) if began else None


def _log_files(pod: Pod, logs: str) -> Iterator[str]:
    for directory in log_directories(pod, logs):
        with suppress(OSError):  # the kubelet has removed the directory
            yield from (os.path.join(directory, name) for name in os.listdir(directory))


def _changes(paths: Iterable[str]) -> Iterator[datetime]:
    """Yield the time of the last change (ctime) of each file."""
    for path in paths:
        with suppress(OSError, ValueError, OverflowError):  # the file was removed, or its ctime is out of range
            yield datetime.fromtimestamp(os.stat(path).st_ctime, UTC)
