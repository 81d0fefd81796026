"""A restart whose record cannot be written after the act: the number of repetitions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certmond.pki.services.restart_episode import Episode, Result
from certmond.pki.services.restart_state_machine import Act, Ended, before_act, next_move
from tests.pki.services.test_restart_state_machine import BEGUN, TERMS, look, seen


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_restart_that_cannot_be_recorded_is_made_three_times_more_than_it_is_tried(attempt: int) -> None:
    """Each act has another record before it. Then the restart has failed, and reports how often the service was
    restarted.
    """
    episode, records = replace(BEGUN, attempt=attempt, acts=attempt - 1), list[Episode]()
    move = next_move(episode, look(1, seen("1")), TERMS, changes_instance=True)
    while isinstance(move, Act):
        records.append(before_act(move.episode))
        assert len(records) <= 4
        move = next_move(records[-1], look(1, seen("1")), TERMS, changes_instance=True)
    assert [each.acts for each in records] == [attempt, attempt + 1, attempt + 2, attempt + 3]
    assert move == Ended(
        records[-1], Result.FAILED, f"certmond restarted s {attempt + 3} times, but could not record the restarts"
    )
