"""The Nodes of the cluster, and the report of each in its annotation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from certmond.cluster import client
from certmond.cluster.api_access import Access
from certmond.cluster.lease_lock import RESTART, ClusterLease
from certmond.cluster.node_api import (
    ANNOTATION,
    Acknowledgement,
    ClusterNode,
    acknowledge,
    list_nodes,
    readiness_problem,
)
from certmond.errors import RefusedError, UnreachableError
from tests.cluster.api_server import ApiServer, Fault

TRUST, ISSUER = "a" * 64, "b" * 64
BOOT, LATER = "0a6f2a6b-7d1c-4d0e-9f3a-2b1c0d9e8f7a", "5b1c0d9e-8f7a-4d0e-9f3a-0a6f2a6b7d1c"
INFO = dict.fromkeys(
    ("architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion", "machineID",
     "operatingSystem", "osImage", "systemUUID"), "x"
) | {"kubeletVersion": "v1.34.2"}  # fmt: skip
SAID = Acknowledgement("20261124-ca", "trust", TRUST, ISSUER, holds_key=True)


def add(cluster: ApiServer, name: str, **content: Any) -> dict[str, Any]:
    return cluster.store.add("nodes", name, **content)


def kubelet(access_of: Callable[..., Access], node: str) -> Access:
    return access_of(f"system:node:{node}", "system:nodes")


def test_an_acknowledgement_is_parsed_as_it_was_written() -> None:
    """The text of an acknowledgement parses to the same value. Missing facts are empty."""
    assert str(SAID) == f"20261124-ca/trust/{TRUST}/{ISSUER}/key"
    assert str(replace(SAID, boot=BOOT)) == f"{SAID}/{BOOT}"
    for said in (SAID, replace(SAID, issuer="", holds_key=False), replace(SAID, phase="", trust="", boot=BOOT)):
        assert Acknowledgement.parse(str(said)) == said


@pytest.mark.parametrize(
    "text",
    ["", "a/b", f"{SAID}/more", f"{SAID}\n", str(SAID).upper(), str(SAID).replace(TRUST, "a"), f"/{SAID}",
     str(SAID).replace("/key", "/yes"), f"{SAID}/", f"{SAID}/{BOOT.upper()}", f"{SAID}/{BOOT}/x"],
)  # fmt: skip
def test_another_text_is_no_acknowledgement(text: str) -> None:
    """A node with any other text has not reported."""
    assert Acknowledgement.parse(text) is None


def test_nodes_are_listed_with_their_state_and_report(
    cluster: ApiServer, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list has role, readiness, cordon, version and annotation of every Node, on any number of pages."""
    monkeypatch.setattr("certmond.cluster.node_api.PAGE", 2)
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": INFO}
    for name in ("worker-2", "worker-1"):
        add(cluster, name, spec={"unschedulable": name == "worker-2"}, status={})
    labels = {"node-role.kubernetes.io/control-plane": ""}
    add(cluster, "master-1", metadata={"labels": labels, "annotations": {ANNOTATION: str(SAID)}}, status=ready)
    old = {"labels": {"node-role.kubernetes.io/master": ""}, "annotations": {ANNOTATION: "hello"}}
    unknown = {"conditions": [{"type": "Ready", "status": "Unknown"}]}
    add(cluster, "master-2", metadata=old, status=unknown)
    found = list_nodes(access)
    assert [replace(each, uid="") for each in found] == [
        ClusterNode("master-1", "", True, True, False, "v1.34.2", "x", SAID),
        ClusterNode("master-2", "", True, False, False, "", "", None),
        ClusterNode("worker-1", "", False, False, False, "", "", None),
        ClusterNode("worker-2", "", False, False, True, "", "", None),
    ]
    assert found[0].uid == cluster.store.get("nodes", "master-1")["metadata"]["uid"]
    assert cluster.store.pages == 2


@pytest.mark.parametrize(
    ("said", "there", "since"),
    [(BOOT, LATER, True), (BOOT, BOOT, False), (BOOT, "", False), ("", LATER, False), (None, LATER, False)],
)
def test_a_reboot_is_recognized_by_the_boot_id(
    cluster: ApiServer, access: Access, said: str | None, there: str, since: bool
) -> None:
    """The boot ID in the acknowledgement differs from that of the kubelet. If either is missing, the acknowledgement
    counts.
    """
    annotations = {} if said is None else {ANNOTATION: str(replace(SAID, boot=said))}
    status = {"nodeInfo": INFO | {"bootID": there}} if there else {}
    add(cluster, "node-1", metadata={"annotations": annotations}, status=status)
    assert [each.started_since for each in list_nodes(access)] == [since]


def test_a_listing_may_take_longer_than_a_call(
    cluster: ApiServer, access_of: Callable[..., Access], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page has the time of a call; all of them together may have twelve times as long, as a thousand nodes do."""
    monkeypatch.setattr("certmond.cluster.node_api.PAGE", 1)
    for number in range(3):
        add(cluster, f"node-{number}")

    pages, lists, timeout, connect = list[float](), list[float | None](), asyncio.timeout, client._client

    def limited(seconds: float | None) -> asyncio.Timeout:
        lists.append(seconds)
        return timeout(seconds)

    def connected(kubeconfig: str, seconds: float) -> Any:
        pages.append(seconds)
        return connect(kubeconfig, seconds)

    monkeypatch.setattr("asyncio.timeout", limited)
    monkeypatch.setattr(client, "_client", connected)
    assert len(list_nodes(access_of("certmond", "certmond", seconds=2.5))) == 3
    assert (pages, lists) == ([2.5], [30])


def test_a_node_writes_only_its_own_annotation(cluster: ApiServer, access_of: Callable[..., Access]) -> None:
    """With its kubelet's rights it sets the one annotation, while others write the Node."""
    node = add(
        cluster,
        "node-1",
        metadata={"annotations": {"other": "x"}, "labels": {"kubernetes.io/hostname": "node-1"}},
        spec={"taints": [{"key": "a", "effect": "NoSchedule"}]},
    )
    before = {"annotations": dict(node["metadata"]["annotations"]), "labels": node["metadata"]["labels"]}
    cluster.store.before_write = lambda: cluster.store.change(cluster.store.get("nodes", "node-1"))
    own = kubelet(access_of, "node-1")
    acknowledge(own, "node-1", SAID)
    after = cluster.store.get("nodes", "node-1")
    assert after["metadata"]["annotations"] == before["annotations"] | {ANNOTATION: str(SAID)}
    assert (after["metadata"]["labels"], after["spec"]) == (before["labels"], node["spec"])


def test_a_node_writes_nothing_for_another(
    cluster: ApiServer, access_of: Callable[..., Access], access: Access
) -> None:
    """Neither a kubelet's user nor a coordinator may annotate any Node other than the kubelet's own."""
    add(cluster, "node-2")
    for who in (kubelet(access_of, "node-1"), access):
        with pytest.raises(RefusedError, match=r"may not annotate the Node node-2 .* use this node's own"):
            acknowledge(who, "node-2", SAID)
    assert ANNOTATION not in cluster.store.get("nodes", "node-2")["metadata"].get("annotations", {})


def test_a_missing_node_is_named(access_of: Callable[..., Access]) -> None:
    """If the cluster has no such Node, the remedy names `node_name`."""
    with pytest.raises(RefusedError, match="has no Node node-1; check `node_name`"):
        acknowledge(kubelet(access_of, "node-1"), "node-1", SAID)


def test_an_unparsable_acknowledgement_is_not_sent(cluster: ApiServer, access_of: Callable[..., Access]) -> None:
    """An acknowledgement that no node could parse is refused before any call."""
    with pytest.raises(RefusedError, match=r"is not a valid value of the annotation certmond\.io/rotation"):
        acknowledge(kubelet(access_of, "node-1"), "node-1", replace(SAID, phase="a/b"))
    assert cluster.calls == []


def test_a_node_that_is_changed_all_the_time_is_annotated_later(
    cluster: ApiServer, access_of: Callable[..., Access]
) -> None:
    """A conflict is no refusal."""
    add(cluster, "node-1")
    cluster.faults = [Fault(409)]
    with pytest.raises(UnreachableError, match="the Node node-1 changes too often"):
        acknowledge(kubelet(access_of, "node-1"), "node-1", SAID)


def test_a_missing_right_to_list_nodes_is_named(access_of: Callable[..., Access]) -> None:
    """The error has the missing right."""
    with pytest.raises(RefusedError, match=r"may not list the Nodes .* resources \[nodes\], verbs \[list\]"):
        list_nodes(access_of("unprivileged"))


# --- The stand-in for Kubernetes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "patch", [b'{"spec": {"taints": []}}', b'{"metadata": {"labels": {"node.kubernetes.io/a": "b"}}}']
)
def test_the_api_server_of_these_tests_restricts_nodes(cluster: ApiServer, patch: bytes) -> None:
    """The rule is that of NodeRestriction: a kubelet's user may change neither taints nor labels of Kubernetes."""
    add(cluster, "node-1", spec={"taints": [{"key": "a", "effect": "NoSchedule"}]})
    kind = "application/merge-patch+json"
    for user, status in (("system:node:node-1", 403), ("admin", 200)):
        path = "/api/v1/nodes/node-1"
        assert cluster.answer("PATCH", path, patch, content_type=kind, user=user)[0] == status


def test_the_readiness_of_one_node(cluster: ApiServer, access: Access) -> None:
    """A Node whose kubelet does not report is not ready. A missing Node says nothing, because its name may differ."""
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    add(cluster, "node-1", status=ready)
    add(cluster, "node-2", status={"conditions": [{"type": "Ready", "status": "Unknown"}]})
    assert readiness_problem(access, "node-1") is None
    assert readiness_problem(access, "node-2") == "the Node node-2 is not Ready"
    assert readiness_problem(access, "node-3") is None
    lease = ClusterLease(access.kubeconfig, identity="node-2", name=RESTART, alive=access.alive)
    assert lease.node_problem() == "the Node node-2 is not Ready"
