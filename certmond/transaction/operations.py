"""The changes that a transaction can make, and the obstacles to one of them.

Owns the kinds of a change (a new file, a new symlink, a removed file). It also owns the rule that the kubelet finds no
new file to start: a manifest only replaces a manifest. Never writes; reads no content.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from certmond.transaction.dirfd import NO_FILE, Place, digest, is_link_mark, link_mark
from certmond.transaction.journal import Entry

_MARGIN = 64 << 10  # bytes left free on each file system, for the record and for processes that write at the same time
_MARGIN_INODES = 8
_STATIC_PODS = re.compile(r"/etc/kubernetes/(.*/)?manifests/")  # the kubelet starts every file in it


@dataclass(frozen=True, slots=True)
class NewFile:
    """The new content of a file.

    `mode` and `owner` (uid, gid; None: the user that runs certmond) apply to a file that does not exist. An existing
    file keeps its own, without the bits that `at_most` lacks, so that no key enters a file that others can read.
    `expected` is the SHA-256 of the content on which the decision is based, or None if there was no file.

    With `anew`, the new file takes neither owner and mode nor attributes from the file that it replaces.

    `manifest` marks the manifest of a static Pod, in whichever directory the kubelet reads. It replaces an existing
    one. Its directory never contains another name, because the kubelet starts every file in it.
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
    """The new target of a symlink. It replaces a symlink, or the file whose content has the SHA-256 `expected`."""

    path: str
    target: str
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """A regular file to remove, if its content has the SHA-256 `expected`. No copy is kept."""

    path: str
    expected: str


Change = NewFile | NewLink | Removed


def is_manifest(change: Change) -> bool:
    return isinstance(change, NewFile) and change.manifest


def is_followed(change: Change) -> bool:
    """Return whether the last name of the path may be a symlink, which is then followed."""
    return isinstance(change, NewFile) and not change.manifest


def aim(change: Change) -> str | None:
    """Return what `Place.look` returns after the change."""
    match change:
        case NewFile():
            return digest(change.content)
        case NewLink():
            return link_mark(change.target)
        case Removed():
            return None


def objections(change: Change, old: str | None) -> Iterator[str]:
    """Yield the obstacles to the change; `old` is the current result of `Place.look`."""
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
    """Yield an obstacle for each file that the kubelet would start: below `watched`, or beside a replaced manifest."""
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
    """Yield an obstacle if a file cannot be renamed from where it is staged to its place."""
    if not staged.shares_mount(place):
        above, directory = posixpath.dirname(entry.staging) or "/", posixpath.dirname(entry.real)
        fact = f"{entry.path} could not be replaced in one step ({directory} is mounted apart from {above})"
        yield f"{fact}: have both on one file system, under one mount"


def shortages(wanted: Sequence[tuple[Place, str, int]]) -> Iterator[str]:
    """Yield an obstacle for each file system without space for its part of `wanted` (place, path, bytes)."""
    by_device: dict[int, list[tuple[Place, str, int]]] = {}
    for item in wanted:
        by_device.setdefault(os.fstat(item[0].directory).st_dev, []).append(item)
    for items in by_device.values():
        place, path, _ = items[0]
        free = os.fstatvfs(place.directory)
        needed = _MARGIN + sum(-(-size // free.f_frsize) * free.f_frsize for _, _, size in items)
        # A file system that reports 0 blocks or inodes has no limit. Reserved blocks count as free: root can use them,
        # and for another user the write itself fails.
        if free.f_blocks and free.f_bfree * free.f_frsize < needed:
            yield f"{path} could not be written (less than {needed} bytes are free); make room on its file system"
        if free.f_files and free.f_ffree < len(items) + _MARGIN_INODES:
            yield f"{path} could not be written (its file system has no inodes left); remove files from it"


def size(change: NewFile | NewLink) -> int:
    return len(change.content) if isinstance(change, NewFile) else len(change.target)
