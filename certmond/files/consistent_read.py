"""Consistent reads of a regular file that another process may be writing.

Owns the read, and the values that distinguish two states of a file. It resolves no path, caches nothing, and does not
interpret content.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from io import BufferedReader

from certmond.files.path_resolution import open_straight

MAX_SIZE = 1 << 20
"""The largest file that is read, in bytes. A larger file holds no certificate of a Kubernetes component."""
TICK = 20_000_000
"""Nanoseconds. Two changes within one tick of the kernel's clock have the same time stamps."""

_HELD_UP = 0.005  # seconds in which the scheduler resumes a preempted writer
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def content_of(file: BufferedReader, most: int = MAX_SIZE) -> bytes:
    """Return the content of an open regular file. Raises OSError; EFBIG if it has more than `most` bytes.

    Allocates only as much memory as there is content. A buffer of `most` bytes for each read would fragment the heap.
    """
    size = os.fstat(file.fileno()).st_size
    content = file.read(min(size, most) + 1)
    if len(content) > size:  # the file has grown meanwhile
        content += file.read(max(0, most + 1 - len(content)))
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


class Patience:
    """Limit of the pauses of one pass for writers. `omitted` counts the pauses that were skipped after that."""

    def __init__(self, pauses: int) -> None:
        self._pauses, self.omitted = pauses, 0

    def take(self) -> bool:
        """Count a pause. Return whether the caller makes it."""
        if not self._pauses:
            self.omitted += 1
            return False
        self._pauses -= 1
        return True


def content_at(real: str, inode: tuple[int, ...] | None = None, patience: Patience | None = None) -> bytes:
    """Return the content of a regular file as of one instant.

    `inode` is the (device, inode) that the file must have. Raises OSError, also if the file keeps changing or was
    replaced. If `patience` skips a pause, a preempted writer may be in the middle of a write: read the file again
    later.
    """
    descriptor = open_straight(real, _OPEN)
    try:
        for _ in range(3):
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file any more")
            if inode and (before.st_dev, before.st_ino) != inode:
                raise OSError(errno.EBUSY, "another file has replaced it")
            if before.st_size > MAX_SIZE:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            content = os.pread(descriptor, before.st_size + 1, 0)
            # write(2) sets the time before it copies, and can be preempted in between, so equal time stamps do not
            # prove that it has finished.
            recent = abs(time.time_ns() - before.st_ctime_ns) < TICK
            if recent and (patience is None or patience.take()):
                time.sleep(_HELD_UP)
            again = os.pread(descriptor, before.st_size + 1, 0)
            if (
                content == again
                and len(content) == before.st_size
                and state_of(os.fstat(descriptor)) == state_of(before)
            ):
                return content
        raise OSError(errno.EBUSY, "it is being written")  # the last event of the writer triggers another pass
    finally:
        os.close(descriptor)


def state_of(status: os.stat_result) -> tuple[int, ...]:
    """Return the state of a file. ctime shows a chmod, and a rewrite that restores size and mtime."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)
