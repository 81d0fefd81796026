"""The assessment as a whole depends on the observation and the time, and on nothing before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.pki.assessment import assess as module
from certmond.pki.assessment.assess import Assessment, CertificateStatus, assess
from certmond.pki.catalog.endpoint import Endpoint, Served
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Embedded, Inventory, Observation, Permissions
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Fault, Reason, Severity, highest_severity
from certmond.pki.services.service_observation import Content, Live, ServiceSeen, Survey, Use
from certmond.pki.services.staleness import Surroundings
from certmond.pki.x509 import path_building as path
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import find_paths
from tests.assessments import status_in
from tests.builders import DAY, NOW, YEAR, Issued, cross_sign, make_ca, make_intermediate, make_leaf, new_key, reissue
from tests.sampling import examples

TICK = timedelta(microseconds=1)
MONTH = 30 * DAY


def row(name: str, **fields: Any) -> CertificateSpec:
    return validated(CertificateSpec, {"name": name, "path": f"/pki/{name}", "ca": "ca"} | fields)


def see(spec: CertificateSpec, *issued: Issued, **fields: Any) -> Observation:
    return Observation(spec.name, spec, spec.path, tuple(each.facts for each in issued), **fields)


AUTHORITY = row("ca", authority=True, ca=[], usages=["cert sign"])
LEAF = row("leaf", subject="CN=${node_name}", usages=["client auth"], key="/pki/leaf.key")
CHAINED = row("chained", names="DNS:${node_name}")
CONF = row("admin.conf", kind="kubeconfig", ca=[], embedded_ca="ca")
KUBELET = row("kubelet-client", kind="kubelet", kubeconfig="/etc/kubelet.conf", renew_before="5d")
SELF_MADE = row("self-made", ca=["self", "ca"])
PAIR = row("sa", kind="key-pair", ca=[], key="/pki/sa.key")

ROOT = make_ca(not_before=NOW - YEAR, not_after=NOW + 2 * YEAR)
RENEWED = reissue(ROOT, not_before=NOW - MONTH, not_after=NOW + 5 * YEAR)
OTHER = make_ca(not_before=NOW + MONTH, not_after=NOW + 3 * YEAR)
MIDDLE = make_intermediate(ROOT, not_after=NOW + 3 * MONTH)
BRIDGE = cross_sign(MIDDLE, by=OTHER, not_before=NOW + MONTH, not_after=NOW + 6 * MONTH)
MINE = make_leaf(ROOT, "worker-1", not_before=NOW - MONTH, not_after=NOW + 4 * MONTH)
OLD = make_leaf(ROOT, "worker-2", not_before=NOW - 5 * MONTH, not_after=NOW - DAY)
NEXT = make_leaf(OTHER, "worker-1", not_before=NOW - MONTH, not_after=NOW + YEAR)
BELOW = make_leaf(MIDDLE, "worker-1", not_after=NOW + 5 * MONTH)

CA_GOOD = see(AUTHORITY, ROOT)
LEAF_GOOD = see(LEAF, MINE, key=MINE.facts.key, key_path="/pki/leaf.key")
LEAF_BAD = see(LEAF, faults=(Fault(Reason.MALFORMED, "/pki/leaf is junk"),))


def inventory(*seen: Observation, facts: Mapping[str, str] | None = None) -> Inventory:
    return Inventory(seen, {"node_name": "worker-1"} if facts is None else facts)


def by_name(assessment: Assessment) -> dict[str, CertificateStatus]:
    return {status.seen.name: status for status in assessment.statuses}


def verdict(status: CertificateStatus) -> dict[str, Any]:
    """Return the verdict without the fields that an absent certificate inherits, the time of the judgment, and the
    start of a damage.
    """
    kept = {"judged_at", "damage", "changes_at"} | (
        {"certificate", "stale", "renew_at"} if not status.seen.certificates else set()
    )
    return {name: getattr(status, name) for name in status.__dataclass_fields__ if name not in kept}


def verdicts(assessment: Assessment) -> list[dict[str, Any]]:
    return [verdict(status) for status in assessment.statuses]


# --- earlier assessments change no verdict ----------------------------------------------------------------------------

WRITABLE = (Permissions("/pki/leaf", 0o666, "root:root", (0, 0), secret=False),)
WORLD: dict[str, list[Observation | None]] = {
    "ca": [
        CA_GOOD, replace(CA_GOOD), see(AUTHORITY, RENEWED), see(AUTHORITY, OTHER), None,
        see(AUTHORITY, faults=(Fault(Reason.UNREADABLE, "/pki/ca cannot be read"),)),
    ],
    "ca#2": [None, replace(see(AUTHORITY, OTHER), name="ca#2")],
    "leaf": [
        LEAF_GOOD, replace(LEAF_GOOD), replace(LEAF_GOOD, permissions=WRITABLE), replace(LEAF_GOOD, key=None),
        see(LEAF, OLD), see(LEAF, NEXT), see(LEAF, BELOW), LEAF_BAD, None,
        see(LEAF, faults=(Fault(Reason.MISSING, "/pki/leaf is not there"),)),
    ],
    "chained": [see(CHAINED, BELOW, MIDDLE), see(CHAINED, BELOW, MIDDLE, BRIDGE), see(CHAINED, BELOW, BRIDGE), None],
    "admin.conf": [
        see(CONF, MINE, embedded=(Embedded("/etc/admin.conf", (ROOT.facts,)),)),
        see(CONF, MINE, embedded=(Embedded("/etc/admin.conf", (ROOT.facts, OTHER.facts)),)),
        see(CONF, NEXT, embedded=(Embedded("/etc/admin.conf", (OTHER.facts,)),)),
    ],
    "kubelet-client": [see(KUBELET, MINE, symlink=True, refers_to=""), see(KUBELET, OLD, symlink=False), None],
    "self-made": [see(SELF_MADE, MINE), see(SELF_MADE, NEXT, OTHER)],
    "sa": [
        see(PAIR, public_key=MINE.facts.key, key=MINE.facts.key), see(PAIR, public_key=MINE.facts.key),
        see(PAIR, public_key=MINE.facts.key, key=OLD.facts.key),
    ],
}  # fmt: skip
EVERYTHING = [MINE, OLD, NEXT, BELOW, MIDDLE, BRIDGE, ROOT, RENEWED, OTHER]
EDGES = sorted({edge for each in EVERYTHING for edge in (each.facts.not_before, each.facts.not_after)})

instants = st.one_of(
    st.builds(lambda edge, shift: edge + shift, st.sampled_from(EDGES), st.sampled_from([-TICK, 0 * TICK, TICK])),
    st.datetimes(datetime(2025, 11, 1), datetime(2032, 1, 1)).map(lambda moment: moment.replace(tzinfo=NOW.tzinfo)),  # noqa: DTZ001 - made aware
)
facts = st.sampled_from([{"node_name": "worker-1"}, {"node_name": "worker-2"}, {}])
steps = st.tuples(
    st.fixed_dictionaries({name: st.sampled_from(range(len(seen))) for name, seen in WORLD.items()}), instants, facts
)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Inventory, datetime]]:
    """Draw passes over a node: some things change from one to the next, most stay, and the clock moves arbitrarily."""
    choice, now, reported = draw(steps)
    history = []
    for _ in range(draw(st.integers(2, 6))):
        seen = [WORLD[name][number] for name, number in choice.items()]
        history.append((Inventory(tuple(each for each in seen if each), reported), now))
        other, now, reported = draw(
            st.tuples(steps, instants, facts).map(lambda drawn: (drawn[0][0], drawn[1], drawn[2]))
        )
        changed = draw(st.sets(st.sampled_from(sorted(WORLD)), max_size=2))
        choice = {name: other[name] if name in changed else number for name, number in choice.items()}
        reported = reported if draw(st.booleans()) else history[-1][0].facts
    return history


@pytest.mark.long
@settings(deadline=None, max_examples=examples(200))
@given(histories())
def test_the_previous_assessment_changes_no_verdict(history: list[tuple[Inventory, datetime]]) -> None:
    """Whatever was observed before, and wherever the clock went: the same observation at the same time gives the same
    verdict. Only the last valid certificate of a damaged file is stored, while the file is expected.
    """
    previous = None
    last: dict[tuple[str, str], Certificate | None] = {}
    for seen, now in history:
        previous = assess(seen, now, previous)
        recomputed = assess(seen, now)
        assert verdicts(previous) == verdicts(recomputed)
        for one, other in zip(previous.statuses, recomputed.statuses, strict=True):
            assert one.changes_at == other.changes_at or one.damage or other.damage
        assert previous.taken_at == now
        last = {each.identity: next(iter(each.certificates), last.get(each.identity)) for each in seen.observations}
        for status in previous.statuses:
            assert status.certificate == last[status.seen.identity]
            assert status.stale == (status.certificate is not None and not status.seen.certificates)


def edges(certificates: list[Issued], also: list[datetime]) -> Iterator[datetime]:
    for each in certificates:
        life = each.facts.not_after - each.facts.not_before
        end = each.facts.not_after
        for edge in (
            each.facts.not_before,
            end,
            end - min(30 * DAY, life / 3),
            end - min(7 * DAY, life / 10),
            end - life / 10,
        ):
            yield from (edge - TICK, edge, edge + TICK)
    yield from also


KEYS = [new_key() for _ in range(5)]
seconds = st.integers(-1000, 1000)
spans = st.tuples(seconds, seconds).map(lambda span: (NOW + min(span) * DAY, NOW + max(span) * DAY))


@pytest.mark.long
@settings(deadline=None)
@given(
    st.lists(spans, min_size=6, max_size=6),
    instants,
    st.lists(instants, max_size=3),
    st.sampled_from(["file", "kubelet"]),
)
def test_nothing_changes_before_the_instant_that_was_announced(
    validities: list[tuple[datetime, datetime]], now: datetime, others: list[datetime], kind: str
) -> None:
    """From now until `changes_at` (exclusive) every verdict stays, and without it without limit. So a daemon may sleep
    until then.
    """
    made: list[dict[str, Any]] = [{"not_before": start, "not_after": end} for start, end in validities]
    ca, twin = make_ca(key=KEYS[0], **made[0]), make_ca(key=KEYS[1], **made[1])
    upper = make_intermediate(ca, "upper", key=KEYS[2], **made[2])
    lower = make_intermediate(upper, "lower", key=KEYS[3], **made[3])
    bridge = cross_sign(lower, by=twin, **made[4])
    leaf = make_leaf(lower, key=KEYS[4], **made[5])
    spec = row("leaf", kind=kind)
    seen = inventory(
        see(AUTHORITY, ca), replace(see(AUTHORITY, twin), name="ca#2"), see(spec, leaf, lower, upper, bridge)
    )
    said = assess(seen, now)
    everything = [ca, twin, upper, lower, bridge, leaf]
    for later in edges(everything, others):
        if now < later and (said.changes_at is None or later < said.changes_at):
            assert [(s.findings, s.chain_valid, s.trust_anchor) for s in assess(seen, later).statuses] == [
                (s.findings, s.chain_valid, s.trust_anchor) for s in said.statuses
            ], later
            assert assess(seen, later).changes_at == said.changes_at
    assert said.changes_at is None or said.changes_at > now


def test_each_intermediate_that_ends_is_reported_at_its_time() -> None:
    """The rule covers not only the first one on the path."""
    upper = make_intermediate(ROOT, "upper", not_after=NOW + 2 * DAY)
    lower = make_intermediate(upper, "lower", not_after=NOW + DAY)
    seen = inventory(CA_GOOD, see(row("leaf"), make_leaf(lower), lower, upper))
    first = assess(seen, NOW + DAY + TICK)
    assert first.changes_at == NOW + 2 * DAY + TICK
    later = assess(seen, first.changes_at, first)
    assert [len(by_name(each)["leaf"].findings) for each in (first, later)] == [1, 2]


# --- no work is done twice --------------------------------------------------------------------------------------------


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Certificate]:
    """The certificates for which paths were searched."""
    made: list[Certificate] = []

    def counted(leaf: Certificate, *rest: Any) -> Any:
        made.append(leaf)
        return find_paths(leaf, *rest)

    monkeypatch.setattr(path, "find_paths", counted)
    return made


def test_a_verdict_is_the_same_object_until_something_changes() -> None:
    """Later stages skip unchanged objects: renderer and journal compare by identity."""
    lost = see(row("lost", ca="etcd-ca"), faults=(Fault(Reason.MISSING, "/pki/lost is not there"),))
    no_ca = see(row("etcd-ca", authority=True, ca=[]), faults=(Fault(Reason.MISSING, "/pki/etcd-ca is not there"),))
    bad = replace(LEAF_BAD, name="bad")
    seen = inventory(CA_GOOD, LEAF_GOOD, bad, lost, no_ca, see(PAIR, public_key=MINE.facts.key))
    first = assess(seen, NOW)
    again = assess(seen, NOW + DAY, first)
    for other in (assess(seen, NOW, first), again):
        assert all(one is two for one, two in zip(first.statuses, other.statuses, strict=True))
    assert (first.taken_at, again.taken_at) == (NOW, NOW + DAY)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, set()),
        ({"observation": True}, {"leaf"}),
        ({"clock": -DAY}, {"ca", "leaf", "admin.conf"}),
        ({"clock": 4 * MONTH}, {"leaf", "admin.conf"}),
        ({"facts": {"node_name": "worker-2"}}, {"ca", "leaf", "admin.conf"}),
        ({"renew_before": 60 * DAY}, {"ca", "leaf", "admin.conf"}),
        ({"anchor": True}, {"ca", "leaf", "admin.conf"}),
    ],
)
def test_only_what_a_change_concerns_is_judged_again(
    change: dict[str, Any], again: set[str], searches: list[Certificate]
) -> None:
    """Only a new observation, its anchors, the facts, the terms or the time cause a new judgment. A path is searched
    again only for new anchors or new certificates.
    """
    conf = see(CONF, MINE, embedded=(Embedded("/etc/admin.conf", (ROOT.facts,)),))
    first = assess(inventory(CA_GOOD, LEAF_GOOD, conf), NOW)
    searches.clear()
    anchor = see(AUTHORITY, RENEWED) if "anchor" in change else CA_GOOD
    leaf = replace(LEAF_GOOD, permissions=WRITABLE) if "observation" in change else LEAF_GOOD
    seen = inventory(anchor, leaf, conf, facts=change.get("facts"))
    second = assess(seen, NOW + change.get("clock", 0 * DAY), first, change.get("renew_before", module.RENEW_BEFORE))
    kept = {id(status) for status in first.statuses}
    assert {status.seen.name for status in second.statuses if id(status) not in kept} == again
    assert set(searches) == ({RENEWED.facts, MINE.facts} if "anchor" in change else set())


def test_new_bytes_are_searched_and_old_ones_are_not(searches: list[Certificate]) -> None:
    """Equal certificates have equal paths, whichever object holds them."""
    first = assess(inventory(CA_GOOD, LEAF_GOOD), NOW)
    assert searches == [ROOT.facts, MINE.facts]
    assess(inventory(replace(CA_GOOD), see(LEAF, OLD)), NOW, first)
    assert searches == [ROOT.facts, MINE.facts, OLD.facts]
    wider = replace(LEAF_GOOD, spec=replace(LEAF, usages=("client auth", "server auth")))
    assess(inventory(CA_GOOD, wider), NOW, first)
    assert searches[3:] == [MINE.facts]


def test_other_terms_of_renewal_are_applied_at_once() -> None:
    """Although the verdict was made a moment ago."""
    first = assess(inventory(CA_GOOD, LEAF_GOOD), NOW, None, 30 * DAY)
    second = assess(inventory(CA_GOOD, LEAF_GOOD), NOW, first, 10 * DAY)
    ends = MINE.facts.not_after
    assert [by_name(each)["leaf"].renew_at for each in (first, second)] == [ends - 30 * DAY, ends - 10 * DAY]


def test_a_recorded_renewal_changes_the_verdict_at_once() -> None:
    """The file and the time are the same: certmond records its renewal after the installation. The certificate is still
    due, which a renewal does not change.
    """
    seen, at = inventory(CA_GOOD, LEAF_GOOD), MINE.facts.not_after - 10 * DAY
    first = assess(seen, at)
    noted = assess(seen, at, first, renewed={MINE.facts.sha256: at})
    unstored = assess(seen, at, noted)
    reasons = [{item.reason for item in by_name(each)["leaf"].findings} for each in (first, noted, unstored)]
    assert [Reason.STILL_DUE in reported for reported in reasons] == [False, True, False]


# --- running and serving processes ------------------------------------------------------------------------------------

ENDPOINT = Endpoint.parse("127.0.0.1:1")
WEB = ServiceSpec(name="web", kind="systemd", unit="web.service")
SERVED_LEAF = see(row("leaf", key="/pki/leaf.key"), MINE, key=MINE.facts.key, key_path="/pki/leaf.key")


def serving(issued: Issued, changed: datetime, at: datetime = NOW, reloads: bool = True) -> Surroundings:
    """A service that serves this, and the file of the leaf, which has changed."""
    return Surroundings(
        (WEB,),
        Survey({"web": {"/pki/leaf": Use(reloads, "--x")}}, {ENDPOINT: ("web", "/pki/leaf")}),
        Live(at, {"web": ServiceSeen(True, "1", NOW - DAY)}, {ENDPOINT: Served(issued.der, "TLSv1.3", at)}),
        {"/pki/leaf": Content("x", changed)},
    )


def test_the_services_of_a_certificate_are_judged_with_it() -> None:
    """Without a probe there is no finding about services."""
    seen = inventory(CA_GOOD, SERVED_LEAF)
    looked = by_name(assess(seen, NOW, around=serving(OLD, NOW - DAY)))["leaf"]
    assert [item.reason for item in looked.findings] == [Reason.SERVED_DIFFERS]
    assert [at.matches for at in looked.presence.served] == [False]
    assert by_name(assess(seen, NOW))["leaf"].findings == ()
    gone = by_name(assess(inventory(CA_GOOD, see(LEAF)), NOW, around=serving(OLD, NOW - DAY)))["leaf"]
    assert [each.service for each in gone.presence.consumers] == ["web"]


def test_a_new_probe_is_judged_again() -> None:
    """The verdict stays the same object while the probe is the same, and no longer."""
    seen = inventory(CA_GOOD, SERVED_LEAF)
    first = assess(seen, NOW, around=serving(MINE, NOW - DAY))
    same = assess(seen, NOW + DAY, first, around=serving(MINE, NOW - DAY, NOW + DAY))
    assert by_name(same)["leaf"] is by_name(first)["leaf"]
    other = assess(seen, NOW + DAY, same, around=serving(OLD, NOW - DAY, NOW + DAY))
    assert [item.reason for item in by_name(other)["leaf"].findings] == [Reason.SERVED_DIFFERS]


def test_the_severity_of_a_served_certificate_changes_at_the_announced_instant() -> None:
    """The served certificate nears its end, while that of the file does not."""
    ending = make_leaf(ROOT, not_after=NOW + 10 * DAY)
    known = serving(ending, NOW - DAY)
    first = assess(inventory(CA_GOOD, SERVED_LEAF), NOW, around=known)
    assert first.changes_at == NOW + 3 * DAY
    at = first.changes_at
    later = [assess(inventory(CA_GOOD, SERVED_LEAF), now, first, around=known) for now in (at - TICK, at)]
    assert [by_name(each)["leaf"].severity for each in later] == [Severity.WARNING, Severity.CRITICAL]


# --- a damaged file keeps its dates -----------------------------------------------------------------------------------


def test_a_damaged_file_keeps_its_last_valid_certificate() -> None:
    """It is beside the finding, and marked as stale: an alert on the end must not resolve because the file broke."""
    good = assess(inventory(CA_GOOD, LEAF_GOOD), NOW)
    bad = assess(inventory(CA_GOOD, LEAF_BAD), NOW + DAY, good)
    worse = assess(inventory(CA_GOOD, replace(LEAF_BAD)), NOW + 2 * DAY, bad)
    for status in (by_name(bad)["leaf"], by_name(worse)["leaf"]):
        assert (status.certificate, status.stale, status.renew_at) == (MINE.facts, True, by_name(good)["leaf"].renew_at)
        assert (status.chain_valid, status.trust_anchor, status.key_matches) == (False, None, None)
        assert [item.reason for item in status.findings] == [Reason.MALFORMED]
    back = by_name(assess(inventory(CA_GOOD, LEAF_GOOD), NOW + 3 * DAY, worse))["leaf"]
    assert (back.stale, back.chain_valid, back.findings) == (False, True, ())


def test_an_unexpected_file_is_dropped() -> None:
    """A file that disappeared from a glob has no entry, and no history when it returns broken."""
    good = assess(inventory(CA_GOOD, LEAF_GOOD), NOW)
    gone = assess(inventory(CA_GOOD), NOW, good)
    assert "leaf" not in by_name(gone)
    status = by_name(assess(inventory(CA_GOOD, LEAF_BAD), NOW, gone))["leaf"]
    assert (status.certificate, status.stale, status.renew_at) == (None, False, None)


def test_a_ca_file_that_breaks_is_no_trust_anchor() -> None:
    """Its dates are kept, but it proves nothing."""
    good = assess(inventory(CA_GOOD, LEAF_GOOD), NOW)
    bad = assess(inventory(see(AUTHORITY, faults=(Fault(Reason.MALFORMED, "/pki/ca is junk"),)), LEAF_GOOD), NOW, good)
    assert [(status.certificate, status.stale) for status in bad.trust_anchors] == [(ROOT.facts, True)]
    assert not by_name(bad)["leaf"].chain_valid


def test_a_ca_without_an_entry_is_reported_at_once() -> None:
    """While its entry reports the defect, its leaves have no finding. Without an entry, they do."""
    reported = assess(
        inventory(see(AUTHORITY, faults=(Fault(Reason.MISSING, "/pki/ca is not there"),)), LEAF_GOOD), NOW
    )
    unreported = assess(inventory(LEAF_GOOD), NOW, reported)
    again = assess(inventory(CA_GOOD, LEAF_GOOD), NOW, unreported)
    found = [{item.reason for item in by_name(each)["leaf"].findings} for each in (reported, unreported, again)]
    assert found == [set(), {Reason.NO_PATH}, set()]


# --- anchors ----------------------------------------------------------------------------------------------------------


def test_the_shown_anchor_is_that_of_the_path_that_counts() -> None:
    """It is the anchor of the path that is valid now and longest. Before and after, it is that of the longest one.
    Without a named CA there is no anchor.
    """
    both = CA_GOOD, replace(see(AUTHORITY, OTHER), name="ca#2"), see(row("leaf"), BELOW, MIDDLE, BRIDGE)
    shown = {
        moment: by_name(assess(inventory(*both), moment))["leaf"].trust_anchor
        for moment in (NOW, NOW + MONTH, NOW + 4 * MONTH, NOW + YEAR)
    }
    assert list(shown.values()) == [ROOT.facts, OTHER.facts, OTHER.facts, OTHER.facts]
    assert by_name(assess(inventory(see(row("leaf", ca=[]), ROOT)), NOW))["leaf"].trust_anchor is None
    assert by_name(assess(inventory(CA_GOOD), NOW))["ca"].trust_anchor == ROOT.facts
    assert by_name(assess(inventory(CA_GOOD, see(row("leaf"), NEXT)), NOW))["leaf"].trust_anchor is None


def test_a_file_without_a_named_ca_proves_itself() -> None:
    """The anchor is its self-signed certificate, or otherwise its last one."""
    spec = row("leaf", ca=[])
    for chain in ([MINE], [MINE, ROOT], [BELOW, MIDDLE], [ROOT]):
        assert by_name(assess(inventory(see(spec, *chain)), NOW))["leaf"].chain_valid
    assert not by_name(assess(inventory(see(spec, MINE, OTHER)), NOW))["leaf"].chain_valid


def test_an_authority_that_is_named_twice_is_one_anchor() -> None:
    """The same certificate twice in a bundle, or in two files of one name."""
    twice = CA_GOOD, replace(CA_GOOD, path="/pki/copy"), LEAF_GOOD
    assert by_name(assess(inventory(*twice), NOW))["leaf"].anchors == (ROOT.facts,)


# --- the whole --------------------------------------------------------------------------------------------------------


def test_an_assessment_has_the_worst_severity_and_the_next_instant() -> None:
    """It covers all observations. A field is None without a finding, or without a change by time."""
    empty = assess(inventory(), NOW)
    assert (empty.severity, empty.changes_at, empty.statuses) == (None, None, ())
    well = assess(inventory(CA_GOOD, LEAF_GOOD), NOW)
    assert (well.severity, well.changes_at) == (None, MINE.facts.not_after - MONTH)
    assert by_name(well)["leaf"].severity is None
    warned = assess(inventory(CA_GOOD, LEAF_GOOD), MINE.facts.not_after - MONTH)
    assert (warned.severity, by_name(warned)["leaf"].severity) == (Severity.WARNING, Severity.WARNING)
    assert assess(inventory(CA_GOOD, LEAF_GOOD, see(LEAF, OLD)), NOW).severity is Severity.CRITICAL
    assert assess(inventory(CA_GOOD, LEAF_GOOD), NOW + 9 * YEAR).changes_at is None
    assert highest_severity(()) is None


def test_one_verdict_counts_for_each_name_and_path() -> None:
    """The last verdict with a name and a path counts, at the place of the first. `status` returns None for a name and
    path without a verdict.
    """
    again = replace(LEAF_GOOD, leaf_first=False)
    whole = assess(inventory(LEAF_GOOD, CA_GOOD, again), NOW)
    assert again.identity == LEAF_GOOD.identity
    assert [id(each) for each in whole.distinct] == [id(whole.statuses[2]), id(whole.statuses[1])]
    assert whole.status(*again.identity) is whole.statuses[2]
    assert whole.status("leaf", "/other") is whole.status("other", LEAF_GOOD.path) is None
    single = assess(inventory(LEAF_GOOD, CA_GOOD), NOW)
    assert single.distinct == single.statuses


def test_certificates_anchors_and_loose_findings_are_separate() -> None:
    """The service-account keys are no certificate. Their findings belong to none."""
    pair = see(PAIR, public_key=MINE.facts.key)
    whole = assess(inventory(CA_GOOD, LEAF_GOOD, pair, replace(see(AUTHORITY), name="etcd-ca")), NOW)
    assert [status.seen.name for status in whole.certificates] == ["ca", "leaf", "etcd-ca"]
    assert [status.seen.name for status in whole.trust_anchors] == ["ca"]
    assert [item.reason for item in whole.loose_findings] == [Reason.KEY_MISSING]
    assert whole.certificates is whole.certificates, "certmond selects the statuses once in each pass"
    assert whole.loose_findings is whole.loose_findings
    assert status_in(whole, "leaf", "/pki/leaf").seen is LEAF_GOOD
