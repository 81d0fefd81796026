"""What a transaction remembers of itself, so that the next process can finish it or undo it.

Owns the records: one file for each transaction that is under way, with the paths and SHA-256 of what is written, never
with content. It is written once and complete; what was decided is in its name (`….intent.json`, `….commit.json`), so
that the decision is one rename, which needs no room on the disk. Knows nothing of the node's files.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from certmond.transaction.dirfd import Place, can_be_a_path
from certmond.transaction.state_directory import VERSION, understood
from certmond.transaction.temp_file import new_file, remove

_NAME = re.compile(r"([0-9a-f]{16})\.(intent|commit)\.json")


class State(StrEnum):
    """What was decided. Until COMMIT every trace is taken away again; from then on the new files are put in place."""

    INTENT = "intent"
    COMMIT = "commit"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name that is replaced: as it is called, and where that really is. `old`, `new`: what `Place.look` says; where
    the file is removed nothing is new. What is new waits under the name `staged`: beside the old, but for a `manifest`.
    """

    path: str
    real: str
    staged: str
    old: str | None
    new: str | None
    manifest: bool = False

    @property
    def staging(self) -> str:
        """Where it waits. A manifest does so above its directory: in there the kubelet would see it come and go."""
        directory = posixpath.dirname(self.real)
        return posixpath.join(posixpath.dirname(directory) if self.manifest else directory, self.staged)


@dataclass(frozen=True, slots=True)
class Record:
    """A transaction on the node below `root`, as seen from the records: what is copied or mounted elsewhere as a whole
    keeps it. None in a record of a version that did not note it.
    """

    id: str
    state: State
    entries: tuple[Entry, ...]
    root: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(entry.path for entry in self.entries)


class Records:
    """The records in one directory, whose open descriptor this is. One process at a time: the lock's holder."""

    def __init__(self, directory: int) -> None:
        self._directory = directory

    def write(self, record: Record) -> None:
        """Under another name first: what has the name of a record is complete."""
        draft = f".{record.id}"
        text = json.dumps(
            {"version": VERSION, "root": record.root, "entries": [asdict(entry) for entry in record.entries]}, indent=1
        )
        with new_file(Place(self._directory, draft), text.encode()):
            pass
        self._rename(draft, _name(record))

    def decide(self, record: Record) -> Record:
        """From here on it is to be finished."""
        decided = replace(record, state=State.COMMIT)
        self._rename(_name(record), _name(decided))
        return decided

    def take_back(self, record: Record) -> Record:
        """From here on it is to be undone, whether it was decided upon or not, or was never written."""
        undecided = replace(record, state=State.INTENT)
        with suppress(FileNotFoundError):
            self._rename(_name(replace(record, state=State.COMMIT)), _name(undecided))
        return undecided

    def remove(self, record: Record) -> None:
        remove(Place(self._directory, _name(record)))
        remove(Place(self._directory, f".{record.id}"))
        os.fsync(self._directory)

    def left(self) -> Iterator[Record | str]:
        """Every record that is there; of one that cannot be understood, the name under which it is kept aside."""
        for name in sorted(os.listdir(self._directory)):
            if name.startswith("."):  # it was being written: nothing had been done yet
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
    """Whether a file among the records is one: of a replacement that is under way, or was left half done."""
    return _NAME.fullmatch(name) is not None


def staged_name(identity: str, number: int) -> str:
    return f".certmond-{identity}-{number}"


def _name(record: Record) -> str:
    return f"{record.id}.{record.state}.json"


def _record(identity: str, state: State, content: bytes) -> Record:
    """Raises StateError for the record of a later certmond, and ValueError for whatever no transaction of this identity
    can have written: nothing else is ever removed.
    """
    try:
        document: Any = understood(json.loads(content), f"the record {identity} of a replacement")
        entries = tuple(Entry(**item) for item in document["entries"])
        root = None if document.get("root") is None else os.fspath(document["root"])
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError("it has not the fields of a record") from error
    for number, entry in enumerate(entries):
        texts = [entry.path, entry.real, *(text for text in (entry.old, entry.new) if text is not None)]
        typed = all(isinstance(text, str) for text in texts) and isinstance(entry.manifest, bool)
        if not typed or entry.staged != staged_name(identity, number):
            raise ValueError("it is not what was written")
        if not (can_be_a_path(entry.real) and can_be_a_path(entry.path)):
            raise ValueError("a path of it is none")
        if not entry.real.startswith("/") or not {"", ".", ".."}.isdisjoint(entry.real.split("/")[1:]):
            raise ValueError("a path of it leads elsewhere")
    return Record(identity, state, entries, root)
