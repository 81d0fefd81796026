"""The plan run forward in time: future events, and the consequences if no operator acts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.assessment.renewal_attempt import MIN_INTERVAL
from certmond.pki.catalog.endpoint import Endpoint
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.served_entries import Listener, renewed_at_start, served_spec
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.findings import Fault, Reason
from certmond.pki.planning import forecast as forecasts
from certmond.pki.planning import renewal_quota
from certmond.pki.planning.forecast import Forecast, NextEvent, What, forecast, next_event
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan_with_times
from certmond.pki.planning.steps import Issue
from tests.builders import DAY, HOUR, NOW, SECOND, YEAR, make_ca
from tests.pki.assessment.test_repairable_damage import GONE
from tests.pki.planning.test_renewals import (
    AUTHORITY,
    CA,
    CA_KEY,
    FACTS,
    INSTANTS,
    KUBELET,
    POLICY,
    TICK,
    World,
    leaf,
    row,
    see,
    world,
    worlds,
)
from tests.sampling import examples


@contextmanager
def at_most(number: int) -> Iterator[None]:
    """Limit the events of a forecast: the thousands of events that certmond permits take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecasts, "MAX_EVENTS", number)
        yield


def foresee(made: World, length: timedelta = 12 * YEAR, now: datetime = NOW) -> Forecast:
    return forecast(made.look(now), made.policy, now + length, made.circumstances)


def reported(found: Forecast, *kinds: What, about: str | None = None) -> list[tuple[datetime, str]]:
    """Return the time and target of each event of these kinds."""
    return [(e.at, e.target) for e in found.events if e.what in kinds and about in {None, e.target}]


def sentences(found: Forecast, what: What) -> list[str]:
    return [event.detail for event in found.events if event.what is what]


def ending(end: datetime, name: str = "ca") -> Observation:
    """A CA that ends then."""
    spec = AUTHORITY if name == "ca" else replace(AUTHORITY, name=name, path=f"/pki/{name}.crt")
    return see(spec, make_ca(key=CA_KEY, not_before=NOW - YEAR, not_after=end))


# --- it is the plan ---------------------------------------------------------------------------------------------------


def lived(made: World, now: datetime, until: datetime, rounds: int) -> tuple[list[tuple[datetime, str, str]], datetime]:
    """Return the events when every plan is executed by a real signer and assessed again, and the end of that
    simulation.
    """
    events = []
    for _ in range(rounds):
        wanted = made.plan(now)
        events += [(now, step.target, step.detail) for step in wanted.steps if isinstance(step, Issue)]
        made = made.after(wanted, now)
        wanted = made.plan(now)
        if wanted.changes_at is None or wanted.changes_at > until:
            return events, until
        now = wanted.changes_at
    return events, now - TICK


@pytest.mark.long
@settings(deadline=None, max_examples=examples(60))
@given(worlds(), INSTANTS, st.sampled_from([HOUR, 40 * DAY, 3 * YEAR]))
def test_a_forecast_equals_the_work_of_a_daemon(made: World, now: datetime, length: timedelta) -> None:
    """It has the same renewals at the same instants and in the same words as a simulation that signs, parses and judges
    each.
    """
    made = replace(made, past={}, circumstances=Circumstances())
    expected, until = lived(made, now, now + length, 30)
    found = forecast(made.look(now), made.policy, until)
    renewals = [event for event in found.events if event.what is What.RENEW]
    if found.complete:
        assert [(event.at, event.target) for event in renewals] == [(at, target) for at, target, _ in expected]
        assert [event.detail for event in renewals] == [detail for _, _, detail in expected]


@pytest.mark.long
@settings(deadline=None, max_examples=examples(60))
@given(worlds(), INSTANTS)
def test_a_forecast_is_in_order_within_its_time_and_renews_nothing_twice_within_an_hour(
    made: World, now: datetime
) -> None:
    """The rule covers any node. A present hold is no part of the forecast."""
    with at_most(100):
        found = forecast(made.look(now), made.policy, now + 6 * DAY, made.circumstances)
        assert found == forecast(made.look(now), made.policy, now + 6 * DAY)
    instants = [event.at for event in found.events]
    assert instants == sorted(instants)
    assert all(now <= at <= now + 6 * DAY for at in instants)
    last: dict[str, datetime] = {}
    for at, target in reported(found, What.RENEW):
        assert at - last.get(target, at - YEAR) >= MIN_INTERVAL
        last[target] = at


def test_the_last_instant_is_included() -> None:
    """An event after it is not."""
    made = world(leaf(NOW + YEAR))
    due = made.plan(NOW).changes_at
    assert due
    assert reported(forecast(made.look(NOW), POLICY, due), What.RENEW) == [(due, "leaf")]
    assert reported(forecast(made.look(NOW), POLICY, due - TICK), What.RENEW) == []


# --- the events -------------------------------------------------------------------------------------------------------


def node() -> World:
    """Return the certificates of a control-plane node of kubeadm: three CAs for ten years, ten leaves for one."""
    cas = [ending(NOW + 10 * YEAR, name) for name in ("ca", "etcd-ca", "front-proxy-ca")]
    rows = [row(f"leaf-{n}", ca=cas[n % 3].name, consumers=["apiserver"]) for n in range(10)]
    leaves = [see(spec, leaf(NOW + YEAR)) for spec in rows]
    services = (ServiceSpec(name="apiserver", kind="static-pod", pod="kube-apiserver", reloads=("leaf-0",)),)
    return World((*cas, *leaves), Policy(services=services))


def test_a_nodes_twelve_years() -> None:
    """The forecast has each leaf once a year, each CA's end, and the effect on the leaves: nothing in between is
    omitted.
    """
    found = foresee(node())
    assert found.complete
    renewals = Counter(target for _, target in reported(found, What.RENEW))
    assert set(renewals) == {f"leaf-{n}" for n in range(10)}
    assert set(renewals.values()) == {10}
    cas = ["ca", "etcd-ca", "front-proxy-ca"]
    for what in (What.CLAMP, What.DUE):
        assert sorted(target for _, target in reported(found, what)) == cas
    for what in (What.HOLD, What.EXPIRE):
        leaves = {target for _, target in reported(found, what)} - set(cas)
        assert leaves == set(renewals)
    assert {at for at, _ in reported(found, What.EXPIRE)} == {NOW + 10 * YEAR + TICK}
    assert {at for at, _ in reported(found, What.CLAMP)} == {max(at for at, _ in reported(found, What.RENEW))}
    bad = {event.what for event in found.events if event.bad}
    assert bad == {What.CLAMP, What.DUE, What.HOLD, What.EXPIRE}


def test_a_service_is_restarted_once_for_all_its_certificates() -> None:
    """It is not restarted for a file that it reloads."""
    found = foresee(node(), YEAR)
    (restart,) = [event for event in found.events if event.what is What.RESTART]
    assert restart.target == "apiserver"
    assert restart.detail == "has " + ", ".join(f"leaf-{number}" for number in range(1, 10)) + " in memory"
    assert restart.at == reported(found, What.RENEW)[0][0]


def test_the_first_shortened_lifetime_is_reported_once_for_each_ca() -> None:
    """A lifetime that only ends before its CA is not reported, nor is a CA without leaves."""
    made = world(leaf(NOW + DAY), leaf(NOW + 2 * DAY), ca=ending(NOW + 100 * DAY))
    other = row("other", ca=["second"])
    cas = ending(NOW + 100 * YEAR, "second"), ending(NOW + 100 * DAY, "idle")
    made = replace(made, seen=(*made.seen, *cas, see(other, leaf(NOW + DAY))))
    found = foresee(made, 90 * DAY)
    assert reported(found, What.CLAMP) == [(NOW, "ca")]
    assert "ends on 2027-03-04" in sentences(found, What.CLAMP)[0]
    short = foresee(replace(made, policy=replace(POLICY, validity=10 * DAY)), 100 * DAY)
    ((at, target),) = reported(short, What.CLAMP)
    assert (target, at > NOW + 90 * DAY) == ("ca", True)


def test_a_ca_that_ends_takes_its_leaves_with_it() -> None:
    """The events are the leaf's last renewal, the missing next one, and both ends, each once."""
    found = foresee(world(leaf(NOW + 40 * DAY), ca=ending(NOW + 100 * DAY)))
    assert [(event.at - NOW, event.what, event.target) for event in found.events] == [
        (10 * DAY, What.CLAMP, "ca"),
        (10 * DAY, What.RENEW, "leaf"),
        (70 * DAY, What.HOLD, "leaf"),
        (70 * DAY, What.DUE, "ca"),
        (100 * DAY + TICK, What.EXPIRE, "leaf"),
        (100 * DAY + TICK, What.EXPIRE, "ca"),
    ]
    assert "rotate the CA" in sentences(found, What.HOLD)[0]


LAST = ("expire", YEAR + TICK, True)
UNSIGNED = {"signer": "none", "renew_before": "30d"}
ROTATED = replace(KUBELET, signer="none", renew_before=30 * DAY)


@pytest.mark.parametrize(
    ("spec", "symlink", "end", "expected"),
    [
        (row(**UNSIGNED), None, YEAR, [("due", YEAR - 30 * DAY, True), LAST]),
        (row(**UNSIGNED), None, 10 * DAY, [("due", 0 * DAY, True), ("expire", 10 * DAY + TICK, True)]),
        (row(**UNSIGNED), None, -DAY, [("expire", 0 * DAY, True)]),
        (ROTATED, True, YEAR, [("expire", YEAR + TICK, False)]),
        (ROTATED, True, -DAY, [("expire", 0 * DAY, True)]),
        (ROTATED, False, YEAR, [("due", YEAR - 30 * DAY, True), LAST]),
    ],
)
def test_the_end_of_an_unrenewed_certificate_is_reported(
    spec: CertificateSpec, symlink: bool | None, end: timedelta, expected: list[tuple[str, timedelta, bool]]
) -> None:
    """The forecast also has its renewal point. Past events come first. The kubelet is expected to rotate its own
    certificate.
    """
    found = foresee(World((CA, see(spec, leaf(NOW + end), symlink=symlink))), 2 * YEAR)
    events = [event for event in found.events if event.target == spec.name]
    assert [(event.what.value, event.at - NOW, event.bad) for event in events] == expected
    last = events[-1].detail
    assert last.endswith(": its entry has `signer: none`; to renew the certificate with certmond, set another `signer`")
    assert last.startswith("expires" if end > timedelta() else "expired on 2026-11-23")
    assert ("unless the kubelet rotates it" in last) is not events[-1].bad


def test_an_absent_certificate_has_no_forecast() -> None:
    """A finding reports it today."""
    assert foresee(World((see(row()),))).events == ()
    assert next_event(World((see(row()),)).look(NOW), POLICY) is None
    known_facts = assess(Inventory((CA, see(row()))), NOW, World((CA, see(row(), leaf(NOW + DAY)))).look(NOW))
    assert forecast(known_facts, POLICY, NOW + DAY).events == ()


def test_a_certificate_that_waits_beyond_its_end_expires() -> None:
    """Its lifetime is shorter than the hour between two renewals. The expiry is reported once."""
    made = world(leaf(NOW + 90 * SECOND, 90 * SECOND), spec=row(validity="90s"))
    found = foresee(made, 10 * HOUR)
    renewals = reported(found, What.RENEW)
    assert {later[0] - earlier[0] for earlier, later in pairwise(renewals)} == {MIN_INTERVAL}
    assert reported(found, What.EXPIRE, What.HOLD) == [(renewals[0][0] + 90 * SECOND + TICK, "leaf")]


def test_the_number_of_events_has_a_limit() -> None:
    """Certificates of 90 seconds for a dozen years: the forecast has all events up to an instant, and none after it.
    The limit is 5,000 events.
    """
    assert forecasts.MAX_EVENTS == 5000
    made = world(*(leaf(NOW + SECOND, 90 * SECOND) for _ in range(4)), policy=replace(POLICY, validity=90 * SECOND))
    with at_most(200):
        found = foresee(made)
        assert foresee(made, DAY).complete
    assert not found.complete
    assert 200 <= len(found.events) < 210
    assert found.until == NOW + 12 * YEAR
    assert reported(found, What.EXPIRE, about="ca") == []
    assert found.events[-1].at < NOW + 200 * HOUR


def test_a_forecast_plans_a_certificate_only_when_its_plan_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of a forecast grows with the number of certificates, and not with the square of this number."""
    planned = Counter[int]()

    def counted(due: Assessment, *rest: Any) -> Any:
        planned[number] += len(due.statuses)
        return plan_with_times(due, *rest)

    monkeypatch.setattr(forecasts, "plan_with_times", counted)
    for number in (40, 80):
        issued = [leaf(NOW + 40 * DAY + each * HOUR) for each in range(number)]
        found = foresee(world(*issued), 60 * DAY)
        assert len(reported(found, What.RENEW)) == number
    assert planned[80] < 2.2 * planned[40]


def test_the_quota_of_a_pattern_applies_to_a_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hour, certmond renews only so many certificates of a pattern."""
    monkeypatch.setattr(renewal_quota, "RENEWALS", 2)
    spec = row("apps", path="/srv/*.pem", key="/srv/*.pem")
    due, later = leaf(NOW + DAY), leaf(NOW + 30 * DAY + HOUR / 2)  # the second one is due half an hour later
    files = [
        replace(see(spec, issued), path=f"/srv/{number}.pem", key_path=f"/srv/{number}.pem")
        for number, issued in enumerate((due, due, due, later))
    ]
    found = foresee(World((CA, *files)), DAY)
    assert [at - NOW for at, _ in reported(found, What.RENEW)] == [0 * HOUR, 0 * HOUR, HOUR, HOUR]


def test_a_step_that_another_step_permits_is_next() -> None:
    """The plan of an instant has one step for each file. The second entry of a file follows at the next instant."""
    due = see(row(), leaf(NOW + DAY))
    twin = replace(see(row("twin"), leaf(NOW + DAY)), path=due.path, key_path=due.key_path)
    soon = see(row("soon"), leaf(NOW + 30 * DAY + SECOND))
    found = foresee(World((CA, due, twin, soon)), DAY / 2)
    assert reported(found, What.RENEW) == [(NOW, "leaf"), (NOW + SECOND, "twin"), (NOW + SECOND, "soon")]


def test_certificates_of_one_file_are_planned_together() -> None:
    """A renewal that would break another entry of the same key is held, although that entry is not due."""
    due, other = see(row(), leaf(NOW + DAY)), see(row("other"), leaf(NOW + YEAR))
    found = foresee(World((CA, due, replace(other, key_path=due.key_path))), 2 * DAY)
    assert reported(found, What.RENEW) == []
    (reason,) = sentences(found, What.HOLD)
    assert "shares its key" in reason


def test_the_end_of_a_damaged_certificate_that_is_never_renewed_is_reported_once() -> None:
    """Its hold has no other event. The end is at the instant at which the certificate expires."""
    damaged = see(row(**UNSIGNED), leaf(NOW + 50 * DAY), key=None, faults=(Fault(Reason.MISSING, "no key"),))
    found = foresee(World((CA, damaged, see(row("other"), leaf(NOW + 100 * DAY)))), 80 * DAY)
    assert len(reported(found, What.HOLD, about="leaf")) == 1
    assert reported(found, What.EXPIRE) == [(NOW + 50 * DAY + TICK, "leaf")]


def test_the_end_of_a_certificate_whose_file_is_gone_is_reported() -> None:
    """certmond knows the certificate from an earlier pass. Without a subject in the entry, no repair is possible."""
    gone = Inventory((CA, see(row(), faults=(Fault(Reason.MISSING, "/pki/leaf.crt is not there"),))), FACTS)
    known = World((CA, see(row(), leaf(NOW + 50 * DAY)))).look(NOW - DAY)
    known = assess(gone, NOW - HOUR, known)  # since then, no other program has written the file
    found = forecast(assess(gone, NOW, known), POLICY, NOW + 80 * DAY)
    assert reported(found, *What) == [(NOW, "leaf"), (NOW + 50 * DAY + TICK, "leaf")]
    hold, end = found.events
    assert (hold.what, end.what, end.detail) == (What.HOLD, What.EXPIRE, f"expires: {hold.detail}")


def test_a_certificate_that_the_same_instant_renews_does_not_expire() -> None:
    """Two entries can observe one file. The first observation is held, and the second one is renewed."""
    expired, other = see(row(), leaf(NOW - DAY)), see(row("other"), leaf(NOW + YEAR))
    found = foresee(World((CA, replace(expired, key_path=other.key_path), expired, other)), HOUR)
    assert reported(found, What.RENEW, What.HOLD, What.EXPIRE) == [(NOW, "leaf"), (NOW, "leaf")]
    assert reported(found, What.EXPIRE) == []


def test_a_hold_that_a_repair_begins_is_reported_with_the_repair() -> None:
    """A repair of the first entry replaces the file, and the second entry of this file still lacks its key."""
    twin = replace(GONE, name="twin", spec=row("twin", path=GONE.path, key="/pki/twin.key"), key_path="/pki/twin.key")
    found = foresee(World((CA, GONE, twin)), DAY)
    assert reported(found, What.RENEW) == [(NOW, "leaf")]
    assert reported(found, What.HOLD) == [(NOW, "twin")]


# --- the sentences ----------------------------------------------------------------------------------------------------


def test_a_change_is_reported_once() -> None:
    """The next certificate is like the new one."""
    spec = row(names="DNS:worker-1", keep_key=True)
    found = foresee(world(leaf(NOW + DAY), spec=spec), 2 * YEAR)
    first, second, *_ = sentences(found, What.RENEW)
    assert first == "is due; signer local, valid until 2027-11-24 12:00 UTC; adds the name DNS:worker-1; keeps its key"
    assert second == "is due; signer local, valid until 2028-10-24 12:00 UTC; keeps its key"


def test_a_key_that_was_another_certificates_is_kept_from_the_second_time_on() -> None:
    """A renewal puts a pair there that belongs together."""
    made = World((CA, see(row(keep_key=True), leaf(NOW + DAY), key=CA.key)))
    assert ["keeps its key" in said for said in sentences(foresee(made, YEAR), What.RENEW)] == [False, True]


def test_the_general_renew_before_applies_to_future_certificates() -> None:
    """It also applies to present ones."""
    seen = Inventory((CA, see(row(), leaf(NOW + YEAR))), FACTS)
    found = forecast(assess(seen, NOW, renew_before=60 * DAY), POLICY, NOW + 2 * YEAR)
    assert [at - NOW for at, _ in reported(found, What.RENEW)] == [305 * DAY, 610 * DAY]


def test_a_pem_in_place_of_the_symlink_is_repaired_once() -> None:
    """From then on the kubelet's symlink exists, and it is renewed by its dates."""
    made = world(leaf(NOW + YEAR), spec=KUBELET)
    made = replace(made, seen=(CA, replace(made.seen[1], symlink=False)))
    found = foresee(made, YEAR)
    assert [at - NOW for at, _ in reported(found, What.RENEW)] == [timedelta(), 335 * DAY]


def test_derived_files_are_made_when_outdated_and_after_their_source() -> None:
    """A file that is out of date today is made once."""
    around = Circumstances("an upgrade", {"b": "/b is not there"}, {"a": ("/a", "leaf"), "b": ("/b", "leaf")})
    found = foresee(world(leaf(NOW + 31 * DAY), leaf(NOW + 30 * DAY + HOUR), circumstances=around), 2 * DAY)
    assert reported(found, What.DERIVE) == [(NOW, "b"), (NOW + DAY, "a"), (NOW + DAY, "b")]
    assert sentences(found, What.DERIVE) == ["/b is not there", "leaf is renewed", "leaf is renewed"]


def test_certificates_of_one_name_have_their_path() -> None:
    """A glob's files have the name of their entry."""
    spec = row(path="/pki/*.pem", key="/pki/*.pem")
    ca = ending(NOW + 20 * DAY)
    files = [replace(see(spec, leaf(NOW + 20 * DAY)), path=f"/pki/{n}.pem") for n in "ab"]
    found = foresee(World((ca, *files)), 30 * DAY)
    assert len(reported(found, What.HOLD, about="leaf")) == len(reported(found, What.EXPIRE, about="leaf")) == 2


def test_a_file_that_is_damaged_today_is_repaired_once() -> None:
    """The dates of a certificate without a predecessor are unknown, so the forecast has no further event for it."""
    found = foresee(World((CA, see(row("other"), leaf(NOW + YEAR)), GONE)))
    assert reported(found, What.RENEW, about="leaf") == [(NOW, "leaf")]
    assert sentences(found, What.RENEW)[0].startswith("/pki/leaf.crt is not there; issue the certificate again")
    assert len(reported(found, What.RENEW, about="other")) > 1


def test_a_certificate_of_another_service_has_due_and_end_only() -> None:
    """It has no hold."""
    found = foresee(World((CA, see(row(renewed_by="the start of k3s"), leaf(NOW + 40 * DAY)))), 50 * DAY)
    assert reported(found, *What) == [(NOW + 10 * DAY, "leaf"), (NOW + 40 * DAY + TICK, "leaf")]


def test_a_self_signed_certificate_has_due_and_end_only() -> None:
    """Its hold would repeat both events."""
    own = make_ca("own", not_before=NOW - 325 * DAY, not_after=NOW + 40 * DAY)
    found = foresee(World((CA, see(row(ca=["ca", "self"], usages=[]), own)), Policy()), 50 * DAY)
    assert [(event.what, event.target) for event in found.events] == [(What.DUE, "leaf"), (What.EXPIRE, "leaf")]


@pytest.mark.parametrize(
    ("consumers", "end", "wanted"),
    [
        (["web"], 41 * DAY, []),
        (["web"], 40 * DAY, [(What.DUE, 10 * DAY)]),
        (["web"], 39 * DAY, [(What.DUE, 9 * DAY)]),
        (["web"], 9 * DAY, [(What.DUE, 0 * DAY), (What.EXPIRE, 9 * DAY)]),
        ([], 41 * DAY, [(What.DUE, 11 * DAY), (What.EXPIRE, 41 * DAY)]),
    ],
    ids=[
        "restart before it is due",
        "restart when it is due",
        "restart before its end",
        "restart after its end",
        "no restart",
    ],
)
def test_a_restart_renews_a_certificate_that_only_the_memory_of_the_service_contains(
    consumers: list[str], end: timedelta, wanted: list[tuple[What, timedelta]]
) -> None:
    """The forecast restarts the service for another certificate. Each start creates a certificate of the same validity,
    so the operator needs no other restart.
    """
    spec = served_spec(Endpoint("127.0.0.1", 10259), Listener("web", renewed_at_start("web")))
    seen = CA, see(row(consumers=consumers), leaf(NOW + 40 * DAY)), see(spec, leaf(NOW + end))
    made = World(seen, replace(POLICY, services=(ServiceSpec(name="web", kind="static-pod", pod="web"),)))
    events = [(each.what, each.at - NOW) for each in foresee(made, 50 * DAY).events if each.target == spec.name]
    assert [(what, at - at % DAY) for what, at in events] == wanted


# --- the next event ---------------------------------------------------------------------------------------------------


@pytest.mark.long
@settings(deadline=None, max_examples=examples(30))
@given(worlds(), INSTANTS)
def test_the_next_event_is_the_first_of_the_forecast(made: World, now: datetime) -> None:
    """The next event is the first `renew`, `due` or `expire` of the forecast, with its instant, unless a hold exists or
    a derived file comes first. A certificate that has expired has no further event.
    """
    made = replace(made, past={}, circumstances=Circumstances())
    with at_most(20):
        found = foresee(made, 20 * DAY, now)
    if reported(found, What.HOLD):
        return
    known = [(each.seen.name, each.certificate) for each in made.look(now).certificates]
    over = {name for name, certificate in known if certificate and certificate.expires_at < now}
    ends = [(at, name) for at, name in reported(found, What.EXPIRE) if name not in over]
    due = sorted([*reported(found, What.RENEW, What.DUE), *ends])
    following = next_event(made.look(now), made.policy)
    if not due:
        assert following is None or following.at > now + 20 * DAY
        return
    assert following is not None
    assert following.at == due[0][0]
    assert following[:2] in reported(found, following.what)


def test_an_expired_certificate_is_no_event() -> None:
    """An expired certificate without a signer is not due."""
    assert next_event(World((see(row(**UNSIGNED), leaf(NOW - DAY)),)).look(NOW), POLICY) is None


def test_the_end_of_a_rotated_certificate_is_an_event() -> None:
    """The kubelet rotates this certificate before its end. An earlier event of another certificate comes first."""
    rotated = see(ROTATED, leaf(NOW + 50 * DAY), symlink=True)
    end = NextEvent(NOW + 50 * DAY + TICK, "kubelet-client", What.EXPIRE)
    assert next_event(World((rotated, see(row(**UNSIGNED), leaf(NOW + YEAR)))).look(NOW), POLICY) == end
    due = NextEvent(NOW + 40 * DAY, "leaf", What.DUE)
    assert next_event(World((rotated, see(row(**UNSIGNED), leaf(NOW + 70 * DAY)))).look(NOW), POLICY) == due
