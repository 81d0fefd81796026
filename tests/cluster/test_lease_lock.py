"""A Lease in the Kubernetes API is the turn to restart things: taken, kept, lost, given back, by client-go's rules."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from certmond.cluster.lease_lock import MARK, RESTART, ROTATION, ClusterLease, Record, Waits, decide
from certmond.errors import LostError, RefusedError, SigningError, UnreachableError
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.lease_store import LEASES, MICRO_TIME

LEASE = f"{LEASES}/kube-system/leases/certmond-restart"
AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
OTHERS = Record("node-2", 60, AT, AT, 3, "7")


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lease(api: ApiServer, clock: Clock, identity: str = "node-1", seconds: float = 60, **given: Any) -> ClusterLease:
    more: dict[str, Any] = {"name": RESTART, "duration": timedelta(seconds=seconds), "alive": lambda: None} | given
    return ClusterLease(lambda: api.kubeconfig, identity=identity, monotonic=clock, **more)


def held(own: ClusterLease) -> bool:
    """Return whether the Lease is held now. A function prevents narrowing of the property by type checkers."""
    return own.held


def verbs(api: ApiServer) -> list[str]:
    return [call.partition(" ")[0] for call in api.calls]


# --- the decision -----------------------------------------------------------------------------------------------------


def decided(found: Record | None, waited: float = 0) -> Record | Waits:
    return decide(found, "node-1", 30, seen=100, now=100 + waited, at=AT + timedelta(days=1))


def test_a_missing_lease_is_created() -> None:
    """Without a Lease the node creates it."""
    at = AT + timedelta(days=1)
    assert decided(None) == Record("node-1", 30, at, at, 0)


def test_a_free_lease_is_taken_at_once() -> None:
    """A Lease without a holder is taken at once: another holder, a new time, one transition more."""
    at = AT + timedelta(days=1)
    assert decided(replace(OTHERS, holder="")) == Record("node-1", 30, at, at, 4, "7")


def test_the_lease_of_this_node_is_renewed_at_once() -> None:
    """A Lease that an earlier process of this node holds continues: same start, same transitions."""
    at = AT + timedelta(days=1)
    assert decided(replace(OTHERS, holder="node-1")) == Record("node-1", 30, AT, at, 3, "7")


@pytest.mark.parametrize("skew", [timedelta(days=-9999), timedelta(0), timedelta(days=9999)])
def test_another_is_waited_for_by_our_own_clock(skew: timedelta) -> None:
    """It is waited for as long as its Lease says since we first saw it so, whatever time of day it gives."""
    found = replace(OTHERS, renewed=AT + skew, acquired=AT + skew)
    assert decided(found, 59.9) == Waits("node-2", AT + skew)
    taken = decided(found, 60)
    assert isinstance(taken, Record)
    assert (taken.holder, taken.transitions) == ("node-1", 4)


def test_a_lease_without_a_duration_has_the_duration_of_this_node() -> None:
    """If a Lease has no duration, the duration of this node applies."""
    found = replace(OTHERS, seconds=None)
    assert isinstance(decided(found, 29.9), Waits)
    assert isinstance(decided(found, 30), Record)


# --- against the API --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "said"), [(60, 60), (0.3, 1), (1.5, 2)])
def test_a_missing_lease_is_created_and_held(api: ApiServer, clock: Clock, seconds: float, said: int) -> None:
    """The new Lease has the name of this node, the duration in whole seconds, and both times."""
    own = lease(api, clock, seconds=seconds)
    assert not held(own)
    assert own.take() is None
    assert held(own)
    spec, metadata = api.leases.only["spec"], api.leases.only["metadata"]
    assert (metadata["namespace"], metadata["name"]) == ("kube-system", "certmond-restart")
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("node-1", said, 0)
    assert re.fullmatch(MICRO_TIME, spec["renewTime"])
    assert spec["acquireTime"] == spec["renewTime"]
    assert verbs(api) == ["GET", "POST"]


def test_another_holder_is_waited_for(api: ApiServer, clock: Clock) -> None:
    """While another node renews, this node waits and names it. After its duration without a renewal, this node gets the
    Lease.
    """
    theirs, own = lease(api, Clock(), "node-2"), lease(api, clock)
    theirs.take()
    since = r"\(since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\)"
    said = rf"node-2 holds the Lease kube-system/certmond-restart {since}; .* release of the Lease"
    assert re.fullmatch(said, own.take() or "")
    clock.now += 59
    theirs.take()
    assert own.take()
    clock.now += 59
    assert own.take()
    assert not held(own)
    clock.now += 1
    assert own.take() is None
    assert held(own)
    spec = api.leases.only["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("node-1", 1)
    assert spec["acquireTime"] == spec["renewTime"]


def test_a_name_with_control_characters_is_escaped(api: ApiServer, clock: Clock) -> None:
    """The name of any holder is printed on one line."""
    lease(api, clock, "x\n\x1b[2J").take()
    assert (lease(api, clock).take() or "").startswith(r"x\n\x1b[2J holds the Lease")


def test_a_restarted_daemon_continues(api: ApiServer, clock: Clock) -> None:
    """The Lease of a dead process is taken at once by its successor on the same node."""
    lease(api, clock).take()
    before = api.leases.only["spec"]
    assert lease(api, Clock(5.0)).take() is None
    after = api.leases.only["spec"]
    assert (after["acquireTime"], after["leaseTransitions"]) == (before["acquireTime"], 0)
    assert after["renewTime"] > before["renewTime"]


def test_a_lease_is_renewed(api: ApiServer, clock: Clock) -> None:
    """It is renewed when a third of the duration has passed, and no earlier. Its start stays."""
    own = lease(api, clock)
    own.take()
    first = api.leases.only["spec"]
    clock.now += 19.5
    api.calls.clear()
    own.keep()
    assert api.calls == []
    clock.now += 0.5
    own.keep()
    assert verbs(api) == ["PUT"]
    renewed = api.leases.only["spec"]
    assert (renewed["acquireTime"], renewed["leaseTransitions"]) == (first["acquireTime"], 0)
    assert renewed["renewTime"] > first["renewTime"]
    clock.now += 49
    assert held(own)


def test_the_fence_counts_from_before_the_request(api: ApiServer, clock: Clock) -> None:
    """The Lease is held for five sixths of its duration, counted from the request of its renewal, however late the
    answer arrives.
    """

    def slowly(method: str, path: str) -> None:
        clock.now += 30 if method == "POST" else 0

    api.before = slowly
    own = lease(api, clock)
    own.take()
    clock.now += 19
    assert held(own)
    clock.now += 1
    assert not held(own)


def test_a_record_counts_from_its_answer(api: ApiServer, clock: Clock) -> None:
    """The duration of another holder begins when its renewal was read: the renewal may be as recent as the answer."""
    lease(api, Clock(), "node-2").take()
    slow = iter([30])

    def slowly(method: str, path: str) -> None:
        clock.now += next(slow, 0)

    api.before = slowly
    own = lease(api, clock)
    own.take()
    clock.now += 59
    assert own.take()
    clock.now += 1
    assert own.take() is None


def test_a_lease_of_another_node_is_lost(api: ApiServer, clock: Clock) -> None:
    """If another node holds it, the renewal fails with its name, and this node no longer holds it, whatever its clock
    shows.
    """
    own = lease(api, clock)
    own.take()
    api.leases.change(holderIdentity="node-2")
    clock.now += 20
    with pytest.raises(
        LostError,
        match=r"lost the lock: node-2 holds the Lease kube-system/certmond-restart now; certmond tries to take",
    ):
        own.keep()
    assert not held(own)
    with pytest.raises(LostError, match=r"this node does not hold .*; take the Lease first"):
        own.keep()


@pytest.mark.parametrize("how", ["deleted", "deleted, with an answer", "freed"])
def test_a_lease_that_was_freed_by_hand_is_lost(api: ApiServer, clock: Clock, how: str) -> None:
    """A Lease that is deleted or freed while it is held is not created again: another node may have held it."""
    own = lease(api, clock)
    own.take()
    api.leases.change(holderIdentity="") if how == "freed" else api.leases.objects.clear()
    api.faults = [Fault(404)] if how == "deleted, with an answer" else []  # Kubernetes answers 409: the uid differs
    clock.now += 20
    with pytest.raises(LostError, match="lost the lock: no node holds the Lease"):
        own.keep()
    assert not held(own)
    assert own.take() is None


def test_a_lease_that_was_created_again_is_another(api: ApiServer, clock: Clock) -> None:
    """A Lease that another node created after a deletion is not overwritten by the holder of the old one."""
    own = lease(api, clock)
    own.take()
    api.leases.objects.clear()
    lease(api, clock, "node-2").take()
    clock.now += 20
    with pytest.raises(LostError, match="node-2 holds"):
        own.keep()
    assert api.leases.only["spec"]["holderIdentity"] == "node-2"


def test_a_label_stays_and_keeps_the_lease(api: ApiServer, clock: Clock) -> None:
    """A label on the Lease does not end it, and stays."""
    own = lease(api, clock)
    own.take()
    api.leases.only["metadata"]["labels"] = {"team": "a"}
    api.leases.change(acquireTime="2026-11-24T12:00:00.000000Z")
    clock.now += 20
    own.keep()
    assert verbs(api)[2:] == ["PUT", "GET", "PUT"]
    assert api.leases.only["metadata"]["labels"] == {"team": "a"}
    assert api.leases.only["spec"]["acquireTime"] == "2026-11-24T12:00:00.000000Z"
    clock.now += 49
    assert held(own)


def test_repeated_conflicts_are_tried_later(api: ApiServer, clock: Clock) -> None:
    """A Lease that changes all the time is renewed later, and held until its end."""
    own = lease(api, clock)
    own.take()
    clock.now += 20
    api.before = lambda method, path: api.leases.change() if method == "PUT" else None
    with pytest.raises(UnreachableError, match="too often for certmond to renew it; certmond tries again later"):
        own.keep()
    assert held(own)
    clock.now += 30
    assert not held(own)


def test_a_faster_node_is_named(api: ApiServer, clock: Clock) -> None:
    """If another node takes the Lease between read and write, it holds the Lease."""
    rival = lease(api, clock, "node-2")
    calls = iter([lambda: None])

    def faster(method: str, path: str) -> None:
        if method != "GET" and next(calls, None):
            rival.take()

    api.before = faster
    own = lease(api, clock)
    assert re.search(r"node-2 has just taken the Lease .*certmond-restart; certmond waits for", own.take() or "")
    assert not held(own)
    rival.give_back()
    calls = iter([lambda: None])
    assert "node-2 has just taken" in (own.take() or "")
    rival.give_back()
    api.before = lambda method, path: api.leases.change() if method == "PUT" else None
    assert re.search("changed before certmond could take it; certmond reads it again", own.take() or "")
    assert not held(own)


def test_a_lease_that_is_given_back_is_free(api: ApiServer, clock: Clock) -> None:
    """The next node can take it at once, and this node no longer holds it."""
    own = lease(api, clock)
    own.take()
    own.give_back()
    assert not held(own)
    spec = api.leases.only["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("", 1, 0)
    assert lease(api, clock, "node-2").take() is None
    assert api.leases.only["spec"]["leaseTransitions"] == 1


# --- the mark of a server without proof of its restart ----------------------------------------------------------------


def mark(api: ApiServer) -> str | None:
    found: str | None = (api.leases.only["metadata"].get("annotations") or {}).get(MARK)
    return found


def test_a_restart_for_a_renewal_marks_the_lease_until_its_proof(api: ApiServer, clock: Clock) -> None:
    """The mark is there before the restart, so that a node that never comes back stops the others."""
    own, other = lease(api, clock), lease(api, clock, "node-2")
    assert own.take(renews=True) is None
    assert mark(api) == "node-1: it has restarted, or is restarting"
    clock.now += 21
    own.keep()
    assert mark(api)
    own.give_back("k3s did not start\n")
    assert mark(api) == "node-1: k3s did not start\n"
    waits = str(other.take(renews=True))
    assert waits == (
        "node-1 has no proof that a restart for a renewal was successful: "
        r"k3s did not start\n; on that node, repair the service and run `certmond restart SERVICE`, or remove the "
        "mark: kubectl -n kube-system annotate lease certmond-restart certmond.io/unproven-restart-"
    )
    assert not held(other)
    assert own.take(renews=True) is None
    own.give_back("")
    assert mark(api) is None
    assert other.take(renews=True) is None
    assert mark(api) == "node-2: it has restarted, or is restarting"


def test_a_mark_stops_no_other_restart(api: ApiServer, clock: Clock) -> None:
    """A restart for another reason takes the Lease, and leaves the mark and the other annotations."""
    own, other = lease(api, clock), lease(api, clock, "node-2")
    own.take(renews=True)
    own.give_back("x" * 5000)
    api.leases.only["metadata"]["annotations"]["team"] = "a"
    assert other.take() is None
    other.give_back("")
    assert api.leases.only["metadata"]["annotations"] == {MARK: "node-1: " + "x" * 500, "team": "a"}
    del api.leases.only["metadata"]["annotations"][MARK]  # as an operator does
    api.leases.change()
    assert other.take(renews=True) is None
    other.give_back("")
    assert api.leases.only["metadata"]["annotations"] == {"team": "a"}


def test_a_mark_that_cannot_be_written_is_written_later(api: ApiServer, clock: Clock) -> None:
    """A restart can end while the API does not answer, or after the Lease has expired."""
    own = lease(api, clock)
    own.take(renews=True)
    api.faults = [Fault(503)] * 3
    own.give_back("")
    own.settle()
    assert (api.faults, mark(api)) == ([], "node-1: it has restarted, or is restarting")
    own.settle()
    assert mark(api) is None
    api.calls.clear()
    own.settle()
    assert api.calls == []
    own.take(renews=True)
    clock.now += 60
    own.give_back("it failed")
    assert mark(api) == "node-1: it failed"
    api.leases.objects.clear()
    own.give_back("")
    own.settle()
    assert api.leases.objects == {}


def test_a_mark_is_written_after_a_conflict(api: ApiServer, clock: Clock) -> None:
    """Another client may change the Lease between read and write. After a few conflicts, certmond tries again later."""
    own = lease(api, clock)
    own.take(renews=True)
    clock.now += 60
    api.before = lambda method, path: api.leases.change() if method == "PUT" else None
    own.give_back("it failed")
    api.before = lambda method, path: None
    assert mark(api) == "node-1: it has restarted, or is restarting"
    own.settle()
    assert mark(api) == "node-1: it failed"


def test_an_agent_waits_for_a_server_that_holds_or_has_marked_the_lease(api: ApiServer, clock: Clock) -> None:
    """It reads the Lease, and writes nothing. A holder that does not renew the Lease does not stop it."""
    own, agent = lease(api, clock), lease(api, clock, "agent-1")
    assert agent.obstacle() is None
    own.take()
    assert str(agent.obstacle()).startswith("node-1 holds the Lease kube-system/certmond-restart (since ")
    clock.now += 61
    assert agent.obstacle() is None
    own.take(renews=True)
    own.give_back("it failed")
    assert "node-1 has no proof that a restart for a renewal was successful: it failed" in str(agent.obstacle())
    own.take()
    own.give_back("")
    api.calls.clear()
    assert agent.obstacle() is None
    assert verbs(api) == ["GET"]


@pytest.mark.parametrize("when", ["never taken", "run out", "lost"])
def test_what_is_not_held_is_not_given_back(api: ApiServer, clock: Clock, when: str) -> None:
    """Without the Lease nothing is given back, and no call is made."""
    own = lease(api, clock)
    if when != "never taken":
        own.take()
        clock.now += 50
    if when == "lost":
        api.leases.change(holderIdentity="node-2")
        with pytest.raises(LostError):
            own.keep()
    api.calls.clear()
    own.give_back()
    assert api.calls == []


@pytest.mark.parametrize("fault", [Fault(0), Fault(403), Fault(409), Fault(500)])
def test_a_failed_return_raises_nothing(api: ApiServer, clock: Clock, fault: Fault) -> None:
    """If the API refuses it, nothing is raised, the Lease is not held, and the next node waits."""
    own = lease(api, clock)
    own.take()
    api.faults = [fault]
    own.give_back()
    assert not held(own)
    assert lease(api, clock, "node-2").take()


def test_a_lease_without_a_holder_or_anything_is_free(api: ApiServer, clock: Clock) -> None:
    """A Lease that an operator created without a spec is taken like any free one."""
    lease(api, clock).take()
    api.leases.only["spec"] = {}
    assert lease(api, clock, "node-2").take() is None


# --- when the API does not do it --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "reason"),
    [
        (
            Fault(401, "Unauthorized"),
            RefusedError,
            r"rejects the credentials in .*kubelet\.conf .*; renew the credentials",
        ),
        (Fault(422, "spec: Invalid"), RefusedError, r"rejects the request .* \(422: spec: Invalid\)"),
        (Fault(410, "Gone"), UnreachableError, r"cannot .* now \(410: Gone\)"),
        (Fault(429, "slow down"), UnreachableError, r"cannot .* now \(429: slow down\)"),
        (Fault(500, "etcdserver: request timed out"), UnreachableError, r"\(500: etcdserver: request timed out\)"),
        (Fault(503, body=b"<html>", content_type="text/html"), UnreachableError, r"\(503: Service Unavailable\)"),
        (Fault(200, body=b"{}"), UnreachableError, "does not answer like a Kubernetes API server; check the address"),
        (
            Fault(200, body=b'{"metadata": {"name": "x"}}'),
            UnreachableError,
            "does not answer like a Kubernetes API server; check the address",
        ),
        (Fault(0), UnreachableError, r"cannot reach .* of .*kubelet\.conf \(.+\)"),
    ],
)
@pytest.mark.parametrize("act", ["take", "keep"])
def test_every_failure_of_the_api_has_its_meaning(
    api: ApiServer, act: str, fault: Fault, error: type[SigningError], reason: str
) -> None:
    """The error decides whether a later attempt is possible. A held Lease stays held for the rest of its duration, no
    longer.
    """
    clock = Clock()
    own = lease(api, clock)
    own.take()
    clock.now += 20
    api.faults = [fault]
    with pytest.raises(error, match=reason):
        own.take() if act == "take" else own.keep()
    clock.now += 29
    assert held(own)
    clock.now += 1
    assert not held(own)


def test_a_busy_api_is_called_again_after_retry_after(api: ApiServer, clock: Clock) -> None:
    """After an answer with Retry-After, as of priority and fairness (429), certmond waits within the time limit."""
    api.faults = [Fault(429, headers={"Retry-After": "0"})]
    assert lease(api, clock).take() is None
    assert verbs(api) == ["GET", "GET", "POST"]


@pytest.mark.parametrize(
    ("call", "doing"), [(f"GET {LEASE}", "read"), (f"POST {LEASES}", "create"), (f"PUT {LEASE}", "update")]
)
def test_a_missing_right_is_reported_with_the_rule(api: ApiServer, clock: Clock, call: str, doing: str) -> None:
    """A forbidden call (403) is refused with the rule that its role lacks, and the namespace."""
    own = lease(api, clock)
    if doing == "update":
        own.take()
    api.denied = {call}
    rule = "grant this user a role in kube-system with apiGroups [coordination.k8s.io], resources [leases], verbs"
    with pytest.raises(RefusedError, match=re.escape(f"{rule} [get, create, update]")) as raised:
        own.take()
    assert f"kubelet.conf may not {doing} the Lease kube-system/certmond-restart (" in str(raised.value)


def test_leases_of_two_names_are_independent(api: ApiServer, clock: Clock) -> None:
    """The Lease of the coordinator and the restart lock are two Leases, each with its own holder."""
    leads, restarts = lease(api, clock, name=ROTATION), lease(api, Clock(), "node-2")
    assert leads.take() is None
    assert restarts.take() is None
    assert (held(leads), held(restarts)) == (True, True)
    holders = {name: made["spec"]["holderIdentity"] for (_, name), made in api.leases.objects.items()}
    assert holders == {"certmond-rotation": "node-1", "certmond-restart": "node-2"}


def test_a_missing_namespace_is_named(api: ApiServer, clock: Clock) -> None:
    """Without its namespace a Lease cannot be created, and the error names it."""
    with pytest.raises(
        RefusedError,
        match="the cluster has no namespace ops; check `server` in the kubeconfig",
    ):
        lease(api, clock, namespace="ops").take()


def test_a_stopping_daemon_cancels_the_call(api: ApiServer, clock: Clock) -> None:
    """If `alive` raises because the daemon is stopping, the call is canceled at once."""

    def silent(method: str, path: str) -> None:
        api.closing.wait(60)

    def stop() -> None:
        raise KeyboardInterrupt

    api.before = silent
    with pytest.raises(KeyboardInterrupt):
        lease(api, clock, alive=stop).take()


def test_without_the_extra_the_error_has_the_remedy(
    api: ApiServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without lightkube everything except the call works, and its error has the package to install."""
    monkeypatch.delitem(sys.modules, "certmond.cluster.client", raising=False)
    monkeypatch.setitem(sys.modules, "lightkube", None)
    with pytest.raises(RefusedError, match=r"lightkube, .*; remove .*, or run: pip install lightkube lightkube-models"):
        lease(api, clock).take()


# --- The stand-in for Kubernetes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "spec", "status"),
    [
        ({}, {}, 422),  # Leases have no unconditional update
        ({"resourceVersion": "1"}, {}, 409),
        ({"uid": "another"}, {}, 409),
        ({"name": "other"}, {}, 400),
        ({}, {"renewTime": "2026-11-24T12:00:00Z"}, 400),  # in lightkube's form of a whole second
        ({}, {"leaseDurationSeconds": 0}, 422),
        ({}, {"leaseTransitions": -1}, 422),
    ],
)
def test_the_api_server_of_these_tests_is_strict(
    api: ApiServer, clock: Clock, metadata: dict[str, str], spec: dict[str, Any], status: int
) -> None:
    """The stand-in for Kubernetes refuses what Kubernetes refuses."""
    lease(api, clock).take()
    given = {"metadata": {"name": "certmond-restart"} | metadata, "spec": spec}
    assert api.leases.answer("PUT", LEASE, repr(given).replace("'", '"').encode())[0] == status


def test_a_put_creates_a_missing_lease(api: ApiServer) -> None:
    """Kubernetes does so for Leases, unless the request has a uid."""
    given = b'{"metadata": {"name": "certmond-restart", "resourceVersion": "5"}, "spec": {}}'
    assert api.leases.answer("PUT", LEASE, given.replace(b'"resourceVersion"', b'"uid"'))[0] == 409
    assert api.leases.answer("PUT", LEASE, given)[0] == 201
