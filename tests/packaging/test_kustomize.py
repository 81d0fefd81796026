"""The Kustomize base of the DaemonSet: what it grants a Pod, and what certmond checks in this Pod."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightkube.models.core_v1 import ConfigMap, Namespace
from lightkube.resources.apps_v1 import DaemonSet

from certmond.config.loader import load
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import assess
from certmond.pki.findings import Severity
from tests.conftest import real_part
from tests.node import NOW, Node

BASES = Path(__file__).parents[2] / "packaging/kustomize"
MODELS = {"DaemonSet": DaemonSet, "ConfigMap": ConfigMap, "Namespace": Namespace}

pytestmark = pytest.mark.real("kubectl")


def rendered(base: str) -> dict[str, dict[str, Any]]:
    """Return the objects of a base as `kubectl kustomize` prints them, by kind."""
    done = subprocess.run(
        [real_part("kubectl"), "kustomize", BASES / base], capture_output=True, text=True, check=True
    )  # fmt: skip
    documents = list(yaml.safe_load_all(done.stdout))
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


@pytest.fixture(scope="module")
def objects() -> dict[str, dict[str, Any]]:
    return rendered("observe")


@pytest.fixture(scope="module")
def pod(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["DaemonSet"]["spec"]["template"]["spec"]
    return spec


def test_every_object_has_only_fields_of_its_kind(objects: dict[str, dict[str, Any]]) -> None:
    """Each object survives a conversion into the type of the Kubernetes API and back, so no field is unknown."""
    assert objects.keys() == MODELS.keys()
    for kind, document in objects.items():
        parsed = MODELS[kind].from_dict(document, lazy=False)  # type: ignore[attr-defined]
        assert parsed.to_dict() == document, kind


def test_the_selector_matches_the_pods(objects: dict[str, dict[str, Any]]) -> None:
    """The DaemonSet selects its own Pods, and all objects are in the namespace of the base."""
    spec = objects["DaemonSet"]["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    assert {each["metadata"].get("namespace", "certmond") for each in objects.values()} == {"certmond"}


def test_a_pod_has_no_access_to_the_api(objects: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    """The base has no role and no service account, and a Pod gets no token."""
    assert not {kind for kind in objects if "Role" in kind or kind == "ServiceAccount"}
    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod


def test_a_pod_meets_the_restricted_level_except_for_its_paths(pod: dict[str, Any]) -> None:
    """No namespace of the host, no root, no capability, no way to more permissions, and a read-only root file system.

    Kubernetes' Pod Security Standards forbid hostPath volumes, and permit everything else in this Pod.
    """
    assert not any(pod[name] for name in ("hostNetwork", "hostPID", "hostIPC"))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert "fsGroup" not in pod["securityContext"]
    assert "supplementalGroups" not in pod["securityContext"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert len(pod["containers"]) == 2
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_paths_of_the_host_are_read_only(pod: dict[str, Any]) -> None:
    """Each path of the host is mounted read-only at the same path, exists before, and only the daemon has it."""
    host = {each["name"]: each["hostPath"] for each in pod["volumes"] if "hostPath" in each}
    assert {each["path"] for each in host.values()} == {"/etc/kubernetes/pki", "/var/lib/kubelet/pki"}
    assert {each["type"] for each in host.values()} == {"Directory"}
    daemon, web = pod["containers"]
    for mount in daemon["volumeMounts"]:
        if mount["name"] in host:
            assert (mount["mountPath"], mount["readOnly"]) == (host[mount["name"]]["path"], True)
    assert not host.keys() & {mount["name"] for mount in web["volumeMounts"]}
    assert all(mount["readOnly"] for mount in web["volumeMounts"])


def configuration(objects: dict[str, dict[str, Any]]) -> str:
    text: str = objects["ConfigMap"]["data"]["config.yaml"]
    return text


def test_the_configuration_names_no_key(objects: dict[str, dict[str, Any]]) -> None:
    """The configuration is valid, observes, follows no reference, and names no key and no kubeconfig."""
    config = parse([Source("config.yaml", configuration(objects))])
    assert config.mode == "observe"
    assert {entry.name for entry in config.certificates} < {entry.name for entry in load().certificates}
    assert not [entry for entry in config.certificates if entry.key or entry.kind != "file"]
    assert not config.services


def test_an_intact_node_has_no_finding(objects: dict[str, dict[str, Any]], node: Node) -> None:
    """On a node that kubeadm created, no certificate has a warning; an entry has the path of the kubeadm profile."""
    config = parse([Source("config.yaml", configuration(objects))])
    profile = {entry.name: entry.path for entry in load().certificates}
    assert {entry.name: entry.path for entry in config.certificates}.items() <= profile.items()
    assessment = assess(Store(config.certificates, str(node.root)).observe(), NOW)
    assert len(assessment.statuses) == 10
    assert not [each for status in assessment.statuses for each in status.findings if each.severity != Severity.INFO]


def test_the_pod_monitor_scrapes_the_port_of_the_pods(pod: dict[str, Any]) -> None:
    """The PodMonitor selects the Pods by their label, and names a port that one container has."""
    monitored = rendered("podmonitor")
    template = monitored["DaemonSet"]["spec"]["template"]
    monitor = monitored["PodMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ports = {port["name"] for each in pod["containers"] for port in each.get("ports", ())}
    assert [each["port"] for each in monitor["podMetricsEndpoints"]] == list(ports)
    assert "sampleLimit" in monitor
