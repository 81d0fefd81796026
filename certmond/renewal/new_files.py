"""New files and symlinks of an entry, as changes of a transaction. The entry limits the mode and decides the owner.

This module also defines the archive names of damaged files.
"""

from __future__ import annotations

import posixpath
from datetime import datetime
from typing import Protocol

from certmond.formats.kubelet import pem as kubelet_pem
from certmond.pki.catalog.entries import CertificateSpec
from certmond.renewal.derived_file_state import owner_ids
from certmond.transaction.dirfd import digest
from certmond.transaction.operations import Change, NewFile, NewLink

_PUBLIC = 0o644
_DAMAGED = ".damaged"
_SECRET = (b"PRIVATE KEY", b"client-key-data")


class View(Protocol):
    """The current files of the node."""

    def read(self, path: str, *, follow_any_link: bool = True) -> bytes | None:
        """Return the content of a file, or None if the file is missing. Raises WriteError if the file is unreadable.

        Callers that copy the content set `follow_any_link` to False, so that certmond follows no symlink of another
        user.
        """
        ...

    def names(self, directory: str) -> frozenset[str]:
        """Return the names in a directory, or an empty set if the directory is unreadable."""
        ...


def placed(
    spec: CertificateSpec,
    path: str,
    content: bytes,
    files: View,
    *,
    mode: int | None = None,
    owner: tuple[int, int] | None = None,
) -> NewFile:
    """Return the change that replaces the present file of an entry at `path` with `content`.

    The entry limits `mode`, and the owner in the entry takes precedence over `owner`. Raises WriteError if the present
    file is unreadable, or if the owner is unknown.
    """
    most = spec.key_mode if is_secret(content) else _PUBLIC if spec.mode is None else spec.mode
    whose = owner_ids(spec.owner) if spec.owner else owner
    present = files.read(path)
    expected = None if present is None else digest(present)
    return NewFile(
        path, content, most if mode is None else mode & most, whose, expected, at_most=most, new_metadata=True
    )


def linked(
    path: str, content: bytes, spec: CertificateSpec | None, files: View, now: datetime, *,
    owner: tuple[int, int] | None = None,
) -> list[Change]:  # fmt: skip
    """Return the changes that write a dated PEM file of the kubelet and the symlink `path` to this file.

    Raises WriteError if the owner in the entry does not exist on this host, or if the file at `path` is unreadable.
    Also raises WriteError if `path` does not end with -current.pem.
    """
    dated = kubelet_pem.successor(path, now, files.names(posixpath.dirname(path)))
    most, whose = (spec.key_mode, spec.owner) if spec else (0o600, None)
    present = files.read(path)
    return [
        NewFile(dated, content, most, owner_ids(whose) if whose else owner, at_most=most),
        NewLink(path, dated, expected=None if present is None else digest(present)),
    ]


def is_secret(content: bytes) -> bool:
    """Return whether the content contains at least a part of a private key."""
    return any(mark in content for mark in _SECRET)


def damaged_name(name: str) -> str:
    """Return the archive name of the damaged files of the entry `name`."""
    return f"{name[:54]}{_DAMAGED}"


def is_damaged_name(name: str) -> bool:
    """Return whether `name` is an archive name of damaged files."""
    return name.endswith(_DAMAGED)
