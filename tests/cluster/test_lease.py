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

from certmond.cluster.lease import RESTART, ROTATION, ClusterLease, Record, Waits, decide
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


def held(ours: ClusterLease) -> bool:
    """Asked anew each time, which a property does not say."""
    return ours.held


def verbs(api: ApiServer) -> list[str]:
    return [call.partition(" ")[0] for call in api.calls]


# --- the decision -----------------------------------------------------------------------------------------------------


def decided(found: Record | None, waited: float = 0) -> Record | Waits:
    return decide(found, "node-1", 30, seen=100, now=100 + waited, at=AT + timedelta(days=1))


def test_where_there_is_none_it_is_made() -> None:
    """Without a Lease it is ours to make."""
    at = AT + timedelta(days=1)
    assert decided(None) == Record("node-1", 30, at, at, 0)


def test_what_is_free_is_taken_at_once() -> None:
    """A Lease that nobody holds is taken at once: another holder, a new time, one transition more."""
    at = AT + timedelta(days=1)
    assert decided(replace(OTHERS, holder="")) == Record("node-1", 30, at, at, 4, "7")


def test_our_own_is_renewed_at_once() -> None:
    """A Lease that this node holds already, by a process before this one, goes on: same start, same transitions."""
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


def test_a_lease_that_says_no_duration_is_waited_for_as_long_as_ours() -> None:
    """Where a Lease says no duration, ours is taken."""
    found = replace(OTHERS, seconds=None)
    assert isinstance(decided(found, 29.9), Waits)
    assert isinstance(decided(found, 30), Record)


# --- against the API --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "said"), [(60, 60), (0.3, 1), (1.5, 2)])
def test_a_turn_is_taken(api: ApiServer, clock: Clock, seconds: float, said: int) -> None:
    """Where there is no Lease it is made, with our name, the duration in whole seconds, and both times."""
    ours = lease(api, clock, seconds=seconds)
    assert not held(ours)
    assert ours.take() is None
    assert held(ours)
    spec, metadata = api.leases.only["spec"], api.leases.only["metadata"]
    assert (metadata["namespace"], metadata["name"]) == ("kube-system", "certmond-restart")
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("node-1", said, 0)
    assert re.fullmatch(MICRO_TIME, spec["renewTime"])
    assert spec["acquireTime"] == spec["renewTime"]
    assert verbs(api) == ["GET", "POST"]


def test_another_has_its_turn_first(api: ApiServer, clock: Clock) -> None:
    """While another renews, it is waited for, and told; once it has been silent for its duration, the turn is ours."""
    theirs, ours = lease(api, Clock(), "node-2"), lease(api, clock)
    theirs.take()
    said = r"node-2 holds the Lease kube-system/certmond-restart since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ; .* it"
    assert re.fullmatch(said, ours.take() or "")
    clock.now += 59
    theirs.take()
    assert ours.take()
    clock.now += 59
    assert ours.take()
    assert not held(ours)
    clock.now += 1
    assert ours.take() is None
    assert held(ours)
    spec = api.leases.only["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("node-1", 1)
    assert spec["acquireTime"] == spec["renewTime"]


def test_a_name_that_a_terminal_would_obey_is_escaped(api: ApiServer, clock: Clock) -> None:
    """Whoever wrote it: what the holder calls itself is told on one line."""
    lease(api, clock, "x\n\x1b[2J").take()
    assert (lease(api, clock).take() or "").startswith(r"x\n\x1b[2J holds the Lease")


def test_a_restarted_daemon_goes_on(api: ApiServer, clock: Clock) -> None:
    """The Lease of a process that died is taken back by its successor on the same node at once."""
    lease(api, clock).take()
    before = api.leases.only["spec"]
    assert lease(api, Clock(5.0)).take() is None
    after = api.leases.only["spec"]
    assert (after["acquireTime"], after["leaseTransitions"]) == (before["acquireTime"], 0)
    assert after["renewTime"] > before["renewTime"]


def test_a_turn_is_kept(api: ApiServer, clock: Clock) -> None:
    """It is renewed once a third of the duration has passed, and no earlier; its start stays."""
    ours = lease(api, clock)
    ours.take()
    first = api.leases.only["spec"]
    clock.now += 19.5
    api.calls.clear()
    ours.keep()
    assert api.calls == []
    clock.now += 0.5
    ours.keep()
    assert verbs(api) == ["PUT"]
    renewed = api.leases.only["spec"]
    assert (renewed["acquireTime"], renewed["leaseTransitions"]) == (first["acquireTime"], 0)
    assert renewed["renewTime"] > first["renewTime"]
    clock.now += 49
    assert held(ours)


def test_the_fence_counts_from_before_the_request(api: ApiServer, clock: Clock) -> None:
    """A turn is held for five sixths of the duration since its renewal was asked for, however late the answer came."""

    def slowly(method: str, path: str) -> None:
        clock.now += 30 if method == "POST" else 0

    api.before = slowly
    ours = lease(api, clock)
    ours.take()
    clock.now += 19
    assert held(ours)
    clock.now += 1
    assert not held(ours)


def test_a_record_counts_as_seen_when_its_answer_came(api: ApiServer, clock: Clock) -> None:
    """Another's duration begins once we have read its renewal: it may be as young as the answer is."""
    lease(api, Clock(), "node-2").take()
    slow = iter([30])

    def slowly(method: str, path: str) -> None:
        clock.now += next(slow, 0)

    api.before = slowly
    ours = lease(api, clock)
    ours.take()
    clock.now += 59
    assert ours.take()
    clock.now += 1
    assert ours.take() is None


def test_a_turn_that_another_has_is_lost(api: ApiServer, clock: Clock) -> None:
    """Where another holds it, keeping it fails, says who, and it is held no more, whatever our clock says."""
    ours = lease(api, clock)
    ours.take()
    api.leases.change(holderIdentity="node-2")
    clock.now += 20
    with pytest.raises(
        LostError,
        match=r"lost the lock: node-2 holds the Lease kube-system/certmond-restart now; certmond takes it again",
    ):
        ours.keep()
    assert not held(ours)
    with pytest.raises(LostError, match=r"this node does not hold .*; take it first"):
        ours.keep()


@pytest.mark.parametrize("how", ["deleted", "deleted, and said so", "freed"])
def test_a_turn_that_was_freed_by_hand_is_lost(api: ApiServer, clock: Clock, how: str) -> None:
    """A Lease that somebody deletes or frees while it is held is not just made again: another may have had it."""
    ours = lease(api, clock)
    ours.take()
    api.leases.change(holderIdentity="") if how == "freed" else api.leases.objects.clear()
    api.faults = [Fault(404)] if how == "deleted, and said so" else []  # Kubernetes says 409, as the uid is not there
    clock.now += 20
    with pytest.raises(LostError, match="lost the lock: no node holds the Lease"):
        ours.keep()
    assert not held(ours)
    assert ours.take() is None


def test_a_lease_that_was_made_anew_is_another(api: ApiServer, clock: Clock) -> None:
    """A Lease that was deleted, and made by another since, is not overwritten by who held the old one."""
    ours = lease(api, clock)
    ours.take()
    api.leases.objects.clear()
    lease(api, clock, "node-2").take()
    clock.now += 20
    with pytest.raises(LostError, match="node-2 holds"):
        ours.keep()
    assert api.leases.only["spec"]["holderIdentity"] == "node-2"


def test_what_others_write_into_it_stays(api: ApiServer, clock: Clock) -> None:
    """A label is no reason to lose a turn, and stays where it is."""
    ours = lease(api, clock)
    ours.take()
    api.leases.only["metadata"]["labels"] = {"team": "a"}
    api.leases.change(acquireTime="2026-11-24T12:00:00.000000Z")
    clock.now += 20
    ours.keep()
    assert verbs(api)[2:] == ["PUT", "GET", "PUT"]
    assert api.leases.only["metadata"]["labels"] == {"team": "a"}
    assert api.leases.only["spec"]["acquireTime"] == "2026-11-24T12:00:00.000000Z"
    clock.now += 49
    assert held(ours)


def test_endless_conflicts_are_for_later(api: ApiServer, clock: Clock) -> None:
    """A Lease that is changed all the time is renewed later, and held for as long as it was."""
    ours = lease(api, clock)
    ours.take()
    clock.now += 20
    api.before = lambda method, path: api.leases.change() if method == "PUT" else None
    with pytest.raises(UnreachableError, match="changes too often to be renewed; certmond renews it later"):
        ours.keep()
    assert held(ours)
    clock.now += 30
    assert not held(ours)


def test_who_was_faster_is_told(api: ApiServer, clock: Clock) -> None:
    """Where another takes it between our look and our writing, it is that one's turn."""
    rival = lease(api, clock, "node-2")
    calls = iter([lambda: None])

    def faster(method: str, path: str) -> None:
        if method != "GET" and next(calls, None):
            rival.take()

    api.before = faster
    ours = lease(api, clock)
    assert re.search(r"node-2 has just taken the Lease .*certmond-restart; certmond waits for it", ours.take() or "")
    assert not held(ours)
    rival.give_back()
    calls = iter([lambda: None])
    assert "node-2 has just taken" in (ours.take() or "")
    rival.give_back()
    api.before = lambda method, path: api.leases.change() if method == "PUT" else None
    assert re.search("changed before certmond could take it; certmond reads it again", ours.take() or "")
    assert not held(ours)


def test_it_is_given_back(api: ApiServer, clock: Clock) -> None:
    """What is given back is free for the next node at once, and not held any more."""
    ours = lease(api, clock)
    ours.take()
    ours.give_back()
    assert not held(ours)
    spec = api.leases.only["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("", 1, 0)
    assert lease(api, clock, "node-2").take() is None
    assert api.leases.only["spec"]["leaseTransitions"] == 1


@pytest.mark.parametrize("when", ["never taken", "run out", "lost"])
def test_what_is_not_held_is_not_given_back(api: ApiServer, clock: Clock, when: str) -> None:
    """Without the turn there is nothing to give back, and the API is not asked."""
    ours = lease(api, clock)
    if when != "never taken":
        ours.take()
        clock.now += 50
    if when == "lost":
        api.leases.change(holderIdentity="node-2")
        with pytest.raises(LostError):
            ours.keep()
    api.calls.clear()
    ours.give_back()
    assert api.calls == []


@pytest.mark.parametrize("fault", [Fault(0), Fault(403), Fault(409), Fault(500)])
def test_giving_back_fails_quietly(api: ApiServer, clock: Clock, fault: Fault) -> None:
    """Where the API does not take it back, nothing is raised, it is not held, and the next node waits."""
    ours = lease(api, clock)
    ours.take()
    api.faults = [fault]
    ours.give_back()
    assert not held(ours)
    assert lease(api, clock, "node-2").take()


def test_a_lease_without_a_holder_or_anything_is_free(api: ApiServer, clock: Clock) -> None:
    """A Lease that somebody made beforehand, with no spec at all, is taken as any that is free."""
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
        (Fault(200, body=b"{}"), UnreachableError, "does not answer like a Kubernetes API; check its address"),
        (
            Fault(200, body=b'{"metadata": {"name": "x"}}'),
            UnreachableError,
            "does not answer like a Kubernetes API; check its address",
        ),
        (Fault(0), UnreachableError, r"of .*kubelet\.conf cannot be reached \(.+\)"),
    ],
)
@pytest.mark.parametrize("act", ["take", "keep"])
def test_every_failure_of_the_api_has_its_meaning(
    api: ApiServer, act: str, fault: Fault, error: type[SigningError], reason: str
) -> None:
    """Whether it can be asked again later or not is told; what was held is held for the rest of its time, no longer."""
    clock = Clock()
    ours = lease(api, clock)
    ours.take()
    clock.now += 20
    api.faults = [fault]
    with pytest.raises(error, match=reason):
        ours.take() if act == "take" else ours.keep()
    clock.now += 29
    assert held(ours)
    clock.now += 1
    assert not held(ours)


def test_a_busy_api_is_asked_again_when_it_says(api: ApiServer, clock: Clock) -> None:
    """An answer with Retry-After, as of priority and fairness (429), is waited for within the time limit."""
    api.faults = [Fault(429, headers={"Retry-After": "0"})]
    assert lease(api, clock).take() is None
    assert verbs(api) == ["GET", "GET", "POST"]


@pytest.mark.parametrize(
    ("call", "doing"), [(f"GET {LEASE}", "read"), (f"POST {LEASES}", "create"), (f"PUT {LEASE}", "update")]
)
def test_a_missing_right_is_told_with_the_rule(api: ApiServer, clock: Clock, call: str, doing: str) -> None:
    """What the user may not do (403) is refused with the rule that its role lacks, and where."""
    ours = lease(api, clock)
    if doing == "update":
        ours.take()
    api.denied = {call}
    rule = "grant its user a role in kube-system with apiGroups [coordination.k8s.io], resources [leases], verbs"
    with pytest.raises(RefusedError, match=re.escape(f"{rule} [get, create, update]")) as raised:
        ours.take()
    assert f"kubelet.conf may not {doing} the Lease kube-system/certmond-restart (" in str(raised.value)


def test_leases_of_two_names_are_two_turns(api: ApiServer, clock: Clock) -> None:
    """Who leads a rotation and whose turn it is to restart are two Leases, each held by whoever has that one."""
    leads, restarts = lease(api, clock, name=ROTATION), lease(api, Clock(), "node-2")
    assert leads.take() is None
    assert restarts.take() is None
    assert (held(leads), held(restarts)) == (True, True)
    holders = {name: made["spec"]["holderIdentity"] for (_, name), made in api.leases.objects.items()}
    assert holders == {"certmond-rotation": "node-1", "certmond-restart": "node-2"}


def test_a_namespace_that_is_not_there_is_named(api: ApiServer, clock: Clock) -> None:
    """Without its namespace a Lease cannot be made, and that is told."""
    with pytest.raises(
        RefusedError, match="the cluster has no namespace ops; create it, or configure another one for the Lease"
    ):
        lease(api, clock, namespace="ops").take()


def test_who_is_told_to_stop_stops(api: ApiServer, clock: Clock) -> None:
    """Where `alive` raises, because the daemon is told to stop, the call is given up at once."""

    def silent(method: str, path: str) -> None:
        api.closing.wait(60)

    def stop() -> None:
        raise KeyboardInterrupt

    api.before = silent
    with pytest.raises(KeyboardInterrupt):
        lease(api, clock, alive=stop).take()


def test_without_the_extra_the_remedy_is_told(api: ApiServer, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lightkube everything but the call itself works, and that says what to install."""
    monkeypatch.delitem(sys.modules, "certmond.cluster.client", raising=False)
    monkeypatch.setitem(sys.modules, "lightkube", None)
    with pytest.raises(RefusedError, match=r"lightkube, .* is missing; pip install certmond\[kubernetes\], or remove"):
        lease(api, clock).take()


# --- what stands in for Kubernetes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "spec", "status"),
    [
        ({}, {}, 422),  # Leases have no unconditional update
        ({"resourceVersion": "1"}, {}, 409),
        ({"uid": "another"}, {}, 409),
        ({"name": "other"}, {}, 400),
        ({}, {"renewTime": "2026-11-24T12:00:00Z"}, 400),  # as lightkube writes a whole second
        ({}, {"leaseDurationSeconds": 0}, 422),
        ({}, {"leaseTransitions": -1}, 422),
    ],
)
def test_the_api_server_of_these_tests_is_strict(
    api: ApiServer, clock: Clock, metadata: dict[str, str], spec: dict[str, Any], status: int
) -> None:
    """What stands in for Kubernetes refuses what Kubernetes refuses."""
    lease(api, clock).take()
    given = {"metadata": {"name": "certmond-restart"} | metadata, "spec": spec}
    assert api.leases.answer("PUT", LEASE, repr(given).replace("'", '"').encode())[0] == status


def test_a_put_makes_what_is_not_there(api: ApiServer) -> None:
    """As Kubernetes does for Leases, unless a uid says which one was meant."""
    given = b'{"metadata": {"name": "certmond-restart", "resourceVersion": "5"}, "spec": {}}'
    assert api.leases.answer("PUT", LEASE, given.replace(b'"resourceVersion"', b'"uid"'))[0] == 409
    assert api.leases.answer("PUT", LEASE, given)[0] == 201
