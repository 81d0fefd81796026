"""Decorator of the classes of immutable values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def immutable(cls: type[T], /) -> type[T]: ...
@overload
def immutable(
    *, eq: bool = True, kw_only: bool = False, slots: bool = True, weakref_slot: bool = False
) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: type[Any] | None = None, /, *, eq: bool = True, slots: bool = True, **options: bool) -> Any:
    """Return `cls` as a dataclass with slots. Only `__post_init__` assigns fields: mypy reports any other assignment.

    Instances are equal and have the same hash if their fields with `compare` are equal. With `eq=False`, `cls` defines
    its own comparison, or an instance is equal only to itself. A `cached_property` requires `slots=False`.
    """

    # `dataclass(frozen=True)` would compile six methods for each class. This compilation took a third of the time of
    # all imports. A class took six times the memory, and an instance four times the time of this decorator. The
    # compilation of `__init__` alone took a tenth.
    def decorated(each: type[Any]) -> Any:
        made: Any = dataclass(slots=slots, init=False, repr=False, eq=False, **options)(each)
        made.__init__ = _first_constructor(made)
        if eq:
            made.__eq__, made.__hash__ = _comparison(made)
        if "__repr__" not in vars(each):
            made.__repr__ = _representation(made)
        return made

    return decorated if cls is None else decorated(cls)


def _first_constructor(cls: type[Any]) -> Callable[..., None]:
    """Return the method `__init__` of `cls`, which replaces itself with a compiled method at its first call.

    A command creates no instance of half of its classes.
    """

    def construct(self: Any, *values: Any, **named: Any) -> None:
        made: Any = cls
        made.__init__ = _constructor(cls)
        made.__init__(self, *values, **named)

    return construct


def _constructor(cls: type[Any]) -> Callable[..., None]:
    """Return the method `__init__` of `cls`, with the parameters that `dataclass` would give it.

    `__post_init__` must assign the fields with `init=False`. A class must not define `__init__` itself.
    """
    names: dict[str, Any] = {"__absent": MISSING}
    positional, keyword_only, statements = ["self"], list[str](), list[str]()
    for each in fields(cls):
        if not each.init:
            continue
        parameter, value = each.name, each.name
        if each.default is not MISSING:
            names[f"__default_{each.name}"], parameter = each.default, f"{each.name}=__default_{each.name}"
        elif each.default_factory is not MISSING:
            names[f"__make_{each.name}"], parameter = each.default_factory, f"{each.name}=__absent"
            value = f"__make_{each.name}() if {each.name} is __absent else {each.name}"
        (keyword_only if each.kw_only else positional).append(parameter)
        statements.append(f"self.{each.name} = {value}")
    if hasattr(cls, "__post_init__"):
        statements.append("self.__post_init__()")
    parameters = ", ".join((*positional, *(("*", *keyword_only) if keyword_only else ())))
    text = "\n ".join((f"def __init__({parameters}):", *(statements or ("pass",))))
    exec(text, names)  # noqa: S102 - a text of the names of fields
    made: Callable[..., None] = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _comparison(cls: type[Any]) -> tuple[Callable[[Any, object], bool], Callable[[Any], int]]:
    """Return the methods `__eq__` and `__hash__` of `cls`."""
    names = [each.name for each in fields(cls) if each.compare]
    contents: Callable[[Any], Any] = attrgetter(*names) if names else lambda _: None

    def equal(self: Any, other: object) -> bool:
        return contents(self) == contents(other) if other.__class__ is self.__class__ else NotImplemented

    return equal, lambda self: hash(contents(self))


def _representation(cls: type[Any]) -> Callable[[Any], str]:
    """Return the method `__repr__` of `cls`, which omits the fields with `repr=False`."""
    names = [each.name for each in fields(cls) if each.repr]
    return lambda self: f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"
