"""Expansion of a path pattern of the catalogue, with `*`, `?`, `[…]`, and `**` for any number of directories."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import translate

from certmond.files.cache import Files
from certmond.files.cache_entry import Entry
from certmond.files.directory_names import ANY, NO_NAMES, Names
from certmond.immutable_class import immutable
from certmond.pki.findings import Fault, Reason

MAX_FILES = 100_000
"""Maximum number of files for one pattern, because a user with write access can create any number of files."""
MAX_DIRECTORIES = 10_000
"""Maximum number of directories for one pattern. Each directory requires an inotify watch, and watches are limited."""
_MAX_DEPTH = 16  # levels of directories that `**` descends


@dataclass(slots=True)
class Listing:
    """The names in a directory that a wildcard matches, at the time of an expansion."""

    directory: str
    wildcard: str
    names: Names
    # The reason for which certmond cannot read the directory, if certmond cannot read it.
    fault: Fault | None
    excluded: re.Pattern[str]
    # Whether one of the names can be a directory of a longer path.
    descends: bool = False
    # Number of changes of `names` that are part of the expansion, or do not change its result.
    compared: int = 0

    def changes(self) -> set[str]:
        """Return the names that have changed since the expansion, without the excluded names."""
        return {name for name in self.names.changes[self.compared :] if not self.excluded.match(name)}

    def is_current(self, files: Files) -> bool:
        """Return whether the cache still updates `names`."""
        names = files.names(self.directory, self.wildcard)
        # All directories without readable names share `NO_NAMES`: missing ones, and unreadable ones for any reason.
        return names is self.names and (names is not NO_NAMES or files.listing_fault(self.directory) == self.fault)


@immutable
class Expansion:
    """Result of the expansion of a pattern."""

    # The matching paths in sorted order, without duplicates.
    paths: tuple[str, ...]
    # A phrase about the limit that the pattern exceeds, or "".
    excess: str
    # The faults of the directories that certmond cannot read: one fault for all directories with the same remedy.
    unread: tuple[Fault, ...]
    # The directories and files that the expansion has read.
    listings: tuple[Listing, ...]
    entries: tuple[Entry, ...]

    def updated(self, files: Files) -> Expansion | None:
        """Return the present expansion by the cache `files`, or None if the caller must expand the pattern again.

        A new name costs one comparison, however many names the directory has.
        """
        if not all(listing.is_current(files) for listing in self.listings):
            return None
        if not all(files.entry(entry.path) is entry for entry in self.entries):
            return None
        paths = self.paths
        for listing in self.listings:
            if changed := listing.changes():
                if len(self.listings) > 1 or listing.descends or self.excess or len(paths) + len(changed) > MAX_FILES:
                    return None
                paths = _changed(paths, listing.directory, changed, listing.names)
            listing.compared = len(listing.names.changes)
        return self if paths is self.paths else replace(self, paths=paths)


def _changed(paths: tuple[str, ...], directory: str, changed: Iterable[str], names: Names) -> tuple[str, ...]:
    """Return the sorted `paths` in a directory after changes of some names."""
    found = list(paths)
    for name in changed:
        path = f"{directory}/{name}"
        at = bisect_left(found, path)
        if found[at : at + 1] == [path]:
            del found[at]
        if name in names:
            found.insert(at, path)
    return tuple(found)


def expand(files: Files, pattern: str, exclude: Sequence[str]) -> Expansion:
    """Return the paths that match `pattern`. A wildcard skips each name that matches a pattern in `exclude`.

    `**` follows no symlinks, and matches a limited number of directory levels.
    """
    walk = _Walk(files, exclude)
    found = dict[str, None]()
    for path in walk.paths("", pattern.strip("/").split("/"), 0):
        if len(found) == MAX_FILES and path not in found:
            walk.excess = f"matches more than {MAX_FILES} files"
            break
        found[path] = None
    unread = tuple(_by_remedy(walk.unread))
    return Expansion(tuple(found), walk.excess, unread, tuple(walk.listings.values()), tuple(walk.entries))


def _by_remedy(faults: Iterable[Fault]) -> Iterator[Fault]:
    """Yield the first fault of each remedy, with the number of the others. A pattern can have thousands of faults."""
    groups = defaultdict[tuple[Reason, str | None], list[Fault]](list)
    for fault in faults:
        groups[fault.reason, fault.remedy].append(fault)
    for first, *others in groups.values():
        also = ", and 1 other directory of the pattern has the same problem"
        if len(others) > 1:
            also = f", and {len(others)} other directories of the pattern have the same problem"
        yield replace(first, detail=f"{first.detail}{also if others else ''}")


class _Walk:
    def __init__(self, files: Files, exclude: Sequence[str]) -> None:
        self._files = files
        self._excluded = re.compile(
            "|".join(map(translate, exclude)) or "(?!)"
        )  # one regular expression for all patterns
        self._directories = set[str]()
        self.listings: dict[tuple[str, str], Listing] = {}
        self.entries: list[Entry] = []
        self.excess = ""
        self.unread: dict[Fault, None] = {}  # without duplicates: two wildcards can list one directory

    def paths(self, base: str, parts: list[str], depth: int) -> Iterator[str]:
        part, rest = parts[0], parts[1:]
        if not any(character in part for character in "*?["):
            yield from self.paths(f"{base}/{part}", rest, depth) if rest else [f"{base}/{part}"]
            return
        if len(self._directories) == MAX_DIRECTORIES and base not in self._directories:
            self.excess = f"matches more than {MAX_DIRECTORIES} directories"
            return
        self._directories.add(base)
        listing = self._listing(base, ANY if part == "**" else part)
        listing.descends = listing.descends or bool(rest) or part == "**"
        names = [name for name in listing.names.sorted if not self._excluded.match(name)]
        if part == "**":
            yield from self.paths(base, rest or [ANY], depth)
            for name in names if depth < _MAX_DEPTH else ():
                entry = self._files.entry(f"{base}/{name}")
                self.entries.append(entry)
                if entry.fault and entry.state is None and not (entry.missing or entry.is_link):
                    self.unread[entry.fault] = None  # it can be a directory
                if entry.is_directory and not entry.is_link:
                    yield from self.paths(f"{base}/{name}", parts, depth + 1)
            return
        for name in names:
            yield from self.paths(f"{base}/{name}", rest, depth) if rest else [f"{base}/{name}"]

    def _listing(self, directory: str, wildcard: str) -> Listing:
        listing = self.listings.get((directory, wildcard))
        if listing is None:
            names = self._files.names(directory, wildcard)
            fault = self._files.listing_fault(directory) if names is NO_NAMES else None
            if fault:
                self.unread[fault] = None
            listing = Listing(directory, wildcard, names, fault, self._excluded, compared=len(names.changes))
            self.listings[directory, wildcard] = listing
        return listing
