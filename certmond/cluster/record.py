"""The public record of a rotation, as a value and as JSON.

This module defines the schema of the record, which never contains a secret. `record_api` stores the record.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from certmond.errors import MalformedError
from certmond.pki.catalog.field_types import Instant
from certmond.pki.findings import printable
from certmond.pki.x509.certificate import Anchor
from certmond.pki.x509.certificate_file_parser import Document, decode

SCHEMA = 1
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


_Pem = Annotated[str, AfterValidator(_public)]
_Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
_Signature = Annotated[str, Field(pattern=r"^(x509:[A-Za-z0-9+/]{1,8000}|[A-Za-z0-9+/]{0,2000})={0,2}$")]
_Share = Annotated[float, Field(ge=0, le=1)]
_NodeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,252}$")]


class ClusterRecord(BaseModel):
    """The record of a rotation. certmond ignores fields of a later version of certmond.

    `old` and `new` contain the CAs as PEM. In a rotation of `sa`, these fields contain the public keys for
    service-account tokens as PEM. `published` is as in `pki.rotation.phases.Rotation`. `signature` is the signature of
    the old CA on the statement of `pki.rotation.authorization`, or the certificate that authorizes the rotation of an
    external CA. A worker may act if its place (`worker_batches`) is below `released`.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        validate_by_name=True,
        validate_by_alias=True,
    )

    version: Literal[1] = Field(default=1, alias="schema")
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

    @model_validator(mode="after")
    def _refuse_secrets(self) -> Self:
        if _NEVER in repr(self):
            raise ValueError(_REFUSED)
        return self

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
        return self.model_dump_json(by_alias=True, indent=1)


def parse(text: str, where: str) -> ClusterRecord:
    """Return the record in `text`.

    Raises MalformedError if `text` is not a valid record. The message names the source `where`, and never quotes the
    text.
    """
    if _NEVER in text:  # also in an ignored field, because its author must correct it
        raise _invalid(where, _REFUSED)
    try:
        return ClusterRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        at, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        if at == "schema":
            fact = (
                f"contains a record with a schema that this version of certmond does not support (supported: {SCHEMA})"
            )
            raise MalformedError(
                f"{where} {fact}; upgrade certmond on this node to the version that wrote the record"
            ) from None
        detail = printable(f"{at} {message}" if at else message)[:200]
        raise _invalid(where, detail) from None


def _invalid(where: str, detail: str) -> MalformedError:
    remedy = f"find the client that wrote the record; if no rotation is in progress, run: {DELETE_RECORD}"
    return MalformedError(f"{where} contains an invalid record ({detail}); {remedy}")


def _read(pem: str) -> Document:
    return decode(pem.encode(), "it")
