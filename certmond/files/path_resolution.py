"""Path resolution that follows symlinks one by one, as Linux does, but never above a root directory.

Owns the names that were looked up, which are the names to watch, and the rule for other users: neither root nor the
user of certmond. A symlink of another user leads only to files that this user can read, through directories that this
user can search. So does a path in a file that another user can change. The file that is opened is the one that was
found. Otherwise a user who can write one watched file could read with certmond's rights. Returns why a path does not
exist; reads no content.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, replace
from typing import NamedTuple

from certmond.pki.findings import Fault, Reason

_MAX_HOPS = 40  # the limit of Linux (path_resolution(7))
_ITSELF = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
ANYONE = -1
"""In place of a user ID: every user, if the group or others can write."""


class Blame(NamedTuple):
    """Why a path leads only to what other users can read: fact and remedy. It does not describe the target."""

    fact: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Referrer:
    """A file that names another file, and the other users that can change it."""

    path: str
    writers: frozenset[int]


@dataclass(frozen=True, slots=True)
class Way:
    """Where a path leads: the file itself, and every "directory/name" that was looked up.

    `status` is that of the file, if it was read. `strangers` have chosen a part of the path. The file must be `open_to`
    each of them, and `blame` is the reason. `writers` are the other users that can change where the path leads: the
    owners of the file, the directories and the symlinks, and `ANYONE` if the group or others can write. A directory
    with the sticky bit does not count, because users can replace only their own files in it.
    """

    real: str
    lookups: tuple[str, ...]
    is_link: bool = False
    fault: Fault | None = None
    status: os.stat_result | None = None
    strangers: frozenset[int] = frozenset()
    writers: frozenset[int] = frozenset()
    blame: Blame | None = None


def beginning(root: str, referrer: Referrer | None = None) -> Way:
    """Return the way to the root directory, for a path of certmond or a path that `referrer` names."""
    if referrer is None or not referrer.writers:
        return Way(root, ())
    return Way(root, (), strangers=referrer.writers, blame=_named_in(referrer))


def beside(referrer: Referrer, directory: Way) -> Way:
    """Return the way to the `directory` of a referrer with writers, for a name in it that the referrer gives."""
    strangers = directory.strangers | referrer.writers
    return replace(directory, lookups=(), is_link=False, strangers=strangers, blame=_named_in(referrer))


def follow(path: str, behind: Way, *, root: str, called: str) -> Way:
    """Follow `path` and its symlinks from the end of `behind`, never above `root`. Faults name `called`.

    `strangers` and `writers` of `behind` carry over. Where other users choose the path, each name is looked up only in
    a directory that each of them can search (path_resolution(7)). Otherwise a path such as
    `/closed/name/../../open/file` would disclose that the name exists. The names on the way to the directory where the
    part of the other users begins are not secret.
    """
    current, strangers, writers, blame = behind.real, behind.strangers, behind.writers, behind.blame
    mine, hops = {0, os.geteuid()}, 0
    home = behind.real if strangers else None
    status: os.stat_result | None = None
    lookups: list[str] = []
    pending = [part for part in reversed(path.split("/")) if part not in {"", "."}]
    is_link = False
    while pending:
        part = pending.pop()
        step = f"{current}/{part}"
        try:
            if strangers and not (f"{home}/".startswith(f"{step}/") or _can_search(strangers, current)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if part == "..":
                if status is not None and not stat.S_ISDIR(status.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                current, status = current.rpartition("/")[0] if current != root else current, None
                continue
            lookups.append(step)
            status = os.lstat(step)
            link = _link(step) if stat.S_ISLNK(status.st_mode) else None
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError):  # a flag or a configuration can contain a NUL, which no file name has
                error = OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            fault = fault_of(error, called, blame)
            return Way(step, tuple(lookups), is_link, fault, strangers=strangers, writers=writers, blame=blame)
        if link is None:
            if status.st_uid not in mine or status.st_mode & _OTHERS_WRITE:
                writers |= _writers_of(status)
            current = step
            continue
        target, owner = link
        if owner not in mine:
            strangers, writers = strangers | {owner}, writers | {owner}
            blame = blame or _behind_link_of(owner)
            home = current if home is None else home
        hops += 1
        if hops > _MAX_HOPS:
            fault = fault_of(OSError(errno.ELOOP, ""), called, blame)
            return Way(step, tuple(lookups), True, fault, strangers=strangers, writers=writers, blame=blame)
        is_link = is_link or not pending
        if target.startswith("/"):
            current = root
        status = None
        pending += [piece for piece in reversed(target.split("/")) if piece not in {"", "."}]
    return Way(current, tuple(lookups), is_link, None, status, strangers, writers, blame)


def open_to(strangers: frozenset[int], real: str, status: os.stat_result, *, root: str) -> bool:
    """Return whether each of `strangers` owns the file at `real`, or all users can read it."""
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
    """Return a descriptor of `real`, without following a symlink in any part, even if one was swapped in meanwhile."""
    descriptor = os.open(real, flags | os.O_NOFOLLOW)
    try:
        # The kernel's name of the descriptor proves it without opening every directory.
        if os.readlink(f"/proc/self/fd/{descriptor}") == real:
            return descriptor
    except OSError:
        pass  # without /proc: open each directory
    os.close(descriptor)
    return _open_step_by_step(real, flags)


def fault_of(error: OSError, path: str, blame: Blame | None = None) -> Fault:
    """Return an error of `path` as a fault; if it has a `blame`, the `refusal`."""
    if blame:
        return refusal(path, blame)  # the kind of error would tell the other user what is there
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return Fault(Reason.MISSING, f"{path} is not there")
    if error.errno == errno.ELOOP:
        return Fault(Reason.UNREADABLE, f"{path} is a loop of symlinks")
    return Fault(Reason.UNREADABLE, f"{path} cannot be read ({error.strerror or error})")


def refusal(path: str, blame: Blame) -> Fault:
    """Return the fault for a file that another user refers to and cannot read. It does not describe the file."""
    return Fault(Reason.UNREADABLE, f"{path} {blame.fact}", blame.remedy)


def _behind_link_of(user: int) -> Blame:
    # Only the first user: the others would disclose places that this one cannot see.
    fact = f"is behind a symlink of user {user}, and is nothing that this user can reach and owns"
    return Blame(f"{fact}, or that all users can read", "let root own the link, or give the path itself")


def named_users(writers: frozenset[int]) -> str:
    """Return these users as a phrase."""
    who = [f"user {user}" for user in sorted(writers - {ANYONE})]
    return " and ".join([*who, "other users"] if ANYONE in writers else who)


def _named_in(referrer: Referrer) -> Blame:
    named = f"is named in {referrer.path}, which {named_users(referrer.writers)} can change"
    remedy = f"chown root {referrer.path}, chmod go-w it and its directories, or name the file in an entry of its own"
    return Blame(f"{named}, and is no file that they can reach and own, or that all users can read", remedy)


def _can_search(strangers: frozenset[int], directory: str) -> bool:
    """Return whether each of `strangers` can look up a name in `directory`, as its owner or as any user."""
    status = os.lstat(directory or "/")
    owned = stat.S_IXUSR if strangers <= {status.st_uid} else 0
    return stat.S_ISDIR(status.st_mode) and bool(status.st_mode & (stat.S_IXOTH | owned))


def _writers_of(status: os.stat_result) -> frozenset[int]:
    """Return the other users that can change a file, or the names in a directory."""
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    anyone = {ANYONE} if status.st_mode & _OTHERS_WRITE and not sticky else set[int]()
    return frozenset({status.st_uid, *anyone} - {0, os.geteuid()})


def _link(step: str) -> tuple[str, int] | None:
    """Return target and owner of the symlink at `step`, from one descriptor, or None if it is not one."""
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
