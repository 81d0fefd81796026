"""Serialization of facts between this process and its forked worker.

Owns the types of facts that the worker can send. None of them contains a private key. The worker sends an object that
both processes have as its index in a shared list. This process unpacks only the bytes of its worker, because pickle
executes code when it unpacks.
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
    """Return the equal certificate that is already in memory, or else a new one."""
    return held(values[0], lambda: Certificate(*values))


_FACTS = (Certificate, PublicKey, Document, Fault, PathSearch, Path, Rejection)


def _maker(made: type[Any]) -> Callable[[Any], tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Return the reducer of a fact: its constructor and the arguments.

    The default reducer of pickle for frozen classes with slots takes five times as long.
    """
    names = [each.name for each in fields(made) if each.init]
    make = _certificate if made is Certificate else made
    values = attrgetter(*names)
    return (lambda fact: (make, values(fact))) if len(names) > 1 else (lambda fact: (make, (values(fact),)))


class _Packer(pickle.Pickler):
    dispatch_table = {made: _maker(made) for made in _FACTS}  # noqa: RUF012 - pickle requires name and type


class _Sharing(_Packer):
    """Pickler with a shared list. The lookup of a thousand values takes as long as their pickling."""

    def __init__(self, buffer: io.BytesIO, shared: Sequence[object]) -> None:
        super().__init__(buffer, pickle.HIGHEST_PROTOCOL)
        self._indexes = {id(each): index for index, each in enumerate(shared)}

    def persistent_id(self, fact: object) -> int | None:
        return self._indexes.get(id(fact))


class _Unpacker(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, shared: Sequence[object]) -> None:
        super().__init__(buffer)
        self._shared = shared

    def persistent_load(self, index: int) -> object:
        return self._shared[index]


def pack(facts: object, shared: Sequence[object] = ()) -> bytes:
    """Return `facts` as bytes for `unpack`, which requires a list with the same objects in the order of `shared`."""
    buffer = io.BytesIO()
    (_Sharing(buffer, shared) if shared else _Packer(buffer, pickle.HIGHEST_PROTOCOL)).dump(facts)
    return buffer.getvalue()


def unpack(packed: bytes, shared: Sequence[object] = ()) -> Any:
    """Return the facts that `pack` has packed."""
    return _Unpacker(io.BytesIO(packed), shared).load()
