"""Reading this node's files: safely, consistently, and only when they changed.

Owns the way from a path of the catalogue to its bytes: the root directory that every path (absolute symlinks included)
lies below, the refusal of all but regular files of a sane size, and the memory of what was parsed. A file is looked at
again only if its directory reported a change, and parsed again only if its bytes are new. It keeps parsed values and
digests, never the bytes: they may be a private key. Never writes, never judges.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, TypeVar

from certmond.host.content import MAX_SIZE, TICK, content_at, state_of
from certmond.host.second import in_two
from certmond.host.way import Way, fault_of, follow, open_to, refusal
from certmond.pki.reason import Fault, Reason

_TOGETHER = 1 << 18  # bytes are read before they are parsed
_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket",
          stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}  # fmt: skip

T = TypeVar("T")
Parser = Callable[[bytes, str], T]
"""(content, path for messages) -> value. Never raises: what is wrong with the content is part of the value."""


@dataclass(eq=False, slots=True)
class Entry:
    """What is known of one path. The same object is handed out until something about the file changes.

    `real` is where the path leads below the root, without symlinks; None where it leads nowhere. `settled` says that
    whatever is done to the file afterwards will show in `key`.
    """

    path: str
    real: str | None = None
    fault: Fault | None = None
    is_link: bool = False
    mode: int = 0
    uid: int = 0
    gid: int = 0
    key: tuple[int, ...] | None = None
    settled: bool = True
    digest: bytes | None = None
    lookups: tuple[str, ...] = ()
    values: dict[Any, Any] = field(default_factory=dict)

    @property
    def missing(self) -> bool:
        return self.fault is not None and self.fault.reason is Reason.MISSING

    @property
    def is_directory(self) -> bool:
        return self.key is not None and stat.S_ISDIR(self.key[-1])


class Files:
    """The files of a node whose root directory is `root` ("/" for this one). Not for more than one thread."""

    def __init__(self, root: str = "/") -> None:
        self._root = "" if root == "/" else os.path.realpath(root)
        self._directories: dict[str, Way] = {}
        self._entries: dict[str, Entry] = {}
        self._known: dict[str, Entry] = {}
        self._listings: dict[str, tuple[str, ...]] = {}
        self._listed: dict[str, tuple[str, ...]] = {}
        self._by_lookup: dict[str, str | set[str]] = {}
        self._interest: dict[str, frozenset[str] | None] | None = None
        self.forgotten: frozenset[Entry] | None = None
        """The entries that the last `refresh` forgot; None where it forgot all."""

    def refresh(self, touched: frozenset[str] | None) -> None:
        """Forget what may have changed: the entries behind the `touched` lookups ("directory/name"), or all (None).

        What nobody asked for since the last time is forgotten for good.
        """
        self.forgotten = None
        if self._known or self._listed:
            self._interest = None
        # A directory that came, went or moved leads every path below it elsewhere: then all is looked at.
        if touched is None or not touched.isdisjoint(self._directory_lookups()):
            self._directories.clear()
            self._by_lookup.clear()
            self._known, self._entries = self._entries, {}
            self._listed, self._listings = self._listings, {}
            self._interest = None
        else:
            paths: set[str] = set()
            for lookup in touched:
                found = self._by_lookup.pop(lookup, set())
                paths |= {found} if isinstance(found, str) else found
            self._known = {path: self._entries.pop(path) for path in paths if path in self._entries}
            for entry in self._known.values():
                self._forget_way(entry)
            places = {
                place for place, _, name in (each.rpartition("/") for each in touched) if self._moved(place, name)
            }
            self._listed = {place: self._listings.pop(place) for place in places}
            self.forgotten = frozenset(self._known.values())

    def _forget_way(self, entry: Entry) -> None:
        """Its way is looked up anew, and may be another: whoever may turn a symlink would fill the memory else."""
        for lookup in entry.lookups:
            others = self._by_lookup.get(lookup)
            if isinstance(others, set):
                others.discard(entry.path)
            if others in (entry.path, set()):
                del self._by_lookup[lookup]

    def _moved(self, place: str, name: str) -> bool:
        """A name has come into a directory that is listed, or gone. Whoever only replaces a file changes no listing."""
        names = self._listings.get(place)
        if names is None:
            return False
        at = bisect_left(names, name)
        return (names[at : at + 1] == (name,)) != os.path.lexists(f"{place}/{name}")

    def entry(self, path: str) -> Entry:
        """What is known of `path`, looked at if need be."""
        entry = self._entries.get(path)
        if entry is None:
            known = self._known.pop(path, None)
            entry = self._keep(path, self._look(path, known))
            if known is None or known.lookups != entry.lookups:
                self._interest = None
        return entry

    def _keep(self, path: str, entry: Entry) -> Entry:
        self._entries[path] = entry
        for lookup in entry.lookups:
            others = self._by_lookup.setdefault(lookup, path)
            if others != path:  # most lead to one path, which needs no set
                self._by_lookup[lookup] = others = {others} if isinstance(others, str) else others
                others.add(path)
        return entry

    def value(self, path: str, parse: Parser[T]) -> T | None:
        """The parsed content of `path`; None where the entry has a fault."""
        entry = self.entry(path)
        if entry.fault is None and parse not in entry.values:
            self._parse((path,), parse)
        found: T | None = entry.values.get(parse)
        return found

    def parsed(self, paths: Sequence[str], parse: Parser[Any]) -> Iterator[Iterable[str]]:
        """Have the content of each of `paths` parsed, for `value` to find, a part of them at a time: those that are
        done. Of many, a second process looks at some, so that what `parse` gives has to be a fact without a key in it.
        """
        known = [path for path in paths if path in self._entries or path in self._known]
        new = [*dict.fromkeys(path for path in paths if path not in self._entries and path not in self._known)]
        yield self._parse(known, parse)
        yield from in_two(
            new,
            lambda some: self._parse(some, parse),
            tell=lambda some, _: [_told(self._entries.pop(path)) for path in some],
            take=lambda some, told: self._take(some, told, parse),
        )

    def _parse(self, paths: Iterable[str], parse: Parser[Any]) -> Iterable[str]:
        """Several are read, then parsed: whoever goes to and fro for each of ten thousand takes a fifth longer, as the
        kernel and the parser drive each other out of the processor's caches.
        """
        read, size = list[tuple[Entry, bytes]](), 0
        for path in paths:
            entry = self.entry(path)
            if entry.fault is None and parse not in entry.values and (content := self._read(entry)) is not None:
                read.append((entry, content))
                size += len(content)
            if size >= _TOGETHER:
                _parse(read, parse)
                read, size = [], 0
        _parse(read, parse)
        return paths

    def _take(self, paths: Iterable[str], told: Iterable[Any], parse: Parser[Any]) -> Iterable[str]:
        """Know of these paths what another process has found there."""
        self._interest = None
        for path, (rest, values) in zip(paths, told, strict=True):
            if path in self._entries:  # somebody has asked for it meanwhile, and has what was seen then
                continue
            self._directory(path.rpartition("/")[0])
            entry = self._keep(path, Entry(path, *rest))
            entry.real = path if entry.real == path else entry.real  # one object for both
            entry.values.update((parse, value) for value in values)
        return paths

    def listing(self, directory: str) -> tuple[str, ...]:
        """The names in a directory, sorted; none where it cannot be read. Any change in it is of interest from now. The
        same object is handed out until they change.
        """
        place = self._admitted(self._directory(directory), directory)
        if place.fault is not None:
            return ()  # and nothing is kept of it: another path may lead there all the same
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

    @property
    def interest(self) -> Mapping[str, frozenset[str] | None]:
        """Every directory in which something was looked up, with the names; None where all names are of interest."""
        # What was of interest, and was not asked for again after a change, is not any more.
        if self._interest is None or self._known or self._listed:
            names: dict[str, set[str]] = {}
            lookups = [entry.lookups for entry in self._entries.values()]
            lookups += [place.lookups for place in self._directories.values()]
            for lookup in dict.fromkeys(lookup for some in lookups for lookup in some):
                directory, _, name = lookup.rpartition("/")
                names.setdefault(directory or "/", set()).add(name)
            interest: dict[str, frozenset[str] | None] = {place: frozenset(found) for place, found in names.items()}
            self._interest = interest | dict.fromkeys((place or "/" for place in self._listings), None)
        return self._interest

    def _directory_lookups(self) -> set[str]:
        lookups = {lookup for place in self._directories.values() for lookup in place.lookups}
        return lookups | {self._root or "/"}

    def _directory(self, path: str) -> Way:
        place = self._directories.get(path)
        if place is None:
            place = self._directories[path] = follow(path, self._root, root=self._root, called=path)
            self._interest = None
        return place

    def _way(self, path: str) -> Way:
        directory, _, name = path.rpartition("/")
        place = self._directory(directory)
        if place.fault is not None:
            return Way(place.real, (), fault=_renamed(place, path), strangers=place.strangers)
        way = follow(name, place.real, root=self._root, called=path, strangers=place.strangers)
        return self._admitted(way, path)

    def _admitted(self, way: Way, path: str) -> Way:
        """The way; with a fault where a symlink of a stranger leads to what he could not read himself."""
        if way.fault is not None or not way.strangers:
            return way
        with suppress(OSError):
            if open_to(way.strangers, way.real, os.lstat(way.real or "/"), root=self._root):
                return way
        return replace(way, fault=refusal(path, way.strangers))

    def _look(self, path: str, known: Entry | None) -> Entry:
        """Stat `path`; the known entry again where nothing changed, and its values where only the outside did."""
        place = self._way(path)
        entry = Entry(path, fault=place.fault, is_link=place.is_link, lookups=place.lookups)
        if entry.fault is None:
            real = place.real.removeprefix(self._root) or "/"
            entry.real = path if real == path else real
            try:
                self._stat(entry, place.status or os.lstat(place.real or "/"))
            except OSError as error:
                entry.fault = fault_of(error, path, place.strangers)
        if known is None:
            return entry
        same = (known.lookups, known.key, known.fault) == (entry.lookups, entry.key, entry.fault)
        if known.digest and entry.fault is None and not (same and known.settled):
            self._take_over(entry, known, place.real)
            same = same and entry.digest == known.digest
        if same:
            known.settled = entry.settled
        return known if same else entry

    def _stat(self, entry: Entry, status: os.stat_result) -> None:
        entry.mode, entry.uid, entry.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
        entry.key = state_of(status)
        entry.settled = status.st_ctime_ns < time.time_ns() - TICK
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
            entry.fault = Fault(Reason.UNREADABLE, f"{entry.path} is {kind}, not a file")
        elif status.st_size > MAX_SIZE:
            size = f"{status.st_size} bytes large, more than the {MAX_SIZE} that are read"
            entry.fault = Fault(Reason.UNREADABLE, f"{entry.path} is {size}")

    def _take_over(self, entry: Entry, known: Entry, real: str) -> None:
        """Equal bytes keep their values: a touched or rewritten file is no news."""
        try:
            content = content_at(real)
        except OSError as error:
            entry.fault = fault_of(error, entry.path)
            return
        entry.digest = hashlib.sha256(content).digest()
        if entry.digest == known.digest:
            entry.values = known.values
        else:
            entry.values = {parse: parse(content, entry.path) for parse in known.values}

    def _read(self, entry: Entry) -> bytes | None:
        """What the file holds; None where it cannot be read, which is the entry's fault from then on."""
        content = self._straight(entry)
        if content is None:
            way = self._way(entry.path)
            if way.fault is not None:
                entry.fault = way.fault
                return None
            try:
                content = content_at(way.real)
            except OSError as error:
                entry.fault = fault_of(error, entry.path)
        return content

    def _straight(self, entry: Entry) -> bytes | None:
        """What is at a path to which no symlink led; None where the way has to be looked at again."""
        if entry.real == entry.path:
            with suppress(OSError):
                return content_at(f"{self._root}{entry.path}")
        return None


_REST = attrgetter("real", "fault", "is_link", "mode", "uid", "gid", "key", "settled", "digest", "lookups")


def _told(entry: Entry) -> tuple[object, list[object]]:
    """An entry that was parsed in one way, for who knows its path and the way."""
    return _REST(entry), [*entry.values.values()]


def _parse(read: Iterable[tuple[Entry, bytes]], parse: Parser[Any]) -> None:
    for entry, content in read:
        digest = hashlib.sha256(content).digest()
        if digest != entry.digest:  # it is another content than was parsed in another way a moment ago
            entry.values = {other: other(content, entry.path) for other in entry.values}
        entry.digest = digest
        entry.values[parse] = parse(content, entry.path)


def _renamed(place: Way, path: str) -> Fault | None:
    """The fault of a directory, said of the path that leads through it."""
    if place.strangers:
        return refusal(path, place.strangers)
    if place.fault is None or place.fault.reason is Reason.MISSING:
        return place.fault and Fault(Reason.MISSING, f"{path} is not there")
    return Fault(place.fault.reason, f"{path}: {place.fault.detail}")
