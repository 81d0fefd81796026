"""The latest time at which a service that does not run may have run.

The evidence is the start of the node, the end of the service, its log, and the last change of its unit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

from certmond.services.containers import Pod, log_directories, process_start, runs_anywhere

_INIT = 1
"""PID of the first process, which starts with the node, also if the node is a container."""


def pod_idle_since(pod: Pod, proc: str = "/proc", logs: str = "/var/log/pods") -> datetime | None:
    """Return the latest time at which the container of a Pod may have run.

    Return None if a process of its program runs, or if certmond cannot see the processes of the node.
    """
    began = process_start(_INIT, proc)
    if began is None or runs_anywhere(pod.executable, proc):
        return None
    return max((began, *_changes(_log_files(pod, logs))))


def unit_idle_since(path: str, exits: Iterable[datetime], proc: str = "/proc") -> datetime | None:
    """Return the latest time at which the unit `path` may have run, or None if certmond cannot see its node.

    `exits` are the times at which the unit ended.
    """
    began = process_start(_INIT, proc)
    return max((began, *exits, *_changes([path]))) if began else None


def _log_files(pod: Pod, logs: str) -> Iterator[str]:
    for directory in log_directories(pod, logs):
        with suppress(OSError):  # the kubelet has removed the directory meanwhile
            yield from (os.path.join(directory, name) for name in os.listdir(directory))


def _changes(paths: Iterable[str]) -> Iterator[datetime]:
    """Yield the time of the last change (ctime) of each file."""
    for path in paths:
        with suppress(OSError, ValueError, OverflowError):  # removed meanwhile, or a time that is out of range
            yield datetime.fromtimestamp(os.stat(path).st_ctime, UTC)
