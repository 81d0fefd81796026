"""Workloads that started before a CA was published: found, restarted in batches, and waited for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from certmond.cluster.api_access import Access
from certmond.cluster.rotation_checks.check import CheckResult
from certmond.cluster.stale_workloads import StaleWorkloads, Workload, stale_workloads, workloads
from certmond.cluster.workload_rollout import Outcome, Rollout, restart_workloads
from certmond.errors import RefusedError, UnreachableError
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.conftest import Silence
from tests.deadline import DEADLINE

SINCE = datetime(2026, 11, 24, 12, tzinfo=UTC)
AT = SINCE + timedelta(minutes=5)
BEFORE, AFTER = "2026-11-24T11:59:59Z", "2026-11-24T12:00:00Z"
PLURALS = {"Deployment": "deployments", "DaemonSet": "daemonsets", "StatefulSet": "statefulsets"}
TOKEN = {"name": "kube-api-access", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
WEB = Workload("Deployment", "default", "web")
ANNOTATION = "kubectl.kubernetes.io/restartedAt"


def spec(**more: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}
    return {"selector": {"matchLabels": {"a": "b"}}, "serviceName": "it", "template": template, **more}


def add(cluster: ApiServer, kind: str, name: str = "web", namespace: str = "default", **more: Any) -> dict[str, Any]:
    return cluster.store.add(PLURALS[kind], name, namespace, spec=spec(**more))


def owner(made: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": made["apiVersion"],
        "kind": made["kind"],
        "name": made["metadata"]["name"],
        "uid": made["metadata"]["uid"],
        "controller": True,
    }


def replica_set(cluster: ApiServer, name: str, owned_by: dict[str, Any] | None = None) -> dict[str, Any]:
    metadata = {"ownerReferences": [owner(owned_by)]} if owned_by else {}
    content = {"metadata": metadata, "spec": {"selector": {}}}
    return cluster.store.add("replicasets", name, "default", **content)


def container(started: str | None) -> dict[str, Any]:
    state: dict[str, Any] = {"running": {"startedAt": started}} if started else {"terminated": {"exitCode": 0}}
    return {"name": "c", "ready": True, "restartCount": 0, "image": "i", "imageID": "i", "state": state}


def pod(
    cluster: ApiServer,
    name: str,
    owned_by: dict[str, Any] | None = None,
    *started: str | None,
    volumes: Any = (TOKEN,),
    phase: str = "Running",
    namespace: str = "default",
    status: dict[str, Any] | None = None,
    node: str = "node-1",
    **metadata: Any,
) -> None:
    if owned_by:
        metadata["ownerReferences"] = [{**owner(owned_by), "controller": False, "uid": "x"}, owner(owned_by)]
    more = {"containerStatuses": list(map(container, started or (BEFORE,)))} if status is None else status
    spec = {"containers": [], "volumes": list(volumes), "nodeName": node}
    content = {"spec": spec, "status": {"phase": phase, **more}}
    cluster.store.add("pods", name, namespace, metadata=metadata, **content)


# --- stale workloads --------------------------------------------------------------------------------------------------


def test_workloads_are_found_by_their_old_pods(
    cluster: ApiServer, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workload of each kind is found once, through its ReplicaSet, on any number of pages. One with only new Pods is
    not.
    """
    monkeypatch.setattr("certmond.cluster.stale_workloads.PAGE", 1)
    for kind in PLURALS:
        made = add(cluster, kind)
        made = replica_set(cluster, "web-1", made) if kind == "Deployment" else made
        for number in range(2):
            pod(cluster, f"{kind.lower()}-{number}", made, BEFORE if number else AFTER)
        pod(cluster, f"{kind.lower()}-new", add(cluster, kind, "new"), AFTER)
    found = stale_workloads(access, SINCE)
    assert found == StaleWorkloads(tuple(sorted(Workload(kind, "default", "web") for kind in PLURALS)))


def test_the_oldest_container_counts(cluster: ApiServer, access: Access) -> None:
    """A container that restarted in its Pod has read its files again. All running containers must have restarted,
    including sidecars.
    """
    started = {"startTime": BEFORE}
    cases: list[tuple[str, dict[str, Any], bool]] = [
        ("all-restarted", started | {"containerStatuses": [container(AFTER), container(AFTER)]}, False),
        ("one-not", started | {"containerStatuses": [container(AFTER), container(BEFORE)]}, True),
        ("ended", started | {"initContainerStatuses": [container(None)],
                             "containerStatuses": [container(AFTER)]}, False),
        ("sidecar", started | {"initContainerStatuses": [container(BEFORE)],
                               "containerStatuses": [container(AFTER)]}, True),
        ("unknown", started, True),
        ("unknown-new", {"startTime": AFTER}, False),
    ]  # fmt: skip
    for name, status, _ in cases:
        pod(cluster, name, status=status)
    assert [each.name for each in stale_workloads(access, SINCE).bare] == sorted(
        name for name, _, stale in cases if stale
    )
    assert stale_workloads(access, SINCE + timedelta(microseconds=900)) == stale_workloads(access, SINCE)


def test_only_pods_with_a_token_or_the_ca_count(cluster: ApiServer, access: Access) -> None:
    """The volume counts as the API server adds it with automounting, or as a user wrote it, and only while the Pod
    runs.
    """
    published = {"configMap": {"name": "kube-root-ca.crt"}}
    other = {"configMap": {"name": "other"}}
    counted: dict[str, Any] = {
        "token": [TOKEN],
        "projected-ca": [{"name": "v", "projected": {"sources": [{"secret": {"name": "x"}}, published]}}],
        "plain-ca": [{"name": "v", "emptyDir": {}}, {"name": "w", **published}],
    }
    for name, volumes in counted.items():
        pod(cluster, name, volumes=volumes)
    pod(cluster, "none", volumes=[])
    pod(cluster, "other", volumes=[{"name": "v", **other}, {"name": "w", "projected": {"sources": [other]}}])
    pod(cluster, "ended", phase="Succeeded")
    pod(cluster, "begins", phase="Pending")
    pod(cluster, "goes", deletionTimestamp=AFTER)
    pod(cluster, "static", annotations={"kubernetes.io/config.mirror": "x"})
    assert {each.name for each in stale_workloads(access, SINCE).bare} == set(counted)


def test_pods_of_removed_nodes_do_not_count(cluster: ApiServer, access: Access) -> None:
    """No controller deletes or restarts the DaemonSet Pods of a removed node."""
    for node in ("there", "gone"):
        pod(cluster, f"on-{node}", node=node)
    assert [each.name for each in stale_workloads(access, SINCE, {"gone"}).bare] == ["on-there"]
    assert "on-gone" not in workloads(access, SINCE, not_ready={"gone"}).fact
    assert workloads(access, SINCE, not_ready={"gone", "there"}).ok


@pytest.mark.parametrize(
    ("kind", "more", "reason"),
    [
        ("Deployment", {"paused": True}, "is paused"),
        ("DaemonSet", {"updateStrategy": {"type": "OnDelete"}},
         "replaces its Pods only when they are deleted (OnDelete)"),
        ("StatefulSet", {"updateStrategy": {"type": "OnDelete"}},
         "replaces its Pods only when they are deleted (OnDelete)"),
        ("StatefulSet", {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}},
         "replaces only Pods with an ordinal of at least 2 (partition)"),
    ],
)  # fmt: skip
def test_a_workload_that_a_new_template_does_not_restart_is_listed_and_left(
    cluster: ApiServer, access: Access, kind: str, more: dict[str, Any], reason: str
) -> None:
    """The list has the reason. Such a workload is not restarted on request, while the others are."""
    held = add(cluster, kind, "held", **more)
    pod(cluster, "it", replica_set(cluster, "held-1", held) if kind == "Deployment" else held)
    which = Workload(kind, "default", "held")
    assert stale_workloads(access, SINCE) == StaleWorkloads(by_hand=((which, reason),))
    add(cluster, "Deployment")
    finish(cluster)
    done = restart_workloads(access, [which, WEB], SINCE, AT, batch=1)
    assert done == (Rollout(which, Outcome.NOT_RESTARTED, reason), Rollout(WEB, Outcome.DONE, "has only new Pods"))
    assert restarted_at(cluster.store.get(PLURALS[kind], "held", "default")) is None


def test_pods_of_other_controllers_and_of_none_are_listed_separately(cluster: ApiServer, access: Access) -> None:
    """A Pod without a controller is bare, and one of another kind needs a restart by hand, once. The message has all of
    them.
    """
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job", "uid": "j"}}
    rollout = {"apiVersion": "example.com/v1", "kind": "Deployment", "metadata": {"name": "odd", "uid": "o"}}
    for number in range(2):
        pod(cluster, f"job-{number}", job)
    pod(cluster, "odd", rollout)
    pod(cluster, "single", replica_set(cluster, "alone"))
    pod(cluster, "bare")
    reason = "certmond does not restart this kind"
    assert stale_workloads(access, SINCE) == StaleWorkloads(
        (),
        tuple((Workload(kind, "default", name), reason) for kind, name in (
            ("Deployment", "odd"), ("Job", "job"), ("ReplicaSet", "alone"))),
        (Workload("Pod", "default", "bare"),),
    )  # fmt: skip
    canary = workloads(access, SINCE)
    assert not canary.ok
    assert canary.remedy
    for said in (
        "Job default/job (certmond does not restart",
        "Pod default/bare (no controller replaces it)",
        "2026-11-24T12:00:00Z",
    ):
        assert said in canary.fact


def test_without_stale_workloads_the_check_passes(access: Access) -> None:
    """The message contains the time at which or after which all Pods started."""
    assert workloads(access, SINCE) == CheckResult(
        "workloads", True, "each Pod with a token or the published CA started at 2026-11-24T12:00:00Z or later"
    )


# --- restarting -------------------------------------------------------------------------------------------------------


def restarted_at(made: dict[str, Any]) -> str | None:
    found: str | None = made["spec"]["template"]["metadata"].get("annotations", {}).get(ANNOTATION)
    return found


def settled(resource: str, made: dict[str, Any], wanted: int = 1) -> dict[str, Any]:
    """Return the status of a workload whose rollout is complete."""
    seen = {"observedGeneration": made["metadata"]["generation"]}
    if resource == "daemonsets":
        return seen | {"desiredNumberScheduled": wanted, "updatedNumberScheduled": wanted, "numberAvailable": wanted,
                       "currentNumberScheduled": wanted, "numberMisscheduled": 0, "numberReady": wanted}  # fmt: skip
    counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas", "readyReplicas"), wanted)
    return seen | counts | {"currentRevision": "2", "updateRevision": "2"}


def finish(cluster: ApiServer) -> None:
    """Every rollout from here on is over at once."""

    def controller(resource: str, made: dict[str, Any]) -> None:
        if resource in PLURALS.values():
            made["status"] = settled(resource, made)

    cluster.store.controllers.append(controller)


@pytest.mark.parametrize("kind", PLURALS)
def test_a_workload_is_restarted_like_kubectl(cluster: ApiServer, access: Access, kind: str) -> None:
    """The restart changes the one annotation of its Pod template, and nothing else."""
    before = add(cluster, kind, later={"x": 1})
    finish(cluster)
    which = Workload(kind, "default", "web")
    at = AT + timedelta(microseconds=1)
    assert restart_workloads(access, [which], SINCE, at) == (Rollout(which, Outcome.DONE, "has only new Pods"),)
    after = cluster.store.get(PLURALS[kind], "web", "default")
    assert restarted_at(after) == "2026-11-24T12:05:01Z"
    del after["spec"]["template"]["metadata"]["annotations"]
    assert after["spec"] == before["spec"]


def test_a_workload_that_restarted_since_is_only_waited_for(cluster: ApiServer, access: Access) -> None:
    """One restart suffices, by an earlier call or by an operator. A restart before the instant does not count."""
    add(cluster, "Deployment")
    finish(cluster)
    since = SINCE + timedelta(milliseconds=600)
    restart_workloads(access, [WEB], since, since)
    first = restarted_at(cluster.store.get("deployments", "web", "default"))
    assert restart_workloads(access, [WEB], since, AT)[0].outcome is Outcome.DONE
    assert restarted_at(cluster.store.get("deployments", "web", "default")) == first
    assert len([call for call in cluster.calls if call.startswith("PATCH")]) == 1
    restart_workloads(access, [WEB], AT, AT)
    assert restarted_at(cluster.store.get("deployments", "web", "default")) == "2026-11-24T12:05:00Z"


def test_a_restart_by_hand_in_the_same_second_counts(cluster: ApiServer, access: Access) -> None:
    """kubectl writes whole seconds, in its own time zone: such a restart is not repeated."""
    made = add(cluster, "Deployment")
    finish(cluster)
    made["spec"]["template"]["metadata"]["annotations"] = {ANNOTATION: "2026-11-24T14:00:00+02:00"}
    cluster.store.change(made)
    made["status"] = settled("deployments", made)
    assert restart_workloads(access, [WEB], SINCE + timedelta(seconds=0.6), AT)[0].outcome is Outcome.DONE
    assert not [call for call in cluster.calls if call.startswith("PATCH")]


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+05:00", "0001-01-01T00:00:00", "9999-12-31T23:59:59-05:00", "x"])
def test_a_restart_time_beyond_any_calendar_is_ignored(cluster: ApiServer, access: Access, text: str) -> None:
    """Any user may have written it into a Pod template: the workload is restarted."""
    made = add(cluster, "Deployment")
    finish(cluster)
    made["spec"]["template"]["metadata"]["annotations"] = {ANNOTATION: text}
    cluster.store.change(made)
    assert restart_workloads(access, [WEB], SINCE, AT)[0].outcome is Outcome.DONE
    assert restarted_at(cluster.store.get("deployments", "web", "default")) == "2026-11-24T12:05:00Z"


def test_a_pod_start_beyond_any_calendar_is_compared(cluster: ApiServer, access: Access) -> None:
    """A kubelet with a wrong clock does not stop the check of the other Pods."""
    for name, at in (("first", "0001-01-01T00:00:00+05:00"), ("last", "9999-12-31T23:59:59-05:00")):
        pod(cluster, name, status={"startTime": at})
    assert [each.name for each in stale_workloads(access, SINCE).bare] == ["first"]


UNFINISHED = [
    ("Deployment", {"observedGeneration": 1}, "waits for its controller"),
    ("Deployment", {"updatedReplicas": 2}, "has 2 new Pods, but needs 3"),
    ("Deployment", {"replicas": 4}, "still has 1 old Pods"),
    ("Deployment", {"availableReplicas": 2}, "has 2 available Pods, but needs 3"),
    ("DaemonSet", {"observedGeneration": 1}, "waits for its controller"),
    ("DaemonSet", {"updatedNumberScheduled": 2}, "has 2 new Pods, but needs 3"),
    ("DaemonSet", {"numberAvailable": 2}, "has 2 available Pods, but needs 3"),
    ("StatefulSet", {"updatedReplicas": 2}, "has 2 new Pods, but needs 3"),
    ("StatefulSet", {"availableReplicas": 0}, "has 0 available Pods, but needs 3"),
    ("StatefulSet", {"currentRevision": "1"}, "still has Pods of the old revision"),
]


@pytest.mark.usefixtures("time_is_up")
@pytest.mark.parametrize(("kind", "status", "fact"), UNFINISHED)
def test_a_rollout_that_exceeds_its_time_is_reported_and_stops_the_next_batch(
    cluster: ApiServer, access: Access, kind: str, status: dict[str, Any], fact: str
) -> None:
    """The message has each condition that a rollout waits for, by kubectl's rules. The next batch is not restarted."""
    slow, behind = Workload(kind, "default", "slow"), Workload(kind, "default", "behind")
    for each in (slow, behind):
        add(cluster, kind, each.name, replicas=3)

    def controller(resource: str, made: dict[str, Any]) -> None:
        made["status"] = settled(resource, made, 3) | status

    cluster.store.controllers.append(controller)
    done = restart_workloads(access, [slow, behind], SINCE, AT, batch=1)
    assert done == (Rollout(slow, Outcome.UNDER_WAY, fact),)
    assert restarted_at(cluster.store.get(PLURALS[kind], "behind", "default")) is None


@pytest.mark.usefixtures("time_is_up")
def test_a_rollout_without_progress_is_not_waited_for(cluster: ApiServer, access: Access) -> None:
    """The wait ends when its controller has given up on this template, not on the one before."""
    add(cluster, "Deployment")
    add(cluster, "Deployment", "behind")
    gave_up = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}

    def controller(resource: str, made: dict[str, Any]) -> None:
        made["status"] = settled(resource, made) | {"conditions": [gave_up]}

    cluster.store.controllers.append(controller)
    done = restart_workloads(access, [WEB, Workload("Deployment", "default", "behind")], SINCE, AT, batch=1)
    assert done == (Rollout(WEB, Outcome.FAILED, "makes no progress (ProgressDeadlineExceeded)"),)
    cluster.store.controllers = [
        lambda resource, made: made.update(status={"observedGeneration": 1, "conditions": [gave_up]})
    ]
    at = AT + timedelta(minutes=1)
    assert restart_workloads(access, [WEB], at, at)[0].outcome is Outcome.UNDER_WAY


def test_a_batch_is_done_before_the_next_begins(
    cluster: ApiServer, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one batch is under way at any time, and all are restarted."""
    monkeypatch.setattr("certmond.cluster.workload_rollout._POLL_INTERVAL", 0.01)
    several = [Workload("Deployment", "default", f"web-{number}") for number in range(5)]
    for each in several:
        add(cluster, "Deployment", each.name)
    looks = dict[str, int]()  # of the running rollouts
    most = 0

    def begins(resource: str, made: dict[str, Any]) -> None:
        nonlocal most
        looks[made["metadata"]["name"]] = 0
        most = max(most, len(looks))

    def looked_at(method: str, path: str) -> None:
        name = path.rpartition("/")[2]
        if method == "GET" and name in looks:
            looks[name] += 1
            if looks[name] == 2:
                made = cluster.store.get("deployments", name, "default")
                made["status"] = settled("deployments", made)
                del looks[name]

    cluster.store.controllers.append(begins)
    cluster.before = looked_at
    done = restart_workloads(access, several, SINCE, AT, batch=2)
    assert [each.outcome for each in done] == [Outcome.DONE] * 5
    assert most == 2


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_deleted_workload_has_no_old_pods(cluster: ApiServer, access: Access, moment: str) -> None:
    """The restart of a deleted workload is complete."""
    if moment == "after":
        add(cluster, "Deployment")

        def gone(method: str, path: str) -> None:
            if method == "GET" and any(call.startswith("PATCH") for call in cluster.calls):
                cluster.before = lambda method, path: None
                cluster.store.remove("deployments", "web", "default")

        cluster.before = gone
    assert restart_workloads(access, [WEB], SINCE, AT) == (Rollout(WEB, Outcome.DONE, "was deleted"),)


def test_an_api_that_fails_meanwhile_is_waited_for(cluster: ApiServer, access: Access) -> None:
    """The same rotation may restart its server."""
    add(cluster, "Deployment")
    finish(cluster)

    def fails(method: str, path: str) -> None:
        if cluster.calls[-2:-1] and cluster.calls[-2].startswith("PATCH"):
            cluster.faults = [Fault(500)]

    cluster.before = fails
    assert restart_workloads(access, [WEB], SINCE, AT)[0].outcome is Outcome.DONE
    assert [call.partition(" ")[0] for call in cluster.calls] == ["GET", "PATCH", "GET", "GET"]


def test_without_the_right_nothing_is_restarted(cluster: ApiServer, access: Access, access_of: Any) -> None:
    """A user with read access gets the missing right."""
    add(cluster, "Deployment")
    assert cluster.rbac
    cluster.rbac.bind("certmond-rotation", "lookers")
    with pytest.raises(RefusedError, match=r"may not restart the Deployment default/web .* verbs \[patch\]"):
        restart_workloads(access_of("looker", "lookers"), [WEB], SINCE, AT)


@pytest.mark.parametrize("fault", [409, 500])
def test_a_restart_that_cannot_begin_begins_later(cluster: ApiServer, access: Access, fault: int) -> None:
    """Neither a conflict nor an absence is a refusal."""
    add(cluster, "Deployment")

    def fails(method: str, path: str) -> None:
        cluster.faults = [Fault(fault)] if method == "PATCH" else []

    cluster.before = fails
    with pytest.raises(UnreachableError):
        restart_workloads(access, [WEB], SINCE, AT)


@pytest.mark.parametrize(
    ("whose", "said"), [("check", "within 7 s"), ("call", f"no answer within {12 * DEADLINE:g} s")]
)
def test_silence_fails(access: Access, silence: Silence, whose: str, said: str) -> None:
    """An API that does not answer completely proves nothing."""
    silence(whose)
    canary = workloads(access, SINCE, limit=timedelta(seconds=7))
    assert not canary.ok
    assert said in canary.fact


def test_a_silent_api_is_unreachable(access: Access, silence: Silence) -> None:
    """The result is neither an empty list nor a restart."""
    silence("call")
    with pytest.raises(UnreachableError):
        stale_workloads(access, SINCE)
    with pytest.raises(UnreachableError):
        restart_workloads(access, [WEB], SINCE, AT)
