"""Watches of directories with inotify. A watch wakes the daemon when a watched name changes.

A renewal replaces a file by a rename, so a watch of the file itself would miss the new file. All calls of
`set_interest`, `take_changes` and `close` must come from the same thread.
"""

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from certmond.deferred_module import defer
from certmond.files.directory_names import WatchedNames, added_names
from certmond.files.mount_table import JOIN_TIMEOUT, MountTable, filesystem_type, is_eventless
from certmond.immutable_class import immutable
from certmond.library_subset import register

register("watchdog.observers")  # its `__init__` imports observers of directory trees, which take 0.5 MB in the daemon
defer("ctypes.util")  # watchdog imports this module, and on Linux uses none of its names

from watchdog.observers.inotify_c import (  # noqa: E402 - `register` must run first
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

Interest = Mapping[str, WatchedNames]
"""The names to watch in each directory. The path of a directory contains no symlinks."""

_MASK = Mask(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MODIFY  # a writer that keeps the file open causes no IN_CLOSE_WRITE
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_ATTRIB
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR  # the kernel always sends IN_UNMOUNT
)
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_CAUSES = ("inotify", "overflow", "mount")  # in ascending order of effect
_NO_NAMES = frozenset[str]()
_MAX_PATHS = 16_384  # for more changed paths, a read of all files is not more work, and takes less memory


@immutable
class Changes:
    """The changes since the last call of `take_changes`."""

    everything: bool
    """True if the caller must read all files again: after lost events, a mount, or too many changed paths."""
    paths: frozenset[str]
    """The changed paths, as "directory/name", or as "directory" for a directory itself."""
    cause: str
    """The cause with the largest effect: inotify, overflow or mount, in ascending order."""


def affects(point: str, interest: Interest) -> bool:
    """Return whether a mount or unmount at `point` changes the content of a watched path."""
    parent, name = os.path.split(point)
    names = interest.get(parent, _NO_NAMES)
    below = os.path.join(point, "")
    return names is None or name in names or any(path == point or path.startswith(below) for path in interest)


@dataclass(slots=True, eq=False)
class _Directory:
    """A watched directory, or a directory that exists no longer or not yet."""

    path: str
    names: WatchedNames
    identity: tuple[int, int] | None = None
    """Device and inode immediately before the request for the watch, to detect a different inode at this path."""
    watch: WatchDescriptor | None = None

    def entries(self, names: Iterable[str]) -> list[str]:
        return [os.path.join(self.path, name) for name in names]


class Watcher:
    def __init__(self, wake: Callable[[], None]) -> None:
        """Create a watcher without watches.

        The watcher calls `wake` after each change, from any thread. `wake` must return quickly, and must not raise an
        exception.
        """
        self.events = 0
        """Number of inotify events for a watched name or a watched directory."""
        self.overflows = 0
        self._wake = wake
        self._closed = False
        self._interest: Interest = {}
        self._directories: dict[str, _Directory] = {}
        self._polled: frozenset[str] = frozenset()
        self._numbers = itertools.count()
        self._inotify: InotifyFD | None = None
        self._lock = (
            threading.Lock()
        )  # protects the attributes below; a thread must not acquire it while the thread holds the lock of InotifyFD
        self._watches: dict[WatchDescriptor, tuple[CallbackId, set[_Directory]]] = {}
        self._uncertain = False
        self._everything = False
        self._paths: set[str] = set()
        self._cause = -1
        self._mounts: MountTable | None = None

    @property
    def polled(self) -> frozenset[str]:
        """The directories that certmond must poll, because inotify does not report every change."""
        return self._polled

    @property
    def watched(self) -> int:
        with self._lock:
            return sum(len(directories) for _, directories in self._watches.values())

    def take_changes(self) -> Changes | None:
        """Return the changes since the last call, or None if nothing has changed."""
        with self._lock:
            if self._cause < 0:
                return None
            changes = Changes(self._everything, frozenset(self._paths), _CAUSES[self._cause])
            self._everything, self._paths, self._cause = False, set(), -1
            return changes

    def report_changed(self, paths: frozenset[str]) -> None:
        """Report `paths` as changed, so that the next pass reads these paths again."""
        if paths:
            self._report(paths)

    def set_interest(self, interest: Interest) -> None:
        """Watch exactly the directories in `interest`, that is, the inodes to which these paths lead now.

        A new directory or name counts as changed, because the caller read this path before the watch existed.
        """
        if self._closed:
            return
        self._interest = dict(interest)
        self._mounts = self._mounts or self._mount_table()
        inotify = self._live_instance()
        with self._lock:
            # An overflow can lose the event for a removed watch, so request every watch again.
            uncertain, self._uncertain = self._uncertain, False
            for path in self._directories.keys() - interest.keys():
                self._release(self._directories.pop(path))
        types = self._mounts.types() if self._mounts is not None else {}
        polled = set()
        exhausted = False
        for path, names in interest.items():
            directory = self._directories.setdefault(path, _Directory(path, names))
            previous_names, directory.names = directory.names, names
            if directory.watch is not None:
                added = added_names(names, previous_names)
                self._report([path] if added is None else directory.entries(added))
            error_number = self._watch(directory, inotify, exhausted=exhausted, uncertain=uncertain)
            exhausted = exhausted or error_number == errno.ENOSPC
            # Poll the directory if the kernel permits no more watches, if certmond has no permission, or if other hosts
            # can change the file system. For a missing directory, the watch of the parent reports the creation.
            if error_number not in _MISSING and (error_number or is_eventless(filesystem_type(path, types))):
                polled.add(path)
        self._polled = frozenset(polled)

    def close(self) -> None:
        """End the threads, and close all descriptors. Later calls of `set_interest` and `close` have no effect."""
        if self._closed:
            return
        self._closed = True
        if self._inotify is not None:
            self._inotify.stop()
            self._inotify.join(JOIN_TIMEOUT)
        if self._mounts is not None:
            self._mounts.close()

    # The interface that the reader thread of watchdog calls (WatchCallback).

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
            self._uncertain = True
        self._report(everything=True, cause="overflow")

    # Internals.

    def _mount_table(self) -> MountTable | None:
        """Return the mount table, or None if certmond cannot open this table.

        Without the table, the daemon polls all directories.
        """
        try:
            return MountTable(self._mounts_changed)
        except OSError:
            return None

    def _mounts_changed(self, points: frozenset[str]) -> None:
        # The mounts of Pods must not wake the daemon.
        interest = self._interest
        if any(affects(point, interest) for point in points):
            self._report(everything=True, cause="mount")

    def _report(self, paths: Iterable[str] = (), *, everything: bool = False, cause: str = "inotify") -> None:
        paths = set(paths)
        if self._closed or not (paths or everything):
            return
        with self._lock:
            self._cause = max(self._cause, _CAUSES.index(cause))
            self._everything = self._everything or everything or len(self._paths) + len(paths) > _MAX_PATHS
            if self._everything:
                self._paths.clear()
            else:
                self._paths |= paths
        self._wake()

    def _live_instance(self) -> InotifyFD | None:
        """Return an inotify instance with a running thread, or None if the kernel permits no instance or thread."""
        # An exception in a callback ends the thread of InotifyFD.
        if self._inotify is not None and not self._inotify.is_alive():
            self._inotify.stop()  # this method calls on_watch_deleted for every watch
            self._inotify = None
        if self._inotify is None:
            try:
                # `Observer` of watchdog would start a thread for each directory, and would hide an overflow of the
                # queue of the kernel.
                inotify = _Inotify()
                inotify.start()
            except OSError:
                return None
            self._inotify = inotify
        return self._inotify

    def _watch(self, directory: _Directory, inotify: InotifyFD | None, *, exhausted: bool, uncertain: bool) -> int:
        """Watch a directory, unless its present inode already has a watch. Return 0, or the errno of the failure."""
        # `exhausted`: the kernel permits no more watches. `uncertain`: existing watches might be lost.
        error_number = 0
        try:
            status = os.stat(directory.path)
            identity = (status.st_dev, status.st_ino)
            if directory.watch is not None and directory.identity == identity and not uncertain:
                return 0
            if inotify is None:
                return errno.EMFILE
            if exhausted and directory.watch is None:
                return errno.ENOSPC  # no more watches: do not repeat the system call ten thousand times
            renewed = self._attach(inotify, directory, identity)
        except ValueError:  # not a valid path, for example because it contains a NUL
            return errno.ENOENT
        except OSError as problem:
            error_number = problem.errno or errno.EIO
            with self._lock:
                renewed = self._release(directory)
        if renewed:
            self._report([directory.path])
        return error_number

    def _attach(self, inotify: InotifyFD, directory: _Directory, identity: tuple[int, int]) -> bool:
        """Request a watch from the kernel. Return whether the watch is new for this directory.

        Raises OSError if the kernel refuses the watch.
        """
        number = CallbackId(next(self._numbers))
        with self._lock:
            # After EACCES, InotifyFD returns -1 and keeps the callback. Two paths can share a watch, for example after
            # a bind mount. A second callback with the same number on a watch would cause a RuntimeWarning.
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
        """Remove a directory from its watch, and remove the watch from the kernel if no other directory uses the watch.

        Return whether the directory had a watch. The caller must hold the lock.
        """
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
    """InotifyFD that closes its descriptors and raises OSError if its thread cannot start."""

    def start(self) -> None:
        self.name = "certmond-inotify"
        try:
            super().start()
        except RuntimeError as error:
            self._close_resources()
            raise OSError(errno.EAGAIN, "cannot start a thread") from error
