"""Serialization of the facts that a forked worker sends to this process.

This process deserializes only bytes from its own worker, because pickle can execute code during deserialization. No
fact contains a private key.
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
from certmond.pki.x509.certificate_file_parser import Document, held
from certmond.pki.x509.path_building import Path, PathSearch, Rejection
from certmond.pki.x509.public_key import PublicKey


def _certificate(*values: Any) -> Certificate:
    """Return the certificate of a CA with these values that is already in memory, or else a new certificate."""
    return held(values[0], lambda: Certificate(*values))


_FACTS = (Certificate, PublicKey, Document, Fault, PathSearch, Path, Rejection)


def _maker(made: type[Any]) -> Callable[[Any], tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Return a function that reduces an object of the class `made` for pickle.

    For classes with slots, the default function of pickle takes three times as long.
    """
    names = [each.name for each in fields(made) if each.init]
    make = _certificate if made is Certificate else made
    values = attrgetter(*names)
    return (lambda fact: (make, values(fact))) if len(names) > 1 else (lambda fact: (make, (values(fact),)))


class _Packer(pickle.Pickler):
    dispatch_table = {made: _maker(made) for made in _FACTS}  # noqa: RUF012 - pickle requires name and type


class _Sharing(_Packer):
    """Pickler that replaces each object of the list `shared` with the index of the object.

    If there is no shared list, `_Packer` is faster.
    """

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
    """Return `facts` as bytes for `unpack`. The call of `unpack` must have the same objects in `shared`."""
    buffer = io.BytesIO()
    (_Sharing(buffer, shared) if shared else _Packer(buffer, pickle.HIGHEST_PROTOCOL)).dump(facts)
    return buffer.getvalue()


def unpack(packed: bytes, shared: Sequence[object] = ()) -> Any:
    """Return the facts that `pack` has serialized as `packed`."""
    return _Unpacker(io.BytesIO(packed), shared).load()
