"""What a node has to know of a rotation from one process to the next: the record, and the anchors accepted so far.

Owns `<state directory>/rotation/record.json`, `first_aid.json` and `anchors.json`. All of it is public. Unlike what is
only a memory, a record that is there and cannot be read is not as if it were absent: a rotation that is forgotten
half-way would be the outage that it is to prevent. Whoever writes holds the lock of the transactions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from certmond.errors import MalformedError
from certmond.host.memory import Memory
from certmond.host.place import Place, blaming, opened
from certmond.host.staging import remove
from certmond.host.state_directory import VERSION, refuse_unfit
from certmond.pki.certificate import Anchor, to_pem
from certmond.pki.encoding import decode
from certmond.pki.fields import Instant
from certmond.pki.rotation import Mode, Phase, Rotation, flaw, forth

DIRECTORY = "rotation"
"""Below the state directory: where everything of a rotation is."""
_RECORD, _LAST, _CLOSED = "record.json", "last.json", "closed.json"
ANCHORS = "anchors.json"
"""The file of the state directory with the anchors that the node has lived by."""
_AIDS = "first_aid.json"
_REMEMBERED = 100
"""So many rotations are known as closed: more than the backup of any etcd reaches back."""


def record_path(state_dir: Path) -> Path:
    """Where the record is, for who wants to know that it has changed."""
    return (state_dir / DIRECTORY / _RECORD).absolute()


def _anchor(text: str) -> str:
    if len(decode(text.encode(), "").anchors) != 1:
        raise ValueError("is not one certificate or public key as PEM")
    return text


_Pem = Annotated[str, AfterValidator(_anchor)]


class _Entry(BaseModel):
    """The record in the file. What a later version adds is passed over."""

    model_config = ConfigDict(frozen=True)

    version: Annotated[int, Field(ge=1, le=VERSION, strict=True)] = VERSION
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    family: str
    mode: Mode
    old: Annotated[tuple[_Pem, ...], Field(min_length=1)]
    new: _Pem
    phase: Phase
    since: Instant
    aborted: bool = False
    found: bool = False
    excluded: tuple[str, ...] = ()
    published: Instant | None = None
    signature: str = ""
    released: Annotated[float, Field(ge=0, le=1)] = 0.0


class RotationRecord:
    """The rotation of this node, and the anchors that the node has lived by."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir, self._path = state_dir, record_path(state_dir)
        self._memory = Memory(state_dir / DIRECTORY, _RECORD, TypeAdapter(_Entry))
        self._last = Memory(state_dir / DIRECTORY, _LAST, TypeAdapter(_Entry))
        self._closed = Memory(state_dir / DIRECTORY, _CLOSED, TypeAdapter(tuple[str, ...]))
        self._aids = Memory(state_dir / DIRECTORY, _AIDS, TypeAdapter(dict[str, _Entry]))
        self._anchors = Memory(state_dir, ANCHORS, TypeAdapter(dict[str, tuple[_Pem, ...]]))

    def load(self) -> Rotation | None:
        """The rotation under way; None where there is none. Raises MalformedError where that cannot be told."""
        try:
            entry = self._memory.load()
        except MalformedError as error:
            if not os.access(self._path.parent, os.X_OK):
                return None  # who may not look there only shows what the node's files tell
            raise _unknown(str(error)) from None
        if entry is None:
            return None
        made = _rotation(entry)
        if why := flaw(made):
            raise _unknown(f"{self._path} cannot be understood ({why})")
        return made

    def check(self) -> None:
        """Raise StateError where another user can change the state directory, or a later certmond has written in it."""
        refuse_unfit(self._state_dir)

    def save(self, rotation: Rotation) -> None:
        """Note how far it is. Raises WriteError."""
        self._memory.write(_entry(rotation))

    def close(self, rotation: Rotation) -> None:
        """Note that it is over: its record becomes the last one. On the disk when this returns. Raises WriteError."""
        self.save(rotation)
        ids = dict.fromkeys((*(self._closed.read() or ()), forth(rotation.id), rotation.id))
        self._closed.write(tuple(ids)[-_REMEMBERED:])
        with blaming(str(self._path)), opened(self._path.parent) as directory:
            os.rename(_RECORD, _LAST, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)

    def closed(self) -> frozenset[str]:
        """The ids of the rotations that were closed, and of the way there of those that went back; a memory only."""
        entry = self._last.read()
        return frozenset((*(self._closed.read() or ()), *([entry.id, forth(entry.id)] if entry else ())))

    def anchors(self) -> dict[str, tuple[Anchor, ...]]:
        """The anchors that this node has lived by, by family; a memory only."""
        return {family: tuple(map(_parsed, texts)) for family, texts in (self._anchors.read() or {}).items()}

    def rotated(self, family: str) -> tuple[Anchor, ...]:
        """The anchors of the rotation under way and of the last one, where they are of this family; a memory only."""
        entries = (each for each in (self._memory.read(), self._last.read()) if each and each.family == family)
        return tuple(_parsed(text) for each in entries for text in (*each.old, each.new))

    def aids(self) -> dict[str, Rotation]:
        """Return the first aid that this node gives, by family (`pki.rotation_aid`); a memory only."""
        found = {family: _rotation(entry) for family, entry in (self._aids.read() or {}).items()}
        return {family: each for family, each in found.items() if not flaw(each)}

    def note_aids(self, aids: Mapping[str, Rotation]) -> None:
        """Remember these, and no others. On the disk when this returns. Raises WriteError."""
        if aids:
            self._aids.write({family: _entry(each) for family, each in aids.items()})
            return
        with blaming(str(self._path.parent / _AIDS)), opened(self._path.parent) as directory:
            remove(Place(directory, _AIDS))
            os.fsync(directory)

    def accept(self, anchors: Mapping[str, Sequence[Anchor]]) -> None:
        """Remember what the node lives by now. Raises WriteError."""
        self._anchors.write({family: tuple(map(_text, found)) for family, found in anchors.items()})


def _entry(rotation: Rotation) -> _Entry:
    return _Entry(
        id=rotation.id, family=rotation.family, mode=rotation.mode, old=tuple(map(_text, rotation.old)),
        new=_text(rotation.new), phase=rotation.phase, since=rotation.since, aborted=rotation.aborted,
        found=rotation.found, excluded=rotation.excluded, published=rotation.published,
        signature=rotation.signature, released=rotation.released,
    )  # fmt: skip


def _rotation(entry: _Entry) -> Rotation:
    return Rotation(
        entry.id, entry.family, entry.mode, tuple(map(_parsed, entry.old)), _parsed(entry.new), entry.phase,
        entry.since, entry.aborted, entry.found, entry.excluded, entry.published, entry.signature, entry.released,
    )  # fmt: skip


def _unknown(fact: str) -> MalformedError:
    remedy = "put it back from a backup, or take it away if no rotation is under way"
    return MalformedError(f"{fact}, so that nobody knows how far a rotation is; {remedy}")


def _text(anchor: Anchor) -> str:
    return to_pem(anchor).decode("ascii")


def _parsed(text: str) -> Anchor:
    return decode(text.encode(), "").anchors[0]
