"""What can be asked of a transaction, and what speaks against one thing that is asked.

Owns the kinds of a change: a new file, a new symlink, a file that is removed; and that nothing comes to where the
kubelet starts whatever it finds, but for a manifest that takes the place of one. Never writes, reads no content.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from certmond.transaction.dirfd import NO_FILE, Place, digest, is_link_mark, link_mark
from certmond.transaction.journal import Entry

_MARGIN = 64 << 10  # bytes left free on each file system: for the record, and for those who write at the same time
_MARGIN_INODES = 8
_STATIC_PODS = re.compile(r"/etc/kubernetes/(.*/)?manifests/")  # whatever is put there is started


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file's new content.

    `mode` and `owner` (uid, gid; None: who runs certmond) are for a file that is not there yet; another keeps its own,
    but for what `at_most` does not permit: for a key must not come into a file that others could read.
    `expected` is the SHA-256 of the content that the decision was made upon; None: nothing was there.

    `anew` says that nothing is taken over of the file that it replaces, neither owner and mode nor attributes.

    `manifest` says that this is the manifest of a static pod, wherever the kubelet has them. It takes the place of one
    that is there, and its directory never has any other name in it: what the kubelet finds there it starts.
    """

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o600
    owner: tuple[int, int] | None = None
    expected: str | None = None
    at_most: int = 0o7777
    manifest: bool = False
    anew: bool = False


@dataclass(frozen=True, slots=True)
class NewLink:
    """A symlink's new target. It replaces a symlink, or the file whose content has the SHA-256 `expected`."""

    path: str
    target: str
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """A regular file that is to be gone, if its content has the SHA-256 `expected`. No copy of it is made."""

    path: str
    expected: str


Change = NewFile | NewLink | Removed


def is_manifest(change: Change) -> bool:
    return isinstance(change, NewFile) and change.manifest


def is_followed(change: Change) -> bool:
    """Whether the last name of its path may be a symlink to what is meant."""
    return isinstance(change, NewFile) and not change.manifest


def aim(change: Change) -> str | None:
    """What `Place.look` says when it is done."""
    match change:
        case NewFile():
            return digest(change.content)
        case NewLink():
            return link_mark(change.target)
        case Removed():
            return None


def objections(change: Change, old: str | None) -> Iterator[str]:
    """What speaks against it, given what is there, as `Place.look` told it."""
    if isinstance(change, NewLink):
        if old not in {None, change.expected} and not is_link_mark(str(old)):
            yield f"{change.path} is no symlink, and no other is replaced by one; look at it"
    elif old == NO_FILE:
        yield f"{change.path} is no regular file; look at it"
    elif old is not None and is_link_mark(old):
        yield f"{change.path} is a symlink, and what it leads to is not touched; put the file itself there"
    elif old is None and is_manifest(change):
        yield f"{change.path} is not there, and certmond starts no pod; put its manifest back first"
    elif old != change.expected:
        yield f"{change.path} was changed by someone else since it was looked at; try again"


def started(entries: Sequence[Entry], watched: str) -> Iterator[str]:
    """What would be put where the kubelet starts it: below `watched`, or beside a manifest that is replaced."""
    pods = {posixpath.dirname(entry.real) for entry in entries if entry.manifest}
    for entry in entries:
        names = (entry.staging,) if entry.manifest else (entry.path, entry.real)
        if (
            any(map(_STATIC_PODS.match, names))
            or names[-1].startswith(f"{watched}/")
            or posixpath.dirname(entry.staging) in pods
        ):
            where = f"{posixpath.dirname(entry.staging)}, where it would wait," if entry.manifest else entry.path
            yield f"{where} is among the static Pods, where certmond writes nothing; move it"


def divided(entry: Entry, staged: Place, place: Place) -> Iterator[str]:
    """That a file cannot be renamed from where it waits to where it belongs."""
    if not staged.shares_mount(place):
        above, directory = posixpath.dirname(entry.staging) or "/", posixpath.dirname(entry.real)
        fact = f"{entry.path} could not be replaced in one step ({directory} is mounted apart from {above})"
        yield f"{fact}: have both on one file system, under one mount"


def shortages(wanted: Sequence[tuple[Place, str, int]]) -> Iterator[str]:
    """What does not fit, file system by file system, of (place, path, bytes)."""
    by_device: dict[int, list[tuple[Place, str, int]]] = {}
    for item in wanted:
        by_device.setdefault(os.fstat(item[0].directory).st_dev, []).append(item)
    for items in by_device.values():
        place, path, _ = items[0]
        free = os.fstatvfs(place.directory)
        needed = _MARGIN + sum(-(-size // free.f_frsize) * free.f_frsize for _, _, size in items)
        # A file system that counts no blocks or inodes has no end of them; root may use the part that is reserved, and
        # who may not is told when the file is staged.
        if free.f_blocks and free.f_bfree * free.f_frsize < needed:
            yield f"{path} could not be written (less than {needed} bytes are free); make room on its file system"
        if free.f_files and free.f_ffree < len(items) + _MARGIN_INODES:
            yield f"{path} could not be written (its file system has no inodes left); remove files from it"


def size(change: NewFile | NewLink) -> int:
    return len(change.content) if isinstance(change, NewFile) else len(change.target)
