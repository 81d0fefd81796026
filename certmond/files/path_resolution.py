"""Path resolution that follows symlinks one by one, as Linux does, but never above a root directory.

If another user controls a path, certmond follows the path only to files that this user can read. Otherwise the user
could read other files with the permissions of certmond.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from typing import NamedTuple

from certmond.immutable_class import immutable
from certmond.pki.findings import Fault, Reason

_MAX_HOPS = 40  # the limit of Linux (path_resolution(7))
_ITSELF = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
ALL_USERS = -1
"""Element of a set of user IDs that represents all users: the group or others can write."""

HOST_REMEDIES = {
    errno.EMFILE: "raise LimitNOFILE= of the unit of certmond, or `ulimit -n` in a shell",
    errno.ENFILE: "find the processes with many open files (lsof), or raise fs.file-max",
    errno.ENOMEM: "raise MemoryMax= of the unit of certmond, or find the processes that use much memory",
    errno.ESTALE: "the server no longer exports its file system: mount it again",
    errno.EIO: "the disk fails: read the kernel's messages (dmesg) before you try again",
}
"""Remedies for errors of an operation on a file whose cause is the host, not the file."""


class Restriction(NamedTuple):
    """The reason for which certmond follows a path only to files that other users can read, and the remedy.

    Neither the reason nor the remedy names the target, because other users must not learn whether the target exists.
    """

    fact: str
    remedy: str


@immutable
class Referrer:
    """A file that names another file. `writers` are the other users who can change the first file."""

    path: str
    writers: frozenset[int]


@immutable
class ResolvedPath:
    """Result of a path resolution."""

    # The file to which the path leads.
    real: str
    # Each lookup ("directory/name") of the resolution.
    lookups: tuple[str, ...]
    is_link: bool = False
    fault: Fault | None = None
    # Result of lstat for `real`.
    status: os.stat_result | None = None
    # The other users who control a part of the path. Each of these users must be able to read `real`.
    other_users: frozenset[int] = frozenset()
    # The other users who can change the file or its path, with `ALL_USERS` if the group or others can write.
    writers: frozenset[int] = frozenset()
    restriction: Restriction | None = None
    # The target text of the last symlink in the chain that starts at the path itself, or "" if the path is no symlink.
    target: str = ""


def root_start(root: str, referrer: Referrer | None = None) -> ResolvedPath:
    """Return the root directory as the start of a configured path, or of a path in the file `referrer`.

    The result contains a restriction if other users can change this file.
    """
    if referrer is None or not referrer.writers:
        return ResolvedPath(root, ())
    return ResolvedPath(root, (), other_users=referrer.writers, restriction=_referrer_restriction(referrer))


def directory_start(referrer: Referrer, directory: ResolvedPath) -> ResolvedPath:
    """Return `directory` as the start of a path in the file `referrer`, which other users can change."""
    other_users = directory.other_users | referrer.writers
    return replace(
        directory, lookups=(), is_link=False, other_users=other_users, restriction=_referrer_restriction(referrer)
    )


def resolve(path: str, start: ResolvedPath, *, root: str, name: str) -> ResolvedPath:
    """Follow `path` and its symlinks from `start`, never above `root`, and return the resolved path.

    A fault contains `name` instead of `path`. If other users control the path, certmond looks up names only in
    directories that these users can search (path_resolution(7)). Otherwise `/closed/name/../../open/file` would
    disclose whether `/closed/name` exists.
    """
    current, other_users, writers, restriction = start.real, start.other_users, start.writers, start.restriction
    trusted, hops = {0, os.geteuid()}, 0
    home = start.real if other_users else None
    status: os.stat_result | None = None
    lookups: list[str] = []
    pending = [part for part in reversed(path.split("/")) if part not in {"", "."}]
    is_link, text = False, ""
    while pending:
        part = pending.pop()
        step = f"{current}/{part}"
        try:
            # These users already know the parent directories of `home`, so the rule does not apply to them.
            if other_users and not (f"{home}/".startswith(f"{step}/") or _can_search(other_users, current)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if part == "..":
                if status is not None and not stat.S_ISDIR(status.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                current, status = current.rpartition("/")[0] if current != root else current, None
                continue
            lookups.append(step)
            status = os.lstat(step)
            link = _symlink_at(step) if stat.S_ISLNK(status.st_mode) else None
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError):  # a flag or a configuration can contain a NUL, and a file name cannot
                error = OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            fault = fault_of(error, name, restriction)
            return ResolvedPath(step, tuple(lookups), is_link, fault, None, other_users, writers, restriction, text)
        if link is None:
            if status.st_uid not in trusted or status.st_mode & _OTHERS_WRITE:
                writers |= _writers_of(status)
            current = step
            continue
        target, owner = link
        text = text if pending else target
        if owner not in trusted:
            other_users, writers = other_users | {owner}, writers | {owner}
            restriction = restriction or _link_restriction(owner)
            home = current if home is None else home
        hops += 1
        if hops > _MAX_HOPS:
            fault = fault_of(OSError(errno.ELOOP, ""), name, restriction)
            return ResolvedPath(
                step, tuple(lookups), True, fault, other_users=other_users, writers=writers, restriction=restriction
            )
        is_link = is_link or not pending
        if target.startswith("/"):
            current = root
        status = None
        pending += [piece for piece in reversed(target.split("/")) if piece not in {"", "."}]
    return ResolvedPath(current, tuple(lookups), is_link, None, status, other_users, writers, restriction, text)


def is_readable_by(other_users: frozenset[int], real: str, status: os.stat_result, *, root: str) -> bool:
    """Return whether each of `other_users` owns the file at `real`, or all users can read the file.

    To read a file, a user must also be able to search the directories above the file.
    """
    if other_users <= {status.st_uid}:
        return True
    needed = stat.S_IROTH
    while status.st_mode & needed:
        if real == root:
            return True
        real, needed = real.rpartition("/")[0], stat.S_IXOTH
        status = os.stat(real or "/")
    return False


def open_without_symlinks(real: str, flags: int) -> int:
    """Open `real` and return the descriptor. Raises OSError if any part of the path is a symlink."""
    descriptor = os.open(real, flags | os.O_NOFOLLOW)
    try:
        # If the kernel reports the path `real` for the descriptor, no part of the path was a symlink.
        if os.readlink(f"/proc/self/fd/{descriptor}") == real:
            return descriptor
    except OSError:
        pass  # without /proc: open each directory
    os.close(descriptor)
    return _open_step_by_step(real, flags)


def fault_of(error: OSError, path: str, restriction: Restriction | None = None) -> Fault:
    """Return the fault for an OSError at `path`, or the fault of `refusal` for a path with a `restriction`."""
    if restriction:
        return refusal(path, restriction)  # the errno would disclose to the other user whether the file exists
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return Fault(Reason.MISSING, f"{path} does not exist")
    if error.errno == errno.ELOOP:
        return Fault(Reason.UNREADABLE, f"{path} is a loop of symlinks", "correct or remove these symlinks")
    if error.errno in {errno.EACCES, errno.EPERM} and os.geteuid() != 0:
        fact = f"certmond cannot check {path}, because user {os.geteuid()} is not permitted to read this path"
        return Fault(Reason.NOT_PERMITTED, fact)
    remedy = HOST_REMEDIES.get(error.errno or 0)
    return Fault(Reason.UNREADABLE, f"certmond cannot read {path} ({error.strerror or error})", remedy)


def refusal(path: str, restriction: Restriction) -> Fault:
    """Return the fault for a path that another user controls and that leads to no file that this user can read."""
    return Fault(Reason.UNREADABLE, f"{path} {restriction.fact}", restriction.remedy)


def _link_restriction(user: int) -> Restriction:
    # Name only the first user. More names would disclose directories that the first user cannot read.
    fact = f"is behind a symlink of user {user}, and leads to no file that this user owns"
    return Restriction(
        f"{fact} or that all users can read",
        "change the owner of the symlink to root, or configure the path of its target",
    )


def named_users(writers: frozenset[int]) -> str:
    """Return a phrase that names the users `writers`, such as `user 1000 and other users`."""
    who = [f"user {user}" for user in sorted(writers - {ALL_USERS})]
    return " and ".join([*who, "other users"] if ALL_USERS in writers else who)


def _referrer_restriction(referrer: Referrer) -> Restriction:
    named = f"is named in {referrer.path}, which {named_users(referrer.writers)} can change"
    remedy = f"let only root write {referrer.path} and its directories, or name the file in a separate entry"
    return Restriction(f"{named}, and leads to no file that these users own or that all users can read", remedy)


def _can_search(other_users: frozenset[int], directory: str) -> bool:
    """Return whether each of `other_users` can look up a name in `directory`."""
    status = os.lstat(directory or "/")
    owned = stat.S_IXUSR if other_users <= {status.st_uid} else 0
    return stat.S_ISDIR(status.st_mode) and bool(status.st_mode & (stat.S_IXOTH | owned))


def _writers_of(status: os.stat_result) -> frozenset[int]:
    """Return the users, other than root and the user of certmond, who can change a file or directory.

    The result contains `ALL_USERS` if the group or others can write.
    """
    # In a directory with the sticky bit, a user can replace only the user's own files.
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    all_users = {ALL_USERS} if status.st_mode & _OTHERS_WRITE and not sticky else set[int]()
    return frozenset({status.st_uid, *all_users} - {0, os.geteuid()})


def _symlink_at(step: str) -> tuple[str, int] | None:
    """Return the target and the owner of the symlink at `step`, or None if the path is no longer a symlink."""
    # Use one descriptor, so that both values belong to the same symlink.
    descriptor = open_without_symlinks(step, _ITSELF)
    try:
        status = os.fstat(descriptor)
        return (os.readlink("", dir_fd=descriptor), status.st_uid) if stat.S_ISLNK(status.st_mode) else None
    finally:
        os.close(descriptor)


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
