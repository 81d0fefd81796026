"""The node's files as they are at this moment, read once and not remembered: for what is about to be written.

Owns nothing but the way below the root; `files/cache` is for what is watched. Never writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime

from certmond.files.key_exposure import exposed
from certmond.files.write_access import WriterLookup
from certmond.transaction.dirfd import Directories, blaming


class NodeFiles:
    """The node below `root`."""

    def __init__(self, root: str) -> None:
        self._root = root

    def exposed(self, paths: Iterable[str], owner: str | None) -> str | None:
        """Why no private key is written to these files of `owner`; None where no other user could take it."""
        return exposed(self._root, paths, owner)

    def strangers(self, path: str, owner: str | None) -> str:
        """Return which user besides root, the user that runs certmond and `owner` can change or replace a file, as a
        phrase; "" if no other user can.
        """
        writers = WriterLookup(self._root).writers([path], owner)
        return writers.path or writers.file

    def read(self, path: str, *, anyones: bool = True) -> bytes | None:
        """The bytes of a file; None where it is not there. Raises WriteError where it cannot be read.

        What is copied elsewhere is read with `anyones` false: whoever owns a symlink would choose what is copied.
        """
        with Directories(self._root) as directories, blaming(path, "read"):
            try:
                return directories.place(directories.resolve(path, anyones=anyones)).read()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def owner(self, path: str) -> tuple[int, int] | None:
        """uid and gid of a file; None where it is not there. Raises WriteError where that cannot be told."""
        with Directories(self._root) as directories, blaming(path, "read"):
            try:
                status = directories.place(directories.resolve(path, anyones=True)).status()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return (status.st_uid, status.st_gid) if status else None

    def is_shared(self, directory: str) -> bool:
        """Whether anybody but root and us may write in it. Raises WriteError where that cannot be told."""
        with Directories(self._root) as directories, blaming(directory, "read"):
            status = os.fstat(directories.place(f"{directories.resolve(directory, anyones=True)}/.").directory)
            return bool(status.st_mode & 0o022) or status.st_uid not in {0, os.geteuid()}

    def exists(self, path: str) -> bool:
        """Whether anything is there."""
        return self.modified_at(path) is not None

    def modified_at(self, path: str) -> datetime | None:
        """Return when what is there was modified last, in whole seconds (UTC); None where nothing is."""
        with Directories(self._root) as directories:
            try:
                status = directories.place(directories.resolve(path, anyones=True)).status()
            except OSError:
                return None
            return datetime.fromtimestamp(int(status.st_mtime), UTC) if status else None

    def leads_to(self, path: str) -> str:
        """The path without its symlinks; itself where that cannot be told."""
        with Directories(self._root) as directories:
            try:
                return directories.resolve(path, anyones=True)
            except OSError:
                return path

    def names(self, directory: str) -> frozenset[str]:
        """What is in a directory; nothing where it cannot be read."""
        with Directories(self._root) as directories:
            try:
                real = directories.resolve(directory, anyones=True)
                return frozenset(os.listdir(os.path.realpath(self._root) + real))
            except OSError:
                return frozenset()
