"""Facts as bytes, for the process that this one is a copy of, and back.

Owns which facts can be told so: those that are values, none of which has a private key in it. What both processes have
is told by its place in a list that both have. Bytes of anybody else are not unpacked: they would be carried out.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from certmond.pki.findings import Fault
from certmond.pki.x509.certificate import Certificate, PublicKey
from certmond.pki.x509.parsing import Document, held
from certmond.pki.x509.path_building import Path, PathSearch, Rejection


def _certificate(*values: Any) -> Certificate:
    """The one that is in memory, where it is."""
    return held(values[0], lambda: Certificate(*values))


_FACTS = (Certificate, PublicKey, Document, Fault, PathSearch, Path, Rejection)


def _maker(made: type[Any]) -> Callable[[Any], tuple[Callable[..., Any], tuple[Any, ...]]]:
    """How a fact is told: as what makes it, with what it was made of. pickle's own way for frozen classes with slots
    takes five times as long.
    """
    names = [each.name for each in fields(made) if each.init]
    make = _certificate if made is Certificate else made
    values = attrgetter(*names)
    return (lambda fact: (make, values(fact))) if len(names) > 1 else (lambda fact: (make, (values(fact),)))


class _Packer(pickle.Pickler):
    dispatch_table = {made: _maker(made) for made in _FACTS}  # noqa: RUF012 - the name and the kind that pickle wants


class _Sharing(_Packer):
    """It asks for a place of each of its thousand values, which takes as long as to write them."""

    def __init__(self, room: io.BytesIO, shared: Sequence[object]) -> None:
        super().__init__(room, pickle.HIGHEST_PROTOCOL)
        self._places = {id(each): place for place, each in enumerate(shared)}

    def persistent_id(self, fact: object) -> int | None:
        return self._places.get(id(fact))


class _Unpacker(pickle.Unpickler):
    def __init__(self, room: io.BytesIO, shared: Sequence[object]) -> None:
        super().__init__(room)
        self._shared = shared

    def persistent_load(self, place: int) -> object:
        return self._shared[place]


def pack(facts: object, shared: Sequence[object] = ()) -> bytes:
    """What `unpack` makes `facts` of, given a list with the same at the same places as `shared`."""
    room = io.BytesIO()
    (_Sharing(room, shared) if shared else _Packer(room, pickle.HIGHEST_PROTOCOL)).dump(facts)
    return room.getvalue()


def unpack(packed: bytes, shared: Sequence[object] = ()) -> Any:
    """The facts that were packed."""
    return _Unpacker(io.BytesIO(packed), shared).load()
