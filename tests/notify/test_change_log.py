"""The journal has the changes from pass to pass: all of them if they are few, a bounded part if they are many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.notify.change_log import EACH, INTERVAL, OVERALL, ChangeLog, changes
from certmond.notify.event_log import MESSAGE_IDS, Event, Journal
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Fault, Reason, Severity
from tests.builders import NOW, make_ca, make_leaf

CA = make_ca()
LEAVES = make_leaf(CA), make_leaf(CA)
FAULTS = {"noted": Reason.TRAILING_DATA, "broken": Reason.MISSING}
LONG = 86400.0
States = Mapping[str, str]


class Log(Journal):
    """A journal that stores all entries, and derives the open findings from them."""

    def __init__(self) -> None:
        super().__init__("none")
        self.entries: list[tuple[Event, str, Mapping[str, object]]] = []
        self.standing: set[tuple[object, object]] = set()

    def tell(self, event: Event, message: str, level: str = "info", **fields: object) -> None:
        super().tell(event, message, level, **fields)
        self.entries.append((event, message, fields))
        kind = fields.get("certificate"), fields.get("reason")
        if event is Event.FINDING_RAISED:
            assert kind not in self.standing
            self.standing.add(kind)
        if event is Event.FINDING_CLEARED:
            self.standing.remove(kind)

    def left_out(self) -> list[int]:
        """Return the counts of the summaries."""
        return [int(str(fields["count"])) for event, _, fields in self.entries if event is Event.LEFT_OUT]

    def changes(self) -> list[Event]:
        return [event for event, *_ in self.entries if event is not Event.LEFT_OUT]


def seen(name: str, state: str) -> Observation:
    """A certificate that is well, has something behind it (information), is missing (critical), or is another one."""
    spec = validated(CertificateSpec, {"name": name, "path": f"/{name}"})
    certificates = () if state == "broken" else (LEAVES[state == "other"].facts,)
    faults = (Fault(FAULTS[state], f"/{name} is {state}"),) if state in FAULTS else ()
    return Observation(name, spec, f"/{name}", certificates, faults=faults)


def test_of_two_verdicts_with_one_identity_the_last_counts() -> None:
    """A further verdict with a known name and path, before the known one, is no change of the certificate."""
    log, former = Log(), seen("b", "other")
    before = assess(Inventory((seen("a", "well"), former)), NOW)
    after = assess(Inventory((seen("a", "well"), seen("b", "well"), former)), NOW, before)
    ChangeLog(log).compare(before, after, 0.0)
    assert log.changes() == []


class Walk:
    """Passes over a node, each at an instant."""

    def __init__(self) -> None:
        self.log, self.counted, self.made = Log(), 0, 0
        self.now = 0.0
        self.assessment: Assessment | None = None
        self._changes = ChangeLog(self.log, self._count)

    def look(self, states: States) -> None:
        before = self.assessment
        self.assessment = assess(Inventory(tuple(seen(name, state) for name, state in states.items())), NOW, before)
        for identity in {
            each.seen.identity for each in (*(before.statuses if before else ()), *self.assessment.statuses)
        }:
            former = before.status(*identity) if before else None
            self.made += len(list(changes(former, self.assessment.status(*identity))))
        self._changes.compare(before, self.assessment, self.now)

    def rest(self, seconds: float) -> None:
        """Nothing changes for a while; the daemon gives its sign of life every second."""
        for _ in range(10):
            self.now += seconds / 10
            self._changes.settle(self.now)

    def standing(self) -> set[tuple[object, object]]:
        assert self.assessment
        return {(each.seen.name, item.reason.value) for each in self.assessment.statuses for item in each.findings}

    def _count(self, count: int) -> None:
        self.counted += count


STATES = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["well", "noted", "broken", "other"]))


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.1, 1.0, 61.0]), STATES), max_size=60))
@settings(max_examples=50)
def test_the_journal_ends_with_the_current_state_and_counts_omissions_once(
    passes: list[tuple[float, States]],
) -> None:
    """No open finding is raised again, and no other is cleared. The journal of an idle node has the current state. The
    summaries together count each omitted change once.
    """
    walk = Walk()
    for pause, states in [*passes, (0.0, {"a": "well"})]:
        walk.now += pause
        walk.look(states)
    walk.rest(LONG)
    assert walk.log.standing == walk.standing()
    assert sum(walk.log.left_out()) == walk.counted
    assert len(walk.log.changes()) >= walk.made - walk.counted
    assert walk.counted == 0 or walk.made > EACH.burst


def test_a_certificate_that_two_entries_have_is_gone_once() -> None:
    """If two observations have the same name and path, the journal names the removed certificate once."""
    log, twice = Log(), (seen("a", "well"), seen("b", "well"), seen("b", "well"))
    before = assess(Inventory(twice), NOW)
    ChangeLog(log).compare(before, assess(Inventory(twice[:1]), NOW, before), 0.0)
    assert log.changes() == [Event.CERTIFICATE_GONE]


def test_a_certificate_that_flaps_has_its_budget_and_a_summary() -> None:
    """Of a certificate that changes hundreds of times in a minute ten changes are written, then one a minute, for the
    state by then. One summary a minute has the number of omitted changes, under a separate MESSAGE_ID.
    """
    walk = Walk()
    walk.look({"a": "well", "b": "well"})
    for _ in range(100):
        walk.look({"a": "noted", "b": "well"})
        walk.look({"a": "well", "b": "well"})
    walk.look({"a": "noted", "b": "well"})
    assert len(walk.log.changes()) == EACH.burst
    walk.rest(INTERVAL)
    assert len(walk.log.changes()) == EACH.burst + 1
    assert walk.log.standing == {("a", "trailing_data")}
    message = "certmond did not log 191 further changes of 1 certificates in the last minute; see: certmond status"
    assert [each for each in walk.log.entries if each[0] is Event.LEFT_OUT] == [
        (Event.LEFT_OUT, message, {"count": 191})
    ]
    assert list(MESSAGE_IDS.values()).count(MESSAGE_IDS[Event.LEFT_OUT]) == 1
    walk.look({"a": "noted", "b": "noted"})
    assert ("b", "trailing_data") in walk.log.standing


@pytest.mark.long
def test_a_critical_finding_of_a_certificate_that_did_not_flap_is_always_written() -> None:
    """However much else changes, the first critical finding of a certificate is written at once, also when all others
    together have used up the budget.
    """
    walk, many = Walk(), [f"n{number}" for number in range(OVERALL.burst + 100)]
    walk.look(dict.fromkeys([*many, "a"], "well"))
    walk.look({**dict.fromkeys(many, "noted"), "a": "well"})
    assert len(walk.log.changes()) == OVERALL.burst
    walk.look({**dict.fromkeys(many, "broken"), "a": "broken"})
    assert {name for name, reason in walk.log.standing if reason == "missing"} == {*many, "a"}


def test_files_under_ever_new_names_use_no_memory() -> None:
    """A change that was never written is dropped with its file."""
    walk = Walk()
    for number in range(OVERALL.burst + 50):
        walk.look({f"n{number}": "noted"})
    walk.look({})
    assert len(walk._changes._owed) <= OVERALL.burst / 2  # the table of omitted changes
    walk.rest(LONG)
    assert walk._changes._owed == {}
    assert walk.log.standing == set()


def test_another_severity_does_not_clear_the_reason() -> None:
    """If a warning becomes critical, the entry about its end does not read as if the fault had ended."""
    observed = seen("a", "broken")
    (status,) = assess(Inventory((observed,)), NOW).statuses
    (critical,) = status.findings
    warning = replace(status, findings=(replace(critical, severity=Severity.WARNING),))
    gone = f"/a: the finding {critical.reason}"
    for before, after, end in (
        (warning, status, "is no longer a warning"),
        (status, warning, "is no longer critical"),
        (status, replace(status, findings=()), "is cleared"),
    ):
        (entry,) = (each for each in changes(before, after) if each.event is Event.FINDING_CLEARED)
        assert (entry.message, entry.fields["severity"]) == (f"{gone} {end}", before.findings[0].severity)


def test_a_certificate_that_is_no_longer_watched_is_named() -> None:
    """The entry names the certificate and its file, and does not report the file as removed: a reference, or one of two
    CAs in the file, can vanish while the file stays. Without a certificate, only the findings are cleared.
    """
    spec = validated(CertificateSpec, {"name": "ca", "path": "/ca.crt"})
    first, second = (
        Observation(f"ca{n}", spec, "/ca.crt", (leaf.facts,)) for n, leaf in zip(("", "#2"), LEAVES, strict=True)
    )
    before, empty = assess(Inventory((first, second)), NOW), assess(Inventory((seen("a", "broken"),)), NOW)
    facts = LEAVES[1].facts
    (gone,) = (each for each in changes(before.statuses[1], None) if each.event is Event.CERTIFICATE_GONE)
    assert gone.message == f"certmond no longer watches {facts.subject} (serial {facts.serial_hex}) in /ca.crt"
    assert {each.event for each in changes(empty.statuses[0], None)} == {Event.FINDING_CLEARED}
