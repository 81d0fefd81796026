"""A real node whose rotation the cluster coordinates: its files, its configuration and its rights, with one API."""

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

from certmond.cluster.api_access import Access
from certmond.cluster.node_api import ANNOTATION
from certmond.cluster.record_rules import rotation_of
from certmond.daemon.enforcer import Enforcer
from certmond.daemon.reconciler import Reconciler
from certmond.errors import OvertakenError, RotationError
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.notify.event_log import Journal
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.rotation.phases import Phase, Rotation, abort
from certmond.pki.rotation.worker_batches import Workers, place
from certmond.state.boot import boot_id
from certmond.state.rotation_record import RotationRecord
from tests.builders import DAY, Issued, make_server
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.coordinator_world import World
from tests.cluster.leaks import leaks
from tests.cluster.test_rotation_coordinator import fit
from tests.deadline import DEADLINE
from tests.rotation_node import RotatingNode, root_ca

NODE = "node-1"
HELD_BACK = "the batch of this worker has not begun; on a control-plane node, list the earlier workers: certmond status"


@pytest.fixture
def world(cluster: ApiServer, access_of: Callable[..., Access], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("certmond.cluster.rotation_checks.signer._POLL_INTERVAL", 0.01)
    made = World(cluster, access_of)
    yield made
    assert not leaks(bytes(cluster.received), made.old, made.new)


@pytest.fixture
def calm(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RotatingNode:
    """The only node, a control plane. It has its kubelet's kubeconfig, and that of config/rbac.yaml's group."""
    monkeypatch.setattr(
        "certmond.controllers.coordinator_factory.KUBELET_CONF", world.api.user(f"system:node:{NODE}", "system:nodes")
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
    """Make a pass like a daemon that holds the Lease, in a cluster that passes all checks."""
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
    """Return the report of the node."""
    return world.api.store.get("nodes", NODE)["metadata"].get("annotations", {}).get(ANNOTATION)


@pytest.mark.long
@pytest.mark.real("openssl")
def test_a_node_completes_a_rotation(world: World, node: RotatingNode) -> None:
    """With the two kubeconfigs of docs/rotation.md it annotates its Node, leads, and gives the Lease back."""
    come_to(None, world, node, node.enforcer())
    assert node.unwell(world.new) == []
    assert world.phase is Phase.DONE
    assert str(annotation(world)).startswith("20261124T120000Z-abcdef/attach/")
    assert str(annotation(world)).endswith(f"/{boot_id()}")
    assert world.api.leases.only["spec"]["holderIdentity"] == ""


@pytest.mark.long
def test_a_finished_rotation_ends_before_the_next_one_is_followed(world: World, node: RotatingNode) -> None:
    """If the cluster is already in the next rotation, the node still deletes the files of this one, whose key would
    block the next.
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


@pytest.mark.long
@pytest.mark.parametrize(
    "call", ["PUT /api/v1/namespaces/kube-system/configmaps", "GET /api/v1/namespaces/kube-system/configmaps"]
)
def test_a_phase_that_cannot_be_recorded_is_not_left(world: World, node: RotatingNode, call: str) -> None:
    """The node waits and reports the reason. It continues when the record can be written, and no step has failed."""
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


@pytest.mark.long
def test_another_record_in_the_cluster_is_reported(world: World, node: RotatingNode) -> None:
    """A record that this node cannot follow stops it, and the next pass reports the record."""
    enforcer = node.enforcer()
    one_pass(world, node, enforcer)
    before = node.phase
    world.put("configmaps", "certmond-rotation", "kube-system", data={"record": "["})
    again = node.enforcer()
    assert one_pass(world, node, again) is None
    assert "contains an invalid record" in again.rotating.waits[0]
    assert one_pass(world, node, again) is None
    assert again.rotation_state.broken
    assert node.phase is before


def test_a_report_of_a_node_is_withdrawn_when_it_is_outdated(world: World, node: RotatingNode) -> None:
    """A file that changes after the node has reported the phase withdraws the report."""
    world.api.store.add("nodes", "node-2")  # which has not reported: the phase lasts
    enforcer = node.enforcer()
    come_to(Phase.PREPARE, world, node, enforcer)
    assert one_pass(world, node, enforcer) is None
    assert enforcer.rotating.waits == ("node-2 has not reported",)
    assert str(annotation(world)).startswith("20261124T120000Z-abcdef/prepare/")
    node.put("ca.crt", root_ca().pem)
    assert one_pass(world, node, enforcer) is None
    assert str(annotation(world)).startswith("20261124T120000Z-abcdef/-/")
    node.put("ca.crt", node.old.pem)
    assert one_pass(world, node, enforcer) is None
    assert str(annotation(world)).startswith("20261124T120000Z-abcdef/prepare/")


@pytest.mark.long
def test_a_failed_step_does_not_stop_the_reports(world: World, node: RotatingNode) -> None:
    """A daemon whose step fails withdraws its report, reads that the rotation was aborted, and follows. It tries again
    after a delay, not at once.
    """
    former, enforcer = node.read("user.conf"), node.enforcer()
    shared = former.replace(b"certificate-authority-data: ", b"certificate-authority-data: &ca ") + b"also: *ca\n"
    come_to(Phase.TRUST, world, node, enforcer)
    world.api.store.add("nodes", "node-2")  # which has not reported: the phase lasts
    acting = Reconciler(enforcer, Journal("none"), Telemetry("enforce"), enforcing=True, stopping=lambda: False)

    def passes(until: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE  # the API is read again after `poll`, which the test does not set for it
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
    """Bring the node to one phase and the cluster to a later one that the node has not read."""
    made = replace(recorded(node), phase=own)
    RotationRecord(node.state).save(made)
    world.record(replace(made, phase=cluster))


def recorded(node: RotatingNode) -> Rotation:
    assert node.record
    return node.record


@pytest.mark.long
def test_a_record_that_was_deleted_is_restored(world: World, node: RotatingNode) -> None:
    """The control plane that has the phase restores the record before any other step, and the rotation continues."""
    come_to(Phase.DETACH, world, node, node.enforcer())
    world.api.store.remove("configmaps", "certmond-rotation", "kube-system")
    world.api.store.add("nodes", "node-2", metadata={"labels": {"node-role.kubernetes.io/control-plane": ""}})
    again = node.enforcer()
    while one_pass(world, node, again):
        pass
    assert world.phase is Phase.DETACH
    assert again.rotating.waits == ("node-2 has not reported",)
    world.api.store.remove("nodes", "node-2")
    come_to(Phase.TRUST, world, node, again)


@pytest.mark.long
def test_a_record_that_cannot_be_restored_is_reported(world: World, node: RotatingNode) -> None:
    """The message has the reason, and the phase lasts. A worker, which writes no record, waits for the control
    planes.
    """
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


def test_a_node_that_lags_cannot_abort(world: World, node: RotatingNode) -> None:
    """Past the point of no return the abort is refused also on a node that has not reached it, and nothing changes."""
    lags(world, node, Phase.ISSUE, Phase.DISTRUST)
    before, own = world.recorded, node.record
    said = node.hurry("root-ca", "abort", "--no-wait")
    assert said.code == 2
    assert "is in the phase distrust and cannot be aborted" in said.err
    assert (world.recorded, node.record) == (before, own)


def test_who_lags_turns_round_where_the_cluster_is(world: World, node: RotatingNode) -> None:
    """Leaves of the new CA, which other nodes have already, are issued again before it is distrusted."""
    lags(world, node, Phase.TRUST, Phase.ISSUE)
    said = node.hurry("root-ca", "abort", "--no-wait")
    assert said.code == 0, said.err
    assert world.recorded
    assert (world.recorded.id[-5:], world.phase) == ("-back", Phase.ISSUE)


def test_a_node_that_lags_excludes_in_the_phase_of_the_cluster(world: World, node: RotatingNode) -> None:
    """A node is excluded from the phase of the others, and existing exclusions stay."""
    lags(world, node, Phase.TRUST, Phase.ISSUE)
    world.record(replace(recorded(node), phase=Phase.ISSUE, excluded=("w-1",)))
    said = node.hurry("root-ca", "rotate", "--exclude", "w-2", "--no-wait")
    assert said.code == 0, said.err
    assert world.recorded
    assert (world.recorded.excluded, world.phase) == (("w-1", "w-2"), Phase.ISSUE)


def test_a_decision_from_an_old_state_is_not_written(world: World, node: RotatingNode) -> None:
    """If the cluster advanced between the pass and the command of an operator, neither an abort nor an exclusion is
    written.
    """
    lags(world, node, Phase.TRUST, Phase.TRUST)
    enforcer = node.enforcer()
    enforcer.rotating.ask()
    enforcer.see()
    decided = enforcer.rotation_state.rotation
    assert decided
    world.record(replace(decided, phase=Phase.ISSUE))
    for each in (abort(decided, node.clock()), replace(decided, excluded=("w-2",))):
        with pytest.raises(OvertakenError):
            enforcer.rotating.change(each)
    assert world.phase is Phase.ISSUE
    assert node.record == decided


def test_the_phase_of_others_is_stored_unless_the_node_decided_meanwhile(world: World, node: RotatingNode) -> None:
    """If another process of this node aborted the rotation between the pass and the write, the abort stays, and the
    next pass reads it.
    """
    lags(world, node, Phase.PREPARE, Phase.DETACH)
    enforcer = node.enforcer()
    enforcer.rotating.ask()
    assessment, around = enforcer.see()
    made = enforcer.plan(assessment, around=around)
    back = abort(recorded(node), node.clock())
    RotationRecord(node.state).save(back)
    said = enforcer.rotate(assessment, around, made)
    assert said == "another process has changed the rotation record; certmond reads it again"
    assert node.record == back


def reported(node: RotatingNode, *, worker: bool) -> list[dict[str, str]]:
    """Return the findings of the node's CA in some passes, as a worker without the CA's key or as a control plane."""
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
    """A user who can write the record can make no node trust another CA: no file and no record changes, and the node
    reports it.
    """
    world.record(world.rotation(phase))
    before = calm.tree()
    last = reported(calm, worker=worker)[-1]
    assert "the key of the old CA has not signed the rotation" in last["rotation_frozen"]
    assert calm.record is None
    assert {name: found for name, found in before.items() if name != "ca.key"}.items() <= calm.tree().items()


@pytest.mark.long
def test_a_worker_follows_a_rotation_of_a_control_plane(world: World, calm: RotatingNode, tmp_path: Path) -> None:
    """The worker follows when its batch has started, not before, also if it reads the record late: the record has the
    old CA's signature.
    """
    calm.copy(tmp_path / "other").begin(world.new)
    assert world.recorded
    assert world.recorded.signature
    trust = replace(rotation_of(world.recorded), phase=Phase.TRUST)
    world.record(replace(trust, released=place(NODE)))
    assert reported(calm, worker=True)[-1]["rotation_under_way"].endswith(HELD_BACK)
    assert calm.trust() == (world.old.facts,)
    assert calm.record == replace(trust, released=place(NODE))
    world.record(replace(trust, released=1.0))
    assert "rotation_frozen" not in reported(calm, worker=True)[-1]
    assert set(calm.trust()) == {world.old.facts, world.new.facts}


@pytest.mark.long
def test_the_report_of_a_worker_stays_until_its_batch_starts(world: World, calm: RotatingNode, tmp_path: Path) -> None:
    """The report of the phase before stays, also if certmond restarts meanwhile: the others recognize the worker by
    it.
    """
    calm.copy(tmp_path / "other").begin(world.new)
    assert world.recorded
    begun = rotation_of(world.recorded)
    world.record(replace(begun, phase=Phase.DETACH))
    reported(calm, worker=True)
    said = annotation(world)
    assert str(said).startswith(f"{begun.id}/detach/")
    world.record(replace(begun, phase=Phase.TRUST))
    assert reported(calm, worker=True)[-1]["rotation_under_way"].endswith(HELD_BACK)
    assert annotation(world) == said


@pytest.mark.long
@pytest.mark.parametrize("phase", [Phase.TRUST, Phase.ISSUE])
def test_a_control_plane_has_the_key_during_an_abort_too(world: World, node: RotatingNode, phase: Phase) -> None:
    """Its report has that in each phase, and distinguishes it from a worker, whatever the labels of its Node."""
    come_to(phase, world, node, node.enforcer())
    assert node.hurry("root-ca", "abort", "--no-wait").code == 0
    enforcer, found = node.enforcer(), set[str]()
    while node.record:
        one_pass(world, node, enforcer)
        found.add(str(annotation(world)))
    back = [each for each in found if each.partition("/")[0].endswith("-back")]
    assert {each.split("/")[1] for each in back} >= {"distrust", "attach"}
    assert {each.split("/")[4] for each in back} == {"key"}


@pytest.mark.long
def test_a_control_plane_continues_with_the_staged_ca(world: World, calm: RotatingNode, tmp_path: Path) -> None:
    """Until it is staged the node holds, and reports the remedy."""
    calm.copy(tmp_path / "other").begin(world.new)
    assert world.recorded
    world.record(replace(rotation_of(world.recorded), phase=Phase.TRUST))
    assert "; run: certmond root-ca stage" in reported(calm, worker=False)[-1]["rotation_frozen"]
    assert calm.trust() == (world.old.facts,)
    calm.stage(world.new)
    assert "rotation_frozen" not in reported(calm, worker=False)[-1]
    assert calm.trust() == (world.old.facts, world.new.facts)


def counted(enforcer: Enforcer) -> Workers | None:
    return enforcer.rotation_state.workers


@pytest.mark.long
def test_the_progress_of_the_workers_is_shown(world: World, calm: RotatingNode) -> None:
    """Before the rotation, the plan has the phases with batches. Then the status has the number of workers, of those
    released, and of those that have reached the phase. A single node and a rotation at once have none.
    """
    calm.stage(world.new)
    said = "workers in trust, issue, distrust: one worker first, then batches of 10%; each worker waits until all"
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
    assert enforcer.rotating.waits == (f"{first} has not reported (2 workers: 1 released, 0 acknowledged)",)
    assert counted(enforcer) == Workers(2, 1, 0)
    said = calm.hurry("root-ca", "show").out
    assert said.endswith(f"phase trust, about {place(last):.0%} of the workers may act\n")
    calm.configure(cluster={})
    assert "workers" not in calm.hurry("root-ca", "rotate", "--plan").out


@pytest.mark.parametrize("key", [None, root_ca().key_pem], ids=["none", "another's"])
def test_a_node_without_the_key_begins_nothing(world: World, calm: RotatingNode, key: bytes | None) -> None:
    """Without the old CA's signature no node would follow: the start is refused, and nothing is recorded."""
    (calm.files / "ca.key").unlink()
    if key is not None:
        calm.put("ca.key", key)
    with pytest.raises(RotationError, match=r"cannot begin on this node: .*; begin the rotation on a control-plane"):
        calm.begin(world.new)
    assert (world.recorded, calm.record) == (None, None)


def test_a_forged_record_is_reported_to_the_operator(world: World, calm: RotatingNode) -> None:
    """Neither verb changes anything."""
    world.record(world.rotation(Phase.TRUST))
    calm.stage(world.new)
    for verb in ("abort", "rotate"):
        said = calm.hurry("root-ca", verb, "--no-wait")
        assert (said.code, ": the key of the old CA has not signed the rotation" in said.err) == (
            3,
            True,
        )
    assert calm.record is None


@pytest.mark.long
def test_a_rotation_of_several_nodes_is_not_ended_by_one(world: World, node: RotatingNode) -> None:
    """Without `cluster:` in the configuration the rotation is blocked and reported. With it, the rotation continues."""
    cluster = node.settings["cluster"]
    come_to(Phase.TRUST, world, node, node.enforcer())
    node.configure(cluster={})
    before, own = node.tree(), node.record
    assert "restore `cluster:` until the rotation ends" in node.findings()["rotation_frozen"]
    assert [node.step() for _ in range(3)] == [None, None, None]
    for verb in ("rotate", "abort"):
        assert node.hurry("root-ca", verb, "--no-wait").code == 3
    assert (node.tree(), node.record) == (before, own)
    node.configure(cluster=cluster)
    come_to(Phase.ISSUE, world, node, node.enforcer())


@pytest.mark.long
@pytest.mark.parametrize("phase", [Phase.TRUST, Phase.ISSUE])
def test_an_older_record_that_returns_is_not_followed(world: World, node: RotatingNode, phase: Phase) -> None:
    """After a restore of etcd, a rotation that was aborted and closed is neither begun nor aborted again. The command
    that begins another one names the stale record and how to delete it; then it begins.
    """
    come_to(Phase.DETACH, world, node, node.enforcer())
    forth = recorded(node)
    assert node.hurry("root-ca", "abort", "--no-wait").code == 0
    come_to(None, world, node, node.enforcer())
    before = node.tree()
    for older in (replace(forth, phase=phase), replace(abort(forth, node.clock()), phase=phase)):
        world.record(older)
        assert "rotation_frozen" not in reported(node, worker=False)[-1]
        assert (node.record, node.tree()) == (None, before)
        node.stage(world.new)
        stale, said = world.recorded, node.hurry("root-ca", "rotate", "--no-wait")
        assert stale
        assert said.code == 3
        assert (
            f"record of {rotation_of(stale).name} in the phase {phase}, but this node has ended the rotation"
            in said.err
        )
        assert "run: kubectl -n kube-system delete configmap certmond-rotation" in said.err
        assert (world.recorded, node.record, node.tree()) == (stale, None, before)
    world.api.store.remove("configmaps", "certmond-rotation", "kube-system")
    assert node.hurry("root-ca", "rotate", "--no-wait").code == 0


def test_a_forged_record_stops_no_other_family(world: World, calm: RotatingNode) -> None:
    """Certificates of the CA that it names are not renewed meanwhile. Those of another family are."""
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
    assert enforcer.rotation_state.broken
    assert list(enforcer.rotation_state.unsure) == ["etcd-ca"]
    frozen = {
        each.seen.name for each in assessment.statuses for f in each.findings if f.reason.value == "rotation_frozen"
    }
    assert frozen == {"etcd-ca"}


def due(node: RotatingNode, *, by: Issued | None = None) -> None:
    """Make web.crt due for renewal now."""
    now = node.clock()
    web = make_server(by or node.old, "web", names=["DNS:web"], not_before=now - 90 * DAY, not_after=now + DAY)
    node.put("web.crt", web.pem)
    node.put("web.key", web.key_pem)


def planned(enforcer: Enforcer) -> tuple[list[str], list[str]]:
    """Return the planned renewals and the holds."""
    assessment, around = enforcer.see()
    made = enforcer.plan(assessment, around=around)
    return [each.target for each in made.writes], [each.target for each in made.held]


def test_an_invalid_record_stops_no_renewal_of_an_uninvolved_node(world: World, calm: RotatingNode) -> None:
    """If a node is in no rotation and its CA is unchanged, leaves are renewed, whatever the cluster's record has, which
    is reported. If its CA changed, they are not.
    """
    assert calm.step() is None  # which accepts the present CA
    due(calm)
    world.put("configmaps", "certmond-rotation", "kube-system", data={"record": "["})
    enforcer = calm.enforcer()
    enforcer.rotating.ask()
    assert planned(enforcer) == (["web"], [])
    assert "contains an invalid record" in (enforcer.rotation_state.broken or "")
    other = root_ca()
    calm.put("ca.crt", other.pem)
    calm.put("ca.key", other.key_pem)
    assert planned(enforcer) == ([], ["web"])


@pytest.mark.long
@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.TRUST, Phase.ISSUE, Phase.DISTRUST])
@pytest.mark.parametrize("whose", ["the cluster's", "the node's"])
def test_leaves_of_a_rotation_with_unknown_progress_are_not_renewed(
    world: World, calm: RotatingNode, phase: Phase, whose: str
) -> None:
    """certmond signs nothing with a CA of a running rotation, neither the old nor the new one, also if an operator
    restored the files of the old one.
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


@pytest.mark.long
def test_a_node_that_was_excluded_reports_that_it_is_cut_off(world: World, node: RotatingNode) -> None:
    """The critical finding is at its CA with the remedy, beside the state of the rotation. Leaves are renewed as
    before.
    """
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
    assert "rejoin the node: kubeadm reset, then kubeadm join" in found[Reason.CUT_OFF].message
    assert not enforcer.rotation_state.unsure


@pytest.mark.parametrize(
    ("faults", "cut_off"), [([401, 401], True), ([401], False), ([503], False), ([403], False), ([], False)]
)
def test_a_check_detects_that_the_node_was_cut_off(
    world: World, calm: RotatingNode, faults: list[int], cut_off: bool
) -> None:
    """Without a daemon it reports the same: two refusals in a row suffice, and an API that is away, or refuses, is no
    finding.
    """
    world.api.faults = [Fault(each) for each in faults]
    said = calm.hurry("check", "-o", "json")
    found = {each["reason"] for entry in json.loads(said.out)["certificates"] for each in entry["findings"]}
    assert ("cut_off" in found) is cut_off, said
    assert (said.code == 2) is cut_off


def test_a_plan_or_another_time_makes_no_call(world: World, calm: RotatingNode) -> None:
    """A pass for another time, or one that only plans, makes no call of the API."""
    world.api.calls.clear()
    for words in (("check", "--at", "2030-01-01T00:00:00Z"), ("plan",), ("metrics",)):
        calm.hurry(*words)
    assert world.api.calls == []
