"""State of a service from its PID file.

A service manager without an interface for its state, such as the Service Manager of StarlingX, finds the process of a
service in the same file (starlingx/ha 54c96623, service-mgmt/sm/src/sm_service_fsm.c,
sm_service_fsm_process_failure_register): the first word is the PID, and no file means that the service does not run.
"""

from __future__ import annotations

import os
import re
import stat
from datetime import UTC, datetime, timedelta

from certmond.path_trust import exposure
from certmond.pki.findings import printable
from certmond.pki.services.service_observation import ServiceSeen
from certmond.services.containers import process_start, process_ticks, ticks_to_time

_MOST = 64
"""Number of bytes that certmond reads of a PID file."""
_PID = re.compile(rb"\s*([1-9][0-9]{0,8})(?:\s|\Z)")
_WRITTEN_WITHIN = timedelta(seconds=5)
"""Tolerance for the comparison of the start of a process with the time of its PID file. A program writes the file after
the start, but the two clocks have different resolutions, and a time server can correct the system clock in between.
"""
_INIT = 1


def service_state(path: str, proc: str = "/proc") -> ServiceSeen:
    """Return the state of the service with the PID file `path`. Never raises an exception.

    Without the file, the service does not run. If the file names no process, the service does not run, and `problem`
    contains the fact. If certmond cannot determine the process, the state is unknown, and `problem` contains the cause.
    """
    try:
        if untrusted := exposure(path):
            return _unknown(path, untrusted, proc)
        written_at, content = _read(path)
    except (FileNotFoundError, NotADirectoryError):
        return ServiceSeen(running=False)
    except OSError as error:
        return _unknown(path, f"{path} is not readable ({printable(error.strerror or str(error))})", proc)
    match = _PID.match(content)
    if match is None:
        return _unknown(path, f"{path} contains no PID", proc, written_at)
    pid = int(match[1])
    ticks = process_ticks(pid, proc)
    started_at = None if ticks is None else ticks_to_time(ticks)
    if started_at is None:
        why = f"{path} names the process {pid}, which is not in {proc}"
        return ServiceSeen(False, problem=why, demanded_by=path, idle_since=_since(written_at, proc))
    instance = f"{pid}-{ticks}"
    if started_at > written_at + _WRITTEN_WITHIN:
        times = f"{path} was written at {_second(written_at)}, but the process {pid} started at {_second(started_at)}"
        why = f"{times}: another process has this PID now, or the system clock was set forward"
        return _unknown(path, why, proc, written_at, instance)
    return ServiceSeen(True, instance, started_at)


def _read(path: str) -> tuple[datetime, bytes]:
    """Return the time of the last write, and the first bytes. Raises OSError if `path` is no readable regular file."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        return datetime.fromtimestamp(status.st_mtime, UTC), os.read(file, _MOST)
    finally:
        os.close(file)


def _unknown(path: str, why: str, proc: str, written_at: datetime | None = None, instance: str = "") -> ServiceSeen:
    return ServiceSeen(None, instance, problem=why, demanded_by=path, idle_since=_since(written_at, proc))


def _since(written_at: datetime | None, proc: str) -> datetime | None:
    """Return the latest known time of activity: the last write to the file, or the start of the node."""
    return max((at for at in (written_at, process_start(_INIT, proc)) if at), default=None)


def _second(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
