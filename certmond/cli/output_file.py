"""Atomic replacement of the file to which a command writes its output.

This module never replaces a device, a pipe, or the target of another user's symlink.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from certmond.transaction.dirfd import Directories, blaming
from certmond.transaction.temp_file import new_file, remove

_PUBLIC = 0o644


def replace_file(target: Path, content: bytes) -> None:
    """Replace or create the file `target`. An existing file keeps its mode. A new file is world-readable.

    Raises WriteError if the target is not a regular file, or if certmond cannot write the file.
    """
    with blaming(str(target)), Directories("/") as directories:
        place = directories.place(directories.resolve(os.path.abspath(target)))
        draft = place.beside(f".{place.name}.certmond")
        status = place.status()
        if status is not None and not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        remove(draft)
        try:
            with new_file(draft, content) as descriptor:
                os.fchmod(descriptor, stat.S_IMODE(status.st_mode) if status else _PUBLIC)
            os.rename(draft.name, place.name, src_dir_fd=draft.directory, dst_dir_fd=place.directory)
        except BaseException:
            with suppress(OSError):
                remove(draft)
            raise
        directories.sync()
