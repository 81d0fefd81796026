"""Which process of certmond acts on this node: a daemon that enforces, else one command at a time.

Owns the two advisory locks of the state directory that say so, and what the holder of any writes into it. The kernel
releases a lock when its holder ends, however it ends. `ACTING` is held by the daemon for its life, and by a command
while it makes one step, so that a daemon that starts has it as soon as that step is made. `COMMAND` is held by the one
command that acts where no daemon does. What is written on the node has a lock of its own (`transaction`).
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
"""The names of the locks; WRITING is that of `transaction`."""
_MOST = 4096  # bytes of what a holder says
_LOOKERS = 1000
"""After so many attempts, of a millisecond each, that only processes which ask were in the way of, it is not taken."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock, and the runtime directory into which it renders; a command has none."""

    pid: int
    runtime_dir: Path | None = None

    def __str__(self) -> str:
        if not self.pid:
            return "another certmond"
        return f"{'the daemon' if self.runtime_dir else 'another command'} (process {self.pid})"

    @property
    def shows(self) -> str:
        """The command that shows what it does."""
        return f"ps -fp {self.pid}" if self.pid and not self.runtime_dir else "certmond status"


class NodeLock:
    """The lock `name` of the state directory, for this process."""

    def __init__(self, state_dir: Path, name: str) -> None:
        self._state_dir, self._path = state_dir, state_dir / name
        self._descriptor: int | None = None

    @property
    def is_ours(self) -> bool:
        """Whether this process holds it."""
        return self._descriptor is not None

    def take(self, runtime_dir: Path | None = None) -> bool:
        """Return whether this process holds the lock, which is taken if it is free. Waits for no other process.

        Raises WriteError, and StateError where another user can change the state directory.
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
        """Who only asks (`is_held`) has a shared lock for an instant: that is no holder, and is outlasted."""
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
        """Give the lock back, if this process holds it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def name_holder(descriptor: int, runtime_dir: Path | None = None) -> None:
    """Write into the lock of this descriptor that this process holds it."""
    said = {"pid": os.getpid(), "runtime_dir": str(runtime_dir.absolute()) if runtime_dir else None}
    with suppress(OSError):  # a full disk: the lock counts, not what is in it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(said).encode(), 0)


def is_held(state_dir: Path, name: str) -> bool:
    """Return whether a process holds the lock `name`. Opened for reading, so that no watcher of writers is woken."""
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
    """Return the process that holds the lock `name`, None where it is free. Its process is 0 where it does not say."""
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
    """Return the process that writes on this node, None where none does: the daemon where that is the one."""
    writer, acting = holder_of(state_dir, WRITING), holder_of(state_dir, ACTING)
    return acting if writer and acting and writer.pid == acting.pid else writer
