"""Check of a path: whether an untrusted user can change the target of the path.

The check covers the file, and each directory and symlink on the path of the file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container, Iterator, Sequence
from shlex import quote

_MOST_LINKS = 40  # path_resolution(7)


def exposure(path: str, owners: Container[int] = ()) -> str | None:
    """Return why an untrusted user can change the target of `path`, and the remedy. Return None for a trusted path.

    certmond trusts root, the user that runs certmond, and the users whose IDs are in `owners`. Raises OSError if a part
    of the path is missing or unreadable.
    """
    return next(filter(None, (_exposed(place, status, owners) for place, status in _on_the_way(path))), None)


def distrust(command: Sequence[str]) -> str | None:
    """Return why an untrusted user can change a file that the command runs, and the remedy.

    Return None if no untrusted user can change these files. The check includes each argument that is the absolute path
    of a regular file, such as a script that a shell runs. Raises OSError if the program is missing, or if a part of its
    path is unreadable.
    """
    program, *arguments = command
    files = (argument for argument in arguments if argument.startswith("/") and _is_regular(argument))
    return next(filter(None, map(exposure, (program, *files))), None)


def exposed_file(path: str, status: os.stat_result, *, owners: Container[int] = (), secret: bool = False) -> str | None:
    """Return why an untrusted user can change the file, and the remedy. Return None if no untrusted user can.

    If `secret` is True, also check read access.
    """
    if secret and status.st_mode & 0o077:
        return f"other users can read or write {path} (mode {_mode(status)}); run: chmod 600 {quote(path)}"
    return _exposed(path, status, owners)


def _exposed(path: str, status: os.stat_result, owners: Container[int]) -> str | None:
    is_link = stat.S_ISLNK(status.st_mode)
    if status.st_uid not in {0, os.geteuid()} and status.st_uid not in owners:
        return f"{path} belongs to user {status.st_uid}; run: chown {'-h ' if is_link else ''}{_user()} {quote(path)}"
    # In a sticky directory, other users can create files, but cannot replace a file of another user.
    is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if not is_link and not is_sticky and other_writers(status):
        return f"other users can write {path} (mode {_mode(status)}); run: chmod go-w {quote(path)}"
    return None


def other_writers(status: os.stat_result) -> int:
    """Return the bits of the mode of a file that permit an untrusted user to write, or 0.

    If an unprivileged user runs certmond, the primary group of this user may write, because many distributions set the
    umask 0002.
    """
    own_group = os.geteuid() != 0 and status.st_gid == os.getegid()
    return status.st_mode & (0o002 if own_group else 0o022)


def _user() -> str:
    return "root" if os.geteuid() == 0 else str(os.geteuid())


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _on_the_way(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield each directory and symlink on the path, and then the file, each with its status from lstat(2).

    Raises OSError if a part of the path is missing or unreadable, or if the path contains too many symlinks.
    """
    reached, links = "/", 0
    rest = os.path.join(os.getcwd(), path).split("/")[::-1]
    yield reached, os.lstat(reached)
    while rest:
        part = rest.pop()
        if part in {"", "."}:
            continue
        if part == "..":
            reached = os.path.dirname(reached)
            continue
        place = os.path.join(reached, part)
        status = os.lstat(place)
        yield place, status
        if not stat.S_ISLNK(status.st_mode):
            reached = place
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(place)
        reached = "/" if target.startswith("/") else reached
        rest += target.split("/")[::-1]
