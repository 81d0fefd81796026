"""Names of files that certmond replaces, each with the open descriptor of its directory.

No operation resolves the path again, so a user who replaces a symlink cannot redirect a write.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from certmond.errors import WriteError
from certmond.files.consistent_read import MAX_SIZE, content_of
from certmond.files.path_resolution import HOST_REMEDIES
from certmond.immutable_class import immutable
from certmond.pki.findings import printable

_MAX_HOPS = 40  # the limit of Linux (path_resolution(7))
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSING = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_ITSELF = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
NO_FILE = "neither a file nor a symlink"
"""The result of `Place.fingerprint` for a directory or a device."""

_REMEDIES = {
    **HOST_REMEDIES,
    errno.ENOSPC: "free space on its file system",
    errno.EDQUOT: "raise the disk quota, or free space",
    errno.EROFS: "mount its file system writable",
    errno.EACCES: "add the directory to ReadWritePaths= of the unit of certmond",
    errno.EPERM: "remove the immutable attribute (lsattr, chattr -i)",
    errno.ENOENT: "create the directory",
    errno.ENOTDIR: "a part of its path is not a directory: correct the path",
    errno.EISDIR: "a directory has this name: move it away",
    errno.ELOOP: "its path is a loop of symlinks, or a symlink has this name: replace the symlink with a file",
    errno.ENOLINK: "configure the path of its target, or chown the symlink to root",  # as CHASE_SAFE in systemd
    errno.EINVAL: "correct its path",
    errno.EBUSY: "it is a mount point: unmount it, or mount its directory instead",
    errno.EFBIG: "no Kubernetes component has such a large file: replace the file",
}


@immutable
class Place:
    """One name in a directory, with the open descriptor of the directory."""

    directory: int
    name: str

    def beside(self, name: str) -> Place:
        return replace(self, name=name)

    def shares_mount(self, other: Place) -> bool:
        """Return whether a rename to `other` can succeed. A rename between two mounts of one file system fails."""
        same_device = os.fstat(self.directory).st_dev == os.fstat(other.directory).st_dev
        return same_device and _mount(self.directory) == _mount(other.directory)

    def status(self) -> os.stat_result | None:
        """Return the result of lstat, or None if the name does not exist."""
        try:
            return os.lstat(self.name, dir_fd=self.directory)
        except FileNotFoundError:
            return None

    def fingerprint(self) -> str | None:
        """Return the SHA-256 of a regular file, or the `link_fingerprint` of a symlink.

        Return NO_FILE for another type, and None if the name does not exist.
        """
        status = self.status()
        if status is None:
            return None
        if stat.S_ISLNK(status.st_mode):
            return link_fingerprint(os.readlink(self.name, dir_fd=self.directory))
        return digest(self.read()) if stat.S_ISREG(status.st_mode) else NO_FILE

    def open_fingerprinted(self) -> tuple[str | None, int | None]:
        """Return the fingerprint of the file, and a descriptor of the same file.

        The descriptor is None if the name does not exist or is not a regular file. Raises OSError if the file is
        unreadable.
        """
        status = self.status()
        if status is None or not stat.S_ISREG(status.st_mode):
            return self.fingerprint(), None
        descriptor = self.open()
        try:
            with open(descriptor, "rb", closefd=False) as file:
                return digest(content_of(file, MAX_SIZE)), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    def open(self) -> int:
        """Open this regular file for reading and return the descriptor.

        Raises OSError for another type, because opening a device or a FIFO can have side effects.
        """
        found = os.open(self.name, _ITSELF, dir_fd=self.directory)
        try:
            mode = os.fstat(found).st_mode
            if stat.S_ISLNK(mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            return os.open(f"/proc/self/fd/{found}", _READ)
        finally:
            os.close(found)

    def read(self, most: int = MAX_SIZE) -> bytes:
        """Return the content of a regular file. Raises OSError, with EFBIG if the file has more than `most` bytes."""
        with open(self.open(), "rb") as file:
            return content_of(file, most)

    def check_replaceable(self) -> None:
        """Raise the OSError that a rename onto this name would raise, if this error is predictable."""
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=self.directory, effective_ids=True):
            read_only = os.fstatvfs(self.directory).f_flag & os.ST_RDONLY
            raise (
                OSError(errno.EROFS, os.strerror(errno.EROFS))
                if read_only
                else PermissionError(errno.EACCES, "no write permission for its directory, or an immutable directory")
            )
        status = self.status()
        if status is None:
            return
        # rmdir needs the same permissions as rename. The kernel checks the permission to remove the name (immutable,
        # append-only, sticky, read-only) before the type. The name is not a directory, so the call changes nothing.
        if not stat.S_ISDIR(status.st_mode):
            with suppress(NotADirectoryError):
                os.rmdir(self.name, dir_fd=self.directory)
        descriptor = os.open(self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory)
        try:
            if _mount(descriptor) != _mount(self.directory):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        finally:
            os.close(descriptor)


class Directories:
    """Descriptors of directories below `root`. The end of the `with` block closes these descriptors."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)
        self._open: dict[str, int] = {}
        self.link_changed_at = -math.inf
        """Latest ctime (Unix time) of the symlinks that `resolve` has followed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def real_owner(self, owner: tuple[int, int]) -> tuple[int, int]:
        """Return the uid and the gid that a file of `owner` has below the root.

        In a directory that represents the root of a node, the owner and the group of this directory count as root.
        """
        if self._root == "/":
            return owner
        top = os.stat(self._root)
        return owner[0] or top.st_uid, owner[1] or top.st_gid

    def resolve(self, path: str, *, follow: bool = True, follow_any_link: bool = False) -> str:
        """Return `path` without symlinks, never above the root. Without `follow`, do not resolve the last name.

        Raises OSError (ENOLINK) for a symlink of another user, because this user could redirect a write. With
        `follow_any_link`, which is only for reads, follow such a symlink.
        """
        if not can_be_a_path(path):
            raise OSError(errno.EINVAL, "a file cannot have this name")
        real: list[str] = []
        pending = [part for part in reversed(path.split("/")) if part not in {"", "."}]
        hops = 0
        while pending:
            part = pending.pop()
            if part == "..":
                del real[-1:]
                continue
            target = self._link("/".join(("", *real)), part, follow_any_link) if pending or follow else None
            if target is None:
                real.append(part)
                continue
            hops += 1
            if hops > _MAX_HOPS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith("/"):
                real.clear()
            pending += [piece for piece in reversed(target.split("/")) if piece not in {"", "."}]
        return "/" + "/".join(real)

    def place(self, real: str) -> Place:
        """Return the place of a path that `resolve` has returned."""
        directory, _, name = real.rpartition("/")
        if not name:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        return Place(self._descriptor(directory), name)

    def sync(self) -> None:
        for directory, descriptor in self._open.items():
            with _naming(directory):
                os.fsync(descriptor)

    def _link(self, directory: str, name: str, follow_any_link: bool) -> str | None:
        """Return the target of a symlink, or None if there is no symlink with this name.

        Without `follow_any_link`, raises OSError if the symlink belongs neither to root nor to the user of this
        process.
        """
        try:
            # One descriptor for owner and target: the symlink cannot change between the two reads.
            within = self._walk(directory, _PASSING)
            try:
                link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
            finally:
                os.close(within)
        except (FileNotFoundError, NotADirectoryError):  # the caller reports the missing file after a failed open
            return None
        try:
            status = os.fstat(link)
            if not stat.S_ISLNK(status.st_mode):
                return None
            if not follow_any_link and status.st_uid not in {0, os.geteuid()}:
                raise OSError(errno.ENOLINK, f"{directory}/{name} is a symlink of user {status.st_uid}")
            self.link_changed_at = max(self.link_changed_at, status.st_ctime)
            return os.readlink("", dir_fd=link)
        finally:
            os.close(link)

    def _descriptor(self, directory: str) -> int:
        if directory not in self._open:
            self._open[directory] = self._walk(directory, _DIRECTORY)
        return self._open[directory]

    def _walk(self, directory: str, flags: int) -> int:
        """Return a descriptor of `directory` below the root.

        Raises OSError if a part of the path is a symlink or does not exist.
        """
        descriptor = os.open(self._root, flags)
        for part in directory.split("/")[1:]:
            try:
                with _naming(directory):
                    deeper = os.open(part, flags, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = deeper
        return descriptor


def can_be_a_path(text: str) -> bool:
    """Return whether the kernel accepts `text` as a path. A damaged record can contain any text."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def link_fingerprint(target: str) -> str:
    """Return the result of `Place.fingerprint` for a symlink to `target`. This result is never a SHA-256."""
    return f"-> {target}"


def is_link_fingerprint(seen: str) -> bool:
    return seen.startswith(link_fingerprint(""))


def sentence(path: str, error: OSError, done: str = "written") -> str:
    """Return a message with the file, the failed operation `done`, the fact and the remedy."""
    return f"{path} could not be {done} {reason(error)}"


def reason(error: OSError) -> str:
    """Return the fact and the remedy, such as `(No space left on device): free space on its file system`."""
    remedy = _REMEDIES.get(error.errno or 0, "read the kernel's messages (dmesg)")
    if error.errno in {errno.EACCES, errno.EPERM} and os.geteuid():
        remedy = "run certmond as root"
    return f"({error.strerror or error}): {remedy}"


@contextmanager
def blaming(path: str, done: str = "written") -> Iterator[None]:
    """Convert an OSError of the block to a WriteError that names `path` and the failed operation."""
    try:
        yield
    except OSError as error:
        raise WriteError(printable(sentence(path, error, done))) from error


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """Open a directory of certmond, and yield its descriptor.

    Raises OSError if the open fails.
    """
    descriptor = os.open(directory, _DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _naming(directory: str) -> Iterator[None]:
    """Add the directory to the message of an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{directory}: {error.strerror}") from None


def _mount(descriptor: int) -> str:
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
        return next(line for line in lines if line.startswith("mnt_id:"))


def real_path(root: str, path: str) -> Path:
    """Return the real path, including the root directory, of the file that a replacement of the file `path` replaces.

    Raises WriteError if certmond cannot resolve the path.
    """
    with Directories(root) as directories, blaming(path, "read"):
        return Path(os.path.realpath(root).rstrip("/") + directories.resolve(path))
