"""A rotation from its start to its end on nodes with different speeds: the invariants of every point."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from certmond.errors import RotationError
from certmond.pki.rotation import phases as machine
from certmond.pki.rotation.phases import Mode, Phase, Rotation, abort, begin, sequence
from certmond.pki.rotation.worker_batches import next_batch
from certmond.pki.x509.certificate import certificates_of
from tests.builders import NOW
from tests.pki import rotation_invariants as invariants
from tests.pki.cluster_model import NEW, OLD, REISSUED, SHARED, Cluster, verifies
from tests.pki.rotation_invariants import ALL, AT_ONCE, SAME_KEY, Invariant, violated

PLANNED = Rotation("r1", "ca", Mode.OVERLAP, (OLD.facts,), NEW.facts, Phase.PREPARE, NOW, signature="c2lnbmVk")
DATES_ONLY = replace(PLANNED, mode=Mode.REISSUE, new=REISSUED.facts)
AT_ONE_BLOW = replace(PLANNED, mode=Mode.REPLACE)
WORKERS = tuple(f"worker-{number}" for number in range(5))
FOUND = replace(PLANNED, found=True, signature="")


def step(cluster: Cluster, action: int, which: int) -> bool:
    """Make one event. Return whether it may have changed a file, a process's memory, or the phase."""
    node = cluster.nodes[which % len(cluster.nodes)]
    match action:
        case 0:  # a node reads the phase
            node.rotation = cluster.rotation
        case 1:  # a node writes, or has a certificate issued
            left = node.missing_steps()
            if left.steps:
                parts = None if cluster.whole else which % 5
                node.carry_out(left.steps[which % len(left.steps)], parts)
            elif left.reissue:
                cluster.issue(node, sorted(left.reissue)[which % len(left.reissue)])
            return bool(left.steps or left.reissue)
        case 2 | 3 if stale := node.stale():  # a process is restarted, or ends on its own
            node.restart(stale[which % len(stale)])
            return True
        case 4 if node.stale():  # files are followed
            for name in node.processes:
                node.reload(name)
            return True
        case 5:  # a node reports
            node.report()
        case 6 if node.sent:  # a report arrives late
            node.said = node.sent.pop(0)
        case 7:  # the coordinator makes a pass
            before = cluster.rotation
            cluster.advance()
            return cluster.rotation is not before
        case 8:  # a workload is restarted
            cluster.workload = cluster.published()
            return True
        case 9 if node.control_plane:  # an operator stages the new key
            node.keys.update(certificates_of((cluster.rotation.new,)))
    return False


OFTEN = (0, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9)
ACTIONS = st.lists(st.tuples(st.sampled_from(OFTEN), st.integers(0, 11)), max_size=60)
SEEDS = st.integers(0, 9999)


def expected(cluster: Cluster) -> tuple[Invariant, ...]:
    """Return the present invariants. Those of a found anchor start when it is trusted."""
    if cluster.rotation.mode is Mode.REPLACE:
        return AT_ONCE
    if cluster.rotation.found and cluster.rotation.phase in {Phase.PREPARE, Phase.TRUST}:
        return (invariants.anchor_fits_key,)
    return (*(SAME_KEY if cluster.rotation.mode is Mode.REISSUE else ALL), invariants.few_workers_act)


def go(cluster: Cluster, action: int, which: int) -> None:
    if step(cluster, action, which):
        assert not violated(cluster, expected(cluster))


def wander(cluster: Cluster, seed: int, until: Phase, steps: int = 6000) -> None:
    """Make random events until the cluster's record is in that phase."""
    chosen = random.Random(seed)  # noqa: S311 - a walk, no secret
    for _ in range(steps):
        if cluster.rotation.phase is until:
            return
        go(cluster, chosen.choice(OFTEN), chosen.randrange(12))
    pytest.fail(f"{until} is not reached in {steps} steps, but {cluster.rotation.phase}")


def finish(cluster: Cluster, rounds: int = 80) -> None:
    """Repeat all possible events in an arbitrary order until the rotation ends."""
    for _ in range(rounds):
        for action in (7, 0, 9, 1, 1, 1, 1, 1, 1, 4, 2, 2, 2, 8, 6, 5):
            for which in range(len(cluster.nodes)):
                go(cluster, action, which)
        if cluster.rotation.over and all(node.rotation.over and node.said for node in cluster.nodes):
            break
    else:
        pytest.fail(f"it does not come to an end: {cluster.rotation.phase}")
    only = (cluster.rotation.new,)
    for node in cluster.nodes:
        assert node.trust == only
        assert (node.flags, node.own, node.own_key) == (SHARED, None, None)
        assert (node.key.key if node.key else None) == (only[0].key if node.control_plane else None)
        assert all(trust == only for trust, _ in node.confs.values())
        leaves = set(node.leaves())
        assert leaves == set(only) or cluster.rotation.mode is Mode.REISSUE
        assert all(verifies(issuer, only) for issuer in leaves)
        assert not node.stale()


@pytest.mark.long
@settings(max_examples=25)
@given(SEEDS, st.sampled_from(sequence(PLANNED)), ACTIONS)
def test_every_valid_client_is_served_at_every_point(seed: int, phase: Phase, actions: list[tuple[int, int]]) -> None:
    """Nodes advance at their own pace, read and report late, and write one file and not the other. Processes end and
    start at any time. I1 to I7 hold at every point, and at the end only the outcome of the rotation remains.
    """
    cluster = Cluster(begin(PLANNED))
    wander(cluster, seed, phase)
    for action, which in actions:
        go(cluster, action, which)
    event(f"left in {cluster.rotation.phase}")
    finish(cluster)


@settings(max_examples=10)
@given(SEEDS, st.sampled_from(sequence(DATES_ONLY)), ACTIONS)
def test_the_same_key_with_other_dates_refuses_no_connection(
    seed: int, phase: Phase, actions: list[tuple[int, int]]
) -> None:
    """Every leaf verifies under either certificate, so they are exchanged without a phase of both, and no leaf is
    issued again.
    """
    cluster = Cluster(begin(DATES_ONLY))
    wander(cluster, seed, phase)
    for action, which in actions:
        go(cluster, action, which)
    finish(cluster)
    assert {issuer for node in cluster.nodes for issuer in node.leaves()} == {OLD.facts}


@pytest.mark.long
def test_at_once_is_an_outage_that_ends() -> None:
    """Without an overlap a client is refused on the way, whatever the pace. At the end each node has the new CA."""
    for seed in range(8):
        cluster, refused = Cluster(begin(AT_ONE_BLOW)), False
        chosen = random.Random(seed)  # noqa: S311 - a walk, no secret
        for _ in range(1500):
            go(cluster, chosen.choice(OFTEN), chosen.randrange(12))
            refused |= bool(violated(cluster, (invariants.servers_accept, invariants.clients_accept)))
        assert refused
        finish(cluster)


@pytest.mark.long
@pytest.mark.parametrize("kinds", [{"cp-1": True}, {"cp-1": True, "cp-2": True, "worker": False}])
@settings(max_examples=10)
@given(SEEDS, st.sampled_from(sequence(FOUND)[1:]), ACTIONS)
def test_a_ca_that_was_installed_by_hand_is_trusted_first(
    kinds: dict[str, bool], seed: int, phase: Phase, actions: list[tuple[int, int]]
) -> None:
    """One node has another CA and no longer the old key: first both are trusted on all nodes, and from then on I1 to I7
    hold. The other control planes follow when an operator has staged the key.
    """
    cluster = Cluster(begin(FOUND), kinds)
    wander(cluster, seed, phase)
    for action, which in actions:
        go(cluster, action, which)
    finish(cluster)


@pytest.mark.long
@settings(max_examples=25)
@given(SEEDS, st.sampled_from(sequence(PLANNED)[:4]), ACTIONS, ACTIONS)
def test_an_abort_leads_back_without_an_outage(
    seed: int, phase: Phase, before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    """In each phase with an abort, an aborted rotation ends with the old CA, and I1 to I7 hold on the way, whatever is
    late.
    """
    cluster = Cluster(begin(PLANNED))
    wander(cluster, seed, phase)
    for action, which in before:
        go(cluster, action, which)
    event(f"aborted in {cluster.rotation.phase}")
    try:
        cluster.rotation = abort(cluster.rotation, NOW)
    except RotationError:
        assert cluster.rotation.phase in {Phase.DISTRUST, Phase.ATTACH, Phase.DONE}
        return
    for action, which in after:
        go(cluster, action, which)
    finish(cluster)
    assert cluster.rotation.new == OLD.facts


@pytest.mark.long
@settings(max_examples=15)
@given(SEEDS, st.sampled_from([Phase.TRUST, Phase.ISSUE, Phase.DISTRUST]), ACTIONS, st.booleans())
def test_with_many_workers_few_of_them_act_at_any_point(
    seed: int, phase: Phase, actions: list[tuple[int, int]], back: bool
) -> None:
    """I1 to I7 hold while some workers have followed and others have not been released, also in an abort. At most a
    batch has changed files without a report.
    """
    cluster = Cluster(begin(PLANNED), {"cp-1": True, **dict.fromkeys(WORKERS, False)})
    wander(cluster, seed, phase, 20_000)
    if back and phase is not Phase.DISTRUST:
        cluster.rotation = abort(cluster.rotation, NOW)
    for action, which in actions:
        go(cluster, action, which)
    event(f"left in {cluster.rotation.phase}")
    finish(cluster)


def test_workers_without_batches_are_caught() -> None:
    """The same walks find too many acting workers if a batch is as large as the cluster."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tests.pki.cluster_model.next_batch", lambda rotation, *_: next_batch(rotation, (), "1"))
        kinds = {"cp-1": True, **dict.fromkeys(WORKERS, False)}
        assert caught(Cluster(begin(PLANNED), kinds), invariants.few_workers_act)


def test_a_control_plane_without_the_new_key_blocks_prepare() -> None:
    """However often other events happen: nothing changes before every control plane could sign with the new CA."""
    cluster = Cluster(begin(PLANNED))
    cluster.nodes[0].keys.add(NEW.facts)
    for number in range(600):
        go(cluster, (0, 1, 5, 6, 7)[number % 5], number)
    assert cluster.rotation.phase is Phase.PREPARE
    assert {node.name: bool(node.said and node.said.ready) for node in cluster.nodes if node.control_plane} == {
        "cp-1": True, "cp-2": False
    }  # fmt: skip


P = Phase
WRONG: dict[str, tuple[Invariant, tuple[Phase, ...]]] = {
    "use before trust": (invariants.signers_are_trusted, (P.PREPARE, P.DETACH, P.ISSUE, P.TRUST, P.DISTRUST, P.DONE)),
    "issue before trust": (invariants.leaves_are_trusted, (P.PREPARE, P.DETACH, P.ISSUE, P.TRUST, P.DISTRUST, P.DONE)),
    "distrust before use": (
        invariants.distrusted_has_no_leaves, (P.PREPARE, P.DETACH, P.TRUST, P.DISTRUST, P.ISSUE, P.DONE)
    ),
    "at once, for servers": (invariants.servers_accept, (P.PREPARE, P.DISTRUST, P.DONE)),
    "at once, for clients": (invariants.clients_accept, (P.PREPARE, P.DISTRUST, P.DONE)),
    "never distrust": (invariants.former_is_gone, (P.PREPARE, P.DETACH, P.TRUST, P.ISSUE, P.DONE)),
    "never detach": (invariants.no_bundle_signs, (P.PREPARE, P.TRUST, P.ISSUE, P.DISTRUST, P.ATTACH, P.DONE)),
    "attach too soon": (invariants.no_bundle_signs, (P.PREPARE, P.DETACH, P.ATTACH, P.TRUST, P.ISSUE, P.DONE)),
}  # fmt: skip


def caught(cluster: Cluster, by: Invariant) -> bool:
    """Some walk finds that `by` does not hold."""
    for seed in range(20):
        chosen = random.Random(seed)  # noqa: S311 - a walk, no secret
        here = Cluster(cluster.rotation, cluster.kinds, gated=cluster.gated, whole=cluster.whole)
        for _ in range(3000):
            if step(here, chosen.choice(OFTEN), chosen.randrange(12)) and violated(here, (by,)):
                return True
    return False


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_order_is_caught(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The same walks find a violation in any order except the right one."""
    by, phases = WRONG[what]
    monkeypatch.setattr(machine, "_SEQUENCES", {Mode.OVERLAP: phases})
    assert caught(Cluster(begin(PLANNED)), by)


@pytest.mark.parametrize("by", [each for each in ALL if each is not invariants.anchor_fits_key])
def test_a_rotation_without_waits_refuses_clients(by: Invariant) -> None:
    """The right order does not suffice: if phases follow each other while nodes lag behind, the invariants fail."""
    assert caught(Cluster(begin(PLANNED), gated=False), by)


def test_a_partial_step_is_caught() -> None:
    """The files of a step belong together: no component may read a certificate beside another's key."""
    assert caught(Cluster(begin(PLANNED), whole=False), invariants.anchor_fits_key)


@pytest.mark.parametrize("by", [invariants.servers_accept, invariants.clients_accept, invariants.signers_verify])
def test_another_key_is_not_a_change_of_dates(by: Invariant) -> None:
    """If the new certificate had another key, the short sequence would refuse the served ones."""
    assert caught(Cluster(begin(replace(DATES_ONLY, new=NEW.facts))), by)
