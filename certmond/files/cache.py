"""Reading this node's files: safely, consistently, and only when they changed.

Owns the way from a path of the catalogue to its bytes: the root directory that every path (absolute symlinks included)
lies below, the refusal of all but regular files of a sane size, and the memory of what was parsed. A file is looked at
again only if its directory reported a change, and parsed again only if its bytes are new. It keeps parsed values and
digests, never the bytes: they may be a private key. A path that a file of a stranger names has an entry of its own
beside certmond's, with what that stranger can read. Never writes, never judges.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from itertools import takewhile
from typing import Any, TypeVar

from certmond.files.cache_entry import Asked, Entry, asked, instant_of, packed
from certmond.files.consistent_read import Patience, content_at
from certmond.files.path_resolution import Referrer, Way, beginning, beside, fault_of, follow, open_to, refusal
from certmond.files.scan_process import in_two
from certmond.pki.findings import Fault, Reason

_TOGETHER = 1 << 18  # bytes are read before they are parsed
_PAUSES = 20
"""How often one look pauses for processes that write known files. A user can touch many files without end."""

T = TypeVar("T")
Parser = Callable[[bytes, str], T]
"""(content, path for messages) -> value. Never raises: what is wrong with the content is part of the value."""


class Files:
    """The files of a node whose root directory is `root` ("/" for this one). Not for more than one thread."""

    def __init__(self, root: str = "/") -> None:
        self._root = "" if root == "/" else os.path.realpath(root)
        self._directories: dict[str, Way] = {}
        self._entries: dict[Asked, Entry] = {}
        self._known: dict[Asked, Entry] = {}
        self._listings: dict[str, tuple[str, ...]] = {}
        self._listed: dict[str, tuple[str, ...]] = {}
        self._by_lookup: dict[str, Asked | set[Asked]] = {}
        self._interest: dict[str, frozenset[str] | None] | None = None
        self.forgotten: frozenset[Entry] | None = None
        """The entries that the last `refresh` forgot; None where it forgot all."""
        self._patience = Patience(_PAUSES)
        self.unfinished = set[str]()
        """The lookups of files that the next look reads again, because this one had used up its pauses."""

    def refresh(self, touched: frozenset[str] | None) -> None:
        """Forget what may have changed: the entries behind the `touched` lookups ("directory/name"), or all (None).

        What nobody asked for since the last time is forgotten for good.
        """
        self.forgotten, self._patience, self.unfinished = None, Patience(_PAUSES), set()
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
        """Its way is looked up anew, and may be another: whoever may turn a symlink would fill the memory else."""
        for lookup in entry.lookups:
            others = self._by_lookup.get(lookup)
            if isinstance(others, set):
                others.discard(entry.asked)
            if others in (entry.asked, set()):
                del self._by_lookup[lookup]

    def _moved(self, place: str, name: str) -> bool:
        """A name has come into a directory that is listed, or gone. Whoever only replaces a file changes no listing."""
        names = self._listings.get(place)
        if names is None:
            return False
        at = bisect_left(names, name)
        return (names[at : at + 1] == (name,)) != os.path.lexists(f"{place}/{name}")

    def entry(self, path: str, referrer: Referrer | None = None) -> Entry:
        """Return the entry of `path`, read again if the file may have changed. If a file of strangers names `path`
        (`referrer`), the entry holds only what those strangers can read.
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
            if others != wanted:  # most lead to one path, which needs no set
                self._by_lookup[lookup] = others = others if isinstance(others, set) else {others}
                others.add(wanted)
        return entry

    def value(self, path: str, parse: Parser[T], referrer: Referrer | None = None) -> T | None:
        """The parsed content of `path`; None where the entry has a fault."""
        entry = self.entry(path, referrer)
        if entry.fault is None and parse not in entry.values:
            self._parse_entries((entry,), parse)
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
            tell=lambda some, _: [packed(self._entries.pop(path)) for path in some],
            take=lambda some, told: self._take(some, told, parse),
        )

    def _parse(self, paths: Iterable[str], parse: Parser[Any]) -> Iterable[str]:
        self._parse_entries(map(self.entry, paths), parse)
        return paths

    def _parse_entries(self, entries: Iterable[Entry], parse: Parser[Any]) -> None:
        """Several are read, then parsed: whoever goes to and fro for each of ten thousand takes a fifth longer, as the
        kernel and the parser drive each other out of the processor's caches.
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
        """Know of these paths what another process has found there."""
        self._interest = None
        for path, (rest, values) in zip(paths, told, strict=True):
            if path in self._entries:  # somebody has asked for it meanwhile, and has what was seen then
                continue
            self._directory(path.rpartition("/")[0])
            entry = self._keep(Entry(path, *rest))
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

    def changed_in(self, directory: str) -> datetime | None:
        """Return when a name has come into a directory or gone, at the latest (ctime); None where that is not told."""
        place = self._admitted(self._directory(directory), directory)
        with suppress(OSError):
            return instant_of(os.lstat(place.real or "/").st_ctime_ns) if place.fault is None else None
        return None

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
            place = self._directories[path] = follow(path, beginning(self._root), root=self._root, called=path)
            self._interest = None
        return place

    def _way(self, path: str, referrer: Referrer | None) -> Way:
        if referrer and referrer.writers:  # nothing on this way is kept: a stranger has chosen it
            home = referrer.path.rpartition("/")[0]
            if path.startswith(f"{home}/") and (place := self._directory(home)).fault is None:
                behind, rest = beside(referrer, place), path.removeprefix(home)
            else:
                behind, rest = beginning(self._root, referrer), path
            return self._admitted(follow(rest, behind, root=self._root, called=path), path)
        directory, _, name = path.rpartition("/")
        place = self._directory(directory)
        if place.fault is not None:
            return replace(place, lookups=(), is_link=False, fault=_renamed(place, path))
        return self._admitted(follow(name, place, root=self._root, called=path), path)

    def _admitted(self, way: Way, path: str) -> Way:
        """The way; with a fault where strangers have chosen a part of it, and cannot read themselves what is there."""
        if way.fault is not None or way.blame is None:
            return way
        with suppress(OSError):
            status = os.lstat(way.real or "/")
            if open_to(way.strangers, way.real, status, root=self._root):
                return replace(way, status=status)  # the file that is read has to be this one
        return replace(way, fault=refusal(path, way.blame))

    def _look(self, path: str, known: Entry | None, referrer: Referrer | None) -> Entry:
        """Stat `path`; the known entry again where nothing changed, and its values where only the outside did."""
        place = self._way(path, referrer)
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
        """Replace the entry of a reference whose strangers cannot read the file: the new entry says only that.

        certmond goes on watching the first part of the path: the directories that those strangers can read.
        """
        entry.fault = place.blame and refusal(entry.path, place.blame)
        entry.real, entry.is_link, entry.key, entry.mode, entry.uid, entry.gid = None, False, None, 0, 0, 0
        entry.lookups = tuple(takewhile(lambda lookup: self._is_open(place.strangers, lookup), place.lookups))

    def _is_open(self, strangers: frozenset[int], lookup: str) -> bool:
        directory = lookup.rpartition("/")[0]
        with suppress(OSError):
            return open_to(strangers, directory, os.lstat(directory or "/"), root=self._root)
        return False

    def _take_over(self, entry: Entry, known: Entry, real: str) -> None:
        """Equal bytes keep their values: a touched or rewritten file is no news."""
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
        """What the file holds; None where it cannot be read, which is the entry's fault from then on."""
        content = self._straight(entry)
        if content is None:
            way = self._way(entry.path, entry.referrer)
            if way.fault is not None:
                entry.fault = way.fault
                return None
            try:
                content = content_at(way.real, entry.inode)
            except OSError as error:
                entry.fault = fault_of(error, entry.path, entry.blame)
        return content

    def _straight(self, entry: Entry) -> bytes | None:
        """What is at a path to which no symlink led; None where the way has to be looked at again."""
        if entry.real == entry.path:
            with suppress(OSError):
                return content_at(f"{self._root}{entry.path}", entry.inode)
        return None


def _parse(read: Iterable[tuple[Entry, bytes]], parse: Parser[Any]) -> None:
    for entry, content in read:
        digest = hashlib.sha256(content).digest()
        if digest != entry.digest:  # it is another content than was parsed in another way a moment ago
            entry.values = {other: other(content, entry.path) for other in entry.values}
        entry.digest = digest
        entry.values[parse] = parse(content, entry.path)


def _visible(entry: Entry) -> tuple[object, ...]:
    """Return what makes an entry another one, its content apart."""
    return entry.lookups, entry.key, entry.fault, entry.writers, entry.blame, entry.foreign


def _renamed(place: Way, path: str) -> Fault | None:
    """The fault of a directory, said of the path that leads through it."""
    if place.blame:
        return refusal(path, place.blame)
    if place.fault is None or place.fault.reason is Reason.MISSING:
        return place.fault and Fault(Reason.MISSING, f"{path} is not there")
    return Fault(place.fault.reason, f"{path}: {place.fault.detail}")
