"""Cache of parsed files of the node. It reads consistently, and only what has changed.

Owns the lookup from a path of the catalogue to bytes, below a root directory that also bounds absolute symlinks. It
refuses everything except regular files of at most MAX_SIZE. It stats a file again only after its directory reported a
change, and parses it again only if its bytes differ. It keeps parsed values and digests, never bytes, which may be a
private key. A path that a file of another user names has a separate entry, with what that user can read. Never writes,
never judges.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import takewhile
from typing import Any, TypeVar

from certmond.files.cache_entry import Asked, Entry, asked, instant_of, packed
from certmond.files.consistent_read import Patience, content_at
from certmond.files.directory_cache import DirectoryCache
from certmond.files.path_resolution import Referrer, Way, fault_of, refusal
from certmond.files.scan_process import in_two

_TOGETHER = 1 << 18  # bytes that are read before they are parsed
_PAUSES = 20
"""Maximum number of pauses in one pass, for processes that write known files. A user can touch many files
without end.
"""

T = TypeVar("T")
Parser = Callable[[bytes, str], T]
"""(content, path for messages) -> value. Never raises: an error in the content is part of the value."""


class Files:
    """The files of a node whose root directory is `root` ("/" for this node). For one thread only."""

    def __init__(self, root: str = "/") -> None:
        self._root = "" if root == "/" else os.path.realpath(root)
        self._directories = DirectoryCache(self._root)
        self._entries: dict[Asked, Entry] = {}
        self._known: dict[Asked, Entry] = {}
        self._listings: dict[str, tuple[str, ...]] = {}
        self._listed: dict[str, tuple[str, ...]] = {}
        self._by_lookup: dict[str, Asked | set[Asked]] = {}
        self._interest: dict[str, frozenset[str] | None] | None = None
        self.forgotten: frozenset[Entry] | None = None
        """The entries that the last `refresh` dropped, or None if it dropped all."""
        self._patience = Patience(_PAUSES)
        self.unfinished = set[str]()
        """The lookups of files that the next pass reads again, because this pass had no pauses left."""

    def refresh(self, touched: frozenset[str] | None) -> None:
        """Drop what may have changed: the entries of the `touched` lookups ("directory/name"), or all (None).

        Entries that were not requested again since the last call are dropped for good.
        """
        self.forgotten, self._patience, self.unfinished = None, Patience(_PAUSES), set()
        if self._known or self._listed:
            self._interest = None
        # A created, removed or moved directory can change every path below it, so everything is checked again.
        if touched is None or not touched.isdisjoint(self._directory_lookups()):
            self._directories.clear()
            self._by_lookup.clear()
            self._known, self._entries = self._entries, {}
            self._listed, self._listings = self._listings, {}
            self._interest = None
        else:
            behind: set[Asked] = set()
            for lookup in touched:
                found = self._by_lookup.pop(lookup, set())
                behind |= found if isinstance(found, set) else {found}
            self._known = {each: self._entries.pop(each) for each in behind if each in self._entries}
            for entry in self._known.values():
                self._forget_way(entry)
            places = {
                place for place, _, name in (each.rpartition("/") for each in touched) if self._moved(place, name)
            }
            self._listed = {place: self._listings.pop(place) for place in places}
            self.forgotten = frozenset(self._known.values())

    def _forget_way(self, entry: Entry) -> None:
        """Drop the old lookups. Otherwise a user who keeps retargeting a symlink grows this index without bound."""
        for lookup in entry.lookups:
            others = self._by_lookup.get(lookup)
            if isinstance(others, set):
                others.discard(entry.asked)
            if others in (entry.asked, set()):
                del self._by_lookup[lookup]

    def _moved(self, place: str, name: str) -> bool:
        """Return whether a name was added to or removed from a listed directory. A replaced file changes no listing."""
        names = self._listings.get(place)
        if names is None:
            return False
        at = bisect_left(names, name)
        return (names[at : at + 1] == (name,)) != os.path.lexists(f"{place}/{name}")

    def entry(self, path: str, referrer: Referrer | None = None) -> Entry:
        """Return the entry of `path`, read again if the file may have changed.

        If a file that other users can change names `path` (`referrer`), the entry has only what those users can read.
        """
        wanted = asked(path, referrer)
        entry = self._entries.get(wanted)
        if entry is None:
            known = self._known.pop(wanted, None)
            entry = self._keep(self._look(path, known, referrer))
            if known is None or known.lookups != entry.lookups:
                self._interest = None
        return entry

    def _keep(self, entry: Entry) -> Entry:
        wanted = entry.asked
        self._entries[wanted] = entry
        for lookup in entry.lookups:
            others = self._by_lookup.setdefault(lookup, wanted)
            if others != wanted:  # most lookups belong to one path, which needs no set
                self._by_lookup[lookup] = others = others if isinstance(others, set) else {others}
                others.add(wanted)
        return entry

    def value(self, path: str, parse: Parser[T], referrer: Referrer | None = None) -> T | None:
        """Return the parsed content of `path`, or None if the entry has a fault."""
        entry = self.entry(path, referrer)
        if entry.fault is None and parse not in entry.values:
            self._parse_entries((entry,), parse)
        found: T | None = entry.values.get(parse)
        return found

    def parsed(self, paths: Sequence[str], parse: Parser[Any]) -> Iterator[Iterable[str]]:
        """Parse each of `paths`, for `value` to return, and yield the finished paths part by part.

        For many paths, a second process parses some of them. So the values of `parse` must be facts without a key.
        """
        known = [path for path in paths if path in self._entries or path in self._known]
        new = [*dict.fromkeys(path for path in paths if path not in self._entries and path not in self._known)]
        yield self._parse(known, parse)
        yield from in_two(
            new,
            lambda some: self._parse(some, parse),
            tell=lambda some, _: [packed(self._entries.pop(path)) for path in some],
            take=lambda some, told: self._take(some, told, parse),
        )

    def _parse(self, paths: Iterable[str], parse: Parser[Any]) -> Iterable[str]:
        self._parse_entries(map(self.entry, paths), parse)
        return paths

    def _parse_entries(self, entries: Iterable[Entry], parse: Parser[Any]) -> None:
        """Parse the entries in batches: read several, then parse them.

        To alternate for each of ten thousand files takes a fifth longer, because kernel and parser evict each other
        from the processor's caches.
        """
        read, size = list[tuple[Entry, bytes]](), 0
        for entry in entries:
            if entry.fault is None and parse not in entry.values and (content := self._read(entry)) is not None:
                read.append((entry, content))
                size += len(content)
            if size >= _TOGETHER:
                _parse(read, parse)
                read, size = [], 0
        _parse(read, parse)

    def _take(self, paths: Iterable[str], told: Iterable[Any], parse: Parser[Any]) -> Iterable[str]:
        """Store what another process has found for these paths."""
        self._interest = None
        for path, (rest, values) in zip(paths, told, strict=True):
            if path in self._entries:  # requested and read here meanwhile
                continue
            self._directories.directory(path.rpartition("/")[0])
            entry = self._keep(Entry(path, *rest))
            entry.real = path if entry.real == path else entry.real  # one object for both
            entry.values.update((parse, value) for value in values)
        return paths

    def listing(self, directory: str) -> tuple[str, ...]:
        """Return the sorted names in a directory, or () if it cannot be read; add all its names to `interest`.

        Returns the same object until the names change.
        """
        place = self._directories.admitted_directory(directory)
        if place.fault is not None:
            return ()  # not stored: another path may lead to the same directory without a fault
        names = self._listings.get(place.real)
        if names is None:
            try:
                names = tuple(sorted(os.listdir(place.real or "/")))
            except OSError:
                names = ()
            before = self._listed.pop(place.real, None)
            if before is None:
                self._interest = None
            names = self._listings[place.real] = before if before == names else names
        return names

    def changed_in(self, directory: str) -> datetime | None:
        """Return when a name was last added to or removed from a directory (ctime), or None if that cannot be read."""
        place = self._directories.admitted_directory(directory)
        with suppress(OSError):
            return instant_of(os.lstat(place.real or "/").st_ctime_ns) if place.fault is None else None
        return None

    @property
    def interest(self) -> Mapping[str, frozenset[str] | None]:
        """Return every directory in which names were looked up, with the names, or None for all names."""
        # Entries that were not requested again after a change are no longer of interest.
        if self._interest is None or self._directories.has_new or self._known or self._listed:
            names: dict[str, set[str]] = {}
            lookups = [entry.lookups for entry in self._entries.values()]
            lookups += self._directories.lookups()
            self._directories.has_new = False
            for lookup in dict.fromkeys(lookup for some in lookups for lookup in some):
                directory, _, name = lookup.rpartition("/")
                names.setdefault(directory or "/", set()).add(name)
            interest: dict[str, frozenset[str] | None] = {place: frozenset(found) for place, found in names.items()}
            self._interest = interest | dict.fromkeys((place or "/" for place in self._listings), None)
        return self._interest

    def _directory_lookups(self) -> set[str]:
        return {lookup for some in self._directories.lookups() for lookup in some} | {self._root or "/"}

    def _look(self, path: str, known: Entry | None, referrer: Referrer | None) -> Entry:
        """Stat `path`. Return `known` if nothing changed; reuse its values if only the metadata changed."""
        place = self._directories.way(path, referrer)
        entry = Entry(path, fault=place.fault, is_link=place.is_link, lookups=place.lookups, writers=place.writers)
        entry.blame, entry.referrer = place.blame, referrer
        if entry.fault is None:
            real = place.real.removeprefix(self._root) or "/"
            entry.real = path if real == path else real
            try:
                entry.take(place.status or os.lstat(place.real or "/"))
                entry.foreign = not place.strangers <= {entry.uid}
            except OSError as error:
                entry.fault = fault_of(error, path, place.blame)
        if place.blame and referrer and referrer.writers and entry.fault:
            self._withhold(entry, place)
        if known is None:
            return entry
        same = _visible(known) == _visible(entry)
        if known.digest and entry.fault is None and not (same and known.settled):
            self._take_over(entry, known, place.real)
            same = same and entry.digest == known.digest
        if same:
            known.settled = entry.settled
        return known if same else entry

    def _withhold(self, entry: Entry, place: Way) -> None:
        """Replace the entry of a reference whose writers cannot read the file: the new entry has only that fact.

        certmond keeps watching the first part of the path: the directories that those users can read.
        """
        entry.fault = place.blame and refusal(entry.path, place.blame)
        entry.real, entry.is_link, entry.key, entry.mode, entry.uid, entry.gid = None, False, None, 0, 0, 0
        entry.lookups = tuple(takewhile(lambda each: self._directories.is_open(place.strangers, each), place.lookups))

    def _take_over(self, entry: Entry, known: Entry, real: str) -> None:
        """Read the content; keep the values if the bytes are equal. A touched file is no change."""
        omitted = self._patience.omitted
        try:
            content = content_at(real, entry.inode, self._patience)
        except OSError as error:
            entry.fault = fault_of(error, entry.path, entry.blame)
            return
        finally:
            if self._patience.omitted > omitted:
                self.unfinished |= set(entry.lookups)
        entry.digest = hashlib.sha256(content).digest()
        if entry.digest == known.digest:
            entry.values = known.values
        else:
            entry.values = {parse: parse(content, entry.path) for parse in known.values}

    def _read(self, entry: Entry) -> bytes | None:
        """Return the content, or None if it cannot be read; the entry then has the fault."""
        content = self._straight(entry)
        if content is None:
            way = self._directories.way(entry.path, entry.referrer)
            if way.fault is not None:
                entry.fault = way.fault
                return None
            try:
                content = content_at(way.real, entry.inode)
            except OSError as error:
                entry.fault = fault_of(error, entry.path, entry.blame)
        return content

    def _straight(self, entry: Entry) -> bytes | None:
        """Return the content of a path without symlinks. None if it has one or the read fails: then follow it again."""
        if entry.real == entry.path:
            with suppress(OSError):
                return content_at(f"{self._root}{entry.path}", entry.inode)
        return None


def _parse(read: Iterable[tuple[Entry, bytes]], parse: Parser[Any]) -> None:
    for entry, content in read:
        digest = hashlib.sha256(content).digest()
        if digest != entry.digest:  # the content has changed since other parsers ran
            entry.values = {other: other(content, entry.path) for other in entry.values}
        entry.digest = digest
        entry.values[parse] = parse(content, entry.path)


def _visible(entry: Entry) -> tuple[object, ...]:
    """Return what distinguishes two entries, without their content."""
    return entry.lookups, entry.key, entry.fault, entry.writers, entry.blame, entry.foreign
