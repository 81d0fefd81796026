"""Pods with client certificates that a signer of Kubernetes has issued."""

from __future__ import annotations

from typing import Any

import pytest

from certmond.cluster.api_access import Access
from certmond.cluster.rotation_checks.pod_certificates import pod_certificates
from tests.cluster.api_server import ApiServer, Fault

SIGNER = "kubernetes.io/kube-apiserver-client-pod"


def add_pod(cluster: ApiServer, name: str, signer: str | None = SIGNER, phase: str = "Running") -> None:
    source: Any = (
        {"podCertificate": {"signerName": signer, "keyType": "ED25519"}}
        if signer
        else {"serviceAccountToken": {"path": "token"}}
    )
    volumes = [{"name": "empty"}, {"name": "it", "projected": {"sources": [source]}}]
    cluster.store.add("pods", name, "default", spec={"containers": [], "volumes": volumes}, status={"phase": phase})


def test_pods_with_certificates_are_named(cluster: ApiServer, access: Access) -> None:
    """The check fails with the names of the Pods that have a volume of a signer of Kubernetes."""
    for name in ("web-2", "web-1"):
        add_pod(cluster, name)
    found = pod_certificates(access)
    assert not found.ok
    assert found.fact == "Pods have client certificates from a signer of Kubernetes: default/web-1, default/web-2"
    assert found.failure is None


@pytest.mark.parametrize(
    ("signer", "phase"), [(None, "Running"), ("example.com/mesh", "Running"), (SIGNER, "Succeeded"), (SIGNER, "Failed")]
)
def test_other_pods_pass(cluster: ApiServer, access: Access, signer: str | None, phase: str) -> None:
    """A Pod without such a volume, with a certificate of another signer, or that has ended, has no such certificate."""
    add_pod(cluster, "web", signer, phase)
    assert pod_certificates(access).ok


def test_a_refused_list_does_not_pass(cluster: ApiServer, access: Access) -> None:
    """The check fails if the API server refuses the list, and the result says that it was refused."""
    cluster.faults = [Fault(403)]
    found = pod_certificates(access)
    assert (found.ok, found.failure is None) == (False, False)
    assert "resources [pods], verbs [list]" in found.fact
