"""A new file beside the file that it will replace.

This module writes the new file, flushes the file to the disk, and checks the written content. Until the end of the
check, no other user can read the file.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from certmond.transaction.dirfd import Place, opened

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
_OF_THE_CONTENT = {"security.ima", "security.evm"}  # hashes of the old content, computed by the kernel
_ACL = "system.posix_acl_access"
_ACL_HEADER, _ACL_ENTRY = 4, struct.Struct("<HHI")  # linux/posix_acl_xattr.h: a version, then (tag, permissions, id)
_OF_THE_MODE = {0x10, 0x20}  # ACL_MASK and ACL_OTHER, whose permissions the mode sets


@contextmanager
def new_file(place: Place, content: bytes) -> Iterator[int]:
    """Create a file with mode 0600 and this content. Yield its descriptor, and sync the file after the block."""
    descriptor = os.open(place.name, _NEW, 0o600, dir_fd=place.directory)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stage(
    staged: Place, old: int | None, content: bytes, mode: int, owner: tuple[int, int] | None, *, at_most: int
) -> bytes:
    """Write `content` to `staged` with the attributes of the file `old`. Return the content of the new file.

    `at_most` limits the mode of `old`. If `old` is None, apply `mode` and `owner`. `old` is a descriptor, because
    another process might have replaced the file. Raises OSError if the write fails.
    """
    with new_file(staged, content) as descriptor:
        if old is None:
            os.fchown(descriptor, *(owner or (os.geteuid(), os.getegid())))
            if _ACL in _attributes(descriptor):  # a default ACL of the directory could permit other users to read it
                os.removexattr(descriptor, _ACL)
        else:
            mode = _take_over(descriptor, old) & at_most
        os.fsync(descriptor)
        found = staged.read()
        if found != content:
            raise OSError(errno.EIO, "its content differs from the written content")
        # Set the mode last, because it permits other users to read the file. It must also reach the disk.
        os.fchmod(descriptor, mode)
    return found


def make_directory(path: Path) -> None:
    """Create a directory with mode 0700, unless it exists. Raises OSError if the creation fails."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    with opened(path.parent) as parent:
        os.fsync(parent)


def remove(place: Place) -> None:
    with suppress(FileNotFoundError):
        os.unlink(place.name, dir_fd=place.directory)


def _take_over(descriptor: int, old: int) -> int:
    """Copy the owner and the extended attributes of `old`. Return the mode of `old`, which the caller sets."""
    status = os.fstat(old)
    os.fchown(descriptor, status.st_uid, status.st_gid)
    wanted, present = _attributes(old), _attributes(descriptor)
    for name in present.keys() - wanted.keys():  # for example an ACL that the directory sets on every new file
        os.removexattr(descriptor, name)
    for name, value in wanted.items():
        if present.get(name) != value:
            os.setxattr(descriptor, name, _closed(value) if name == _ACL else value)
    return stat.S_IMODE(status.st_mode)


def _closed(acl: bytes) -> bytes:
    """Return the ACL with only the permissions of the owner.

    certmond sets the final mode after this ACL, because an ACL also changes the mode.
    """
    entries = list(_ACL_ENTRY.iter_unpack(acl[_ACL_HEADER:]))
    closed = (_ACL_ENTRY.pack(tag, 0 if tag in _OF_THE_MODE else rights, who) for tag, rights, who in entries)
    return acl[:_ACL_HEADER] + b"".join(closed)


def _attributes(descriptor: int) -> dict[str, bytes]:
    try:
        names = os.listxattr(descriptor)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    return {name: os.getxattr(descriptor, name) for name in names if name not in _OF_THE_CONTENT}
