"""A rotation of several nodes: the real conductor of each, with the rights of config/rbac.yaml, over one API."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.cluster.api_access import Access
from certmond.cluster.node_api import ANNOTATION
from certmond.cluster.record import parse
from certmond.cluster.record_rules import record_of, rotation_of
from certmond.errors import MalformedError, OvertakenError, RefusedError, RotationError, UnreachableError
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import Mode, Phase, Rotation, abort, desired, following, sequence
from certmond.pki.x509.certificate import certificates_of
from tests.builders import HOUR, NOW, SECOND, make_ca
from tests.cluster.api_server import CSRS, ApiServer, Fault
from tests.cluster.coordinator_world import OVERLAP, POLL, Place, World
from tests.cluster.leaks import leaks
from tests.cluster.test_node_api import INFO

OLD, NEW, OTHER = make_ca(), make_ca(), make_ca("etcd-ca")
ROTATION = Rotation("r-1", "ca", Mode.OVERLAP, (OLD.facts,), NEW.facts, Phase.TRUST, NOW)
BACK = abort(ROTATION, NOW)
Given = Callable[[World], object]


@pytest.fixture
def world(cluster: ApiServer, access_of: Callable[..., Access], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A cluster without nodes, the API of which never gets a key of a CA."""
    monkeypatch.setattr("certmond.cluster.rotation_checks.signer._POLL_INTERVAL", 0.01)
    made = World(cluster, access_of)
    yield made
    assert not leaks(bytes(cluster.received), made.old, made.new, OLD, NEW)


def at(rotation: Rotation, phase: Phase, **changes: Any) -> Rotation:
    return replace(rotation, phase=phase, **changes)


# --- the record -------------------------------------------------------------------------------------------------------

_instants = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5))])).filter(
    lambda made: MINYEAR + 1 < made.year < MAXYEAR - 1
)
_names = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)


@st.composite
def _rotations(draw: st.DrawFn) -> Rotation:
    made = Rotation(
        draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,50}", fullmatch=True)),
        draw(st.sampled_from(["ca", "etcd-ca", "front-proxy-ca"])),
        draw(st.sampled_from(Mode)),
        (draw(st.sampled_from([OLD, OTHER])).facts,),
        NEW.facts,
        Phase.PREPARE,
        draw(_instants),
        draw(st.booleans()),
        excluded=tuple(draw(st.lists(_names, max_size=3))),
        published=draw(st.none() | _instants),
        signature=draw(st.binary(max_size=60).map(lambda made: base64.b64encode(made).decode())),
        released=draw(st.floats(0, 1)),
    )
    return replace(made, phase=draw(st.sampled_from(sequence(made))))


@given(_rotations())
@settings(max_examples=40)
def test_a_rotation_is_parsed_from_its_record(rotation: Rotation) -> None:
    """The text of the record gives the same rotation, whatever rotation the nodes share."""
    assert rotation_of(parse(record_of(rotation, "node-1").text(), "it")) == rotation


@pytest.mark.parametrize(
    "changes",
    [{"mode": "later"}, {"phase": "later"}, {"old": ()}, {"mode": "reissue"}, {"family": "etcd-ca", "phase": "detach"},
     {"new": NEW.public_pem.decode()}, {"new": NEW.pem.decode() + OLD.pem.decode()},
     {"old": (OLD.pem.decode(), OTHER.pem.decode())}],
)  # fmt: skip
def test_a_record_that_makes_no_rotation_names_who_wrote_it(changes: dict[str, Any]) -> None:
    """A mode or phase that this certmond does not know, or not of that mode; no certificates, or too many."""
    made = replace(record_of(ROTATION, "node-9"), **changes)
    with pytest.raises(
        RotationError, match=r"the rotation r-1; install on this node the version .* on node-9, the node that wrote"
    ):
        rotation_of(made)


def test_a_rotation_without_a_record_is_an_error() -> None:
    """The error covers a rotation of this node alone, and nodes whose names no Node can have."""
    with pytest.raises(
        RotationError, match=r"^this node alone began the rotation r-1 of ca, .*; to complete the rotation here, "
    ):
        record_of(replace(ROTATION, found=True), "node-1")
    with pytest.raises(
        RotationError,
        match=r"cannot record the rotation r-1 of ca, because a value is invalid \(excluded\); use the node names",
    ):
        record_of(replace(ROTATION, excluded=("Node_1",)), "node-1")
    with pytest.raises(RotationError, match=r"a value is invalid \(coordinator, id, released, since\); use the node"):
        record_of(replace(ROTATION, id="", released=2, since=datetime.max.replace(tzinfo=timezone(-HOUR))), "Node-1")
    with pytest.raises(RotationError, match=r"a value is invalid \(contains a private key, which must never be in a"):
        record_of(replace(ROTATION, excluded=("PRIVATE KEY",)), "node-1")


# --- following --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "last", "shared", "followed"),
    [
        pytest.param(None, None, None, None, id="nothing is under way"),
        pytest.param(ROTATION, None, None, "own", id="the cluster has none"),
        pytest.param(ROTATION, None, ROTATION, "own", id="they agree"),
        pytest.param(None, None, ROTATION, "shared", id="taken over by who has none"),
        pytest.param(None, "r-0", ROTATION, "shared", id="taken over by who has ended another"),
        pytest.param(None, "r-1", ROTATION, None, id="not begun again by who has ended it"),
        pytest.param(None, "r-1", BACK, None, id="nor back from where it has ended"),
        pytest.param(replace(ROTATION, id="r-2"), "r-1", ROTATION, "own", id="an older one is no other one"),
        pytest.param(None, None, at(ROTATION, Phase.DONE), None, id="over before this node came"),
        pytest.param(None, "r-0", at(ROTATION, Phase.DONE), "shared", id="ended while this node was away"),
        pytest.param(ROTATION, None, at(ROTATION, Phase.ISSUE), "shared", id="a later phase"),
        pytest.param(ROTATION, None, at(ROTATION, Phase.DONE), "shared", id="the end, for who was away"),
        pytest.param(ROTATION, None, at(ROTATION, Phase.DETACH), "own", id="never an earlier phase"),
        pytest.param(ROTATION, None, replace(ROTATION, excluded=("x",)), "shared", id="who is left out"),
        pytest.param(ROTATION, None, BACK, "shared", id="an abort"),
        pytest.param(BACK, None, ROTATION, "own", id="an abort is not replaced"),
        pytest.param(at(ROTATION, Phase.DONE), None, replace(ROTATION, id="r-2"), "own", id="not the next one yet"),
    ],
)
def test_the_record_of_the_cluster_is_followed(
    world: World, own: Rotation | None, last: str | None, shared: Rotation | None, followed: str | None
) -> None:
    """A node without a rotation, or with the same one, follows it: never back to an earlier phase, and never after its
    end on the node.
    """
    node = world.node("node-1")
    if shared:
        world.record(shared)
    node.conductor.ask()
    assert node.conductor.follow(own, {last} if last else ()) == {"own": own, "shared": shared, None: None}[followed]


@pytest.mark.parametrize(("phase", "over"), [(Phase.ATTACH, True), (Phase.DISTRUST, False)])
def test_a_node_that_missed_the_end_reads_it_from_the_next_rotation(world: World, phase: Phase, over: bool) -> None:
    """The new CA has been rotated away already: a node that was in the last phase ends on its own. A node before it
    cannot have been waited for, and leaves the decision to an operator.
    """
    node, own = world.node("node-1"), at(ROTATION, phase)
    world.record(replace(ROTATION, id="r-2", old=(ROTATION.new,), new=ROTATION.old[0]))
    node.conductor.ask()
    if over:
        assert node.conductor.follow(own, ()) == replace(own, phase=Phase.DONE)
        return
    with pytest.raises(RotationError, match="delete the wrong record"):
        node.conductor.follow(own, ())


def test_a_finished_rotation_concerns_a_node_that_was_away(world: World) -> None:
    """A node without a rotation follows the record if it still uses the CA that was rotated away, and otherwise does
    not.
    """
    node, over = world.node("node-1"), at(ROTATION, Phase.DONE)
    world.record(over)
    node.conductor.ask()
    assert node.conductor.follow(None, (), ROTATION.old) == over
    assert node.conductor.follow(None, (), (ROTATION.new,)) is None
    assert node.conductor.follow(None, {ROTATION.id}, ROTATION.old) is None


@pytest.mark.parametrize("side", ["user", "server"])
def test_a_node_that_left_the_cluster_reports_it(world: World, side: str) -> None:
    """The report comes if the API does not authenticate the user, or serves a certificate of another CA, twice in a
    row, until it answers. A refusal or silence is not enough.
    """
    node = world.node("node-1")
    path = Path(node.access.kubeconfig())
    right, other = path.read_bytes(), base64.b64encode(make_ca().pem)

    def asked(fault: Fault | None = None, *, strange: bool = False) -> str | None:
        world.passes(POLL * 6)
        world.api.faults = [fault] if fault else [Fault(401)] if strange and side == "user" else []
        trust = base64.b64encode(world.api.ca.pem)
        path.write_bytes(right.replace(trust, other) if strange and side == "server" else right)
        node.conductor.ask()
        return node.conductor.estranged

    for other_fault in (Fault(403), Fault(500), Fault(0), None):
        assert asked(strange=True) is None
        assert asked(other_fault) is None
    assert asked(strange=True) is None
    said = {"user": "rejects the credentials in", "server": "does not contain the CA of the API server"}[side]
    for _ in range(2):
        assert said in (asked(strange=True) or "")
    assert asked() is None


def test_two_rotations_at_once_need_an_operator(world: World) -> None:
    """If this node and the cluster are in different rotations, both are named."""
    node = world.node("node-1")
    world.record(replace(ROTATION, id="r-2"))
    node.conductor.ask()
    with pytest.raises(
        RotationError, match="has a record of the rotation r-1 of ca, but the cluster has a record of the rotation r-2"
    ):
        node.conductor.follow(ROTATION, ())


def test_an_unreadable_record_stops_every_node(world: World) -> None:
    """A record of a later schema or of an unknown phase is an error until it is readable again."""
    node = world.node("node-1")
    world.record(ROTATION, phase="later")
    node.conductor.ask()
    with pytest.raises(RotationError, match="this version of certmond does not support"):
        node.conductor.follow(None, ())
    for text, said in (
        ('{"schema": 2}', "a schema that this version of certmond does not support"),
        ("[", "contains an invalid record"),
    ):
        world.put("configmaps", "certmond-rotation", "kube-system", data={"record": text})
        world.passes(POLL)
        node.conductor.ask()
        with pytest.raises(RotationError, match=said):
            node.conductor.follow(ROTATION, ())
    world.record(ROTATION)
    world.passes(POLL)
    node.conductor.ask()
    assert node.conductor.follow(None, ()) == ROTATION


@pytest.mark.parametrize("fault", [0, 403, 500])
def test_an_api_that_does_not_answer_changes_nothing(world: World, fault: int) -> None:
    """The last record stays valid, and the node soon reads again."""
    node = world.node("node-1", worker=True)
    world.record(ROTATION)
    node.conductor.ask()
    world.record(at(ROTATION, Phase.ISSUE))
    world.passes(POLL)
    world.api.faults = [Fault(fault)]
    assert node.conductor.ask() == POLL
    assert node.conductor.follow(None, ()) == ROTATION
    world.passes(POLL)
    node.conductor.ask()
    assert node.conductor.follow(None, ()) == at(ROTATION, Phase.ISSUE)


def test_the_record_is_read_periodically(world: World) -> None:
    """It is read each `poll` during a rotation, and at a sixth of that rate otherwise."""
    node, read = world.node("node-1"), "GET /api/v1/namespaces/kube-system/configmaps/certmond-rotation"
    for shared, pause in ((None, 6 * POLL), (ROTATION, POLL), (at(ROTATION, Phase.DONE), 6 * POLL)):
        if shared:
            world.record(shared)
        world.api.calls.clear()
        assert node.conductor.ask() == pause
        world.passes(pause - SECOND)
        assert node.conductor.ask() == SECOND
        assert world.api.calls == [read]
        world.passes(SECOND)


# --- recording --------------------------------------------------------------------------------------------------------


def test_a_rotation_is_recorded_in_each_phase(world: World) -> None:
    """The record is created, replaced by each later phase, aborted, and followed by another one after its end."""
    node = world.node("node-1")
    first = world.rotation()
    steps = [first, at(first, Phase.DETACH), abort(at(first, Phase.DETACH), world.now)]
    for each in (*steps, at(steps[-1], Phase.DONE), replace(first, id="r-2")):
        node.conductor.publish(each)
        assert world.recorded == record_of(each, "node-1")
        assert node.conductor.follow(None, ()) == (None if each.over else each)


def test_one_rotation_at_a_time(world: World) -> None:
    """Another one is refused during a rotation, and the record stays."""
    world.record(ROTATION)
    with pytest.raises(
        RotationError, match="the rotation r-1 of ca is in progress in the cluster, in the phase trust; complete"
    ):
        world.node("node-1").conductor.publish(replace(ROTATION, id="r-2"))
    assert world.phase is Phase.TRUST


def test_the_record_never_returns_to_an_earlier_phase(world: World) -> None:
    """A node that missed the next phase can neither restore an earlier phase nor abort from there."""
    world.record(at(ROTATION, Phase.DISTRUST))
    node = world.node("node-1")
    for stale in (ROTATION, replace(at(ROTATION, Phase.ISSUE), excluded=("node-2",))):
        with pytest.raises(
            OvertakenError, match=r"^the rotation r-1 of ca has advanced to the phase distrust; certmond reads"
        ):
            node.conductor.publish(stale)
    other = world.node("node-2")
    with pytest.raises(RotationError, match="and cannot be aborted"):
        other.conductor.publish(abort(at(ROTATION, Phase.ISSUE), NOW))
    world.record(at(ROTATION, Phase.ISSUE))
    with pytest.raises(OvertakenError, match="advanced to the phase issue"):
        world.node("node-3").conductor.publish(abort(ROTATION, NOW))
    assert world.recorded == record_of(at(ROTATION, Phase.ISSUE), "node-9")


@pytest.mark.parametrize("moment", ["before it is read", "before it is written", "deleted"])
def test_a_decision_from_an_older_record_is_refused(world: World, moment: str) -> None:
    """Whatever changed, also only the excluded nodes: nothing is written, and the record is read again at once."""
    node, changed = world.node("node-1"), replace(ROTATION, excluded=("node-2",))
    world.record(ROTATION)
    node.conductor.ask()
    if moment == "before it is written":
        world.api.store.before_write = lambda: world.record(changed)
    elif moment == "deleted":
        world.api.store.remove("configmaps", "certmond-rotation", "kube-system")
    else:
        world.record(changed)
    with pytest.raises(OvertakenError):
        node.conductor.publish(following(ROTATION, world.now))
    world.api.store.before_write = lambda: None
    if moment == "deleted":
        assert world.recorded is None
    else:
        assert world.recorded == record_of(changed, "node-9")
    node.conductor.ask()
    assert node.conductor.follow(None, ()) == (None if moment == "deleted" else changed)
    node.conductor.publish(following(changed, world.now))
    assert world.phase is Phase.ISSUE


@pytest.mark.parametrize(
    ("call", "fault", "error"),
    [(0, 403, RefusedError), (0, 0, UnreachableError), (1, 403, RefusedError), (1, 500, UnreachableError)],
)
def test_a_failed_read_or_write_of_the_record_is_reported(
    world: World, call: int, fault: int, error: type[Exception]
) -> None:
    """Nothing is lost, and the rotation continues when the record can be read and written."""
    node = world.node("node-1")
    node.conductor.publish(ROTATION)
    calls = len(world.api.calls)

    def fail(method: str, path: str) -> None:
        if len(world.api.calls) == calls + call + 1:
            world.api.faults = [Fault(fault)]

    world.api.before = fail
    with pytest.raises(error):
        node.conductor.publish(following(ROTATION, world.now))
    assert node.conductor.follow(None, ()) == ROTATION
    node.conductor.publish(following(ROTATION, world.now))
    assert world.phase is Phase.ISSUE


def test_a_write_whose_answer_is_lost_is_read_later(world: World) -> None:
    """The record has advanced, and this node follows it at the next read."""
    node = world.node("node-1")
    node.conductor.publish(ROTATION)

    def lost() -> None:
        world.record(at(ROTATION, Phase.ISSUE))
        world.api.store.before_write = lambda: None

    world.api.store.before_write = lost
    with pytest.raises(OvertakenError):
        node.conductor.publish(at(ROTATION, Phase.ISSUE))
    node.conductor.ask()
    assert node.conductor.follow(ROTATION, ()) == at(ROTATION, Phase.ISSUE)


def test_a_record_of_others_is_not_overwritten(world: World) -> None:
    """An invalid record, or one of another program, is not replaced."""
    node = world.node("node-1")
    world.record(ROTATION, phase="later")
    with pytest.raises(RotationError, match="this version of certmond does not support"):
        node.conductor.publish(ROTATION)
    world.put("configmaps", "certmond-rotation", "kube-system", data={"record": "["})
    with pytest.raises(MalformedError):
        node.conductor.publish(ROTATION)


# --- when a phase may be left -----------------------------------------------------------------------------------------

NODES = (("control-1", False), ("control-2", False), ("worker-1", True))


def nodes(world: World, **settings: Any) -> tuple[Place, ...]:
    return tuple(world.node(name, worker=worker, **settings) for name, worker in NODES)


def test_a_phase_ends_when_every_node_has_reported(world: World) -> None:
    """Each node without a matching report is named with its state. The last report ends the phase for the
    coordinator.
    """
    one, two, worker = nodes(world)
    rotation = world.rotation()
    assert one.gate(rotation).waits == ("control-2 has not reported", "worker-1 has not reported")
    assert (
        two.gate(rotation, ready=False)
        .waits[0]
        .startswith("control-2 is a control-plane node that does not have the key of the new CA")
    )
    worker.gate(rotation)
    gate = one.gate(rotation)
    assert [each.partition(" ")[0] for each in gate.waits] == ["control-2"]
    assert gate.until == world.now + POLL
    assert two.gate(rotation).waits == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"trust": "0" * 64}, "reports the phase issue, but trusts other CAs"),
     ({"issuer": OLD.facts.sha256}, "reports the phase issue, but has certificates that another CA signed"),
     ({"phase": Phase.TRUST}, "has reached trust, but not issue yet"), ({"rotation": "r-0"}, "has not reported")],
)  # fmt: skip
def test_a_report_is_compared_with_the_phase(world: World, changes: dict[str, Any], said: str) -> None:
    """A report that does not match keeps the phase, and its node is named."""
    one, worker = world.node("control-1"), world.node("worker-1", worker=True)
    rotation = world.rotation(Phase.ISSUE)
    worker.gate(rotation, **changes)
    assert one.gate(rotation).waits == (f"worker-1 {said}",)


def test_an_excluded_node_is_not_waited_for(world: World) -> None:
    """An excluded name without a Node is reported while the coordinator waits for any node, because the operator may
    have meant that one.
    """
    one, _, _ = nodes(world)
    rotation = world.rotation(excluded=("control-2", "worker-1"))
    assert one.gate(rotation).waits == ()
    said = one.gate(replace(rotation, excluded=("control-2", "worker-9"))).waits
    assert said == (
        "worker-1 has not reported",
        "the excluded Node worker-9 is not in the cluster; check the name in --exclude",
    )


def test_an_excluded_node_may_be_deleted(world: World) -> None:
    """After the Node is deleted, the rotation continues as before."""
    one, _, _ = nodes(world)
    rotation = world.rotation(excluded=("control-2", "worker-1"))
    one.gate(rotation)
    world.api.store.remove("nodes", "worker-1")
    assert one.gate(rotation) == Gate()


def test_a_node_that_rejoined_as_a_worker_counts_as_a_worker(world: World) -> None:
    """A control plane whose Node was deleted, and that has joined again as a worker, has no CA key."""
    one, two, worker = nodes(world)
    rotation = world.rotation()
    worker.gate(rotation)
    assert one.gate(rotation).waits == ("control-2 has not reported",)
    world.api.store.remove("nodes", "control-2")
    world.api.store.add("nodes", "control-2")
    two.gate(rotation, signs=False, ready=False)
    assert one.gate(rotation) == Gate()


@pytest.mark.parametrize("how", ["joins", "takes its word back"])
def test_a_change_during_the_checks_counts(world: World, how: str) -> None:
    """The checks take time and come last: a node that joins meanwhile, or is no longer ready, keeps the phase."""
    one, two = world.node("control-1"), world.node("control-2")
    rotation = world.rotation(Phase.DETACH)
    two.gate(rotation)

    def changes(method: str, path: str) -> None:
        if path.endswith("certmond-canary"):
            world.api.before = lambda method, path: None
            if how == "joins":
                world.api.store.add("nodes", "worker-1")
            else:
                two.conductor.unsettled(rotation)

    world.api.before = changes
    late = "worker-1" if how == "joins" else "control-2"
    assert one.gate(rotation).waits == (f"{late} has not reported",)
    (two if how != "joins" else world.node("worker-1", worker=True)).gate(rotation)
    assert one.gate(rotation) == Gate()


def test_a_worker_never_leads(world: World) -> None:
    """It reports its phase, and makes no other call, whatever the others have reported."""
    _, _, worker = nodes(world)
    gate = worker.gate(world.rotation())
    assert gate.waits == ("the leader begins the next phase when all nodes have reached this phase",)
    assert world.api.calls == ["PATCH /api/v1/nodes/worker-1"]


def test_another_node_leads_when_the_leader_has_ended(world: World) -> None:
    """The other waits and names the leader. A silent leader is replaced after its Lease has expired."""
    one, two, worker = nodes(world)
    rotation = world.rotation()
    for each in (worker, two, one):
        each.gate(rotation)
    (said,) = two.gate(rotation).waits
    assert said.startswith("control-1 holds the Lease kube-system/certmond-rotation (since ")
    world.passes(59 * SECOND)
    assert two.gate(rotation).waits == (said,)
    world.passes(SECOND)
    assert two.gate(rotation).waits == ()
    assert one.gate(rotation).waits[0].startswith("control-2 holds the Lease")


def test_the_end_gives_the_lease_back(world: World) -> None:
    """The rotation may be complete, or aborted and back: the next node can lead at once."""
    one, two, worker = nodes(world)
    back = abort(world.rotation(Phase.ISSUE), world.now - HOUR)
    world.api.ca = world.old
    for each in (worker, two, one):
        each.gate(back)
    assert world.api.leases.only["spec"]["holderIdentity"] == "control-1"
    two.conductor.end()
    assert world.api.leases.only["spec"]["holderIdentity"] == "control-1"
    one.conductor.end()
    assert world.api.leases.only["spec"]["holderIdentity"] == ""


def test_one_request_waits_for_approval_during_the_whole_phase(world: World) -> None:
    """However often the phase is checked, the approval of any user ends it. No request remains if the rotation ends
    first.
    """
    one, rotation = world.node("control-1"), world.rotation()
    fit(world, rotation)
    world.api.denied = {"PUT /certmond-canary/approval"}
    for _ in range(3):
        (said,) = one.gate(rotation).waits
        assert "waits for approval" in said
        assert "run: kubectl certificate approve certmond-canary" in said
        world.passes(POLL)
    world.api.decide("Approved")
    assert one.gate(rotation).waits == ()
    assert one.gate(rotation).waits
    assert world.api.objects
    one.conductor.end()
    assert world.api.objects == {}


@pytest.mark.parametrize("phase", [Phase.TRUST, Phase.ISSUE])
def test_both_cas_are_trusted_for_the_overlap(world: World, phase: Phase) -> None:
    """`root_ca.overlap` passes before the new CA is used and before the old one is removed. The message has the end."""
    one = world.node("control-1")
    world.publish(world.old.facts, world.new.facts)
    world.api.ca = world.old if phase is Phase.TRUST else world.new
    rotation = world.rotation(phase, since=world.now - OVERLAP + 5 * SECOND)
    (said,) = one.gate(rotation).waits
    assert said.startswith(
        f"all nodes trust both CAs until {world.now + 5 * SECOND:%Y-%m-%d %H:%M:%S} UTC, before any "
    )
    world.passes(4 * SECOND)
    gate = one.gate(rotation)
    assert gate.until == world.now + SECOND
    assert gate.waits == (said,)
    world.passes(SECOND)
    assert one.gate(rotation).waits == ()


# The checks of the cluster itself


def both(world: World) -> None:
    world.publish(world.old.facts, world.new.facts)


def account(world: World) -> None:
    both(world)
    world.api.store.add("serviceaccounts", "certmond", "kube-system")
    world.api.tokens.known = []


def joining(world: World) -> None:
    both(world)
    world.api.store.add("configmaps", "cluster-info", "kube-public", data={"kubeconfig": "no map"})


def webhook(world: World) -> None:
    both(world)
    bundle = base64.b64encode(world.old.pem).decode()
    hook = {"name": "a.b.c", "clientConfig": {"caBundle": bundle}}
    world.api.store.add("validatingwebhookconfigurations", "theirs", webhooks=[hook])


def secret(world: World) -> None:
    both(world)
    assert world.api.rbac
    world.api.rbac.bind("certmond-rotation-secrets", "certmond")
    data = {"ca.crt": base64.b64encode(world.old.pem).decode()}
    world.api.store.add("secrets", "token-1", "default", type="kubernetes.io/service-account-token", data=data)


def other_signer(world: World) -> None:
    both(world)
    world.api.ca = world.new


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param(other_signer, r"the cluster signs with the CA .*; check --cluster-signing-cert", id="signer"),
        pytest.param(account, r"the API server rejects a new token .*; check --service-account-key-file", id="token"),
        pytest.param(lambda _: None, r"kube-root-ca.crt of default contains no CA, .*; check that a", id="published"),
        pytest.param(joining, r"the kubeconfig in .*cluster-info .*; run: kubeadm init phase", id="cluster-info"),
        pytest.param(webhook, r"the CA bundle of Validating.* theirs lacks .*; replace", id="ca bundle"),
        pytest.param(secret, r"ca.crt in the Secret default/token-1 lacks .*; check that a", id="secret"),
        pytest.param(both, r"may not list the Secrets .* resources \[secrets\].*; docs/cluster.md lists", id="right"),
    ],
)  # fmt: skip
def test_a_failed_check_of_the_cluster_keeps_the_phase(world: World, given: Given, said: str) -> None:
    """The coordinator reports the failure and the remedy."""
    one = world.node("control-1", token_secrets=True)
    given(world)
    waits = one.gate(world.rotation(Phase.TRUST)).waits
    assert any(re.search(said, each) for each in waits), waits


def test_token_secrets_are_looked_at_only_where_that_is_asked_for(world: World) -> None:
    """Without `cluster.token_secrets` no right to them is needed."""
    one = world.node("control-1")
    both(world)
    assert one.gate(world.rotation(Phase.TRUST)).waits == ()
    assert not any("secrets" in call for call in world.api.calls)


@pytest.mark.parametrize("family", ["etcd-ca", "front-proxy-ca"])
def test_another_family_checks_only_the_nodes(world: World, family: str) -> None:
    """Signing and publication concern only `ca`. The coordinator does not wait for workers, because they do not use
    another CA.
    """
    one, two, _ = nodes(world, workloads="wait", token_secrets=True)
    rotation = world.rotation(Phase.TRUST, family=family)
    two.gate(rotation)
    assert one.gate(rotation).waits == ()
    asked = {call.split("/")[-1] for call in world.api.calls}
    assert asked == {"control-1", "control-2", "nodes", "leases", "certmond-rotation"}


@pytest.mark.parametrize("family", ["etcd-ca", "front-proxy-ca"])
@pytest.mark.parametrize("known", ["by its label", "by what it said", "by what it said of another one"])
def test_a_node_that_held_a_ca_key_must_report(world: World, family: str, known: str) -> None:
    """A control plane that lost its label still uses etcd's CA, also if it no longer reports."""
    one, two, _ = nodes(world)
    rotation = world.rotation(Phase.TRUST, family=family)
    unlabelled: dict[str, Any] = {"labels": {}, "annotations": {}}
    if known == "by its label":
        assert one.gate(rotation).waits == ("control-2 has not reported",)
    elif known == "by what it said":
        two.gate(rotation)
        world.put("nodes", "control-2", metadata=unlabelled | {"annotations": {ANNOTATION: two.says}})
        assert one.gate(rotation).waits == ()
    else:
        two.gate(replace(rotation, id="r-0"))
        world.put("nodes", "control-2", metadata=unlabelled | {"annotations": {ANNOTATION: two.says}})
        assert one.gate(rotation).waits == ("control-2 has not reported",)
    world.put("nodes", "control-2", metadata=unlabelled)
    assert one.gate(rotation).waits == ("control-2 has not reported",)
    two.conductor.unsettled(rotation)
    two.gate(rotation)
    assert "control-2 has not reported" not in one.gate(rotation).waits


@pytest.mark.long
@pytest.mark.parametrize("family", ["etcd-ca", "front-proxy-ca"])
def test_a_node_that_took_part_in_prepare_must_report(world: World, family: str) -> None:
    """An unlabeled control plane that has no new CA has taken part in `prepare`. It uses that CA, and without it the
    others would distrust its certificates. A node without any report need not. That also holds after the node withdraws
    its report, and for a daemon that has just started.
    """
    one, two, _ = nodes(world)
    world.put("nodes", "control-2", metadata={"labels": {}})
    prepare = world.rotation(Phase.PREPARE, family=family)
    assert one.gate(prepare) == Gate()
    two.gate(prepare, ready=False)
    trust = world.rotation(Phase.TRUST, family=family)
    assert one.gate(trust).waits == ("control-2 has reached prepare, but not trust yet",)
    two.gate(trust)
    assert one.gate(trust) == Gate()
    two.conductor.unsettled(trust)
    assert one.gate(trust).waits == ("control-2 has not reported",)
    assert world.node("control-1").gate(trust).waits == ("control-2 has not reported",)


# Workloads


def pod(world: World, name: str, at: datetime, owner: str = "") -> None:
    """Add a Pod with a token, of a DaemonSet with `owner`."""
    owners = [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": owner, "uid": owner, "controller": True}]
    metadata = {"name": name, "namespace": "default", "uid": name, "ownerReferences": owners if owner else []}
    token = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}
    world.put(
        "pods", name, "default", metadata=metadata, spec={"containers": [], "volumes": [token]},
        status={"phase": "Running", "startTime": f"{at:%Y-%m-%dT%H:%M:%SZ}"},
    )  # fmt: skip


def daemon_set(world: World, name: str, *, stuck: bool = False) -> None:
    """Add a DaemonSet whose controller is quick, or makes no progress."""
    template = {"metadata": {"annotations": {}}, "spec": {"containers": []}}
    counts = {"desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0, "numberReady": 1}
    status: dict[str, Any] = counts | {"updatedNumberScheduled": 1, "numberAvailable": 1, "observedGeneration": 9}
    if stuck:
        status["conditions"] = [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]
    spec = {"selector": {}, "template": template}
    world.api.store.add("daemonsets", name, "default", spec=spec, status=status)
    pod(world, f"{name}-1", world.now - HOUR, name)

    def control(resource: str, made: dict[str, Any]) -> None:
        if resource == "daemonsets" and made["metadata"]["name"] == name and not stuck:
            pod(world, f"{name}-1", world.now, name)

    world.api.store.controllers.append(control)


@pytest.mark.long
def test_the_instant_at_which_both_cas_were_published_is_recorded(world: World) -> None:
    """The instant is recorded once, and is after the check: a Pod that started before may trust one CA only."""
    one = world.node("control-1", workloads="wait")
    both(world)
    rotation, began = world.rotation(Phase.TRUST), world.now
    report = one.report(rotation)
    world.passes(30 * SECOND)  # during the check of the cluster
    gate = one.conductor.gate(rotation, report, began)
    assert gate.waits == ("both CAs are published; the check of the workloads is next",)
    published = one.conductor.follow(rotation, ())
    assert published
    assert published == replace(rotation, published=began + 30 * SECOND)
    world.passes(POLL)
    assert one.gate(published).waits == ()
    assert len([call for call in world.calls("PUT", "POST") if "configmaps" in call]) == 1


@pytest.mark.long
def test_workloads_that_started_before_are_waited_for(world: World) -> None:
    """The message names them with the remedy, until they are restarted. Nothing is written to them."""
    one = world.node("control-1", workloads="wait")
    both(world)
    rotation = world.rotation(Phase.TRUST, published=world.now)
    daemon_set(world, "web")
    pod(world, "bare", world.now - SECOND)
    (said,) = one.gate(rotation).waits
    assert "DaemonSet default/web, Pod default/bare (no controller replaces it); delete the Pods" in said
    assert "set `cluster.workloads: restart`, or run: kubectl rollout restart" in said
    for name in ("web-1", "bare"):
        pod(world, name, world.now, "web" if name == "web-1" else "")
    assert one.gate(rotation).waits == ()
    assert not any("apps" in call for call in world.calls("PATCH"))


@pytest.mark.long
@pytest.mark.parametrize("how", ["wait", "restart"])
def test_workloads_of_an_excluded_node_are_not_waited_for(world: World, how: str) -> None:
    """The API has the Pods of a removed machine as long as its Node exists. The phase does not wait for them."""
    one = world.node("control-1", workloads=how)
    both(world)
    daemon_set(world, "web", stuck=True)
    world.put(
        "pods", "web-1", "default", spec=world.api.store.get("pods", "web-1", "default")["spec"] | {"nodeName": "w"}
    )
    rotation = world.rotation(Phase.TRUST, published=world.now, excluded=("w",))
    assert one.gate(rotation) == Gate()
    assert any("DaemonSet default/web" in each for each in one.gate(replace(rotation, excluded=())).waits)


@pytest.mark.parametrize("how", ["wait", "restart"])
@pytest.mark.parametrize("ready", ["True", "Unknown"])
def test_workloads_of_an_excluded_node_count_while_its_kubelet_runs(world: World, ready: str, how: str) -> None:
    """An excluded worker without certmond, or one with the label of a control plane, may be healthy: its Pods would
    lose the API server in `issue`. They do not count when its kubelet is silent.
    """
    one = world.node("control-1", workloads=how)
    both(world)
    world.api.store.add("nodes", "w", status={"conditions": [{"type": "Ready", "status": ready}]})
    pod(world, "bare", world.now - SECOND)
    world.put(
        "pods", "bare", "default", spec=world.api.store.get("pods", "bare", "default")["spec"] | {"nodeName": "w"}
    )
    waits = one.gate(world.rotation(Phase.TRUST, published=world.now, excluded=("w",))).waits
    assert bool(waits) is (ready == "True"), waits
    assert all("Pod default/bare (no controller replaces it)" in each for each in waits)


@pytest.mark.long
def test_workloads_are_restarted_in_groups(world: World) -> None:
    """With `restart`, five workloads restart in a pass, so that the node is observed meanwhile, and each of them
    restarts once.
    """
    one = world.node("control-1", workloads="restart")
    both(world)
    rotation = world.rotation(Phase.TRUST, published=world.now)
    for number in range(7):
        daemon_set(world, f"web-{number}")
    (said,) = one.gate(rotation).waits
    assert "DaemonSet default/web-5, DaemonSet default/web-6; " in said
    assert "web-4" not in said
    assert len(restarted := [call for call in world.calls("PATCH") if "daemonsets" in call]) == 5
    assert one.gate(rotation).waits == ()
    again = [call for call in world.calls("PATCH") if "daemonsets" in call]
    assert (len(again), again[:5]) == (7, restarted)


def test_a_rollout_without_progress_is_reported(world: World) -> None:
    """The message has its name, and no more than five workloads are restarted in that pass."""
    one = world.node("control-1", workloads="restart")
    both(world)
    daemon_set(world, "web-0", stuck=True)
    for number in range(1, 7):
        daemon_set(world, f"web-{number}")
    waits = one.gate(world.rotation(Phase.TRUST, published=world.now)).waits
    assert waits[0].startswith("certmond has restarted the DaemonSet default/web-0, which makes no progress (")
    assert len([call for call in world.calls("PATCH") if "daemonsets" in call]) == 5


@pytest.mark.parametrize("mode", [Mode.OVERLAP, Mode.REISSUE])
def test_workloads_are_not_checked_if_they_do_not_matter(world: World, mode: Mode) -> None:
    """The operator can disable the check, and a CA that changes only its dates needs none."""
    one = world.node("control-1", workloads="ignore" if mode is Mode.OVERLAP else "wait")
    rotation = world.rotation(Phase.TRUST if mode is Mode.OVERLAP else Phase.DISTRUST, mode=mode)
    fit(world, rotation)
    pod(world, "bare", world.now - 2 * HOUR)
    assert one.gate(rotation).waits == ()
    assert not any("pods" in call for call in world.api.calls)


# An API that is not there, or refuses

LED = list(Phase)[:-1]


def fit(world: World, rotation: Rotation) -> None:
    """The cluster is as it should be in that phase."""
    wanted = desired(rotation)
    world.publish(*certificates_of(wanted.trust if wanted else rotation.old))
    signer = (wanted.detached or wanted.signing) if wanted else rotation.old[0]
    world.api.ca = next(each for each in (world.old, world.new) if each.facts == signer)


@pytest.mark.parametrize("phase", LED)
def test_a_node_holds_its_phase_while_the_api_is_away(world: World, phase: Phase) -> None:
    """The node reports it. When the API answers again, the phase ends normally."""
    one = world.node("control-1")
    rotation = world.rotation(phase)
    fit(world, rotation)
    world.api.faults = [Fault(0)]
    gate = one.gate(rotation)
    (said,) = gate.waits
    assert "certmond cannot reach" in said
    assert said.endswith("; this node stays in its phase until a retry succeeds")
    assert gate.until == world.now + POLL
    assert one.gate(rotation).waits == ()


@pytest.mark.long
def test_a_call_that_fails_on_the_way_opens_nothing(world: World) -> None:
    """Whichever of all the calls it is that is not answered: the gate is closed, and open in the next pass."""
    one = world.node("control-1", workloads="wait")
    rotation = world.rotation(Phase.TRUST, published=world.now)
    fit(world, rotation)
    assert one.gate(rotation).waits == ()
    calls = len(world.api.calls) - 1  # except for the annotation, which exists now
    assert calls > 12
    failed = {"at": 0}

    def fail(method: str, path: str) -> None:
        failed["at"] -= 1
        if failed["at"] == 0:
            world.api.faults = [Fault(503)]

    world.api.before = fail
    canary = [number for number, call in enumerate(world.api.calls) if call.endswith("certmond-canary")]
    for number in range(1, calls + 1, 3):
        if number not in canary:  # its deletion before and after is no part of the check
            failed["at"] = number
            assert one.gate(rotation).waits, world.api.calls[number]
    failed["at"] = 0
    assert one.gate(rotation).waits == ()


DEEP, NOTHING = b"[" * 100_000 + b"]" * 100_000, b'{"items": [], "metadata": {}}'


@pytest.mark.parametrize(
    ("call", "fault", "said"),
    [
        ("GET /api/v1/nodes", Fault(409), "cannot list the Nodes at the API server of"),
        (
            "GET /apis/coordination",
            Fault(409),
            "cannot read the Lease kube-system/certmond-rotation at the API server of",
        ),
        ("POST /", Fault(404), "the API server has no such object or kind; certmond retries"),
        ("GET /apis/coordination", Fault(200, body=DEEP), "like a Kubernetes API server; check the address"),
        ("GET /api/v1/nodes", Fault(200, body=NOTHING), "has no Node with the name of this node, control-1; check"),
    ],
)
def test_an_unexpected_answer_ends_no_phase(world: World, call: str, fault: Fault, said: str) -> None:
    """A conflict without a write, an unknown kind, an unreadable answer, and a list without this node are reported as
    such. The phase lasts, and the message is no defect of certmond.
    """
    one, rotation = world.node("control-1"), world.rotation()
    fit(world, rotation)

    def fail(method: str, path: str) -> None:
        if f"{method} {path.removeprefix(CSRS) or '/'}".startswith(call) and (call != "POST /" or path == CSRS):
            world.api.faults = [fault]

    world.api.before = fail
    waits = one.gate(rotation).waits
    assert any(said in each for each in waits), waits


@pytest.mark.parametrize(
    ("call", "right"),
    [
        ("PATCH /api/v1/nodes", r"resources \[nodes\], verbs \[patch\]"),
        ("GET /api/v1/nodes", r"resources \[nodes\], verbs \[list\]"),
        ("GET /apis/coordination", r"resources \[leases\]"),
        ("POST /apis/coordination", r"resources \[leases\]"),
        ("DELETE /certmond-canary", r"certificatesigningrequests\], verbs \[delete\]"),
        ("GET /api/v1/namespaces", r"resources \[namespaces\], verbs \[list\]"),
        ("GET /api/v1/configmaps", r"resourceNames \[kube-root-ca.crt\], verbs \[list\]"),
        ("GET /api/v1/namespaces/kube-public", r"resourceNames \[cluster-info\], verbs \[get\]"),
        ("GET /apis/apiregistration", r"resources \[apiservices\], verbs \[list\]"),
        ("GET /api/v1/pods", r"resources \[pods\], verbs \[list\]"),
    ],
)
def test_a_right_that_is_missing_is_named(world: World, call: str, right: str) -> None:
    """The phase lasts, and the message has the missing right."""
    one = world.node("control-1", workloads="wait")
    rotation = world.rotation(Phase.TRUST, published=world.now)
    fit(world, rotation)
    world.api.denied = {call}
    waits = one.gate(rotation).waits
    assert waits
    assert any("may not" in each and re.search(right, each) for each in waits), waits


@pytest.mark.long
def test_a_slow_api_does_not_stop_the_watchdog(world: World) -> None:
    """The watchdog is notified however slow each of the calls is."""
    one = world.node("control-1")
    rotation = world.rotation(Phase.PREPARE)
    slow = iter(["PATCH", "leases", "certificatesigningrequests"])
    due = {"next": next(slow)}

    def wait(method: str, path: str) -> None:
        if due["next"] in f"{method} {path}":
            due["next"] = next(slow, "none")
            before = world.lives
            while world.lives < before + 2 and not world.api.closing.wait(0.05):
                pass

    world.api.before = wait
    assert one.gate(rotation).waits == ()
    assert due["next"] == "none"


# The report of a node


def test_a_node_reports_once(world: World) -> None:
    """While nothing changes the node writes nothing, however often it is called. Another report is written at once."""
    one, _, worker = nodes(world)
    rotation = world.rotation()
    for _ in range(3):
        one.gate(rotation)
        worker.gate(rotation)
        world.passes(POLL)
    assert world.calls("PATCH", "PUT", "POST") == ["PATCH /api/v1/nodes/control-1", "PATCH /api/v1/nodes/worker-1"]
    worker.gate(following(rotation, world.now))
    assert worker.says
    assert worker.says.startswith("r-1/detach/")


def test_a_node_that_was_created_again_reports_again(world: World) -> None:
    """The report of a deleted Node is lost, so the node writes it again."""
    one, _, worker = nodes(world)
    rotation = world.rotation(excluded=("control-2",))
    worker.gate(rotation)
    world.api.store.remove("nodes", "worker-1")
    world.api.store.add("nodes", "worker-1")
    assert one.gate(rotation).waits == ("worker-1 has not reported",)
    world.passes(6 * POLL)
    worker.gate(rotation)
    assert one.gate(rotation).waits == ()


def test_a_report_from_before_the_boot_is_ignored(world: World) -> None:
    """The machine may be another one of the same name, or have an older state of its disks. It is named until it
    reports again.
    """
    boots = "0a6f2a6b-7d1c-4d0e-9f3a-2b1c0d9e8f7a", "5b1c0d9e-8f7a-4d0e-9f3a-0a6f2a6b7d1c"
    one, rotation = world.node("control-1"), world.rotation()
    for boot in boots:
        worker = world.node("worker-1", worker=True, boot=boot)
        world.put("nodes", "worker-1", status={"nodeInfo": INFO | {"bootID": boot}})
        since = " since its host started" if boot == boots[1] else ""
        assert one.gate(rotation).waits == (f"worker-1 has not reported{since}",)
        worker.gate(rotation)
        assert one.gate(rotation) == Gate()


def test_an_outdated_report_is_withdrawn(world: World) -> None:
    """A node that has reported a phase and is no longer ready keeps the phase. Its statements about other nodes
    stay.
    """
    one, _, worker = nodes(world)
    rotation = world.rotation(Phase.TRUST, excluded=("control-2",))
    fit(world, rotation)
    worker.gate(rotation)
    said = worker.says
    worker.conductor.unsettled(following(rotation, world.now))
    assert worker.says == said
    world.api.faults = [Fault(500)]
    worker.conductor.unsettled(rotation)
    worker.conductor.unsettled(rotation)
    assert worker.says == said
    world.passes(POLL)
    worker.conductor.unsettled(rotation)
    assert worker.says == "r-1/-/-/-/nokey"
    assert one.gate(rotation).waits == ("worker-1 has not reported",)
    calls = len(world.api.calls)
    worker.conductor.unsettled(rotation)
    assert len(world.api.calls) == calls
    worker.gate(rotation)
    assert worker.says == said


def test_the_report_of_the_previous_process_is_withdrawn_too(world: World) -> None:
    """A new daemon has no record of its reports in this phase."""
    worker = world.node("worker-1", worker=True)
    worker.gate(world.rotation())
    said = worker.says
    again = world.node("worker-1", worker=True)
    assert again.says == said is not None
    again.conductor.unsettled(world.rotation())
    assert again.says == "r-1/-/-/-/nokey"


@pytest.mark.long
def test_three_nodes_complete_a_rotation(world: World) -> None:
    """The coordinator leads from phase to phase. Each node writes only its own annotation, and no key of a CA is
    sent.
    """
    places = nodes(world, workloads="wait", overlap="1s")
    one = places[0]
    one.conductor.publish(world.rotation())
    led, wrote = [Phase.PREPARE], list[tuple[str, str]]()
    answer = world.api.answer

    def spy(method: str, path: str, *rest: Any, user: str = "", **more: Any) -> Any:
        if method == "PATCH" and path.startswith("/api/v1/nodes/"):
            wrote.append((path.rpartition("/")[2], user))
        return answer(method, path, *rest, user=user, **more)

    world.api.answer = spy  # type: ignore[method-assign]
    for _ in range(30):
        for place in reversed(places):
            place.conductor.ask()
            rotation = place.conductor.follow(None, ())
            if rotation is None or rotation.over:
                continue
            fit(world, rotation)
            gate = place.gate(rotation)
            if not gate.waits:
                place.conductor.publish(following(rotation, world.now))
        if world.phase is not led[-1]:
            assert world.phase
            led.append(world.phase)
        if world.phase is Phase.DONE:
            break
        world.passes(10 * SECOND)
    assert led == list(Phase)
    assert {node for node, _ in wrote} == {name for name, _ in NODES}
    assert all(user == f"system:node:{node}" for node, user in wrote)
    assert len(wrote) <= 3 * len(LED) * 3
