"""A restart whose record cannot be written once it is made: how often it is made again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certmond.pki.restart import Act, Ended, Episode, Result, about_to_act, follow
from tests.pki.test_restart import BEGUN, TERMS, look, seen


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_restart_that_cannot_be_recorded_is_made_three_times_more_than_it_is_tried(attempt: int) -> None:
    """Each time with another record before it; then it has failed, and says how often the service was restarted."""
    episode, records = replace(BEGUN, attempt=attempt, acts=attempt - 1), list[Episode]()
    move = follow(episode, look(1, seen("1")), TERMS, changes_instance=True)
    while isinstance(move, Act):
        records.append(about_to_act(move.episode))
        assert len(records) <= 4
        move = follow(records[-1], look(1, seen("1")), TERMS, changes_instance=True)
    assert [each.acts for each in records] == [attempt, attempt + 1, attempt + 2, attempt + 3]
    assert move == Ended(
        records[-1], Result.FAILED, f"s was restarted {attempt + 3} times, and that could not be recorded"
    )
