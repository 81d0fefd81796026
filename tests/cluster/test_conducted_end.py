"""The last writes of a rotation that a cluster conducts: cut off anywhere, with and without the API they are done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

import pytest
import yaml

from certmond.cluster.api_access import Access
from certmond.pki.rotation.phases import Phase, Rotation
from tests.builders import DAY, make_ca, make_server
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.coordinator_world import World
from tests.cluster.lease_store import LEASES
from tests.cluster.test_conducted_node import NODE, come_to, one_pass
from tests.rotation_node import RotatingNode, root_ca
from tests.sampling import sample
from tests.tracing import changes, kill_at, record

pytestmark = [pytest.mark.real("openssl"), pytest.mark.timeout(600)]

STOPS = 6
"""Approximate number of stops in a sample."""


class Away(list[Fault]):
    """The API answers only 503."""

    def __init__(self) -> None:
        super().__init__([Fault(503)])

    def pop(self, index: SupportsIndex = -1) -> Fault:
        return self[index]


@pytest.fixture
def world(cluster: ApiServer, access_of: Callable[..., Access], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("certmond.cluster.rotation_checks.signer._POLL_INTERVAL", 0.01)
    return World(cluster, access_of)


@pytest.fixture
def node(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RotatingNode:
    """The only node, in the last phase that changes files."""
    monkeypatch.setattr(
        "certmond.controllers.coordinator_factory.KUBELET_CONF", world.api.user(f"system:node:{NODE}", "system:nodes")
    )
    settings: Any = {"kubeconfig": world.api.user("certmond", "certmond"), "workloads": "ignore"}
    made = RotatingNode(tmp_path / "place", hurried=False, cluster=settings)
    world.old, world.new = made.old, root_ca()
    world.api.store.add("nodes", NODE, metadata={"labels": {"node-role.kubernetes.io/control-plane": ""}})
    made.begin(world.new)
    come_to(Phase.ATTACH, world, made, made.enforcer())
    return made


def ends(world: World, node: RotatingNode) -> None:
    """Run the daemon until the rotation ends."""
    come_to(None, world, node, node.enforcer())


def again(world: World, node: RotatingNode, rotation: Rotation) -> None:
    """The node and the cluster's record as they were when the last writes began."""
    kept = node.place.with_name("kept")
    if not kept.exists():
        shutil.copytree(node.place, kept, symlinks=True)
    shutil.rmtree(node.place)
    shutil.copytree(kept, node.place, symlinks=True)
    world.record(rotation)


@pytest.mark.long
def test_an_end_that_is_cut_off_is_ended(world: World, node: RotatingNode) -> None:
    """Killed at any of its writes, a control plane that is in `done` itself ends the rotation although the API does not
    answer; one that is not there yet holds, and ends it when the API is back. The cluster's record is in `done`.
    """
    rotation = node.record
    assert rotation
    again(world, node, rotation)
    states = list[tuple[str, str]]()

    def note(stop: str) -> None:
        if changes(stop):
            states.append((str(world.phase), str(node.phase)))

    record(partial(ends, world, node), note)
    chosen = sample(range(len(states)), STOPS, "an end in a cluster", kind=lambda n: states[n])
    # A kill at the first stop of a state can leave the former state. The last stop has the last state in each case.
    chosen = sorted({*chosen, len(states) - 1})
    seen = set[tuple[str, str]]()
    for n, counted in ((0, lambda _: True), *((n, changes) for n in chosen)):  # at first before any change
        again(world, node, rotation)
        where = f"killed at {n}, {kill_at(partial(ends, world, node), n, counted=counted, ends=True)}"
        seen.add((str(world.phase), str(node.phase)))
        world.api.faults = Away()
        before, enforcer = node.phase, node.enforcer()
        for _ in range(5):
            one_pass(world, node, enforcer)
        assert node.phase is (Phase.ATTACH if before is Phase.ATTACH else None), where
        world.api.faults = []
        ends(world, node)
        assert node.unwell(world.new) == [], where
        assert {path.name for path in (node.state / "rotation").iterdir()} == {"closed.json", "last.json"}, where
        assert world.phase is Phase.DONE, where
    assert seen >= {("attach", "attach"), ("done", "attach"), ("done", "done"), ("done", "None")}


@pytest.mark.long
def test_a_record_that_was_deleted_keeps_no_node_in_done(world: World, node: RotatingNode) -> None:
    """If the record of the cluster is deleted when a node is in `done`, the node still ends the rotation."""
    enforcer = node.enforcer()
    come_to(Phase.DONE, world, node, enforcer)
    world.api.store.remove("configmaps", "certmond-rotation", "kube-system")
    ends(world, node)
    assert node.unwell(world.new) == []


def beside(world: World, node: RotatingNode) -> Path:
    """Add a service outside the rotation whose restart waits for the lock of another node. Return the file that its
    restart creates.
    """
    made, other = node.place / "site-was-restarted", make_ca()
    document = yaml.safe_load((node.place / "config.yaml").read_text())
    (node.place / "config.yaml").write_text(
        yaml.safe_dump(
            document
            | {
                "services": [{"name": "site", "kind": "command", "command": ["/usr/bin/touch", str(made)]}],
                "certificates": [
                    *document["certificates"],
                    {"name": "site-ca", "path": str(node.files / "site-ca.crt"), "authority": True},
                    {"name": "site", "path": str(node.files / "site.crt"), "key": str(node.files / "site.key"),
                     "ca": "site-ca", "consumers": ["site"]},
                ],
            }
        )
    )  # fmt: skip
    node.put("site-ca.crt", other.pem)
    enforcer, dates = node.enforcer(), {"not_before": world.now - DAY, "not_after": world.now + 80 * DAY}
    for number in range(2):
        leaf = make_server(other, "site", **dates)  # type: ignore[arg-type]
        node.put("site.key", leaf.key_pem)
        node.put("site.crt", leaf.pem)
        if number == 0:
            enforcer.record_good_files(*enforcer.see())
    held = {"holderIdentity": "node-9", "leaseDurationSeconds": 12}
    lease = {"metadata": {"name": "certmond-restart", "namespace": "kube-system"}, "spec": held}
    status, _ = world.api.leases.answer("POST", f"{LEASES}/kube-system/leases", json.dumps(lease).encode())
    assert status == 201
    return made


@pytest.mark.long
def test_a_restart_that_waits_for_the_lock_keeps_no_record(world: World, node: RotatingNode) -> None:
    """If the restart of an uninvolved service has to wait, the command ends the rotation like the daemon, and does not
    wait for that service.
    """
    come_to(Phase.DONE, world, node, node.enforcer())
    restarted = beside(world, node)
    done = node.hurry("root-ca", "rotate")
    assert (done.code, done.err) == (0, "")
    assert not restarted.exists()
    assert node.unwell(world.new) == []
