"""The public record of a rotation, as a value and as JSON.

This module defines the schema of the record, which never contains a secret. `record_api` stores the record.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Final, Literal, get_type_hints

from certmond.errors import MalformedError
from certmond.immutable_class import immutable
from certmond.pki.catalog.field_types import valid_name
from certmond.pki.findings import printable
from certmond.pki.instant import Instant
from certmond.pki.x509.certificate import Anchor
from certmond.pki.x509.certificate_file_parser import Document, decode
from certmond.state.json_decoder import between, decoded, encoded, matching

SCHEMA: Final = 1
DELETE_RECORD = "kubectl -n kube-system delete configmap certmond-rotation"
"""Command that deletes a wrong record from the cluster."""
_NEVER, _REFUSED = "PRIVATE KEY", "contains a private key, which must never be in a record"


def _public(pem: str) -> str:
    """Return `pem`. Raises ValueError if `pem` contains anything except certificates and public keys."""
    found = decode(pem.encode(), "it")
    holds_private = found.key or found.encrypted_key
    if found.faults or not found.pem or holds_private or not found.anchors:
        raise ValueError("does not consist only of certificates or public keys in PEM")
    return pem


_Pem = Annotated[str, _public]
_Identifier = Annotated[str, valid_name]
_Signature = Annotated[
    str, matching("(x509:[A-Za-z0-9+/]{1,8000}|[A-Za-z0-9+/]{0,2000})={0,2}", "must be a signature in base64")
]
_Share = Annotated[float, between(0, 1)]
_NodeName = Annotated[str, matching("[a-z0-9][a-z0-9.-]{0,252}", "must be the name of a node")]


@immutable(kw_only=True)
class ClusterRecord:
    """The record of a rotation. certmond ignores fields of a later version of certmond.

    `old` and `new` contain the CAs as PEM. In a rotation of `sa`, these fields contain the public keys for
    service-account tokens as PEM. `published` is as in `pki.rotation.phases.Rotation`. `signature` is the signature of
    the old CA on the statement of `pki.rotation.authorization`, or the certificate that authorizes the rotation of an
    external CA. A worker may act if its place (`worker_batches`) is below `released`.
    """

    schema: Literal[1] = SCHEMA
    id: _Identifier
    family: _Identifier
    mode: _Identifier
    phase: _Identifier
    since: Instant
    old: tuple[_Pem, ...] = ()
    new: _Pem
    excluded: tuple[_NodeName, ...] = ()
    aborted: bool = False
    coordinator: _NodeName
    published: Instant | None = None
    signature: _Signature = ""
    released: _Share = 0.0

    def __post_init__(self) -> None:
        if _NEVER in repr(self):
            raise ValueError(_REFUSED)

    @property
    def old_anchors(self) -> tuple[Anchor, ...]:
        """The old CAs or public keys, in the order of the record."""
        return tuple(each for pem in self.old for each in _read(pem).anchors)

    @property
    def new_anchors(self) -> tuple[Anchor, ...]:
        """The new CAs or public keys. A valid record contains exactly one new CA or public key."""
        return _read(self.new).anchors

    def text(self) -> str:
        """Return the record as JSON."""
        return json.dumps(encoded(self), indent=1, default=_text)

    def invalid_fields(self) -> tuple[str, ...]:
        """Return the names of the fields whose value is invalid in a record."""
        return tuple(name for name, kind in _types().items() if not _is_valid(getattr(self, name), kind))


def parse(text: str, where: str) -> ClusterRecord:
    """Return the record in `text`.

    Raises MalformedError if `text` is not a valid record. The message names the source `where`, and never quotes the
    text.
    """
    if _NEVER in text:  # also in an ignored field, because its author must correct it
        raise _invalid(where, _REFUSED)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _invalid(where, "it is not JSON") from None
    try:
        return decoded(document, ClusterRecord)
    except ValueError as error:
        if str(error).startswith("schema "):
            fact = (
                f"contains a record with a schema that this version of certmond does not support (supported: {SCHEMA})"
            )
            raise MalformedError(
                f"{where} {fact}; upgrade certmond on this node to the version that wrote the record"
            ) from None
        raise _invalid(where, printable(str(error))[:200]) from None


def _invalid(where: str, detail: str) -> MalformedError:
    remedy = f"find the client that wrote the record; if no rotation is in progress, run: {DELETE_RECORD}"
    return MalformedError(f"{where} contains an invalid record ({detail}); {remedy}")


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(ClusterRecord, include_extras=True)


def _is_valid(value: Any, kind: Any) -> bool:
    try:
        decoded(json.loads(json.dumps(value, default=encoded)), kind)
    except ValueError:
        return False
    return True


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read(pem: str) -> Document:
    return decode(pem.encode(), "it")
