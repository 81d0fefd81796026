"""The wait for a writer that is between the two files of a pair: it counts from the first mismatch, and it ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.assessment.assess import Assessment, CertificateStatus, assess
from certmond.pki.assessment.key_mismatch_delay import WAIT, Mismatch, mismatch_of
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.findings import Fault, Reason
from certmond.pki.services.staleness import Surroundings
from tests.assessments import status_in
from tests.builders import NOW, make_ca, make_leaf
from tests.files.test_catalog_observer import row

ROOT = make_ca()
LEAF, OTHER = make_leaf(ROOT), make_leaf(ROOT)
TICK = timedelta(milliseconds=100)
CA = Observation("ca", row("ca", "/ca.crt", authority=True), "/ca.crt", (ROOT.facts,))
GOOD = Observation(
    "leaf", row("leaf", "/leaf.crt", key="/leaf.key", ca="ca"), "/leaf.crt", (LEAF.facts,),
    key=LEAF.facts.key, key_path="/leaf.key", changed_at=NOW - timedelta(days=1),
)  # fmt: skip
BAD = replace(GOOD, key=OTHER.facts.key)
GONE = replace(GOOD, certificates=(), faults=(Fault(Reason.MALFORMED, "/leaf.crt is cut off"),))


class Looks:
    """The daemon's scans of one pair: each after some time, with the wake-ups that the assessment requests."""

    def __init__(self) -> None:
        self.now, self.assessment = NOW, assess(Inventory((CA, GOOD)), NOW)
        self.seen = GOOD

    @property
    def status(self) -> CertificateStatus:
        return status_in(self.assessment, "leaf", "/leaf.crt")

    @property
    def reasons(self) -> set[Reason]:
        return {item.reason for item in self.status.findings}

    def passing(self, seconds: float) -> None:
        """Let time pass, with a pass at each announced instant."""
        end = self.now + timedelta(seconds=seconds)
        while (due := self.assessment.changes_at) is not None and due <= end:
            self._look(due)
        self.now = end

    def see(self, seen: Observation) -> set[Reason]:
        """A change of the files, and the pass that it wakes."""
        self.seen = replace(seen, changed_at=self.now)
        self._look(self.now)
        return self.reasons

    def _look(self, at: datetime) -> None:
        self.now = at
        self.assessment = assess(Inventory((CA, self.seen)), at, self.assessment, around=Surroundings())


def test_a_writer_between_the_two_files_has_two_seconds() -> None:
    """A pair that matches again within two seconds is not reported, then or later."""
    looks = Looks()
    assert looks.see(BAD) == set()
    assert looks.status.key_matches is False
    looks.passing(1.9)
    assert looks.see(GOOD) == set()
    looks.passing(10)
    assert (looks.reasons, looks.status.mismatch) == (set(), None)


def test_a_mismatch_is_reported_at_the_instant_that_was_announced() -> None:
    """The instant is two seconds after the first scan that observed it, without another change."""
    looks = Looks()
    looks.see(BAD)
    assert looks.assessment.changes_at == NOW + WAIT == looks.assessment.waits_until
    looks.passing(1.9)
    assert looks.reasons == set()
    looks.passing(0.1)
    assert looks.reasons == {Reason.KEY_MISMATCH}
    assert looks.assessment.waits_until is None


def test_a_pair_that_stays_mismatched_despite_changes_is_reported_in_time() -> None:
    """However often the files change in between, the wait counts from the first mismatch."""
    looks = Looks()
    for number in range(19):
        assert looks.see(replace(BAD, key_path=f"/{number}.key")) == set()
        looks.passing(0.1)
    assert looks.see(replace(BAD, key_path="/last.key")) == set()
    looks.passing(0.1)
    assert looks.reasons == {Reason.KEY_MISMATCH}


def test_a_pair_that_matches_at_times_is_reported_all_the_time() -> None:
    """Keys that alternate every 0.7 seconds: from the first mismatch that is older than two seconds on, each of
    fourteen samples has the finding, also while the pair happens to match.
    """
    looks = Looks()
    samples = list[set[Reason]]()
    for number in range(30):
        looks.see(BAD if number % 2 == 0 else GOOD)
        looks.passing(0.35)
        samples.append(looks.reasons)
        looks.passing(0.35)
    assert samples[:3] == [set()] * 3
    assert samples[-14:] == [{Reason.KEY_MISMATCH}] * 14
    assert "was not the private key of /leaf.crt a moment ago" in looks.status.findings[0].message


def test_it_is_over_when_the_pair_has_matched_for_two_seconds() -> None:
    """Then the finding is cleared, at an announced instant, and the next mismatch starts a new wait."""
    looks = Looks()
    looks.see(BAD)
    looks.passing(3)
    assert looks.see(GOOD) == {Reason.KEY_MISMATCH}
    assert looks.assessment.changes_at == looks.now + WAIT
    looks.passing(1.9)
    assert looks.reasons == {Reason.KEY_MISMATCH}
    looks.passing(0.1)
    assert looks.reasons == set()
    assert looks.see(BAD) == set()


@pytest.mark.parametrize("between", [GONE, replace(GOOD, key=None)])
def test_what_else_a_half_written_file_shows_is_reported_at_once(between: Observation) -> None:
    """A certificate that is cut off and a key that is not there are no mismatch: they are not waited for, and they end
    no wait.
    """
    looks = Looks()
    looks.see(BAD)
    looks.passing(1)
    assert looks.see(between) in ({Reason.MALFORMED}, {Reason.KEY_MISSING})
    looks.passing(0.9)
    assert looks.see(BAD) == set()
    looks.passing(0.1)
    assert looks.reasons == {Reason.KEY_MISMATCH}


@pytest.mark.parametrize(
    ("changed_at", "expected"),
    [(NOW, False), (NOW - WAIT + TICK, False), (NOW - WAIT, True), (NOW + TICK, True), (None, True)],
)
def test_the_first_look_counts_from_the_change_of_the_files(changed_at: datetime | None, expected: bool) -> None:
    """A process without a memory knows the time of the last change; unknown or in the future, it does not wait."""
    first = assess(Inventory((CA, replace(BAD, changed_at=changed_at))), NOW)
    assert ({item.reason for item in first.statuses[1].findings} == {Reason.KEY_MISMATCH}) is expected
    assert first.waits_until == (None if expected or changed_at is None else changed_at + WAIT)


def test_a_scan_without_a_wait_reports_at_once() -> None:
    """Examples are the second scan of `check`, and one with `--at`."""
    first: Assessment = assess(Inventory((CA, replace(BAD, changed_at=NOW))), NOW, waits=False)
    assert [item.reason for item in first.statuses[1].findings] == [Reason.KEY_MISMATCH]
    assert first.waits_until is None


def test_a_clock_that_is_set_back_restarts_the_wait() -> None:
    """A start in the future is ignored: the wait is never longer than two seconds."""
    past = NOW - timedelta(hours=1)
    assert mismatch_of(False, None, Mismatch(NOW), past, first=False) == Mismatch(past)
    matching = Mismatch(past, True, matching_since=NOW)
    assert mismatch_of(True, None, matching, past, first=False) == Mismatch(past, True, matching_since=past)
    assert mismatch_of(None, None, None, NOW, first=False) is None


@pytest.mark.long
@given(st.lists(st.tuples(st.sampled_from([BAD, GOOD]), st.floats(0.05, 5)), max_size=20))
def test_no_order_of_changes_hides_a_mismatch(changes: list[tuple[Observation, float]]) -> None:
    """A pair that does not match is reported two seconds after the first scan with a mismatch, if it did not match for
    two seconds in between. No other pair is reported.
    """
    looks, began, matching = Looks(), None, None
    for seen, seconds in changes:
        looks.see(seen)
        if seen is BAD:
            began = looks.now if began is None or (matching and looks.now - matching >= WAIT) else began
            matching = None
        elif began is not None:
            matching = matching or looks.now
        looks.passing(seconds)
        if seen is BAD and began is not None and looks.now - began >= WAIT:
            assert looks.reasons == {Reason.KEY_MISMATCH}
    if began is None:
        assert looks.reasons == set()
