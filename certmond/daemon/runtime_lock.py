"""Lock of a runtime directory, so that only one daemon can use the directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from certmond.errors import RuntimeDirError


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Create `directory` if it is missing, and hold the lock of the directory during the `with` block.

    Raises RuntimeDirError if another daemon holds the lock, or if the directory is unusable.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        message = (
            f"certmond cannot use {directory} as the runtime directory ({error.strerror}); set another directory with "
            "--runtime-dir"
        )
        raise RuntimeDirError(message) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        fact = f"another certmond daemon uses {directory}"
        raise RuntimeDirError(f"{fact}; stop the other daemon first: systemctl stop certmond") from error
    except OSError as error:
        message = f"certmond cannot lock {directory} ({error.strerror}); set another directory with --runtime-dir"
        raise RuntimeDirError(message) from error
    else:
        yield
    finally:
        os.close(descriptor)
