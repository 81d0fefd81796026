"""Writer of the condition `CertificatesHealthy` of a Node, and of an event about each change of the condition.

The credentials of a kubelet permit both writes for its own Node (kubernetes/kubernetes,
plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go, NodeRules). The kubelet keeps conditions of other types
(pkg/kubelet/kubelet_node_status.go, tryUpdateNodeStatus).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Event, Node
from lightkube.types import PatchType

from certmond.cluster.api_access import Access
from certmond.cluster.client import Connection
from certmond.cluster.node_api import errors_of_node
from certmond.pki.assessment.node_condition import NodeCondition

TYPE = "CertificatesHealthy"

_COMPONENT = "certmond"
_NAMESPACE = "default"
"""Namespace of the events of Nodes. The API server refuses another one (pkg/apis/core/validation/events.go)."""
_MOST_OF_NAME = 200  # number of characters of the Node's name in the name of an event, which has at most 253
_RULES = {
    "read": "cluster role with apiGroups [''], resources [nodes], verbs [get]",
    "write": "cluster role with apiGroups [''], resources [nodes/status], verbs [patch]",
    "event": f"role in {_NAMESPACE} with apiGroups [''], resources [events], verbs [create]",
}


def write_condition(access: Access, name: str, condition: NodeCondition, now: datetime) -> bool:
    """Write the condition to the Node `name`. Return whether an event about the condition is necessary.

    An event is necessary if the condition has changed, or if the first condition of the Node reports findings. Raises
    RefusedError if the Node does not exist or the API server forbids a call, and UnreachableError if a retry might
    succeed.
    """

    async def work(connection: Connection) -> bool:
        client = connection.client
        with errors_of_node(name, "write its condition"):
            node = await connection.call(f"read the Node {name}", _rule("read"), lambda: client.get(Node, name))
            former = _condition_of(node)
            await connection.call(
                f"write the condition {TYPE} of the Node {name}",
                _rule("write"),
                lambda: client.patch(Node.Status, name, _patch(former, condition, now), patch_type=PatchType.STRATEGIC),
            )
        return _is_new(former, condition)

    return access.run(work)


def create_event(access: Access, name: str, condition: NodeCondition, now: datetime) -> None:
    """Create an event about the condition of the Node `name`.

    Raises RefusedError if the API server forbids the call, and UnreachableError if a retry might succeed.
    """

    async def work(connection: Connection) -> None:
        doing, event = f"create an event about the Node {name}", _event(name, condition, now)
        await connection.call(doing, _rule("event"), lambda: connection.client.create(event))

    access.run(work)


def _condition_of(node: Any) -> Any:
    conditions = (node.status and node.status.conditions) or ()
    return next((each for each in conditions if each.type == TYPE), None)


def _is_new(former: Any, condition: NodeCondition) -> bool:
    """Return whether an event is necessary. A first condition without findings needs no event."""
    if former is None:
        return condition.reason != "NoFindings"
    return (former.status, former.reason, former.message) != (condition.status, condition.reason, condition.message)


def _patch(former: Any, condition: NodeCondition, now: datetime) -> dict[str, Any]:
    """Return a strategic merge patch, which replaces only the condition of this type."""
    changed = former is None or former.status != condition.status or former.lastTransitionTime is None
    since = now if changed else former.lastTransitionTime
    made = {
        "type": TYPE, "status": condition.status, "reason": condition.reason, "message": condition.message,
        "lastHeartbeatTime": _time(now), "lastTransitionTime": _time(since),
    }  # fmt: skip
    return {"status": {"conditions": [made]}}


def _event(name: str, condition: NodeCondition, now: datetime) -> Event:
    severe = condition.status != "True" or condition.reason != "NoFindings"
    return Event(
        metadata=ObjectMeta(generateName=f"{name[:_MOST_OF_NAME]}.", namespace=_NAMESPACE),
        # kubectl describe searches the events of a Node by its name in place of the uid, as the kubelet writes them.
        involvedObject=ObjectReference(apiVersion="v1", kind="Node", name=name, uid=name),
        type="Warning" if severe else "Normal",
        reason=condition.reason,
        message=condition.message,
        source=EventSource(component=_COMPONENT, host=name),
        reportingComponent=_COMPONENT,
        reportingInstance=name,
        firstTimestamp=now,
        lastTimestamp=now,
        count=1,
    )


def _rule(verb: str) -> str:
    return f"use this node's own credentials (kubelet.conf), or grant this user a {_RULES[verb]}"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
