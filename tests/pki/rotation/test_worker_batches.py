"""Workers follow in batches: the released workers, the awaited ones, and no worker that passes a silent one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.rotation.gates import Gate, Member, Report
from certmond.pki.rotation.phases import Mode, Phase, Rotation, abort, following
from certmond.pki.rotation.worker_batches import (
    Workers,
    behind,
    held_back,
    in_batches,
    is_released,
    joined,
    next_batch,
    place,
    stepwise,
    workers,
)
from certmond.pki.services.trust_set_digest import digest_of
from tests.builders import HOUR, NOW
from tests.pki.rotation_node import NEW, OLD, at

P = Phase
BOTH = digest_of((OLD.facts, NEW.facts))


def shared(phase: Phase = P.TRUST, **fields: Any) -> Rotation:
    """Return a rotation of several nodes."""
    return at(phase, **{"signature": "c2lnbmVk"} | fields)


def members(names: Collection[str], silent: Collection[str] = (), control_planes: Sequence[str] = ()) -> list[Member]:
    """Return members that have all acknowledged `trust`, except the silent ones."""
    said = Report("r1", P.TRUST, BOTH)
    return [
        Member(name, name in control_planes, None if name in silent else said) for name in (*control_planes, *names)
    ]


def in_order(names: Collection[str]) -> list[str]:
    return sorted(names, key=place)


NAMES = st.lists(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), min_size=1, max_size=20, unique=True)
SIZES = st.integers(1, 25).map(str) | st.integers(1, 100).map(lambda share: f"{share}%")


def at_most(batch: str, count: int) -> int:
    """Return the number of workers that `batch` allows."""
    return max(1, int(batch[:-1]) * count // 100) if batch.endswith("%") else int(batch)


@pytest.mark.long
@given(NAMES, SIZES, st.data())
def test_at_most_one_batch_is_under_way_and_every_worker_acts(
    names: list[str], batch: str, data: st.DataObject
) -> None:
    """In any order of acknowledgments: first one worker acts, then at most a batch at a time, none is held twice, until
    all have acted. Excluded workers stop none of that.
    """
    excluded = data.draw(st.sets(st.sampled_from(names)))
    counted = [name for name in names if name not in excluded]
    rotation, done, batches = shared(excluded=tuple(excluded)), set[str](), list[int]()
    while rotation.released < 1:
        assert not behind(rotation, members(names, {*names} - done))
        raised = next_batch(rotation, members(names, {*names} - done), batch).noted
        assert raised
        assert raised.released > rotation.released
        assert raised == replace(rotation, released=raised.released)
        rotation = raised
        under_way = [name for name in counted if is_released(rotation, name) and name not in done]
        batches.append(len(under_way))
        for name in data.draw(st.permutations(under_way)):
            assert behind(rotation, members(names, {*names} - done))
            done.add(name)
    assert {*counted} == done
    assert next_batch(rotation, members(names), batch) == Gate()
    assert batches[0] == min(1, len(counted))
    assert all(1 <= count <= at_most(batch, len(counted)) for count in batches[1:])


@pytest.mark.long
@given(NAMES, SIZES, st.data())
def test_a_silent_worker_is_named_and_none_behind_it_begins(names: list[str], batch: str, data: st.DataObject) -> None:
    """It lasts until the worker answers or is excluded. Workers that have not begun are not named."""
    silent, rotation = data.draw(st.sampled_from(names)), shared()
    while not (waits := behind(rotation, members(names, {silent}))):
        raised = next_batch(rotation, members(names, {silent}), batch).noted
        assert raised
        rotation = raised
    (said,) = waits
    assert said.startswith(f"{silent} has not reported (")
    assert is_released(rotation, silent)
    count = workers(rotation, members(names, {silent}))
    assert count
    assert count.acknowledged == count.released - 1
    left_out = replace(rotation, excluded=(silent,))
    assert behind(left_out, members(names, {silent})) == ()


def test_workers_follow_all_control_planes() -> None:
    """None of them acts before every control plane has reported. Each missing one is named."""
    there = members(["w1", "w2"], {"cp-2", "w1", "w2"}, ["cp-1", "cp-2"])
    assert behind(shared(), there) == ("cp-2 has not reported (2 workers: 0 released, 0 acknowledged)",)
    assert behind(shared(), members(["w1", "w2"], {"w1", "w2"}, ["cp-1", "cp-2"])) == ()


def test_the_first_acts_alone_and_its_successors_are_named() -> None:
    """The message names the workers of a batch, up to a readable number."""
    names = [f"worker-{number}" for number in range(20)]
    order = in_order(names)
    first = next_batch(shared(), members(names, names), "7")
    assert first.waits == (f"0 of 20 workers have acknowledged trust; next: {order[0]}",)
    assert first.noted
    second = next_batch(first.noted, members(names, order[1:]), "7")
    said = f"1 of 20 workers have acknowledged trust; next: {', '.join(order[1:6])} and 2 more"
    assert second.waits == (said,)
    assert second.noted
    assert [name for name in order if is_released(second.noted, name)] == order[:8]


@pytest.mark.parametrize(
    ("batch", "count", "size"),
    [("10%", 5, 1), ("10%", 29, 2), ("100%", 7, 6), ("1", 9, 1), ("50", 9, 8), ("50%", 9, 4)],
)
def test_a_percentage_is_rounded_down_to_at_least_one(batch: str, count: int, size: int) -> None:
    """The rule is that of `maxUnavailable` of Kubernetes, with a minimum of one worker."""
    names = [f"worker-{number}" for number in range(count)]
    first = next_batch(shared(), members(names), batch).noted
    assert first
    second = next_batch(first, members(names), batch).noted
    assert second
    assert sum(is_released(second, name) for name in names) == 1 + size


def test_a_worker_that_joins_before_the_batch_acts_at_once() -> None:
    """A worker behind the batch acts in its order."""
    order = in_order([f"worker-{number}" for number in range(9)])
    present = [*order[:3], *order[6:]]
    rotation = next_batch(shared(released=place(order[1])), members(present, order[1:]), "2").noted
    assert rotation
    assert [is_released(rotation, name) for name in order] == [True] * 6 + [False] * 3
    assert behind(rotation, members(order, order[4:]))[0].startswith(f"{order[4]} has not reported")


@pytest.mark.parametrize("left_out", [(), ("w1", "w2")])
def test_without_an_awaited_worker_none_is_held(left_out: tuple[str, ...]) -> None:
    """There is no worker, or all are excluded: an excluded one may still exist, and follows."""
    gate = next_batch(shared(excluded=left_out), members(left_out, left_out), "1")
    assert gate == Gate(("all workers are released",), noted=shared(excluded=left_out, released=1.0))


@pytest.mark.parametrize(
    ("rotation", "phases"),
    [
        (shared(), (P.TRUST, P.ISSUE, P.DISTRUST)),
        (abort(shared(P.ISSUE), NOW), (P.TRUST, P.ISSUE, P.DISTRUST)),
        (shared(P.DISTRUST, mode=Mode.REISSUE), (P.DISTRUST,)),
        (shared(P.ISSUE, mode=Mode.REPLACE), ()),
        (shared(family="etcd-ca"), ()),
    ],
)
def test_only_phases_that_change_a_worker_have_batches(rotation: Rotation, phases: tuple[Phase, ...]) -> None:
    """A rotation at once, or one that concerns no worker, has none. In other phases all may act, and no worker is
    counted.
    """
    assert stepwise(rotation) == phases
    for phase in P:
        here, there = replace(rotation, phase=phase), members(["w1"], ["w1"])
        assert in_batches(here) is (phase in phases)
        assert is_released(here, "w1") is (phase not in phases)
        assert (workers(here, there) is None) is (phase not in phases)
        assert (next_batch(here, there, "1") == Gate()) is (phase not in phases)


def test_a_worker_reports_why_it_waits() -> None:
    """The worker does not have the list of the others, and names the node that has it. After its release it reports
    nothing.
    """
    why = "the batch of this worker has not begun; on a control-plane node, list the earlier workers: certmond status"
    assert held_back(shared(released=place("w1")), "w1") == why
    assert held_back(shared(released=1.0), "w1") is None


def test_a_single_node_waits_for_no_batch() -> None:
    """It completes the rotation alone, whether or not it is a worker."""
    assert not in_batches(at(P.TRUST))
    assert is_released(at(P.TRUST), "w1")


def test_each_phase_starts_with_the_first_batch() -> None:
    """The rule holds in a rotation and in its abort."""
    rotation = shared(released=0.7)
    assert following(rotation, NOW + HOUR).released == 0
    assert abort(rotation, NOW + HOUR).released == 0


def test_a_released_worker_is_not_held_again_in_the_same_phase() -> None:
    """An older record that returns does not hold it, and its other fields count. Another phase holds it."""
    own = shared(released=0.7)
    assert joined(own, shared(released=0.2, excluded=("x",))) == shared(released=0.7, excluded=("x",))
    for reported in (shared(released=0.9), shared(P.ISSUE), abort(own, NOW), replace(own, id="r2", released=0.1)):
        assert joined(own, reported) == reported


@given(st.text())
def test_a_place_is_one_from_0_to_below_1(name: str) -> None:
    """The same each time, and so exact that it is the same in JSON."""
    assert 0 <= place(name) < 1
    assert place(name) == float(repr(place(name)))


def test_the_count_is_of_the_awaited_workers() -> None:
    """Control planes and excluded nodes do not count, and only a released worker has acknowledged."""
    order = in_order(["a", "b", "c", "d"])
    rotation = shared(excluded=(order[3],), released=place(order[2]))
    there = members(order, [order[1]], ["cp-1"])
    assert workers(rotation, there) == Workers(3, 2, 1)


@pytest.mark.parametrize(
    ("said", "worker"),
    [
        pytest.param(None, False, id="nothing"),
        pytest.param(Report("r1", P.DETACH, BOTH, signs=True, ready=True), False, id="that it has the new key"),
        pytest.param(Report("r1", P.DETACH, BOTH, signs=True, ready=False), True, id="that it has none"),
        pytest.param(Report("r0", P.DETACH, BOTH, signs=True, ready=False), False, id="that of another rotation"),
    ],
)
@pytest.mark.parametrize("back", [False, True])
def test_a_labelled_control_plane_without_a_key_counts_as_a_worker(
    said: Report | None, worker: bool, back: bool
) -> None:
    """It has passed `prepare` without a key, as only workers do: it is counted and held among them, also in an abort,
    by its earlier report.
    """
    rotation = replace(shared(), id="r1-back") if back else shared()
    there = [Member("x", True, said)]
    assert workers(rotation, there) == Workers(int(worker), 0, 0)
    assert bool(behind(rotation, there)) is not worker
    assert bool(next_batch(rotation, there, "1").noted)
