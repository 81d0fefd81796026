"""A real node whose rotation the cluster conducts: its files, its configuration and its rights, over one API."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.cluster.connection import Access
from certmond.cluster.nodes import ANNOTATION
from certmond.cluster.record_rules import rotation_of
from certmond.daemon.enforcer import Enforcer
from certmond.daemon.reconciler import Reconciler
from certmond.errors import OvertakenError, RotationError
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.notify.journal import Journal
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.rotation.phases import Phase, Rotation, abort
from certmond.pki.rotation.worker_batches import Workers, place
from certmond.state.boot import boot_id
from certmond.state.rotation_record import RotationRecord
from tests.builders import DAY, Issued, make_server
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.conducting import World
from tests.cluster.leaks import leaks
from tests.cluster.test_coordinator import fit
from tests.daemon_harness import DEADLINE
from tests.rotating_node import RotatingNode, root_ca

NODE = "node-1"
HELD_BACK = "the batch of this worker has not come yet; a control plane says who has to come so far before"


@pytest.fixture
def world(cluster: ApiServer, access_of: Callable[..., Access], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("certmond.cluster.rotation_checks.signer._LOOK_AGAIN", 0.01)
    made = World(cluster, access_of)
    yield made
    assert not leaks(bytes(cluster.received), made.old, made.new)


@pytest.fixture
def calm(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RotatingNode:
    """The only node, a control plane. It has its kubelet's kubeconfig, and that of config/rbac.yaml's group."""
    monkeypatch.setattr(
        "certmond.controllers.coordinator_choice.KUBELET_CONF", world.api.user(f"system:node:{NODE}", "system:nodes")
    )
    rights = world.api.user("certmond", "certmond")
    settings: Any = {"kubeconfig": rights, "workloads": "ignore"}
    made = RotatingNode(tmp_path / "place", hurried=False, cluster=settings)
    world.old, world.new = made.old, root_ca()
    labels = {"node-role.kubernetes.io/control-plane": ""}
    world.api.store.add("nodes", NODE, metadata={"labels": labels})
    return made


@pytest.fixture
def node(world: World, calm: RotatingNode) -> RotatingNode:
    """The same with the rotation to another CA begun."""
    calm.begin(world.new)
    return calm


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
    assert str(annotation(world)).endswith(f"/{boot_id()}")
    assert world.api.leases.only["spec"]["holderIdentity"] == ""


def test_what_is_over_is_ended_before_the_next_one_is_followed(world: World, node: RotatingNode) -> None:
    """The cluster is in the next rotation already: what was kept for the way back of this one goes nevertheless, or its
    key would be in the way of the next.
    """
    come_to(Phase.DONE, world, node, node.enforcer())
    over = node.record
    assert over
    world.record(replace(over, id="r-2", old=(world.new.facts,), new=root_ca().facts, phase=Phase.PREPARE))
    enforcer = node.enforcer()
    for _ in range(10):
        one_pass(world, node, enforcer)
    assert node.record is None
    assert not [name for name in node.staged if name.endswith(".key")]


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
    assert said.startswith("prepare is reached, but certmond could not publish the decision: the user of ")
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
    assert again.standing.broken
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
    assert str(annotation(world)).startswith("20261124T120000Z-abcdef/-/")
    node.put("ca.crt", node.old.pem)
    assert one_pass(world, node, enforcer) is None
    assert str(annotation(world)).startswith("20261124T120000Z-abcdef/prepare/")


def test_what_cannot_be_written_does_not_make_it_deaf(world: World, node: RotatingNode) -> None:
    """A daemon whose step fails takes back what it has said, hears that the rotation was led back, and follows. It
    tries again after a while, and not at once.
    """
    former, enforcer = node.read("user.conf"), node.enforcer()
    shared = former.replace(b"certificate-authority-data: ", b"certificate-authority-data: &ca ") + b"also: *ca\n"
    come_to(Phase.TRUST, world, node, enforcer)
    world.api.store.add("nodes", "node-2")  # which has not answered: the phase lasts
    acting = Reconciler(enforcer, Journal("none"), Telemetry("enforce"), enforcing=True, stopping=lambda: False)

    def passes(until: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE  # the API is asked again after `poll`, which nobody sets for it
        while time.monotonic() < end:
            fit(world, recorded(node))
            acting.make_plan(*enforcer.see())
            acting.execute()
            if until():
                return
        raise AssertionError(f"{node.record}: {enforcer.rotating.waits}")

    passes(lambda: "/trust/" in str(annotation(world)))
    node.put("user.conf", shared)  # in which the CA cannot be exchanged alone
    passes(lambda: "/-/-/-/" in str(annotation(world)))
    assert acting.retry_at
    assert (enforcer.rotating.until, acting.service_check_at) == (None, None)
    world.record(abort(recorded(node), node.clock()))
    passes(lambda: recorded(node).aborted)


def lags(world: World, node: RotatingNode, own: Phase, cluster: Phase) -> None:
    """The node is in one phase, and does not know yet that the cluster has come to a later one."""
    made = replace(recorded(node), phase=own)
    RotationRecord(node.state).save(made)
    world.record(replace(made, phase=cluster))


def recorded(node: RotatingNode) -> Rotation:
    assert node.record
    return node.record


def test_a_record_that_was_deleted_is_brought_back(world: World, node: RotatingNode) -> None:
    """By the control plane that knows how far the rotation is, before it does anything else; and it goes on."""
    come_to(Phase.DETACH, world, node, node.enforcer())
    world.api.store.remove("configmaps", "certmond-rotation", "kube-system")
    world.api.store.add("nodes", "node-2", metadata={"labels": {"node-role.kubernetes.io/control-plane": ""}})
    again = node.enforcer()
    while one_pass(world, node, again):
        pass
    assert world.phase is Phase.DETACH
    assert again.rotating.waits == ("node-2 has not answered",)
    world.api.store.remove("nodes", "node-2")
    come_to(Phase.TRUST, world, node, again)


def test_a_record_that_cannot_be_brought_back_is_told(world: World, node: RotatingNode) -> None:
    """Why, and the phase lasts; a worker, which writes no record, waits for those who do."""
    come_to(Phase.DETACH, world, node, node.enforcer())
    world.api.store.remove("configmaps", "certmond-rotation", "kube-system")
    world.api.denied = {"POST /api/v1/namespaces/kube-system/configmaps"}
    again = node.enforcer()
    while one_pass(world, node, again):
        pass
    (said,) = again.rotating.waits
    missing = "the shared record of .* is missing or outdated, and certmond cannot restore it"
    assert re.match(f"{missing}: the user of .* may not", said)
    assert node.phase is Phase.DETACH
    (node.files / "ca.key").unlink()
    world.api.denied, worker = set(), node.enforcer()
    one_pass(world, node, worker)
    assert world.recorded is None


def test_no_way_back_is_found_by_who_lags(world: World, node: RotatingNode) -> None:
    """Past the point of no return it is refused on a node, too, that has not come there itself, and nothing changes."""
    lags(world, node, Phase.ISSUE, Phase.DISTRUST)
    before, own = world.recorded, node.record
    said = node.hurry("root-ca", "abort", "--no-wait")
    assert said.code == 2
    assert "is in the phase distrust, from which there is no way back" in said.err
    assert (world.recorded, node.record) == (before, own)


def test_who_lags_turns_round_where_the_cluster_is(world: World, node: RotatingNode) -> None:
    """Leaves of the new CA, which other nodes have already, are issued again before it is distrusted."""
    lags(world, node, Phase.TRUST, Phase.ISSUE)
    said = node.hurry("root-ca", "abort", "--no-wait")
    assert said.code == 0, said.err
    assert world.recorded
    assert (world.recorded.id[-5:], world.phase) == ("-back", Phase.ISSUE)


def test_who_lags_excludes_in_the_phase_of_the_cluster(world: World, node: RotatingNode) -> None:
    """A node is left out of the phase that the others are in, and those stay out that others have left out."""
    lags(world, node, Phase.TRUST, Phase.ISSUE)
    world.record(replace(recorded(node), phase=Phase.ISSUE, excluded=("w-1",)))
    said = node.hurry("root-ca", "rotate", "--exclude", "w-2", "--no-wait")
    assert said.code == 0, said.err
    assert world.recorded
    assert (world.recorded.excluded, world.phase) == (("w-1", "w-2"), Phase.ISSUE)


def test_what_changes_while_a_person_decides_is_decided_anew(world: World, node: RotatingNode) -> None:
    """Between the look and the word of a person the cluster went on: neither a way back nor an exclusion is written."""
    lags(world, node, Phase.TRUST, Phase.TRUST)
    enforcer = node.enforcer()
    enforcer.rotating.ask()
    enforcer.see()
    decided = enforcer.standing.rotation
    assert decided
    world.record(replace(decided, phase=Phase.ISSUE))
    for each in (abort(decided, node.clock()), replace(decided, excluded=("w-2",))):
        with pytest.raises(OvertakenError):
            enforcer.rotating.change(each)
    assert world.phase is Phase.ISSUE
    assert node.record == decided


def test_what_others_have_come_to_is_noted_where_nobody_has_decided_meanwhile(world: World, node: RotatingNode) -> None:
    """Between the look and the note of what the cluster has, another process of this node has led it back: that stays,
    and is looked at anew.
    """
    lags(world, node, Phase.PREPARE, Phase.DETACH)
    enforcer = node.enforcer()
    enforcer.rotating.ask()
    assessment, around = enforcer.see()
    made = enforcer.plan(assessment, around=around)
    back = abort(recorded(node), node.clock())
    RotationRecord(node.state).save(back)
    assert enforcer.rotate(assessment, around, made) == "another process has changed the record meanwhile"
    assert node.record == back


def told(node: RotatingNode, *, worker: bool) -> list[dict[str, str]]:
    """What the node tells of its CA in some passes, as a worker without the CA's key or as a control plane."""
    if worker:
        (node.files / "ca.key").unlink(missing_ok=True)
    enforcer, found = node.enforcer(), list[dict[str, str]]()
    for _ in range(4):
        assessment, around = enforcer.see()
        found.append({f.reason.value: f.message for each in assessment.statuses for f in each.findings})
        made = enforcer.plan(assessment, around=around)
        enforcer.executor.execute(made)
        enforcer.rotate(assessment, around, made)
    return found


@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.TRUST, Phase.DISTRUST])
@pytest.mark.parametrize("worker", [False, True], ids=["control plane", "worker"])
def test_a_forged_record_is_not_followed(world: World, calm: RotatingNode, phase: Phase, worker: bool) -> None:
    """Whoever can write the record can make no node trust another CA: nothing is touched, nothing noted, and it is
    told.
    """
    world.record(world.rotation(phase))
    before = calm.tree()
    last = told(calm, worker=worker)[-1]
    assert "is not signed with the key of the CA that it is to follow" in last["rotation_frozen"]
    assert calm.record is None
    assert {name: found for name, found in before.items() if name != "ca.key"}.items() <= calm.tree().items()


def test_a_worker_follows_what_a_control_plane_has_begun(world: World, calm: RotatingNode, tmp_path: Path) -> None:
    """When its batch has come, and not before; be it that it hears of it late: the former CA's signature is in the
    record.
    """
    calm.copy(tmp_path / "other").begin(world.new)
    assert world.recorded
    assert world.recorded.signature
    trust = replace(rotation_of(world.recorded), phase=Phase.TRUST)
    world.record(replace(trust, released=place(NODE)))
    assert told(calm, worker=True)[-1]["rotation_under_way"].endswith(HELD_BACK)
    assert calm.trust() == (world.old.facts,)
    assert calm.record == replace(trust, released=place(NODE))
    world.record(replace(trust, released=1.0))
    assert "rotation_frozen" not in told(calm, worker=True)[-1]
    assert set(calm.trust()) == {world.old.facts, world.new.facts}


def test_what_a_worker_has_said_stands_until_its_batch_comes(world: World, calm: RotatingNode, tmp_path: Path) -> None:
    """Of the phase before, be it that certmond is started again meanwhile: by that word the others know it."""
    calm.copy(tmp_path / "other").begin(world.new)
    assert world.recorded
    begun = rotation_of(world.recorded)
    world.record(replace(begun, phase=Phase.DETACH))
    told(calm, worker=True)
    said = annotation(world)
    assert str(said).startswith(f"{begun.id}/detach/")
    world.record(replace(begun, phase=Phase.TRUST))
    assert told(calm, worker=True)[-1]["rotation_under_way"].endswith(HELD_BACK)
    assert annotation(world) == said


@pytest.mark.parametrize("phase", [Phase.TRUST, Phase.ISSUE])
def test_a_control_plane_has_the_key_on_the_way_back_too(world: World, node: RotatingNode, phase: Phase) -> None:
    """It says so in each phase: that is what tells it from a worker, whatever its Node is labelled."""
    come_to(phase, world, node, node.enforcer())
    assert node.hurry("root-ca", "abort", "--no-wait").code == 0
    enforcer, found = node.enforcer(), set[str]()
    while node.record:
        one_pass(world, node, enforcer)
        found.add(str(annotation(world)))
    back = [each for each in found if each.partition("/")[0].endswith("-back")]
    assert {each.split("/")[1] for each in back} >= {"distrust", "attach"}
    assert {each.split("/")[4] for each in back} == {"key"}


def test_a_control_plane_goes_on_with_what_is_staged_there(world: World, calm: RotatingNode, tmp_path: Path) -> None:
    """Until then it holds, and says what to do."""
    calm.copy(tmp_path / "other").begin(world.new)
    assert world.recorded
    world.record(replace(rotation_of(world.recorded), phase=Phase.TRUST))
    assert "(`certmond root-ca stage`)" in told(calm, worker=False)[-1]["rotation_frozen"]
    assert calm.trust() == (world.old.facts,)
    calm.stage(world.new)
    assert "rotation_frozen" not in told(calm, worker=False)[-1]
    assert calm.trust() == (world.old.facts, world.new.facts)


def counted(enforcer: Enforcer) -> Workers | None:
    return enforcer.standing.workers


def test_it_is_told_how_far_the_workers_are(world: World, calm: RotatingNode) -> None:
    """Before it begins, in which phases they follow in batches; then how many there are, may act, and have said that
    they have come so far. A node by itself tells of none, nor does what is done at once.
    """
    calm.stage(world.new)
    said = "workers in trust, issue, distrust: one first, then 10% at a time, when all before them have"
    assert said in calm.hurry("root-ca", "rotate", "--plan").out
    assert "workers" not in calm.hurry("root-ca", "rotate", "--plan", "--at-once").out
    calm.begin(world.new)
    for name in ("w-1", "w-2"):
        world.api.store.add("nodes", name)
    enforcer = calm.enforcer()
    assert counted(enforcer) is None
    lags(world, calm, Phase.TRUST, Phase.TRUST)
    while not counted(enforcer):
        one_pass(world, calm, enforcer)
    assert counted(enforcer) == Workers(2, 0, 0)
    while not recorded(calm).released:
        one_pass(world, calm, enforcer)
    first, last = sorted(("w-1", "w-2"), key=place)
    one_pass(world, calm, enforcer)
    one_pass(world, calm, enforcer)
    assert enforcer.rotating.waits == (f"{first} has not answered (2 workers: 1 released, 0 acknowledged)",)
    assert counted(enforcer) == Workers(2, 1, 0)
    said = calm.hurry("root-ca", "show").out
    assert said.endswith(f"phase trust, workers up to the place {place(last):.2f} of 1 may act\n")
    calm.configure(cluster={})
    assert "workers" not in calm.hurry("root-ca", "rotate", "--plan").out


@pytest.mark.parametrize("key", [None, root_ca().key_pem], ids=["none", "another's"])
def test_who_has_no_key_begins_nothing(world: World, calm: RotatingNode, key: bytes | None) -> None:
    """Without the former CA's word for it no node would follow: it is refused, and nothing is recorded."""
    (calm.files / "ca.key").unlink()
    if key is not None:
        calm.put("ca.key", key)
    with pytest.raises(RotationError, match=r"cannot begin on this node: .*; begin it on a control-plane node$"):
        calm.begin(world.new)
    assert (world.recorded, calm.record) == (None, None)


def test_a_forged_record_is_told_to_who_decides(world: World, calm: RotatingNode) -> None:
    """Neither verb does anything about it."""
    world.record(world.rotation(Phase.TRUST))
    calm.stage(world.new)
    for verb in ("abort", "rotate"):
        said = calm.hurry("root-ca", verb, "--no-wait")
        assert (said.code, "is not followed: it is not signed with" in said.err) == (3, True)
    assert calm.record is None


def test_what_several_nodes_have_begun_is_not_ended_alone(world: World, node: RotatingNode) -> None:
    """Without `cluster:` in the configuration it stands still, and is told; with it, it goes on."""
    cluster = node.settings["cluster"]
    come_to(Phase.TRUST, world, node, node.enforcer())
    node.configure(cluster={})
    before, own = node.tree(), node.record
    assert "restore `cluster:` until the rotation is over" in node.findings()["rotation_frozen"]
    assert [node.step() for _ in range(3)] == [None, None, None]
    for verb in ("rotate", "abort"):
        assert node.hurry("root-ca", verb, "--no-wait").code == 3
    assert (node.tree(), node.record) == (before, own)
    node.configure(cluster=cluster)
    come_to(Phase.ISSUE, world, node, node.enforcer())


@pytest.mark.parametrize("phase", [Phase.TRUST, Phase.ISSUE])
def test_an_older_record_that_comes_back_is_not_followed(world: World, node: RotatingNode, phase: Phase) -> None:
    """Of an etcd that was restored: what went back and was closed is neither begun again nor turned round again. Who
    begins another one is told which record is stale, and how to take it away; then it begins.
    """
    come_to(Phase.DETACH, world, node, node.enforcer())
    forth = recorded(node)
    assert node.hurry("root-ca", "abort", "--no-wait").code == 0
    come_to(None, world, node, node.enforcer())
    before = node.tree()
    for older in (replace(forth, phase=phase), replace(abort(forth, node.clock()), phase=phase)):
        world.record(older)
        assert "rotation_frozen" not in told(node, worker=False)[-1]
        assert (node.record, node.tree()) == (None, before)
        node.stage(world.new)
        stale, said = world.recorded, node.hurry("root-ca", "rotate", "--no-wait")
        assert stale
        assert said.code == 3
        assert f"record is of {rotation_of(stale).name}, in the phase {phase}, which this node has ended" in said.err
        assert "take it away by `kubectl -n kube-system delete configmap certmond-rotation`, and go on" in said.err
        assert (world.recorded, node.record, node.tree()) == (stale, None, before)
    world.api.store.remove("configmaps", "certmond-rotation", "kube-system")
    assert node.hurry("root-ca", "rotate", "--no-wait").code == 0


def test_a_forged_record_stops_no_other_family(world: World, calm: RotatingNode) -> None:
    """What is signed with the CA that it names is not renewed meanwhile; what another one signs is."""
    calm.configure()
    document = yaml.safe_load((calm.place / "config.yaml").read_text())
    other = root_ca()
    calm.put("etcd.crt", other.pem)
    calm.put("etcd.key", other.key_pem)
    document["certificates"].append(
        {"name": "etcd-ca", "path": str(calm.files / "etcd.crt"), "key": str(calm.files / "etcd.key"),
         "authority": True}
    )  # fmt: skip
    (calm.place / "config.yaml").write_text(yaml.safe_dump(document))
    world.record(world.rotation(Phase.TRUST, family="etcd-ca", old=(other.facts,)))
    enforcer = calm.enforcer()
    enforcer.rotating.ask()
    assessment, _ = enforcer.see()
    assert enforcer.standing.broken
    assert list(enforcer.standing.unsure) == ["etcd-ca"]
    frozen = {
        each.seen.name for each in assessment.statuses for f in each.findings if f.reason.value == "rotation_frozen"
    }
    assert frozen == {"etcd-ca"}


def due(node: RotatingNode, *, by: Issued | None = None) -> None:
    """web.crt is to be renewed now."""
    now = node.clock()
    web = make_server(by or node.old, "web", names=["DNS:web"], not_before=now - 90 * DAY, not_after=now + DAY)
    node.put("web.crt", web.pem)
    node.put("web.key", web.key_pem)


def planned(enforcer: Enforcer) -> tuple[list[str], list[str]]:
    """What would be renewed, and what is held."""
    assessment, around = enforcer.see()
    made = enforcer.plan(assessment, around=around)
    return [each.target for each in made.writes], [each.target for each in made.held]


def test_a_record_that_cannot_be_understood_stops_no_renewal_of_who_is_in_none(
    world: World, calm: RotatingNode
) -> None:
    """Where a node is in no rotation, and its CA is the one that it has lived by, leaves are renewed as ever, whatever
    stands in the cluster's record, which is told; where its CA is another one, they are not.
    """
    assert calm.step() is None  # which accepts what it lives by
    due(calm)
    world.put("configmaps", "certmond-rotation", "kube-system", data={"record": "["})
    enforcer = calm.enforcer()
    enforcer.rotating.ask()
    assert planned(enforcer) == (["web"], [])
    assert "not to be understood" in (enforcer.standing.broken or "")
    other = root_ca()
    calm.put("ca.crt", other.pem)
    calm.put("ca.key", other.key_pem)
    assert planned(enforcer) == ([], ["web"])


@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.TRUST, Phase.ISSUE, Phase.DISTRUST])
@pytest.mark.parametrize("whose", ["the cluster's", "the node's"])
def test_what_a_rotation_concerns_is_not_renewed_while_nobody_can_tell_how_far_it_is(
    world: World, calm: RotatingNode, phase: Phase, whose: str
) -> None:
    """Nothing is signed with a CA that a rotation which is under way here concerns, be it the former or the new one,
    and be it that somebody has put the former one's files back.
    """
    assert calm.step() is None
    former = {name: calm.read(name) for name in ("ca.crt", "ca.key")}
    calm.begin(world.new)
    come_to(phase, world, calm, calm.enforcer())
    enforcer = calm.enforcer()
    while planned(enforcer)[0]:
        one_pass(world, calm, enforcer)
    if whose == "the cluster's":
        world.put("configmaps", "certmond-rotation", "kube-system", data={"record": "["})
    else:
        (calm.state / "rotation/record.json").write_text("[")
    again = calm.enforcer()
    again.rotating.ask()
    exchanged = phase in {Phase.ISSUE, Phase.DISTRUST}
    due(calm, by=world.new if exchanged else None)
    untouched = whose == "the node's" and phase is Phase.PREPARE
    assert planned(again) == ((["web"], []) if untouched else ([], ["web"]))
    for name, content in former.items():
        calm.put(name, content)
    if whose == "the cluster's" or exchanged:
        assert planned(again) == ([], ["web"])


def test_a_node_that_was_left_out_says_that_it_is_cut_off(world: World, node: RotatingNode) -> None:
    """At its CA, critical, with what to do, beside what is told of the rotation; leaves are renewed as before."""
    enforcer = node.enforcer()
    come_to(Phase.DETACH, world, node, enforcer)
    world.api.before = lambda *_: world.api.faults.append(Fault(401))
    found = dict[Reason, Finding]()
    while Reason.CUT_OFF not in found:
        one_pass(world, node, enforcer)
        signal.sigtimedwait([], 0.05)
        assessment, _ = enforcer.see()
        found = {
            each.reason: each for status in assessment.statuses if status.seen.name == "ca" for each in status.findings
        }
    assert Reason.ROTATION_UNDER_WAY in found
    assert found[Reason.CUT_OFF].severity is Severity.CRITICAL
    assert "join it again: kubeadm reset, kubeadm join" in found[Reason.CUT_OFF].message
    assert not enforcer.standing.unsure


@pytest.mark.parametrize(
    ("faults", "cut_off"), [([401, 401], True), ([401], False), ([503], False), ([403], False), ([], False)]
)
def test_a_check_asks_once_whether_the_cluster_knows_the_node(
    world: World, calm: RotatingNode, faults: list[int], cut_off: bool
) -> None:
    """Without a daemon it says the same as one: twice in a row is enough, and an API that is away, or refuses, is no
    news.
    """
    world.api.faults = [Fault(each) for each in faults]
    said = calm.hurry("check", "-o", "json")
    found = {each["reason"] for entry in json.loads(said.out)["certificates"] for each in entry["findings"]}
    assert ("cut_off" in found) is cut_off, said
    assert (said.code == 2) is cut_off


def test_what_is_not_asked_waits_for_nobody(world: World, calm: RotatingNode) -> None:
    """A look at another time, or one that only plans, asks the API nothing."""
    world.api.calls.clear()
    for words in (("check", "--at", "2030-01-01T00:00:00Z"), ("plan",), ("metrics",)):
        calm.hurry(*words)
    assert world.api.calls == []
