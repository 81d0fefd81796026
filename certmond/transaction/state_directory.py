"""Access to the state directory, with checks that the directory is fit for use.

The directory is fit if no untrusted user can change it, and no later version of certmond has written to it.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from certmond.errors import StateError
from certmond.path_trust import exposed_file, exposure
from certmond.transaction.dirfd import Place, opened

VERSION = 1
"""Latest version of the record format. A record without a version has version 1."""

_USER = "certmond"
"""User of the packaged unit in observe mode (certmond.sysusers). Commands that root runs use this user's directory."""
_DIRECTORIES = ("transactions", "rotation", "pending", "archive", "hooks")
_RECORDS = ("*.json", "rotation/*.json", "transactions/*.json", "hooks/*.json", "pending/*.for")
_LINES = ("renewals.log",)
_KEYS = ("rotation/*.key", "pending/*.key")
_MOST = 64 << 20
"""Maximum number of bytes to read from a file, enough for a hundred thousand certificates."""
_LARGE = 1 << 16  # bytes
_fit: dict[str, tuple[int, ...]] = {}
"""The status of each large record at its last successful check."""


def interrupted_transactions(state_dir: Path) -> frozenset[str]:
    """Return the names of the journal files of interrupted transactions."""
    with suppress(OSError):
        return frozenset(name for name in os.listdir(state_dir / "transactions") if name.endswith(".json"))
    return frozenset()


def versioned(content: Any) -> Any:
    """Return `content` with the version of its format, unless it already has a version."""
    return content if _number(content) is not None else {"version": VERSION, "content": content}


def understood(document: Any, path: str) -> Any:
    """Return the content of a document that was read from `path`.

    Raises StateError if a later version of certmond has written the document.
    """
    number = _number(document)
    if number is not None and number > VERSION:
        fact = (
            f"{path} has the format version {number} of a later version of certmond, but this version reads only "
            f"{VERSION}"
        )
        raise StateError(f"{fact}; install the later version again, or move the file away")
    return document["content"] if number is not None and document.keys() == {"version", "content"} else document


@contextmanager
def opened_state(path: Path) -> Iterator[int]:
    """Open a directory of the state, and yield its descriptor.

    Raises StateError if an untrusted user can change the directory, and OSError if the open fails.
    """
    refuse_exposed(path)
    with opened(path) as directory:
        yield directory


def refuse_exposed(path: Path) -> None:
    """Raise StateError if an untrusted user can change the file or directory, or one of its parents.

    Raises OSError if a part of the path is missing or unreadable.
    """
    if why := exposure(str(path), owners=_owners()):
        if os.geteuid() and os.lstat(path).st_uid in _service():
            raise StateError(f"{path} belongs to user {_USER}; run certmond as root, or give --state-dir")
        raise StateError(
            f"{why}; until then, certmond does not use the directory; to use another directory, give --state-dir"
        )


def read_state(directory: int, path: Path, *, secret: bool = False) -> bytes:
    """Return the content of a file in a directory of the state.

    Raises StateError if an untrusted user can change the file, or read a `secret` file. Raises OSError if the read
    fails.
    """
    place = Place(directory, path.name)
    status = place.status()
    regular = status if status is not None and stat.S_ISREG(status.st_mode) else None  # certmond reads no other type
    if regular and (why := exposed_file(str(path), regular, owners=_owners(), secret=secret)):
        raise StateError(f"{why}; until then, certmond does not use the file")
    return place.read(_MOST)


def refuse_unfit(state_dir: Path) -> None:
    """Raise StateError with the first reason for which the state directory is unfit for use.

    Skip files that this process cannot read, because certmond does not use them.
    """
    for directory in (state_dir, *(state_dir / name for name in _DIRECTORIES)):
        with suppress(OSError):
            refuse_exposed(directory)
    for path in _found(state_dir, _KEYS):
        with suppress(OSError), opened(path.parent) as parent:
            read_state(parent, path, secret=True)
    for path in _found(state_dir, _RECORDS):
        with suppress(OSError, ValueError, RecursionError), opened(path.parent) as parent:
            refuse_record(parent, path)
    for path in _found(state_dir, _LINES):
        with suppress(OSError), opened(path.parent) as parent:
            for line in read_state(parent, path).splitlines():
                with suppress(ValueError, RecursionError):  # an incomplete line
                    understood(json.loads(line), str(path))


def refuse_record(directory: int, path: Path) -> None:
    """Raise StateError if an untrusted user can change the record, or if a later version of certmond has written it.

    Raises OSError, ValueError or RecursionError if the record is unreadable.
    """
    status = Place(directory, path.name).status()
    # Parse a large record again only after a change of its status, such as a new mtime or mode.
    signature = status and (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if signature is None or _fit.get(str(path)) != signature:
        understood(json.loads(read_state(directory, path)), str(path))
        if signature and signature[2] > _LARGE:
            _fit[str(path)] = signature


def _found(state_dir: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        with suppress(OSError):
            yield from sorted(path for path in state_dir.glob(pattern) if not path.name.startswith("."))


def _number(document: Any) -> int | None:
    number = document.get("version") if isinstance(document, Mapping) else None
    return number if type(number) is int else None


def _owners() -> frozenset[int]:
    """Return the users, except root and the user of this process, whose state directory certmond may use."""
    return _service() if os.geteuid() == 0 else frozenset()


@cache
def _service() -> frozenset[int]:
    """Return the uid of the packaged unit's user, if any. A cache avoids repeated queries of a directory service."""
    try:
        return frozenset({pwd.getpwnam(_USER).pw_uid})
    except KeyError:
        return frozenset()
