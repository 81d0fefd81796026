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


@immutable
class Range:
    """A value with all kinds of fields."""

    begin: int
    missing: bool = False
    names: list[str] = field(default_factory=list)
    size: int = field(init=False)
    end: int = field(kw_only=True)
    step: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        self.size = (self.end - self.begin) // self.step  # type: ignore[misc]


def test_a_constructor_accepts_the_arguments_of_a_dataclass() -> None:
    """The fields have their order, defaults and factories, and `__post_init__` assigns a field with `init=False`."""
    first, second = Range(1, end=5), Range(1, True, ["a"], end=5, step=2)
    assert (first.begin, first.missing, first.names, first.size, first.end, first.step) == (1, False, [], 4, 5, 1)
    assert (second.missing, second.names, second.size, second.step) == (True, ["a"], 2, 2)
    assert first.names is not Range(1, end=5).names
    given = list[str]()
    assert Range(1, names=given, end=5).names is given
    assert Absent() == Absent()
    assert Named(1).y == 0


@immutable
class Reserved:
    """A value whose fields have names of the generated method."""

    _absent: int
    missing: int = 0
    names: list[int] = field(default_factory=list)


def test_a_field_can_have_any_name() -> None:
    """The names of defaults and factories are other names."""
    value = Reserved(1)
    assert (value._absent, value.missing, value.names) == (1, 0, [])


def test_the_first_instance_compiles_the_constructor() -> None:
    """Further instances use the same method."""

    @immutable
    class Single:
        value: int

    methods = [Single.__init__]
    for value in (1, 2):
        assert Single(value).value == value
        methods.append(Single.__init__)
    assert methods[0] is not methods[1] is methods[2]


@pytest.mark.parametrize("again", [False, True])
def test_a_wrong_argument_raises_an_error_with_the_name_of_the_class(again: bool) -> None:
    """This is true for the first instance of a class and for each further one."""

    @immutable
    class Single:
        value: int

    if again:
        Single(1)
    with pytest.raises(TypeError, match=r"Single\.__init__\(\) missing 1 required positional argument: 'value'"):
        Single()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Single\.__init__\(\) got an unexpected keyword argument 'other'"):
        Single(1, other=2)  # type: ignore[call-arg]


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
