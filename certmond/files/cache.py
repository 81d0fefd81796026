"""Cache of parsed files of the node. The cache reads a file again only after a change.

The cache stores no bytes of a file, because the bytes can be a private key. If other users can change the file that
names a path, the cache stores only content of this path that these users can read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from itertools import chain, takewhile
from typing import Any, TypeVar

from certmond.files.cache_entry import Entry, EntryKey, Parser, entry_key, instant_of, packed_entry
from certmond.files.consistent_read import PauseBudget, content_at
from certmond.files.directory_names import ANY, NO_NAMES, Listings, Names, WatchedNames, watched_names
from certmond.files.forked_worker import in_two_processes
from certmond.files.path_resolution import Referrer, ResolvedPath, fault_of, refusal
from certmond.files.resolved_directory_cache import DirectoryCache
from certmond.pki.findings import Fault, Reason

_BATCH_BYTES = 1 << 18  # number of bytes of files that the cache reads before the parser runs
_MAX_PAUSES = 20
"""Maximum number of pauses in one pass. During a pause, another process can complete a write.

Without this limit, a user who repeatedly changes many files could stop the pass.
"""

_MAX_UNUSED = 10_000
"""The cache checks all entries if it has more than twice the entries after the last such check, and this number more.

A file that names other files can name others after each change. Only a check of all entries drops the unused ones.
"""

T = TypeVar("T")


class Files:
    """Cache of the files below the directory `root` ("/" for this node). Only one thread may use the cache.

    The cache calls `alive` after it has parsed a file, also in a forked process.
    """

    def __init__(self, root: str = "/", alive: Callable[[], None] = lambda: None) -> None:
        self._root, self._alive = "" if root == "/" else os.path.realpath(root), alive
        self._directories = DirectoryCache(self._root)
        self._entries: dict[EntryKey, Entry] = {}
        self._previous: dict[EntryKey, Entry] = {}
        self._listings = Listings()
        self._by_lookup: dict[str, EntryKey | set[EntryKey]] = {}
        self._interest: dict[str, WatchedNames] | None = None
        self.generation = 0
        """The number of calls of `refresh`. Between two calls, no listing and no entry changes."""
        self.dropped: frozenset[Entry] | None = None
        """The entries that the last call of `refresh` dropped, or None if the call dropped all entries."""
        self._checked: int | None = None  # number of entries after the last check of all entries
        self._pauses = PauseBudget(_MAX_PAUSES)
        self.unfinished = set[str]()
        """The lookups of files that the next pass must read again, because a write might be in progress."""

    def refresh(self, touched: frozenset[str] | None) -> None:
        """Drop the entries of the `touched` lookups ("directory/name"), or all entries if `touched` is None."""
        self.generation += 1
        self.dropped, self._pauses, self.unfinished = None, PauseBudget(_MAX_PAUSES), set()
        if self._previous or self._listings.has_unread:
            self._interest = None
        if self._checked is None:
            self._checked = len(self._entries)
        has_unused = len(self._entries) > 2 * self._checked + _MAX_UNUSED
        # A created, removed or moved directory can change every path below it, so check all entries again.
        if touched is None or has_unused or not touched.isdisjoint(self._directory_lookups()):
            self._checked = None
            self._directories.clear()
            self._by_lookup.clear()
            self._previous, self._entries = self._entries, {}
            self._listings.clear()
            self._interest = None
        else:
            affected: set[EntryKey] = set()
            for lookup in touched:
                found = self._by_lookup.pop(lookup, set())
                affected |= found if isinstance(found, set) else {found}
            self._previous = {each: self._entries.pop(each) for each in affected if each in self._entries}
            for entry in self._previous.values():
                self._drop_lookups(entry)
            self._listings.update(touched)
            self.dropped = frozenset(self._previous.values())

    def _drop_lookups(self, entry: Entry) -> None:
        """Remove the lookups of a dropped entry from the index."""
        # Otherwise a user who repeatedly changes the target of a symlink could grow the index without bound.
        for lookup in entry.lookups:
            others = self._by_lookup.get(lookup)
            if isinstance(others, set):
                others.discard(entry.entry_key)
            if others in (entry.entry_key, set()):
                del self._by_lookup[lookup]

    def entry(self, path: str, referrer: Referrer | None = None) -> Entry:
        """Return the cache entry of `path`.

        `referrer` is the file that names `path`, or None. If other users can change the referrer, the entry contains
        only content that these users can read.
        """
        key = entry_key(path, referrer)
        entry = self._entries.get(key)
        if entry is None:
            # If the file of a dropped entry is unchanged, use this entry again.
            known = self._previous.pop(key, None)
            entry = self._store(self._stat_entry(path, known, referrer))
            if (known is None or known.lookups != entry.lookups) and not self._is_watched(entry.lookups):
                self._interest = None
        return entry

    def _is_watched(self, lookups: Iterable[str]) -> bool:
        """Return whether `interest` contains the lookups. Most new files are in a directory whose names it contains."""
        if self._interest is None:
            return False
        found = ((self._interest.get(each.rpartition("/")[0] or "/", ()), each.rpartition("/")[2]) for each in lookups)
        return all(names is None or name in names for names, name in found)

    def _store(self, entry: Entry) -> Entry:
        key = entry.entry_key
        self._entries[key] = entry
        for lookup in entry.lookups:
            others = self._by_lookup.setdefault(lookup, key)
            if others != key:  # most lookups belong to one path, so the index stores it without a set
                self._by_lookup[lookup] = others = others if isinstance(others, set) else {others}
                others.add(key)
        return entry

    def value(self, path: str, parse: Parser[T], referrer: Referrer | None = None) -> T | None:
        """Return the result of `parse` for the content of `path`, or None if the file is missing or unusable."""
        entry = self.entry(path, referrer)
        if entry.fault is None and parse not in entry.parsers:
            self._parse_entries((entry,), parse)
        return entry.value(parse) if parse in entry.parsers else None

    def parsed(self, paths: Sequence[str], parse: Parser[Any]) -> Iterator[Iterable[str]]:
        """Parse the files at `paths`, so that `value` can return the results. Yield the parsed paths in several parts.

        A forked worker can send results through a pipe, so the result of `parse` must not contain a private key.
        """
        paths = tuple(dict.fromkeys(paths))
        known = [path for path in paths if path in self._entries or path in self._previous]
        new = [path for path in paths if path not in self._entries and path not in self._previous]
        yield self._parse(known, parse)
        yield from in_two_processes(
            new,
            lambda some: self._parse(some, parse),
            encode=lambda some, _: [packed_entry(self._entries.pop(path)) for path in some],
            decode=lambda some, results: self._store_results(some, results, parse),
        )

    def _parse(self, paths: Iterable[str], parse: Parser[Any]) -> Iterable[str]:
        self._parse_entries(map(self.entry, paths), parse)
        return paths

    def _parse_entries(self, entries: Iterable[Entry], parse: Parser[Any]) -> None:
        """Read the files of several entries, then parse them.

        If the cache parsed each file before the next read, ten thousand files would take one fifth longer, because of
        the caches of the processor.
        """
        read, size = list[tuple[Entry, bytes]](), 0
        for entry in entries:
            if entry.fault is None and parse not in entry.parsers and (content := self._read(entry)) is not None:
                read.append((entry, content))
                size += len(content)
            if size >= _BATCH_BYTES:
                self._store_parsed(read, parse)
                read, size = [], 0
        self._store_parsed(read, parse)

    def _store_parsed(self, read: Iterable[tuple[Entry, bytes]], parse: Parser[Any]) -> None:
        """Parse the content of each entry, and store the result in the entry."""
        for entry, content in read:
            digest = hashlib.sha256(content).digest()
            if digest != entry.digest:  # the content has changed since the other parsers ran
                entry.values = tuple(other(content, entry.path) for other in entry.parsers)
            entry.digest = digest
            entry.store_value(parse, parse(content, entry.path))
            self._alive()

    def _store_results(self, paths: Iterable[str], results: Iterable[Any], parse: Parser[Any]) -> Iterable[str]:
        """Store the entries and parsed values that the forked worker returned for `paths`. Return `paths`."""
        self._interest = None
        for path, (rest, values) in zip(paths, results, strict=True):
            if path in self._entries:  # this process has already read the file
                continue
            self._directories.directory(path.rpartition("/")[0])
            entry = self._store(Entry(path, *rest))
            entry.real = path if entry.real == path else entry.real  # one string object for both
            for value in values:
                entry.store_value(parse, value)
        return paths

    def listing(self, directory: str) -> tuple[str, ...]:
        """Return the sorted names in a directory, or () if certmond cannot read the directory.

        The result is the same object until the names change.
        """
        return self.names(directory).snapshot

    def names(self, directory: str, wildcard: str = ANY) -> Names:
        """Return the names in a directory that `wildcard` matches, or no names if certmond cannot read the directory.

        Later calls of `refresh` update this object.
        """
        resolved = self._directories.readable_directory(directory)
        if resolved.fault is not None:
            return NO_NAMES  # do not store the result: another path can lead to the same directory without a fault
        names, is_new = self._listings.names(resolved.real, wildcard)
        if is_new:
            self._interest = None
        return names

    def listing_fault(self, directory: str) -> Fault | None:
        """Return why `names` returned no names of a directory, or None if it is missing or readable."""
        resolved = self._directories.readable_directory(directory)
        fault, error = resolved.fault, self._listings.error(resolved.real)
        if fault is None and error:
            fault = fault_of(error, directory)  # without restriction: `readable_directory` has checked all users
        if fault and fault.reason is Reason.UNREADABLE and not fault.remedy:
            fault = replace(fault, remedy="make the directory readable by root, or correct the path")
        return None if fault and fault.reason is Reason.MISSING else fault

    def changed_in(self, directory: str) -> datetime | None:
        """Return the time of the last change (ctime) to a directory or its names, or None if this time is unknown."""
        resolved = self._directories.readable_directory(directory)
        with suppress(OSError):
            return instant_of(os.lstat(resolved.real or "/").st_ctime_ns) if resolved.fault is None else None
        return None

    @property
    def interest(self) -> Mapping[str, WatchedNames]:
        """The names to watch, by directory."""
        # The result excludes entries that no caller has requested again after a change.
        if self._interest is None or self._directories.has_new or self._previous or self._listings.has_unread:
            self._directories.has_new = False
            lookups = chain((entry.lookups for entry in self._entries.values()), self._directories.lookups())
            self._interest = watched_names(chain.from_iterable(lookups), self._listings.wildcards())
        return self._interest

    def _directory_lookups(self) -> set[str]:
        return {lookup for some in self._directories.lookups() for lookup in some} | {self._root or "/"}

    def _stat_entry(self, path: str, known: Entry | None, referrer: Referrer | None) -> Entry:
        """Call stat for `path`. Return a new entry, or the previous entry `known` if nothing has changed."""
        resolved = self._directories.resolve_path(path, referrer)
        entry = Entry(
            path, fault=resolved.fault, is_link=resolved.is_link, target=resolved.target, lookups=resolved.lookups,
            writers=resolved.writers,
        )  # fmt: skip
        entry.restriction, entry.referrer = resolved.restriction, referrer
        if entry.fault is None:
            real = resolved.real.removeprefix(self._root) or "/"
            entry.real = path if real == path else real
            try:
                status = resolved.status or os.lstat(resolved.real or "/")
                entry.store_status(status)
                entry.foreign = not resolved.other_users <= {status.st_uid}
            except OSError as error:
                entry.fault = fault_of(error, path, resolved.restriction)
        if resolved.restriction and referrer and referrer.writers and entry.fault:
            self._withhold(entry, resolved)
        if known is None:
            return entry
        same = _comparable(known) == _comparable(entry)
        # If only the metadata has changed, the new entry gets the parsed values of `known`.
        if known.digest and entry.fault is None and not (same and known.settled):
            self._reuse_values(entry, known, resolved.real)
            same = same and entry.digest == known.digest
        if same:
            known.settled = entry.settled
        return known if same else entry

    def _withhold(self, entry: Entry, resolved: ResolvedPath) -> None:
        """Remove all facts, except the refusal, from an entry whose file `resolved.other_users` cannot read."""
        entry.fault = resolved.restriction and refusal(entry.path, resolved.restriction)
        entry.target = ""
        entry.real, entry.is_link, entry.state = None, False, None
        # Continue to watch the directories that these users can read.
        is_readable = self._directories.is_directory_readable
        entry.lookups = tuple(takewhile(lambda each: is_readable(resolved.other_users, each), resolved.lookups))

    def _reuse_values(self, entry: Entry, known: Entry, real: str) -> None:
        """Read the content of the file at `real`. Reuse the parsed values of `known` if the bytes are equal, otherwise
        parse the content again.

        If the read fails, set the fault of `entry`.
        """
        omitted = self._pauses.omitted
        try:
            content = content_at(real, entry.inode, self._pauses)
        except OSError as error:
            entry.fault = fault_of(error, entry.path, entry.restriction)
            return
        finally:
            if self._pauses.omitted > omitted:
                self.unfinished |= set(entry.lookups)
        entry.digest = hashlib.sha256(content).digest()
        entry.parsers = known.parsers
        if entry.digest == known.digest:
            entry.values = known.values
        else:
            entry.values = tuple(parse(content, entry.path) for parse in known.parsers)
        self._alive()

    def _read(self, entry: Entry) -> bytes | None:
        """Return the content of the file. If the read fails, set the fault of the entry and return None."""
        content = self._read_direct(entry)
        if content is None:
            resolved = self._directories.resolve_path(entry.path, entry.referrer)
            if resolved.fault is not None:
                entry.fault = resolved.fault
                return None
            try:
                content = content_at(resolved.real, entry.inode)
            except OSError as error:
                entry.fault = fault_of(error, entry.path, entry.restriction)
        return content

    def _read_direct(self, entry: Entry) -> bytes | None:
        """Return the content of the resolved path, or None if the caller must resolve the path again."""
        if entry.real == entry.path:
            with suppress(OSError):
                return content_at(f"{self._root}{entry.path}", entry.inode)
        return None


def _comparable(entry: Entry) -> tuple[object, ...]:
    """Return the fields that differ after a change to the resolved path or to the metadata."""
    return entry.lookups, entry.target, entry.state, entry.fault, entry.writers, entry.restriction, entry.foreign
