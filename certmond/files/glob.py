"""Expansion of a path pattern of the catalogue, with `*`, `?`, `[…]`, and `**` for any number of directories."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate

from certmond.files.cache import Files
from certmond.files.cache_entry import Entry

MAX_FILES = 100_000
"""Maximum number of files for one pattern, because a user with write access can create any number of files."""
MAX_DIRECTORIES = 10_000
"""Maximum number of directories for one pattern. Each directory requires an inotify watch, and watches are limited."""
_MAX_DEPTH = 16  # levels of directories that `**` descends


@dataclass(frozen=True, slots=True)
class Expansion:
    """Result of the expansion of a pattern."""

    # The matching paths in sorted order, without duplicates.
    paths: tuple[str, ...]
    # A phrase about the limit that the pattern exceeds, or "".
    excess: str
    # The directories and files that the expansion has read.
    listings: Mapping[str, tuple[str, ...]]
    entries: tuple[Entry, ...]

    def is_current(self, files: Files) -> bool:
        """Return whether the directories and files that the expansion read are unchanged in the cache `files`."""
        listed = all(files.listing(directory) is names for directory, names in self.listings.items())
        return listed and all(files.entry(entry.path) is entry for entry in self.entries)


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
    return Expansion(tuple(found), walk.excess, walk.listings, tuple(walk.entries))


class _Walk:
    def __init__(self, files: Files, exclude: Sequence[str]) -> None:
        self._files = files
        self._excluded = re.compile(
            "|".join(map(translate, exclude)) or "(?!)"
        )  # one regular expression for all patterns
        self.listings: dict[str, tuple[str, ...]] = {}
        self.entries: list[Entry] = []
        self.excess = ""

    def paths(self, base: str, parts: list[str], depth: int) -> Iterator[str]:
        part, rest = parts[0], parts[1:]
        if not any(character in part for character in "*?["):
            yield from self.paths(f"{base}/{part}", rest, depth) if rest else [f"{base}/{part}"]
            return
        if len(self.listings) == MAX_DIRECTORIES and base not in self.listings:
            self.excess = f"matches more than {MAX_DIRECTORIES} directories"
            return
        listing = self.listings[base] = self._files.listing(base)
        names = [name for name in listing if not self._excluded.match(name)]
        if part == "**":
            yield from self.paths(base, rest or ["*"], depth)
            for name in names if depth < _MAX_DEPTH else ():
                entry = self._files.entry(f"{base}/{name}")
                self.entries.append(entry)
                if entry.is_directory and not entry.is_link:
                    yield from self.paths(f"{base}/{name}", parts, depth + 1)
            return
        for name in names:
            if fnmatchcase(name, part):
                yield from self.paths(f"{base}/{name}", rest, depth) if rest else [f"{base}/{name}"]
