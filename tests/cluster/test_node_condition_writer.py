"""The condition CertificatesHealthy of a Node, with the rights of a kubelet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from certmond.cluster.api_access import Access
from certmond.cluster.node_condition_writer import TYPE, create_event, write_condition
from certmond.errors import RefusedError, UnreachableError
from certmond.pki.assessment.node_condition import NodeCondition
from tests.cluster.api_server import ApiServer, Fault

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
WELL = NodeCondition("True", "NoFindings", "16 certificates without a warning")
WARNED = NodeCondition("True", "Warnings", "1 with a warning: web (nearing_expiry)")
ILL = NodeCondition("False", "CriticalFindings", "1 critical: web (expired)")
READY = {"type": "Ready", "status": "True"}


@pytest.fixture
def own(cluster: ApiServer, access_of: Callable[..., Access]) -> Access:
    """Return the access of the kubelet of node-1, whose Node is Ready."""
    cluster.store.add("nodes", "node-1", status={"conditions": [READY]})
    return access_of("system:node:node-1", "system:nodes")


def conditions(cluster: ApiServer) -> dict[str, dict[str, Any]]:
    return {each["type"]: each for each in cluster.store.get("nodes", "node-1")["status"]["conditions"]}


def test_a_kubelet_may_write_the_condition_of_its_node(cluster: ApiServer, own: Access) -> None:
    """The condition has status, reason, message and both times. The conditions of the kubelet stay."""
    write_condition(own, "node-1", WELL, NOW)
    assert conditions(cluster) == {
        "Ready": READY,
        TYPE: {
            "type": "CertificatesHealthy", "status": "True", "reason": "NoFindings", "message": WELL.message,
            "lastHeartbeatTime": "2026-11-24T12:00:00Z", "lastTransitionTime": "2026-11-24T12:00:00Z",
        },
    }  # fmt: skip


def test_the_time_of_the_transition_changes_with_the_status_only(cluster: ApiServer, own: Access) -> None:
    """Another message or a repetition has the former time of the transition."""
    for condition, at, since in ((WELL, NOW, NOW), (WARNED, LATER, NOW), (ILL, LATER, LATER)):
        write_condition(own, "node-1", condition, at)
        found = conditions(cluster)[TYPE]
        assert found["lastHeartbeatTime"] == f"{at:%Y-%m-%dT%H:%M:%SZ}"
        assert found["lastTransitionTime"] == f"{since:%Y-%m-%dT%H:%M:%SZ}"


def test_each_change_needs_an_event(cluster: ApiServer, own: Access) -> None:
    """A repetition needs no event, and neither does a first condition without findings."""
    written = [write_condition(own, "node-1", each, NOW) for each in (WELL, WELL, ILL, ILL, WARNED, WELL)]
    assert written == [False, False, True, False, True, True]


def test_a_first_condition_with_findings_needs_an_event(cluster: ApiServer, own: Access) -> None:
    """A Node without the condition gets an event about its findings."""
    assert write_condition(own, "node-1", ILL, NOW)


def test_a_kubelet_may_create_an_event(cluster: ApiServer, own: Access) -> None:
    """The event names the Node as the events of a kubelet do. Only an event without findings is of type Normal."""
    for condition in (ILL, WARNED, WELL):
        create_event(own, "node-1", condition, NOW)
    assert [(each["type"], each["reason"], each["message"]) for each in cluster.store.every("events")] == [
        ("Warning", "CriticalFindings", ILL.message), ("Warning", "Warnings", WARNED.message),
        ("Normal", "NoFindings", WELL.message),
    ]  # fmt: skip
    made = cluster.store.every("events")[0]
    assert made["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-1"}
    assert made["metadata"]["namespace"] == "default"
    assert made["source"] == {"component": "certmond", "host": "node-1"}


def test_a_missing_node_is_refused(cluster: ApiServer, own: Access) -> None:
    """The error names the key of the configuration that certmond takes the name from."""
    cluster.store.remove("nodes", "node-1")
    with pytest.raises(RefusedError, match=r"^the cluster has no Node node-1; check `node_name` in the configuration$"):
        write_condition(own, "node-1", ILL, NOW)


def test_a_user_without_the_right_is_told_the_rule(cluster: ApiServer, access: Access) -> None:
    """The error names the credentials and the role that permit the write."""
    cluster.store.add("nodes", "node-1")
    with pytest.raises(RefusedError, match=r"use this node's own credentials .* resources \[nodes\], verbs \[get\]$"):
        write_condition(access, "node-1", ILL, NOW)


def test_a_user_with_both_roles_writes_the_condition_and_the_event(cluster: ApiServer, access: Access) -> None:
    """A node without kubelet.conf needs the ClusterRole, and the Role of the namespace of the events. The errors name
    what is missing.
    """
    cluster.store.add("nodes", "node-1")
    assert cluster.rbac
    cluster.rbac.bind("certmond-node-condition", "certmond")
    write_condition(access, "node-1", ILL, NOW)
    rule = r"grant this user a role in default with apiGroups \[''\], resources \[events\], verbs \[create\]$"
    with pytest.raises(RefusedError, match=rule):
        create_event(access, "node-1", ILL, NOW)
    cluster.rbac.bind("certmond-node-condition", "certmond", "default")
    create_event(access, "node-1", ILL, NOW)
    assert [each["metadata"]["namespace"] for each in cluster.store.every("events")] == ["default"]


def test_a_node_that_changes_all_the_time_is_tried_again(cluster: ApiServer, own: Access) -> None:
    """A conflict of the patch is an error after which a retry can succeed."""

    def conflict(method: str, path: str) -> None:
        if path.endswith("/status"):
            cluster.faults.append(Fault(409))

    cluster.before = conflict
    with pytest.raises(UnreachableError, match="changes too often"):
        write_condition(own, "node-1", ILL, NOW)
