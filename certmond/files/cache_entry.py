"""The entry of one path in the cache: where it leads, its metadata, and the parsed values of its content.

Owns that value, and the faults of what is not a regular file of at most MAX_SIZE. Reads nothing.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

from certmond.files.consistent_read import MAX_SIZE, TICK, state_of
from certmond.files.path_resolution import Blame, Referrer
from certmond.pki.findings import Fault, Reason

_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket",
          stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}  # fmt: skip

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Asked = str | tuple[str, Referrer]
"""The key of an entry: a path, and the file that names it if other users can change that file."""


@dataclass(eq=False, slots=True)
class Entry:
    """What the cache has of one path. The cache returns the same object until the file changes.

    `real` is the path below the root without symlinks, or None if it does not exist. `settled` says that every later
    change of the file changes `key`. `writers` are the other users that can change the file. `blame` is the reason why
    the entry has only what other users can read; `referrer` is their file that names it. `foreign` says that other
    users have chosen a part of the path, and that one of them does not own the file.
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
    writers: frozenset[int] = frozenset()
    blame: Blame | None = None
    foreign: bool = False
    referrer: Referrer | None = None
    values: dict[Any, Any] = field(default_factory=dict)

    @property
    def asked(self) -> Asked:
        """Return the key of this entry."""
        return asked(self.path, self.referrer)

    @property
    def missing(self) -> bool:
        return self.fault is not None and self.fault.reason is Reason.MISSING

    @property
    def own_file(self) -> str | None:
        """Return the file that counts as the entry's, or None if it does not exist.

        If other users have linked to a file that is not theirs, it is the path itself and not that file.
        """
        return self.path if self.real and self.foreign else self.real

    @property
    def is_directory(self) -> bool:
        return self.key is not None and stat.S_ISDIR(self.key[-1])

    @property
    def inode(self) -> tuple[int, ...] | None:
        """Return the device and inode that the opened file must have, or None if any file at the path will do."""
        return self.key[:2] if self.key and self.blame else None

    @property
    def changed_at(self) -> datetime | None:
        """Return when the content or the inode last changed (ctime), or None if it was not read."""
        return instant_of(self.key[4]) if self.key else None

    def take(self, status: os.stat_result) -> None:
        """Store the metadata of the file. Set the fault if it is not a regular file of at most MAX_SIZE."""
        self.mode, self.uid, self.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
        self.key = state_of(status)
        self.settled = status.st_ctime_ns < time.time_ns() - TICK
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
            self.fault = Fault(Reason.UNREADABLE, f"{self.path} is {kind}, not a file")
        elif status.st_size > MAX_SIZE:
            size = f"{status.st_size} bytes large, more than the {MAX_SIZE} that are read"
            self.fault = Fault(Reason.UNREADABLE, f"{self.path} is {size}")


def asked(path: str, referrer: Referrer | None) -> Asked:
    """Return the key of an entry: the path alone if only root and certmond can change the referrer."""
    return (path, referrer) if referrer and referrer.writers else path


_REST = attrgetter("real", "fault", "is_link", "mode", "uid", "gid", "key", "settled", "digest", "lookups", "writers",
                   "blame", "foreign")  # fmt: skip


def instant_of(nanoseconds: int) -> datetime:
    """Return the instant of a file's time stamp, in UTC."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def latest_change(*entries: Entry) -> datetime | None:
    """Return when any of these files last changed, or None if none of them was read."""
    return max(filter(None, (entry.changed_at for entry in entries)), default=None)


def packed(entry: Entry) -> tuple[object, list[object]]:
    """Return an entry with one parsed value, for a process that has its path and its parser."""
    return _REST(entry), [*entry.values.values()]
