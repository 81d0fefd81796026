"""Watches of directories with inotify; wakes the daemon when a name of interest changes.

Owns the inotify instance, the watch of each directory, and the thread that waits for changes of the mount table. Keeps
the changes until the next `take`. It opens and judges no certificate and reads no clock. An event says where to read
again, not what is there. One thread calls `follow`, `take` and `close`.

*Directories, not files*: a renewal replaces a file by a rename, and a watch of the old file does not see the new one. A
watch of the directory also sees a name that does not exist yet.

*`InotifyFD`, not watchdog's `Observer`*: an observer starts a thread for each directory and hides an overflow of the
kernel's queue. `InotifyFD` is one descriptor and one thread for all, and reports an overflow. This module handles what
`InotifyFD` does not:

- EACCES does not raise: it returns the descriptor -1, under which the callback is then kept;
- a second callback with the same number on one watch is a RuntimeWarning. A watch belongs to an inode, so two paths can
  share it (a bind mount; a directory that is followed at its new place). Each descriptor has one callback here;
- an overflow can lose the notice that a watch was removed, so `follow` requests every watch again after it;
- an exception in a callback ends its thread, so `follow` checks that the thread is alive.

`Watcher.polled` has the directories *that a watch does not cover*: no watches left, no permission, or a file system
that other hosts change. These have a watch too where that is possible, for changes by this host.

*No gap*: the caller reads a directory before it follows it, when no watch exists. So a directory with a new watch, and
a new name in a watched one, count as changed.

*Mounts*: a mount covers a directory without an event in it. The kernel marks /proc/self/mountinfo as "exceptional"
(POLLPRI) after each change. A change that affects a followed path is reported. The mounts of Pods do not wake the
daemon.
"""

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor

from certmond.files.mount_table import JOIN_TIMEOUT, MountTable, eventless, filesystem

Interest = Mapping[str, frozenset[str] | None]
"""A real directory -> the names that are looked up in it, or None for every name."""

_MASK = Mask(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MODIFY  # a writer that keeps the file open never closes it
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_ATTRIB
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR  # the kernel always sends IN_UNMOUNT
)
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_CAUSES = ("inotify", "overflow", "mount")  # in ascending order of effect
_MANY = 16_384  # with more changed paths than this, reading everything again is no more work and takes less memory


@dataclass(frozen=True, slots=True)
class Changes:
    everything: bool
    """Read everything again: events were lost, a mount changed, or there are too many paths."""
    paths: frozenset[str]
    """`directory/name` of entries that may have changed, or `directory` for the directory itself."""
    cause: str
    """inotify, overflow or mount: the one with the largest effect."""


def concerns(point: str, interest: Interest) -> bool:
    """Return whether a mount at this point covers or uncovers a followed path, even a single file."""
    parent, name = os.path.split(point)
    names = interest.get(parent, frozenset())
    below = os.path.join(point, "")
    return names is None or name in names or any(path == point or path.startswith(below) for path in interest)


@dataclass(slots=True, eq=False)
class _Directory:
    path: str
    names: frozenset[str] | None
    identity: tuple[int, int] | None = None
    """Device and inode just before the watch was requested. If the watch got another inode, `follow` detects that."""
    watch: WatchDescriptor | None = None

    def entries(self, names: Iterable[str]) -> list[str]:
        return [os.path.join(self.path, name) for name in names]


class Watcher:
    def __init__(self, wake: Callable[[], None]) -> None:
        """`follow` and the threads of this module call `wake` for each change. It must be quick and not raise."""
        self.events = 0
        """Events that affected a followed name or directory."""
        self.overflows = 0
        self._wake = wake
        self._closed = False
        self._interest: Interest = {}
        self._directories: dict[str, _Directory] = {}
        self._polled: frozenset[str] = frozenset()
        self._numbers = itertools.count()
        self._inotify: InotifyFD | None = None
        self._lock = threading.Lock()  # for what follows; taken before InotifyFD's lock, never inside
        self._watches: dict[WatchDescriptor, tuple[CallbackId, set[_Directory]]] = {}
        self._doubt = False
        self._everything = False
        self._paths: set[str] = set()
        self._cause = -1
        self._mounts: MountTable | None = None

    @property
    def polled(self) -> frozenset[str]:
        """Return the directories to poll: inotify sees no change in them, or not all."""
        return self._polled

    @property
    def watched(self) -> int:
        with self._lock:
            return sum(len(directories) for _, directories in self._watches.values())

    def take(self) -> Changes | None:
        """Return the changes since the last call, or None."""
        with self._lock:
            if self._cause < 0:
                return None
            changes = Changes(self._everything, frozenset(self._paths), _CAUSES[self._cause])
            self._everything, self._paths, self._cause = False, set(), -1
            return changes

    def again(self, paths: frozenset[str]) -> None:
        """Count these paths as changed, so that the next pass reads them again."""
        if paths:
            self._report(paths)

    def follow(self, interest: Interest) -> None:
        """Watch exactly these directories from now on, each as the inode to which its path leads now.

        A directory that cannot be watched is no error. If it does not exist, its parent reports its creation; otherwise
        it is polled. A new directory or name counts as changed, so that a change between the read and this call is not
        lost.
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
            self._inotify.join(JOIN_TIMEOUT)
        if self._mounts is not None:
            self._mounts.close()

    # The interface that watchdog's reader calls (WatchCallback).

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

    # Internals.

    def _mount_table(self) -> MountTable | None:
        """Return the mount table, or None if it cannot be opened: then no type is known, and everything is polled."""
        try:
            return MountTable(self._mounts_changed)
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
        """Return the inotify instance with a live thread, or None while the kernel refuses one."""
        if self._inotify is not None and not self._inotify.is_alive():
            self._inotify.stop()  # calls on_watch_deleted for every watch
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
        """Ensure that a directory is watched. Return 0, or the errno of the failure."""
        trouble = 0
        try:
            status = os.stat(directory.path)
            identity = (status.st_dev, status.st_ino)
            if directory.watch is not None and directory.identity == identity and not doubt:
                return 0
            if inotify is None:
                return errno.EMFILE
            if full and directory.watch is None:
                return errno.ENOSPC  # as for the directory before: do not ask the kernel ten thousand times
            renewed = self._attach(inotify, directory, identity)
        except ValueError:  # not a path, for example with a NUL in it
            return errno.ENOENT
        except OSError as problem:
            trouble = problem.errno or errno.EIO
            with self._lock:
                renewed = self._release(directory)
        if renewed:
            self._report([directory.path])
        return trouble

    def _attach(self, inotify: InotifyFD, directory: _Directory, identity: tuple[int, int]) -> bool:
        """Request the watch from the kernel. Return whether it is a new one. The lock defers events."""
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
        """Remove the watch of a directory, with the last one also the kernel's. The caller holds the lock."""
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
    """Raises OSError if the kernel refuses the instance or its thread, and then leaks no descriptor."""

    def start(self) -> None:
        self.name = "certmond-inotify"
        try:
            super().start()
        except RuntimeError as error:
            self._close_resources()
            raise OSError(errno.EAGAIN, "no thread is to be had") from error
