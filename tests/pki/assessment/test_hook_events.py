"""The events for a hook: exactly the unknown ones, in an order that leaves the receiver with the current state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.assessment.assess import assess
from certmond.pki.assessment.hook_events import Due, Key, Notice, due, next_repeat, open_findings, selected_findings
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation, Permissions
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Fault, Reason, Severity
from tests.builders import DAY, HOUR, NOW, SECOND, make_ca, make_leaf

INFO, WARNING, CRITICAL = Severity


def notice(name: str = "a", severity: Severity = WARNING, reason: str = "too_open", **more: object) -> Notice:
    return replace(Notice(name, f"/{name}", reason, severity, "because", NOW), **more)  # type: ignore[arg-type]


def known(*notices: Notice) -> dict[Key, Notice]:
    return {each.key: each for each in notices}


def steps(want: Iterable[Notice], reported: Iterable[Notice], *, settled: bool = True) -> list[Due]:
    return list(due(known(*want), known(*reported), NOW, settled=settled, at=NOW))


notices = st.builds(
    notice, st.sampled_from("abc"), st.sampled_from(list(Severity)), st.sampled_from(["expired", "too_open"])
)
some = st.lists(notices, unique_by=lambda each: each.subject)


@given(some, some)
def test_a_hook_that_received_all_due_events_has_the_current_state(want: list[Notice], reported: list[Notice]) -> None:
    """Whatever a hook had received, it has the current findings when no event is due, each event once."""
    knows, heard = known(*reported), list[tuple[str, Key]]()
    while found := list(due(known(*want), knows, NOW, settled=True, at=NOW)):
        step = found[0]
        heard.append(step.key)
        if step.event == "raised":
            knows[step.notice.key] = step.notice
        else:
            del knows[step.notice.key]
    assert knows.keys() == known(*want).keys()
    assert len(heard) == len(set(heard))
    assert {key for event, key in heard if event == "cleared"} == known(*reported).keys() - known(*want).keys()


@given(some, some)
def test_a_receiver_that_keeps_subjects_only_ends_with_the_current_state(
    want: list[Notice], reported: list[Notice]
) -> None:
    """A receiver with one alarm per certificate and reason, whatever the severity, has the current ones at the end."""
    knows, alarms = known(*reported), {each.subject for each in reported}
    while found := list(due(known(*want), knows, NOW, settled=True, at=NOW)):
        step = found[-1]  # in the worst order that is allowed
        if step.event == "raised":
            knows[step.notice.key] = step.notice
            alarms.add(step.notice.subject)
        else:
            del knows[step.notice.key]
            alarms.discard(step.notice.subject)
    assert alarms == {each.subject for each in want}


def test_cleared_events_precede_raised_ones_by_severity() -> None:
    """Cleared precedes raised. Raised events are ordered by severity, then by their first observation."""
    old, gone = notice("old", WARNING, at=NOW - DAY), notice("gone")
    found = steps([notice("new", WARNING), old, notice("bad", CRITICAL)], [gone])
    assert [(each.event, each.notice.certificate) for each in found] == [
        ("cleared", "gone"), ("raised", "bad"), ("raised", "old"), ("raised", "new"),
    ]  # fmt: skip


def test_a_finding_that_becomes_more_severe_is_cleared_before_it_is_raised() -> None:
    """While the old severity has not been cleared, the new one is not raised."""
    warning, critical = notice(severity=WARNING), notice(severity=CRITICAL)
    assert [each.event for each in steps([critical], [warning])] == ["cleared"]
    assert steps([critical], [warning], settled=False) == []
    assert [each.event for each in steps([critical], [])] == ["raised"]


def test_nothing_is_cleared_before_the_first_complete_scan() -> None:
    """Until the node is settled, a finding may only seem to be absent. A new one is raised."""
    assert [each.event for each in steps([notice("b")], [notice("a")], settled=False)] == ["raised"]


def test_a_cleared_event_has_the_time_of_its_pass() -> None:
    """`at` of a cleared finding is the pass without it, with the sentence of its raised event."""
    (step,) = due({}, known(notice(message="old")), NOW, settled=True, at=NOW + HOUR)
    assert (step.notice.at, step.notice.message) == (NOW + HOUR, "old")


def test_an_open_finding_is_repeated_on_request() -> None:
    """With `repeat` an event is due again after that time, also after the clock was set back. Without it, never."""
    reported = known(notice("a", told_at=NOW - HOUR), notice("b", told_at=NOW), notice("later", told_at=NOW + DAY))
    assert [
        each.notice.certificate
        for each in due(reported, reported, NOW, settled=True, at=NOW, repeat=timedelta(hours=1))
    ] == ["a", "later"]
    assert not list(due(reported, reported, NOW, settled=True, at=NOW))
    assert not list(due({}, reported, NOW, settled=False, at=NOW, repeat=timedelta(hours=1)))
    assert next_repeat(reported, timedelta(hours=1)) == NOW
    assert next_repeat({}, timedelta(hours=1)) is None


def test_the_number_of_findings_has_a_limit_and_keeps_the_worst() -> None:
    """Beyond `most`, the findings already sent stay, so that no open one is cleared. The worst of the others fill the
    rest.
    """
    old = notice("old", INFO)
    found = known(notice("w", WARNING), notice("c", CRITICAL), old)
    assert selected_findings(found, known(old), {}, 2).keys() == known(old, notice("c", CRITICAL)).keys()
    assert selected_findings(found, {}, {}, 2).keys() == known(notice("w"), notice("c", CRITICAL)).keys()
    assert selected_findings(found, known(old), {}, 0).keys() == known(old).keys()


def test_a_waiting_finding_keeps_its_time() -> None:
    """A finding that waits for delivery keeps the instant of its first observation."""
    (kept,) = selected_findings(known(notice(at=NOW)), {}, known(notice(at=NOW - DAY)), 10).values()
    assert kept.at == NOW - DAY


def test_an_open_finding_has_its_certificate() -> None:
    """The findings of the requested severity have the worst of each reason, with the end of the certificate."""
    ca = make_ca()
    leaf = make_leaf(ca, not_after=NOW - SECOND)
    spec = validated(CertificateSpec, {"name": "leaf", "path": "/leaf"})
    faults = (Fault(Reason.TRAILING_DATA, "/leaf has more"), Fault(Reason.TRAILING_DATA, "/leaf has more still"))
    gone = validated(CertificateSpec, {"name": "gone", "path": "/gone"})
    seen = (
        Observation("leaf", spec, "/leaf", (leaf.facts,), faults=faults),
        Observation("gone", gone, "/gone", faults=(Fault(Reason.MISSING, "/gone is not there"),)),
    )
    assessment = assess(Inventory(seen), NOW)
    found = open_findings(assessment, INFO)
    assert found["leaf", "/leaf", "expired", "critical"].not_after == NOW - SECOND
    assert found["gone", "/gone", "missing", "critical"].not_after is None
    assert found["leaf", "/leaf", "trailing_data", "info"].message.startswith("/leaf has more")
    critical = {key[2:] for key in found if key[3] == "critical"}
    assert {key[2:] for key in open_findings(assessment, CRITICAL)} == critical


def test_of_several_of_one_reason_the_gravest_stands() -> None:
    """A certificate and its key that are both too open are one finding of one subject, as grave as the graver one."""
    spec = validated(CertificateSpec, {"name": "leaf", "path": "/leaf", "key": "/key"})
    leaf = make_leaf(make_ca(), not_after=NOW + DAY)
    permissions = tuple(
        Permissions(path, mode, "root:root", (0, 0), secret) for path, mode, secret in
        (("/leaf", 0o666, False), ("/key", 0o644, True), ("/other", 0o666, False))
    )  # fmt: skip
    seen = Observation("leaf", spec, "/leaf", (leaf.facts,), key=leaf.facts.key, permissions=permissions)
    notices = open_findings(assess(Inventory((seen,)), NOW), INFO).values()
    found = [each for each in notices if each.reason == "too_open"]
    assert [each.severity for each in found] == [CRITICAL]
    assert "/key" in found[0].message


def test_of_several_equal_findings_the_first_stays() -> None:
    """So it stays the same one, however many follow."""
    spec = validated(CertificateSpec, {"name": "leaf", "path": "/leaf"})
    open_to_all = tuple(Permissions(path, 0o666, "root:root", (0, 0), False) for path in ("/leaf", "/other"))
    seen = Observation("leaf", spec, "/leaf", (make_leaf(make_ca()).facts,), permissions=open_to_all)
    notices = open_findings(assess(Inventory((seen,)), NOW), INFO).values()
    found = [each for each in notices if each.reason == "too_open"]
    assert [each.message.partition(" ")[0] for each in found] == ["/leaf"]
    assert found[0].message.endswith("; run: chmod 0644 /leaf")
