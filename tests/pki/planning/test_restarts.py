"""Which services are restarted, in which order, and what speaks against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.endpoint import Endpoint, Served
from certmond.pki.catalog.entries import CertificateSpec, ServiceSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.findings import Fault, Reason
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.restarts import RestartHolds, restart_order, restarts
from certmond.pki.planning.steps import Cause, Held, Plan, Restart, Step
from certmond.pki.services.model import Content, Live, ServiceSeen, Survey, Use
from certmond.pki.services.restart_episode import Past, Result, Target, Terms
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
    return CertificateSpec.model_validate(pair | fields)


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


def test_what_holds_an_older_certificate_is_restarted() -> None:
    """With the instance that has to end, the contents that it is for, and why."""
    step = restart(made(LEAF))
    assert (step.target, step.path, step.instance, step.cause) == (
        "web", "/leaf.crt", "web-1", Cause.RESTART_PENDING
    )  # fmt: skip
    assert step.targets == (Target("leaf", "/leaf.crt", CONTENTS),)
    assert step.detail.startswith("web has run since ")


def test_what_holds_nothing_old_is_left_alone() -> None:
    """And so is everything where nobody has looked."""
    known = around(LEAF)
    fresh = replace(known, live=Live(NOW, {"web": ServiceSeen(True, "2", NOW)}))
    assert made(LEAF, known=fresh) == made(LEAF, known=replace(known, live=None)) == Plan()


def test_one_restart_is_for_all_that_is_old() -> None:
    """Once, with every certificate for whose sake it is."""
    other = see(row("other"), GOOD)
    step = restart(made(LEAF, other))
    assert [target.name for target in step.targets] == ["leaf", "other"]
    assert step.detail.count("web has run since") == 2


def test_what_serves_another_certificate_is_restarted_once_it_had_its_time() -> None:
    """Until then the plan says when it may be another."""
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
    assert (step.cause, step.detail) == (Cause.RENEWED, "leaf is renewed before, and the service does not reload it")
    assert step.targets == (Target("leaf", "/leaf.crt", {}),)
    unknown = made(leaf, known=replace(known, live=None), before=steps)
    assert restart(unknown).instance == ""


def test_what_is_asked_for_is_restarted_whatever_speaks_against_it() -> None:
    """Nothing else is."""
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


@given(st.permutations("abcdefg"), st.data())
def test_any_order_that_can_be_is_kept(names: list[str], data: st.DataObject) -> None:
    """Each service once; each behind all that it is after, those that are not there left out."""
    services = [
        service(name, *data.draw(st.sets(st.sampled_from([*names[:number], "gone"]))))
        for number, name in enumerate(names)
    ]
    shuffled = data.draw(st.permutations(services))
    ordered = [each.name for each in restart_order(shuffled)]
    assert sorted(ordered) == sorted(names)
    for each in services:
        assert all(ordered.index(before) < ordered.index(each.name) for before in each.after if before in names)


# --- what speaks against it -------------------------------------------------------------------------------------------


def test_a_ca_is_rotated_and_not_brought_into_use_on_one_node() -> None:
    """Others have to know it first; so it is with the keys of service-account tokens."""
    pair = see(row("sa", kind="key-pair", ca=[]), key=GOOD.facts.key, public_key=GOOD.facts.key)
    for seen, name in ((CA, "ca"), (pair, "sa")):
        known = around(seen)
        of = restarts(assess(Inventory((seen,), {}), NOW, around=known), known, (), TERMS, holds=RestartHolds())
        assert held(of).because.startswith(f"{name} changed, which all nodes must trust first")


def test_an_anchor_that_changes_as_it_should_is_brought_into_use() -> None:
    """In a rotation it is known when all nodes have heard of it; and of this anchor only, another one is still held."""
    rotating = RestartHolds(rotating=frozenset({"ca"}))
    known = around(CA)
    found = restarts(assess(Inventory((CA,)), NOW, around=known), known, (), TERMS, holds=rotating)
    assert restart(found).targets[0].name == "ca"
    other = see(row("etcd-ca", ca=[], authority=True, usages="cert sign"), ROOT)
    known = around(CA, other)
    found = restarts(assess(Inventory((CA, other)), NOW, around=known), known, (), TERMS, holds=rotating)
    assert held(found).because.startswith("etcd-ca changed, which all nodes must trust first")


def test_a_pair_of_keys_is_brought_into_use_in_its_own_rotation_if_it_fits() -> None:
    """It has no certificate to be good, but a public half that has to belong to it."""
    rotating = RestartHolds(rotating=frozenset({"sa"}))
    good = see(row("sa", kind="key-pair", ca=[]), key=GOOD.facts.key, public_key=GOOD.facts.key)
    torn = replace(good, public_key=make_leaf(ROOT).facts.key)
    for pair, because in ((good, ""), (torn, "would restart with an unusable file: /sa.crt is not the public key of")):
        known = around(pair)
        found = restarts(assess(Inventory((pair,)), NOW, around=known), known, (), TERMS, holds=rotating)
        assert [step.target for step in found.steps] == ([] if because else ["web"])
        assert all(each.because.startswith(because) for each in found.held)
        assert bool(found.held) == bool(because)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (see(row(), GOOD, key=make_leaf(ROOT).facts.key), "the key of /leaf.crt does not match"),
        (see(row(), make_leaf(make_ca(), "leaf")), "/leaf.crt has no valid certification path"),
        (see(row(usages="server auth"), GOOD), "/leaf.crt"),
    ],
)
def test_it_is_not_restarted_on_what_is_not_good(seen: Observation, said: str) -> None:
    """It lives on with what it has."""
    because = held(made(seen)).because
    assert because.startswith("would restart with an unusable file: ")
    assert said in because


def test_a_broken_file_is_not_restarted_on_either() -> None:
    """A key pair in memory whose certificate has gone bad: what was seen then still says that it holds an older one."""
    known = around(LEAF)
    before = judge(known, LEAF)
    (status,) = [each for each in before.statuses if each.seen is LEAF]
    bad = replace(before, statuses=(replace(status, stale=True),))
    of = restarts(bad, known, (), TERMS, holds=RestartHolds())
    assert held(of).because == "would restart with an unusable file: /leaf.crt contains no certificate"


def test_one_bad_file_that_it_needs_is_enough() -> None:
    """It was not for its sake; but without it, it would not come up again: also while a pair that does not match may be
    half written. A CA's key it does not need.
    """
    junk = see(row("junk"), faults=(Fault(Reason.MALFORMED, "/junk.crt is junk"),))
    assert held(made(LEAF, junk)).because.startswith("would not start again: /junk.crt is junk")
    written = see(row("other"), GOOD, key=make_leaf(ROOT).facts.key, changed_at=NOW)
    of = made(LEAF, written, known=around(LEAF, written, contents=around(LEAF).contents))
    assert held(of).because == "would not start again: the key of /other.crt does not match"
    foreign = replace(CA, key=GOOD.facts.key)
    known = around(LEAF, foreign, contents=around(LEAF).contents)
    seen = assess(Inventory((foreign, LEAF), {}), NOW, around=known)
    assert restart(restarts(seen, known, (), TERMS, holds=RestartHolds())).target == "web"
    unused = around(LEAF)
    assert restart(restarts(judge(unused, LEAF, junk), unused, (), TERMS, holds=RestartHolds())).target == "web"


def test_a_file_that_is_made_from_it_comes_first() -> None:
    """What could not be made, the service would read as it was."""
    of = made(LEAF, holds=RestartHolds(unmade={"leaf": "its owner is gone"}))
    assert held(of).because == "certmond could not write a file that it may read: its owner is gone"
    assert restart(made(LEAF, holds=RestartHolds(unmade={"other": "x"}))).target == "web"


def test_while_the_host_says_so_it_waits_unless_that_is_critical() -> None:
    """An upgrade restarts things itself; but it is not waited for until the end has come."""
    hold = RestartHolds("an upgrade is under way")
    assert held(made(LEAF, holds=hold)).because == "an upgrade is under way"
    serving = Survey({"web": {"/leaf.crt": Use(False, "--x")}}, {AT: ("web", "/leaf.crt")})
    now = Live(NOW, {"web": ServiceSeen(True, "1", NOW - DAY)}, {AT: Served(OLD.der, "TLSv1.3", NOW)})
    assert restart(made(LEAF, known=around(LEAF, survey=serving, live=now), holds=hold)).target == "web"


# --- what was tried before --------------------------------------------------------------------------------------------


def tried(result: Result, ago: timedelta = DAY, contents: Mapping[str, str] = CONTENTS, instance: str = "0") -> Plan:
    past = Past("web", None, NOW - ago, result, "it was so", ("leaf",), instance, contents)
    return made(LEAF, known=around(LEAF, past={"web": past}))


@pytest.mark.parametrize("result", Result)
def test_what_has_ended_is_not_begun_again_for_the_same_contents(result: Result) -> None:
    """Whatever came of it, unless nothing was done. Another content is another try."""
    if result in {Result.REFUSED, Result.SEEN, Result.SUPERSEDED}:
        assert restart(tried(result)).target == "web"
    else:
        because = held(tried(result)).because
        assert "certmond restart web" in because
        assert because.startswith(
            "was restarted for the same files" if result is Result.PROVEN else "it was so; install another"
        )
    assert restart(tried(result, contents={**CONTENTS, "/leaf.crt": "former"})).target == "web"


def test_it_is_not_restarted_twice_in_a_short_time() -> None:
    """Each further stop of a pod costs more of the kubelet's back-off. The plan says until when."""
    for result in (Result.PROVEN, Result.REFUSED):
        of = tried(result, TERMS.spacing - TICK, {"/leaf.crt": "former", "/leaf.key": "former"})
        assert held(of).because == "the last restart was at 2026-11-24 11:50 UTC: it was so"
        assert held(of).until == of.changes_at == NOW + TICK
        assert restart(tried(result, TERMS.spacing, {"/leaf.crt": "former"})).target == "web"
    assert restart(tried(Result.SEEN, TICK, {})).target == "web"
    assert held(tried(Result.PROVEN, -TICK, {"/leaf.crt": "former"})).until  # a look begins before that ends
    assert restart(tried(Result.PROVEN, -TERMS.spacing, {"/leaf.crt": "former"})).target == "web"  # another clock


def test_who_changes_files_on_and_on_restarts_nothing_on_and_on() -> None:
    """What was superseded is made at once for the files that came then, and not for those that come again soon."""
    for again in (False, True):
        past = Past("web", None, NOW - TICK, Result.SUPERSEDED, "it was so", ("leaf",), "1", {}, again)
        of = made(LEAF, known=around(LEAF, past={"web": past}))
        if again:
            assert held(of).because.startswith("the last restart was at ")
            assert held(of).until == NOW - TICK + TERMS.spacing
        else:
            assert restart(of).target == "web"


def test_what_was_asked_for_and_failed_stands_in_the_way_of_nothing() -> None:
    """It was for no certificate, so that another one would never end it."""
    assert restart(tried(Result.FAILED, contents={})).target == "web"


def test_of_a_file_without_a_known_content_it_is_not_said_that_it_was_tried() -> None:
    """What is served is another certificate nevertheless."""
    past = Past("web", None, NOW - DAY, Result.PROVEN, "it was so", ("leaf",), "1", CONTENTS)
    serving = Survey({"web": {"/leaf.crt": Use(False, "--x")}}, {AT: ("web", "/leaf.crt")})
    now = Live(NOW, {"web": ServiceSeen(True, "1", NOW - DAY)}, {AT: Served(OLD.der, "TLSv1.3", NOW)})
    known = around(LEAF, survey=serving, live=now, past={"web": past})
    assert held(made(LEAF, known=known)).because.startswith("was restarted for the same files")
