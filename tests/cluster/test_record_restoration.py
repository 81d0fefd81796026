"""A record of a rotation that was deleted, or is older than the state of the nodes: which node restores it, and which
does not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from certmond.cluster.api_access import Access
from certmond.cluster.node_api import ANNOTATION, Acknowledgement
from certmond.errors import OvertakenError, RotationError
from certmond.pki.rotation.phases import Phase, Rotation, abort
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.coordinator_world import POLL, Place, World
from tests.cluster.leaks import leaks


@pytest.fixture
def world(cluster: ApiServer, access_of: Callable[..., Access]) -> Iterator[World]:
    """A cluster without nodes, the API of which never gets a key of a CA."""
    made = World(cluster, access_of)
    yield made
    assert not leaks(bytes(cluster.received), made.old, made.new)


def come_together(world: World, places: dict[Place, Rotation], closed: Collection[str] = ()) -> dict[Place, Rotation]:
    """Make passes in which each node handles the record like `rotating`: it follows, or restores its state."""
    noted = dict(places)
    for _ in range(4):
        for place, own in noted.items():
            world.passes(POLL * 6)
            place.conductor.ask()
            followed = place.conductor.follow(own, closed)
            assert followed
            noted[place] = followed
            if followed == own:
                with suppress(OvertakenError):
                    place.conductor.bring_back(own)
    return noted


PHASES = tuple(Phase)
APART = [
    (behind, further, back)
    for behind, further in pairwise(PHASES)
    for back in (None, *PHASES[: PHASES.index(further) + 1])
]
"""The phases of two nodes, and the record of the cluster: none, or an earlier one."""


@pytest.mark.long
@pytest.mark.parametrize("order", [1, -1], ids=["the further first", "the further last"])
@pytest.mark.parametrize(("behind", "further", "back"), APART)
def test_the_most_advanced_node_restores_the_record(
    world: World, behind: Phase, further: Phase, back: Phase | None, order: int
) -> None:
    """If two control planes are a phase apart when the record is deleted, or an older one has returned, both reach the
    later phase, and the record has it, whichever node makes the first pass.
    """
    one, two = world.node("control-1"), world.node("control-2")
    if back is not None:
        world.record(world.rotation(back))
    places = {one: world.rotation(further), two: world.rotation(behind)}
    noted = come_together(world, dict(list(places.items())[::order]))
    assert {each.phase for each in noted.values()} == {further}
    assert world.phase is further


@pytest.mark.parametrize("order", [1, -1])
def test_an_abort_is_restored(world: World, order: int) -> None:
    """A node that missed the abort of the rotation does not undo it by restoring the earlier record."""
    one, two = world.node("control-1"), world.node("control-2")
    there = world.rotation(Phase.ISSUE)
    places = {one: abort(there, world.now), two: there}
    noted = come_together(world, dict(list(places.items())[::order]))
    assert {each.id for each in noted.values()} == {"r-1-back"}
    assert world.recorded
    assert world.recorded.id == "r-1-back"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"id": "r-1", "phase": "attach"}, "control-2 has reached attach already"),
        (
            {"id": "r-1-back", "phase": "issue"},
            "control-2 reports the rotation r-1-back, which is unknown on this node",
        ),
        ({"id": "r-2", "phase": "prepare"}, "control-2 reports the rotation r-2, which is unknown on this node"),
        ({"id": "r-0", "phase": "attach"}, None),
        ({"id": "r-1", "phase": "detach"}, None),
    ],
)
def test_a_node_with_an_older_state_restores_nothing(world: World, said: dict[str, str], why: str | None) -> None:
    """An example is a node that was restored from a backup: a report of a later phase, or of a rotation that this node
    has not ended, contradicts it. A report of a finished rotation or an earlier phase does not.
    """
    one, _ = world.node("control-1"), world.node("control-2")
    text = str(Acknowledgement(**said, trust="", issuer="", holds_key=True))
    world.put("nodes", "control-2", metadata={"annotations": {ANNOTATION: text}})
    own = world.rotation(Phase.TRUST)
    one.conductor.ask()
    assert one.conductor.follow(own, ["r-0"]) == own
    if why is None:
        one.conductor.bring_back(own)
        assert world.phase is Phase.TRUST
        return
    with pytest.raises(RotationError, match=f"^{why}"):
        one.conductor.bring_back(own)
    assert world.recorded is None


def test_an_unreadable_record_is_not_restored(world: World) -> None:
    """While the API does not answer, or has an unreadable record, no node can conclude that the record was deleted."""
    one, own = world.node("control-1"), world.rotation(Phase.TRUST)
    world.api.faults = [Fault(503)]
    one.conductor.ask()
    one.conductor.bring_back(own)
    assert world.recorded is None
    world.put("configmaps", "certmond-rotation", "kube-system", data={"record": "["})
    world.passes(POLL * 6)
    one.conductor.ask()
    one.conductor.bring_back(own)
    assert world.api.store.get("configmaps", "certmond-rotation", "kube-system")["data"] == {"record": "["}


def test_a_record_of_a_closed_rotation_is_not_restored(world: World) -> None:
    """After a restore of etcd, no node that has ended the rotation follows it or advances it. The command that begins
    another one, or continues one, reports the stale record and the remedy.
    """
    one, own = world.node("control-1"), world.rotation(Phase.TRUST, id="r-2")
    world.record(world.rotation(Phase.ISSUE))
    one.conductor.ask()
    assert one.conductor.follow(own, ["r-1"]) == own
    one.conductor.bring_back(own)
    for decided in (own, replace(own, phase=Phase.ISSUE)):
        with pytest.raises(RotationError) as raised:
            one.conductor.publish(decided)
        said = str(raised.value)
        assert "of the rotation r-1 of ca in the phase issue, but this node has ended the rotation" in said
        assert said.endswith("run: kubectl -n kube-system delete configmap certmond-rotation")
    assert world.recorded
    assert world.recorded.id == "r-1"


BACK_LATER = [
    (there, at)
    for there in (Phase.PREPARE, Phase.DETACH, Phase.TRUST, Phase.ISSUE)
    for at in (Phase.ISSUE, Phase.DISTRUST, Phase.ATTACH)
    if there is not Phase.ISSUE or at is Phase.ISSUE
]
"""The phase in the record of a restored etcd, and the phase that the nodes had reached in the abort."""


@pytest.mark.parametrize(("there", "at"), BACK_LATER)
def test_an_abort_is_restored_over_any_record_of_the_same_rotation(world: World, there: Phase, at: Phase) -> None:
    """This holds in every phase of the abort and for a record of any phase before it: the abandoned CA has signed
    nothing there, or what it has signed is issued again.
    """
    one, two = world.node("control-1"), world.node("control-2")
    back = replace(abort(world.rotation(Phase.ISSUE), world.now), phase=at)
    world.record(world.rotation(there))
    noted = come_together(world, {one: back, two: back})
    assert set(noted.values()) == {back}
    assert world.recorded
    assert (world.recorded.id, world.phase) == ("r-1-back", at)


@pytest.mark.parametrize("at", [Phase.DISTRUST, Phase.ATTACH, Phase.DONE])
def test_a_distrust_is_not_restored_over_a_record_of_use(world: World, at: Phase) -> None:
    """If the record uses the abandoned CA, other nodes may do so. A node that has reached its distrust leaves the
    record to an operator, and reports the state and the remedy.
    """
    one, there = world.node("control-1"), world.rotation(Phase.ISSUE)
    world.record(there)
    one.conductor.ask()
    with pytest.raises(RotationError) as raised:
        one.conductor.bring_back(replace(abort(there, world.now), phase=at))
    said = str(raised.value)
    fact = f"in the phase issue, but this node has recorded that the abort has reached the phase {at}"
    assert f"{fact}: a restore of etcd might have" in said
    assert said.endswith("run: kubectl -n kube-system delete configmap certmond-rotation")
    assert world.phase is Phase.ISSUE


@pytest.mark.parametrize("phase", [Phase.DISTRUST, Phase.ATTACH])
def test_an_abort_is_not_restored_for_a_node_beyond_it(world: World, phase: Phase) -> None:
    """A node has reported that it distrusts the old CA. An abort would issue certificates that this node does not
    trust.
    """
    one, _ = world.node("control-1"), world.node("control-2")
    text = str(Acknowledgement("r-1", phase.value, trust="", issuer="", holds_key=True))
    world.put("nodes", "control-2", metadata={"annotations": {ANNOTATION: text}})
    one.conductor.ask()
    with pytest.raises(RotationError, match=f"^control-2 had reached {phase} before the abort"):
        one.conductor.bring_back(abort(world.rotation(Phase.ISSUE), world.now))
    assert world.recorded is None


@pytest.mark.parametrize("former", ["r-0", "r-0-back"])
@pytest.mark.parametrize("order", [1, -1])
def test_the_end_of_an_earlier_rotation_is_no_record_of_this_one(world: World, former: str, order: int) -> None:
    """An etcd that was restored to before the rotation has the finished rotation before it. The more advanced of two
    nodes restores the present record, so that the other, and a node that has not read it yet, get the phase.
    """
    one, two = world.node("control-1"), world.node("control-2")
    world.record(world.rotation(Phase.DONE, id=former))
    places = {one: world.rotation(Phase.ISSUE), two: world.rotation(Phase.TRUST)}
    noted = come_together(world, dict(list(places.items())[::order]), closed=["r-0", "r-0-back"])
    assert {each.phase for each in noted.values()} == {Phase.ISSUE}
    assert world.recorded
    assert (world.recorded.id, world.phase) == ("r-1", Phase.ISSUE)


def test_the_released_batches_are_restored(world: World) -> None:
    """An older record of the same phase has released fewer workers: a node that joins, or was away, would wait and
    block the phase. A node with the later record restores it.
    """
    one, two = world.node("control-1"), world.node("control-2")
    own = world.rotation(Phase.TRUST, released=0.9)
    world.record(replace(own, released=0.2))
    noted = come_together(world, {two: replace(own, released=0.2), one: own})
    assert set(noted.values()) == {own}
    assert world.recorded
    assert world.recorded.released == 0.9


def waits(world: World, worker: Place, own: Rotation, span: timedelta) -> str:
    """Return the reason for which a worker that has reached its phase waits, after this time with a call each
    minute.
    """
    said = ""
    for _ in range(max(1, span // (POLL * 6))):
        world.passes(POLL * 6)
        worker.conductor.ask()
        (said,) = worker.gate(own).waits
    return said


@pytest.mark.long
@pytest.mark.parametrize("phase", [Phase.TRUST, Phase.ATTACH])
def test_a_worker_completes_a_rotation_whose_record_was_deleted(world: World, phase: Phase) -> None:
    """No node is left that could lead it from the last phase, which all nodes had reached. The worker reports the
    missing record, and after ten minutes, in which a control plane would have restored it, completes the rotation. From
    an earlier phase it does not.
    """
    worker, own = world.node("worker-1", worker=True), world.rotation(phase)
    missing = (
        "the cluster has no record of the rotation; a control-plane node that recorded the rotation restores the record"
    )
    assert waits(world, worker, own, timedelta(minutes=9)) == missing
    assert worker.conductor.follow(own, ()) == own
    waits(world, worker, own, timedelta(minutes=2))
    over = phase is Phase.ATTACH
    assert worker.conductor.follow(own, ()) == (replace(own, phase=Phase.DONE) if over else own)


@pytest.mark.long
def test_a_missing_record_alone_is_not_trusted(world: World) -> None:
    """A foreign proxy may answer the same. A worker that ends the rotation alone must be able to write its Node until
    then.
    """
    worker, own = world.node("worker-1", worker=True), world.rotation(Phase.ATTACH)
    waits(world, worker, own, timedelta(minutes=1))
    node = world.api.store.get("nodes", "worker-1")
    world.api.store.remove("nodes", "worker-1")
    assert "has no Node worker-1" in waits(world, worker, own, timedelta(minutes=30))
    assert worker.conductor.follow(own, ()) == own
    world.api.store.add("nodes", "worker-1", metadata={"labels": node["metadata"].get("labels", {})})
    world.record(own)
    assert waits(world, worker, own, timedelta(minutes=1)).startswith("the leader begins the next phase")


@pytest.mark.long
@pytest.mark.parametrize("how", ["is back", "cannot be asked for"])
def test_a_record_that_is_missing_only_for_a_while_is_waited_for(world: World, how: str) -> None:
    """Ten minutes count from its last disappearance, and only while the API answers."""
    worker, own = world.node("worker-1", worker=True), world.rotation(Phase.ATTACH)
    waits(world, worker, own, timedelta(minutes=9))
    if how == "is back":
        world.record(own)
        assert waits(world, worker, own, timedelta(minutes=1)).startswith("the leader begins the next phase")
        world.api.store.remove("configmaps", "certmond-rotation", "kube-system")
    else:
        world.api.faults = [Fault(503)]
        world.passes(POLL * 6)
        worker.conductor.ask()
    waits(world, worker, own, timedelta(minutes=9))
    assert worker.conductor.follow(own, ()) == own
    waits(world, worker, own, timedelta(minutes=2))
    world.record(own)
    world.passes(POLL * 6)
    worker.conductor.ask()
    assert worker.conductor.follow(own, ()) == own
