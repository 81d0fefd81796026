"""When a certificate is renewed, when it is not although it is due, and until when the answer holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.pki.assessment.assess import Assessment, CertificateStatus, assess
from certmond.pki.assessment.renewal_attempt import MIN_INTERVAL, Attempt
from certmond.pki.assessment.validity_rules import critical_point
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm
from certmond.pki.catalog.observation import Embedded, Inventory, Observation
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Fault, Reason
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewal_obstacles import renewal_obstacle
from certmond.pki.planning.renewal_quota import RENEWALS
from certmond.pki.planning.renewal_time import renewal_time
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.steps import Cause, Derive, Held, Identity, Issue, Plan, Restart
from certmond.pki.services.restart_episode import Past, Result
from certmond.pki.services.service_observation import Content, Survey, Use
from certmond.pki.services.staleness import Surroundings
from certmond.pki.signing.policy import Basis
from certmond.pki.signing.template import builder
from certmond.pki.x509.certificate import Certificate, parse_certificate
from tests.assessments import status_in
from tests.builders import DAY, HOUR, NOW, SECOND, YEAR, Issued, make_ca, make_leaf, make_server, new_key
from tests.sampling import examples

TICK = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
FACTS = {"node_name": "worker-1"}
KEY, CA_KEY = new_key(), new_key()
ROOT = make_ca(key=CA_KEY, not_before=NOW - 5 * YEAR, not_after=NOW + 5 * YEAR)
POLICY = Policy(spread=TICK)  # every node at the same instant


def row(name: str = "leaf", **fields: Any) -> CertificateSpec:
    pair = {"name": name, "path": f"/pki/{name}.crt", "key": f"/pki/{name}.key", "ca": "ca", "usages": "client auth"}
    return validated(CertificateSpec, pair | fields)


AUTHORITY = row("ca", ca=[], authority=True, usages="cert sign")
KUBELET = row("kubelet-client", kind="kubelet", key=None, path="/kubelet/current.pem")


def see(spec: CertificateSpec, *issued: Issued, **fields: Any) -> Observation:
    key = issued[0].facts.key if issued else None
    found = {"key": key, "key_path": spec.key or spec.path} | fields
    return Observation(spec.name, spec, spec.path, tuple(each.facts for each in issued), **found)


CA = see(AUTHORITY, ROOT)


def leaf(end: datetime, life: timedelta = YEAR, **modifiers: Any) -> Issued:
    return make_leaf(
        ROOT, **({"key": KEY, "usages": ["digital signature"], "not_before": end - life, "not_after": end} | modifiers)
    )


@dataclass(frozen=True)
class World:
    """All inputs of a plan except the time."""

    seen: tuple[Observation, ...]
    policy: Policy = POLICY
    past: Mapping[Identity, Attempt] = field(default_factory=dict)
    circumstances: Circumstances = field(default_factory=Circumstances)
    facts: Mapping[str, str] = field(default_factory=lambda: FACTS)

    def look(self, now: datetime) -> Assessment:
        renewed = {attempt.sha256: attempt.at for attempt in self.past.values() if attempt.sha256}
        return assess(Inventory(self.seen, self.facts), now, renewed=renewed)

    def plan(self, now: datetime, asked: frozenset[str] | None = None) -> Plan:
        return plan(self.look(now), self.policy, self.past, self.circumstances, asked)

    def after(self, made: Plan, now: datetime, **given: Any) -> World:
        """Return the world after the steps of a plan; `given` changes the template at the signer."""
        issues = {step.identity: step for step in made.steps if isinstance(step, Issue)}
        new = {identity: sign(step, **given) for identity, step in issues.items()}
        seen = tuple(replaced(each, new[each.identity]) if each.identity in new else each for each in self.seen)
        past = {identity: Attempt(now, sha256=certificate.sha256) for identity, certificate in new.items()}
        return replace(self, seen=seen, past={**self.past, **past}, circumstances=replace(self.circumstances, stale={}))


def replaced(seen: Observation, new: Certificate) -> Observation:
    return replace(seen, certificates=(new,), key=new.key, symlink=None if seen.symlink is None else True)


def sign(step: Issue, **given: Any) -> Certificate:
    """Sign a step like a signer, always with the same key."""
    made = builder(replace(step.template, **given), KEY.public_key(), 1, ROOT.cert)
    return parse_certificate(made.sign(CA_KEY, SHA256()).public_bytes(Encoding.DER))


def world(*issued: Issued, ca: Observation = CA, spec: CertificateSpec | None = None, **fields: Any) -> World:
    """A node with a CA and certificates of the same row: leaf, leaf-1, …"""
    rows = [spec or row("leaf" if number == 0 else f"leaf-{number}") for number, _ in enumerate(issued)]
    seen = (ca, *(see(each, certificate) for each, certificate in zip(rows, issued, strict=True)))
    return World(seen, **fields)


def steps(made: Plan) -> list[tuple[str, Cause]]:
    return [(step.target, step.cause) for step in made.steps]


def issue(made: Plan) -> Issue:
    (step,) = made.steps
    assert isinstance(step, Issue)
    return step


def held(made: Plan) -> Held:
    assert made.steps == ()
    (only,) = made.held
    return only


def status_of(made: World, name: str = "leaf", now: datetime = NOW) -> CertificateStatus:
    return next(status for status in made.look(now).statuses if status.seen.name == name)


# --- how often an entry with a pattern is renewed ---------------------------------------------------------------------


def flood(**fields: Any) -> World:
    """Return a due certificate of a pattern whose quota is used up by renewals of removed files."""
    spec = row("apps", path="/srv/*.pem", key="/srv/*.pem", **fields)
    past = {("apps", f"/srv/{number}.pem"): Attempt(NOW - 30 * MINUTE, sha256="ab") for number in range(RENEWALS)}
    return World((CA, replace(see(spec, leaf(NOW + DAY)), path="/srv/new.pem")), past=past)


def test_a_pattern_has_an_hourly_quota() -> None:
    """A due certificate is held while a thousand of its pattern were renewed in the last hour, whatever happened to
    their files. The plan has the instant of its renewal.
    """
    made = flood()
    waiting = held(made.plan(NOW))
    assert waiting.until == made.plan(NOW).changes_at == NOW + 30 * MINUTE
    assert "certmond renewed 1000 certificates of apps in one hour" in waiting.because
    assert steps(made.plan(NOW + 30 * MINUTE)) == [("apps", Cause.DUE)]


def test_the_quota_applies_to_no_command_and_no_rotation() -> None:
    """A command gets its certificate beyond the quota, and so does a rotation."""
    made = flood()
    assert steps(made.plan(NOW, frozenset({"apps"}))) == [("apps", Cause.ASKED)]
    reissue = {("apps", "/srv/new.pem"): ROOT.facts}
    found = plan(made.look(NOW), made.policy, made.past, made.circumstances, reissue=reissue)
    assert steps(found) == [("apps", Cause.ROTATION)]


def test_the_quota_is_of_patterns_alone() -> None:
    """An entry of one file has no quota, and its renewals do not count for a pattern."""
    single = see(row(), leaf(NOW + DAY))
    made = replace(flood(), seen=(CA, single))
    assert steps(made.plan(NOW)) == [("leaf", Cause.DUE)]


# --- when it is due ---------------------------------------------------------------------------------------------------


def test_a_certificate_that_is_not_compared_with_its_pattern_yet_waits() -> None:
    """The rule does not apply to the request of an operator."""
    due, name = World((CA, see(row(), leaf(NOW + HOUR)))), frozenset({"leaf"})
    waiting = replace(due, circumstances=Circumstances(uncompared=frozenset({("leaf", "/pki/leaf.crt")})))
    made = waiting.plan(NOW)
    assert made.steps == ()
    (held,) = made.held
    assert held.because.startswith("certmond has not compared the certificate with the other files of the pattern")
    assert held.because.endswith("if the archive is unreadable, certmond archive list names the file")
    soon = replace(waiting, circumstances=replace(waiting.circumstances, compared_at=NOW + SECOND)).plan(NOW)
    assert (soon.held[0].until, soon.changes_at) == (NOW + SECOND, NOW + SECOND)
    assert len(waiting.plan(NOW, name).steps) == len(due.plan(NOW).steps) == 1


def test_nothing_is_done_before_the_instant_of_a_node() -> None:
    """The plan has the end of the hold, which is that instant, to the microsecond."""
    made = world(leaf(NOW + YEAR), policy=Policy())
    due = renewal_time(status_of(made), made.policy, "worker-1")
    assert due
    assert NOW + YEAR - 33 * DAY <= due < NOW + YEAR - 30 * DAY
    for now in (NOW, due - TICK):
        assert made.plan(now) == Plan((), (), due)
    assert steps(made.plan(due)) == [("leaf", Cause.DUE)]


def test_a_change_at_the_instant_of_a_plan_is_in_it() -> None:
    """`changes_at` is later. Otherwise a daemon would wake for it again and again."""
    made = world(leaf(NOW + YEAR))
    due = renewal_time(status_of(made), made.policy, "worker-1")
    assert due
    assert made.plan(due).changes_at == status_of(made).certificate.expires_at  # type: ignore[union-attr]


def test_a_certificate_that_certmond_does_not_renew_is_held_only_when_it_is_due() -> None:
    """The spread selects the time of a renewal by certmond. No finding would explain an earlier hold."""
    own = make_ca("own", key=KEY, not_before=NOW - YEAR, not_after=NOW + YEAR)
    restarted = row(renewed_by="k3s, at a start", consumers=["k3s"], renewed_at_start="90d")
    specs = row(renewed_by="an operator"), restarted, row(ca=["ca", "self"], usages=[])
    for spec, issued in zip(specs, (leaf(NOW + YEAR), leaf(NOW + YEAR), own), strict=True):
        made = world(issued, spec=spec, policy=Policy())
        due = status_of(made).renew_at
        assert due
        assert made.plan(NOW) == made.plan(due - TICK) == Plan((), (), due)
        assert held(made.plan(due)).target == "leaf"


def test_an_expired_certificate_has_the_cause_expired() -> None:
    """At its last instant it is due, and later it has expired."""
    made = world(leaf(NOW))
    assert steps(made.plan(NOW)) == [("leaf", Cause.DUE)]
    assert steps(made.plan(NOW + TICK)) == [("leaf", Cause.EXPIRED)]
    assert made.plan(NOW).changes_at == NOW + TICK
    assert issue(made.plan(NOW + TICK)).detail == "has expired; signer local, valid until 2027-11-24 12:00 UTC"


def test_certmond_renews_for_the_kubelet_after_nine_tenths_of_the_lifetime() -> None:
    """The renewal is then not spread, because it is late already."""
    made = world(leaf(NOW + 100 * DAY, 100 * DAY), spec=KUBELET, policy=Policy(spread=30 * DAY))
    made = replace(made, seen=(CA, replace(made.seen[1], symlink=True)))
    due = NOW + 90 * DAY
    assert made.plan(due - TICK) == Plan((), (), due)
    assert steps(made.plan(due)) == [("kubelet-client", Cause.DUE)]


def test_the_kubelets_pem_is_renewed_at_once_where_the_kubelet_cannot_rotate_it() -> None:
    """A plain file in place of its symlink stops the rotation. The renewal is not for a later end, so the CA's end does
    not matter.
    """
    ca = see(AUTHORITY, make_ca(key=CA_KEY, not_after=NOW + 50 * DAY))
    for end in (NOW + YEAR, NOW + 50 * DAY):
        made = world(leaf(end), ca=ca, spec=KUBELET)
        made = replace(made, seen=(ca, replace(made.seen[1], symlink=False)))
        assert steps(made.plan(NOW)) == [("kubelet-client", Cause.NOT_A_SYMLINK)]
        assert steps(made.after(made.plan(NOW), NOW).plan(NOW)) == []


def test_a_renewal_does_not_keep_the_link_of_the_kubelets_pem_waiting() -> None:
    """A PEM that became a plain file is linked at once, however short a while ago it was renewed."""
    made = world(leaf(NOW + YEAR), spec=KUBELET)
    plain = replace(made.seen[1], symlink=False)
    just = Attempt(NOW, sha256=plain.certificates[0].sha256)
    made = replace(made, seen=(CA, plain), past={plain.identity: just})
    assert steps(made.plan(NOW + SECOND)) == [("kubelet-client", Cause.NOT_A_SYMLINK)]


def test_a_link_that_is_lost_repeatedly_is_made_at_growing_intervals() -> None:
    """The intervals are a minute after the first repair, two after the second, and at most an hour. The plan has the
    time and the cause. Two hours without a repair start a new count.
    """
    made = world(leaf(NOW + YEAR), spec=KUBELET)
    plain = replace(made.seen[1], symlink=False)
    attempt, now, pauses, because = None, NOW, list[timedelta](), ""
    for _ in range(9):
        attempt = Attempt(now).repaired(attempt)
        waits = replace(made, seen=(CA, plain), past={plain.identity: attempt}).plan(now)
        assert held(waits).until == waits.changes_at
        because = held(waits).because
        assert waits.changes_at
        pauses.append(waits.changes_at - now)
        now = waits.changes_at
    assert pauses == [*(MINUTE * 2**n for n in range(6)), HOUR, HOUR, HOUR]
    assert (
        because
        == f"certmond repaired the file 9 times, last on {now - HOUR:%Y-%m-%d %H:%M} UTC, and the file is damaged again"
    )
    assert Attempt(now + HOUR).repaired(attempt).repairs == 1
    assert Attempt(now - 2 * HOUR).repaired(attempt).repairs == 1  # the clock was set back


def test_a_restored_certificate_is_renewed_as_soon_as_it_is_due() -> None:
    """No signer issued it, so its restore is no reason to wait."""
    old = leaf(NOW + 10 * DAY)
    made = world(old)
    for restored, expected in ((True, [("leaf", Cause.DUE)]), (False, [])):
        attempt = Attempt(NOW, sha256=old.facts.sha256, restored=restored)
        assert steps(replace(made, past={("leaf", "/pki/leaf.crt"): attempt}).plan(NOW + SECOND)) == expected


def test_a_certificate_of_the_future_is_renewed_at_once() -> None:
    """A wrong clock made it, and nothing else would repair it for years, so an earlier end of the successor is
    accepted. From its first instant it is like any other.
    """
    start = NOW + 2 * YEAR
    made = world(leaf(NOW + 9 * YEAR, 7 * YEAR))
    assert steps(made.plan(start - TICK)) == [("leaf", Cause.NOT_YET_VALID)]
    assert made.plan(start - TICK).changes_at == start
    assert (made.plan(start).steps, made.plan(start).held) == ((), ())
    step = issue(made.plan(NOW))
    assert step.detail == "is not valid yet; signer local, valid until 2027-11-24 12:00 UTC"
    assert made.after(made.plan(NOW), NOW).plan(NOW).steps == ()


def test_a_certificate_that_is_not_yet_valid_waits_after_an_attempt() -> None:
    """Its signer's clock may be wrong: certmond asks it once an hour."""
    ahead = {"not_before": NOW + DAY, "not_after": NOW + YEAR}
    made = world(leaf(NOW + 2 * YEAR))
    made = made.after(made.plan(NOW), NOW, **ahead)
    assert (
        held(made.plan(NOW + HOUR - TICK)).because
        == "certmond renewed the certificate on 2026-11-24 12:00 UTC, but the certificate is not valid yet"
    )
    assert held(made.plan(NOW)).until == made.plan(NOW).changes_at == NOW + HOUR
    assert steps(made.plan(NOW + HOUR)) == [("leaf", Cause.NOT_YET_VALID)]
    failed = world(leaf(NOW + 2 * YEAR), past={("leaf", "/pki/leaf.crt"): Attempt(NOW, 3, "no such key")})
    assert held(failed.plan(NOW)).until == NOW + 4 * MINUTE


# --- when it waits ----------------------------------------------------------------------------------------------------


def with_attempt(attempt: Attempt, end: datetime = NOW + 20 * DAY) -> World:
    return world(leaf(end), past={("leaf", "/pki/leaf.crt"): attempt})


@pytest.mark.parametrize(
    ("failures", "wait"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60), (10**6, 60)]
)
def test_after_a_failure_it_waits_twice_as_long_each_time_up_to_an_hour(failures: int, wait: int) -> None:
    """A minute after the first one."""
    made = with_attempt(Attempt(NOW, failures, "no such key"))
    until = NOW + wait * MINUTE
    often = "once:" if failures == 1 else f"{failures} times, the last time with:"
    because = f"the attempt failed {often} no such key"
    assert made.plan(until - TICK) == Plan((), (Held("leaf", "/pki/leaf.crt", because, until),), until)
    assert steps(made.plan(until)) == [("leaf", Cause.DUE)]


def test_an_undecided_signer_is_asked_at_the_time_that_it_named() -> None:
    """The attempt is not earlier, however long ago the last one was."""
    made = with_attempt(Attempt(NOW - DAY, message="an approver decides", wait_until=NOW + DAY))
    assert held(made.plan(NOW)).because == "the signer has not decided yet: an approver decides"
    assert held(made.plan(NOW)).until == made.plan(NOW).changes_at == NOW + DAY
    assert steps(made.plan(NOW + DAY)) == [("leaf", Cause.DUE)]


def test_nothing_is_renewed_twice_within_an_hour() -> None:
    """The rule covers any file: a restored old certificate is renewed again, but not at once."""
    made = with_attempt(Attempt(NOW, sha256="of another"))
    assert held(made.plan(NOW + HOUR - TICK)).until == NOW + HOUR
    assert steps(made.plan(NOW + HOUR)) == [("leaf", Cause.DUE)]


def test_an_attempt_in_the_future_delays_nothing() -> None:
    """The clock was wrong then: a wait for that time could take years."""
    made = with_attempt(Attempt(NOW + YEAR, 3, "no such key"))
    assert steps(made.plan(NOW)) == [("leaf", Cause.DUE)]


def test_a_certificate_that_is_issued_due_is_renewed_after_two_thirds_of_its_rest() -> None:
    """A signer with a short lifetime and an old notBefore is not called in a loop, and its certificate does not expire
    either.
    """
    made = world(leaf(NOW))
    brief = made.after(made.plan(NOW), NOW, not_before=NOW - YEAR, not_after=NOW + 9 * DAY)
    again = NOW + 6 * DAY
    fact = "certmond renewed the certificate on 2026-11-24 12:00 UTC, but the certificate is still due"
    assert held(brief.plan(NOW + HOUR)).because == f"{fact}; see: certmond explain still_due"
    for now in (NOW - MINUTE, NOW, again - TICK):  # also if the clock jumps back
        assert held(brief.plan(now)).until == brief.plan(now).changes_at == again
    assert steps(brief.plan(again)) == [("leaf", Cause.DUE)]
    assert Reason.STILL_DUE in reasons(brief)
    just = made.after(made.plan(NOW), NOW, not_before=NOW - YEAR, not_after=NOW + 30 * DAY)
    assert held(just.plan(NOW + HOUR)).until == NOW + 20 * DAY


def reasons(made: World, now: datetime = NOW, name: str = "leaf") -> set[Reason]:
    return {item.reason for item in status_of(made, name, now).findings}


def test_renewed_and_still_due_is_a_finding() -> None:
    """The rule covers a certificate that certmond installed. The finding names the signer that limits the lifetime."""
    made = world(leaf(NOW))
    long = made.after(made.plan(NOW), NOW)
    assert Reason.STILL_DUE not in reasons(long)
    assert Reason.STILL_DUE not in reasons(long, NOW + YEAR - DAY)
    brief = made.after(made.plan(NOW), NOW, not_before=NOW - YEAR, not_after=NOW + 9 * DAY)
    assert Reason.STILL_DUE not in reasons(brief, NOW + 10 * DAY)
    assert Reason.STILL_DUE not in reasons(replace(brief, past={}))
    (reported,) = [item for item in status_of(brief).findings if item.reason is Reason.STILL_DUE]
    assert "was renewed on 2026-11-24 12:00 UTC" in reported.message


@pytest.mark.parametrize("now", [NOW, NOW + 25 * DAY, NOW + 25 * DAY + TICK, NOW + 40 * DAY])
def test_a_certificate_that_ends_with_its_ca_is_held(now: datetime) -> None:
    """No later end is possible, before that day or after it."""
    ca = see(AUTHORITY, make_ca(key=CA_KEY, not_after=NOW + 25 * DAY))
    made = world(leaf(NOW + 25 * DAY), leaf(NOW + 27 * DAY), leaf(NOW + 24 * DAY), ca=ca)
    because = "a new certificate cannot outlive its CA, which ends on 2026-12-19 12:00 UTC; rotate the CA"
    reported = [Held(name, f"/pki/{name}.crt", because) for name in ("leaf", "leaf-1", "leaf-2")]
    ended = now >= NOW + 25 * DAY
    assert list(made.plan(now).held) == (reported if ended else reported[:2])
    assert steps(made.plan(now)) == ([] if ended else [("leaf-2", Cause.DUE)])
    assert (Reason.STILL_DUE in reasons(made, now)) is (now <= NOW + 25 * DAY)


def test_a_shorter_validity_does_not_hold_a_renewal() -> None:
    """The operator sets it on purpose. Only the CA's end makes a renewal useless."""
    made = world(leaf(NOW + 29 * DAY), policy=replace(POLICY, validity=2 * DAY))
    assert issue(made.plan(NOW)).template.not_after == NOW + 2 * DAY


@pytest.mark.parametrize("life", [YEAR, 30 * DAY])
def test_a_hold_ends_when_the_certificate_becomes_critical(life: timedelta) -> None:
    """In the last 7 days, or the last tenth of a shorter lifetime, it is renewed despite the hold."""
    late = NOW + life - min(7 * DAY, life / 10)
    made = world(leaf(NOW + life, life), circumstances=Circumstances(hold="an upgrade is under way"))
    assert made.plan(late - TICK) == Plan((), (Held("leaf", "/pki/leaf.crt", "an upgrade is under way", late),), late)
    assert steps(made.plan(late)) == [("leaf", Cause.DUE)]
    assert made.plan(NOW).held == ()
    assert critical_point(made.seen[1].certificates[0]) == late


def test_nothing_is_issued_by_a_ca_of_unknown_trust() -> None:
    """The rule holds at any date and for any command. A certificate of another CA is issued. By command, certmond also
    issues a certificate of a CA that signed all leaves of this node.
    """
    made = world(leaf(NOW), circumstances=Circumstances(unsure={"ca": "the CA was replaced"}))
    for now in (NOW, NOW + YEAR):
        assert held(made.plan(now)) == Held("leaf", "/pki/leaf.crt", "the CA was replaced")
    assert held(made.plan(NOW, frozenset({"leaf"}))) == Held("leaf", "/pki/leaf.crt", "the CA was replaced")
    used = replace(made, circumstances=replace(made.circumstances, in_use=frozenset({"ca"})))
    assert steps(used.plan(NOW, frozenset({"leaf"}))) == [("leaf", Cause.ASKED)]
    assert held(used.plan(NOW)) == Held("leaf", "/pki/leaf.crt", "the CA was replaced")
    elsewhere = replace(made, circumstances=Circumstances(unsure={"etcd-ca": "the CA was replaced"}))
    assert steps(elsewhere.plan(NOW)) == [("leaf", Cause.DUE)]
    assert steps(elsewhere.plan(NOW, frozenset({"leaf"}))) == [("leaf", Cause.ASKED)]


def test_an_unsynchronized_clock_holds_an_expired_certificate() -> None:
    """Then the clock may be wrong. While the certificate is valid, it is a hold like any other."""
    start, end, late = NOW, NOW + YEAR, NOW + YEAR - 7 * DAY
    made = world(leaf(end), circumstances=Circumstances(clock="the clock"))
    waits = Held("leaf", "/pki/leaf.crt", "the clock")
    assert made.plan(start - TICK) == Plan((), (waits,), start)
    assert made.plan(start).held == ()
    assert made.plan(late - TICK) == Plan((), (replace(waits, until=late),), late)
    assert steps(made.plan(late)) == steps(made.plan(end)) == [("leaf", Cause.DUE)]
    assert made.plan(end).changes_at == end + TICK
    assert held(made.plan(end + TICK)) == waits
    for now in (start - TICK, end + TICK):
        assert steps(made.plan(now, frozenset({"leaf"}))) == [("leaf", Cause.ASKED)]


def test_an_upgrade_holds_no_expired_certificate() -> None:
    """A renewal does no harm there. With an unsynchronized clock as well, only the clock counts."""
    made = world(leaf(NOW + YEAR), circumstances=Circumstances("an upgrade"))
    assert steps(made.plan(NOW - TICK)) == [("leaf", Cause.NOT_YET_VALID)]
    assert steps(made.plan(NOW + YEAR + TICK)) == [("leaf", Cause.EXPIRED)]
    both = replace(made, circumstances=Circumstances("an upgrade", clock="the clock"))
    assert held(both.plan(NOW + YEAR - 8 * DAY)).because == "an upgrade"
    assert held(both.plan(NOW - TICK)).because == held(both.plan(NOW + YEAR + TICK)).because == "the clock"


# --- certificates that certmond cannot renew --------------------------------------------------------------------------

GOOD = see(row(), leaf(NOW + DAY))
LOST = see(row(), faults=(Fault(Reason.MISSING, "/pki/leaf.crt is not there"),), key_path="/pki/leaf.key")
UNRELATED = see(AUTHORITY, ROOT, key=make_leaf(ROOT).facts.key)


@pytest.mark.parametrize(
    ("seen", "ca", "signers", "why"),
    [
        (GOOD, CA, {}, None),
        (
            replace(CA, spec=AUTHORITY, name="leaf"),
            CA,
            {},
            "this certificate is a CA; rotate it: certmond root-ca stage --generate, then: certmond root-ca rotate",
        ),
        (replace(GOOD, name="leaf#2"), CA, {}, "this certificate has no separate entry in the catalogue"),
        (see(row(kind="bundle"), leaf(NOW + DAY)), CA, {}, "this certificate has no separate entry in the catalogue"),
        (see(row(signer="none"), leaf(NOW + DAY)), CA, {}, "its entry has `signer: none`"),
        (see(row()), CA, {}, "the file contains no certificate to renew; restore the file"),
        (replace(GOOD, renewable=False), CA, {}, "the file is not PEM"),
        (
            see(row(), make_leaf(ROOT, path_length=0, not_after=NOW + DAY)),
            CA,
            {},
            "cryptography refuses the certificate",
        ),
        (
            see(row(), make_leaf(ROOT, serial=-1, not_after=NOW + DAY)),
            CA,
            {},
            "Go refuses the certificate (x509: negative",
        ),
        (GOOD, see(AUTHORITY, make_ca(serial=-1)), {}, "the CA /pki/ca.crt is unusable"),
        (GOOD, see(AUTHORITY), {}, "the CA file of the entry ca contains no certificate; restore the CA first"),
        (see(row(kind="kubeconfig"), leaf(NOW + DAY), renewable=False), CA, {}, "the kubeconfig refers to files"),
        (replace(GOOD, key=None, key_path=None), CA, {}, "the entry names no key file"),
        (see(KUBELET, leaf(NOW + DAY), key=None, key_path=None), CA, {}, None),
        (see(row(ca="self"), leaf(NOW + DAY)), CA, {}, "no CA of the catalogue signs this certificate"),
        (see(row(ca=[]), leaf(NOW + DAY)), CA, {}, "no CA of the catalogue signs this certificate"),
        (see(row(ca=["self", "ca"]), leaf(NOW + DAY)), CA, {}, None),
        (GOOD, replace(CA, key=None), {}, "the CA's key /pki/ca.key is not on this node, or does not match the CA"),
        (GOOD, UNRELATED, {}, "the CA's key /pki/ca.key is not on this node, or does not match the CA"),
        (GOOD, replace(CA, key=None, key_path=None), {}, "the CA's key /pki/ca.crt is not on this node"),
        (GOOD, replace(CA, key=None, key_unknown=True), {}, None),
        (see(row(signer="vault"), leaf(NOW + DAY)), replace(CA, key=None), {"vault": "command"}, None),
        (see(row(signer="vault", ca=[]), leaf(NOW + DAY)), CA, {"vault": "command"}, None),
        (see(row(signer="api"), leaf(NOW + DAY)), replace(CA, key=None), {"api": "csr"}, None),
        (see(row(signer="k"), leaf(NOW + DAY)), replace(CA, key=None), {"k": "kubeadm"}, "the CA's key"),
        (see(row(signer="k"), leaf(NOW + DAY)), CA, {"k": "kubeadm"}, None),
        (see(row(signer="mine"), leaf(NOW + DAY)), replace(CA, key=None), {"mine": "local"}, "the CA's key"),
    ],
)
def test_an_impossible_renewal_has_its_reason(
    seen: Observation, ca: Observation, signers: dict[str, str], why: str | None
) -> None:
    """The daemon does nothing, without a message in each pass. A command reports the reason."""
    made = World((replace(ca, spec=AUTHORITY), seen), replace(POLICY, signers=signers))
    status = made.look(NOW).statuses[1]
    found = renewal_obstacle(status, {each.seen.name: each for each in made.look(NOW).trust_anchors}, made.policy)
    by_itself, asked = made.plan(NOW), made.plan(NOW, frozenset({seen.name}))
    if why is None:
        assert found is None
        assert [step.target for step in by_itself.steps] == [step.target for step in asked.steps] == [seen.name]
    else:
        assert found
        assert found.startswith(why)
        assert (by_itself.steps, by_itself.held) == ((), ())
        assert held(asked) == Held(seen.name, seen.path, found)


def test_a_file_that_went_bad_has_no_successor() -> None:
    """The dates of the last valid certificate are kept. Other rules repair the file, or have the reason why not."""
    first = World((CA, GOOD)).look(NOW)
    later = assess(Inventory((CA, LOST), FACTS), NOW, first)
    made = plan(later, POLICY, {}, Circumstances(), frozenset({"leaf"}))
    assert (
        held(made).because == "/pki/leaf.crt is not there; its entry specifies no subject; set `subject` in the entry"
    )
    assert "the file contains no certificate to renew" in (renewal_obstacle(later.statuses[1], {}, POLICY) or "")
    assert renewal_time(assess(Inventory((CA, LOST), FACTS), NOW).statuses[1], POLICY, "worker-1") is None


@pytest.mark.parametrize(
    ("mine", "other", "why"),
    [
        ({}, {}, "set `keep_key: true` in both entries"),
        ({"keep_key": True}, {}, None),
        (
            {"keep_key": True, "key_algorithm": "RSA-2048"},
            {},
            "give this entry a separate key",
        ),
        ({}, {"path": "/pki/leaf.crt"}, None),
        ({}, {"key": "/pki/other.key"}, None),
        ({}, {"kind": "key-pair", "path": "/pki/sa.pub", "usages": []}, "set `keep_key: true` in both entries"),
    ],
)
def test_a_shared_key_is_not_replaced(mine: dict[str, Any], other: dict[str, Any], why: str | None) -> None:
    """The other entry's certificate would stay without its key: neither the daemon nor a command does it."""
    key = new_key("ec")
    spec = row("other", **({"key": "/pki/leaf.key"} | other))
    seen = (CA, see(row(**mine), leaf(NOW + DAY, key=key)), see(spec, leaf(NOW + YEAR, key=key)))
    for asked in (None, frozenset({"leaf"})):
        made = World(seen).plan(NOW, asked)
        if why is None:
            assert issue(made).keep_key is bool(mine)
        else:
            assert held(made).because == f"the entry shares its key /pki/leaf.key with other; {why}"


def test_a_reference_to_a_certificate_and_its_key_shares_neither() -> None:
    """A kubeconfig that names both files has the new pair when they do. One that embeds a certificate, even the same
    one, or the key, would keep its half.
    """
    conf = row("conf", kind="kubeconfig", key=None, path="/conf")
    own = see(row(), leaf(NOW + DAY))
    refers = replace(
        see(conf, key_path="/pki/leaf.key", renewable=False, certificate_file="/pki/leaf.crt"),
        certificates=own.certificates,
    )
    assert steps(World((CA, own, refers)).plan(NOW)) == [("leaf", Cause.DUE)]
    for apart in (replace(refers, certificate_file="/conf"), replace(refers, certificate_file=None)):
        assert "shares its key /pki/leaf.key with conf" in held(World((CA, own, apart)).plan(NOW)).because
    apart = replace(refers, key_path="/conf")
    assert "shares its certificate /pki/leaf.crt with conf" in held(World((CA, own, apart)).plan(NOW)).because


def test_a_key_with_two_paths_is_one_key() -> None:
    """A key that two paths reach is shared. Two files are two keys, and do not affect each other."""
    own = see(row(), leaf(NOW + DAY), key_file="/real/key")
    other = see(row("other", key="/etc/link.key"), leaf(NOW + YEAR))
    assert "with other" in held(World((CA, own, replace(other, key_file="/real/key"))).plan(NOW)).because
    assert steps(World((CA, own, other)).plan(NOW)) == [("leaf", Cause.DUE)]


def test_files_of_one_glob_have_separate_keys() -> None:
    """They have the name of their entry, and differ by their path."""
    spec = row(path="/pki/*.pem", key="/pki/*.pem")
    files = [replace(see(spec, leaf(NOW + DAY)), path=f"/pki/{n}.pem", key_path=f"/pki/{n}.pem") for n in "ab"]
    assert steps(World((CA, *files)).plan(NOW)) == [("leaf", Cause.DUE)] * 2


# --- by a command -----------------------------------------------------------------------------------------------------


def test_a_command_renews_at_once() -> None:
    """A certificate that is not due, a recent attempt, an upgrade, and no later end do not hold it: the operator
    decides.
    """
    ca = see(AUTHORITY, make_ca(key=CA_KEY, not_after=NOW + YEAR))
    made = world(
        leaf(NOW + YEAR), leaf(NOW + DAY), ca=ca,
        past={("leaf", "/pki/leaf.crt"): Attempt(NOW, 5, "no")}, circumstances=Circumstances(hold="an upgrade"),
    )  # fmt: skip
    assert steps(made.plan(NOW, frozenset({"leaf"}))) == [("leaf", Cause.ASKED)]
    assert steps(made.plan(NOW, frozenset())) == []
    assert issue(made.plan(NOW, frozenset({"leaf"}))).detail.startswith("is requested; signer local")


def test_what_is_impossible_is_not_done_for_the_asking_either() -> None:
    """A CA that has ended signs nothing."""
    ca = see(AUTHORITY, make_ca(key=CA_KEY, not_after=NOW))
    made = world(leaf(NOW + YEAR), ca=ca)
    assert "cannot outlive its CA" in held(made.plan(NOW, frozenset({"leaf"}))).because
    assert steps(made.plan(NOW - SECOND, frozenset({"leaf"}))) == [("leaf", Cause.ASKED)]
    assert made.plan(NOW - SECOND, frozenset({"leaf"})).changes_at == NOW


# --- the text of a step -----------------------------------------------------------------------------------------------


def test_a_step_has_its_signer_its_content_and_its_restarts() -> None:
    """A service that reloads is not restarted. The kubelet does not reload a file of another writer."""
    services = [
        ServiceSpec(name="apiserver", kind="static-pod", pod="x", reloads=("leaf", "kubelet-client")),
        ServiceSpec(name="scheduler", kind="static-pod", pod="y"),
        ServiceSpec(name="kubelet", kind="systemd", unit="kubelet.service", reloads=("kubelet-client",)),
        ServiceSpec(name="proxy", kind="systemd", unit="proxy.service"),
    ]
    consumers: dict[str, Any] = {"consumers": ["kubelet", "scheduler", "apiserver"]}
    pem = replace(KUBELET, consumers=("kubelet",))
    seen = (CA, see(row(**consumers, names="DNS:${node_name}"), leaf(NOW + DAY)), see(pem, leaf(NOW + DAY, 2 * DAY)))
    made = World(seen, replace(POLICY, services=services)).plan(NOW + DAY)
    one, two = (step for step in made.steps if isinstance(step, Issue))
    assert (one.restarts, two.restarts) == (("scheduler", "kubelet"), ("kubelet",))
    assert (one.signer, one.authority, one.node, one.keep_key) == ("local", "ca", "worker-1", False)
    assert one.detail == ("is due; signer local, valid until 2027-11-25 12:00 UTC; adds the name DNS:worker-1")
    assert (one.old, one.path) == (seen[1].certificates[0], "/pki/leaf.crt")


@pytest.mark.parametrize(
    ("kind", "fields", "mine", "kept"),
    [
        ("rsa", {"keep_key": True}, True, True),
        ("rsa", {}, True, False),
        ("rsa", {"keep_key": True}, False, False),
        ("rsa-1024", {"keep_key": True}, True, False),
        ("ec-p521", {"keep_key": True}, True, False),
        ("ec", {"keep_key": True, "key_algorithm": "RSA-2048"}, True, False),
        ("ec", {"keep_key": True, "key_algorithm": "ECDSA-P256"}, True, True),
    ],
)
def test_a_key_is_kept_if_the_entry_allows_it_and_it_equals_a_new_one(
    kind: str, fields: Any, mine: bool, kept: bool
) -> None:
    """A key that is too weak, of another kind than the entry's, or of another certificate, is not kept."""
    old = leaf(NOW + DAY, key=kind, usages=["digital signature"])
    seen = see(row(**fields), old) if mine else see(row(**fields), old, key=ROOT.facts.key)
    step = issue(World((CA, seen)).plan(NOW))
    assert step.keep_key is kept
    assert step.detail.endswith("; keeps its key") is kept
    if not kept and kind == "rsa-1024":
        assert step.template.key is KeyAlgorithm.RSA_2048


@pytest.mark.parametrize(("kind", "kept"), [("kubeadm", False), ("command", True), ("csr", True), ("local", True)])
def test_no_plan_keeps_a_key_if_the_signer_makes_one(kind: str, kept: bool) -> None:
    """kubeadm makes a key. A certificate that shares its key with another entry is then held."""
    seen = see(row(keep_key=True, signer="it"), leaf(NOW + DAY, key="rsa"))
    policy = replace(POLICY, signers={"it": kind})
    step = issue(World((CA, seen), policy).plan(NOW))
    assert step.keep_key is kept
    assert step.detail.endswith("; keeps its key") is kept


def test_validity_and_key_are_those_of_the_entry_or_the_general_ones() -> None:
    """The configuration has both. A kubeconfig gets the CA certificates that it has to embed."""
    conf = row("conf", kind="kubeconfig", embedded_ca="ca", validity="5d")
    seen = (CA, see(conf, leaf(NOW + DAY, key="ec-p521"), embedded=(Embedded("/conf", (ROOT.facts,)),)), GOOD)
    policy = replace(POLICY, validity=9 * DAY, key=KeyAlgorithm.ED25519)
    one, two = (step for step in World(seen, policy).plan(NOW).steps if isinstance(step, Issue))
    assert (one.template.not_after, two.template.not_after) == (NOW + 5 * DAY, NOW + 9 * DAY)
    assert (one.template.key, two.template.key) == (KeyAlgorithm.ED25519, KeyAlgorithm.ECDSA_P256)
    assert (one.trust, two.trust) == ((ROOT.facts,), ())


def test_an_entry_with_several_cas_is_signed_by_the_first_on_the_node() -> None:
    """Its end is at most that of the CA."""
    other = row("other", ca=[], authority=True, usages="cert sign")
    seen = (CA, see(other, make_ca(not_after=NOW + 9 * DAY)), see(row(ca=["self", "absent", "other", "ca"]), leaf(NOW)))
    step = issue(World(seen).plan(NOW))
    assert (step.authority, step.template.not_after) == ("other", NOW + 9 * DAY)


@pytest.mark.parametrize("asked", [None, frozenset({"leaf", "twin", "link"})])
def test_what_is_done_to_a_file_is_done_once(asked: frozenset[str] | None) -> None:
    """A certificate that several entries name, by one path or by a symlink, is renewed by the first that can."""
    due = leaf(NOW + DAY)
    own = see(row(signer="none"), due)
    twin = see(row("twin", path="/pki/leaf.crt", key="/pki/leaf.key"), due)
    link = see(row("link"), due, certificate_file="/pki/leaf.crt", key_file="/pki/leaf.key")
    made = World((CA, own, twin, link)).plan(NOW, asked)
    assert [step.target for step in made.steps] == ["twin"]
    failed = {("twin", "/pki/leaf.crt"): Attempt(NOW, 1, "no")}
    assert World((CA, own, twin, link), past=failed).plan(NOW).steps == ()


@pytest.mark.parametrize("asked", [None, frozenset({"leaf", "twin"})])
def test_a_refused_entry_does_not_block_another(asked: frozenset[str] | None) -> None:
    """If the signing policy refuses one of two entries with the same certificate, the other one is renewed."""
    due = leaf(NOW + DAY)
    seen = (CA, see(row(), due), see(row("twin", path="/pki/leaf.crt", key="/pki/leaf.key"), due))
    assessment = World(seen).look(NOW)
    refused = replace(status_in(assessment, "leaf", "/pki/leaf.crt"), basis=Basis(barrier="it is forged"))
    statuses = tuple(refused if each.seen is refused.seen else each for each in assessment.statuses)
    made = plan(replace(assessment, statuses=statuses), POLICY, {}, Circumstances(), asked)
    assert [step.target for step in made.steps] == ["twin"]
    assert [(each.target, each.because) for each in made.held] == [
        ("leaf", "certmond does not sign the certificate with the CA's key: it is forged")
    ]


def test_each_entry_that_shares_a_certificate_is_held() -> None:
    """Two entries with one certificate and separate keys are both held."""
    due = leaf(NOW + DAY)
    seen = (CA, see(row(), due), see(row("twin"), due, certificate_file="/pki/leaf.crt"))
    made = World(seen).plan(NOW)
    assert (made.steps, [each.target for each in made.held]) == ((), ["leaf", "twin"])


@pytest.mark.parametrize("asked", [None, frozenset({"leaf", "bundles"})])
def test_a_derived_file_that_a_pattern_matches_is_not_renewed_directly(asked: frozenset[str] | None) -> None:
    """It is due with its source, and made from that alone, also through a symlink."""
    spec = row("bundles", path="/etc/app/*.pem", key=None)
    bundle = replace(see(spec, leaf(NOW + DAY)), path="/etc/app/a.pem", key_path="/etc/app/a.pem")
    link = replace(bundle, path="/etc/app/b.pem", certificate_file="/etc/app/a.pem")
    derived = Circumstances(derived={"a": ("/etc/app/a.pem", "leaf")})
    made = World((CA, see(row(), leaf(NOW + DAY)), bundle, link), circumstances=derived).plan(NOW, asked)
    assert [step.target for step in made.steps] == ["leaf", "a"]
    assert made.held == ()
    assert len(World((CA, bundle)).plan(NOW).steps) == 1


def test_a_missing_certificate_of_another_service_is_not_planned() -> None:
    """The plan has neither a step nor a hold: the finding suffices."""
    made = World((CA, see(row(renewed_by="the start of another service")))).plan(NOW)
    assert (made.steps, made.held, made.changes_at) == ((), (), None)


def test_derived_files_follow_their_source() -> None:
    """They are made after a renewal of their source, and when they are out of date. A command for the source also makes
    them.
    """
    derived = {name: (f"/etc/{name}", source) for name, source in {"a": "leaf", "b": "leaf-1", "c": "leaf-1"}.items()}
    stale = {"a": "is old", "b": "/etc/b is not as leaf-1 is"}
    made = world(leaf(NOW + DAY), leaf(NOW + YEAR), circumstances=Circumstances(None, stale, derived))
    _, one, two = made.plan(NOW).steps
    assert one == Derive("a", "/etc/a", "leaf", Cause.SOURCE_CHANGED, "leaf is renewed")
    assert two == Derive("b", "/etc/b", "leaf-1", Cause.SOURCE_CHANGED, "/etc/b is not as leaf-1 is")
    asked = made.plan(NOW, frozenset({"leaf-1"}))
    assert [step.target for step in asked.steps] == ["leaf-1", "b", "c"]


def test_the_services_that_read_a_derived_file_restart() -> None:
    """The step names the consumers of the entry with the path of the derived file, except those that reload it."""
    policy = replace(POLICY, services=(
        ServiceSpec(name="web", kind="systemd", unit="web.service"),
        ServiceSpec(name="app", kind="systemd", unit="app.service", reloads=("bundle",)),
    ))  # fmt: skip
    bundle = see(row("bundle", path="/bundle.pem", key="/bundle.pem", consumers=["web", "app"]), leaf(NOW + DAY))
    derived = Circumstances(None, {}, {"made": ("/bundle.pem", "leaf")})
    seen = (CA, see(row(), leaf(NOW + DAY)), bundle)
    issued, written = World(seen, policy, circumstances=derived).plan(NOW).steps
    assert issued.target == "leaf"
    assert written == Derive("made", "/bundle.pem", "leaf", Cause.SOURCE_CHANGED, "leaf is renewed", ("web",))


# --- until when a plan holds ------------------------------------------------------------------------------------------

SPANS = st.sampled_from([SECOND, 90 * SECOND, MINUTE, HOUR, DAY, 7 * DAY, 10 * DAY, 30 * DAY, 90 * DAY, YEAR])
OFFSETS = st.builds(lambda span, times: span * times, SPANS, st.integers(-4, 4))
INSTANTS = OFFSETS.map(lambda offset: NOW + offset)


@st.composite
def attempts(draw: st.DrawFn, certificate: Certificate) -> Attempt:
    at = draw(INSTANTS)
    match draw(st.sampled_from(["mine", "another's", "failed", "waits"])):
        case "mine":
            return Attempt(at, sha256=certificate.sha256)
        case "another's":
            return Attempt(at, sha256="another")
        case "failed":
            return Attempt(at, draw(st.integers(1, 9)), "no")
        case _:
            return Attempt(at, message="wait", wait_until=at + abs(draw(OFFSETS)))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A node with up to four certificates in whatever state, and any past."""
    ca = see(
        AUTHORITY, make_ca(key=CA_KEY, not_before=NOW - 9 * YEAR, not_after=draw(INSTANTS | st.just(NOW + 9 * YEAR)))
    )
    seen, past = [ca], {}
    for number in range(draw(st.integers(1, 4))):
        fields: dict[str, Any] = {"renew_before": draw(st.sampled_from([None, "1h", "60d"]))}
        fields["validity"] = draw(st.sampled_from([None, "90s", "2h", "10d", "400d"]))
        if draw(st.integers(0, 3)) == 0:
            fields |= {"kind": "kubelet", "key": None}
        spec = row(f"leaf-{number}", **fields)
        one, other = sorted((draw(INSTANTS), draw(INSTANTS)))
        found = see(spec, make_leaf(ROOT, key=KEY, not_before=one, not_after=max(other, one + SECOND)))
        found = replace(found, symlink=draw(st.booleans()) if spec.kind == "kubelet" else None)
        seen.append(found)
        if draw(st.booleans()):
            past[found.identity] = draw(attempts(found.certificates[0]))
    return World(
        tuple(seen),
        Policy(validity=draw(st.sampled_from([HOUR, 30 * DAY, YEAR])), spread=draw(SPANS)),
        past,
        Circumstances(draw(st.none() | st.just("an upgrade")), clock=draw(st.none() | st.just("the clock"))),
        {"node_name": draw(st.sampled_from(["a", "b", "c", "d"]))},
    )


def essence(made: Plan) -> tuple[Any, ...]:
    """Return the steps and holds without the dates of new certificates."""
    return [(s.target, s.cause, s.restarts, s.keep_key) if isinstance(s, Issue) else s for s in made.steps], made.held


@pytest.mark.long
@settings(deadline=None, max_examples=examples(300))
@given(worlds(), INSTANTS, st.none() | st.integers(0, 30), st.lists(st.floats(0, 1), max_size=3))
def test_a_plan_is_constant_until_its_next_change(
    made: World, now: datetime, number: int | None, shares: list[float]
) -> None:
    """At every instant before `changes_at` the plan is the same, and without it without limit: the daemon sleeps until
    then.
    """
    known = edges(made)
    start = now if number is None else known[number % len(known)]
    first = made.plan(start)
    assert first.changes_at is None or first.changes_at > start
    end = first.changes_at or start + 20 * YEAR
    later = {end - TICK, *(start + (end - TICK - start) * share for share in shares)}
    for instant in later | {edge for edge in known if start < edge < end}:
        assert essence(made.plan(instant)) == essence(first), instant


def edges(made: World) -> list[datetime]:
    """Instants at which something might change."""
    found = [status.renew_at for status in made.look(NOW).statuses if status.renew_at]
    for certificate in (each.certificates[0] for each in made.seen):
        found += [certificate.not_before, certificate.not_after, certificate.not_after + TICK]
        found += [critical_point(certificate)]
    found += [instant for attempt in made.past.values() for instant in (attempt.at, attempt.retry_at)]
    return sorted(found)


@pytest.mark.long
@settings(deadline=None, max_examples=examples(250))
@given(worlds(), INSTANTS, st.data())
def test_a_renewed_certificate_is_not_renewed_again_whatever_the_clock_does(
    made: World, now: datetime, data: st.DataObject
) -> None:
    """This holds at the same instant, within the hour, and after a jump back of the clock, unless the new one is not
    valid yet. It also holds if its signer issued a nearly expired certificate with an old start.
    """
    first = made.plan(now)
    given: dict[str, Any] = {}
    if data.draw(st.booleans()):
        given = {"not_before": now.replace(microsecond=0) - abs(data.draw(OFFSETS)) - SECOND}
        given["not_after"] = now.replace(microsecond=0) + SECOND + abs(data.draw(OFFSETS))
    done = made.after(first, now, **given)
    targets = {step.target for step in first.steps}
    for later in (now, now + MIN_INTERVAL - TICK, now + min(data.draw(OFFSETS), MIN_INTERVAL - TICK)):
        again = {
            step.target for step in done.plan(later).steps if later >= now or step.cause is not Cause.NOT_YET_VALID
        }
        assert not again & targets, later


@pytest.mark.long
@settings(deadline=None, max_examples=40)
@given(worlds(), INSTANTS, st.sampled_from([{}, {"not_before": NOW - 9 * YEAR}]))
def test_a_daemon_that_wakes_when_its_plan_says_never_falls_into_a_loop(
    made: World, now: datetime, given: dict[str, Any]
) -> None:
    """Each certificate is not renewed again within an hour, and the clock always advances."""
    last: dict[str, datetime] = {}
    for _ in range(12):
        wanted = made.plan(now)
        for step in wanted.steps:
            assert now - last.get(step.target, now - YEAR) >= MIN_INTERVAL
            last[step.target] = now
        made = made.after(wanted, now, **given)
        after = made.plan(now)
        assert after.steps == ()
        if after.changes_at is None:
            break
        assert after.changes_at > now
        now = after.changes_at


def test_a_server_certificate_is_planned_like_any_other() -> None:
    """The usage of a certificate does not affect its renewal."""
    server = make_server(ROOT, key=KEY, not_before=NOW - YEAR, not_after=NOW + DAY)
    assert steps(World((CA, see(row(usages="server auth"), server))).plan(NOW)) == [("leaf", Cause.DUE)]


# --- the consumers ----------------------------------------------------------------------------------------------------


def test_the_consumers_of_the_node_take_precedence() -> None:
    """Flags of running processes take precedence over the configured list. The kubelet does not reload a file of
    another writer.
    """
    spec = row(consumers=["listed", "reloading"])
    services = tuple(
        ServiceSpec(name=name, kind="systemd", unit=f"{name}.service", reloads=("leaf",) if name == "reloading" else ())
        for name in ("listed", "reloading", "flagged")
    )
    policy = replace(POLICY, services=services)
    made = world(leaf(NOW), spec=spec, policy=policy)
    assert issue(made.plan(NOW)).restarts == ("listed",)
    survey = Survey({"flagged": {"/pki/leaf.crt": Use(False, "--x")}, "listed": {}, "reloading": {}})
    around = Surroundings(services, survey)
    seen = assess(Inventory(made.seen, FACTS), NOW, around=around)
    assert issue(plan(seen, policy, {}, Circumstances())).restarts == ("flagged",)
    kubelet = row("leaf", kind="kubelet", key=None, path="/kubelet/current.pem", consumers="reloading")
    assert issue(world(leaf(NOW), spec=kubelet, policy=policy).plan(NOW)).restarts == ("reloading",)


def test_after_a_failed_restart_nothing_new_is_issued() -> None:
    """A new certificate would fail again. A command issues it as another attempt."""
    services = (ServiceSpec(name="web", kind="systemd", unit="web.service"),)
    made = world(leaf(NOW), spec=row(consumers="web"))
    past = Past("web", None, NOW, Result.TAKEN_BACK, "web did not come up", ("leaf",), "2", {"/pki/leaf.crt": "x"})
    contents = {"/pki/leaf.crt": Content("x", NOW)}
    seen = assess(
        Inventory(made.seen, FACTS), NOW, around=Surroundings(services, contents=contents, past={"web": past})
    )
    assert (
        held(plan(seen, POLICY, {}, Circumstances())).because == "web did not come up; see: certmond "
        "explain restart_failed"
    )
    asked = plan(seen, POLICY, {}, Circumstances(), frozenset({"leaf"}))
    assert steps(asked) == [("leaf", Cause.ASKED)]


def test_writes_and_restarts_are_separate() -> None:
    """So all writes precede all restarts."""
    write = issue(world(leaf(NOW)).plan(NOW))
    restart = Restart(ServiceSpec(name="web", kind="systemd", unit="web.service"), (), Cause.RENEWED, "")
    assert Plan((write, restart)).writes == (write,)


# --- a CA that is being replaced --------------------------------------------------------------------------------------

OUT = {("leaf", "/pki/leaf.crt"): ROOT.facts}
"""The certificates to issue again, with their anchor."""
LASTING = leaf(NOW + 300 * DAY)
NOTHING = Circumstances()


def rotated(
    now: datetime = NOW, past: Attempt | None = None, of: World | None = None, around: Circumstances = NOTHING
) -> Plan:
    """Return the plan for a certificate that is of the old CA, and otherwise valid."""
    of = of or world(LASTING)
    attempts = {("leaf", "/pki/leaf.crt"): past} if past else {}
    return plan(of.look(now), of.policy, attempts, around, reissue=OUT)


def test_a_certificate_of_the_old_ca_is_issued_again_whatever_its_dates() -> None:
    """The new one must be of the new CA. Other certificates stay, and a command issues by the present CA."""
    made = rotated(of=world(LASTING, leaf(NOW + 300 * DAY, key=new_key())))
    step = issue(made)
    assert (step.target, step.cause, step.under) == ("leaf", Cause.ROTATION, ROOT.facts)
    assert step.detail.startswith("is signed by the old CA; signer local, valid until ")
    of = world(LASTING)
    by_hand = issue(plan(of.look(NOW), of.policy, {}, Circumstances(), frozenset({"leaf"}), reissue=OUT))
    assert (by_hand.cause, by_hand.under) == (Cause.ASKED, None)
    assert issue(world(leaf(NOW + DAY)).plan(NOW)).under is None


@pytest.mark.parametrize(
    ("kind", "promise"), [("local", "valid"), ("kubeadm", "valid"), ("command", "validity requested"),
                          ("csr", "validity requested")],
)  # fmt: skip
def test_the_end_of_a_certificate_from_an_external_signer_is_a_request(kind: str, promise: str) -> None:
    """An external signer can issue a certificate with another end, so the step states the end as a request."""
    seen = (CA, see(row(signer="site"), leaf(NOW + DAY)))
    made = World(seen, replace(POLICY, signers={"site": kind})).plan(NOW + DAY)
    assert f"; signer site, {promise} until 2027-11-25 12:00 UTC" in issue(made).detail


@pytest.mark.parametrize("kind", ["local", "kubeadm", "command", "csr"])
@pytest.mark.parametrize("asked", [None, frozenset({"leaf"})])
def test_during_a_rotation_an_external_signer_must_sign_with_the_ca_of_the_phase(
    kind: str, asked: frozenset[str] | None
) -> None:
    """An external signer can have the key of the new CA before all components trust this CA, so every renewal requires
    the CA that signs in the phase. The key on this node is always the key of this CA.
    """
    of = world(leaf(NOW + DAY), spec=row(signer="site"), policy=replace(POLICY, signers={"site": kind}))
    made = plan(of.look(NOW), of.policy, {}, Circumstances(), asked, signing={"ca": ROOT.facts})
    assert issue(made).under == (ROOT.facts if kind in {"command", "csr"} else None)
    assert issue(plan(of.look(NOW), of.policy, {}, Circumstances(), asked)).under is None


def test_a_recent_renewal_does_not_delay_a_rotation_for_an_hour() -> None:
    """Its result was of the old CA. The delay of a minute protects a signer that still uses the old CA."""
    for past in (Attempt(NOW, sha256="x"), Attempt(NOW + 30 * SECOND, sha256="x", issued_at=NOW)):
        waiting = held(rotated(NOW + MINUTE - TICK, past))
        assert waiting.until == NOW + MINUTE
        assert waiting.because.endswith(", but the certificate is signed by the old CA")
        assert steps(rotated(NOW + MINUTE, past)) == [("leaf", Cause.ROTATION)]
    assert rotated(NOW + SECOND, Attempt(NOW)).changes_at == NOW + MINUTE


def test_a_failure_in_a_rotation_has_the_usual_backoff() -> None:
    """The delay doubles each time. certmond asks an undecided signer at the time that it named."""
    failing = Attempt(NOW, failures=3, message="no")
    assert held(rotated(NOW + MINUTE, failing)).until == NOW + 4 * MINUTE
    assert steps(rotated(NOW + 4 * MINUTE, failing)) == [("leaf", Cause.ROTATION)]
    pending = Attempt(NOW, message="pending", wait_until=NOW + HOUR)
    assert held(rotated(NOW + 2 * MINUTE, pending)).until == NOW + HOUR


@pytest.mark.parametrize("around", [Circumstances(hold="not now"), Circumstances(clock="not now")])
def test_a_rotation_waits_for_the_host_until_the_certificate_gets_critical(around: Circumstances) -> None:
    """The rule is that of every renewal."""
    late = critical_point(LASTING.facts)
    waiting = held(rotated(late - TICK, around=around))
    assert (waiting.because, waiting.until) == ("not now", late)
    assert steps(rotated(late, around=around)) == [("leaf", Cause.ROTATION)]


def test_a_rotation_needs_no_later_end_but_a_valid_ca() -> None:
    """The new CA may end before the replaced certificate would have."""
    short = make_ca(key=CA_KEY, not_before=NOW - DAY, not_after=NOW + 30 * DAY)
    assert steps(rotated(of=world(LASTING, ca=see(AUTHORITY, short)))) == [("leaf", Cause.ROTATION)]
    ended = make_ca(key=CA_KEY, not_before=NOW - DAY, not_after=NOW - HOUR)
    because = held(rotated(of=world(LASTING, ca=see(AUTHORITY, ended)))).because
    assert "a new certificate cannot outlive its CA" in because


def test_a_certificate_that_cannot_be_issued_again_holds_the_rotation() -> None:
    """The hold has the reason, so that an operator can act."""
    assert held(rotated(of=world(LASTING, spec=row(signer="none")))).because.startswith(
        "its entry has `signer: none`; "
    )
