"""The record of this node's rotation, and the accepted trust anchors, stored across processes.

An unreadable record is an error, because a rotation that ends in an intermediate phase would cause an outage.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from certmond.errors import MalformedError
from certmond.immutable_class import immutable
from certmond.pki.catalog.field_types import valid_name
from certmond.pki.instant import Instant
from certmond.pki.rotation.phases import Mode, Phase, Rotation, flaw, forth
from certmond.pki.x509.certificate import Anchor, to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.state.json_decoder import between
from certmond.state.json_file import Memory
from certmond.transaction.dirfd import Place, blaming, opened
from certmond.transaction.state_directory import VERSION, refuse_unfit
from certmond.transaction.temp_file import remove

DIRECTORY = "rotation"
"""The directory of a rotation, below the state directory."""
_RECORD, _LAST, _CLOSED = "record.json", "last.json", "closed.json"
ANCHORS = "anchors.json"
"""The file of the state directory with the trust anchors that the node has used."""
_INTERIMS = "interim_trust.json"
_MAX_CLOSED = 100
"""Maximum number of stored IDs of closed rotations. An old backup of etcd contains fewer rotations."""


def record_path(state_dir: Path) -> Path:
    """Return the path of the record, for callers that watch the record."""
    return (state_dir / DIRECTORY / _RECORD).absolute()


def _anchor(text: str) -> str:
    if len(decode(text.encode(), "").anchors) != 1:
        raise ValueError("is not exactly one certificate or public key in PEM")
    return text


def _not_empty(anchors: tuple[str, ...]) -> tuple[str, ...]:
    if not anchors:
        raise ValueError("must contain at least one CA or public key")
    return anchors


_Pem = Annotated[str, _anchor]
_Version = Annotated[int, between(1, VERSION)]
_Id = Annotated[str, valid_name]
_Share = Annotated[float, between(0, 1)]


@immutable(kw_only=True)
class _Entry:
    """The content of the record. The record may contain fields of a later version."""

    version: _Version = VERSION
    id: _Id
    family: str
    mode: Mode
    old: Annotated[tuple[_Pem, ...], _not_empty]
    new: _Pem
    phase: Phase
    since: Instant
    aborted: bool = False
    found: bool = False
    excluded: tuple[str, ...] = ()
    published: Instant | None = None
    signature: str = ""
    released: _Share = 0.0


class RotationRecord:
    """The rotation of this node, and the trust anchors that the node has used."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir, self._path = state_dir, record_path(state_dir)
        self._memory = Memory(state_dir / DIRECTORY, _RECORD, _Entry)
        self._last = Memory(state_dir / DIRECTORY, _LAST, _Entry)
        self._closed = Memory(state_dir / DIRECTORY, _CLOSED, tuple[str, ...])
        self._interims = Memory(state_dir / DIRECTORY, _INTERIMS, dict[str, _Entry])
        self._anchors = Memory(state_dir, ANCHORS, dict[str, tuple[_Pem, ...]])

    def load(self) -> Rotation | None:
        """Return the current rotation, or None if the record is missing or inaccessible.

        Raises MalformedError if the record is unusable. Raises StateError if an untrusted user can change the record,
        or if a later version of certmond has written the record.
        """
        try:
            entry = self._memory.load()
        except MalformedError as error:
            if not os.access(self._path.parent, os.X_OK):
                return None  # this user has no access to the directory, and uses only the node's files
            raise _unreadable(str(error)) from None
        if entry is None:
            return None
        made = _rotation(entry)
        if why := flaw(made):
            raise _unreadable(f"certmond cannot use {self._path} ({why})")
        return made

    def check(self) -> None:
        """Raise StateError if the state directory is unfit for use.

        The directory is unfit if an untrusted user can change it, or if a later version of certmond has written to it.
        """
        refuse_unfit(self._state_dir)

    def save(self, rotation: Rotation) -> None:
        """Store the rotation with its phase. Raises WriteError if the write fails."""
        self._memory.write(_entry(rotation))

    def close(self, rotation: Rotation) -> None:
        """Close the rotation: store its ID as closed, and rename its record to last.json.

        Raises WriteError if a write fails.
        """
        self.save(rotation)
        ids = dict.fromkeys((*(self._closed.read() or ()), forth(rotation.id), rotation.id))
        self._closed.write(tuple(ids)[-_MAX_CLOSED:])
        with blaming(str(self._path)), opened(self._path.parent) as directory:
            os.rename(_RECORD, _LAST, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)

    def closed(self) -> frozenset[str]:
        """Return the IDs of closed rotations. For an aborted rotation, also include its ID before the abort."""
        entry = self._last.read()
        return frozenset((*(self._closed.read() or ()), *([entry.id, forth(entry.id)] if entry else ())))

    def anchors(self) -> dict[str, tuple[Anchor, ...]]:
        """Return the trust anchors that this node has used, by the name of the CA entry."""
        return {family: tuple(map(_parsed, texts)) for family, texts in (self._anchors.read() or {}).items()}

    def rotated(self, family: str) -> tuple[Anchor, ...]:
        """Return the trust anchors of the current and the last rotation of the CA entry `family`."""
        entries = (each for each in (self._memory.read(), self._last.read()) if each and each.family == family)
        return tuple(_parsed(text) for each in entries for text in (*each.old, each.new))

    def interims(self) -> dict[str, Rotation]:
        """Return the interim trust of this node (docs/rotation.md) as rotations, by the name of the CA entry.

        Omit invalid rotations.
        """
        found = {family: _rotation(entry) for family, entry in (self._interims.read() or {}).items()}
        return {family: each for family, each in found.items() if not flaw(each)}

    def note_interims(self, interims: Mapping[str, Rotation]) -> None:
        """Store the interim trust of this node, or remove the record if `interims` is empty.

        Raises WriteError if the write fails.
        """
        if interims:
            self._interims.write({family: _entry(each) for family, each in interims.items()})
            return
        with blaming(str(self._path.parent / _INTERIMS)), opened(self._path.parent) as directory:
            remove(Place(directory, _INTERIMS))
            os.fsync(directory)

    def accept(self, anchors: Mapping[str, Sequence[Anchor]]) -> None:
        """Store the trust anchors that the node uses now, by the name of the CA entry.

        Raises WriteError if the write fails.
        """
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


def _unreadable(fact: str) -> MalformedError:
    remedy = "restore the file from a backup, or remove the file if no rotation is in progress"
    return MalformedError(f"{fact}, so the phase of a rotation is unknown; {remedy}")


def _text(anchor: Anchor) -> str:
    return to_pem(anchor).decode("ascii")


def _parsed(text: str) -> Anchor:
    return decode(text.encode(), "").anchors[0]
