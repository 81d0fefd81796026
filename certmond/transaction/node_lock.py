"""Locks that decide which process of certmond acts on this node: a daemon in enforce mode, or one command at a time.

Owns two advisory locks in the state directory, and what the holder of a lock writes into it. The kernel releases a lock
when its holder ends. The daemon holds `ACTING` for its lifetime. A command holds `ACTING` for one step, so that a
daemon that starts gets it after that step. Without a daemon, the one command that acts holds `COMMAND`. `WRITING` is
the lock of `transaction`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from certmond.transaction.dirfd import blaming
from certmond.transaction.state_directory import refuse_exposed
from certmond.transaction.temp_file import make_directory

ACTING, COMMAND, WRITING = "acting.lock", "command.lock", ".lock"
"""The names of the locks. WRITING is that of `transaction`."""
_MOST = 4096  # bytes that are read of what the holder wrote
_LOOKERS = 1000
"""After so many attempts, of a millisecond each, that only processes which ask were in the way of, it is not taken."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock, and the runtime directory into which it renders. A command has none."""

    pid: int
    runtime_dir: Path | None = None

    def __str__(self) -> str:
        if not self.pid:
            return "another certmond"
        return f"{'the daemon' if self.runtime_dir else 'another command'} (process {self.pid})"

    @property
    def shows(self) -> str:
        """Return the command that shows what the process does."""
        return f"ps -fp {self.pid}" if self.pid and not self.runtime_dir else "certmond status"


class NodeLock:
    """The lock `name` of the state directory, for this process."""

    def __init__(self, state_dir: Path, name: str) -> None:
        self._state_dir, self._path = state_dir, state_dir / name
        self._descriptor: int | None = None

    @property
    def is_ours(self) -> bool:
        """Return whether this process holds the lock."""
        return self._descriptor is not None

    def take(self, runtime_dir: Path | None = None) -> bool:
        """Take the lock if it is free. Return whether this process holds it. Waits for no other process.

        Raises WriteError, and StateError if another user can change the state directory.
        """
        if self.is_ours:
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
                taken = self._lock(descriptor)
            except OSError:
                os.close(descriptor)
                raise
            if not taken:
                os.close(descriptor)
                return False
        self._descriptor = descriptor
        name_holder(descriptor, runtime_dir)
        return True

    def _lock(self, descriptor: int) -> bool:
        """Try to lock; retry if only the short shared lock of another process's `is_held` prevents it."""
        for _ in range(_LOOKERS):
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
        """Release the lock, if this process holds it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def name_holder(descriptor: int, runtime_dir: Path | None = None) -> None:
    """Write this process into the lock of this descriptor, as its holder."""
    said = {"pid": os.getpid(), "runtime_dir": str(runtime_dir.absolute()) if runtime_dir else None}
    with suppress(OSError):  # the lock is valid without it, such as on a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(said).encode(), 0)


def is_held(state_dir: Path, name: str) -> bool:
    """Return whether a process holds the lock `name`. Opens it for reading, which wakes no watcher of writes."""
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
    """Return the process that holds the lock `name`, with pid 0 if that is unknown, or None if it is free."""
    if not is_held(state_dir, name):
        return None
    try:
        descriptor = os.open(state_dir / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            said = json.loads(file.read(_MOST))
        directory = said["runtime_dir"]
        return Holder(int(said["pid"]), Path(directory) if directory else None)
    except (OSError, ValueError, LookupError, TypeError):
        return Holder(0)


def writer_of(state_dir: Path) -> Holder | None:
    """Return the process that writes on this node, or None. If it is the daemon, its runtime directory is set."""
    writer, acting = holder_of(state_dir, WRITING), holder_of(state_dir, ACTING)
    return acting if writer and acting and writer.pid == acting.pid else writer
