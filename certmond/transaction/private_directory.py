"""Directories of the node for new keys, which only the user of certmond can read."""

from __future__ import annotations

import errno
import os
import posixpath
from pathlib import Path

from certmond.transaction.dirfd import Directories, blaming
from certmond.transaction.temp_file import make_directory


def make_private_directory(root: str, directory: str) -> None:
    """Create a directory below `root` with mode 0700, and its missing parents, unless the directory exists.

    Raises WriteError if the creation fails.
    """
    missing = list[str]()
    while not os.path.isdir(_real(root, directory)):
        missing.append(directory)
        directory = posixpath.dirname(directory)
    for each in reversed(missing):
        with blaming(each):
            make_directory(_real(root, each))


def remove_empty_directory(root: str, directory: str) -> None:
    """Remove a directory below `root`, unless it is missing or contains files. Raises WriteError if this fails."""
    with blaming(directory, "removed"):
        try:
            os.rmdir(_real(root, directory))
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTEMPTY}:
                raise


def _real(root: str, directory: str) -> Path:
    with Directories(root) as directories, blaming(directory):
        return Path(os.path.realpath(root).rstrip("/") + directories.resolve(directory))
