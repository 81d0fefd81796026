"""The sample of the long tests, stops and faults that one run of the tests tries where all of them would take hours.

The sample depends on the commit: each commit tries others, and a second run of one commit tries the same.
`CERTMOND_SEED=…` repeats the sample of another commit, `CERTMOND_EVERY_STOP=1` tries all.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TypeVar

import hypothesis

T = TypeVar("T")

GROUPS = {
    "cluster": 1,  # rotations of a bed with several nodes
    "node": 1,  # rotations of a bed with one node
    "end": 4,  # the end of a rotation that is cut off
    "call": 3,  # failed system calls
    "write": 4,  # failed writes to the API
    "phase": 5,  # obstacles in each phase of a rotation
    "kill": 1,  # kills in each share of a rotation
    "package": 1,  # packages, images and playbooks, from the installation to the removal
}
"""The number of tests that a run tries of each group. A test has its group in the marker `sampled`."""

SHARE = 6
"""With CERTMOND_LONG=sample, a run tries one of so many long tests of a module that have no group here."""

LONG = os.environ.get("CERTMOND_LONG")
"""`1` for all long tests, `sample` for some of each module, and nothing for the short tests alone."""

EVERY_STOP = os.environ.get("CERTMOND_EVERY_STOP") == "1"


def examples(number: int) -> int:
    """Return the number of examples of a property: a fifth, unless hypothesis runs with the profile `thorough`."""
    return number if hypothesis.settings().max_examples >= number else number // 5


def _commit() -> str:
    """Return the commit of this tree, or "" if it has none."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


SEED = os.environ.setdefault("CERTMOND_SEED", _commit() or "none")  # the workers of pytest-xdist inherit it


def chosen(name: str) -> random.Random:
    """Return the random numbers of the test `name`, the same in each run with this seed."""
    return random.Random(f"{SEED} {name}")  # noqa: S311 - which stops are tried is no secret


def sample(items: Sequence[T], count: int, name: str, kind: Callable[[T], Hashable] = lambda _: None) -> list[T]:
    """Return about `count` of the items, in their order: one of each part of the sequence, and one of each kind."""
    if EVERY_STOP or len(items) <= count:
        return [*items]
    numbers, kinds = chosen(name), dict[Hashable, list[int]]()
    for place, item in enumerate(items):
        kinds.setdefault(kind(item), []).append(place)
    taken = {numbers.randrange(n * len(items) // count, (n + 1) * len(items) // count) for n in range(count)}
    there = {kind(items[place]) for place in taken}
    taken |= {numbers.choice(places) for each, places in kinds.items() if each not in there}
    return [items[place] for place in sorted(taken)]


def module_of(test: str, long: bool) -> str | None:
    """Return the module of `test` if a run tries a sample of the long tests of this module, or None. The coverage of
    pki needs each of its tests.
    """
    return test.partition("::")[0] if LONG == "sample" and long and not test.startswith("tests/pki/") else None


def left_out(groups: Sequence[str | None]) -> set[int]:
    """Return the places of the tests that are not in the sample. `groups` has the group of each test, or None."""
    members = dict[str, list[int]]()
    for place, group in enumerate(groups):
        if group is not None:
            members.setdefault(group, []).append(place)
    return {
        place
        for group, all_ in members.items()
        for place in {*all_} - {*sample(all_, GROUPS.get(group) or -(-len(all_) // SHARE), group)}
    }
