"""Files in the place of damaged ones: with the owner and mode that their entry says, whatever is there now.

Owns that nothing of a damaged file is taken over. What is written, and whether, is the caller's; how, the
transaction's.
"""

from __future__ import annotations

import posixpath
from datetime import datetime
from typing import Protocol

from certmond.host import kubelet_pem
from certmond.host.change import Change, NewFile, NewLink
from certmond.host.derived import owner_ids
from certmond.host.place import digest
from certmond.pki.catalog import CertificateSpec

_PUBLIC = 0o644
_DAMAGED = ".damaged"
_SECRET = (b"PRIVATE KEY", b"client-key-data")


class View(Protocol):
    """The files of the node, as they are at this moment."""

    def read(self, path: str, *, anyones: bool = True) -> bytes | None:
        """The bytes of a file; None where it is not there. Raises WriteError where it cannot be read.

        What gets into a file is read with `anyones` false: no symlink of another user is followed.
        """
        ...

    def names(self, directory: str) -> frozenset[str]:
        """What is in a directory; nothing where it cannot be read."""
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
    """Return the file of an entry, in the place of what is at `path` now. `mode` and `owner` are those that it had
    before, as far as the entry leaves them open.

    Raises WriteError where the present file cannot be read, or the entry names a user who does not exist.
    """
    most = spec.key_mode if is_secret(content) else _PUBLIC if spec.mode is None else spec.mode
    whose = owner_ids(spec.owner) if spec.owner else owner
    present = files.read(path)
    expected = None if present is None else digest(present)
    return NewFile(path, content, most if mode is None else mode & most, whose, expected, at_most=most, anew=True)


def linked(
    path: str, content: bytes, spec: CertificateSpec | None, files: View, now: datetime, *,
    owner: tuple[int, int] | None = None,
) -> list[Change]:  # fmt: skip
    """Return a new dated PEM of the kubelet, and its symlink `path` moved there, whatever is at that name now."""
    dated = kubelet_pem.successor(path, now, files.names(posixpath.dirname(path)))
    most, whose = (spec.key_mode, spec.owner) if spec else (0o600, None)
    present = files.read(path)
    return [
        NewFile(dated, content, most, owner_ids(whose) if whose else owner, at_most=most),
        NewLink(path, dated, expected=None if present is None else digest(present)),
    ]


def is_secret(content: bytes) -> bool:
    """Whether a private key is in it, or a part of one."""
    return any(mark in content for mark in _SECRET)


def damaged_name(name: str) -> str:
    """Return where the archive keeps the damaged files of an entry: apart, so that they push no generation out."""
    return f"{name[:54]}{_DAMAGED}"


def is_damaged_name(name: str) -> bool:
    """Return whether the archive has damaged files by this name."""
    return name.endswith(_DAMAGED)
