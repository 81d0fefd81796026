"""The services that issue their certificates again at a start: when they restart, and when they do not."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.pki.assessment.assess import Assessment, CertificateStatus, assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Fault, Reason
from certmond.pki.planning.forecast import ForecastEvent, NextEvent, What, forecast, next_event
from certmond.pki.planning.planner_inputs import Policy
from certmond.pki.planning.renewal_obstacles import renewal_obstacle
from certmond.pki.planning.renewals_at_start import (
    StartRenewals,
    start_renewal_time,
    start_renewals,
    with_restart_times,
)
from certmond.pki.planning.restarts import RestartHolds, restarts
from certmond.pki.planning.steps import Cause, Held, Plan, Restart
from certmond.pki.services.restart_episode import Past, Result, Target, Terms
from certmond.pki.services.service_observation import Content, Live, ServiceSeen
from certmond.pki.services.staleness import Surroundings
from tests.builders import DAY, HOUR, NOW, SECOND, YEAR, Issued, make_ca, make_leaf, new_key

TICK = timedelta(microseconds=1)
POLICY = Policy(spread=TICK, restarts_for_renewal=True)
ROOT = make_ca(not_before=NOW - YEAR, not_after=NOW + 9 * YEAR)
KEY = new_key()
STRANGE = make_leaf(ROOT, key=new_key()).facts.key
RUNS = ServiceSeen(True, "k3s-1", NOW - 300 * DAY)


def row(name: str = "leaf", **fields: Any) -> CertificateSpec:
    known: dict[str, Any] = {
        "name": name, "path": f"/{name}.crt", "key": f"/{name}.key", "ca": "ca", "usages": "client auth",
        "renewed_by": "k3s, at a start", "consumers": ["k3s", "k3s-agent"], "renewed_at_start": "90d",
    }  # fmt: skip
    return validated(CertificateSpec, known | fields)


def leaf(end: datetime, ca: Issued = ROOT, **fields: Any) -> Issued:
    return make_leaf(ca, **{"key": KEY, "not_before": end - YEAR, "not_after": end} | fields)


def see(spec: CertificateSpec, *issued: Issued, **fields: Any) -> Observation:
    key = issued[0].facts.key if issued else None
    found = {"key": key, "key_path": spec.key} | fields
    return Observation(spec.name, spec, spec.path, tuple(each.facts for each in issued), **found)


def authority(issued: Issued = ROOT) -> Observation:
    fields = {"name": "ca", "path": "/ca.crt", "authority": True, "usages": "cert sign", "key_optional": True}
    spec = validated(CertificateSpec, fields)
    return Observation("ca", spec, "/ca.crt", (issued.facts,))


CA = authority()
DUE = see(row(), leaf(NOW + 10 * DAY))
EXPIRED = see(row("old"), leaf(NOW - DAY))
LATER = see(row("later"), leaf(NOW + 100 * DAY))


def service(name: str = "k3s", **fields: Any) -> ServiceSpec:
    reloads = ("leaf", "old", "later", "other")
    return ServiceSpec(**{"name": name, "kind": "systemd", "unit": f"{name}.service", "reloads": reloads} | fields)


def around(*seen: Observation, **fields: Any) -> Surroundings:
    """k3s runs, and read all files at its start."""
    paths = [path for each in seen for path in (each.path, each.key_path) if path]
    known: dict[str, Any] = {
        "services": (service(),), "live": Live(NOW, {"k3s": RUNS}),
        "contents": {path: Content(f"sha of {path}", NOW - 300 * DAY) for path in paths},
    }  # fmt: skip
    return Surroundings(**known | fields)


def look(known: Surroundings, *seen: Observation, ca: Observation = CA, now: datetime = NOW) -> Assessment:
    return assess(Inventory((ca, *seen), {"node_name": "node-1"}), now, around=known)


def found(*seen: Observation, ca: Observation = CA, policy: Policy = POLICY, now: datetime = NOW) -> StartRenewals:
    return start_renewals(look(around(*seen), *seen, ca=ca, now=now), policy)


def made(
    *seen: Observation, known: Surroundings | None = None, holds: RestartHolds | None = None,
    asked: frozenset[str] | None = None, now: datetime = NOW, terms: Terms | None = None,
) -> Plan:  # fmt: skip
    known = known or around(*seen)
    assessment = look(known, *seen, now=now)
    renewals = start_renewals(assessment, POLICY)
    return restarts(
        assessment, known, (), terms or Terms(), holds=holds or RestartHolds(), asked=asked, renewals=renewals
    )


def restart(plan: Plan) -> Restart:
    (step,) = plan.steps
    assert isinstance(step, Restart)
    assert plan.held == ()
    return step


def held(plan: Plan) -> Held:
    assert plan.steps == ()
    (only,) = plan.held
    return only


def status_of(*seen: Observation, **fields: Any) -> CertificateStatus:
    return look(around(*seen, **fields), *seen).statuses[1]


CONTENTS = {"/leaf.crt": "sha of /leaf.crt", "/leaf.key": "sha of /leaf.key"}


# --- which certificates are due ---------------------------------------------------------------------------------------


def test_a_due_certificate_of_a_service_that_renews_at_its_start_is_found() -> None:
    """The result has the certificate, and the next time at which another certificate is due."""
    result = found(DUE, LATER)
    (renewal,) = result.by_service.values()
    assert (renewal.service, renewal.since) == ("k3s", NOW - 20 * DAY - _spread())
    assert [status.seen.name for status in renewal.certificates] == ["leaf"]
    assert result.changes_at == NOW + 70 * DAY - _spread()
    assert found(LATER).by_service == {}
    assert found(DUE, policy=replace(POLICY, restarts_for_renewal=False)) == StartRenewals()


def _spread() -> timedelta:
    """Part of the shortest spread that this node has."""
    at = start_renewal_time(status_of(DUE), POLICY, "node-1")
    assert at is not None
    return NOW - 20 * DAY - at


def test_nodes_restart_at_different_times() -> None:
    """The time is the renewal point minus a part of the spread, as for a renewal by certmond."""
    policy = replace(POLICY, spread=3 * DAY)
    times = {start_renewal_time(status_of(DUE), policy, f"node-{number}") for number in range(20)}
    assert len(times) == 20
    assert all(at and NOW - 23 * DAY <= at <= NOW - 20 * DAY for at in times)


def test_a_start_outside_the_time_of_the_service_is_no_renewal() -> None:
    """Before this time, the service would keep its certificate, although it is due."""
    early = see(row(renew_before="100d"), leaf(NOW + 95 * DAY))
    result = found(early)
    assert (result.by_service, result.changes_at) == ({}, NOW + 5 * DAY)
    assert found(early, now=NOW + 5 * DAY).by_service.keys() == {"k3s"}


@pytest.mark.parametrize(
    "seen",
    [
        see(row(renewed_at_start=None), leaf(NOW + DAY)),
        see(row(consumers="another"), leaf(NOW + DAY)),
        see(row()),
        see(row(), leaf(NOW + 10 * DAY, not_before=NOW + DAY)),
    ],
    ids=["not at a start", "a service of another node", "no certificate", "not valid yet"],
)
def test_other_certificates_cause_no_restart(seen: Observation) -> None:
    """This includes a certificate that is not valid yet, because the clock is probably wrong."""
    assert found(seen).by_service == {}
    assert made(seen) == Plan(changes_at=found(seen).changes_at)


def test_a_file_that_broke_causes_no_restart() -> None:
    """Its last certificate may be of any time, and the finding names the fault."""
    broken = see(row(), faults=(Fault(Reason.MALFORMED, "no certificate"),))
    before = look(around(DUE), DUE)
    now = assess(Inventory((CA, broken), {}), NOW, before, around=around(broken))
    assert now.statuses[1].certificate
    assert start_renewals(now, POLICY) == StartRenewals()


def test_certificates_of_one_start_are_renewed_by_one_restart() -> None:
    """Their ends differ by seconds. The restart must renew each certificate that is due within a day."""
    others = [see(row(f"other-{days}"), leaf(NOW + 30 * DAY + days * DAY + SECOND)) for days in (0, 2)]
    first = see(row(), leaf(NOW + 30 * DAY))
    (renewal,) = found(first, *others).by_service.values()
    assert [status.seen.name for status in renewal.certificates] == ["leaf", "other-0"]


def test_a_kubeconfig_with_the_same_certificate_follows() -> None:
    """It causes no restart and needs no proof, because its file may be older than a changed path. The forecast renews
    it, too.
    """
    certificate = leaf(NOW + 10 * DAY)
    plain = row("admin.conf", renewed_at_start=None, consumers=[])
    copy, other = see(plain, certificate), see(row("x", renewed_at_start=None, consumers=[]), leaf(NOW + 10 * DAY))
    result = found(see(row(), certificate), copy, other)
    (renewal,) = result.by_service.values()
    assert [status.seen.name for status in renewal.certificates] == ["leaf"]
    assert [status.seen.name for status in renewal.copies] == ["admin.conf"]
    assert {name for name, _ in result.planned} == {"leaf", "admin.conf"}
    assert found(copy, other) == StartRenewals()
    renewed = [event.target for event in foreseen(see(row(), certificate), copy) if event.what is What.RENEW]
    assert renewed == ["leaf", "admin.conf"]


def test_a_certificate_of_a_short_life_is_not_renewed_a_day_early() -> None:
    """A twentieth of its lifetime is the limit."""
    first, second = (see(row(name), leaf(NOW + end, not_before=NOW - 2 * HOUR + end))
                     for name, end in (("a", 30 * timedelta(minutes=1)), ("b", HOUR)))  # fmt: skip
    (renewal,) = found(first, second).by_service.values()
    assert [status.seen.name for status in renewal.certificates] == ["a"]


@pytest.mark.parametrize(("end", "now"), [(NOW + 5 * DAY, NOW), (NOW + 10 * DAY, NOW + 20 * DAY)])
def test_a_ca_at_its_end_bars_the_restart(end: datetime, now: datetime) -> None:
    """The new certificate would not be valid for longer. The hold names the CA and its remedy, which depends on the key
    of the CA.
    """
    ca = make_ca(not_before=NOW - YEAR, not_after=end)
    result = found(see(row(), leaf(NOW + 10 * DAY, ca)), ca=authority(ca), now=now)
    assert result.by_service == {}
    (reason,) = result.barred.values()
    assert reason.startswith(f"a new certificate cannot outlive its CA, which ends on {end:%Y-%m-%d}")
    made = "--generate" if end > now else "--reuse-key"
    assert reason.endswith("create a CA on a node that has its key, and stage the certificate here: "
                           "certmond root-ca stage CERT, then: certmond root-ca rotate")  # fmt: skip
    keyed = replace(authority(ca), key_path="/ca.key", key=ca.facts.key)
    (reason,) = found(see(row(), leaf(NOW + 10 * DAY, ca)), ca=keyed, now=now).barred.values()
    assert reason.endswith(f"rotate it: certmond root-ca stage {made}, then: certmond root-ca rotate")


def test_a_self_signed_certificate_is_kept_by_its_service() -> None:
    """A start creates it again only after an operator has removed it, so no restart is planned."""
    own = make_ca("own", key=KEY, not_before=NOW - 355 * DAY, not_after=NOW + 10 * DAY)
    seen = see(row(ca=["ca", "self"], usages=[]), own)
    assert found(seen).planned == {}
    reason = renewal_obstacle(status_of(seen), {}, POLICY)
    assert reason == (
        "the certificate is self-signed, so no CA can renew it; "
        "remove the certificate and its key, and restart the service"
    )


# --- the hold of a due certificate ------------------------------------------------------------------------------------


def test_without_restarts_the_hold_has_the_command() -> None:
    """It names the service that runs on this node."""
    fact = "certmond does not renew this certificate; it is renewed by k3s, at a start"
    assert renewal_obstacle(status_of(DUE), {}, POLICY) == f"{fact}: certmond restart k3s"
    agent = status_of(DUE, services=(service("k3s-agent"),))
    assert renewal_obstacle(agent, {}, POLICY) == f"{fact}: certmond restart k3s-agent"
    nowhere = status_of(DUE, services=())
    assert renewal_obstacle(nowhere, {}, POLICY) == fact


def test_the_hold_names_the_restart() -> None:
    """The hold has the planned restart, the reason for which the restart waits, or its time."""
    before = Held("leaf", "/leaf.crt", "as before")
    other = Held("other", "/other.crt", "another reason")
    step = restart(made(DUE))
    said = "k3s issues this certificate again when it starts"
    assert list(with_restart_times([before, other], found(DUE), [step])) == [
        Held("leaf", "/leaf.crt", f"{said}; the plan contains this restart"), other
    ]  # fmt: skip
    waits = Held("k3s", "/leaf.crt", "an upgrade", NOW + DAY)
    assert list(with_restart_times([before], found(DUE), [waits])) == [
        Held("leaf", "/leaf.crt", f"{said}; the restart is held: an upgrade", NOW + DAY)
    ]
    assert list(with_restart_times([before], found(DUE), [])) == [before]
    early = see(row(renew_before="100d"), leaf(NOW + 95 * DAY))
    at = NOW + 5 * DAY
    assert list(with_restart_times([before], found(early), [])) == [
        Held("leaf", "/leaf.crt", f"{said}; certmond restarts k3s on {at:%Y-%m-%d %H:%M} UTC", at)
    ]
    ca = make_ca(not_before=NOW - YEAR, not_after=NOW + 5 * DAY)
    barred = found(see(row(), leaf(NOW + 10 * DAY, ca)), ca=authority(ca))
    (only,) = with_restart_times([before], barred, [])
    assert only.because.startswith("a new certificate cannot outlive its CA")


# --- the restart ------------------------------------------------------------------------------------------------------


def test_the_restart_has_the_ends_that_the_new_certificates_must_exceed() -> None:
    """The step has the running instance, and names the certificates and the first end."""
    step = restart(made(EXPIRED, DUE, LATER))
    assert (step.target, step.cause, step.instance) == ("k3s", Cause.RENEWED_AT_START, "k3s-1")
    assert [(target.name, target.ends_at) for target in step.targets] == [
        ("old", NOW - DAY), ("leaf", NOW + 10 * DAY)
    ]  # fmt: skip
    assert step.targets[1] == Target("leaf", "/leaf.crt", CONTENTS, NOW + 10 * DAY)
    ends = f"{NOW - DAY:%Y-%m-%d %H:%M}"
    assert step.detail == (
        f"k3s issues old, leaf again when it starts; the first of these certificates ends on {ends} UTC"
    )


def test_a_requested_restart_renews_what_is_due() -> None:
    """The command proves the renewal, too."""
    step = restart(made(DUE, asked=frozenset({"k3s"})))
    assert step.cause is Cause.ASKED
    assert [target.ends_at for target in step.targets] == [NOW + 10 * DAY]
    assert restart(made(LATER, asked=frozenset({"k3s"}))).targets == ()


def test_without_an_observation_no_service_is_restarted() -> None:
    """certmond restarts only a service that it has seen running."""
    assert made(DUE, known=around(DUE, live=None)).steps == ()
    stopped = held(made(DUE, known=around(DUE, live=Live(NOW, {"k3s": ServiceSeen(False)}))))
    assert stopped.because == "k3s does not run; start k3s, so that it issues leaf again"
    unknown = held(made(DUE, known=around(DUE, live=Live(NOW, {"k3s": ServiceSeen(None, problem="no bus")}))))
    assert unknown.because == "certmond cannot observe k3s: no bus"
    assert held(made(DUE, known=around(DUE, live=Live(NOW)))).because.endswith("its state is unknown")


def test_a_command_restarts_a_service_that_cannot_be_observed() -> None:
    """A service of kind command without a PID file has no known state."""
    spec = service(kind="command", unit=None, command=("/bin/k3s-restart",))
    assert restart(made(DUE, known=around(DUE, services=(spec,), live=Live(NOW)))).target == "k3s"
    observed = replace(spec, pid_file="/run/k3s.pid")
    why = held(made(DUE, known=around(DUE, services=(observed,), live=Live(NOW)))).because
    assert why == "certmond cannot observe k3s: its state is unknown"


def test_a_file_that_the_start_replaces_is_no_obstacle() -> None:
    """An expired certificate, or one whose key does not match, is issued again. Another broken file is an obstacle."""
    other_key = replace(DUE, key=STRANGE)
    assert restart(made(EXPIRED)).targets[0].name == "old"
    assert restart(made(other_key)).targets[0].name == "leaf"
    broken = see(row("other", renewed_at_start=None), leaf(NOW + 100 * DAY), key=STRANGE)
    assert held(made(DUE, broken)).because.startswith("the service would not start again: ")


def test_a_changed_trust_anchor_holds_the_restart() -> None:
    """The service would read an anchor that other nodes do not trust yet."""
    fields = {"name": "ca", "path": "/ca.crt", "authority": True, "usages": "cert sign", "key_optional": True}
    spec = validated(CertificateSpec, fields | {"consumers": "k3s"})
    changed = Observation("ca", spec, "/ca.crt", (ROOT.facts,))
    known = around(DUE, contents={"/ca.crt": Content("new", NOW - HOUR), "/leaf.crt": Content("l", NOW - 300 * DAY)})
    assessment = look(known, DUE, ca=changed)
    plan = restarts(
        assessment, known, (), Terms(), holds=RestartHolds(), renewals=start_renewals(assessment, POLICY)
    )  # fmt: skip
    assert held(plan).because.startswith("ca changed, and all nodes must trust the new version first")
    rotating = RestartHolds(rotating=frozenset({"ca"}))
    plan = restarts(assessment, known, (), Terms(), holds=rotating, renewals=start_renewals(assessment, POLICY))
    assert [(each.name, each.ends_at) for each in restart(plan).targets] == [("leaf", NOW + 10 * DAY), ("ca", None)]


def test_a_derived_file_that_could_not_be_written_holds_the_restart() -> None:
    """The service may read this file at its start."""
    holds = RestartHolds(unmade={"leaf": "no space"})
    assert held(made(DUE, holds=holds)).because == (
        "certmond could not write a file that the service might read: no space"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "holds", "because", "until"),
    [
        (DUE, RestartHolds("an upgrade"), "an upgrade", NOW + 3 * DAY),
        (DUE, RestartHolds(clock="the clock"), "the clock", NOW + 3 * DAY),
        (EXPIRED, RestartHolds("an upgrade"), None, None),
        (EXPIRED, RestartHolds(clock="the clock"), "the clock", None),
    ],
)
def test_an_expired_certificate_does_not_wait_for_an_upgrade(
    seen: Observation, holds: RestartHolds, because: str | None, until: datetime | None
) -> None:
    """A wrong clock holds the restart, because the service would issue certificates with wrong dates."""
    plan = made(seen, holds=holds)
    if because is None:
        assert restart(plan).target == "k3s"
        return
    assert (held(plan).because, held(plan).until) == (because, until)
    if until:
        assert plan.changes_at == until
        assert restart(made(seen, holds=holds, now=until)).target == "k3s"


def test_one_expired_certificate_ends_the_hold_of_the_others() -> None:
    """One restart renews both, and a service has one restart only."""
    assert restart(made(DUE, EXPIRED, holds=RestartHolds("an upgrade"))).target == "k3s"
    both = RestartHolds("an upgrade", clock="the clock")
    assert held(made(DUE, EXPIRED, holds=both)) == Held("k3s", "/leaf.crt", "the clock", None)


# --- after a restart --------------------------------------------------------------------------------------------------


def ended(result: Result, at: datetime = NOW - HOUR, **fields: Any) -> Surroundings:
    past = Past("k3s", None, at, result, "it did not issue leaf again", ("leaf",), "k3s-1", CONTENTS)
    return around(DUE, past={"k3s": replace(past, **fields)})


def test_a_restart_without_effect_is_not_repeated() -> None:
    """The hold names the certificates, and the command. Other files, or a later due time, end this hold."""
    remedy = "read the log of the service, then run: certmond restart k3s"
    for result in (Result.FAILED, Result.UNPROVEN, Result.TAKEN_BACK):
        assert held(made(DUE, known=ended(result))).because == f"it did not issue leaf again; {remedy}"
    proven = held(made(DUE, known=ended(Result.PROVEN)))
    assert proven.because == f"a restart of k3s did not renew leaf; {remedy}"
    assert restart(made(DUE, known=ended(Result.FAILED, contents={}))).target == "k3s"
    assert restart(made(DUE, known=ended(Result.PROVEN, NOW - 300 * DAY))).target == "k3s"
    assert restart(made(DUE, known=ended(Result.REFUSED))).target == "k3s"


def test_two_restarts_have_a_minimum_distance() -> None:
    """This also applies after a restart that certmond could not begin."""
    plan = made(DUE, known=ended(Result.REFUSED, NOW - timedelta(minutes=1)))
    assert held(plan).until == plan.changes_at == NOW + timedelta(minutes=9)


@pytest.mark.long
@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(min_value=-5, max_value=400 * 24), min_size=1, max_size=4),
    st.sampled_from(["1d", "20d", "90d", "365d"]),
)
def test_no_certificate_ends_while_its_service_restarts_in_time(hours: list[int], within: str) -> None:
    """A daemon that follows the plan for two years restarts at least once a year for each due time, never ahead of
    `renewed_at_start`, and no certificate expires unless it had expired at the start.
    """
    seen = [see(row(f"leaf-{i}", renewed_at_start=within), leaf(NOW + each * HOUR)) for i, each in enumerate(hours)]
    now, count, past = NOW, 0, dict[str, Past]()
    while now < NOW + 2 * YEAR:
        contents = {path: Content(f"{each.certificates[0].not_after}", NOW - 300 * DAY)
                    for each in seen for path in (each.path, str(each.key_path))}  # fmt: skip
        known = around(contents=contents, live=Live(now, {"k3s": RUNS}), past=past)
        assert now == NOW or all(each.certificates[0].not_after >= now for each in seen)
        plan = made(*seen, known=known, now=now)
        if plan.steps:
            names = {target.name for target in restart(plan).targets}
            assert all(each.certificates[0].not_after - now <= (each.spec.renewed_at_start or YEAR) + DAY
                       for each in seen if each.name in names)  # fmt: skip
            seen = [see(each.spec, leaf(now + YEAR)) if each.name in names else each for each in seen]
            wanted = {path: f"{each.certificates[0].not_after}" for each in seen for path in (each.path,)}
            past = {"k3s": Past("k3s", None, now, Result.PROVEN, "", tuple(names), "k3s-1", wanted)}
            count += 1
        elif plan.changes_at is None:
            break
        else:
            now = plan.changes_at
    assert 1 <= count <= 3 * len(hours)


# --- the forecast -----------------------------------------------------------------------------------------------------


def foreseen(*seen: Observation, ca: Observation = CA, policy: Policy = POLICY, years: int = 3) -> list[ForecastEvent]:
    return [*forecast(look(around(*seen), *seen, ca=ca), policy, NOW + years * YEAR).events]


def test_the_forecast_has_each_restart_and_the_new_ends() -> None:
    """The entry names the validity, so the next restart is known, too. Nothing is due or expires."""
    seen = see(row(validity="365d"), leaf(NOW + 100 * DAY))
    events = foreseen(seen)
    assert [(event.what, event.target) for event in events] == [
        (What.RENEW, "leaf"), (What.RESTART, "k3s")
    ] * 4  # fmt: skip
    assert not any(event.bad for event in events)
    first = NOW + 70 * DAY
    assert all(abs(event.at - first - i // 2 * 335 * DAY) < SECOND for i, event in enumerate(events))
    assert (
        events[0].detail
        == f"k3s issues the certificate again at its start; valid until {first + YEAR:%Y-%m-%d %H:%M} UTC"
    )
    assert events[1].detail == "issues leaf again"


def test_without_a_validity_the_forecast_ends_with_the_restart() -> None:
    """certmond does not guess the end of a certificate that another program issues."""
    events = foreseen(DUE, LATER)
    assert [(event.what, event.target) for event in events] == [
        (What.RENEW, "leaf"), (What.RESTART, "k3s"), (What.RENEW, "later"), (What.RESTART, "k3s")
    ]  # fmt: skip
    assert events[0].at == NOW
    assert events[0].detail == (
        "k3s issues the certificate again at its start; the end is unknown without `validity` in the entry"
    )
    off = foreseen(DUE, policy=replace(POLICY, restarts_for_renewal=False))
    assert [event.what for event in off] == [What.DUE, What.EXPIRE]


def test_the_forecast_has_a_ca_that_bars_the_restart() -> None:
    """The hold and the end of the certificate are events that an operator can prevent."""
    ca = make_ca(not_before=NOW - YEAR, not_after=NOW + 20 * DAY)
    events = foreseen(see(row(), leaf(NOW + 40 * DAY, ca)), ca=authority(ca))
    mine = [event for event in events if event.target == "leaf"]
    assert [(event.what, event.bad) for event in mine] == [(What.HOLD, True), (What.EXPIRE, True)]
    assert all("cannot outlive its CA" in event.detail for event in mine)


def test_the_next_event_is_the_restart() -> None:
    """It has the certificate that the restart renews first."""
    at = start_renewal_time(status_of(LATER), POLICY, "node-1")
    assert at
    assert next_event(look(around(LATER), LATER), POLICY) == NextEvent(at, "later", What.RENEW)
    assert next_event(look(around(DUE), DUE, LATER), POLICY) == NextEvent(NOW, "leaf", What.RENEW)
    early = see(row(renew_before="100d"), leaf(NOW + 95 * DAY))
    assert next_event(look(around(early), early), POLICY) == NextEvent(NOW + 5 * DAY, "leaf", What.RENEW)
