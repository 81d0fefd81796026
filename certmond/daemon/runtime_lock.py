"""The lock of a runtime directory, which admits one daemon."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from certmond.errors import RuntimeDirError


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of `directory`.

    Raises RuntimeDirError if another daemon holds the lock or the directory is unusable.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        message = f"{directory} cannot be used as runtime directory ({error.strerror}); give another with --runtime-dir"
        raise RuntimeDirError(message) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RuntimeDirError(f"another certmond already runs with {directory}; stop it first") from error
    except OSError as error:
        message = f"{directory} cannot be locked ({error.strerror}); give another with --runtime-dir"
        raise RuntimeDirError(message) from error
    else:
        yield
    finally:
        os.close(descriptor)
