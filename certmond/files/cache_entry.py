"""Cache entry of one path: the resolved path, the metadata of the file, and the parsed values of its content."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeVar

from certmond.files.consistent_read import MAX_SIZE, TICK, FileState, state_of
from certmond.files.path_resolution import Referrer, Restriction
from certmond.immutable_class import immutable
from certmond.pki.findings import Fault, Reason

_FILE_TYPES = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket",
               stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}  # fmt: skip

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

T = TypeVar("T")
Parser = Callable[[bytes, str], T]
"""Function that parses the content of a file. The second argument is the path for messages.

A parser raises no exception. The result contains the errors in the content.
"""

EntryKey = str | tuple[str, Referrer]
"""The key of an entry: a path, or a path with its referrer if other users can change the referrer."""


@immutable
class PasswordParser:
    """Parser with a password. An entry has the result of at most one such parser, because a user can replace the
    password many times.
    """

    function: Callable[[bytes, str, bytes], Any]
    password: bytes = field(repr=False)

    def __call__(self, content: bytes, path: str) -> Any:
        return self.function(content, path, self.password)


@dataclass(eq=False, slots=True)
class Entry:
    """Cached facts about one path. The cache returns the same object until the file changes."""

    path: str
    # The path below the root without symlinks, or None if the file does not exist.
    real: str | None = None
    fault: Fault | None = None
    is_link: bool = False
    # The target of a symlink at the path itself, as in `ResolvedPath`.
    target: str = ""
    # The result of `state_of`, or None if stat failed.
    state: bytes | None = None
    # True if every later change to the file changes `state`.
    settled: bool = True
    digest: bytes | None = None
    lookups: tuple[str, ...] = ()
    # The other users who can change the file.
    writers: frozenset[int] = frozenset()
    # The reason for which certmond reads the file only if other users can read the file.
    restriction: Restriction | None = None
    # True if other users control a part of the path, and at least one of them does not own the file.
    foreign: bool = False
    # The file that names the path.
    referrer: Referrer | None = None
    # The functions that have parsed the content, and their results in the same order. Usually, only one function has
    # parsed a file, and the two tuples take a quarter of the memory of a dictionary.
    parsers: tuple[Parser[Any], ...] = ()
    values: tuple[Any, ...] = ()

    @property
    def entry_key(self) -> EntryKey:
        """Key under which the cache stores this entry."""
        return entry_key(self.path, self.referrer)

    @property
    def missing(self) -> bool:
        return self.fault is not None and self.fault.reason is Reason.MISSING

    @property
    def own_file(self) -> str | None:
        """Path of the file to which the entry leads, or None if the file does not exist.

        If a user controls the path but does not own the file, this is the path of the entry.
        """
        return self.path if self.real and self.foreign else self.real

    @property
    def status(self) -> FileState | None:
        """Metadata of the file, or None if stat failed."""
        return FileState.unpack(self.state) if self.state else None

    @property
    def mode(self) -> int:
        """Permission bits of the file, or 0 if stat failed."""
        return stat.S_IMODE(status.mode) if (status := self.status) else 0

    @property
    def is_directory(self) -> bool:
        return (status := self.status) is not None and stat.S_ISDIR(status.mode)

    @property
    def is_character_device(self) -> bool:
        return (status := self.status) is not None and stat.S_ISCHR(status.mode)

    @property
    def inode(self) -> tuple[int, int] | None:
        """Device and inode number that the opened file must have, or None if every file is permitted."""
        return (status.device, status.inode) if self.restriction and (status := self.status) else None

    @property
    def size(self) -> int | None:
        """Number of bytes in the file, or None if stat failed."""
        return status.size if (status := self.status) else None

    @property
    def changed_ns(self) -> int | None:
        """Time of the last change to the content or the inode (ctime) in nanoseconds, or None if stat failed."""
        return status.changed_ns if (status := self.status) else None

    @property
    def changed_at(self) -> datetime | None:
        """Time of the last change to the content or the inode (ctime), or None if stat failed."""
        return latest_change(self)

    def value(self, parse: Parser[T]) -> T:
        """Return the stored result of `parse`. Raises ValueError without a result."""
        found: T = self.values[self.parsers.index(parse)]
        return found

    def store_value(self, parse: Parser[T], value: T) -> None:
        """Store the result of `parse`, which has no result yet. Drop the result for another password."""
        results = [*zip(self.parsers, self.values, strict=True)]
        if isinstance(parse, PasswordParser):
            results = [each for each in results if not isinstance(each[0], PasswordParser)]
        parsers = (*(each for each, _ in results), parse)
        # The cache of `_shared` must not keep a password longer than the entry.
        has_password = any(isinstance(each, PasswordParser) for each in parsers)
        self.parsers = parsers if has_password else _shared(parsers)
        self.values = (*(found for _, found in results), value)

    def store_status(self, status: os.stat_result) -> None:
        """Store the metadata `status`. Set the fault unless the file is a regular file of at most MAX_SIZE bytes."""
        self.state = state_of(status)
        self.settled = status.st_ctime_ns < time.time_ns() - TICK
        if not stat.S_ISREG(status.st_mode):
            kind = _FILE_TYPES.get(stat.S_IFMT(status.st_mode), "of an unknown type")
            self.fault = Fault(Reason.UNREADABLE, f"{self.path} is {kind}, not a regular file")
        elif status.st_size > MAX_SIZE:
            size = f"has {status.st_size} bytes, more than the maximum of {MAX_SIZE}"
            self.fault = Fault(Reason.UNREADABLE, f"{self.path} {size}")


@lru_cache(maxsize=64)
def _shared(parsers: tuple[Parser[Any], ...]) -> tuple[Parser[Any], ...]:
    """Return `parsers` as one object for all entries with these parsers."""
    return parsers


def entry_key(path: str, referrer: Referrer | None) -> EntryKey:
    """Return the cache key of `path`, which includes the referrer if other users can change the referrer."""
    return (path, referrer) if referrer and referrer.writers else path


_SENT_FIELDS = attrgetter("real", "fault", "is_link", "target", "state", "settled", "digest",
                          "lookups", "writers", "restriction", "foreign")  # fmt: skip


def instant_of(nanoseconds: int) -> datetime:
    """Return the UTC time of a file timestamp. `nanoseconds` is the number of nanoseconds since 1970-01-01."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def latest_change(*entries: Entry) -> datetime | None:
    """Return the time of the latest change (ctime) to these files, or None if stat failed for all files."""
    latest = max((each for entry in entries if (each := entry.changed_ns) is not None), default=None)
    return None if latest is None else instant_of(latest)


def packed_entry(entry: Entry) -> tuple[object, tuple[object, ...]]:
    """Return the fields and the parsed values of an entry. The receiver already has the path and the parser."""
    return _SENT_FIELDS(entry), entry.values
