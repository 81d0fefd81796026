"""The obstacles that would block a rotation after the exchange of keys, and the phases in which it waits instead."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.assessment.validity_rules import critical_point
from certmond.pki.planning.steps import Plan
from certmond.pki.rotation.phase_conditions import open_conditions
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.rotation.rotation_holds import Hold, HoldReason, holds, waits_here
from certmond.pki.services.restart_episode import Past, Result
from certmond.pki.services.service_observation import Content, Live
from certmond.pki.services.staleness import Surroundings
from tests.builders import DAY, NOW, SECOND, make_leaf
from tests.pki.rotation_node import NEW, OLD, PLANNED, at, conf, ground, judged, leaf, row, see

UPGRADE = Hold(HoldReason.FILE, "held while /upgrade is there", "an upgrade", "rm /upgrade", NOW - SECOND)
CLOCK = Hold(HoldReason.CLOCK, "held until the clock is synchronised", "NTP", "timedatectl set-ntp true")
REASONS = HoldReason


def found(
    rotation: Rotation = PLANNED, seen: Assessment | None = None, around: Surroundings | None = None, **given: Any
) -> list[Hold]:
    terms: dict[str, Any] = {"upgrade": None, "clock": None, "past": {}} | given
    seen = seen or judged(leaf(OLD))
    return list(holds(rotation, seen, around or Surroundings(), terms.pop("past"), **terms))


def test_nothing_holds_a_node_that_is_well() -> None:
    assert found() == []


def test_a_hold_of_the_host_lasts_while_a_leaf_would_wait_for_it() -> None:
    """It ends when the last leaf becomes critical, because leaves are then issued in any case. A clock does not hold a
    rotation that issues nothing. An upgrade does, because of the restarts.
    """
    seen = judged(leaf(OLD))
    until = max(critical_point(s.certificate) for s in seen.certificates if s.certificate and s.seen.name == "leaf")
    both: dict[str, Any] = {"upgrade": UPGRADE, "clock": CLOCK}
    assert found(seen=seen, **both) == [replace(UPGRADE, until=until), replace(CLOCK, until=until)]
    late = judged(see(row(), make_leaf(OLD, "leaf", not_before=NOW - 300 * DAY, not_after=NOW + DAY)))
    assert found(seen=late, **both) == []
    assert [each.reason for each in found(replace(PLANNED, mode=Mode.REISSUE), **both)] == [REASONS.FILE]
    assert [each.reason for each in found(seen=judged(), **both)] == [REASONS.FILE]


def test_a_leaf_of_another_ca_does_not_count() -> None:
    """This rotation issues only certificates of the old CA."""
    other = judged(leaf(OLD), see(row("other", ca="etcd-ca"), make_leaf(NEW, "other")))
    assert [each.reason for each in found(seen=other, clock=CLOCK)] == [REASONS.CLOCK]
    assert found(seen=judged(see(row("other", ca="etcd-ca"), make_leaf(NEW, "other"))), clock=CLOCK) == []


def test_a_failed_restart_holds() -> None:
    """The hold has the failure, its time, and the command that tries again: the next phase would be blocked."""
    contents = {"/pki/leaf.crt": Content("x", NOW - DAY)}
    bad = Past("web", None, NOW - SECOND, Result.FAILED, "web did not come up", ("leaf",), "1", {"/pki/leaf.crt": "x"})
    around = Surroundings(contents=contents, past={"web": bad})
    (hold,) = found(seen=judged(leaf(OLD), around=around), around=around)
    assert (hold.reason, hold.fact, hold.since) == (REASONS.RESTART_FAILED, "web did not come up", NOW - SECOND)
    assert hold.command == "certmond restart web"
    good = Surroundings(contents=contents, past={"web": replace(bad, result=Result.PROVEN)})
    assert found(seen=judged(leaf(OLD), around=good), around=good) == []


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_a_failed_renewal_holds_until_its_next_attempt(failures: int) -> None:
    """A leaf that could not be issued a moment ago would block `issue` until that instant."""
    tried = Attempt(NOW - SECOND, failures, "no room")
    past = {("leaf", "/pki/leaf.crt"): tried}
    if not failures:
        assert found(past=past) == []
        return
    (hold,) = found(past=past)
    assert (hold.reason, hold.since, hold.until) == (REASONS.RENEWAL_FAILED, tried.at, tried.retry_at)
    often = "once:" if failures == 1 else f"{failures} times, the last time with:"
    assert f"failed {often} no room" in hold.fact
    assert hold.command == "certmond renew leaf"
    assert found(past={("leaf", "/pki/leaf.crt"): replace(tried, at=NOW - timedelta(hours=2))}) == []
    assert found(seen=judged(leaf(NEW)), past=past) == []


@pytest.mark.parametrize(
    ("rotation", "phases"),
    [
        (PLANNED, {Phase.PREPARE, Phase.DETACH, Phase.TRUST}),
        (replace(PLANNED, family="etcd-ca"), {Phase.PREPARE, Phase.TRUST}),
        (replace(PLANNED, mode=Mode.REPLACE), {Phase.PREPARE}),
        (replace(PLANNED, mode=Mode.REISSUE), {Phase.PREPARE}),
        (replace(PLANNED, found=True), set()),
        (replace(PLANNED, aborted=True), set()),
    ],
    ids=["overlap", "etcd", "at once", "same key", "found", "back"],
)
def test_the_phases_that_wait_for_a_hold(rotation: Rotation, phases: set[Phase]) -> None:
    """A rotation waits before the keys are exchanged, and never after. It does not wait if the exchange has happened
    already, or in an abort.
    """
    from certmond.pki.rotation.phases import sequence

    assert {phase for phase in sequence(rotation) if waits_here(replace(rotation, phase=phase))} == phases


@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.TRUST])
def test_a_hold_blocks_the_phase(phase: Phase) -> None:
    """A hold of the rotation prevents the report of the phase, with the whole reason: its start, its end or its
    dependency, and the command that ends it.
    """
    trust = (OLD,) if phase is Phase.PREPARE else (OLD, NEW)
    around = Surroundings(live=Live(NOW))
    seen = judged(conf(*trust, issuer=OLD), trust=trust, around=around)
    here = ground(*trust)
    held = Plan(held=(replace(UPGRADE, until=NOW + DAY).held(here),))
    assert list(open_conditions(at(phase), here, seen, around, Plan())) == []
    (said,) = open_conditions(at(phase), here, seen, around, held)
    assert said == (
        "held while /upgrade is there since 2026-11-24 11:59:59 UTC, until 2026-11-25 12:00:00 UTC at the latest; "
        "the end of this hold depends on an upgrade; run: rm /upgrade"
    )
