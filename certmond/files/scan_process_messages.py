"""Serialization of facts between this process and its forked worker.

Owns which facts can be sent: values, of which none has a private key. Objects that both processes have are sent as
their index in a shared list. Only bytes of the worker are unpacked, because pickle executes what it unpacks.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from certmond.pki.findings import Fault
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.parsing import Document, held
from certmond.pki.x509.path_building import Path, PathSearch, Rejection
from certmond.pki.x509.public_key import PublicKey


def _certificate(*values: Any) -> Certificate:
    """Return the equal certificate that is in memory, if there is one."""
    return held(values[0], lambda: Certificate(*values))


_FACTS = (Certificate, PublicKey, Document, Fault, PathSearch, Path, Rejection)


def _maker(made: type[Any]) -> Callable[[Any], tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Return how to pickle a fact: its constructor and the arguments. The default of pickle for frozen classes with
    slots takes five times as long.
    """
    names = [each.name for each in fields(made) if each.init]
    make = _certificate if made is Certificate else made
    values = attrgetter(*names)
    return (lambda fact: (make, values(fact))) if len(names) > 1 else (lambda fact: (make, (values(fact),)))


class _Packer(pickle.Pickler):
    dispatch_table = {made: _maker(made) for made in _FACTS}  # noqa: RUF012 - pickle requires name and type


class _Sharing(_Packer):
    """Pickler with a shared list. To look up each of a thousand values takes as long as to write them."""

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
    """Return `facts` as bytes for `unpack`, which needs a list with the same objects in the same order as `shared`."""
    room = io.BytesIO()
    (_Sharing(room, shared) if shared else _Packer(room, pickle.HIGHEST_PROTOCOL)).dump(facts)
    return room.getvalue()


def unpack(packed: bytes, shared: Sequence[object] = ()) -> Any:
    """Return the facts that were packed."""
    return _Unpacker(io.BytesIO(packed), shared).load()
