"""Wakes the daemon when a name that it asked for changes in a directory.

Owns the inotify instance, the watch on each directory, the thread that waits for the mount table to change, and the
record of what happened since it was last asked. It never opens, reads or judges a certificate, keeps no time and
decides nothing: an event says where to look again, not what is there. One thread calls `follow`, `take` and `close`.

*Directories, not files*: a renewal replaces a file by a rename, and a watch on the old file would see nothing of the
new one; a name that does not exist yet can be waited for, too.

*`InotifyFD`, not watchdog's `Observer`*: an observer starts a thread for each directory and hides it when the kernel's
queue overflows. `InotifyFD` is one descriptor and one thread for all of them, and says so. What it leaves to us:

- EACCES is not raised but answered with the descriptor -1, under which the callback is then kept;
- a second callback with the same number on one watch is a RuntimeWarning. A watch belongs to an inode, so two paths can
  share it (a bind mount; a directory moved and followed at its new place): each descriptor has one callback here;
- an overflow can swallow the notice that a watch is gone, so that after it every watch is asked for anew;
- an exception in a callback ends its thread, so that `follow` looks whether it lives.

*What a watch cannot see* is in `Watcher.polled`: no watches left, a forbidden directory, and filesystems that others
change behind this kernel's back. These have a watch all the same where one can be had, for what this host does to them.

*No gap*: whoever asks to follow a directory has looked into it before, when nothing watched it yet. So a directory
whose watch is new, and a name that is new in a watched one, count as changed.

*Mounts*: a mount covers a directory without an event in it. The kernel makes /proc/self/mountinfo readable as
"exceptional" for each change, and what concerns a followed path is reported. Pods come and go with mounts of their own,
which concern nobody here and wake nobody.
"""

import errno
import io
import itertools
import os
import re
import select
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor

Interest = Mapping[str, frozenset[str] | None]
"""A real directory -> the names that are looked up in it; None is every name."""

_MASK = Mask(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MODIFY  # a writer that keeps the file open never comes to the close
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_ATTRIB
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR  # IN_UNMOUNT comes unasked
)
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_EVENTLESS = re.compile(
    r"9p|afs|beegfs|ceph|cifs|coda|fuse(blk|\..*)?|gfs2|gpfs|lustre|nfs4?|ocfs2|orangefs|overlay|smb3|smbfs|vboxsf|virtiofs"
)
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
_CAUSES = ("inotify", "overflow", "mount")  # each more drastic than the one before
_MANY = 16_384  # beyond so many changed paths, looking at everything is no more work and takes no more memory
_PATIENCE = 5.0  # seconds for a thread to end, which it does at once unless `wake` holds it


@dataclass(frozen=True, slots=True)
class Changes:
    everything: bool
    """Look at all again: events were lost, a mount changed, or there are too many paths to name."""
    paths: frozenset[str]
    """`directory/name` of entries that may have changed, and bare `directory` where it is the directory itself."""
    cause: str
    """inotify, overflow or mount: the most drastic of what happened."""


class Mount(NamedTuple):
    number: str
    device: str
    root: str
    point: str
    type: str


def parse_mounts(table: bytes) -> tuple[Mount, ...]:
    """The lines of a /proc/PID/mountinfo, in its order; a line that makes no sense is left out."""
    mounts = []
    for line in table.split(b"\n"):
        head, _, tail = line.partition(b" - ")
        fields = [os.fsdecode(_OCTAL.sub(lambda code: bytes([int(code[1], 8)]), field)) for field in head.split(b" ")]
        kind = os.fsdecode(tail.split(b" ")[0])
        if len(fields) >= 6 and fields[4].startswith("/") and kind:
            mounts.append(Mount(fields[0], fields[2], fields[3], fields[4], kind))
    return tuple(mounts)


def filesystem(directory: str, types: Mapping[str, str]) -> str | None:
    """The type of the filesystem that a directory is on, by the mount points' types; None if that is not known."""
    while directory not in types:
        directory, below = os.path.dirname(directory), directory
        if directory == below:
            return None
    return types[directory]


def eventless(filesystem_type: str | None) -> bool:
    """Whether files on such a filesystem can change without an event: it is shared, layered or not known."""
    return filesystem_type is None or _EVENTLESS.fullmatch(filesystem_type) is not None


def concerns(point: str, interest: Interest) -> bool:
    """Whether a mount at this point covers or uncovers something that is followed, be it a single file."""
    parent, name = os.path.split(point)
    names = interest.get(parent, frozenset())
    below = os.path.join(point, "")
    return names is None or name in names or any(path == point or path.startswith(below) for path in interest)


@dataclass(slots=True, eq=False)
class _Directory:
    path: str
    names: frozenset[str] | None
    identity: tuple[int, int] | None = None
    """Device and inode as they were just before the watch was asked for; if it then got another, `follow` sees that."""
    watch: WatchDescriptor | None = None

    def entries(self, names: Iterable[str]) -> list[str]:
        return [os.path.join(self.path, name) for name in names]


class Watcher:
    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called for each change, by the threads in here and by `follow`: it is quick and does not raise."""
        self.events = 0
        """Events that concerned a name or directory which somebody asked for."""
        self.overflows = 0
        self._wake = wake
        self._closed = False
        self._interest: Interest = {}
        self._directories: dict[str, _Directory] = {}
        self._polled: frozenset[str] = frozenset()
        self._numbers = itertools.count()
        self._inotify: InotifyFD | None = None
        self._lock = threading.Lock()  # over what follows; taken before InotifyFD's own, never while that is held
        self._watches: dict[WatchDescriptor, tuple[CallbackId, set[_Directory]]] = {}
        self._doubt = False
        self._everything = False
        self._paths: set[str] = set()
        self._cause = -1
        self._mounts: _MountTable | None = None

    @property
    def polled(self) -> frozenset[str]:
        """Directories to look at every now and then: inotify sees nothing of them, or not all."""
        return self._polled

    @property
    def watched(self) -> int:
        with self._lock:
            return sum(len(directories) for _, directories in self._watches.values())

    def take(self) -> Changes | None:
        """What happened since the last time, or None."""
        with self._lock:
            if self._cause < 0:
                return None
            changes = Changes(self._everything, frozenset(self._paths), _CAUSES[self._cause])
            self._everything, self._paths, self._cause = False, set(), -1
            return changes

    def again(self, paths: frozenset[str]) -> None:
        """Count these as changed, to be looked at once more."""
        if paths:
            self._report(paths)

    def follow(self, interest: Interest) -> None:
        """Watch exactly these directories from now on, each as the inode that its path leads to now.

        A directory that cannot be watched is no error: if it is gone, its parent tells when it comes; else it is
        polled. What is new here counts as changed, so that a change between looking and following is not lost.
        """
        if self._closed:
            return
        self._interest = dict(interest)
        self._mounts = self._mounts or self._mount_table()
        inotify = self._living()
        with self._lock:
            doubt, self._doubt = self._doubt, False
            for path in self._directories.keys() - interest.keys():
                self._release(self._directories.pop(path))
        types = self._mounts.types() if self._mounts is not None else {}
        polled = set()
        full = False
        for path, names in interest.items():
            directory = self._directories.setdefault(path, _Directory(path, names))
            asked, directory.names = directory.names, names
            if directory.watch is not None and asked is not None:
                self._report([path] if names is None else directory.entries(names - asked))
            trouble = self._watch(directory, inotify, full=full, doubt=doubt)
            full = full or trouble == errno.ENOSPC
            if trouble not in _GONE and (trouble or eventless(filesystem(path, types))):
                polled.add(path)
        self._polled = frozenset(polled)

    def close(self) -> None:
        """End both threads and give back every descriptor. Nothing is followed or reported afterwards."""
        if self._closed:
            return
        self._closed = True
        if self._inotify is not None:
            self._inotify.stop()
            self._inotify.join(_PATIENCE)
        if self._mounts is not None:
            self._mounts.close()

    # What watchdog's reader calls (its WatchCallback).

    def on_event(self, event: InotifyEvent) -> None:
        name = os.fsdecode(event.name)
        paths = []
        with self._lock:
            for directory in self._watches.get(event.wd, (None, ()))[1]:
                if not name:
                    paths.append(directory.path)
                elif directory.names is None or name in directory.names:
                    paths.extend(directory.entries([name]))
            self.events += bool(paths)
        self._report(paths)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        with self._lock:
            _, directories = self._watches.pop(wd, (None, ()))
            for directory in directories:
                directory.watch = None
        self._report([directory.path for directory in directories])

    def on_queue_overflow(self) -> None:
        with self._lock:
            self.overflows += 1
            self._doubt = True
        self._report(everything=True, cause="overflow")

    # Within.

    def _mount_table(self) -> "_MountTable | None":
        """None while it cannot be had: then no filesystem is known, and everything is polled."""
        try:
            return _MountTable(self._mounts_changed)
        except OSError:
            return None

    def _mounts_changed(self, points: frozenset[str]) -> None:
        interest = self._interest
        if any(concerns(point, interest) for point in points):
            self._report(everything=True, cause="mount")

    def _report(self, paths: Iterable[str] = (), *, everything: bool = False, cause: str = "inotify") -> None:
        paths = set(paths)
        if self._closed or not (paths or everything):
            return
        with self._lock:
            self._cause = max(self._cause, _CAUSES.index(cause))
            self._everything = self._everything or everything or len(self._paths) + len(paths) > _MANY
            if self._everything:
                self._paths.clear()
            else:
                self._paths |= paths
        self._wake()

    def _living(self) -> InotifyFD | None:
        """The inotify instance with its thread; None while there is one of them too many."""
        if self._inotify is not None and not self._inotify.is_alive():
            self._inotify.stop()  # which calls on_watch_deleted for every watch
            self._inotify = None
        if self._inotify is None:
            try:
                inotify = _Inotify()
                inotify.start()
            except OSError:
                return None
            self._inotify = inotify
        return self._inotify

    def _watch(self, directory: _Directory, inotify: InotifyFD | None, *, full: bool, doubt: bool) -> int:
        """See to it that a directory is watched; 0, or the errno that tells why it is not."""
        trouble = 0
        try:
            status = os.stat(directory.path)
            identity = (status.st_dev, status.st_ino)
            if directory.watch is not None and directory.identity == identity and not doubt:
                return 0
            if inotify is None:
                return errno.EMFILE
            if full and directory.watch is None:
                return errno.ENOSPC  # as for the one before: do not ask the kernel ten thousand times
            renewed = self._attach(inotify, directory, identity)
        except ValueError:  # no path at all, for example one with a NUL in it
            return errno.ENOENT
        except OSError as problem:
            trouble = problem.errno or errno.EIO
            with self._lock:
                renewed = self._release(directory)
        if renewed:
            self._report([directory.path])
        return trouble

    def _attach(self, inotify: InotifyFD, directory: _Directory, identity: tuple[int, int]) -> bool:
        """Ask the kernel for the watch; whether it is another than before. No event passes while the lock is held."""
        number = CallbackId(next(self._numbers))
        with self._lock:
            watch = inotify.add_callback(os.fsencode(directory.path), _MASK, self, number)
            if watch == -1 or watch in self._watches:
                inotify.remove_callbacks([(watch, number)])
            if watch == -1:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory.path)
            directory.identity = identity
            if watch == directory.watch:
                return False
            self._release(directory)
            self._watches.setdefault(watch, (number, set()))[1].add(directory)
            directory.watch = watch
            return True

    def _release(self, directory: _Directory) -> bool:
        """Give up the watch, and with the last directory on it the kernel's. The lock is held."""
        watch, directory.watch = directory.watch, None
        if watch is None:
            return False
        number, directories = self._watches[watch]
        directories.discard(directory)
        if not directories:
            del self._watches[watch]
            if self._inotify is not None:
                self._inotify.remove_callbacks([(watch, number)])
        return True


class _Inotify(InotifyFD):
    """Raises OSError where it cannot be had, nor a thread for it, and then keeps no descriptor."""

    def start(self) -> None:
        self.name = "certmond-inotify"
        try:
            super().start()
        except RuntimeError as error:
            self._close_resources()
            raise OSError(errno.EAGAIN, "no thread is to be had") from error


class _MountTable:
    """The mounts of this process, kept current by a thread that sleeps until the kernel says that they changed."""

    def __init__(self, changed: Callable[[frozenset[str]], None]) -> None:
        self._changed = changed
        self._file = io.FileIO("/proc/self/mountinfo")  # opened before it is read: no change falls between
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
            raise OSError(errno.EAGAIN, "no thread is to be had") from error

    def types(self) -> dict[str, str]:
        """The type of the filesystem at each mount point, the uppermost where they are stacked."""
        return {mount.point: mount.type for mount in self._mounts} if self._thread.is_alive() else {}

    def _run(self) -> None:
        with self._file, open(self._end, "rb") as end:  # given back when this ends, however long somebody holds it up
            poller = select.poll()
            poller.register(self._file, select.POLLPRI)  # POLLERR, which the kernel sends with it, comes unasked
            poller.register(end, select.POLLIN)  # and POLLHUP with this one
            while not any(descriptor == self._end for descriptor, _ in poller.poll()):
                before = self._mounts
                self._file.seek(0)
                self._mounts = parse_mounts(self._file.readall())
                self._changed(frozenset(mount.point for mount in set(before).symmetric_difference(self._mounts)))

    def close(self) -> None:
        os.close(self._stop)
        self._thread.join(_PATIENCE)
