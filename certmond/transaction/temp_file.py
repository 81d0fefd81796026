"""A new file beside the one that it shall replace: complete, on the disk, and read back before anything depends on it.

Owns how the content comes to the disk under a name that nobody reads, with mode, owner and extended attributes (ACL,
SELinux label) of the file that is to be replaced. A staged file can be read by nobody else until it is complete, and
then by whoever could read the old one. Never touches the old file, never renames.
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
_OF_THE_CONTENT = {"security.ima", "security.evm"}  # the kernel's own hashes of the old content
_ACL = "system.posix_acl_access"
_ACL_HEADER, _ACL_ENTRY = 4, struct.Struct("<HHI")  # linux/posix_acl_xattr.h: a version, then (tag, rights, id)
_OF_THE_MODE = {0x10, 0x20}  # its mask and the others: what a mode has for them, they have


@contextmanager
def new_file(place: Place, content: bytes) -> Iterator[int]:
    """A file that was not there, ours alone, with its content; on the disk when the block is left."""
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
    """Write `content` to `staged`, like the file of descriptor `old`, but no more open than `at_most`; else as told.

    Return what was read back. This does not read the name that it replaced: another file may be there by now.
    """
    with new_file(staged, content) as descriptor:
        if old is None:
            os.fchown(descriptor, *(owner or (os.geteuid(), os.getegid())))
            if _ACL in _attributes(descriptor):  # the directory's default: whoever set it would read the file
                os.removexattr(descriptor, _ACL)
        else:
            mode = _take_over(descriptor, old) & at_most
        os.fsync(descriptor)
        found = staged.read()
        if found != content:
            raise OSError(errno.EIO, "it does not read back as it was written")
        # The last step, since a mode is what lets others in; it has to reach the disk, too.
        os.fchmod(descriptor, mode)
    return found


def make_directory(path: Path) -> None:
    """A directory of our own, which nobody else may enter, where there is none yet."""
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
    """Owner and extended attributes as `old` has them. The mode that is left to be set."""
    status = os.fstat(old)
    os.fchown(descriptor, status.st_uid, status.st_gid)
    wanted, present = _attributes(old), _attributes(descriptor)
    for name in present.keys() - wanted.keys():  # such as an ACL that the directory hands to every new file
        os.removexattr(descriptor, name)
    for name, value in wanted.items():
        if present.get(name) != value:
            os.setxattr(descriptor, name, _closed(value) if name == _ACL else value)
    return stat.S_IMODE(status.st_mode)


def _closed(acl: bytes) -> bytes:
    """The ACL with nothing in force but the owner's part: setting one sets the mode, and the mode comes last."""
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
