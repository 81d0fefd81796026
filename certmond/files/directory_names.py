"""Names in a directory. A change of one name costs one look, however many names the directory has."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

_MAX_CHANGES = 1000
"""Number of changes after which `Names.changes` begins again, so that the list does not grow without bound."""


class Names:
    """The sorted names in a directory, with the names that have changed since the object was created."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted(names)
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

    def __contains__(self, name: str) -> bool:
        at = bisect_left(self._names, name)
        return self._names[at : at + 1] == [name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names) and self._names == other._names

    __hash__ = None  # type: ignore[assignment]  # the names change


NO_NAMES = Names(())
