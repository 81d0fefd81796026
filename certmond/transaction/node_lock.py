"""Locks that decide which process of certmond acts on this node: a daemon in enforce mode, or one command at a time.

The daemon holds `ACTING` for its lifetime. A command holds `COMMAND`, and `ACTING` during each step, so that a starting
daemon can acquire `ACTING`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from certmond.immutable_class import immutable
from certmond.transaction.dirfd import blaming
from certmond.transaction.state_directory import refuse_exposed
from certmond.transaction.temp_file import make_directory

ACTING, COMMAND, WRITING = "acting.lock", "command.lock", ".lock"
"""The names of the lock files. `transaction.commit` uses WRITING."""
_MOST = 4096  # maximum number of bytes to read from a lock file
_MAX_ATTEMPTS = 1000
"""Maximum number of attempts, one each millisecond, while only shared locks of `is_held` prevent the lock."""


@immutable
class Holder:
    """The process that holds a lock. `runtime_dir` is the runtime directory of a daemon, or None for a command."""

    pid: int
    runtime_dir: Path | None = None

    def __str__(self) -> str:
        if not self.pid:
            return "another certmond process"
        return f"{'the daemon' if self.runtime_dir else 'another command'} (process {self.pid})"

    @property
    def shows(self) -> str:
        """Command that shows the activity of the process."""
        return f"ps -fp {self.pid}" if self.pid and not self.runtime_dir else "certmond status"


class NodeLock:
    """The lock `name` of the state directory, for this process."""

    def __init__(self, state_dir: Path, name: str) -> None:
        self._state_dir, self._path = state_dir, state_dir / name
        self._descriptor: int | None = None

    @property
    def is_acquired(self) -> bool:
        """Whether this process holds the lock."""
        return self._descriptor is not None

    def take(self, runtime_dir: Path | None = None) -> bool:
        """Acquire the lock if it is free. Return whether this process holds the lock.

        Raises WriteError if the lock file is unusable, and StateError if an untrusted user can change the state
        directory.
        """
        if self.is_acquired:
            return True
        with blaming(str(self._state_dir)):
            make_directory(self._state_dir)
            refuse_exposed(self._state_dir)
        if is_held(self._state_dir, self._path.name):
            return False
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with blaming(str(self._path), "locked"):
            descriptor = os.open(self._path, flags, 0o600)
            try:
                paths_by_file = self._lock(descriptor)
            except OSError:
                os.close(descriptor)
                raise
            if not paths_by_file:
                os.close(descriptor)
                return False
        self._descriptor = descriptor
        name_holder(descriptor, runtime_dir)
        return True

    def _lock(self, descriptor: int) -> bool:
        """Acquire the lock if it is free, and return whether this process holds the lock.

        Retry while only the short shared lock of `is_held` prevents the lock.
        """
        for _ in range(_MAX_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if is_held(self._state_dir, self._path.name):
                    return False
                time.sleep(0.001)
            else:
                return True
        return False

    def release(self) -> None:
        """Release the lock, if this process holds the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def name_holder(descriptor: int, runtime_dir: Path | None = None) -> None:
    """Write this process as the holder into the lock file with this descriptor."""
    content = {"pid": os.getpid(), "runtime_dir": str(runtime_dir.absolute()) if runtime_dir else None}
    with suppress(OSError):  # the lock is valid without its content, for example on a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(content).encode(), 0)


def is_held(state_dir: Path, name: str) -> bool:
    """Return whether a process holds the lock `name`. Return False if the lock file is unreadable.

    Open the file read-only, so that inotify reports no write.
    """
    try:
        descriptor = os.open(state_dir / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(descriptor)


def holder_of(state_dir: Path, name: str) -> Holder | None:
    """Return the process that holds the lock `name`, or None for a free lock. An unknown process has the PID 0."""
    if not is_held(state_dir, name):
        return None
    try:
        descriptor = os.open(state_dir / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            content = json.loads(file.read(_MOST))
        directory = content["runtime_dir"]
        return Holder(int(content["pid"]), Path(directory) if directory else None)
    except (OSError, ValueError, LookupError, TypeError):
        return Holder(0)


def writer_of(state_dir: Path) -> Holder | None:
    """Return the process that writes on this node, or None if no process writes."""
    writer, acting = holder_of(state_dir, WRITING), holder_of(state_dir, ACTING)
    return acting if writer and acting and writer.pid == acting.pid else writer
