"""Listing of the CertificateSigningRequests with which the kubelet of one node requests its serving certificate.

A kubelet may list all requests (kubernetes/kubernetes, plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go,
NodeRules). The API server can select requests by signer, but not by user (pkg/apis/certificates/v1/conversion.go).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC
from typing import Any

from lightkube import AsyncClient
from lightkube.resources.certificates_v1 import CertificateSigningRequest

from certmond.cluster.api_access import Access
from certmond.cluster.client import PAGE, Connection
from certmond.cluster.csr_signer import KUBELET_SERVING
from certmond.errors import RefusedError
from certmond.pki.services.serving_request_state import ServingRequest

_MAX_REQUESTS = 20 * PAGE
"""The maximum number of requests of all nodes.

kube-controller-manager deletes old requests (pkg/controller/certificates/cleaner/cleaner.go).
"""

_RULE = (
    "use the credentials of the kubelet (kubelet.conf), or grant this user a cluster role with apiGroups "
    "[certificates.k8s.io], resources [certificatesigningrequests], verbs [list]"
)


def serving_requests(access: Access, node: str) -> tuple[ServingRequest, ...]:
    """Return the requests that the kubelet of `node` has created.

    The list takes at most the time limit of `access`, and certmond repeats no request. Raises RefusedError or
    UnreachableError if the call fails, and RefusedError if the cluster has too many requests.
    """

    async def work(connection: Connection) -> tuple[ServingRequest, ...]:
        doing = "list the CertificateSigningRequests"
        return tuple(await connection.listed(doing, _RULE, lambda: requests(connection.client), once=True))

    async def requests(client: AsyncClient) -> AsyncIterator[ServingRequest]:
        selected = client.list(CertificateSigningRequest, fields={"spec.signerName": KUBELET_SERVING}, chunk_size=PAGE)
        count = 0
        async for each in selected:
            count += 1
            if count > _MAX_REQUESTS:
                fact = f"the cluster has more than {_MAX_REQUESTS} CertificateSigningRequests to {KUBELET_SERVING}"
                raise RefusedError(
                    f"{fact}, more than certmond reads; find the client that creates these requests: kubectl get csr"
                )
            if each.spec.username == f"system:node:{node}":
                yield _request(each)

    return access.run(work)


def _request(found: Any) -> ServingRequest:
    status, name = found.status, found.metadata.name
    if not name or not name.isprintable():
        raise ValueError(name)  # not from a Kubernetes API
    conditions = (status and status.conditions) or ()
    return ServingRequest(
        name=name,
        created_at=found.metadata.creationTimestamp.astimezone(UTC),
        conditions={each.type: each.message or each.reason or "" for each in conditions},
        issued=bool(status and status.certificate),
    )
