"""The overlap, in which both anchors are trusted, whatever happens to the clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from certmond.pki.catalog.settings import RootCaSpec
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.x509.certificate import Anchor
from certmond.rotation.phase_timer import PhaseTimer
from tests.builders import HOUR, NOW, make_ca

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
OLD, NEW = make_ca(), make_ca()


def rotation(old: Anchor = OLD.facts, new: Anchor = NEW.facts) -> Rotation:
    return Rotation("r1", "ca", Mode.OVERLAP, (old,), new, Phase.TRUST, NOW - MINUTE)


class Clocks:
    """A clock that the test sets, and a monotonic one. Both CAs are trusted for ten minutes."""

    def __init__(self) -> None:
        self.now, self.seconds = NOW, 0.0
        self.lasting = PhaseTimer(RootCaSpec(overlap=10 * MINUTE), lambda: self.seconds)

    def pass_(self, span: timedelta) -> None:
        self.now += span
        self.seconds += span.total_seconds()

    def gate(self, of: Rotation) -> Gate:
        return self.lasting.gate(of, self.now)


@pytest.mark.parametrize("step", [300 * HOUR, -300 * HOUR, timedelta()], ids=["forward", "back", "none"])
@pytest.mark.parametrize("early", [True, False], ids=["before it was reached", "afterwards"])
def test_a_clock_that_is_set_neither_ends_nor_prolongs_it(step: timedelta, early: bool) -> None:
    """The overlap has its full length, and its end is reported by the present clock."""
    clocks, made = Clocks(), rotation()
    if early:
        clocks.lasting.first_seen(made, clocks.now)
    else:
        assert clocks.gate(made).until == NOW + 9 * MINUTE
    clocks.now += step
    assert clocks.gate(made).until == clocks.now + 9 * MINUTE
    clocks.pass_(9 * MINUTE - SECOND)
    (said,) = clocks.gate(made).waits
    assert f"until {clocks.now + SECOND:%Y-%m-%d %H:%M:%S} UTC" in said
    clocks.pass_(SECOND)
    assert clocks.gate(made) == Gate()


def test_a_start_in_the_future_counts_from_now() -> None:
    """It was recorded before a clock was set back, or by a node whose clock is ahead."""
    clocks, made = Clocks(), replace(rotation(), since=NOW + 300 * HOUR)
    assert clocks.gate(made).until == NOW + 10 * MINUTE
    clocks.pass_(10 * MINUTE)
    assert clocks.gate(made) == Gate()


def test_a_slewed_clock_does_not_change_the_reported_end() -> None:
    """A difference of seconds from one pass to the next is slewing, not setting, and is not followed."""
    clocks, made = Clocks(), rotation()
    before = clocks.gate(made)
    clocks.now += 20 * SECOND
    assert clocks.gate(made) == before


def test_the_time_of_tokens_starts_when_it_is_recorded() -> None:
    """The new record is the old one with that instant."""
    clocks, made = Clocks(), replace(rotation(OLD.facts.key, NEW.facts.key), since=NOW + HOUR)
    noted = clocks.gate(made).noted
    assert noted == replace(made, published=NOW)
    assert clocks.gate(noted).until == NOW + HOUR
    clocks.now += 300 * HOUR
    assert clocks.gate(noted).until == clocks.now + HOUR
    clocks.pass_(HOUR)
    assert clocks.gate(noted) == Gate()


def test_each_phase_has_its_own_time() -> None:
    """The duration of one phase does not count for the next."""
    clocks = Clocks()
    clocks.gate(rotation())
    clocks.pass_(10 * MINUTE)
    later = replace(rotation(), phase=Phase.ISSUE, since=clocks.now)
    assert clocks.gate(later).until == clocks.now + 10 * MINUTE
