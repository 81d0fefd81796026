"""The Node objects of the cluster, and the report of each node on a rotation.

This module defines the annotation `certmond.io/rotation`, and writes the annotation only to the Node of this node. A
report is a claim of the node that wrote the report. The caller must verify this claim.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from lightkube import AsyncClient
from lightkube.resources.core_v1 import Node
from lightkube.types import PatchType

from certmond.cluster.api_access import Access
from certmond.cluster.client import PAGE, ConflictError, Connection, NotFoundError
from certmond.errors import RefusedError, UnreachableError
from certmond.immutable_class import immutable

ANNOTATION = "certmond.io/rotation"

_CONTROL_PLANE = frozenset({"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"})
_NONE = "-"
_TEXT = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]{0,62})/([A-Za-z0-9][A-Za-z0-9._-]{0,62}|-)/([0-9a-f]{64}|-)/([0-9a-f]{64}|-)/(key|nokey)"
    r"(?:/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))?"
)
_READ = "grant this user a cluster role with apiGroups [''], resources [nodes], verbs [list]"
_WRITE = (
    "use this node's own credentials (kubelet.conf), or grant this user a cluster role with apiGroups [''], "
    "resources [nodes], verbs [patch]"
)


@immutable
class Acknowledgement:
    """A node's report on a rotation: the phase that the node has reached, or "" if it has reached no phase.

    `trust` is the SHA-256 of the set of trust anchors on the node. `issuer` is the SHA-256 of the CA that signed all
    leaves, or "" if there is no such CA. `holds_key` is true if the key of the new CA is on the node. `boot` is the
    boot ID of the machine, or "" if the boot ID is unknown.
    """

    id: str
    phase: str
    trust: str
    issuer: str
    holds_key: bool
    boot: str = ""

    def __str__(self) -> str:
        """Return the value of the annotation."""
        key = "key" if self.holds_key else "nokey"
        text = f"{self.id}/{self.phase or _NONE}/{self.trust or _NONE}/{self.issuer or _NONE}/{key}"
        return f"{text}/{self.boot}" if self.boot else text

    @classmethod
    def parse(cls, text: str) -> Acknowledgement | None:
        """Return the report in `text`, or None if `text` is not a report."""
        found = _TEXT.fullmatch(text)
        if found is None:
            return None
        phase, trust, issuer = (each.removeprefix(_NONE) for each in found.group(2, 3, 4))
        return cls(found[1], phase, trust, issuer, found[5] == "key", found[6] or "")


@immutable
class ClusterNode:
    """One Node of the cluster. `report` is None if the Node has no valid report.

    `uid` distinguishes the Node from a later Node of the same name. `boot` is the boot ID of the machine, or "" if the
    boot ID is unknown.
    """

    name: str
    uid: str
    control_plane: bool
    ready: bool
    unschedulable: bool
    kubelet_version: str
    boot: str
    report: Acknowledgement | None

    @property
    def started_since(self) -> bool:
        """Whether the boot ID has changed since the report, because the machine was restarted or replaced."""
        return bool(self.report and self.report.boot and self.boot and self.report.boot != self.boot)


def list_nodes(access: Access) -> tuple[ClusterNode, ...]:
    """Return every Node, sorted by name. Raises RefusedError or UnreachableError if the call fails."""

    async def work(connection: Connection) -> tuple[ClusterNode, ...]:
        found = await connection.listed("list the Nodes", _READ, lambda: nodes(connection.client))
        return tuple(sorted(found, key=lambda node: node.name))

    async def nodes(client: AsyncClient) -> AsyncIterator[ClusterNode]:
        async for node in client.list(Node, chunk_size=PAGE):  # drop the names of images, the largest part
            yield _node(node)

    return access.run(work)


def readiness_problem(access: Access, name: str) -> str | None:
    """Return why the Node `name` is not ready, or None if the Node is ready or does not exist.

    Raises RefusedError or UnreachableError if the call fails.
    """

    async def work(connection: Connection) -> tuple[ClusterNode, ...]:
        return tuple(await connection.listed("read this node's Node", _READ, lambda: nodes(connection.client)))

    async def nodes(client: AsyncClient) -> AsyncIterator[ClusterNode]:
        # With this selector, the rights of a kubelet suffice.
        async for node in client.list(Node, fields={"metadata.name": name}):
            yield _node(node)

    return next((f"the Node {name} is not Ready" for node in access.run(work) if not node.ready), None)


def acknowledge(access: Access, name: str, report: Acknowledgement) -> None:
    """Write `report` to an annotation of the Node `name`, and change nothing else.

    Raises RefusedError if `report` is not a valid value of the annotation. Also raises RefusedError if the Node does
    not exist, or if the API server forbids the write. Raises UnreachableError if a retry might succeed.
    """
    text = str(report)
    if Acknowledgement.parse(text) != report:
        raise RefusedError(
            f"{text!r} is not a valid value of the annotation {ANNOTATION}; check the ID and the phase of the rotation"
        )
    patch = {"metadata": {"annotations": {ANNOTATION: text}}}

    async def work(connection: Connection) -> None:
        doing = f"annotate the Node {name}"
        with errors_of_node(name, "annotate it"):
            await connection.call(
                doing, _WRITE, lambda: connection.client.patch(Node, name, patch, patch_type=PatchType.MERGE)
            )

    access.run(work)


@contextmanager
def errors_of_node(name: str, action: str) -> Iterator[None]:
    """Raise RefusedError if the Node `name` does not exist, and UnreachableError after a conflict during `action`."""
    try:
        yield
    except NotFoundError:
        raise RefusedError(f"the cluster has no Node {name}; check `node_name` in the configuration") from None
    except ConflictError:  # the API server retries a patch several times first
        fact = f"the Node {name} changes too often for certmond to {action}"
        raise UnreachableError(f"{fact}; certmond tries again later") from None


def _node(found: Any) -> ClusterNode:
    metadata, spec, status = found.metadata, found.spec, found.status
    conditions = (status and status.conditions) or ()
    return ClusterNode(
        name=metadata.name,
        uid=metadata.uid,
        control_plane=bool(_CONTROL_PLANE & (metadata.labels or {}).keys()),
        ready=any(each.type == "Ready" and each.status == "True" for each in conditions),
        unschedulable=bool(spec and spec.unschedulable),
        kubelet_version=(status and status.nodeInfo and status.nodeInfo.kubeletVersion) or "",
        boot=(status and status.nodeInfo and status.nodeInfo.bootID) or "",
        report=Acknowledgement.parse((metadata.annotations or {}).get(ANNOTATION, "")),
    )
