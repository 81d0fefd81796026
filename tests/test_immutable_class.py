"""Classes of immutable values."""

from __future__ import annotations

import pickle
import weakref
from dataclasses import field, replace

import pytest

from certmond.config.model import Config
from certmond.immutable_class import immutable


@immutable
class Point:
    """Two coordinates, and a name that does not count."""

    x: int
    y: int = 0
    name: str = field(default="", compare=False)
    secret: bytes = field(default=b"", repr=False)


@immutable(eq=False, kw_only=True, weakref_slot=True)
class Place:
    """An object that is equal only to itself."""

    x: int


class Named(Point):
    """A subclass without further fields."""


@immutable
class Absent:
    """A value without fields that defines its representation."""

    def __repr__(self) -> str:
        return "nothing"


def test_equal_fields_are_equal_values() -> None:
    """Two instances with equal fields are equal and have one hash. A field with `compare=False` does not count."""
    assert Point(1, 2, "a") == Point(1, 2, "b") != Point(1, 3)
    assert len({Point(1, 2, "a"), Point(1, 2, "b"), Point(1, 3)}) == 2
    assert Absent() == Absent()
    assert Named(1, 2) == Named(1, 2) != Point(1, 2)
    assert hash(Absent()) == hash(Absent())
    assert Place(x=1) != Place(x=1)
    assert len({Place(x=1), Place(x=1)}) == 2


def test_a_value_has_no_other_fields_and_shows_no_secret() -> None:
    """The class has slots. The representation omits a field with `repr=False`, and a class can define its own."""
    with pytest.raises(AttributeError):
        object.__setattr__(Point(1), "z", 1)
    assert repr(Point(1, 2, "a", b"key")) == "Point(x=1, y=2, name='a')"
    assert repr(Named(1)) == "Named(x=1, y=0, name='')"
    assert repr(Absent()) == "nothing"


def test_a_value_can_be_copied_sent_and_referenced() -> None:
    """`replace` returns a changed copy, pickle restores an equal value, and a class can permit weak references."""
    assert replace(Point(1, 2), y=3) == Point(1, 3)
    assert pickle.loads(pickle.dumps(Point(1, 2))) == Point(1, 2)  # noqa: S301 - its own bytes
    place = Place(x=1)
    assert weakref.ref(place)() is place


def test_mypy_reports_an_assignment() -> None:
    """mypy accepts a comment that ignores an error only where it finds this error: an assignment to a field of a value
    and of a model, and a positional argument of a class without them.
    """
    point = Point(1)
    point.x = 2  # type: ignore[misc]
    Config().mode = "enforce"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Place(1)  # type: ignore[call-arg]
    assert point.x == 2
