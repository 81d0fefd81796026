"""What is known of one path of the node: where it leads, its state, and what was parsed of its content.

Owns that value alone, and the faults of what is no regular file of a sane size. Looks at nothing.
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
"""A path, and the file that names it where strangers can change that one: they see less than certmond."""


@dataclass(eq=False, slots=True)
class Entry:
    """What is known of one path. The same object is handed out until something about the file changes.

    `real` is where the path leads below the root, without symlinks; None where it leads nowhere. `settled` says that
    whatever is done to the file afterwards will show in `key`. `writers` are the strangers that can change the file.
    `blame` is the reason why the entry holds only what strangers can read; `referrer` is their file that names it.
    `foreign` says that strangers have chosen a part of the way, and that one of them does not own the file there.
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
        """What it answers."""
        return asked(self.path, self.referrer)

    @property
    def missing(self) -> bool:
        return self.fault is not None and self.fault.reason is Reason.MISSING

    @property
    def own_file(self) -> str | None:
        """The file that an entry has by this path; None where it leads nowhere. A link of strangers to a file of other
        users makes that file none of the entry's: what the entry has is the path.
        """
        return self.path if self.real and self.foreign else self.real

    @property
    def is_directory(self) -> bool:
        return self.key is not None and stat.S_ISDIR(self.key[-1])

    @property
    def inode(self) -> tuple[int, ...] | None:
        """Device and inode that have to be those of what is opened; None where any file at the path will do."""
        return self.key[:2] if self.key and self.blame else None

    @property
    def changed_at(self) -> datetime | None:
        """When the content or the inode changed last (ctime); None of what was not seen."""
        return instant_of(self.key[4]) if self.key else None

    def take(self, status: os.stat_result) -> None:
        """Note the state of what the path leads to; that it is no regular file of a sane size is the fault."""
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
    """Return the key of an entry: a file that only root and certmond can change names a path as certmond does."""
    return (path, referrer) if referrer and referrer.writers else path


_REST = attrgetter("real", "fault", "is_link", "mode", "uid", "gid", "key", "settled", "digest", "lookups", "writers",
                   "blame", "foreign")  # fmt: skip


def instant_of(nanoseconds: int) -> datetime:
    """Return the instant of a file's time stamp, in UTC."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def latest_change(*entries: Entry) -> datetime | None:
    """Return when any of these files changed last; None where none was seen."""
    return max(filter(None, (entry.changed_at for entry in entries)), default=None)


def packed(entry: Entry) -> tuple[object, list[object]]:
    """Return an entry that was parsed in one way, for a process that knows its path and the way."""
    return _REST(entry), [*entry.values.values()]
