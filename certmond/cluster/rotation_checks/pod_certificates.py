"""Search for Pods with client certificates that a signer of Kubernetes might have signed with the Root CA.

The kubelet obtains such a certificate with a PodCertificateRequest for a projected volume with the source
`podCertificate`. kube-controller-manager deletes a request within minutes (kubernetes/kubernetes,
pkg/controller/certificates/cleaner/pcrcleaner.go). Therefore, this module searches for the volumes.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from datetime import timedelta
from typing import Any

from lightkube.resources.core_v1 import Pod

from certmond.cluster.api_access import Access
from certmond.cluster.client import PAGE, Connection
from certmond.cluster.rotation_checks.check import LIMIT, CheckResult, first_names, run_check

NAME = "pod_certificates"

_RESERVED = "kubernetes.io/"
"""Prefix of the names of the signers of Kubernetes (staging/src/k8s.io/api/certificates/v1/types.go,
PodCertificateRequestSpec). Any other signer has a separate CA.
"""


def pod_certificates(access: Access, limit: timedelta = LIMIT) -> CheckResult:
    """Check that no Pod, except ended Pods, has a `podCertificate` volume of a signer of Kubernetes."""

    async def work(connection: Connection) -> CheckResult:
        async def with_certificates() -> AsyncIterator[str]:
            pods: AsyncIterable[Any] = connection.client.list(Pod, namespace="*", chunk_size=PAGE)
            async for pod in pods:
                if _is_running(pod) and any(map(_has_certificate, pod.spec.volumes or ())):
                    yield f"{pod.metadata.namespace}/{pod.metadata.name}"

        rule = "grant this user a cluster role with apiGroups [''], resources [pods], verbs [list]"
        if found := await connection.listed("list the Pods", rule, with_certificates):
            fact = f"Pods have client certificates from a signer of Kubernetes: {first_names(sorted(found))}"
            return CheckResult(NAME, False, fact, "the old CA remains trusted until these certificates have expired")
        return CheckResult(NAME, True, "no Pod has a client certificate from a signer of Kubernetes")

    return run_check(access, NAME, work, limit)


def _is_running(pod: Any) -> bool:
    return (pod.status and pod.status.phase) not in {"Succeeded", "Failed"}


def _has_certificate(volume: Any) -> bool:
    sources = (volume.projected and volume.projected.sources) or ()
    return any(each.podCertificate and each.podCertificate.signerName.startswith(_RESERVED) for each in sources)
