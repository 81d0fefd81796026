"""A node that rotates alone waits until Pods have both CAs, and checks that with root's own kubeconfig."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.controllers.pod_trust_check import PublicationCheck
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import Phase
from certmond.pki.rotation.pod_trust_gates import SYNCED
from tests.builders import NOW, SECOND, Issued, bundle
from tests.cluster.api_server import ApiServer
from tests.pki.rotation_node import NEW, OLD, UNRELATED, at
from tests.rotation_node import RotatingNode, root_ca

TRUST, ISSUE = at(Phase.TRUST), at(Phase.ISSUE)
CANNOT = "certmond cannot read the CA of the Pods, so the phase waits only for `root_ca.overlap`: "


def publish(cluster: ApiServer, *authorities: Issued) -> None:
    """In every namespace that the cluster has."""
    for namespace in ("default", "kube-public", "kube-system"):
        with suppress(ValueError):  # without a rotation record
            cluster.store.remove("configmaps", "kube-root-ca.crt", namespace)
        cluster.store.add("configmaps", "kube-root-ca.crt", namespace, data={"ca.crt": bundle(*authorities).decode()})


def asking(paths: dict[str, str], monotonic: Callable[[], float] = lambda: 0.0) -> PublicationCheck:
    """Return the check of a node with these kubeconfigs, by the names of their entries."""
    entries = [{"name": name, "kind": "kubeconfig", "path": path} for name, path in paths.items()]
    config = parse([Source("test", yaml.safe_dump({"profile": "none", "certificates": entries}))])
    return PublicationCheck(config, lambda path: path, lambda: None, monotonic)


@pytest.mark.parametrize("name", ["admin.conf", "super-admin.conf", "controller-manager.conf"])
def test_the_node_uses_its_own_kubeconfig(cluster: ApiServer, name: str) -> None:
    """Without `cluster:` the node checks the publication with its own kubeconfig. A namespace that lacks a CA is named,
    and a CA beyond the two is accepted.
    """
    paths = {name: cluster.user("root", "certmond")}
    publish(cluster, OLD)
    held = asking(paths).gate(TRUST, Gate(), NOW)
    assert "kube-root-ca.crt of default lacks" in held.waits[0]
    for authorities in ((OLD, NEW), (OLD, NEW, UNRELATED)):
        publish(cluster, *authorities)
        found = asking(paths).gate(TRUST, Gate(), NOW)
        assert found.noted
        assert found.noted.published == NOW
        assert asking(paths).gate(found.noted, Gate(), NOW + SYNCED) == Gate()


def test_the_cluster_trust_bundle_must_contain_both_cas(cluster: ApiServer) -> None:
    """Without `cluster:`, the node also waits for the ClusterTrustBundle of the API server."""
    publish(cluster, OLD, NEW)
    spec = {"signerName": "kubernetes.io/kube-apiserver-serving", "trustBundle": OLD.pem.decode()}
    cluster.store.add("clustertrustbundles", "kubernetes.io:kube-apiserver-serving:1", spec=spec)
    check = asking({"admin.conf": cluster.user("root", "certmond")})
    assert f"kube-apiserver-serving lacks {NEW.facts.sha256[:12]}" in check.gate(TRUST, Gate(), NOW).waits[0]


@pytest.mark.parametrize("signer", ["kubernetes.io/kube-apiserver-client-pod", "example.com/mesh"])
def test_certificates_of_pods_keep_the_old_ca_for_a_day(cluster: ApiServer, signer: str) -> None:
    """Without `cluster:`, the node also searches for Pods with client certificates in `issue`."""
    source = {"podCertificate": {"signerName": signer, "keyType": "ED25519"}}
    spec = {"containers": [], "volumes": [{"name": "it", "projected": {"sources": [source]}}]}
    cluster.store.add("pods", "web", "default", spec=spec, status={"phase": "Running"})
    found = asking({"admin.conf": cluster.user("root", "certmond")}).gate(ISSUE, Gate(), NOW)
    assert found.noted == (replace(ISSUE, published=NOW) if signer.startswith("kubernetes.io/") else None)
    assert asking({}).gate(ISSUE, Gate(), NOW) == Gate()


def test_no_other_kubeconfig_is_used(cluster: ApiServer, tmp_path: Path) -> None:
    """Neither another entry's kubeconfig nor a missing one is used. Then no call is made, and nothing is waited for."""
    for paths in ({"user.conf": cluster.user("root", "certmond")}, {"admin.conf": str(tmp_path / "gone")}):
        assert asking(paths).gate(TRUST, Gate(), NOW) == Gate()
    assert cluster.calls == []


def test_a_kubeconfig_that_another_user_can_change_is_refused(cluster: ApiServer) -> None:
    """Such a kubeconfig could name any server, and is not read. The message reports it, and the overlap counts."""
    path = Path(cluster.user("root", "certmond"))
    path.chmod(0o666)
    reported = asking({"admin.conf": str(path)}).gate(TRUST, Gate(), NOW).message
    assert reported.startswith(CANNOT)
    assert "can be changed by" in reported
    assert cluster.calls == []


def test_the_next_kubeconfig_is_tried_after_a_refusal(cluster: ApiServer) -> None:
    """The answer to any kubeconfig counts. If all are refused, the first refusal is reported."""
    publish(cluster, OLD, NEW)
    unprivileged, leader = cluster.user("unprivileged"), cluster.user("root", "certmond")
    found = asking({"admin.conf": unprivileged, "controller-manager.conf": leader}).gate(TRUST, Gate(), NOW)
    assert found.noted
    refused = asking({"admin.conf": unprivileged}).gate(TRUST, Gate(), NOW)
    assert not refused.waits
    assert refused.message.startswith(CANNOT)
    assert "may not list the namespaces" in refused.message


def test_without_the_extra_the_message_has_the_remedy(cluster: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """lightkube is optional: without it the overlap counts, and the message has the package to install."""
    monkeypatch.delitem(sys.modules, "certmond.cluster.rotation_checks.root_ca_configmaps")
    monkeypatch.setitem(sys.modules, "lightkube.resources.core_v1", None)
    paths = {"admin.conf": cluster.user("root", "certmond")}
    reported = asking(paths).gate(TRUST, Gate(), NOW).message
    assert reported == f"{CANNOT}the package lightkube is missing; run: pip install lightkube lightkube-models"


def test_the_cluster_is_asked_once_in_a_while(cluster: ApiServer) -> None:
    """Once in a `poll` (10 s), and for another phase at once."""
    publish(cluster, OLD)
    seconds = iter([0.0, 0.0, 9.0, 10.0, 10.0, 11.0, 11.0])
    asks, counted = asking({"admin.conf": cluster.user("root", "certmond")}, lambda: next(seconds)), list[int]()
    later = at(Phase.TRUST, since=NOW + SECOND)
    for rotation in (TRUST, TRUST, TRUST, later):
        asks.gate(rotation, Gate(), NOW)
        counted.append(sum("configmaps" in call for call in cluster.calls))
    assert counted == [1, 1, 2, 3]


@pytest.mark.long
@pytest.mark.parametrize("rights", ["leader", "unprivileged"])
def test_a_rotation_waits_for_the_publication_to_pods(cluster: ApiServer, tmp_path: Path, rights: str) -> None:
    """On one node, without `cluster:` and with an overlap of a second, the phase `trust` ends when Pods have both CAs.
    With a user without the right, it ends after the overlap, and the audit log records it.
    """
    node, new = RotatingNode(tmp_path / "place"), root_ca()
    with_admin(node, cluster.user("root", *(["certmond"] if rights == "leader" else [])))
    publish(cluster, node.old)
    node.begin(new)
    if rights == "unprivileged":
        node.walk()
        left = [entry["message"] for entry in node.audit() if "trust is reached, issue begins" in entry["message"]]
        assert len(left) == 1
        assert CANNOT in left[0]
        return
    node.walk(lambda: node.phase is Phase.TRUST)
    for _ in range(9):
        node.step()
    assert node.phase is Phase.TRUST
    enforcer = node.enforcer()
    assessment, around = enforcer.see()
    assert enforcer.rotate(assessment, around, enforcer.plan(assessment, around=around)) is None
    assert any("kube-root-ca.crt of default lacks" in said for said in enforcer.rotating.waits)
    publish(cluster, node.old, new)
    node.walk()
    assert node.unwell(new) == []
    assert any("kubelets update running Pods within" in entry["message"] for entry in node.audit())


def with_admin(node: RotatingNode, kubeconfig: str) -> None:
    """The node has this kubeconfig as its admin.conf."""
    path = node.place / "config.yaml"
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    document["certificates"].append({"name": "admin.conf", "kind": "kubeconfig", "path": kubeconfig})
    path.write_text(yaml.safe_dump(document))
