"""A rotation from beginning to end: the phases alone, and on nodes that come along at their own pace."""

from __future__ import annotations

import random

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from certmond.errors import RotationError
from certmond.pki import rotation as machine
from certmond.pki.rotation import Mode, Phase, Rotation, abort, begin, sequence
from tests.builders import NOW
from tests.pki.rotating_cluster import NEW, OLD, SHARED, Cluster, Node

PLANNED = Rotation("r1", "ca", Mode.OVERLAP, (OLD.facts,), NEW.facts, Phase.PREPARE, NOW)


def step(cluster: Cluster, action: int, which: int) -> str:
    """One thing that happens somewhere."""
    node = cluster.nodes[which % len(cluster.nodes)]
    match action:
        case 0:
            node.rotation = cluster.rotation
            return "a node hears of the phase"
        case 1 | 2:
            left = node.lacks()
            if left.steps:
                node.carry_out(left.steps[which % len(left.steps)])
                return "a node writes"
            if left.reissue:
                cluster.issue(node, sorted(left.reissue)[which % len(left.reissue)])
                return "a node issues"
        case 3:
            if stale := node.stale():
                node.restart(stale[which % len(stale)])
                return "a stale process is restarted"
        case 4:
            name = sorted(node.processes)[which % len(node.processes)]
            node.restart(name)
            return "a process ends by itself"
        case 5:
            for name in node.processes:
                node.reload(name)
            return "files are followed"
        case 6:
            node.report()
            return "a node reports"
        case 7:
            cluster.advance()
            return "the coordinator looks"
        case 8:
            cluster.workload = cluster.published()
            return "a workload is restarted"
    return "nothing"


OFTEN = (0, 1, 1, 1, 3, 3, 4, 5, 6, 7, 8)
ACTIONS = st.lists(st.tuples(st.sampled_from(OFTEN), st.integers(0, 11)), max_size=60)


def wander(cluster: Cluster, seed: int, until: Phase, steps: int = 4000) -> None:
    """Whatever may happen, by chance, until the cluster's record is in that phase."""
    chosen = random.Random(seed)  # noqa: S311 - a walk, no secret
    for _ in range(steps):
        if cluster.rotation.phase is until:
            return
        step(cluster, chosen.choice(OFTEN), chosen.randrange(12))
        check_now(cluster)
    pytest.fail(f"{until} is not reached in {steps} steps, but {cluster.rotation.phase}")


def check_now(cluster: Cluster) -> None:
    """What holds at every point."""
    assert not list(cluster.refusals())  # I1 and I2
    for node in cluster.nodes:
        assert node.key is None or node.trust[0] == node.key  # I4: kubeadm signs with the first one
        assert not (node.flags == SHARED and node.control_plane and len(node.trust) > 1)  # no bundle signs


def finish(cluster: Cluster, rounds: int = 60) -> None:
    """Everything that can happen happens again and again, in an order that is nobody's plan."""
    for _ in range(rounds):
        for action in (7, 0, 1, 1, 1, 1, 1, 1, 5, 3, 3, 3, 8, 6):
            for which in range(len(cluster.nodes)):
                step(cluster, action, which)
                check_now(cluster)
        if cluster.rotation.over and all(node.rotation.over and node.said for node in cluster.nodes):
            return
    pytest.fail(f"it does not come to an end: {cluster.rotation.phase}")


def check_end(cluster: Cluster, anchor: Node | None = None) -> None:
    """Nothing is left of it but its outcome."""
    only = (cluster.rotation.new,)
    for node in cluster.nodes:
        assert node.trust == only
        assert (node.flags, node.own, node.own_key) == (SHARED, None, None)
        assert node.key == (only[0] if node.control_plane else None)
        assert all(conf == (only, only[0]) for conf in node.confs.values())
        assert set(node.pairs.values()) <= set(only)
        assert not node.stale()


@settings(max_examples=60)
@given(st.integers(0, 9999), st.sampled_from(Phase), ACTIONS)
def test_whoever_should_be_served_is_served_at_every_point(
    seed: int, phase: Phase, actions: list[tuple[int, int]]
) -> None:
    """Nodes come along at their own pace, hear late, report late, write one file and not the other, processes end and
    begin as they like: every client verifies every server that it talks to, and the other way round, at every point;
    and in the end the former CA is trusted nowhere.
    """
    cluster = Cluster(begin(PLANNED))
    wander(cluster, seed, phase)
    for action, which in actions:
        step(cluster, action, which)
        check_now(cluster)
    event(f"left in {cluster.rotation.phase}")
    finish(cluster)
    check_end(cluster)
    assert cluster.rotation.new == NEW.facts


@settings(max_examples=60)
@given(st.integers(0, 9999), st.sampled_from(sequence(PLANNED)[:4]), ACTIONS, ACTIONS)
def test_an_abort_leads_back_without_an_outage(
    seed: int, phase: Phase, before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    """Up to the phase from which there is no way back, a rotation that is aborted ends with the former CA, and nobody
    who should be served was refused on the way.
    """
    cluster = Cluster(begin(PLANNED))
    wander(cluster, seed, phase)
    for action, which in before:
        step(cluster, action, which)
    event(f"aborted in {cluster.rotation.phase}")
    try:
        cluster.rotation = abort(cluster.rotation, NOW)
    except RotationError:
        assert cluster.rotation.phase in {Phase.DISTRUST, Phase.ATTACH, Phase.DONE}
        return
    for action, which in after:
        step(cluster, action, which)
        check_now(cluster)
    finish(cluster)
    check_end(cluster)
    assert cluster.rotation.new == OLD.facts


@pytest.mark.parametrize(
    ("what", "phases", "gated"),
    [
        ("use before trust", (Phase.PREPARE, Phase.DETACH, Phase.ISSUE, Phase.TRUST, Phase.DISTRUST, Phase.DONE), True),
        ("distrust before use", (Phase.PREPARE, Phase.TRUST, Phase.DISTRUST, Phase.ISSUE, Phase.DONE), True),
        ("at once", (Phase.PREPARE, Phase.DISTRUST, Phase.DONE), True),
        ("nobody is waited for", tuple(Phase), False),
    ],
)
def test_a_wrong_order_is_caught(
    monkeypatch: pytest.MonkeyPatch, what: str, phases: tuple[Phase, ...], gated: bool
) -> None:
    """The same walks find a refusal in any order but the right one, and where nodes are not waited for."""
    monkeypatch.setattr(machine, "_SEQUENCES", {Mode.OVERLAP: phases})
    for seed in range(40):
        chosen = random.Random(seed)  # noqa: S311 - a walk, no secret
        cluster = Cluster(begin(PLANNED), gated=gated)
        for _ in range(600):
            step(cluster, chosen.choice((0, 1, 1, 1, 3, 5, 6, 7, 8)), chosen.randrange(12))
            if list(cluster.refusals()):
                return
    pytest.fail(f"{what}: nobody was refused")
