"""Names in a directory, and the names to watch in a directory.

A change of one name costs one look, however many names the directory has. A change of a name that no wildcard matches
costs no look.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

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


@dataclass(frozen=True, slots=True)
class MatchingNames:
    """Names to watch in a directory: single names, and each name that a wildcard matches."""

    names: frozenset[str]
    wildcards: frozenset[str]

    def __contains__(self, name: str) -> bool:
        return name in self.names or any(fnmatchcase(name, wildcard) for wildcard in self.wildcards)


WatchedNames = frozenset[str] | MatchingNames | None
"""Names to watch in a directory. None means all names."""


def watched_names(names: frozenset[str], wildcards: Iterable[str]) -> WatchedNames:
    """Return the single `names` and the names that one of the `wildcards` matches, each name once."""
    matching = MatchingNames(frozenset(), frozenset(wildcards))
    if ANY in matching.wildcards:
        return None
    return replace(matching, names=frozenset(name for name in names if name not in matching))


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
