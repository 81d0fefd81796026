"""Listing of the CertificateSigningRequests with which the kubelet of one node requests its serving certificate.

A kubelet may list all requests (kubernetes/kubernetes, plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go,
NodeRules). The API selects by the signer, but not by the user (pkg/apis/certificates/v1/conversion.go).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC
from typing import Any

from lightkube import AsyncClient
from lightkube.resources.certificates_v1 import CertificateSigningRequest

from certmond.cluster.access import Access
from certmond.cluster.client import PAGE, Connection
from certmond.cluster.csr_signer import KUBELET_SERVING
from certmond.pki.services.serving_request import ServingRequest

_RULE = (
    "use the credentials of the kubelet (kubelet.conf), or grant a cluster role with apiGroups [certificates.k8s.io], "
    "resources [certificatesigningrequests], verbs [list]"
)


def serving_requests(access: Access, node: str) -> tuple[ServingRequest, ...]:
    """Return the requests that the kubelet of `node` has created. Raises RefusedError or UnreachableError."""

    async def work(connection: Connection) -> tuple[ServingRequest, ...]:
        doing = "list the CertificateSigningRequests"
        return tuple(await connection.listed(doing, _RULE, lambda: requests(connection.client)))

    async def requests(client: AsyncClient) -> AsyncIterator[ServingRequest]:
        selected = client.list(CertificateSigningRequest, fields={"spec.signerName": KUBELET_SERVING}, chunk_size=PAGE)
        async for each in selected:
            if each.spec.username == f"system:node:{node}":
                yield _request(each)

    return access.run(work)


def _request(found: Any) -> ServingRequest:
    status = found.status
    conditions = (status and status.conditions) or ()
    return ServingRequest(
        name=found.metadata.name,
        created_at=found.metadata.creationTimestamp.astimezone(UTC),
        conditions={each.type: each.message or each.reason or "" for each in conditions},
        issued=bool(status and status.certificate),
    )
