"""The time at which a node renews a certificate."""

from __future__ import annotations

from datetime import timedelta

import pytest

from certmond.pki.planning.planner_inputs import Policy
from certmond.pki.planning.renewal_time import renewal_time
from tests.builders import DAY, NOW, YEAR
from tests.pki.planning.test_renewals import KUBELET, leaf, status_of, world


def test_a_nodes_turn_is_the_same_in_every_process() -> None:
    """A hash of its name, and not Python's, which differs from one process to the next."""
    made = status_of(world(leaf(NOW + YEAR)))
    share = 0x13029F9E83D15B3D / 2**64
    assert renewal_time(made, Policy(), "worker-1") == NOW + YEAR - 30 * DAY - 3 * DAY * share


@pytest.mark.parametrize(
    ("life", "spread", "width"), [(YEAR, 3 * DAY, 3 * DAY), (YEAR, 300 * DAY, YEAR / 20), (DAY, 3 * DAY, DAY / 20)]
)
def test_nodes_take_turns_up_to_the_spread_before_it_is_due(
    life: timedelta, spread: timedelta, width: timedelta
) -> None:
    """Never more than a twentieth of the life, and evenly: of 300 nodes, every tenth of the time has its share."""
    made = status_of(world(leaf(NOW + life, life)))
    due = made.renew_at
    assert due
    turns = [renewal_time(made, Policy(spread=spread), f"node-{number}") for number in range(300)]
    early = [(due - each) / width for each in turns if each]
    assert all(0 <= share <= 1 for share in early)
    tenths = [sum(tenth <= share * 10 < tenth + 1 for share in early) for tenth in range(10)]
    assert min(tenths) >= 15


def test_the_kubelet_has_no_time_of_the_node() -> None:
    """Before the renewal point, the kubelet renews its certificate itself."""
    made = status_of(world(leaf(NOW + YEAR), spec=KUBELET), "kubelet-client")
    assert renewal_time(made, Policy(), "worker-1") == made.renew_at == NOW + YEAR - 30 * DAY
