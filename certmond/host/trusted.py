"""Whether a program is one that only root, or who runs certmond, can change. What nobody vouches for is not run."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

_MOST_LINKS = 40  # path_resolution(7)


def distrust(program: str) -> str | None:
    """Why the file is not to be run, in words with the remedy; None where nothing speaks against it.

    Looked at is every directory on the way, of each symlink as well: who can write one can put another file there.
    """
    try:
        for path in dict.fromkeys(_on_the_way(program)):
            status = os.stat(path)
            sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX  # nobody moves what is another's
            if status.st_mode & 0o022 and not sticky:
                return f"{path} can be written by others (mode {stat.S_IMODE(status.st_mode):04o}); chmod go-w {path}"
            if status.st_uid not in {0, os.geteuid()}:
                return f"{path} belongs to user {status.st_uid}; chown root {path}"
        if not os.path.isfile(program) or not os.access(program, os.X_OK):
            return f"{program} is no file that can be run; chmod +x it, or correct the configuration"
    except OSError as error:
        return f"{program} cannot be run ({error.strerror}); put it there, or correct the configuration"
    return None


def _on_the_way(path: str) -> Iterator[str]:
    for _ in range(_MOST_LINKS):
        directory = os.path.dirname(path)
        yield from _with_parents(directory)
        yield from _with_parents(os.path.realpath(directory))
        if not os.path.islink(path):
            yield path
            return
        path = os.path.normpath(os.path.join(os.path.realpath(directory), os.readlink(path)))


def _with_parents(directory: str) -> Iterator[str]:
    yield directory
    while directory != "/":
        yield (directory := os.path.dirname(directory))
