"""A real node whose rotation the cluster conducts: its files, its configuration and its rights, over one API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from certmond.cluster.access import Access
from certmond.cluster.nodes import ANNOTATION
from certmond.enforce import Enforcer
from certmond.pki.rotation import Phase
from tests.cluster.api_server import ApiServer
from tests.cluster.conducting import World
from tests.cluster.leaks import leaks
from tests.cluster.test_conductor import fit
from tests.rotating_node import RotatingNode, root_ca

NODE = "node-1"


@pytest.fixture
def world(cluster: ApiServer, access_of: Callable[..., Access], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("certmond.cluster.signing._LOOK_AGAIN", 0.01)
    made = World(cluster, access_of)
    yield made
    assert not leaks(bytes(cluster.received), made.old, made.new)


@pytest.fixture
def node(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RotatingNode:
    """The only node, a control plane with the rotation to another CA begun. It has its kubelet's kubeconfig, and that
    of config/rbac.yaml's group.
    """
    monkeypatch.setattr("certmond.enforce.KUBELET_CONF", world.api.user(f"system:node:{NODE}", "system:nodes"))
    rights = world.api.user("certmond", "certmond")
    settings: Any = {"kubeconfig": rights, "workloads": "ignore"}
    made = RotatingNode(tmp_path / "place", hurried=False, cluster=settings)
    world.old, world.new = made.old, root_ca()
    labels = {"node-role.kubernetes.io/control-plane": ""}
    world.api.store.add("nodes", NODE, metadata={"labels": labels})
    made.begin(world.new)
    return made


def one_pass(world: World, node: RotatingNode, enforcer: Enforcer) -> str | None:
    """What a daemon does when it is its turn, in a cluster that is as it should be."""
    if node.record:
        fit(world, node.record)
    assessment, around = enforcer.see()
    made = enforcer.plan(assessment, around=around)
    if made.writes:
        return "; ".join(each.message for each in enforcer.executor.execute(made))
    return enforcer.rotate(assessment, around, made)


def come_to(phase: Phase | None, world: World, node: RotatingNode, enforcer: Enforcer) -> None:
    for _ in range(200):
        if node.phase is phase:
            return
        one_pass(world, node, enforcer)
    raise AssertionError(f"{node.record}: {enforcer.rotating.waits}")


def annotation(world: World) -> object:
    """What the node says."""
    return world.api.store.get("nodes", NODE)["metadata"].get("annotations", {}).get(ANNOTATION)


@pytest.mark.real("openssl")
def test_a_node_is_led_to_the_end(world: World, node: RotatingNode) -> None:
    """With the two kubeconfigs of docs/rotation.md it annotates its Node, leads, and gives the Lease back."""
    come_to(None, world, node, node.enforcer())
    assert node.unwell(world.new) == []
    assert world.phase is Phase.DONE
    assert str(annotation(world)).startswith("20261124T120000Z-abcdef/attach/")
    assert world.api.leases.only["spec"]["holderIdentity"] == ""


@pytest.mark.parametrize(
    "call", ["PUT /api/v1/namespaces/kube-system/configmaps", "GET /api/v1/namespaces/kube-system/configmaps"]
)
def test_a_phase_that_cannot_be_recorded_is_not_left(world: World, node: RotatingNode, call: str) -> None:
    """The node waits and says for what; it goes on when the record can be written, and nothing has failed."""
    enforcer = node.enforcer()
    world.api.denied = {call}
    for _ in range(3):
        assert one_pass(world, node, enforcer) is None
    (said,) = enforcer.rotating.waits
    assert said.startswith("prepare is reached, and that could not be recorded: the user of ")
    assert "resourceNames [certmond-rotation]" in said
    assert (node.phase, world.phase) == (Phase.PREPARE, Phase.PREPARE)
    world.api.denied = set()
    come_to(Phase.DETACH, world, node, enforcer)
    assert world.phase is Phase.DETACH


def test_another_record_in_the_cluster_is_told(world: World, node: RotatingNode) -> None:
    """A record that this node cannot follow stops it, and the next look tells it as what it is."""
    enforcer = node.enforcer()
    one_pass(world, node, enforcer)
    before = node.phase
    world.put("configmaps", "certmond-rotation", "kube-system", data={"record": "["})
    again = node.enforcer()
    assert one_pass(world, node, again) is None
    assert "not to be understood" in again.rotating.waits[0]
    assert one_pass(world, node, again) is None
    assert again.rotating.broken
    assert node.phase is before


def test_what_a_node_has_said_holds_while_it_is_so(world: World, node: RotatingNode) -> None:
    """A file that is changed after the node has said that it has come so far takes that back."""
    world.api.store.add("nodes", "node-2")  # which has not answered: the phase lasts
    enforcer = node.enforcer()
    come_to(Phase.PREPARE, world, node, enforcer)
    assert one_pass(world, node, enforcer) is None
    assert enforcer.rotating.waits == ("node-2 has not answered",)
    assert str(annotation(world)).startswith("20261124T120000Z-abcdef/prepare/")
    node.put("ca.crt", root_ca().pem)
    assert one_pass(world, node, enforcer) is None
    assert annotation(world) is None
    node.put("ca.crt", node.old.pem)
    assert one_pass(world, node, enforcer) is None
    assert annotation(world) is not None
