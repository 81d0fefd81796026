"""The CA that the cluster publishes to Pods in ClusterTrustBundles."""

from __future__ import annotations

from typing import Any

import pytest

from certmond.cluster.api_access import Access
from certmond.cluster.rotation_checks.cluster_trust_bundles import cluster_trust_bundles
from tests.builders import Issued, bundle, make_ca
from tests.cluster.api_server import ApiServer, Fault

OLD, NEW, OTHER = make_ca(), make_ca(), make_ca()
BOTH = (OLD.facts, NEW.facts)
SIGNER = "kubernetes.io/kube-apiserver-serving"


def publish(cluster: ApiServer, name: str, pem: bytes, signer: str = SIGNER) -> None:
    spec = {"signerName": signer, "trustBundle": pem.decode()}
    cluster.store.add("clustertrustbundles", f"{signer.replace('/', ':')}:{name}", spec=spec)


def test_the_bundles_of_the_api_server_are_compared(cluster: ApiServer, access: Access) -> None:
    """All objects of the signer together contain the expected CAs. Objects of another signer are ignored."""
    publish(cluster, "1", OLD.pem)
    publish(cluster, "2", bundle(NEW, OLD))
    publish(cluster, "3", OTHER.pem, "example.com/it")
    found = cluster_trust_bundles(access, BOTH)
    assert (found.ok, found.fact) == (True, f"the ClusterTrustBundles of {SIGNER} contain the expected CAs")


@pytest.mark.parametrize(
    ("pem", "wanted", "said"),
    [
        (OLD.pem, (OLD, NEW), "lacks NEW"),
        (bundle(OLD, NEW), (NEW,), "still contains OLD"),
        (b"-----BEGIN CERTIFICATE-----\n", (NEW,), "is malformed ("),
        (b"", (NEW,), "is malformed (it is empty)"),
    ],
)
def test_a_bundle_with_other_cas_fails(
    cluster: ApiServer, access: Access, pem: bytes, wanted: tuple[Issued, ...], said: str
) -> None:
    """The message states the missing and the surplus CAs, and what to check."""
    publish(cluster, "1", pem)
    found = cluster_trust_bundles(access, [each.facts for each in wanted])
    said = said.replace("NEW", NEW.facts.sha256[:12]).replace("OLD", OLD.facts.sha256[:12])
    assert not found.ok
    assert found.fact.startswith(f"the content of the ClusterTrustBundles of {SIGNER} {said}")
    assert "--root-ca-file" in found.remedy
    assert "feature gate ClusterTrustBundle" in found.remedy  # without it, these objects stay as they are


def test_further_cas_are_accepted_on_request(cluster: ApiServer, access: Access) -> None:
    """With `at_least`, a bundle may contain further CAs."""
    publish(cluster, "1", bundle(OLD, NEW, OTHER))
    assert cluster_trust_bundles(access, BOTH, at_least=True).ok
    assert not cluster_trust_bundles(access, BOTH).ok


def test_a_cluster_without_bundles_passes(cluster: ApiServer, access: Access) -> None:
    """No Pod obtains the CA from a ClusterTrustBundle of a cluster that has no such object, or does not support it."""
    nothing = f"the cluster has no ClusterTrustBundle of {SIGNER}"
    assert (cluster_trust_bundles(access, BOTH).ok, cluster_trust_bundles(access, BOTH).fact) == (True, nothing)
    cluster.store.missing.add("clustertrustbundles")
    assert cluster_trust_bundles(access, BOTH).fact == nothing


@pytest.mark.parametrize("versions", [["v1"], ["v1", "v1beta1"], ["v1", "v1beta1", "v1alpha1"]])
def test_an_older_version_of_the_kind_is_read(cluster: ApiServer, access: Access, versions: list[str]) -> None:
    """certmond reads the newest version that the API server supports. Kubernetes 1.32 has only v1alpha1."""
    publish(cluster, "1", OLD.pem)
    paths = list[str]()
    cluster.faults = [Fault(404) for _ in versions[1:]]
    cluster.before = lambda _, path: paths.append(path)
    assert not cluster_trust_bundles(access, BOTH).ok
    assert [each.split("/")[3] for each in paths] == versions


def test_a_user_without_permission_does_not_pass(cluster: ApiServer, access: Access) -> None:
    """The message names the permission that is missing."""
    cluster.faults = [Fault(403)]
    found: Any = cluster_trust_bundles(access, BOTH)
    assert not found.ok
    assert "resources [clustertrustbundles], verbs [list]" in found.fact
