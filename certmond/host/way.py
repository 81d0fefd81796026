"""Where a path leads: symlinks followed one by one, as Linux does, but never above a root directory.

Owns the names that were looked up on the way, which are what has to be watched; that a symlink of a stranger, who is
neither root nor we, leads no further than he may go himself; and that what is opened is what was found. Else whoever
may write in a directory that is watched would read with our rights. Says why a path leads nowhere; reads no file.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from certmond.pki.reason import Fault, Reason

_MAX_HOPS = 40  # as many symlinks as Linux follows (path_resolution(7))
_ITSELF = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Way:
    """Where a path leads: the file itself, and every "directory/name" that was looked up on the way.

    `status` is that of the file, where it was seen. `strangers` own symlinks on the way, and are neither root nor we:
    what is there has to be `open_to` each of them.
    """

    real: str
    lookups: tuple[str, ...]
    is_link: bool = False
    fault: Fault | None = None
    status: os.stat_result | None = None
    strangers: frozenset[int] = frozenset()


def follow(path: str, start: str, *, root: str, called: str, strangers: frozenset[int] = frozenset()) -> Way:
    """Follow `path` from the directory `start`, symlinks included, never above the `root`; faults say `called`.

    `strangers` are those of the way to `start`.
    """
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
            link = _link(step) if stat.S_ISLNK(status.st_mode) else None
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError):  # a flag or a configuration can name what no file has: a NUL is in it
                error = OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return Way(step, tuple(lookups), is_link, fault_of(error, called, strangers), strangers=strangers)
        if link is None:
            current = step
            continue
        target, owner = link
        if owner not in {0, os.geteuid()}:
            strangers |= {owner}
        hops += 1
        if hops > _MAX_HOPS:
            fault = fault_of(OSError(errno.ELOOP, ""), called, strangers)
            return Way(step, tuple(lookups), True, fault, strangers=strangers)
        is_link = is_link or not pending
        if target.startswith("/"):
            current = root
        status = None
        pending += [piece for piece in reversed(target.split("/")) if piece not in {"", "."}]
    return Way(current, tuple(lookups), is_link, status=status, strangers=strangers)


def open_to(strangers: frozenset[int], real: str, status: os.stat_result, *, root: str) -> bool:
    """Whether each of `strangers` owns what is at `real`, or it is everybody's to read."""
    if strangers <= {status.st_uid}:
        return True
    needed = stat.S_IROTH
    while status.st_mode & needed:
        if real == root:
            return True
        real, needed = real.rpartition("/")[0], stat.S_IXOTH
        status = os.stat(real or "/")
    return False


def open_straight(real: str, flags: int) -> int:
    """A descriptor of what is at `real`, to which no symlink leads, whatever was swapped for one meanwhile."""
    descriptor = os.open(real, flags | os.O_NOFOLLOW)
    try:
        # The kernel's own name for it tells, and saves the opening of every directory on the way.
        if os.readlink(f"/proc/self/fd/{descriptor}") == real:
            return descriptor
    except OSError:
        pass  # no /proc: step by step, then
    os.close(descriptor)
    return _open_step_by_step(real, flags)


def fault_of(error: OSError, path: str, strangers: frozenset[int] = frozenset()) -> Fault:
    """The failure of a look at `path`, as a fact about it."""
    if strangers:
        return refusal(path, strangers)  # how it failed is what he must not be told
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return Fault(Reason.MISSING, f"{path} is not there")
    if error.errno == errno.ELOOP:
        return Fault(Reason.UNREADABLE, f"{path} is a loop of symlinks")
    return Fault(Reason.UNREADABLE, f"{path} cannot be read ({error.strerror or error})")


def refusal(path: str, strangers: frozenset[int]) -> Fault:
    """The one sentence for whatever a stranger's symlink leads to that is not his: it tells nothing of it."""
    whose = f"{path} is behind a symlink of user {', '.join(map(str, sorted(strangers)))}"
    fact = f"{whose}, which leads to nothing that is his or that everybody may read"
    return Fault(Reason.UNREADABLE, fact, "let root own the link, or give the path itself")


def _link(step: str) -> tuple[str, int] | None:
    """Target and owner of the symlink at `step`, of one and the same: it is held. None where it is one no more."""
    held = open_straight(step, _ITSELF)
    try:
        status = os.fstat(held)
        return (os.readlink("", dir_fd=held), status.st_uid) if stat.S_ISLNK(status.st_mode) else None
    finally:
        os.close(held)


def _open_step_by_step(real: str, flags: int) -> int:
    *directories, name = real.split("/")[1:]
    descriptor = os.open("/", _ITSELF | os.O_DIRECTORY)
    for directory in directories:
        try:
            deeper = os.open(directory, _ITSELF | os.O_DIRECTORY, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = deeper
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=descriptor)
    finally:
        os.close(descriptor)
