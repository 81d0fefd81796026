"""Search for the users who can change a file of the node, or replace the file with another file.

A group with write permission counts as another user, unless the entry of the catalogue declares this group.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterable, Iterator

from certmond.immutable_class import immutable
from certmond.pki.findings import printable

_MAX_HOPS = 40  # the limit of Linux (path_resolution(7))


@immutable
class Writers:
    """The users, other than root, the user of certmond and the declared owner, who can replace or change files."""

    # `path`: a phrase about a user who can replace a file, or "". `file`: a phrase about a user who can change a file.
    path: str = ""
    file: str = ""
    # True if the declared owner is neither root nor the user of certmond, and can replace or change a file.
    owner: bool = False


@immutable
class _Trusted:
    """The users and groups that may write a file or a directory."""

    users: frozenset[int]
    groups: frozenset[int | None]
    owner: int | None
    owner_group: int | None

    @classmethod
    def of(cls, owner: str | None) -> _Trusted:
        user, _, group = (owner or "").partition(":")
        own = os.geteuid()
        uid, gid = _user_id(user), _group_id(group)
        users = {0, own} | ({uid} if uid is not None else set())
        groups = ({gid} if gid is not None else set()) | ({_private_group(own)} if own else set())
        return cls(frozenset(users), frozenset(groups), None if uid in {0, own} else uid, gid)

    def other_writer(self, status: os.stat_result, path: str) -> str:
        """Return a phrase about another user who can write the file or directory `path`, or "" without such a user."""
        if status.st_uid not in self.users:
            return f"belongs to user {status.st_uid}"
        if status.st_mode & stat.S_IWOTH:
            return f"can be written by every user (mode {stat.S_IMODE(status.st_mode):04o})"
        if not status.st_mode & stat.S_IWGRP:  # with an access control list, this bit is from the mask (acl(5))
            return ""
        if status.st_gid not in self.groups:
            return f"can be written by group {status.st_gid} (mode {stat.S_IMODE(status.st_mode):04o})"
        return "can be written by the users in its access control list (getfacl)" if _has_acl(path) else ""

    def other_owner(self, status: os.stat_result) -> str:
        """Return a phrase about the owner of a file if the owner is not a trusted user, otherwise ""."""
        return "" if status.st_uid in self.users else f"contains a file of user {status.st_uid}"

    def is_writable_by_owner(self, status: os.stat_result) -> bool:
        """Return whether the declared owner, or the declared group, can write the file."""
        by_group = self.owner_group is not None and status.st_gid == self.owner_group and status.st_mode & stat.S_IWGRP
        return bool((self.owner is not None and status.st_uid == self.owner) or by_group)


class WriterLookup:
    """Search for the writers of files below `root`, during one pass. The search calls lstat once for each path."""

    def __init__(self, root: str) -> None:
        self._root = "" if root == "/" else os.path.realpath(root)
        self._statuses: dict[str, os.stat_result | None] = {}

    def writers(self, paths: Iterable[str], owner: str | None) -> Writers:
        """Return the users who can replace or change the files at `paths`.

        `owner` is the declared owner, as `user` or `user:group`, or None. Ignore the missing part of a path.
        """
        trusted = _Trusted.of(owner)
        path_writers = file_writers = ""
        owner_writes = False
        for path in paths:
            for step, directory, status in self._steps(path):
                above = step.rpartition("/")[0]
                other_writer = trusted.other_writer(directory, f"{self._root}{above}" or "/")
                if directory.st_mode & stat.S_ISVTX and directory.st_uid in trusted.users and other_writer:
                    # In a sticky directory, only the owner of a file can remove the file (unlink(2), EPERM).
                    other_writer = trusted.other_owner(status) if status else other_writer
                path_writers = path_writers or (f"{above or '/'} {other_writer}" if other_writer else "")
                owner_writes = owner_writes or trusted.is_writable_by_owner(directory)
                if status and stat.S_ISREG(status.st_mode):
                    other_writer = trusted.other_writer(status, f"{self._root}{step}")
                    file_writers = file_writers or (f"{path} {other_writer}" if other_writer else "")
                    owner_writes = owner_writes or trusted.is_writable_by_owner(status)
        return Writers(printable(path_writers), printable(file_writers), owner_writes)

    def _steps(self, path: str) -> Iterator[tuple[str, os.stat_result, os.stat_result | None]]:
        """Yield the path of each lookup of `path`, the status of the directory, and the status of the file or None."""
        current, hops = "", 0
        pending = _parts(path)
        while pending:
            part = pending.pop()
            if part == "..":
                current = current.rpartition("/")[0]
                continue
            directory, step = self._status(current), f"{current}/{part}"
            if directory is None:
                return
            status = self._status(step)
            yield step, directory, status
            if status is None:
                return
            if not stat.S_ISLNK(status.st_mode):
                current = step
                continue
            hops += 1
            target = _link_target(f"{self._root}{step}")
            if target is None or hops > _MAX_HOPS:
                return
            if target.startswith("/"):
                current = ""
            pending += _parts(target)

    def _status(self, path: str) -> os.stat_result | None:
        if path not in self._statuses:
            try:
                self._statuses[path] = os.lstat(f"{self._root}{path}" or "/")
            except (OSError, ValueError):
                self._statuses[path] = None
        return self._statuses[path]


def _parts(path: str) -> list[str]:
    """Return the components of a path in reverse order, without empty components and `.`."""
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


def _link_target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _user_id(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        return int(user) if user.isdecimal() else None


def _group_id(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        return int(group) if group.isdecimal() else None


def _private_group(uid: int) -> int | None:
    """Return the group with the name of this user and no other member (useradd(8), USERGROUPS_ENAB), or None."""
    try:
        user = pwd.getpwuid(uid)
        group = grp.getgrgid(user.pw_gid)
    except (KeyError, OverflowError):
        return None
    others = {each.pw_name for each in pwd.getpwall() if each.pw_gid == user.pw_gid} | {*group.gr_mem}
    return group.gr_gid if group.gr_name == user.pw_name and others == {user.pw_name} else None


def _has_acl(path: str) -> bool:
    """Return whether the file has an access control list. Return True if certmond cannot determine this."""
    try:
        return bool(os.getxattr(path, "system.posix_acl_access", follow_symlinks=False))
    except OSError as error:
        return error.errno not in {errno.ENODATA, errno.ENOTSUP}
