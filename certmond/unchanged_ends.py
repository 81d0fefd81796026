"""The parts of two sequences that contain the same objects, so that a pass does not repeat work for these objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from operator import is_


def unchanged_ends(present: Sequence[object], former: Sequence[object]) -> tuple[int, int]:
    """Return how many objects at the start, and how many at the end, are the same in both sequences.

    The two parts do not overlap. An equal object is not the same object.
    """
    head = _same(present, former)
    tail = min(_same(reversed(present), reversed(former)), len(present) - head, len(former) - head)
    return head, tail


def _same(present: Iterable[object], former: Iterable[object]) -> int:
    return sum(1 for _ in takewhile(bool, map(is_, present, former)))
