"""Cache of the resolved directories of the node, and resolution of paths below these directories."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from certmond.files.path_resolution import (
    Referrer,
    ResolvedPath,
    directory_start,
    is_readable_by,
    refusal,
    resolve,
    root_start,
)
from certmond.pki.findings import Fault, Reason


class DirectoryCache:
    """Cache of the resolved directories below `root` ("" for the root directory of this node)."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._directories: dict[str, ResolvedPath] = {}
        self.has_new = False
        """True after the cache has resolved a new directory. The caller resets this value to False."""

    def clear(self) -> None:
        self._directories.clear()

    def lookups(self) -> Iterator[tuple[str, ...]]:
        """Return the lookups ("directory/name") of each cached directory."""
        return (resolved.lookups for resolved in self._directories.values())

    def directory(self, path: str) -> ResolvedPath:
        """Return the resolved directory `path`. The result has a fault if certmond cannot resolve the path."""
        resolved = self._directories.get(path)
        if resolved is None:
            resolved = self._directories[path] = resolve(path, root_start(self._root), root=self._root, name=path)
            self.has_new = True
        return resolved

    def readable_directory(self, path: str) -> ResolvedPath:
        """Return the resolved directory `path`.

        The result has a fault if certmond cannot resolve the path, or if other users control the path and cannot read
        the directory.
        """
        return self._if_readable(self.directory(path), path)

    def resolve_path(self, path: str, referrer: Referrer | None) -> ResolvedPath:
        """Return the resolved `path`.

        The result has a fault if certmond cannot resolve the path or must not read the file.

        `referrer` is the file that names `path`, or None for a path of the configuration.
        """
        if referrer and referrer.writers:  # cache no directory of this path, because another user controls the path
            home = referrer.path.rpartition("/")[0]
            if path.startswith(f"{home}/") and (resolved := self.directory(home)).fault is None:
                start, rest = directory_start(referrer, resolved), path.removeprefix(home)
            else:
                start, rest = root_start(self._root, referrer), path
            return self._if_readable(resolve(rest, start, root=self._root, name=path), path)
        directory, _, name = path.rpartition("/")
        resolved = self.directory(directory)
        if resolved.fault is not None:
            return replace(resolved, lookups=(), is_link=False, fault=_fault_below(resolved, path))
        return self._if_readable(resolve(name, resolved, root=self._root, name=path), path)

    def _if_readable(self, resolved: ResolvedPath, path: str) -> ResolvedPath:
        """Return `resolved`, with a fault if other users control a part of `path` and cannot read the file."""
        if resolved.fault is not None or resolved.restriction is None:
            return resolved
        with suppress(OSError):
            status = os.lstat(resolved.real or "/")
            if is_readable_by(resolved.other_users, resolved.real, status, root=self._root):
                return replace(resolved, status=status)  # the cache reads only the file with this inode
        return replace(resolved, fault=refusal(path, resolved.restriction))

    def is_directory_readable(self, other_users: frozenset[int], lookup: str) -> bool:
        """Return whether each of `other_users` can read the directory of `lookup` ("directory/name")."""
        directory = lookup.rpartition("/")[0]
        with suppress(OSError):
            return is_readable_by(other_users, directory, os.lstat(directory or "/"), root=self._root)
        return False


def _fault_below(resolved: ResolvedPath, path: str) -> Fault | None:
    """Return the fault of `path`, which is below the directory `resolved`. This directory has a fault."""
    if resolved.restriction:
        return refusal(path, resolved.restriction)
    if resolved.fault is None or resolved.fault.reason is Reason.MISSING:
        return resolved.fault and Fault(Reason.MISSING, f"{path} does not exist")
    return Fault(resolved.fault.reason, f"{path}: {resolved.fault.detail}")
