"""The Nodes of the cluster as a rotation needs them, and the report of each one.

Owns the annotation `certmond.io/rotation`: its text, and a write of this node's own that changes nothing else. A report
is a claim of that node, which the caller judges. Imports lightkube.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from lightkube import AsyncClient
from lightkube.resources.core_v1 import Node
from lightkube.types import PatchType

from certmond.cluster.client import PAGE, Connection, GoneError, TakenError
from certmond.cluster.connection import Access
from certmond.errors import RefusedError, UnreachableError

ANNOTATION = "certmond.io/rotation"

_CONTROL_PLANE = frozenset({"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"})
_NONE = "-"
_SAID = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]{0,62})/([A-Za-z0-9][A-Za-z0-9._-]{0,62}|-)/([0-9a-f]{64}|-)/([0-9a-f]{64}|-)/(key|nokey)"
    r"(?:/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))?"
)
_READ = "a cluster role of its user has to have apiGroups [''], resources [nodes], verbs [list]"
_WRITE = "its user has to be this node's (kubelet.conf), or a cluster role has to permit [patch] of [nodes]"


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A node's report: which phase of which rotation it has reached. Without a `phase`, it has reached none.

    `trust` is the SHA-256 of the set that it trusts, `issuer` that of the CA of its oldest leaf, both in hexadecimal.
    Either is empty where it has none. `holds_key`: the new CA's key is on the node. `boot`: the boot ID of the machine
    that reported, or empty.
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
        said = f"{self.id}/{self.phase or _NONE}/{self.trust or _NONE}/{self.issuer or _NONE}/{key}"
        return f"{said}/{self.boot}" if self.boot else said

    @classmethod
    def parse(cls, text: str) -> Acknowledgement | None:
        """Return the report in `text`, or None for any other text."""
        found = _SAID.fullmatch(text)
        if found is None:
            return None
        phase, trust, issuer = (each.removeprefix(_NONE) for each in found.group(2, 3, 4))
        return cls(found[1], phase, trust, issuer, found[5] == "key", found[6] or "")


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One Node. `said` is its report, or None where it has no valid one.

    `uid` distinguishes it from a later Node of the same name. `boot` distinguishes the starts of its machine, and is
    empty where the kubelet reports none.
    """

    name: str
    uid: str
    control_plane: bool
    ready: bool
    unschedulable: bool
    kubelet_version: str
    boot: str
    said: Acknowledgement | None

    @property
    def started_since(self) -> bool:
        """Return whether its machine was started, or exchanged, since the report."""
        return bool(self.said and self.said.boot and self.boot and self.said.boot != self.boot)


def list_nodes(access: Access) -> tuple[ClusterNode, ...]:
    """Return every Node, sorted by name. Raises RefusedError, UnreachableError."""

    async def work(connection: Connection) -> tuple[ClusterNode, ...]:
        found = await connection.listed("list the Nodes", _READ, lambda: told(connection.client))
        return tuple(sorted(found, key=lambda node: node.name))

    async def told(client: AsyncClient) -> AsyncIterator[ClusterNode]:
        async for node in client.list(Node, chunk_size=PAGE):  # drops names of images, most of a Node
            yield _node(node)

    return access.run(work)


def acknowledge(access: Access, name: str, said: Acknowledgement) -> None:
    """Write the report `said` to the Node `name`, and change nothing else.

    Raises RefusedError where the Node does not exist or must not be written, UnreachableError.
    """
    text = str(said)
    if Acknowledgement.parse(text) != said:
        raise RefusedError(f"{text!r} cannot be the annotation {ANNOTATION}; see the id and phase of the rotation")
    patch = {"metadata": {"annotations": {ANNOTATION: text}}}

    async def work(connection: Connection) -> None:
        doing = f"annotate the Node {name}"
        try:
            await connection.call(
                doing, _WRITE, lambda: connection.client.patch(Node, name, patch, patch_type=PatchType.MERGE)
            )
        except GoneError:
            raise RefusedError(f"the cluster has no Node {name}; see `node_name` in the configuration") from None
        except TakenError:  # the API server retries a patch several times first
            raise UnreachableError(f"the Node {name} is being changed all the time; it is annotated later") from None

    access.run(work)


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
        said=Acknowledgement.parse((metadata.annotations or {}).get(ANNOTATION, "")),
    )
