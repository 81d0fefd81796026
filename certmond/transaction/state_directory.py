"""Whether certmond's state directory is fit for use: changed by no other user, and written by no later version.

Owns both rules, and the format version of what certmond notes for the next process. What does not fit is refused as a
whole, by the name of the file, before anything is read from it or written: nothing is lost, and an older certmond does
not finish half of what a later one began. Writes nothing.
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
"""The format of the records that this certmond writes, and the latest that it reads. One without a number is 1."""

_USER = "certmond"
"""The user of the shipped unit that observes (systemd/certmond.sysusers): its state directory serves root's verbs."""
_DIRECTORIES = ("transactions", "rotation", "pending", "archive", "hooks")
_RECORDS = ("*.json", "rotation/*.json", "transactions/*.json", "hooks/*.json", "pending/*.for")
_LINES = ("renewals.log",)
_KEYS = ("rotation/*.key", "pending/*.key")
_MOST = 64 << 20
"""Bytes that are read of a file: what there is to remember of a hundred thousand certificates has room in it."""
_LARGE = 1 << 16  # bytes
_fit: dict[str, tuple[int, ...]] = {}
"""Of the large records that were fit for use, the status that they had."""


def versioned(content: Any) -> Any:
    """Return `content` with the version of its format: a document that names its version already stays as it is."""
    return content if _number(content) is not None else {"version": VERSION, "content": content}


def understood(document: Any, path: str) -> Any:
    """Return the content of a document that was read from `path`.

    Raises StateError where a later certmond has written it.
    """
    number = _number(document)
    if number is not None and number > VERSION:
        fact = f"{path} has the format version {number} of a later certmond, and this one reads {VERSION}"
        raise StateError(f"{fact}; install the later certmond again, or move the file away")
    return document["content"] if number is not None and document.keys() == {"version", "content"} else document


@contextmanager
def opened_state(path: Path) -> Iterator[int]:
    """Open a directory of the state. Raises StateError where another user can change it, OSError."""
    refuse_exposed(path)
    with opened(path) as directory:
        yield directory


def refuse_exposed(path: Path) -> None:
    """Raise StateError where another user can change the file or directory, or one on its way; OSError."""
    if why := exposure(str(path), owners=_owners()):
        raise StateError(f"{why}; until then certmond uses nothing in it (another place: --state-dir)")


def read_state(directory: int, path: Path, *, secret: bool = False) -> bytes:
    """Return the bytes of a file in a directory of the state.

    Raises StateError where another user can change it, or read it where it is `secret`; OSError.
    """
    place = Place(directory, path.name)
    status = place.status()
    regular = status if status is not None and stat.S_ISREG(status.st_mode) else None  # anything else is not read
    if regular and (why := exposed_file(str(path), regular, owners=_owners(), secret=secret)):
        raise StateError(f"{why}; until then certmond does not use it")
    return place.read(_MOST)


def refuse_unfit(state_dir: Path) -> None:
    """Raise StateError with the first thing that makes the state directory unfit for use.

    What is not there, or not for this process to look at, is passed over: it is not used either.
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
                with suppress(ValueError, RecursionError):  # a torn one
                    understood(json.loads(line), str(path))


def refuse_record(directory: int, path: Path) -> None:
    """Raise StateError where another user can change the record, or a later certmond has written it.

    Raises OSError, ValueError or RecursionError where it cannot be read. A large one is parsed again only when its
    status has changed, which a chmod changes as well.
    """
    status = Place(directory, path.name).status()
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
    """The users, besides root and the one that runs certmond, whose state root goes on with."""
    return _service() if os.geteuid() == 0 else frozenset()


@cache
def _service() -> frozenset[int]:
    """The user of the shipped unit, where this host has one. Asked once: a directory service may have to answer."""
    try:
        return frozenset({pwd.getpwnam(_USER).pw_uid})
    except KeyError:
        return frozenset()
