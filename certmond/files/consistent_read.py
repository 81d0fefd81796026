"""The bytes of a regular file as they were at one moment, and what tells one state of it from the next.

Owns how a file is read that others may be writing. It finds no way to a file, remembers none, and knows nothing of what
is in it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from io import BufferedReader

from certmond.files.path_resolution import open_straight

MAX_SIZE = 1 << 20
"""The largest file that is read, in bytes. Whatever is larger holds no certificate of a Kubernetes component."""
TICK = 20_000_000
"""Nanoseconds: two changes within one tick of the kernel's clock have the same time stamps."""

_HELD_UP = 0.005  # seconds in which the scheduler brings a writer back that it has interrupted
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def content_of(file: BufferedReader, most: int = MAX_SIZE) -> bytes:
    """The bytes of a regular file that is open. Raises OSError, EFBIG where they are more than `most`.

    It takes as much memory as there is content. Room for `most`, given back at once but for a little, would be taken
    with each reading anew, and leave the heap in pieces.
    """
    size = os.fstat(file.fileno()).st_size
    content = file.read(min(size, most) + 1)
    if len(content) > size:  # it has become longer meanwhile
        content += file.read(max(0, most + 1 - len(content)))
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


class Patience:
    """How many pauses a look may still make for writers, and how many it has left out since they were used up."""

    def __init__(self, pauses: int) -> None:
        self._pauses, self.omitted = pauses, 0

    def take(self) -> bool:
        """Count a pause, and return whether it is made."""
        if not self._pauses:
            self.omitted += 1
            return False
        self._pauses -= 1
        return True


def content_at(real: str, inode: tuple[int, ...] | None = None, patience: Patience | None = None) -> bytes:
    """Return the bytes of a regular file as they were at one moment.

    `inode` is (device, inode) of the file that was looked at, where it has to be that one. Raises OSError, also where
    there is no such moment, or another file is there by now. Where `patience` leaves out a pause, a writer that is held
    up may be in the middle: look at the file again later.
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
            # A write stamps the time before it copies, and may be held up while it does: that the stamps are equal does
            # not say that it is done.
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
        raise OSError(errno.EBUSY, "it is being written")  # and the writer's last event brings us back
    finally:
        os.close(descriptor)


def state_of(status: os.stat_result) -> tuple[int, ...]:
    """What tells one state of a file from the next; ctime sees a chmod, and a rewrite that puts size and mtime back."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)
