"""The parts of two sequences that contain the same objects."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from certmond.unchanged_ends import unchanged_ends

POOL = [[number] for number in range(3)]
SEQUENCES = st.lists(st.sampled_from(range(len(POOL))), max_size=6)


@given(SEQUENCES, SEQUENCES)
def test_the_parts_are_the_longest_that_do_not_overlap(present: list[int], former: list[int]) -> None:
    """Both parts contain the same objects, and no further object at the start or at the end is the same."""
    these, those = [POOL[number] for number in present], [POOL[number] for number in former]
    head, tail = unchanged_ends(these, those)
    left = [some[head : len(some) - tail] for some in (present, former)]
    assert present[:head] == former[:head]
    assert present[len(present) - tail :] == former[len(former) - tail :]
    assert head + tail <= min(len(present), len(former))
    assert not (left[0] and left[1] and (left[0][0] == left[1][0] or left[0][-1] == left[1][-1]))


def test_an_equal_object_is_not_the_same_object() -> None:
    """An object that was made again counts as changed."""
    one, two, three = [1], [2], [3]
    assert unchanged_ends((one, two, three), (one, [2], three)) == (1, 1)
    assert unchanged_ends((one, two), (one, two)) == (2, 0)
