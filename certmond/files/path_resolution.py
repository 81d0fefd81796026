"""Where a path leads: symlinks followed one by one, as Linux does, but never above a root directory.

Owns the names that were looked up on the way, which are what has to be watched, and the rule for strangers: users that
are neither root nor the user that certmond runs as. A symlink of a stranger, and a path in a file that a stranger can
change, lead only to what that user can read, through directories in which that user can look up a name. What is
opened is what was found. Otherwise a user who can write one watched file would read with certmond's rights. Says why
a path leads nowhere; reads no file.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, replace
from typing import NamedTuple

from certmond.pki.findings import Fault, Reason

_MAX_HOPS = 40  # as many symlinks as Linux follows (path_resolution(7))
_ITSELF = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
ANYONE = -1
"""In place of a user ID: every user, where the group or others may write."""


class Blame(NamedTuple):
    """Why a path leads only to what strangers can read: the fact, and what changes it. Says nothing of the target."""

    fact: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Referrer:
    """A file that names another one, and the strangers that can change it."""

    path: str
    writers: frozenset[int]


@dataclass(frozen=True, slots=True)
class Way:
    """Where a path leads: the file itself, and every "directory/name" that was looked up on the way.

    `status` is that of the file, where it was seen. `strangers` have chosen a part of the way: what is there has to be
    `open_to` each of them, and `blame` says why. `writers` are the strangers that can change what the path leads to:
    the owners of the file, of the directories and of the symlinks on the way, and `ANYONE` where the group or others
    may write. A directory with the sticky bit is left out: there, users can replace only files of their own.
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
    """Return the way to the root directory, for a path that the `referrer` names, or that certmond is given."""
    if referrer is None or not referrer.writers:
        return Way(root, ())
    return Way(root, (), strangers=referrer.writers, blame=_named_in(referrer))


def beside(referrer: Referrer, directory: Way) -> Way:
    """Return the way to the `directory` of a referrer with writers, for a name in it that the referrer gives."""
    strangers = directory.strangers | referrer.writers
    return replace(directory, lookups=(), is_link=False, strangers=strangers, blame=_named_in(referrer))


def follow(path: str, behind: Way, *, root: str, called: str) -> Way:
    """Follow `path` from where the way `behind` ends, symlinks included, never above the `root`; faults say `called`.

    The strangers and writers of the way behind are those of the whole way, too. From where strangers choose the way,
    each name is looked up only in a directory that every one of them can search (path_resolution(7)). Otherwise a way
    such as `/closed/name/../../open/file` would tell that the name is there. The names on the way to the directory
    where the strangers' part begins are no secret.
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
            if isinstance(error, ValueError):  # a flag or a configuration can name what no file has: a NUL is in it
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
    """Whether each of `strangers` owns what is at `real`, or all users can read it."""
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


def fault_of(error: OSError, path: str, blame: Blame | None = None) -> Fault:
    """Return the failure of a look at `path` as a fact about it; of a way with a `blame`, the one sentence for that."""
    if blame:
        return refusal(path, blame)  # how it failed would tell the stranger what is there
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return Fault(Reason.MISSING, f"{path} is not there")
    if error.errno == errno.ELOOP:
        return Fault(Reason.UNREADABLE, f"{path} is a loop of symlinks")
    return Fault(Reason.UNREADABLE, f"{path} cannot be read ({error.strerror or error})")


def refusal(path: str, blame: Blame) -> Fault:
    """Return the one sentence for whatever a stranger leads to and cannot read. It tells nothing of what is there."""
    return Fault(Reason.UNREADABLE, f"{path} {blame.fact}", blame.remedy)


def _behind_link_of(user: int) -> Blame:
    # The first stranger on the way only: which others there are would tell of places that this one cannot see.
    fact = f"is behind a symlink of user {user}, and is nothing that this user can reach and owns"
    return Blame(f"{fact}, or that all users can read", "let root own the link, or give the path itself")


def named_users(writers: frozenset[int]) -> str:
    """Return these strangers as a part of a sentence."""
    who = [f"user {user}" for user in sorted(writers - {ANYONE})]
    return " and ".join([*who, "other users"] if ANYONE in writers else who)


def _named_in(referrer: Referrer) -> Blame:
    named = f"is named in {referrer.path}, which {named_users(referrer.writers)} can change"
    remedy = f"chown root {referrer.path}, chmod go-w it and its directories, or name the file in an entry of its own"
    return Blame(f"{named}, and is no file that they can reach and own, or that all users can read", remedy)


def _can_search(strangers: frozenset[int], directory: str) -> bool:
    """Whether each of `strangers` can look up a name in what is at `directory`: as its owner, or as any user can."""
    status = os.lstat(directory or "/")
    owned = stat.S_IXUSR if strangers <= {status.st_uid} else 0
    return stat.S_ISDIR(status.st_mode) and bool(status.st_mode & (stat.S_IXOTH | owned))


def _writers_of(status: os.stat_result) -> frozenset[int]:
    """Return the strangers that can change a file, or what is in a directory."""
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    anyone = {ANYONE} if status.st_mode & _OTHERS_WRITE and not sticky else set[int]()
    return frozenset({status.st_uid, *anyone} - {0, os.geteuid()})


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
