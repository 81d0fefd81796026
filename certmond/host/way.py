"""Where a path leads: symlinks followed one by one, as Linux does, but never above a root directory.

Owns the names that were looked up on the way, which are what has to be watched, and the sentence that says why it leads
nowhere. Reads symlinks and nothing else.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from certmond.pki.reason import Fault, Reason

_MAX_HOPS = 40  # as many symlinks as Linux follows (path_resolution(7))


@dataclass(frozen=True, slots=True)
class Way:
    """Where a path leads: the file itself, and every "directory/name" that was looked up on the way.

    `status` is that of the file, where it was seen.
    """

    real: str
    lookups: tuple[str, ...]
    is_link: bool = False
    fault: Fault | None = None
    status: os.stat_result | None = None


def follow(path: str, start: str, *, root: str, called: str) -> Way:
    """Follow `path` from the directory `start`, symlinks included, never above the `root`; faults say `called`."""
    current, hops = start, 0
    status: os.stat_result | None = None
    lookups: list[str] = []
    pending = [part for part in reversed(path.split("/")) if part not in {"", "."}]
    is_link = False
    while pending:
        part = pending.pop()
        if part == "..":
            current = current.rpartition("/")[0] if current != root else current
            status = None
            continue
        step = f"{current}/{part}"
        lookups.append(step)
        try:
            status = os.lstat(step)
            if not stat.S_ISLNK(status.st_mode):
                current = step
                continue
            target = os.readlink(step)
        except OSError as error:
            return Way(step, tuple(lookups), is_link, fault_of(error, called))
        hops += 1
        if hops > _MAX_HOPS:
            return Way(step, tuple(lookups), True, fault_of(OSError(errno.ELOOP, ""), called))
        is_link = is_link or not pending
        if target.startswith("/"):
            current = root
        status = None
        pending += [piece for piece in reversed(target.split("/")) if piece not in {"", "."}]
    return Way(current, tuple(lookups), is_link, status=status)


def fault_of(error: OSError, path: str) -> Fault:
    """The failure of a look at `path`, as a fact about it."""
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return Fault(Reason.MISSING, f"{path} is not there")
    if error.errno == errno.ELOOP:
        return Fault(Reason.UNREADABLE, f"{path} is a loop of symlinks")
    return Fault(Reason.UNREADABLE, f"{path} cannot be read ({error.strerror or error})")
