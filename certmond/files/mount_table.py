"""Mount table of this process (proc_pid_mountinfo(5)), with a thread that waits for changes to the mounts.

This module defines the types of file systems on which files can change without an inotify event.
"""

from __future__ import annotations

import errno
import io
import os
import re
import select
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

_EVENTLESS = re.compile(
    r"9p|afs|beegfs|ceph|cifs|coda|fuse(blk|\..*)?|gfs2|gpfs|lustre|nfs4?|ocfs2|orangefs|overlay|smb3|smbfs|vboxsf|virtiofs"
)
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
JOIN_TIMEOUT = 5.0  # seconds to wait for the end of a thread; only a slow `wake` can delay this end


class Mount(NamedTuple):
    number: str
    device: str
    root: str
    point: str
    type: str
    read_only: bool


def parse_mounts(table: bytes) -> tuple[Mount, ...]:
    """Return the mounts in `table`, the content of a /proc/PID/mountinfo. Skip lines with an unknown format."""
    mounts = []
    for line in table.split(b"\n"):
        head, _, tail = line.partition(b" - ")
        fields = [os.fsdecode(_OCTAL.sub(lambda code: bytes([int(code[1], 8)]), field)) for field in head.split(b" ")]
        kind = os.fsdecode(tail.split(b" ")[0])
        if len(fields) >= 6 and fields[4].startswith("/") and kind:
            read_only = "ro" in fields[5].split(",")
            mounts.append(Mount(fields[0], fields[2], fields[3], fields[4], kind, read_only))
    return tuple(mounts)


def hiding_directory(path: str, mounts: Iterable[Mount]) -> str | None:
    """Return the directory at or above `path` that systemd hides from this process, or None if `path` is not hidden.

    To hide a directory, systemd mounts /run/systemd/inaccessible/dir (ProtectHome=yes) or a read-only tmpfs
    (ProtectHome=tmpfs) on the directory (src/core/namespace.c of systemd 257). The last mount at a mount point counts.
    BindPaths= can make a directory below a hidden directory visible again.
    """
    points = {mount.point: mount for mount in mounts}
    while (mount := points.get(path)) is None and path != "/":
        path = os.path.dirname(path)
    if mount is None:
        return None
    is_hidden = mount.root.endswith("/systemd/inaccessible/dir") or (mount.type == "tmpfs" and mount.read_only)
    return path if is_hidden else None


def filesystem_type(directory: str, types: Mapping[str, str]) -> str | None:
    """Return the type of the file system that contains `directory`, or None if the type is unknown.

    `types` contains the type of the file system at each mount point.
    """
    while directory not in types:
        directory, below = os.path.dirname(directory), directory
        if directory == below:
            return None
    return types[directory]


def is_eventless(type_name: str | None) -> bool:
    """Return whether files on a file system of this type can change without an inotify event.

    The result is True for None, which means that the type is unknown.
    """
    return type_name is None or _EVENTLESS.fullmatch(type_name) is not None


class MountTable:
    """The mounts of this process. A thread reads the mounts again when the kernel reports a change."""

    def __init__(self, changed: Callable[[frozenset[str]], None]) -> None:
        self._changed = changed
        self._file = io.FileIO("/proc/self/mountinfo")  # open the file before the first read, so that no change is lost
        try:
            self._end, self._stop = os.pipe()
        except OSError:
            self._file.close()
            raise
        self._mounts = parse_mounts(self._file.readall())
        self._thread = threading.Thread(target=self._run, name="certmond-mounts", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._file.close()
            os.close(self._end)
            os.close(self._stop)
            raise OSError(errno.EAGAIN, "cannot start a thread") from error

    def types(self) -> dict[str, str]:
        """Return the type of the topmost file system at each mount point, or {} if the thread no longer runs."""
        return {mount.point: mount.type for mount in self._mounts} if self._thread.is_alive() else {}

    def _run(self) -> None:
        with self._file, open(self._end, "rb") as end:  # this thread closes both files when it ends
            poller = select.poll()
            poller.register(self._file, select.POLLPRI)  # the kernel reports POLLERR as well
            poller.register(end, select.POLLIN)  # the kernel reports POLLHUP as well
            while not any(descriptor == self._end for descriptor, _ in poller.poll()):
                before = self._mounts
                self._file.seek(0)
                self._mounts = parse_mounts(self._file.readall())
                self._changed(frozenset(mount.point for mount in set(before).symmetric_difference(self._mounts)))

    def close(self) -> None:
        os.close(self._stop)
        self._thread.join(JOIN_TIMEOUT)
