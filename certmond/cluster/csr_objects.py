"""CertificateSigningRequests of certificates.k8s.io/v1, and this Node, as the Kubernetes API has them.

Owns the bookkeeping of the API's objects: names, uids, resource versions, conflicts. What is asked for, and what an
answer means, is the caller's.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from lightkube.models.certificates_v1 import (
    CertificateSigningRequestCondition,
    CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
)
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.certificates_v1 import CertificateSigningRequest
from lightkube.resources.core_v1 import Node

from certmond.cluster.client import Connection, GoneError, TakenError
from certmond.errors import UnreachableError

_CONFLICTS = 5  # as many times as client-go's retry.DefaultRetry tries
_RULES = {
    "create": "resources [certificatesigningrequests], verbs [create]",
    "read": "resources [certificatesigningrequests], verbs [get]",
    "approve": "resources [certificatesigningrequests/approval], verbs [update], and for resources [signers] with the"
    " signer's name, verbs [approve]",
    "delete": "resources [certificatesigningrequests], verbs [delete]",
    "read the Node": "resources [nodes], verbs [get], in apiGroups ['']",
}
"""What a cluster role has to permit for each of the calls, in apiGroups [certificates.k8s.io] where not said."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Filed:
    """A CertificateSigningRequest as the API has it: PEM, and its conditions with their messages."""

    name: str
    uid: str
    signer_name: str
    usages: frozenset[str]
    request: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    conditions: dict[str, str]


class Requests:
    """Each call raises RefusedError where the API server forbids it, UnreachableError where asking later may help."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = connection.client

    async def create(
        self, name: str, request: bytes, signer_name: str, usages: tuple[str, ...], expiration_seconds: int
    ) -> Filed | None:
        """File a request; None where the name is taken."""
        spec = CertificateSigningRequestSpec(
            request=base64.b64encode(request).decode("ascii"),
            signerName=signer_name,
            usages=list(usages),
            expirationSeconds=expiration_seconds,
        )
        made = CertificateSigningRequest(metadata=ObjectMeta(name=name), spec=spec)
        try:
            return await self._call("create", lambda: self._filed(self._client.create(made)))
        except TakenError:
            return None

    async def read(self, name: str) -> Filed | None:
        """The request of this name; None where there is none."""
        try:
            return await self._call("read", lambda: self._filed(self._client.get(CertificateSigningRequest, name)))
        except GoneError:
            return None

    async def approve(self, filed: Filed, reason: str, message: str, *, dry_run: bool = False) -> Filed | None:
        """Approve exactly this request, unless it is decided already; None where it is not there any more. A `dry_run`
        only asks whether that would be permitted.
        """
        for _ in range(_CONFLICTS):
            try:
                return await self._call("approve", lambda: self._filed(self._approved(filed, reason, message, dry_run)))
            except TakenError:  # somebody changed it since it was read: it is read again
                continue
            except GoneError:
                return None
        raise UnreachableError(f"{filed.name} is being changed all the time; certmond approves it later")

    async def delete(self, name: str) -> None:
        """The request is not there afterwards, whoever took it away."""
        with suppress(GoneError):
            await self._call("delete", lambda: self._client.delete(CertificateSigningRequest, name))

    async def addresses(self, node_name: str) -> frozenset[str]:
        """The IP addresses that the cluster knows this Node by."""
        try:
            node = await self._call("read the Node", lambda: self._client.get(Node, node_name))
        except GoneError:
            return frozenset()
        known = (node.status.addresses if node.status else None) or ()
        return frozenset(address.address for address in known if address.type in {"InternalIP", "ExternalIP"})

    async def _approved(self, filed: Filed, reason: str, message: str, dry_run: bool) -> Any:
        found = await self._client.get(CertificateSigningRequest, filed.name)
        if found.metadata is None or found.metadata.uid != filed.uid:
            raise GoneError
        status = found.status or CertificateSigningRequestStatus()
        if status.conditions:  # approved, denied or failed: none of these is ever taken back
            return found
        now = datetime.now(UTC)
        condition = CertificateSigningRequestCondition(
            type="Approved", status="True", reason=reason, message=message, lastUpdateTime=now
        )
        approval = CertificateSigningRequest.Approval(
            metadata=found.metadata, spec=found.spec, status=CertificateSigningRequestStatus(conditions=[condition])
        )
        # The resource version in its metadata makes this a change of what was just read, and of nothing else.
        return await self._client.replace(approval, filed.name, dry_run=dry_run)

    @staticmethod
    async def _filed(answer: Awaitable[Any]) -> Filed:
        found = await answer
        status = found.status or CertificateSigningRequestStatus()
        return Filed(
            name=found.metadata.name,
            uid=found.metadata.uid,
            signer_name=found.spec.signerName,
            usages=frozenset(found.spec.usages or ()),
            request=base64.b64decode(found.spec.request),
            certificate=base64.b64decode(status.certificate or ""),
            # The API takes no other status than True for the conditions that it knows.
            conditions={each.type: each.message or each.reason or "" for each in status.conditions or ()},
        )

    async def _call(self, doing: str, call: Callable[[], Awaitable[T]]) -> T:
        return await self._connection.call(doing, f"a cluster role of its user has to have {_RULES[doing]}", call)
