"""Rate limits of events: never more than the budgets, and each omission is counted once."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.assessment.event_rate_limit import Budget, Omissions, Quota

EACH, OVERALL, RESERVE = Budget(4, 10), Budget(6, 2), Budget(5, 3)
PAUSES = st.sampled_from([0, 0, 0, 1, 2, 9, 60])
EVENTS = st.lists(st.tuples(PAUSES, st.sampled_from("abcdefgh"), st.booleans()), max_size=60)
Event = tuple[int, str, bool]


def admitted(events: list[Event], quota: Quota) -> list[tuple[int, str, bool, bool]]:
    """Return each event with its instant, and whether it was admitted."""
    now, found = 0, []
    for pause, key, urgent in events:
        now += pause
        found.append((now, key, urgent, quota.take(key, now, urgent=urgent)))
    return found


def within(instants: list[int], budget: Budget) -> bool:
    """Return whether no window has more of them than the budget."""
    return all(
        last - first + 1 <= budget.burst + (instants[last] - instants[first]) / budget.every
        for first in range(len(instants))
        for last in range(first, len(instants))
    )


@given(EVENTS)
def test_no_window_has_more_than_the_budgets(events: list[Event]) -> None:
    """In no window are more admitted of one key than its budget, nor more in all than the overall one and the reserve;
    without anything urgent no more than the overall one.
    """
    found = admitted(events, Quota(EACH, OVERALL, RESERVE))
    for name in "abcdefgh":
        assert within([now for now, key, _, passed in found if passed and key == name], EACH)
    every = [now for now, *_, passed in found if passed]
    both = Budget(OVERALL.burst + RESERVE.burst, 1 / (1 / OVERALL.every + 1 / RESERVE.every))
    assert within(every, both)
    plain = admitted([(pause, key, False) for pause, key, _ in events], Quota(EACH, OVERALL, RESERVE))
    assert within([now for now, *_, passed in plain if passed], OVERALL)


@given(EVENTS)
def test_an_urgent_event_of_a_calm_key_does_not_wait(events: list[Event]) -> None:
    """Whatever other keys do, the first urgent event of a key is admitted, until the reserve is used up."""
    quota = Quota(EACH, OVERALL, Budget(1000, 1))
    admitted(events, quota)
    now = sum(pause for pause, *_ in events)
    assert quota.is_calm("another", now)
    assert quota.take("another", now, urgent=True)


@given(EVENTS, st.sampled_from("abcdefgh"), st.booleans())
def test_the_next_admission_is_known(events: list[Event], key: str, urgent: bool) -> None:
    """At the instant of `free_at` one more is admitted, and right before it none is."""
    quota = Quota(EACH, OVERALL, RESERVE)
    admitted(events, quota)
    now = sum(pause for pause, *_ in events)
    free = quota.free_at(key, now, urgent=urgent)
    assert quota.admits(key, now, urgent=urgent) == (free <= now)
    assert free == now or not quota.admits(key, max(now, free - 0.5))
    assert quota.take(key, free, urgent=urgent)


def test_a_key_that_flaps_has_no_part_in_the_reserve() -> None:
    """If the overall budget is used up, a key that has used more than half of its budget is not admitted, whatever its
    urgency.
    """
    quota = Quota(EACH, Budget(3, 1000), RESERVE)
    assert [quota.take("flaps", 0, urgent=True) for _ in range(5)] == [True, True, True, False, False]
    assert not quota.is_calm("flaps", 0)
    assert quota.take("another", 0, urgent=True)
    assert not quota.take("third", 0)


def test_keys_with_a_full_budget_are_dropped() -> None:
    """However many keys appear, only those with a partly used budget use memory."""
    quota = Quota(EACH, Budget(10, 0.001), RESERVE)
    for number in range(5000):
        assert quota.take(number, number)
    assert len(quota._used) < 2000  # the table of used budgets


def test_no_omission_needs_no_report() -> None:
    """An event of which nothing was omitted does not begin the interval of a report."""
    omissions = Omissions(10)
    omissions.add("a", 0, 1)
    assert omissions.reported(1000) is None
    omissions.add("a", 2, 5)
    omissions.add("b", 1, 9)
    assert omissions.due_at == 15
    assert omissions.reported(14) is None
    assert omissions.reported(15) == (3, 2)


@given(st.lists(st.tuples(PAUSES, st.sampled_from("abc"), st.integers(0, 3)), max_size=60))
def test_each_omission_is_counted_once(events: list[tuple[int, str, int]]) -> None:
    """The reports have every omission, each once, and appear at most once an interval."""
    omissions, now, reports = Omissions(10), 0, list[tuple[int, int, int]]()
    since = Counter[str]()
    for pause, key, count in events:
        now += pause
        omissions.add(key, count, now)
        since[key] += count
        if report := omissions.reported(now):
            assert report[1] == len([key for key in since if since[key]])
            since.clear()
            reports.append((now, *report))
    assert all(later[0] - earlier[0] >= 10 for earlier, later in pairwise(reports))
    if omissions.due_at is not None:
        last = omissions.reported(omissions.due_at)
        assert last is not None
        reports.append((now, *last))
    assert sum(count for _, count, _ in reports) == sum(count for *_, count in events)
    assert omissions.reported(now + 1000) is None
