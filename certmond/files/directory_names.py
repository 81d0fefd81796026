"""Names in a directory, and the names to watch in a directory.

A change of one name costs one look, however many names the directory has. A change of a name that no wildcard matches
costs no look.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from certmond.immutable_class import immutable

ANY = "*"
"""The wildcard that matches all names."""

_MAX_CHANGES = 1000
"""Number of changes after which `Names.changes` begins again, so that the list does not grow without bound."""


class Names:
    """The sorted names in a directory that a wildcard matches, with the names that have changed since the object was
    created.
    """

    def __init__(self, names: Iterable[str], wildcard: str = ANY) -> None:
        self.wildcard = wildcard
        self._names = sorted(names if wildcard == ANY else filter(self.matches, names))
        self._snapshot: tuple[str, ...] | None = None
        self.changes: list[str] = []
        """The names that were added or removed since the directory was read, in their order."""

    @property
    def sorted(self) -> Sequence[str]:
        """The present names. The sequence changes with the directory."""
        return self._names

    @property
    def snapshot(self) -> tuple[str, ...]:
        """The present names. The tuple is the same object until a name changes."""
        if self._snapshot is None:
            self._snapshot = tuple(self._names)
        return self._snapshot

    @property
    def is_exhausted(self) -> bool:
        """Whether so many names have changed that the caller must read the directory again."""
        return len(self.changes) >= _MAX_CHANGES

    def update(self, name: str, *, exists: bool) -> None:
        """Add a name that exists, or remove a name that does not exist."""
        if (name in self) == exists:
            return
        at = bisect_left(self._names, name)
        if exists:
            self._names.insert(at, name)
        else:
            del self._names[at]
        self.changes.append(name)
        self._snapshot = None

    def matches(self, name: str) -> bool:
        """Return whether the wildcard matches `name`."""
        return self.wildcard == ANY or fnmatchcase(name, self.wildcard)

    def __contains__(self, name: str) -> bool:
        at = bisect_left(self._names, name)
        return self._names[at : at + 1] == [name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names) and self._names == other._names

    __hash__ = None  # type: ignore[assignment]  # the names change


NO_NAMES = Names(())


class Listings:
    """The names in directories, by directory and wildcard. The path of a directory contains no symlinks."""

    def __init__(self) -> None:
        self._listings: dict[str, dict[str, Names]] = {}
        self._previous: dict[str, dict[str, Names]] = {}
        self._errors: dict[str, OSError] = {}

    @property
    def has_unread(self) -> bool:
        """Whether `names` has not read a directory again since the last call of `clear`."""
        return bool(self._previous)

    def wildcards(self) -> Iterator[tuple[str, Iterable[str]]]:
        """Yield each directory with the wildcards of its names, or with `ANY` if certmond could not read it."""
        for directory, listings in self._listings.items():
            is_unread = any(names is NO_NAMES for names in listings.values())
            if listings:
                yield directory or "/", {ANY} if is_unread else listings

    def clear(self) -> None:
        """Make `names` read each directory again."""
        self._previous, self._listings, self._errors = self._listings, {}, {}

    def error(self, directory: str) -> OSError | None:
        """Return the error of the last attempt to read a directory without names, or None."""
        return self._errors.get(directory)

    def update(self, touched: Iterable[str]) -> None:
        """Update the names after changes of the `touched` lookups ("directory/name"), with one look at each name."""
        self._previous = {}
        for lookup in touched:
            directory, _, name = lookup.rpartition("/")
            listings = self._listings.get(directory, {})
            matching = [names for names in listings.values() if names is not NO_NAMES and names.matches(name)]
            exists = bool(matching) and os.path.lexists(lookup)
            for names in matching:
                names.update(name, exists=exists)
                if names.is_exhausted:
                    listings[names.wildcard] = Names(names.sorted, names.wildcard)
            if any(names is NO_NAMES for names in listings.values()):
                # certmond could not read the directory, so read all names again.
                self._listings[directory] = {each: some for each, some in listings.items() if some is not NO_NAMES}
                self._errors.pop(directory, None)

    def names(self, directory: str, wildcard: str) -> tuple[Names, bool]:
        """Return the names in a directory that `wildcard` matches, and whether the caller must watch other names.

        The result is `NO_NAMES` if certmond cannot read the directory.
        """
        names = self._listings.get(directory, {}).get(wildcard)
        if names is not None:
            return names, False
        try:
            names = Names(os.listdir(directory or "/"), wildcard)
        except OSError as error:
            names, self._errors[directory] = NO_NAMES, error
        previous = self._previous.get(directory, {})
        before = previous.pop(wildcard, None)
        if not previous:
            self._previous.pop(directory, None)
        if before == names and NO_NAMES is not names and NO_NAMES is not before:
            names = before
        self._listings.setdefault(directory, {})[wildcard] = names
        return names, before is None


@immutable
class MatchingNames:
    """Names to watch in a directory: single names, and each name that a wildcard matches."""

    names: frozenset[str]
    wildcards: frozenset[str]

    def __contains__(self, name: str) -> bool:
        return name in self.names or any(fnmatchcase(name, wildcard) for wildcard in self.wildcards)


WatchedNames = frozenset[str] | MatchingNames | None
"""Names to watch in a directory. None means all names."""


def watched_names(lookups: Iterable[str], wildcards: Iterable[tuple[str, Iterable[str]]]) -> dict[str, WatchedNames]:
    """Return the names to watch by directory: the `lookups` ("directory/name"), and all names that wildcards match.

    `wildcards` contains pairs of a directory and the wildcards for its names.
    """
    matching = {directory: MatchingNames(frozenset(), frozenset(some)) for directory, some in wildcards}
    single = defaultdict[str, set[str]](set)
    for lookup in lookups:
        directory, _, name = lookup.rpartition("/")
        names, covered = single[directory or "/"], matching.get(directory or "/")
        # Never collect the names that wildcards match: a directory can have many thousands of them.
        if covered is None or name not in covered:
            names.add(name)
    watched: dict[str, WatchedNames] = {directory: frozenset(names) for directory, names in single.items()}
    for directory, covered in matching.items():
        others = frozenset(single.get(directory, ()))
        watched[directory] = None if ANY in covered.wildcards else replace(covered, names=others)
    return watched


def added_names(names: WatchedNames, before: WatchedNames) -> frozenset[str] | None:
    """Return the names that are in `names` and not in `before`.

    The result is None if these names have no list: all names, or the names that another wildcard matches.
    """
    if before is None:
        return frozenset()
    if names is None:
        return None
    single, wildcards = (names.names, names.wildcards) if isinstance(names, MatchingNames) else (names, frozenset())
    former = before.wildcards if isinstance(before, MatchingNames) else frozenset[str]()
    return frozenset(name for name in single if name not in before) if wildcards <= former else None
