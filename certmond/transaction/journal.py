"""Records of transactions on the disk. From a record, the next process completes or reverts the transaction.

The name of a record contains the state of the transaction, so that the decision is one rename, which needs no space on
the disk.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from enum import StrEnum
from typing import Any

from certmond.immutable_class import immutable
from certmond.transaction.dirfd import Place, can_be_a_path
from certmond.transaction.state_directory import VERSION, understood
from certmond.transaction.temp_file import new_file, remove

_NAME = re.compile(r"([0-9a-f]{16})\.(intent|commit)\.json")


class State(StrEnum):
    """State of a transaction. INTENT: recovery removes every staged file. COMMIT: recovery renames the new files."""

    INTENT = "intent"
    COMMIT = "commit"


@immutable
class Entry:
    """One file of a transaction. `path` is the path in the change, and `real` is this path without symlinks.

    `old` and `new` are results of `Place.fingerprint`. `new` is None for a removal.
    """

    path: str
    real: str
    staged: str
    old: str | None
    new: str | None
    manifest: bool = False

    @property
    def staging(self) -> str:
        """The path of the staged file, beside the old file or, for a manifest, in the parent directory.

        The kubelet would start a Pod from a file beside the manifest.
        """
        directory = posixpath.dirname(self.real)
        return posixpath.join(posixpath.dirname(directory) if self.manifest else directory, self.staged)


@immutable
class Record:
    """A transaction. `root` is its root directory, relative to the directory of the records.

    `root` is None in a record of an old version.
    """

    id: str
    state: State
    entries: tuple[Entry, ...]
    root: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(entry.path for entry in self.entries)


class Records:
    """The records in the directory with this descriptor, for the holder of the lock of all writers."""

    def __init__(self, directory: int) -> None:
        self._directory = directory

    def write(self, record: Record) -> None:
        """Write the record under a temporary name, then rename the file, so that each record is complete."""
        draft = f".{record.id}"
        text = json.dumps(
            {"version": VERSION, "root": record.root, "entries": [asdict(entry) for entry in record.entries]}, indent=1
        )
        with new_file(Place(self._directory, draft), text.encode()):
            pass
        self._rename(draft, _name(record))

    def decide(self, record: Record) -> Record:
        """Decide the transaction, so that recovery completes the transaction. Return the decided record."""
        decided = replace(record, state=State.COMMIT)
        self._rename(_name(record), _name(decided))
        return decided

    def revoke(self, record: Record) -> Record:
        """Revoke the decision, so that recovery reverts the transaction. Return the record without the decision."""
        undecided = replace(record, state=State.INTENT)
        with suppress(FileNotFoundError):
            self._rename(_name(replace(record, state=State.COMMIT)), _name(undecided))
        return undecided

    def remove(self, record: Record) -> None:
        remove(Place(self._directory, _name(record)))
        remove(Place(self._directory, f".{record.id}"))
        os.fsync(self._directory)

    def left(self) -> Iterator[Record | str]:
        """Yield every record. Rename a record that certmond cannot parse, and yield its new name.

        Remove incomplete records. Raises StateError for the record of a later version of certmond.
        """
        for name in sorted(os.listdir(self._directory)):
            if name.startswith("."):  # an incomplete record, whose transaction has staged no file
                remove(Place(self._directory, name))
            elif found := _NAME.fullmatch(name):
                try:
                    content = Place(self._directory, name).read()
                    yield _record(found[1], State(found[2]), content)
                except ValueError:
                    self._rename(name, f"{name}.damaged")
                    yield f"{name}.damaged"

    def _rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.fsync(self._directory)


def is_record(name: str) -> bool:
    """Return whether `name` is the name of the record of an unfinished transaction."""
    return _NAME.fullmatch(name) is not None


def staged_name(identity: str, number: int) -> str:
    return f".certmond-{identity}-{number}"


def _name(record: Record) -> str:
    return f"{record.id}.{record.state}.json"


def _record(identity: str, state: State, content: bytes) -> Record:
    """Return the parsed record. Raises StateError for the record of a later version of certmond.

    Raises ValueError for content that certmond cannot have written, so that recovery removes only files of certmond.
    """
    try:
        document: Any = understood(json.loads(content), f"the record {identity} of a replacement")
        entries = tuple(Entry(**item) for item in document["entries"])
        root = None if document.get("root") is None else os.fspath(document["root"])
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError("it does not have the fields of a record") from error
    for number, entry in enumerate(entries):
        texts = [entry.path, entry.real, *(text for text in (entry.old, entry.new) if text is not None)]
        typed = all(isinstance(text, str) for text in texts) and isinstance(entry.manifest, bool)
        if not typed or entry.staged != staged_name(identity, number):
            raise ValueError("certmond has not written it")
        if not (can_be_a_path(entry.real) and can_be_a_path(entry.path)):
            raise ValueError("it has an invalid path")
        if not entry.real.startswith("/") or not {"", ".", ".."}.isdisjoint(entry.real.split("/")[1:]):
            raise ValueError("it has a path that is not absolute and normalized")
    return Record(identity, state, entries, root)
