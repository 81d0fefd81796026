"""Calls to the Kubernetes API for CertificateSigningRequests, and for the Node of this node.

This module checks the name and the uid of an object, and handles conflicts. The caller defines the content of a
request.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import field
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

from certmond.cluster.client import ConflictError, Connection, NotFoundError
from certmond.errors import UnreachableError
from certmond.immutable_class import immutable

_CONFLICTS = 5  # the number of attempts of client-go's retry.DefaultRetry
_RULES = {
    "create a CertificateSigningRequest": (
        "apiGroups [certificates.k8s.io], resources [certificatesigningrequests], verbs [create]"
    ),
    "read a CertificateSigningRequest": (
        "apiGroups [certificates.k8s.io], resources [certificatesigningrequests], verbs [get]"
    ),
    "approve a CertificateSigningRequest": (
        "apiGroups [certificates.k8s.io], resources [certificatesigningrequests/approval], verbs [update], and"
        " apiGroups [certificates.k8s.io], resources [signers], resourceNames [the signer], verbs [approve]"
    ),
    "delete a CertificateSigningRequest": (
        "apiGroups [certificates.k8s.io], resources [certificatesigningrequests], verbs [delete]"
    ),
    "read the Node": "apiGroups [''], resources [nodes], verbs [get]",
}
"""The RBAC rule that permits each call."""

T = TypeVar("T")


@immutable
class Filed:
    """A CertificateSigningRequest object.

    `request` and `certificate` are PEM. `certificate` is empty until the signer has issued the certificate.
    `conditions` contains the message of each condition, by its type.
    """

    name: str
    uid: str
    signer_name: str
    usages: frozenset[str]
    request: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    conditions: dict[str, str]


class Requests:
    """Calls to the Kubernetes API for CertificateSigningRequests.

    The method `addresses` reads a Node. Each call raises RefusedError if the API server forbids the call, and
    UnreachableError if a retry might succeed.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = connection.client

    async def create(
        self, name: str, request: bytes, signer_name: str, usages: tuple[str, ...], expiration_seconds: int
    ) -> Filed | None:
        """Create and return a request. Return None if a request of this name exists."""
        spec = CertificateSigningRequestSpec(
            request=base64.b64encode(request).decode("ascii"),
            signerName=signer_name,
            usages=list(usages),
            expirationSeconds=expiration_seconds,
        )
        made = CertificateSigningRequest(metadata=ObjectMeta(name=name), spec=spec)
        try:
            return await self._call(
                "create a CertificateSigningRequest", lambda: self._filed(self._client.create(made))
            )
        except ConflictError:
            return None

    async def read(self, name: str) -> Filed | None:
        """Return the request of this name, or None if the request does not exist."""
        try:
            return await self._call(
                "read a CertificateSigningRequest",
                lambda: self._filed(self._client.get(CertificateSigningRequest, name)),
            )
        except NotFoundError:
            return None

    async def approve(self, filed: Filed, reason: str, message: str, *, dry_run: bool = False) -> Filed | None:
        """Approve the request, unless it is already approved, denied or failed.

        Return the current state of the request, or None if another client deleted or replaced the request. If `dry_run`
        is True, only check the permission.
        """
        for _ in range(_CONFLICTS):
            try:
                return await self._call(
                    "approve a CertificateSigningRequest",
                    lambda: self._filed(self._approved(filed, reason, message, dry_run)),
                )
            except ConflictError:  # changed since it was read: read it again
                continue
            except NotFoundError:
                return None
        raise UnreachableError(
            f"the request {filed.name} changes too often for certmond to approve it; certmond tries again later"
        )

    async def delete(self, name: str) -> None:
        """Delete the request, if it exists."""
        with suppress(NotFoundError):
            await self._call(
                "delete a CertificateSigningRequest", lambda: self._client.delete(CertificateSigningRequest, name)
            )

    async def addresses(self, node_name: str) -> frozenset[str]:
        """Return the internal and external IP addresses of the Node, or an empty set if the Node does not exist."""
        try:
            node = await self._call("read the Node", lambda: self._client.get(Node, node_name))
        except NotFoundError:
            return frozenset()
        known = (node.status.addresses if node.status else None) or ()
        return frozenset(address.address for address in known if address.type in {"InternalIP", "ExternalIP"})

    async def _approved(self, filed: Filed, reason: str, message: str, dry_run: bool) -> Any:
        found = await self._client.get(CertificateSigningRequest, filed.name)
        if found.metadata is None or found.metadata.uid != filed.uid:
            raise NotFoundError
        status = found.status or CertificateSigningRequestStatus()
        if status.conditions:  # approved, denied or failed: all three are final
            return found
        now = datetime.now(UTC)
        condition = CertificateSigningRequestCondition(
            type="Approved", status="True", reason=reason, message=message, lastUpdateTime=now
        )
        approval = CertificateSigningRequest.Approval(
            metadata=found.metadata, spec=found.spec, status=CertificateSigningRequestStatus(conditions=[condition])
        )
        # The resource version in its metadata limits the change to the object that was read.
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
            # The API accepts only the status True for the conditions that it knows.
            conditions={each.type: each.message or each.reason or "" for each in status.conditions or ()},
        )

    async def _call(self, doing: str, call: Callable[[], Awaitable[T]]) -> T:
        return await self._connection.call(doing, f"grant this user a cluster role with {_RULES[doing]}", call)
