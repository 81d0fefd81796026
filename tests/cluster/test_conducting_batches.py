"""Workers in batches: the real coordinators of a cluster release them, wait for them, and name the silent ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from certmond.cluster.api_access import Access
from certmond.cluster.node_api import ANNOTATION
from certmond.cluster.record import parse
from certmond.cluster.record_rules import record_of, rotation_of
from certmond.errors import MalformedError, OvertakenError
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.rotation.worker_batches import Workers, held_back, place
from tests.builders import SECOND
from tests.cluster.api_server import ApiServer
from tests.cluster.coordinator_world import POLL, Place, World
from tests.cluster.leaks import leaks

CONTROL_PLANES = ("control-1", "control-2")
WORKERS = sorted((f"worker-{number}" for number in range(1, 6)), key=place)
"""In the order in which they act."""


@pytest.fixture
def world(cluster: ApiServer, access_of: Callable[..., Access], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("certmond.cluster.rotation_checks.signer._POLL_INTERVAL", 0.01)
    made = World(cluster, access_of)
    made.publish(made.old.facts, made.new.facts)
    return made


@pytest.fixture
def nodes(world: World) -> dict[str, Place]:
    """Two control planes and five workers, of which two may act at a time."""
    made = {name: world.node(name, worker=name in WORKERS, batch="2") for name in (*CONTROL_PLANES, *WORKERS)}
    world.record(trust(world))
    return made


def trust(world: World, **changes: object) -> Rotation:
    return replace(world.rotation(Phase.TRUST), signature="c2lnbmVk", **changes)  # type: ignore[arg-type]


def recorded(world: World) -> Rotation:
    assert world.recorded
    return rotation_of(world.recorded)


def may_act(world: World) -> list[str]:
    """Return the workers that read their release, each with its own rights."""
    found = list[str]()
    for name in WORKERS:
        here = world.node(name, worker=True).conductor
        here.ask()
        reported = here.follow(None, ())
        assert reported
        found += [name] * (held_back(reported, name) is None)
    return found


def leads(world: World, node: Place) -> Gate:
    """Report this node, which has reached the phase, and publish its record."""
    node.conductor.ask()
    gate = node.gate(recorded(world))
    if gate.noted:
        node.conductor.publish(gate.noted)
    return gate


def acknowledge(world: World, nodes: dict[str, Place], *names: str) -> None:
    for name in names:
        nodes[name].gate(recorded(world))


@pytest.mark.long
def test_workers_act_when_those_before_them_have_reported(world: World, nodes: dict[str, Place]) -> None:
    """Control planes are first, then one worker, then a batch at a time, to the last. Only then the phase ends."""
    first = nodes["control-1"]
    said = leads(world, first).waits
    assert said == ("control-2 has not reported (5 workers: 0 released, 0 acknowledged)",)
    assert may_act(world) == []
    acknowledge(world, nodes, "control-2")
    nodes["control-2"].conductor.end()  # which would have led, too
    assert leads(world, first).waits == (f"0 of 5 workers have acknowledged trust; next: {WORKERS[0]}",)
    for acting, following in ((WORKERS[:1], WORKERS[1:3]), (WORKERS[1:3], WORKERS[3:])):
        before = may_act(world)
        assert before[-len(acting) :] == acting
        for name in acting:
            assert any(each.startswith(f"{name} has not reported") for each in leads(world, first).waits)
            assert may_act(world) == before
            acknowledge(world, nodes, name)
        (said_then,) = leads(world, first).waits
        assert said_then == f"{len(before)} of 5 workers have acknowledged trust; next: {', '.join(following)}"
    assert may_act(world) == WORKERS
    acknowledge(world, nodes, *WORKERS[3:])
    assert leads(world, first) == Gate()
    assert first.conductor.workers(recorded(world)) == Workers(5, 5, 5)


@pytest.mark.long
def test_a_silent_worker_stops_the_phase_and_is_named(world: World, nodes: dict[str, Place]) -> None:
    """No worker behind it starts until it is excluded. Then the next ones start."""
    first, (silent, second, third, *_) = nodes["control-1"], WORKERS
    acknowledge(world, nodes, "control-2")
    leads(world, first)
    for _ in range(5):
        world.passes(POLL * 10)
        assert leads(world, first).waits == (f"{silent} has not reported (5 workers: 1 released, 0 acknowledged)",)
        assert may_act(world) == [silent]
    first.conductor.publish(replace(recorded(world), excluded=(silent,)))
    assert leads(world, first).waits == (f"0 of 4 workers have acknowledged trust; next: {second}",)
    acknowledge(world, nodes, second)
    leads(world, first)
    assert may_act(world)[:3] == [silent, second, third]


def test_a_worker_that_withdraws_its_report_stops_those_behind_it(world: World, nodes: dict[str, Place]) -> None:
    """The coordinator waits again for a worker that was ready and no longer is."""
    first, canary = nodes["control-1"], WORKERS[0]
    acknowledge(world, nodes, "control-2")
    leads(world, first)
    acknowledge(world, nodes, canary)
    nodes[canary].conductor.unsettled(recorded(world))
    assert leads(world, first).waits[0].startswith(f"{canary} has not reported")
    assert may_act(world) == [canary]


@pytest.mark.long
@pytest.mark.parametrize("silent", WORKERS[:2])
def test_a_worker_with_the_label_of_a_control_plane_follows_in_its_batch(
    world: World, nodes: dict[str, Place], silent: str
) -> None:
    """After `prepare`, every control plane has the new key, so a node without it is a worker, whatever its label. It is
    released with its batch, and the coordinator does not wait for it before.
    """
    nodes[silent].gate(trust(world, phase=Phase.DETACH))
    labels = {"node-role.kubernetes.io/control-plane": ""}
    world.put("nodes", silent, metadata={"labels": labels, "annotations": {ANNOTATION: nodes[silent].says}})
    acknowledge(world, nodes, "control-2")
    first, acted = nodes["control-1"], list[str]()
    while acted != WORKERS:
        said = leads(world, first).waits
        assert said[0].startswith(f"{len(acted)} of 5 workers have acknowledged trust; next: "), said
        acknowledge(world, nodes, *(acted := may_act(world)))
    assert leads(world, first) == Gate()


def test_a_control_plane_is_one_whatever_it_has_said_of_another_rotation(world: World, nodes: dict[str, Place]) -> None:
    """Without the key of a CA that was to follow then, it is waited for before any worker acts."""
    nodes["control-2"].gate(trust(world, id="r-0"), ready=False)
    assert leads(world, nodes["control-1"]).waits[0].startswith("control-2 has not reported (5 workers: 0 released")
    assert may_act(world) == []


@pytest.mark.long
def test_only_the_coordinator_releases_workers(world: World, nodes: dict[str, Place]) -> None:
    """Another control plane reports the coordinator. It continues where the coordinator stopped, when that one has
    ended.
    """
    one, two = (nodes[name] for name in CONTROL_PLANES)
    leads(world, two)
    leads(world, one)
    acknowledge(world, nodes, WORKERS[0])
    assert leads(world, two).waits[0].startswith("control-1 holds the Lease kube-system/certmond-rotation")
    assert may_act(world) == WORKERS[:1]
    world.passes(60 * SECOND)
    assert leads(world, two).noted
    assert may_act(world) == WORKERS[:3]


def test_one_of_two_concurrent_releases_is_refused(world: World, nodes: dict[str, Place]) -> None:
    """A decision from an older record is not written, whether its content or its version shows that."""
    one, two = (nodes[name] for name in CONTROL_PLANES)
    for each in (one, two):
        each.conductor.ask()
    known = recorded(world)
    one.conductor.publish(replace(known, released=0.5))
    with pytest.raises(OvertakenError):
        two.conductor.publish(replace(known, released=0.3))
    two.conductor.ask()
    world.api.store.before_write = lambda: world.record(replace(known, released=0.9))
    with pytest.raises(OvertakenError):
        two.conductor.publish(replace(known, released=0.7))
    assert recorded(world).released == 0.9


def test_no_worker_is_held_again_in_the_same_phase(world: World, nodes: dict[str, Place]) -> None:
    """The record never releases fewer workers than before, and a node does not follow a record that does."""
    worker, first = nodes[WORKERS[0]].conductor, nodes["control-1"].conductor
    had = replace(recorded(world), released=0.9)
    world.record(had)
    with pytest.raises(OvertakenError, match="has released more workers; certmond reads the record again"):
        first.publish(replace(had, released=0.8))
    worker.ask()
    assert worker.follow(None, ()) == had
    world.record(replace(had, released=0.0, excluded=("worker-9",)))
    world.passes(POLL)
    worker.ask()
    assert worker.follow(had, ()) == replace(had, excluded=("worker-9",))
    later = replace(had, phase=Phase.ISSUE, released=0.0)
    world.record(later)
    world.passes(POLL)
    worker.ask()
    assert worker.follow(had, ()) == later


@pytest.mark.parametrize("changes", [{"mode": Mode.REPLACE, "phase": Phase.ISSUE}, {"phase": Phase.ATTACH}])
def test_a_rotation_without_batches_releases_all_workers(
    world: World, nodes: dict[str, Place], changes: dict[str, object]
) -> None:
    """All workers act, the coordinator waits for all, and the record is not written. No worker is counted."""
    world.record(rotation := trust(world, **changes))
    assert may_act(world) == WORKERS
    waits = leads(world, nodes["control-1"]).waits
    assert waits == tuple(f"{name} has not reported" for name in ("control-2", *sorted(WORKERS)))
    assert recorded(world) == rotation
    assert nodes["control-1"].conductor.workers(rotation) is None


@pytest.mark.parametrize("released", ["-0.1", "1.1", "NaN", '"0.5"'])
def test_an_invalid_place_is_no_record(world: World, released: str) -> None:
    """A value outside of 0 to 1 is an error."""
    text = record_of(trust(world, released=0.25), "node-1").text()
    assert parse(text, "it").released == 0.25
    with pytest.raises(MalformedError, match="released"):
        parse(text.replace('"released": 0.25', f'"released": {released}'), "it")


def test_no_secret_is_sent(world: World, nodes: dict[str, Place]) -> None:
    """The place of a worker is a fraction that its name determines. No key of a CA is ever sent through the API."""
    for name in CONTROL_PLANES[::-1]:
        leads(world, nodes[name])
    assert recorded(world).released == place(WORKERS[1])
    assert not leaks(bytes(world.api.received), world.old, world.new)
