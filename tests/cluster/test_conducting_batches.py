"""Workers in batches: the real conductors of a cluster let them act, wait for them, and name who is silent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from certmond.cluster.connection import Access
from certmond.cluster.nodes import ANNOTATION
from certmond.cluster.record import parse
from certmond.cluster.record_rules import record_of, rotation_of
from certmond.errors import MalformedError, OvertakenError
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.rotation.worker_batches import Workers, held_back, place
from tests.builders import SECOND
from tests.cluster.api_server import ApiServer
from tests.cluster.conducting import POLL, Place, World
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
    """The workers that hear that their batch has come: each asks with its own rights."""
    found = list[str]()
    for name in WORKERS:
        here = world.node(name, worker=True).conductor
        here.ask()
        told = here.follow(None, ())
        assert told
        found += [name] * (held_back(told, name) is None)
    return found


def leads(world: World, node: Place) -> Gate:
    """What this node has to say, that has come so far; what is to be known by all it records."""
    node.conductor.ask()
    gate = node.gate(recorded(world))
    if gate.noted:
        node.conductor.publish(gate.noted)
    return gate


def acknowledge(world: World, nodes: dict[str, Place], *names: str) -> None:
    for name in names:
        nodes[name].gate(recorded(world))


def test_workers_act_when_those_before_them_have_come_so_far(world: World, nodes: dict[str, Place]) -> None:
    """Control planes first, then one worker, then as many as the configuration says, to the last; only then the phase
    is left.
    """
    first = nodes["control-1"]
    said = leads(world, first).waits
    assert said == ("control-2 has not answered (5 workers: 0 released, 0 acknowledged)",)
    assert may_act(world) == []
    acknowledge(world, nodes, "control-2")
    nodes["control-2"].conductor.end()  # which would have led, too
    assert leads(world, first).waits == (f"trust is acknowledged by 0 of 5 workers; next: {WORKERS[0]}",)
    for acting, following in ((WORKERS[:1], WORKERS[1:3]), (WORKERS[1:3], WORKERS[3:])):
        before = may_act(world)
        assert before[-len(acting) :] == acting
        for name in acting:
            assert any(each.startswith(f"{name} has not answered") for each in leads(world, first).waits)
            assert may_act(world) == before
            acknowledge(world, nodes, name)
        (said_then,) = leads(world, first).waits
        assert said_then == f"trust is acknowledged by {len(before)} of 5 workers; next: {', '.join(following)}"
    assert may_act(world) == WORKERS
    acknowledge(world, nodes, *WORKERS[3:])
    assert leads(world, first) == Gate()
    assert first.conductor.workers(recorded(world)) == Workers(5, 5, 5)


def test_a_worker_that_is_silent_stops_the_phase_and_is_named(world: World, nodes: dict[str, Place]) -> None:
    """Nobody behind it acts, however long that takes, until it is left out: then the next ones do."""
    first, (silent, second, third, *_) = nodes["control-1"], WORKERS
    acknowledge(world, nodes, "control-2")
    leads(world, first)
    for _ in range(5):
        world.passes(POLL * 10)
        assert leads(world, first).waits == (f"{silent} has not answered (5 workers: 1 released, 0 acknowledged)",)
        assert may_act(world) == [silent]
    first.conductor.publish(replace(recorded(world), excluded=(silent,)))
    assert leads(world, first).waits == (f"trust is acknowledged by 0 of 4 workers; next: {second}",)
    acknowledge(world, nodes, second)
    leads(world, first)
    assert may_act(world)[:3] == [silent, second, third]


def test_who_takes_its_word_back_stops_those_behind_it(world: World, nodes: dict[str, Place]) -> None:
    """A worker that was well, and is not any more, is waited for again."""
    first, canary = nodes["control-1"], WORKERS[0]
    acknowledge(world, nodes, "control-2")
    leads(world, first)
    acknowledge(world, nodes, canary)
    nodes[canary].conductor.unsettled(recorded(world))
    assert leads(world, first).waits[0].startswith(f"{canary} has not answered")
    assert may_act(world) == [canary]


@pytest.mark.parametrize("silent", WORKERS[:2])
def test_a_worker_that_is_labelled_as_a_control_plane_follows_in_its_turn(
    world: World, nodes: dict[str, Place], silent: str
) -> None:
    """Once `prepare` is over no control plane says that it lacks the new key: who does is a worker, whatever its label
    is since. It is let act with those of its place, and nobody waits for it before.
    """
    nodes[silent].gate(trust(world, phase=Phase.DETACH))
    labels = {"node-role.kubernetes.io/control-plane": ""}
    world.put("nodes", silent, metadata={"labels": labels, "annotations": {ANNOTATION: nodes[silent].says}})
    acknowledge(world, nodes, "control-2")
    first, acted = nodes["control-1"], list[str]()
    while acted != WORKERS:
        said = leads(world, first).waits
        assert said[0].startswith(f"trust is acknowledged by {len(acted)} of 5 workers; next: "), said
        acknowledge(world, nodes, *(acted := may_act(world)))
    assert leads(world, first) == Gate()


def test_a_control_plane_is_one_whatever_it_has_said_of_another_rotation(world: World, nodes: dict[str, Place]) -> None:
    """Without the key of a CA that was to follow then, it is waited for before any worker acts."""
    nodes["control-2"].gate(trust(world, id="r-0"), ready=False)
    assert leads(world, nodes["control-1"]).waits[0].startswith("control-2 has not answered (5 workers: 0 released")
    assert may_act(world) == []


def test_only_who_leads_lets_workers_act(world: World, nodes: dict[str, Place]) -> None:
    """Another control plane says who leads; it goes on where the leader left it, once that one is gone."""
    one, two = (nodes[name] for name in CONTROL_PLANES)
    leads(world, two)
    leads(world, one)
    acknowledge(world, nodes, WORKERS[0])
    assert leads(world, two).waits[0].startswith("control-1 holds the Lease kube-system/certmond-rotation")
    assert may_act(world) == WORKERS[:1]
    world.passes(60 * SECOND)
    assert leads(world, two).noted
    assert may_act(world) == WORKERS[:3]


def test_of_two_that_let_workers_act_at_once_one_is_told(world: World, nodes: dict[str, Place]) -> None:
    """What was decided from an older record is not written, be it found by its content or by its version."""
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


def test_no_worker_is_held_back_again_in_the_same_phase(world: World, nodes: dict[str, Place]) -> None:
    """Neither is fewer workers let act than the record says, nor does a node follow a record that was put back."""
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
def test_what_is_at_once_or_changes_no_worker_has_no_batches(
    world: World, nodes: dict[str, Place], changes: dict[str, object]
) -> None:
    """Everybody may act, everybody is waited for, and the record is not touched; nobody is counted."""
    world.record(rotation := trust(world, **changes))
    assert may_act(world) == WORKERS
    waits = leads(world, nodes["control-1"]).waits
    assert waits == tuple(f"{name} has not answered" for name in ("control-2", *sorted(WORKERS)))
    assert recorded(world) == rotation
    assert nodes["control-1"].conductor.workers(rotation) is None


@pytest.mark.parametrize("released", ["-0.1", "1.1", "NaN", '"0.5"'])
def test_a_place_that_is_none_is_no_record(world: World, released: str) -> None:
    """What lies outside of 0 to 1 is not guessed at."""
    text = record_of(trust(world, released=0.25), "node-1").text()
    assert parse(text, "it").released == 0.25
    with pytest.raises(MalformedError, match="released"):
        parse(text.replace('"released": 0.25', f'"released": {released}'), "it")


def test_nothing_secret_is_said(world: World, nodes: dict[str, Place]) -> None:
    """A place is a share that the name decides; no key of a CA ever goes through the API."""
    for name in CONTROL_PLANES[::-1]:
        leads(world, nodes[name])
    assert recorded(world).released == place(WORKERS[1])
    assert not leaks(bytes(world.api.received), world.old, world.new)
