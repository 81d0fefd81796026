"""The order of work among entries, and the quota of one pattern."""

from __future__ import annotations

from datetime import timedelta

from certmond.pki.planning.renewal_quota import RENEWALS, WINDOW, RenewalQuota, round_robin
from certmond.pki.planning.steps import Cause, Derive
from tests.builders import HOUR, NOW, SECOND


def step(entry: str, number: int) -> Derive:
    return Derive(entry, f"/{entry}/{number}", "source", Cause.DUE, "")


FLOOD = [step("pattern", number) for number in range(3)]


def test_each_entry_has_a_step_before_one_has_two() -> None:
    """One step of each entry begins, in the order of the plan, then the next one of each."""
    steps = [*FLOOD, step("apiserver", 0), step("other", 0), step("other", 1)]
    order = [(each.target, each.path[-1]) for each in round_robin(steps, ())]
    assert order == [("pattern", "0"), ("apiserver", "0"), ("other", "0"),
                     ("pattern", "1"), ("other", "1"), ("pattern", "2")]  # fmt: skip


def test_an_entry_that_had_steps_before_waits_for_the_others() -> None:
    """The steps that began in the same round count: an entry with new ones in each plan comes after the others."""
    steps = [*FLOOD, step("other", 0), step("apiserver", 0)]
    order = [each.target for each in round_robin(steps, ["pattern", "pattern", "other"])]
    assert order == ["apiserver", "other", "pattern", "pattern", "pattern"]


def test_a_quota_is_used_up_by_the_renewals_of_an_hour() -> None:
    """The renewals of the last hour and those that are counted now use up a quota, which is free again an hour after
    the earliest of them. Those of other entries, of before and of the future do not count.
    """
    before = [("pattern", NOW - WINDOW), ("pattern", NOW + SECOND), *[("other", NOW)] * RENEWALS]
    recent = [("pattern", NOW - timedelta(seconds=number)) for number in range(RENEWALS - 1)]
    quota = RenewalQuota([*before, *recent], NOW)
    assert quota.take("pattern") is None
    assert quota.take("pattern") == NOW - timedelta(seconds=RENEWALS - 2) + HOUR
    assert quota.take("third") is None
