"""Reads of the node's files without a cache, for a caller that then writes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime

from certmond.files.key_destination_check import exposed
from certmond.files.untrusted_writers import WriterLookup
from certmond.transaction.dirfd import Directories, blaming


class NodeFiles:
    """The files of the node below `root`."""

    def __init__(self, root: str) -> None:
        self._root = root

    def exposed(self, paths: Iterable[str], owner: str | None) -> str | None:
        """Return why an untrusted user could read a private key in these files, or None if no such user could.

        `owner` is a trusted user.
        """
        return exposed(self._root, paths, owner)

    def other_writer(self, path: str, owner: str | None) -> str:
        """Return a phrase about a user who can change or replace the file, or "" if no such user exists.

        Ignore the trusted users: root, the user of certmond, and `owner`.
        """
        writers = WriterLookup(self._root).writers([path], owner)
        return writers.path or writers.file

    def read(self, path: str, *, follow_any_link: bool = True) -> bytes | None:
        """Return the content of a file, or None if the file is missing. Raises WriteError if the file is unreadable.

        Callers that copy the content set `follow_any_link` to False, so that no other user chooses the file to copy.
        """
        with Directories(self._root) as directories, blaming(path, "read"):
            try:
                return directories.place(directories.resolve(path, follow_any_link=follow_any_link)).read()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def owner(self, path: str) -> tuple[int, int] | None:
        """Return the uid and the gid of a file, or None if the file is missing.

        Raises WriteError if certmond cannot read the metadata of the file.
        """
        with Directories(self._root) as directories, blaming(path, "read"):
            try:
                status = directories.place(directories.resolve(path, follow_any_link=True)).status()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return (status.st_uid, status.st_gid) if status else None

    def is_shared(self, directory: str) -> bool:
        """Return whether a user other than root and the user of certmond can write to `directory`.

        Raises WriteError if certmond cannot examine the directory.
        """
        with Directories(self._root) as directories, blaming(directory, "read"):
            status = os.fstat(directories.place(f"{directories.resolve(directory, follow_any_link=True)}/.").directory)
            return bool(status.st_mode & 0o022) or status.st_uid not in {0, os.geteuid()}

    def exists(self, path: str) -> bool:
        """Return whether a file or directory exists at `path`, after the resolution of symlinks.

        Return False if the path is unreadable.
        """
        return self.modified_at(path) is not None

    def modified_at(self, path: str) -> datetime | None:
        """Return the mtime of `path` in whole seconds (UTC), or None if the path is missing or unreadable."""
        with Directories(self._root) as directories:
            try:
                status = directories.place(directories.resolve(path, follow_any_link=True)).status()
            except OSError:
                return None
            return datetime.fromtimestamp(int(status.st_mtime), UTC) if status else None

    def changed_at(self, path: str) -> datetime | None:
        """Return the latest ctime of the file and of the symlinks on its path (UTC).

        Return None if the file is missing or unreadable.
        """
        with Directories(self._root) as directories:
            try:
                status = directories.place(directories.resolve(path, follow_any_link=True)).status()
                if status is None:
                    return None
                return datetime.fromtimestamp(max(directories.link_changed_at, status.st_ctime), UTC)
            except (OSError, ValueError, OverflowError):  # a ctime can be out of the range of a datetime
                return None

    def real_owner(self, owner: tuple[int, int]) -> tuple[int, int]:
        """Return the uid and the gid that a file of `owner` has below the root (`Directories.real_owner`)."""
        with Directories(self._root) as directories:
            return directories.real_owner(owner)

    def leads_to(self, path: str) -> str:
        """Return the path with all symlinks resolved, or the path itself if certmond cannot resolve it."""
        with Directories(self._root) as directories:
            try:
                return directories.resolve(path, follow_any_link=True)
            except OSError:
                return path

    def is_in_place(self, path: str) -> bool:
        """Return whether `path` is not a symlink. Its directory can be a symlink, as /root is on some systems."""
        directory, name = os.path.split(path)
        return self.leads_to(path) == os.path.join(self.leads_to(directory), name)

    def names(self, directory: str) -> frozenset[str]:
        """Return the names in a directory, or an empty set if the directory is unreadable."""
        with Directories(self._root) as directories:
            try:
                real = directories.resolve(directory, follow_any_link=True)
                return frozenset(os.listdir(os.path.realpath(self._root) + real))
            except OSError:
                return frozenset()
