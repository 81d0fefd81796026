"""The changes that a transaction can make, and the conflicts that prevent a change.

The manifest of a static Pod can only replace an existing manifest, so that certmond never makes the kubelet start an
additional Pod.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import field

from certmond.immutable_class import immutable
from certmond.transaction.dirfd import NO_FILE, Place, digest, is_link_fingerprint, link_fingerprint
from certmond.transaction.journal import Entry

_MARGIN = 64 << 10  # free bytes on each file system, for the record and for other processes that write at the same time
_MARGIN_INODES = 8
_STATIC_PODS = re.compile(r"/etc/kubernetes/(.*/)?manifests/")  # the kubelet starts a Pod for every file in it


@immutable
class NewFile:
    """The new content of a file.

    An existing file keeps its owner and its mode, unless `new_metadata` is True. `at_most` limits the mode. `expected`
    is the SHA-256 of the content to replace, or None for a new file. `manifest` marks the manifest of a static Pod.
    """

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o600  # of a new file, or with new_metadata
    owner: tuple[int, int] | None = None  # uid and gid, as for `mode`; None: the user of certmond
    expected: str | None = None
    at_most: int = 0o7777
    manifest: bool = False
    new_metadata: bool = False


@immutable
class NewLink:
    """A new symlink to `target`.

    The new symlink replaces another symlink, or a file whose content has the SHA-256 `expected`.
    """

    path: str
    target: str
    expected: str | None = None


@immutable
class Removed:
    """A regular file to remove, if its content has the SHA-256 `expected`. certmond keeps no copy."""

    path: str
    expected: str


Change = NewFile | NewLink | Removed


def is_manifest(change: Change) -> bool:
    return isinstance(change, NewFile) and change.manifest


def is_followed(change: Change) -> bool:
    """Return whether certmond writes to the target if the path of the change is a symlink."""
    return isinstance(change, NewFile) and not change.manifest


def target_fingerprint(change: Change) -> str | None:
    """Return the result of `Place.fingerprint` for the path after the change. The result for a removed file is None."""
    match change:
        case NewFile():
            return digest(change.content)
        case NewLink():
            return link_fingerprint(change.target)
        case Removed():
            return None


def state_conflicts(change: Change, old: str | None) -> Iterator[str]:
    """Yield a message if the file does not permit the change. `old` is the current result of `Place.fingerprint`."""
    if isinstance(change, NewLink):
        if old not in {None, change.expected} and not is_link_fingerprint(str(old)):
            yield f"{change.path} is not a symlink, and certmond replaces only symlinks with symlinks; move it away"
    elif old == NO_FILE:
        yield f"{change.path} is not a regular file; move it away"
    elif old is not None and is_link_fingerprint(old):
        yield f"{change.path} is a symlink, and certmond does not write its target; replace the symlink with a file"
    elif old is None and is_manifest(change):
        yield f"{change.path} does not exist, and certmond does not start Pods; restore the manifest first"
    elif old != change.expected:
        yield f"{change.path} was changed by another process after certmond read the file; repeat the command"


def static_pod_conflicts(entries: Sequence[Entry], watched: str) -> Iterator[str]:
    """Yield a message for each file from which the kubelet would start a Pod."""
    pods = {posixpath.dirname(entry.real) for entry in entries if entry.manifest}
    for entry in entries:
        names = (entry.staging,) if entry.manifest else (entry.path, entry.real)
        if (
            any(map(_STATIC_PODS.match, names))
            or names[-1].startswith(f"{watched}/")
            or posixpath.dirname(entry.staging) in pods
        ):
            staging = f"{posixpath.dirname(entry.staging)}, for the staged file,"
            path = staging if entry.manifest else entry.path
            yield f"{path} is in a directory of static Pods, and certmond adds no files there; use another directory"


def mount_conflicts(entry: Entry, staged: Place, place: Place) -> Iterator[str]:
    """Yield a message if a rename of the staged file to its final path cannot succeed."""
    if not staged.shares_mount(place):
        above, directory = posixpath.dirname(entry.staging) or "/", posixpath.dirname(entry.real)
        fact = f"{entry.path} could not be replaced atomically ({directory} and {above} are different mounts)"
        yield f"{fact}: move both to one file system, under one mount"


def space_conflicts(wanted: Sequence[tuple[Place, str, int]]) -> Iterator[str]:
    """Yield a message for each file system without space for its part of `wanted`.

    Each item of `wanted` is a place, the path of the place, and a number of bytes.
    """
    by_device: dict[int, list[tuple[Place, str, int]]] = {}
    for item in wanted:
        by_device.setdefault(os.fstat(item[0].directory).st_dev, []).append(item)
    for items in by_device.values():
        place, path, _ = items[0]
        free = os.fstatvfs(place.directory)
        needed = _MARGIN + sum(-(-size // free.f_frsize) * free.f_frsize for _, _, size in items)
        # A file system that reports 0 blocks or inodes has no limit. Reserved blocks count as free: root can use them.
        # The write of another user fails instead.
        if free.f_blocks and free.f_bfree * free.f_frsize < needed:
            yield f"{path} could not be written (less than {needed} bytes are free); free space on its file system"
        if free.f_files and free.f_ffree < len(items) + _MARGIN_INODES:
            yield f"{path} could not be written (its file system has no inodes left); remove files from it"


def size(change: NewFile | NewLink) -> int:
    return len(change.content) if isinstance(change, NewFile) else len(change.target)
