"""Check of the ClusterTrustBundles that publish the CA of the API server's serving certificate to Pods.

With the feature gate ClusterTrustBundle, kube-controller-manager writes these objects. At its start,
kube-controller-manager reads the content of the objects from the file in --root-ca-file (kubernetes/kubernetes,
cmd/kube-controller-manager/app/certificates.go). kube-controller-manager creates the object with the new content before
it deletes all other objects of the signer (pkg/controller/certificates, module clustertrustbundlepublisher). A kubelet
combines all objects of a signer (pkg/kubelet/clustertrustbundle). Both use v1alpha1 if the API server does not support
v1beta1. Without the feature gate, kube-controller-manager neither updates nor deletes the objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from lightkube.core.resource import ApiInfo, ResourceDef
from lightkube.resources import certificates_v1, certificates_v1beta1

from certmond.cluster.api_access import Access
from certmond.cluster.client import PAGE, Connection, NotFoundError
from certmond.cluster.rotation_checks.check import LIMIT, CheckResult, differs, run_check
from certmond.pki.x509.certificate import Certificate

NAME = "cluster_trust_bundles"
API_SERVER_SERVING = "kubernetes.io/kube-apiserver-serving"
"""Signer name of the ClusterTrustBundles that contain the CA of the API server."""

_REMEDY = (
    "check that a kube-controller-manager with the feature gate ClusterTrustBundle is the leader, and that it "
    "restarted after the file in --root-ca-file changed; without this gate, no component updates these objects, "
    "so delete the objects if no Pod uses them"
)


class _AlphaClusterTrustBundle(certificates_v1beta1.ClusterTrustBundle):
    """The version v1alpha1 of the kind, which has the same fields, and which lightkube does not contain."""

    _api_info = ApiInfo(
        ResourceDef("certificates.k8s.io", "v1alpha1", "ClusterTrustBundle"), "clustertrustbundles", ["list"]
    )


_KINDS: tuple[Any, ...] = (
    certificates_v1.ClusterTrustBundle,
    certificates_v1beta1.ClusterTrustBundle,
    _AlphaClusterTrustBundle,
)
"""Versions of the kind: v1 since Kubernetes 1.37, v1beta1 since 1.33, v1alpha1 before."""
_RULE = (
    "grant this user a cluster role with apiGroups [certificates.k8s.io], resources [clustertrustbundles], verbs [list]"
)


def cluster_trust_bundles(
    access: Access, wanted: Iterable[Certificate], limit: timedelta = LIMIT, *, at_least: bool = False
) -> CheckResult:
    """Check that the ClusterTrustBundles of the API server's signer together contain exactly the CAs `wanted`.

    With `at_least`, the objects may also contain other CAs. The check also passes if the API server does not support
    the kind, or if the cluster has no such object. In both cases, no Pod obtains the CA from a ClusterTrustBundle.
    """
    trust = tuple(wanted)

    async def work(connection: Connection) -> CheckResult:
        bundles = await _bundles(connection)
        if not bundles:
            return CheckResult(NAME, True, f"the cluster has no ClusterTrustBundle of {API_SERVER_SERVING}")
        if difference := differs("\n".join(bundles).encode(), trust, "it", at_least=at_least):
            fact = f"the content of the ClusterTrustBundles of {API_SERVER_SERVING} {difference}"
            return CheckResult(NAME, False, fact, _REMEDY)
        return CheckResult(NAME, True, f"the ClusterTrustBundles of {API_SERVER_SERVING} contain the expected CAs")

    return run_check(access, NAME, work, limit)


async def _bundles(connection: Connection) -> list[str]:
    """Return the PEM bundle of each object, or an empty list if the API server does not support the kind."""

    async def listed(kind: Any) -> list[str]:
        found = connection.client.list(kind, fields={"spec.signerName": API_SERVER_SERVING}, chunk_size=PAGE)
        return [str(each.spec.trustBundle) async for each in found]

    for kind in _KINDS:
        with suppress(NotFoundError):
            return await connection.call("list the ClusterTrustBundles", _RULE, partial(listed, kind))
    return []
