"""Due certificates without a step, and critical findings that no step clears."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.observation import Inventory, Observation, Permissions
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.findings import Fault, Finding, Reason, Severity
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.remaining_work import RemainingWork, Waiting, remaining_work
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.steps import AbsentFile, Cause, Derive, Plan, Restart, Rotate
from certmond.pki.services.restart_episode import Target
from certmond.pki.services.staleness import Presence
from tests.builders import DAY, NOW, YEAR, make_ca
from tests.pki.assessment.test_repairable_damage import GONE
from tests.pki.planning.test_renewals import AUTHORITY, CA, FACTS, KUBELET, POLICY, ROOT, TICK, World, leaf, row, see

NO_KEY = see(replace(AUTHORITY, key_optional=True), ROOT, key=None)
FACT = "the CA's key /pki/ca.key is not on this node, or does not match the CA"
OPEN = Permissions("/pki/leaf.key", 0o644, "root:root", (0, 0), True)


def look(*seen: Observation, presence: Presence | None = None) -> Assessment:
    """Return the assessment of these files. `presence` is the state of the services of the first certificate."""
    made = assess(Inventory(seen, FACTS), NOW)
    if presence is None:
        return made
    first, *rest = made.statuses
    findings = (*first.findings, *presence.findings)
    return replace(made, statuses=(replace(first, presence=presence, findings=findings), *rest))


def left(*seen: Observation, policy: Policy = POLICY, made: Plan | None = None, **fields: Any) -> RemainingWork:
    """Return the work that the plan for these files leaves."""
    assessment = look(*seen)
    found = made or plan(assessment, policy, fields.pop("past", {}), Circumstances(**fields))
    return remaining_work(assessment, found, policy)


def reasons(found: RemainingWork) -> list[tuple[str, Reason]]:
    return [(status.seen.name, item.reason) for item, status in found.unresolved]


def test_a_plan_with_all_steps_leaves_nothing() -> None:
    """A step renews an expired certificate, repairs a damaged certificate, and clears their critical findings."""
    assert left(CA, see(row(), leaf(NOW - DAY))) == RemainingWork()
    assert left(CA, GONE) == RemainingWork()
    assert left(CA, see(row(), leaf(NOW + YEAR))) == RemainingWork()


def test_a_due_certificate_without_the_key_of_its_ca_waits() -> None:
    """The result has the obstacle with its remedy, from the renewal point on."""
    waiting = Waiting("leaf", "/pki/leaf.crt", f"{FACT}; restore the key, or choose another signer")
    for days, expected in ((31, ()), (30, (waiting,)), (20, (waiting,))):
        assert left(NO_KEY, see(row(), leaf(NOW + days * DAY))).waiting == expected


def test_a_certificate_of_the_future_without_the_key_of_its_ca_waits() -> None:
    """No component accepts this certificate now."""
    found = left(NO_KEY, see(row(), leaf(NOW + 9 * YEAR)))
    assert [each.target for each in found.waiting] == ["leaf"]
    assert reasons(found) == [("leaf", Reason.NOT_YET_VALID)]


def test_a_critical_finding_has_the_reason_of_the_missing_step() -> None:
    """The command of the finding would fail, so the message has the obstacle instead."""
    found = left(NO_KEY, see(row(), leaf(NOW - DAY)))
    ((item, _),) = found.unresolved
    assert item.reason is Reason.EXPIRED
    assert item.message == f"/pki/leaf.crt expired on 2026-11-23 12:00 UTC; {found.waiting[0].because}"


def test_a_certificate_that_another_component_renews_names_this_component() -> None:
    """Its hold is in the plan already. The certificate waits for the other component, as does a certificate that the
    kubelet rotates.
    """
    (waits,) = left(CA, see(row(renewed_by="an operator"), leaf(NOW + DAY))).waiting
    assert waits.renewed_by == "an operator"
    assert waits.because == "certmond does not renew this certificate; it is renewed by an operator"
    rotated = replace(see(KUBELET, leaf(NOW + DAY)), symlink=True)
    assert [each.renewed_by for each in left(NO_KEY, rotated).waiting] == ["the kubelet"]
    assert [each.renewed_by for each in left(NO_KEY, replace(rotated, symlink=False)).waiting] == [None]


STAGED = "create a CA on a node that has its key, and stage the certificate here: certmond root-ca stage CERT, then"


@pytest.mark.parametrize(
    ("end", "keyed", "remedy"),
    [
        (NOW + 20 * DAY, True, "rotate it: certmond root-ca stage --generate, then"),
        (NOW - DAY, True, "rotate it: certmond root-ca stage --reuse-key, then"),
        (NOW + 20 * DAY, False, STAGED),
    ],
)
def test_a_ca_waits_for_its_rotation(end: datetime, keyed: bool, remedy: str) -> None:
    """No step renews a CA. The remedy is the command that rotates the CA. A node without the key creates no CA."""
    ending = see(AUTHORITY, make_ca(not_before=NOW - YEAR, not_after=end))
    (waits,) = left(ending if keyed else replace(ending, key=None)).waiting
    assert (waits.target, waits.because) == ("ca", f"this certificate is a CA; {remedy}: certmond root-ca rotate")


def test_a_hold_with_an_end_needs_no_operator() -> None:
    """certmond plans again at this time, so the critical finding is not unresolved."""
    failed = {("leaf", "/pki/leaf.crt"): Attempt(NOW, 1, "no such key")}
    found = left(CA, see(row(), leaf(NOW - DAY)), past=failed)
    (waits,) = found.waiting
    assert waits.until is not None
    assert found.unresolved == ()
    held = left(CA, see(row(), leaf(NOW - DAY)), clock="the clock is not synchronized")
    assert (held.waiting[0].until, reasons(held)) == (None, [("leaf", Reason.EXPIRED)])


def test_an_entry_of_the_same_file_has_no_second_line() -> None:
    """The step of one entry also renews the certificate of the other entry."""
    other = see(row("copy", path="/pki/leaf.crt", key="/pki/leaf.key", signer="none"), leaf(NOW + DAY))
    assert [each.target for each in left(CA, other).waiting] == ["copy"]
    assert left(CA, see(row(), leaf(NOW + DAY)), other) == RemainingWork()
    derived = Plan((Derive("copy", "/pki/leaf.crt", "x", Cause.SOURCE_CHANGED, ""),))
    assert left(CA, see(row(), leaf(NOW + DAY)), made=derived) == RemainingWork()


def test_a_due_certificate_without_obstacle_is_not_listed() -> None:
    """The plan might not contain its step yet, because the steps of a rotation come first."""
    assert left(CA, see(row(), leaf(NOW + DAY)), made=Plan()).waiting == ()


def test_a_finding_that_no_renewal_clears_needs_an_operator() -> None:
    """A key that other users can read stays readable after a renewal, so its message has no reason why the certificate
    is not renewed. A finding without a certificate counts too.
    """
    found = left(CA, replace(see(row(), leaf(NOW + DAY)), permissions=(OPEN,)))
    assert reasons(found) == [("leaf", Reason.TOO_OPEN)]
    waiting = left(NO_KEY, replace(see(row(), leaf(NOW + DAY)), permissions=(OPEN,)))
    assert waiting.waiting
    assert waiting.unresolved[0][0].message == found.unresolved[0][0].message
    missing = Observation("ca", AUTHORITY, "/pki/ca.crt", (), faults=(Fault(Reason.MISSING, "/pki/ca.crt is missing"),))
    assert ("ca", Reason.MISSING) in reasons(left(missing))


def test_a_restart_clears_the_findings_about_its_service() -> None:
    """Without the restart, the finding is unresolved. A restart clears no finding about a file."""
    gone = Finding(Reason.SERVED_DIFFERS, Severity.CRITICAL, "an old certificate is served")
    opened = replace(see(row(), leaf(NOW + YEAR)), permissions=(OPEN,))
    assessment = look(opened, CA, presence=Presence(findings=(gone,)))
    assert reasons(remaining_work(assessment, Plan(), POLICY)) == [
        ("leaf", Reason.TOO_OPEN), ("leaf", Reason.SERVED_DIFFERS),
    ]  # fmt: skip
    service = ServiceSpec(name="s", kind="systemd", unit="s.service")
    restart = Restart(service, (Target("leaf", "/pki/leaf.crt", {}),), Cause.SERVED_DIFFERS, "")
    assert reasons(remaining_work(assessment, Plan((restart,)), POLICY)) == [("leaf", Reason.TOO_OPEN)]


def test_a_restart_renews_the_certificate_of_its_service() -> None:
    """A service that issues the certificate again at its start clears `expired`."""
    spec = row(renewed_by="k3s, at a start", consumers=["k3s"], renewed_at_start="90d")
    service = ServiceSpec(name="k3s", kind="systemd", unit="k3s.service")
    made = Plan((Restart(service, (Target("leaf", "/pki/leaf.crt", {}),), Cause.RENEWED_AT_START, ""),))
    assert left(CA, see(spec, leaf(NOW - DAY)), made=made) == RemainingWork()
    assert reasons(left(CA, see(spec, leaf(NOW - DAY)), made=Plan())) == [("leaf", Reason.EXPIRED)]
    assert reasons(left(NO_KEY, see(row(), leaf(NOW - DAY)), made=made)) == [("leaf", Reason.EXPIRED)]


def test_the_steps_of_a_rotation_count_for_their_files() -> None:
    """`root_ca_changed` is unresolved until the plan contains the steps that make the node trust both CAs."""
    found = Finding(Reason.ROOT_CA_CHANGED, Severity.CRITICAL, "another CA replaced the CA")
    assessment = look(CA, presence=Presence(findings=(found,)))
    rotate = Plan((Rotate("ca", "/pki/ca.crt", "", (AbsentFile("/pki/ca.crt"),)),))
    assert reasons(remaining_work(assessment, Plan(), POLICY)) == [("ca", Reason.ROOT_CA_CHANGED)]
    assert remaining_work(assessment, rotate, POLICY) == RemainingWork()


def test_the_last_certificate_of_a_broken_file_is_not_due() -> None:
    """Its finding reports the broken file, and its dates are those of a certificate that is not there."""
    before = World((NO_KEY, see(row(), leaf(NOW + DAY)))).look(NOW)
    assessment = assess(Inventory((NO_KEY, GONE), FACTS), NOW + TICK, before)
    found = remaining_work(assessment, plan(assessment, POLICY, {}, Circumstances()), POLICY)
    assert found.waiting == ()
