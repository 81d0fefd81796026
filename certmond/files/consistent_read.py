"""Consistent reads of a regular file to which another process might be writing."""

from __future__ import annotations

import errno
import os
import stat
import time
from io import BufferedReader
from struct import Struct
from typing import NamedTuple

from certmond.files.path_resolution import open_without_symlinks

MAX_SIZE = 1 << 20
"""Maximum size in bytes of a file that certmond reads. The files of Kubernetes components are smaller."""
TICK = 20_000_000
"""Interval in nanoseconds within which two changes to a file can have the same timestamp."""

_STATE = Struct("=QQqIIIqIqI")
_NANOSECONDS = 1_000_000_000  # of a second
_WRITER_PAUSE = 0.005  # seconds; during this time, the scheduler resumes a preempted writer
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def content_of(file: BufferedReader, most: int = MAX_SIZE) -> bytes:
    """Return the content of an open regular file. Raises OSError with EFBIG if the file has more than `most` bytes."""
    # Allocate only the required memory: a buffer of `most` bytes for each read would fragment the heap.
    size = os.fstat(file.fileno()).st_size
    content = file.read(min(size, most) + 1)
    if len(content) > size:  # the file has grown since fstat
        content += file.read(max(0, most + 1 - len(content)))
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


class PauseBudget:
    """Limit for the pauses in one pass. `omitted` is the number of pauses that the limit did not permit."""

    def __init__(self, pauses: int) -> None:
        self._pauses, self.omitted = pauses, 0

    def spend(self) -> bool:
        """Return whether the limit permits a pause, and count this pause as used or omitted."""
        if not self._pauses:
            self.omitted += 1
            return False
        self._pauses -= 1
        return True


def content_at(real: str, inode: tuple[int, int] | None = None, pauses: PauseBudget | None = None) -> bytes:
    """Return the content of the regular file at `real` at one instant.

    Raises OSError if the file is unreadable, larger than `MAX_SIZE` or not regular, or if `real` contains a symlink.
    Also raises OSError if the device and inode differ from `inode`, or if the file changes during each of three
    attempts. If `pauses` omits a pause, a write might be incomplete, and the caller must read the file again later.
    """
    descriptor = open_without_symlinks(real, _OPEN)
    try:
        for _ in range(3):
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise OSError(errno.EINVAL, "it is no longer a regular file")
            if inode and (before.st_dev, before.st_ino) != inode:
                raise OSError(errno.EBUSY, "another file replaced it during the read")
            if before.st_size > MAX_SIZE:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            content = os.pread(descriptor, before.st_size + 1, 0)
            # write(2) sets the timestamp before it copies the data, and can be preempted between these steps. Equal
            # timestamps therefore do not prove that the write has finished.
            recent = abs(time.time_ns() - before.st_ctime_ns) < TICK
            if recent and (pauses is None or pauses.spend()):
                time.sleep(_WRITER_PAUSE)
            again = os.pread(descriptor, before.st_size + 1, 0)
            if (
                content == again
                and len(content) == before.st_size
                and state_of(os.fstat(descriptor)) == state_of(before)
            ):
                return content
        raise OSError(errno.EBUSY, "another process is writing the file")  # the last event of the write triggers a pass
    finally:
        os.close(descriptor)


class FileState(NamedTuple):
    """The values that `state_of` packs, without the mtime. `changed_ns` is the ctime in nanoseconds."""

    device: int
    inode: int
    size: int
    mode: int
    uid: int
    gid: int
    changed_ns: int

    @classmethod
    def unpack(cls, packed: bytes) -> FileState:
        """Return the values in the result of `state_of`."""
        device, inode, size, mode, uid, gid, seconds, nanoseconds, *_ = _STATE.unpack(packed)
        return cls(device, inode, size, mode, uid, gid, seconds * _NANOSECONDS + nanoseconds)


def state_of(status: os.stat_result) -> bytes:
    """Return the values of stat that identify the state of a file, packed for `FileState.unpack`.

    The ctime is necessary, because a writer can restore the mtime. A tuple would take three times the memory.
    """
    # Any owner can set an mtime after 2262. Its number of nanoseconds has more than 64 bits.
    changed, modified = divmod(status.st_ctime_ns, _NANOSECONDS), divmod(status.st_mtime_ns, _NANOSECONDS)
    values = status.st_dev, status.st_ino, status.st_size, status.st_mode, status.st_uid, status.st_gid
    return _STATE.pack(*values, *changed, *modified)
