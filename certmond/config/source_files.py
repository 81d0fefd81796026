"""Reader of the configuration files: the main file and conf.d/*.yaml.

This module defines the order of the files, and finds files that other users can write. The module `source_merger`
merges the texts.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from certmond.config.source_merger import Source
from certmond.config.yaml_source import MAX_BYTES, Place, Problem
from certmond.path_trust import other_writers

DEFAULT_PATH = Path("/etc/certmond/config.yaml")


class SourceFiles(NamedTuple):
    """Texts of the configuration files in their order, and the problems of the files."""

    sources: tuple[Source, ...]
    unread: tuple[Problem, ...]
    open_to_others: tuple[Problem, ...]


def read_files(path: Path | None = None, *, explicit: bool = False) -> SourceFiles:
    """Return the texts of the file `path` and the files conf.d/*.yaml beside it, in this order.

    The default of `path` is `DEFAULT_PATH`. A missing file `path` is a problem only if `explicit` is true.
    """
    main = path or DEFAULT_PATH
    sources: list[Source] = []
    unread: list[Problem] = []
    open_to_others: list[Problem] = []
    found = (main, *_drop_ins(main.parent / "conf.d", unread))
    for directory in dict.fromkeys((main.parent, main.parent / "conf.d", *(_real_directory(file) for file in found))):
        with suppress(OSError):  # the directory is missing or unreadable; `unread` contains unreadable files
            open_to_others += _open_to_others(directory, directory.stat())
    for file in found:
        try:
            with open(_regular(file), "rb") as stream:
                sources.append(Source(str(file), stream.read(MAX_BYTES + 1)))
                open_to_others += _open_to_others(file, os.fstat(stream.fileno()))
        except OSError as error:
            if explicit or file != main or not isinstance(error, FileNotFoundError):
                unread.append(_unreadable(file, error))
    return SourceFiles(tuple(sources), tuple(unread), tuple(open_to_others))


def _regular(file: Path) -> int:
    """Return a descriptor of `file` for reading. Raises OSError if `file` is not a regular file.

    A read from a device or a pipe might never end.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "it is not a regular file")


def _real_directory(file: Path) -> Path:
    """Return the directory of a file. For a symlink, return the directory of its target."""
    return Path(os.path.realpath(file)).parent if file.is_symlink() else file.parent


def _open_to_others(file: Path, status: os.stat_result) -> Iterator[Problem]:
    """Yield a problem if a user other than root and the user of certmond can write the file or directory.

    An unprivileged user of certmond may also have files that the primary group of this user can write (umask 0002).

    Such a user could choose the commands that certmond runs.
    """
    sticky = (
        stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    )  # a sticky directory is safe, because certmond refuses files of other users in it
    if other_writers(status) and not sticky:
        yield Problem(
            Place(str(file)),
            f"is writable by other users (mode {status.st_mode & 0o777:04o}); run: chmod go-w {quote(str(file))}",
        )
    if status.st_uid not in {0, os.geteuid()}:
        yield Problem(Place(str(file)), f"belongs to user {status.st_uid}; run: chown root {quote(str(file))}")


def _drop_ins(directory: Path, unread: list[Problem]) -> list[Path]:
    try:
        return sorted(file for file in directory.iterdir() if file.match("[!.]*.yaml"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        unread.append(_unreadable(directory, error))
        return []


def _unreadable(path: Path, error: OSError) -> Problem:
    return Problem(Place(str(path)), f"is unreadable ({error.strerror}); correct the path or the permissions")
