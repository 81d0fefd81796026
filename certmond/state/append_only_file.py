"""Append-only files of the state directory, with one record in each line.

After a power failure, the last line might be incomplete. `append` first terminates such a line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from certmond.transaction.dirfd import blaming
from certmond.transaction.state_directory import opened_state
from certmond.transaction.temp_file import make_directory

_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def append(state_dir: Path, name: str, lines: Sequence[bytes]) -> None:
    """Append the lines to the file `name` of the state directory, and sync the file to the disk.

    Raises WriteError if the write fails, and StateError if an untrusted user can change the directory.
    """
    with blaming(str(state_dir / name)):
        make_directory(state_dir)
        with opened_state(state_dir) as directory:
            file = os.open(name, _APPEND, 0o600, dir_fd=directory)
            try:
                size = os.fstat(file).st_size
                torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
                rest = b"\n" * torn + b"".join(line + b"\n" for line in lines)
                while rest:  # on a full disk the first write writes a part, and only the next write fails
                    rest = rest[os.write(file, rest) :]
                os.fsync(file)
                if size == 0:
                    os.fsync(directory)
            finally:
                os.close(file)
