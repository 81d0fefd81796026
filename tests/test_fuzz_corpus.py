"""The inputs that fuzzing has found, for the parsers of foreign files."""

from __future__ import annotations

import pytest

from fuzz.corpus import inputs
from fuzz.sameness import around, differences
from fuzz.targets import TARGETS

BEFORE = b"# local\nusers: [{name: a, key: QQ==, n: 1, self: &x [.nan, *x]}]  # and this\n"


@pytest.mark.parametrize("target", TARGETS)
def test_each_parser_returns_a_value_or_its_declared_error(target: str) -> None:
    """No stored input of a format violates the contract of its parser."""
    kept = inputs(target)
    assert kept, "nothing is kept of this target"
    for each in kept:
        TARGETS[target](each)


@pytest.mark.parametrize(
    ("old", "new", "places"),
    [
        (b"QQ==", b"Qg==", [("users", 0, "key")]),
        (b"n: 1", b"n: true", [("users", 0, "n")]),
        (b"n: 1", b"n: 1, m: 2", [("users", 0)]),
        (b"users", b"others", [()]),
        (b"{name: a, key: QQ==", b"{key: QQ==, name: a", [("users", 0)]),
    ],
)
def test_a_difference_has_its_place(old: bytes, new: bytes, places: list[tuple[object, ...]]) -> None:
    """A value, its type, an additional key, another key, and the order of keys are differences, whatever aliases
    exist.
    """
    assert [each.place for each in differences(BEFORE, BEFORE.replace(old, new))] == places


@pytest.mark.parametrize(("old", "new", "same"), [(b"QQ==", b"Qg==", True), (b"# local", b"# other", False)])
def test_a_difference_around_the_values_is_found(old: bytes, new: bytes, same: bool) -> None:
    """A comment is no value, but must not change either."""
    places = [("users", 0, "key")]
    assert (around(BEFORE, places) == around(BEFORE.replace(old, new), places)) is same
