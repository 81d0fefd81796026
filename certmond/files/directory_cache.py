"""Cache of resolved directories of the node, and the resolution of paths below them.

Owns the directories that are in the path of a cached file. A path that another user has chosen passes no cached
directory except that of the file that names it. Reads no content.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from certmond.files.path_resolution import Referrer, Way, beginning, beside, follow, open_to, refusal
from certmond.pki.findings import Fault, Reason


class DirectoryCache:
    """The directories below `root` ("" for the root directory of this node), each resolved once until `clear`."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._directories: dict[str, Way] = {}
        self.has_new = False
        """Whether a directory was added since the owner of this cache last set this to False."""

    def clear(self) -> None:
        self._directories.clear()

    def lookups(self) -> Iterator[tuple[str, ...]]:
        """Yield the "directory/name" lookups of each cached directory."""
        return (place.lookups for place in self._directories.values())

    def directory(self, path: str) -> Way:
        """Return where the directory `path` is, with a fault if it does not exist."""
        place = self._directories.get(path)
        if place is None:
            place = self._directories[path] = follow(path, beginning(self._root), root=self._root, called=path)
            self.has_new = True
        return place

    def admitted_directory(self, path: str) -> Way:
        """Return the directory, with a fault also if other users have chosen a part of its path and cannot read it."""
        return self._admitted(self.directory(path), path)

    def way(self, path: str, referrer: Referrer | None) -> Way:
        """Return where `path` leads, which `referrer` names, if given."""
        if referrer and referrer.writers:  # cache no directory of this path: another user has chosen it
            home = referrer.path.rpartition("/")[0]
            if path.startswith(f"{home}/") and (place := self.directory(home)).fault is None:
                behind, rest = beside(referrer, place), path.removeprefix(home)
            else:
                behind, rest = beginning(self._root, referrer), path
            return self._admitted(follow(rest, behind, root=self._root, called=path), path)
        directory, _, name = path.rpartition("/")
        place = self.directory(directory)
        if place.fault is not None:
            return replace(place, lookups=(), is_link=False, fault=_renamed(place, path))
        return self._admitted(follow(name, place, root=self._root, called=path), path)

    def _admitted(self, way: Way, path: str) -> Way:
        """Return the way, with a fault if other users have chosen a part of it and cannot read the file there."""
        if way.fault is not None or way.blame is None:
            return way
        with suppress(OSError):
            status = os.lstat(way.real or "/")
            if open_to(way.strangers, way.real, status, root=self._root):
                return replace(way, status=status)  # the file that is read must be this one
        return replace(way, fault=refusal(path, way.blame))

    def is_open(self, strangers: frozenset[int], lookup: str) -> bool:
        """Return whether each of `strangers` can read the directory of this lookup."""
        directory = lookup.rpartition("/")[0]
        with suppress(OSError):
            return open_to(strangers, directory, os.lstat(directory or "/"), root=self._root)
        return False


def _renamed(place: Way, path: str) -> Fault | None:
    """Return the fault of a directory, worded for a path through it."""
    if place.blame:
        return refusal(path, place.blame)
    if place.fault is None or place.fault.reason is Reason.MISSING:
        return place.fault and Fault(Reason.MISSING, f"{path} is not there")
    return Fault(place.fault.reason, f"{path}: {place.fault.detail}")
