"""A record of a rotation that was deleted, or is older than what nodes have noted: who brings it back, and who not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from certmond.cluster.connection import Access
from certmond.cluster.nodes import ANNOTATION, Acknowledgement
from certmond.errors import OvertakenError, RotationError
from certmond.pki.rotation.phases import Phase, Rotation, abort
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.conducting import POLL, Place, World
from tests.cluster.leaks import leaks


@pytest.fixture
def world(cluster: ApiServer, access_of: Callable[..., Access]) -> Iterator[World]:
    """A cluster without nodes, the API of which never gets a key of a CA."""
    made = World(cluster, access_of)
    yield made
    assert not leaks(bytes(cluster.received), made.old, made.new)


def come_together(world: World, places: dict[Place, Rotation], closed: Collection[str] = ()) -> dict[Place, Rotation]:
    """Pass after pass, each node does what `rotating` does with a record: it follows, or brings back what it knows."""
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
"""Where two nodes are, and what the cluster has: nothing, or what was once written."""


@pytest.mark.parametrize("order", [1, -1], ids=["the further first", "the further last"])
@pytest.mark.parametrize(("behind", "further", "back"), APART)
def test_the_further_one_brings_the_record_back(
    world: World, behind: Phase, further: Phase, back: Phase | None, order: int
) -> None:
    """Two control planes are a phase apart when the record is deleted, or an older one of it has come back: whoever
    looks first, both come to the further phase, and the record has it.
    """
    one, two = world.node("control-1"), world.node("control-2")
    if back is not None:
        world.record(world.rotation(back))
    places = {one: world.rotation(further), two: world.rotation(behind)}
    noted = come_together(world, dict(list(places.items())[::order]))
    assert {each.phase for each in noted.values()} == {further}
    assert world.phase is further


@pytest.mark.parametrize("order", [1, -1])
def test_the_way_back_is_brought_back(world: World, order: int) -> None:
    """Who has not heard yet that the rotation was led back does not undo that by bringing the way there back."""
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
        ({"id": "r-1-back", "phase": "issue"}, "control-2 has said that it is in r-1-back, of which nothing is known"),
        ({"id": "r-2", "phase": "prepare"}, "control-2 has said that it is in r-2, of which nothing is known"),
        ({"id": "r-0", "phase": "attach"}, None),
        ({"id": "r-1", "phase": "detach"}, None),
    ],
)
def test_who_knows_less_than_others_brings_nothing_back(world: World, said: dict[str, str], why: str | None) -> None:
    """As a node that was restored from a backup: what others have said of a later phase, or of a rotation that this
    node has not ended, speaks against it; what is over, or earlier, does not.
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


def test_what_is_not_known_is_not_brought_back(world: World) -> None:
    """While the API does not answer, or has what cannot be understood, nobody can tell that the record is gone."""
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


def test_a_record_of_a_rotation_that_was_ended_does_not_come_back(world: World) -> None:
    """Of an etcd that was restored: it is followed by nobody who has ended it, and is not brought forward; who begins
    another one, or goes on with it, is told that it is stale, and what to do.
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
        assert "of the rotation r-1 of ca, in the phase issue, and this node has ended it" in said
        assert "`kubectl -n kube-system delete configmap certmond-rotation`" in said
    assert world.recorded
    assert world.recorded.id == "r-1"


BACK_LATER = [
    (there, at)
    for there in (Phase.PREPARE, Phase.DETACH, Phase.TRUST, Phase.ISSUE)
    for at in (Phase.ISSUE, Phase.DISTRUST, Phase.ATTACH)
    if there is not Phase.ISSUE or at is Phase.ISSUE
]
"""What of the way there an etcd that was restored may have, and how far the nodes were on the way back."""


@pytest.mark.parametrize(("there", "at"), BACK_LATER)
def test_the_way_back_is_brought_back_over_any_record_of_the_way_there(world: World, there: Phase, at: Phase) -> None:
    """However far the nodes have come on the way back, and from whatever phase of the way there the record is: the
    abandoned CA has signed nothing there, or what it has signed is issued again.
    """
    one, two = world.node("control-1"), world.node("control-2")
    back = replace(abort(world.rotation(Phase.ISSUE), world.now), phase=at)
    world.record(world.rotation(there))
    noted = come_together(world, {one: back, two: back})
    assert set(noted.values()) == {back}
    assert world.recorded
    assert (world.recorded.id, world.phase) == ("r-1-back", at)


@pytest.mark.parametrize("at", [Phase.DISTRUST, Phase.ATTACH, Phase.DONE])
def test_what_distrusts_is_not_brought_back_over_a_record_of_use(world: World, at: Phase) -> None:
    """Where the record has the abandoned CA used again, others may do so: who knows that it was to be distrusted by now
    leaves the record to a person, and says what is so, and what to do.
    """
    one, there = world.node("control-1"), world.rotation(Phase.ISSUE)
    world.record(there)
    one.conductor.ask()
    with pytest.raises(RotationError) as raised:
        one.conductor.bring_back(replace(abort(there, world.now), phase=at))
    said = str(raised.value)
    assert f"in the phase issue, and this node has recorded its abort, in {at}: a restore of etcd may have" in said
    assert "`kubectl -n kube-system delete configmap certmond-rotation`" in said
    assert world.phase is Phase.ISSUE


@pytest.mark.parametrize("phase", [Phase.DISTRUST, Phase.ATTACH])
def test_the_way_back_is_not_brought_back_to_who_has_gone_too_far(world: World, phase: Phase) -> None:
    """Somebody has said that the former CA is distrusted there already: whoever would lead back would issue what that
    one does not trust.
    """
    one, _ = world.node("control-1"), world.node("control-2")
    text = str(Acknowledgement("r-1", phase.value, trust="", issuer="", holds_key=True))
    world.put("nodes", "control-2", metadata={"annotations": {ANNOTATION: text}})
    one.conductor.ask()
    with pytest.raises(RotationError, match=f"^control-2 has reached {phase} on the way there"):
        one.conductor.bring_back(abort(world.rotation(Phase.ISSUE), world.now))
    assert world.recorded is None


@pytest.mark.parametrize("former", ["r-0", "r-0-back"])
@pytest.mark.parametrize("order", [1, -1])
def test_the_end_of_a_former_rotation_is_no_record_of_this_one(world: World, former: str, order: int) -> None:
    """An etcd that was restored to before the rotation began has the one before, which is over: the further of two
    nodes brings the present one back, so that the other, and who has not heard of it yet, learn how far it is.
    """
    one, two = world.node("control-1"), world.node("control-2")
    world.record(world.rotation(Phase.DONE, id=former))
    places = {one: world.rotation(Phase.ISSUE), two: world.rotation(Phase.TRUST)}
    noted = come_together(world, dict(list(places.items())[::order]), closed=["r-0", "r-0-back"])
    assert {each.phase for each in noted.values()} == {Phase.ISSUE}
    assert world.recorded
    assert (world.recorded.id, world.phase) == ("r-1", Phase.ISSUE)


def test_the_batches_that_were_let_act_are_brought_back(world: World) -> None:
    """An older record of the same phase has released fewer workers: who joins, or was away, would be waited for, and
    would wait itself. Who has noted more brings that back.
    """
    one, two = world.node("control-1"), world.node("control-2")
    own = world.rotation(Phase.TRUST, released=0.9)
    world.record(replace(own, released=0.2))
    noted = come_together(world, {two: replace(own, released=0.2), one: own})
    assert set(noted.values()) == {own}
    assert world.recorded
    assert world.recorded.released == 0.9


def waits(world: World, worker: Place, own: Rotation, span: timedelta) -> str:
    """What a worker that has reached its phase waits for, as it says after so long, in which it asks each minute."""
    said = ""
    for _ in range(max(1, span // (POLL * 6))):
        world.passes(POLL * 6)
        worker.conductor.ask()
        (said,) = worker.gate(own).waits
    return said


@pytest.mark.parametrize("phase", [Phase.TRUST, Phase.ATTACH])
def test_a_worker_whose_record_was_deleted_after_all_had_ended_comes_to_the_end(world: World, phase: Phase) -> None:
    """Nobody is left who could lead it on from the last phase, in which all nodes were: it says what is missing, and
    after ten minutes, in which a control plane would have brought the record back, goes to the end. From an earlier
    phase it does not.
    """
    worker, own = world.node("worker-1", worker=True), world.rotation(phase)
    missing = "the cluster has no record of the rotation; a control-plane node that has recorded it restores the record"
    assert waits(world, worker, own, timedelta(minutes=9)) == missing
    assert worker.conductor.follow(own, ()) == own
    waits(world, worker, own, timedelta(minutes=2))
    over = phase is Phase.ATTACH
    assert worker.conductor.follow(own, ()) == (replace(own, phase=Phase.DONE) if over else own)


def test_whatever_answers_that_there_is_no_record_is_not_believed_alone(world: World) -> None:
    """A proxy that knows nothing says that, too: who ends a rotation by itself is heard on its Node until then."""
    worker, own = world.node("worker-1", worker=True), world.rotation(Phase.ATTACH)
    waits(world, worker, own, timedelta(minutes=1))
    node = world.api.store.get("nodes", "worker-1")
    world.api.store.remove("nodes", "worker-1")
    assert "has no Node worker-1" in waits(world, worker, own, timedelta(minutes=30))
    assert worker.conductor.follow(own, ()) == own
    world.api.store.add("nodes", "worker-1", metadata={"labels": node["metadata"].get("labels", {})})
    world.record(own)
    assert waits(world, worker, own, timedelta(minutes=1)).startswith("the coordinator begins the next phase")


@pytest.mark.parametrize("how", ["is back", "cannot be asked for"])
def test_a_record_that_is_not_gone_all_the_time_is_waited_for(world: World, how: str) -> None:
    """Ten minutes count from when it was seen to be gone last, and while the API answers."""
    worker, own = world.node("worker-1", worker=True), world.rotation(Phase.ATTACH)
    waits(world, worker, own, timedelta(minutes=9))
    if how == "is back":
        world.record(own)
        assert waits(world, worker, own, timedelta(minutes=1)).startswith("the coordinator begins the next phase")
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
