"""The services that are restarted, their order, and the obstacles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.component_certificate_flags import ReferenceSpec
from certmond.pki.catalog.endpoint import Endpoint, Served
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Fault, Reason
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.restarts import RestartHolds, restart_order, restarts
from certmond.pki.planning.steps import Cause, Derive, Held, Plan, Restart, Step
from certmond.pki.services.restart_episode import Past, Result, Target, Terms
from certmond.pki.services.service_observation import Content, Live, ServiceSeen, Survey, Use
from certmond.pki.services.staleness import Surroundings
from tests.builders import DAY, HOUR, NOW, YEAR, Issued, make_ca, make_leaf, new_key

TICK = timedelta(microseconds=1)
ROOT = make_ca(not_before=NOW - YEAR)
KEY = new_key()
GOOD = make_leaf(ROOT, "leaf", key=KEY, not_before=NOW - DAY, not_after=NOW + 300 * DAY)
OLD = make_leaf(ROOT, "leaf", key=KEY, not_before=NOW - 364 * DAY, not_after=NOW + DAY)
CHANGED = NOW - HOUR
TERMS = Terms()
AT = Endpoint.parse("127.0.0.1:1")


def row(name: str = "leaf", **fields: Any) -> CertificateSpec:
    pair = {"name": name, "path": f"/{name}.crt", "key": f"/{name}.key", "ca": "ca", "usages": "client auth"}
    return validated(CertificateSpec, pair | fields)


def see(spec: CertificateSpec, *issued: Issued, **fields: Any) -> Observation:
    key = issued[0].facts.key if issued else None
    found = {"key": key, "key_path": spec.key} | fields
    return Observation(spec.name, spec, spec.path, tuple(each.facts for each in issued), **found)


CA = see(row("ca", ca=[], authority=True, usages="cert sign"), ROOT)
LEAF = see(row(), GOOD)


def service(name: str, *after: str) -> ServiceSpec:
    return ServiceSpec(name=name, kind="systemd", unit=f"{name}.service", after=after)


def around(*seen: Observation, services: tuple[ServiceSpec, ...] = (), **fields: Any) -> Surroundings:
    """Every file has changed an hour ago, and each service runs since yesterday and reads every file once."""
    services = services or (service("web"),)
    paths = [path for each in seen for path in (each.path, each.key_path) if path]
    survey = Survey({each.name: {path: Use(False, "--x") for path in paths} for each in services})
    now = Live(NOW, {each.name: ServiceSeen(True, f"{each.name}-1", NOW - DAY) for each in services})
    contents = {path: Content(f"sha of {path}", CHANGED) for path in paths}
    known: dict[str, Any] = {"services": services, "survey": survey, "live": now, "contents": contents}
    return Surroundings(**known | fields)


def judge(known: Surroundings, *seen: Observation, now: datetime = NOW) -> Assessment:
    return assess(Inventory((CA, *seen), {}), now, around=known)


def made(
    *seen: Observation,
    known: Surroundings | None = None,
    before: tuple[Step, ...] = (),
    holds: RestartHolds | None = None,
    asked: frozenset[str] | None = None,
    terms: Terms = TERMS,
) -> Plan:
    known = known or around(*seen)
    return restarts(judge(known, *seen), known, before, terms, holds=holds or RestartHolds(), asked=asked)


def restart(of: Plan) -> Restart:
    (step,) = of.steps
    assert isinstance(step, Restart)
    assert of.held == ()
    return step


def held(of: Plan) -> Held:
    assert of.steps == ()
    (only,) = of.held
    return only


CONTENTS = {"/leaf.crt": "sha of /leaf.crt", "/leaf.key": "sha of /leaf.key"}


# --- what is restarted ------------------------------------------------------------------------------------------------


def test_a_service_with_an_older_certificate_is_restarted() -> None:
    """The step has the instance that must end, the contents of the files, and the reason."""
    step = restart(made(LEAF))
    assert (step.target, step.path, step.instance, step.cause) == (
        "web", "/leaf.crt", "web-1", Cause.RESTART_PENDING
    )  # fmt: skip
    assert step.targets == (Target("leaf", "/leaf.crt", CONTENTS),)
    assert step.detail.startswith("web has run since ")


def test_a_current_service_is_not_restarted() -> None:
    """Without a probe, no service is."""
    known = around(LEAF)
    fresh = replace(known, live=Live(NOW, {"web": ServiceSeen(True, "2", NOW)}))
    assert made(LEAF, known=fresh) == made(LEAF, known=replace(known, live=None)) == Plan()


def test_a_file_that_only_a_flag_names_causes_no_restart() -> None:
    """The finding leaves the restart to the operator, also beside the restart for an entry of the catalogue."""
    fields = vars(row("kube-apiserver.oidc-ca-file")) | {"ca": (), "named_by": "--oidc-ca-file in /m.yaml"}
    named = see(ReferenceSpec(**fields), GOOD)
    assert [status.presence.stale != () for status in judge(around(named), named).statuses] == [False, True]
    assert made(named) == Plan()
    assert [target.name for target in restart(made(LEAF, named)).targets] == ["leaf"]


def test_one_restart_covers_all_old_certificates() -> None:
    """The service restarts once, with the list of its certificates."""
    other = see(row("other"), GOOD)
    step = restart(made(LEAF, other))
    assert [target.name for target in step.targets] == ["leaf", "other"]
    assert step.detail.count("web has run since") == 2


def test_a_service_that_serves_another_certificate_is_restarted_after_its_time() -> None:
    """Until then the plan has the instant of the next change."""
    serving = Survey({"web": {"/leaf.crt": Use(True, "--x")}}, {AT: ("web", "/leaf.crt")})
    for since, steps in ((NOW - 90 * TICK * 10**6, 1), (NOW - 89 * TICK * 10**6, 0)):
        now = Live(NOW, {"web": ServiceSeen(True, "1", NOW - DAY)}, {AT: Served(OLD.der, "TLSv1.3", NOW)})
        known = around(LEAF, survey=serving, live=now, contents={"/leaf.crt": Content("x", since)})
        of = made(LEAF, known=known)
        assert [step.cause for step in of.steps if isinstance(step, Restart)] == [Cause.SERVED_DIFFERS] * steps
        assert of.changes_at == (None if steps else since + known.reload_within)


def test_what_is_renewed_now_is_followed_by_its_restarts() -> None:
    """They are planned with it, though nothing is old yet."""
    leaf = see(row(consumers="web"), OLD)
    known = around(leaf, live=Live(NOW, {"web": ServiceSeen(True, "1", NOW)}))
    policy = Policy(services=known.services)
    steps = plan(judge(known, leaf), policy, {}, Circumstances()).steps
    step = restart(made(leaf, known=known, before=steps))
    assert (step.cause, step.detail) == (
        Cause.RENEWED,
        "certmond replaces leaf first, and the service does not reload new certificates",
    )
    assert step.targets == (Target("leaf", "/leaf.crt", {}),)
    unknown = made(leaf, known=replace(known, live=None), before=steps)
    assert restart(unknown).instance == ""


def test_a_derived_file_that_is_written_now_is_followed_by_its_restarts() -> None:
    """A service that reads a derived file only at its start restarts after certmond has written the file."""
    leaf = see(row(consumers="web"), OLD)
    known = around(leaf, live=Live(NOW, {"web": ServiceSeen(True, "1", NOW)}))
    written = Derive("bundle", "/bundle.pem", "leaf", Cause.SOURCE_CHANGED, "leaf is renewed", ("web",))
    of = made(leaf, known=known, before=(written,))
    assert restart(of).cause is Cause.RENEWED
    assert restart(of).targets == (Target("bundle", "/bundle.pem", {}),)
    assert Plan((written, *of.steps)).restartable.steps == (written,)


def test_a_restart_does_not_wait_for_a_step_that_does_not_list_its_service() -> None:
    """This restart remains in the plan. A step that writes a file remains, even if its target has the name of a service
    that waits.
    """
    written = Derive("web", "/bundle.pem", "leaf", Cause.SOURCE_CHANGED, "leaf is renewed", ("web",))
    other = Restart(service("other"), (), Cause.RESTART_PENDING, "other has an older certificate")
    assert Plan((written, other)).restartable.steps == (written, other)


def test_a_requested_restart_ignores_every_obstacle() -> None:
    """No other service restarts."""
    past = {"web": Past("web", None, NOW, Result.FAILED, "it broke", ("leaf",), "web-1", CONTENTS)}
    known = around(LEAF, services=(service("web"), service("db")), past=past)
    of = made(LEAF, known=known, asked=frozenset({"web"}), holds=RestartHolds("an upgrade"))
    assert [(step.target, step.cause) for step in of.steps] == [("web", Cause.ASKED)]
    assert of.held == ()
    fresh = replace(known, live=Live(NOW, {"web": ServiceSeen(True, "2", NOW)}), past={})
    asked = restart(made(LEAF, known=fresh, asked=frozenset({"web"})))
    assert (asked.targets, asked.path, asked.detail, asked.instance) == ((), "", "is requested", "2")


# --- in which order ---------------------------------------------------------------------------------------------------


def test_services_come_behind_what_they_are_after() -> None:
    """Otherwise as the configuration has them."""
    services = (service("kubelet", "scheduler"), service("scheduler", "api"), service("api", "etcd"), service("etcd"))
    of = made(LEAF, known=around(LEAF, services=services))
    assert [step.target for step in of.steps] == ["etcd", "api", "scheduler", "kubelet"]


@pytest.mark.long
@given(st.permutations("abcdefg"), st.data())
def test_any_possible_order_is_kept(names: list[str], data: st.DataObject) -> None:
    """Each service restarts once, behind all services in its `after` that exist."""
    services = [
        service(name, *data.draw(st.sets(st.sampled_from([*names[:number], "gone"]))))
        for number, name in enumerate(names)
    ]
    shuffled = data.draw(st.permutations(services))
    ordered = [each.name for each in restart_order(shuffled)]
    assert sorted(ordered) == sorted(names)
    for each in services:
        assert all(ordered.index(before) < ordered.index(each.name) for before in each.after if before in names)


# --- obstacles --------------------------------------------------------------------------------------------------------


def test_a_ca_is_rotated_and_not_activated_on_one_node() -> None:
    """Other nodes must trust it first. The same holds for the keys of service-account tokens."""
    pair = see(row("sa", kind="key-pair", ca=[]), key=GOOD.facts.key, public_key=GOOD.facts.key)
    for seen, name in ((CA, "ca"), (pair, "sa")):
        known = around(seen)
        of = restarts(assess(Inventory((seen,), {}), NOW, around=known), known, (), TERMS, holds=RestartHolds())
        assert held(of).because.startswith(f"{name} changed, and all nodes must trust the new version first")


def test_a_ca_without_a_rotation_is_activated_by_the_operator() -> None:
    """certmond cannot rotate such a CA, so the hold has the command that restarts the service after the change."""
    other = see(row("etcd-unit-ca", ca=[], authority=True, usages="cert sign"), ROOT)
    for seen, remedy in ((CA, "start a rotation instead of a restart"), (other, "certmond restart web")):
        known = around(seen)
        found = restarts(assess(Inventory((seen,)), NOW, around=known), known, (), TERMS, holds=RestartHolds())
        assert held(found).because.endswith(remedy)


def test_an_anchor_of_a_rotation_is_activated() -> None:
    """In a rotation all nodes have read it. Another anchor is still held."""
    rotating = RestartHolds(rotating=frozenset({"ca"}))
    known = around(CA)
    found = restarts(assess(Inventory((CA,)), NOW, around=known), known, (), TERMS, holds=rotating)
    assert restart(found).targets[0].name == "ca"
    other = see(row("etcd-ca", ca=[], authority=True, usages="cert sign"), ROOT)
    known = around(CA, other)
    found = restarts(assess(Inventory((CA, other)), NOW, around=known), known, (), TERMS, holds=rotating)
    assert held(found).because.startswith("etcd-ca changed, and all nodes must trust the new version first")


def test_a_key_pair_is_activated_in_its_rotation_if_it_matches() -> None:
    """It has no certificate to validate, but its public half must match."""
    rotating = RestartHolds(rotating=frozenset({"sa"}))
    good = see(row("sa", kind="key-pair", ca=[]), key=GOOD.facts.key, public_key=GOOD.facts.key)
    torn = replace(good, public_key=make_leaf(ROOT).facts.key)
    for pair, because in (
        (good, ""),
        (torn, "the service would restart with an unusable file: /sa.crt is not the public key of"),
    ):
        known = around(pair)
        found = restarts(assess(Inventory((pair,)), NOW, around=known), known, (), TERMS, holds=rotating)
        assert [step.target for step in found.steps] == ([] if because else ["web"])
        assert all(each.because.startswith(because) for each in found.held)
        assert bool(found.held) == bool(because)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (see(row(), GOOD, key=make_leaf(ROOT).facts.key), "the private key does not match /leaf.crt"),
        (see(row(), make_leaf(make_ca(), "leaf")), "/leaf.crt has no valid certification path"),
        (see(row(usages="server auth"), GOOD), "/leaf.crt"),
    ],
)
def test_a_service_is_not_restarted_with_a_broken_file(seen: Observation, said: str) -> None:
    """It continues with the files in its memory."""
    because = held(made(seen)).because
    assert because.startswith("the service would restart with an unusable file: ")
    assert said in because


def test_a_broken_file_is_not_restarted_on_either() -> None:
    """The pair in memory has a damaged certificate file: the last observation still reports an older one."""
    known = around(LEAF)
    before = judge(known, LEAF)
    (status,) = [each for each in before.statuses if each.seen is LEAF]
    bad = replace(before, statuses=(replace(status, stale=True),))
    of = restarts(bad, known, (), TERMS, holds=RestartHolds())
    assert held(of).because == "the service would restart with an unusable file: /leaf.crt contains no certificate"


def test_one_broken_file_that_it_needs_suffices() -> None:
    """The restart is not for that file, but without it the service would not start. A pair that does not match may be
    incomplete. A CA's key is not needed.
    """
    junk = see(row("junk"), faults=(Fault(Reason.MALFORMED, "/junk.crt is junk"),))
    assert held(made(LEAF, junk)).because.startswith("the service would not start again: /junk.crt is junk")
    written = see(row("other"), GOOD, key=make_leaf(ROOT).facts.key, changed_at=NOW)
    of = made(LEAF, written, known=around(LEAF, written, contents=around(LEAF).contents))
    assert held(of).because == "the service would not start again: the private key does not match /other.crt"
    foreign = replace(CA, key=GOOD.facts.key)
    known = around(LEAF, foreign, contents=around(LEAF).contents)
    seen = assess(Inventory((foreign, LEAF), {}), NOW, around=known)
    assert restart(restarts(seen, known, (), TERMS, holds=RestartHolds())).target == "web"
    unused = around(LEAF)
    assert restart(restarts(judge(unused, LEAF, junk), unused, (), TERMS, holds=RestartHolds())).target == "web"


def test_a_derived_file_comes_first() -> None:
    """If it could not be made, the service would read the old one."""
    of = made(LEAF, holds=RestartHolds(unmade={"leaf": "its owner does not exist"}))
    assert held(of).because == "certmond could not write a file that the service might read: its owner does not exist"
    assert restart(made(LEAF, holds=RestartHolds(unmade={"other": "x"}))).target == "web"


def test_a_hold_delays_a_restart_until_it_is_critical() -> None:
    """An upgrade restarts services itself. The hold does not last beyond the end of the certificate."""
    hold = RestartHolds("an upgrade is under way")
    assert held(made(LEAF, holds=hold)).because == "an upgrade is under way"
    serving = Survey({"web": {"/leaf.crt": Use(False, "--x")}}, {AT: ("web", "/leaf.crt")})
    now = Live(NOW, {"web": ServiceSeen(True, "1", NOW - DAY)}, {AT: Served(OLD.der, "TLSv1.3", NOW)})
    assert restart(made(LEAF, known=around(LEAF, survey=serving, live=now), holds=hold)).target == "web"


# --- earlier attempts -------------------------------------------------------------------------------------------------


def tried(result: Result, ago: timedelta = DAY, contents: Mapping[str, str] = CONTENTS, instance: str = "0") -> Plan:
    past = Past("web", None, NOW - ago, result, "it was so", ("leaf",), instance, contents)
    return made(LEAF, known=around(LEAF, past={"web": past}))


@pytest.mark.parametrize("result", Result)
def test_a_completed_restart_is_not_repeated_for_the_same_contents(result: Result) -> None:
    """The result does not matter, unless nothing was done. Another content is another attempt."""
    if result in {Result.REFUSED, Result.SEEN, Result.SUPERSEDED}:
        assert restart(tried(result)).target == "web"
    else:
        because = held(tried(result)).because
        assert "certmond restart web" in because
        assert because.startswith(
            "a restart for the same files had no effect" if result is Result.PROVEN else "it was so; install another"
        )
    assert restart(tried(result, contents={**CONTENTS, "/leaf.crt": "former"})).target == "web"


def test_it_is_not_restarted_twice_in_a_short_time() -> None:
    """Each further stop of a Pod increases the kubelet's backoff. The plan has the end."""
    for result in (Result.PROVEN, Result.REFUSED):
        of = tried(result, TERMS.spacing - TICK, {"/leaf.crt": "former", "/leaf.key": "former"})
        assert held(of).because == "the last restart was at 2026-11-24 11:50 UTC: it was so"
        assert held(of).until == of.changes_at == NOW + TICK
        assert restart(tried(result, TERMS.spacing, {"/leaf.crt": "former"})).target == "web"
    assert restart(tried(Result.SEEN, TICK, {})).target == "web"
    assert held(tried(Result.PROVEN, -TICK, {"/leaf.crt": "former"})).until  # a scan begins before that ends
    assert restart(tried(Result.PROVEN, -TERMS.spacing, {"/leaf.crt": "former"})).target == "web"  # another clock


def test_repeated_changes_do_not_cause_repeated_restarts() -> None:
    """A superseded restart is made at once for the new files, and not for those that follow soon."""
    for again in (False, True):
        past = Past("web", None, NOW - TICK, Result.SUPERSEDED, "it was so", ("leaf",), "1", {}, again)
        of = made(LEAF, known=around(LEAF, past={"web": past}))
        if again:
            assert held(of).because.startswith("the last restart was at ")
            assert held(of).until == NOW - TICK + TERMS.spacing
        else:
            assert restart(of).target == "web"


def test_a_failed_requested_restart_blocks_nothing() -> None:
    """It was for no certificate, so no other certificate would end the block."""
    assert restart(tried(Result.FAILED, contents={})).target == "web"


def test_a_file_of_unknown_content_has_no_earlier_attempt() -> None:
    """The served certificate still differs."""
    past = Past("web", None, NOW - DAY, Result.PROVEN, "it was so", ("leaf",), "1", CONTENTS)
    serving = Survey({"web": {"/leaf.crt": Use(False, "--x")}}, {AT: ("web", "/leaf.crt")})
    now = Live(NOW, {"web": ServiceSeen(True, "1", NOW - DAY)}, {AT: Served(OLD.der, "TLSv1.3", NOW)})
    known = around(LEAF, survey=serving, live=now, past={"web": past})
    assert held(made(LEAF, known=known)).because.startswith("a restart for the same files had no effect")
