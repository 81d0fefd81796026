"""What a hook is told: exactly what it does not know yet, in an order that leaves its receiver with the truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.assessment.assess import assess
from certmond.pki.assessment.hook_delivery import Due, Key, Notice, due, next_repeat, open_findings, selected_findings
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation, Permissions
from certmond.pki.findings import Fault, Reason, Severity
from tests.builders import DAY, HOUR, NOW, SECOND, make_ca, make_leaf

INFO, WARNING, CRITICAL = Severity


def notice(name: str = "a", severity: Severity = WARNING, reason: str = "too_open", **more: object) -> Notice:
    return replace(Notice(name, f"/{name}", reason, severity, "because", NOW), **more)  # type: ignore[arg-type]


def known(*notices: Notice) -> dict[Key, Notice]:
    return {each.key: each for each in notices}


def steps(want: Iterable[Notice], told: Iterable[Notice], *, settled: bool = True) -> list[Due]:
    return list(due(known(*want), known(*told), NOW, settled=settled, at=NOW))


notices = st.builds(
    notice, st.sampled_from("abc"), st.sampled_from(list(Severity)), st.sampled_from(["expired", "too_open"])
)
some = st.lists(notices, unique_by=lambda each: each.subject)


@given(some, some)
def test_who_was_told_all_that_is_due_knows_what_stands(want: list[Notice], told: list[Notice]) -> None:
    """Whatever a hook knew: when it has been told until nothing is due, it knows what stands, each event once."""
    knows, heard = known(*told), list[tuple[str, Key]]()
    while found := list(due(known(*want), knows, NOW, settled=True, at=NOW)):
        step = found[0]
        heard.append(step.key)
        if step.event == "raised":
            knows[step.notice.key] = step.notice
        else:
            del knows[step.notice.key]
    assert knows.keys() == known(*want).keys()
    assert len(heard) == len(set(heard))
    assert {key for event, key in heard if event == "cleared"} == known(*told).keys() - known(*want).keys()


@given(some, some)
def test_a_receiver_that_knows_subjects_only_ends_with_the_truth(want: list[Notice], told: list[Notice]) -> None:
    """One that keeps an alarm for certificate and reason, whatever the severity, has those that stand in the end."""
    knows, alarms = known(*told), {each.subject for each in told}
    while found := list(due(known(*want), knows, NOW, settled=True, at=NOW)):
        step = found[-1]  # in the worst order that is allowed
        if step.event == "raised":
            knows[step.notice.key] = step.notice
            alarms.add(step.notice.subject)
        else:
            del knows[step.notice.key]
            alarms.discard(step.notice.subject)
    assert alarms == {each.subject for each in want}


def test_what_is_cleared_comes_first_and_then_the_gravest() -> None:
    """Cleared before raised; raised by severity, then by when it was first seen."""
    old, gone = notice("old", WARNING, at=NOW - DAY), notice("gone")
    found = steps([notice("new", WARNING), old, notice("bad", CRITICAL)], [gone])
    assert [(each.event, each.notice.certificate) for each in found] == [
        ("cleared", "gone"), ("raised", "bad"), ("raised", "old"), ("raised", "new"),
    ]  # fmt: skip


def test_one_that_gets_graver_is_cleared_before_it_is_raised_again() -> None:
    """While the former severity has not been cleared, the new one is not raised."""
    warning, critical = notice(severity=WARNING), notice(severity=CRITICAL)
    assert [each.event for each in steps([critical], [warning])] == ["cleared"]
    assert steps([critical], [warning], settled=False) == []
    assert [each.event for each in steps([critical], [])] == ["raised"]


def test_nothing_is_cleared_before_everything_has_been_looked_at() -> None:
    """Until the node is settled, what a hook knows may only seem to be gone; what is new is raised all the same."""
    assert [each.event for each in steps([notice("b")], [notice("a")], settled=False)] == ["raised"]


def test_a_clearing_is_dated_when_it_was_seen() -> None:
    """`at` of what is cleared is the pass that did not find it, with the sentence that it was raised with."""
    (step,) = due({}, known(notice(message="old")), NOW, settled=True, at=NOW + HOUR)
    assert (step.notice.at, step.notice.message) == (NOW + HOUR, "old")


def test_what_stands_is_told_again_where_that_is_asked_for() -> None:
    """With `repeat` it is due again so long after it was told; also where the clock was set back; never without."""
    told = known(notice("a", told_at=NOW - HOUR), notice("b", told_at=NOW), notice("later", told_at=NOW + DAY))
    assert [
        each.notice.certificate for each in due(told, told, NOW, settled=True, at=NOW, repeat=timedelta(hours=1))
    ] == ["a", "later"]
    assert not list(due(told, told, NOW, settled=True, at=NOW))
    assert not list(due({}, told, NOW, settled=False, at=NOW, repeat=timedelta(hours=1)))
    assert next_repeat(told, timedelta(hours=1)) == NOW
    assert next_repeat({}, timedelta(hours=1)) is None


def test_there_is_a_most_and_the_gravest_are_in_it() -> None:
    """Of more than `most`, what was told stays, so that nothing is cleared that stands; then the gravest are taken."""
    old = notice("old", INFO)
    found = known(notice("w", WARNING), notice("c", CRITICAL), old)
    assert selected_findings(found, known(old), {}, 2).keys() == known(old, notice("c", CRITICAL)).keys()
    assert selected_findings(found, {}, {}, 2).keys() == known(notice("w"), notice("c", CRITICAL)).keys()
    assert selected_findings(found, known(old), {}, 0).keys() == known(old).keys()


def test_a_finding_is_as_old_as_it_is() -> None:
    """What waits to be told keeps the instant at which it was first seen."""
    (kept,) = selected_findings(known(notice(at=NOW)), {}, known(notice(at=NOW - DAY)), 10).values()
    assert kept.at == NOW - DAY


def test_what_stands_is_found_with_its_certificate() -> None:
    """Findings of the severity asked for, the gravest of each reason, with the end of the certificate."""
    ca = make_ca()
    leaf = make_leaf(ca, not_after=NOW - SECOND)
    spec = CertificateSpec.model_validate({"name": "leaf", "path": "/leaf"})
    faults = (Fault(Reason.TRAILING_DATA, "/leaf has more"), Fault(Reason.TRAILING_DATA, "/leaf has more still"))
    gone = CertificateSpec.model_validate({"name": "gone", "path": "/gone"})
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
    spec = CertificateSpec.model_validate({"name": "leaf", "path": "/leaf", "key": "/key"})
    leaf = make_leaf(make_ca(), not_after=NOW + DAY)
    permissions = tuple(
        Permissions(path, mode, "root:root", secret) for path, mode, secret in
        (("/leaf", 0o666, False), ("/key", 0o644, True), ("/other", 0o666, False))
    )  # fmt: skip
    seen = Observation("leaf", spec, "/leaf", (leaf.facts,), key=leaf.facts.key, permissions=permissions)
    notices = open_findings(assess(Inventory((seen,)), NOW), INFO).values()
    found = [each for each in notices if each.reason == "too_open"]
    assert [each.severity for each in found] == [CRITICAL]
    assert "/key" in found[0].message


def test_of_several_that_are_as_grave_the_first_stands() -> None:
    """So that it stays the same one, however many come behind it."""
    spec = CertificateSpec.model_validate({"name": "leaf", "path": "/leaf"})
    open_to_all = tuple(Permissions(path, 0o666, "root:root", False) for path in ("/leaf", "/other"))
    seen = Observation("leaf", spec, "/leaf", (make_leaf(make_ca()).facts,), permissions=open_to_all)
    notices = open_findings(assess(Inventory((seen,)), NOW), INFO).values()
    found = [each for each in notices if each.reason == "too_open"]
    assert [each.message.partition(" ")[0] for each in found] == ["/leaf"]
    assert found[0].message.endswith("; run: chmod 0644 /leaf")
