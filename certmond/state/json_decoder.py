"""Conversion between JSON and the values that certmond stores.

`decoded` checks a parsed document against a type, and converts no other types: the text "1" is not an integer. The
types are those of the standard library, and dataclasses with fields of these types. A check in `Annotated[type, check]`
is a function that returns the value, or raises ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from math import isfinite, nan
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
_Decode = Callable[[Any], Any]
_SCALARS = {str: "must be text", int: "must be an integer", bool: "must be true or false", NoneType: "must be null"}


class _InvalidError(ValueError):
    """A value that is invalid for its type. `place` contains the keys of the value, the innermost key first."""

    def __init__(self, fact: str, *place: object) -> None:
        super().__init__(fact)
        self.place = list(place)


def decoded(value: Any, kind: type[T]) -> T:
    """Return the parsed JSON `value` as an object of the type `kind`. Ignore unknown fields of dataclasses.

    Raises ValueError with a sentence about the first invalid value, such as "rotation.since must be a time with an
    offset". The sentence does not quote the value.
    """
    try:
        found: T = _decoder(cast("Any", kind))(value)
    except _InvalidError as error:
        raise ValueError(f"{'.'.join(map(str, reversed(error.place))) or 'it'} {error}") from None
    return found


def between(least: float, most: float) -> Callable[[T], T]:
    """Return a check of a number, for `Annotated`."""

    def check(number: Any) -> Any:
        if not least <= number <= most:
            raise ValueError(f"must be from {least} to {most}")
        return number

    return check


def matching(pattern: str, fact: str) -> Callable[[str], str]:
    """Return a check of a whole text, for `Annotated`. `fact` is the error."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(fact)
        return text

    return check


def encoded(value: Any) -> Any:
    """Return the fields of a dataclass by name, or the text of a time. Use as the parameter `default` of json.dumps."""
    if is_dataclass(value):
        return {name: getattr(value, name) for name in _names(cast("Any", type(value)))}
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"JSON has no form of {type(value)}")


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@cache
def _decoder(kind: Any) -> _Decode:
    """Return the function that decodes values of a type. Raises TypeError for an unsupported type."""
    arguments = get_args(kind)
    match get_origin(kind):
        case None if kind in _SCALARS:
            return _scalar(kind, _SCALARS[kind])
        case None if kind is float:
            return _number
        case None if kind is datetime:
            return _time
        case None if isinstance(kind, type) and issubclass(kind, StrEnum):
            return _choice({each.value: each for each in kind})
        case None if isinstance(kind, type) and is_dataclass(kind):
            return _object(kind)
        case origin if origin is Literal:
            return _choice({each: each for each in arguments})
        case origin if origin is Annotated:
            return _checked(_decoder(arguments[0]), arguments[1:])
        case origin if origin in {Union, UnionType} and len(arguments) == 2 and arguments[1] is NoneType:
            inner = _decoder(arguments[0])
            return lambda value: None if value is None else inner(value)
        case origin if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
            return _items(_decoder(arguments[0]))
        case origin if origin in {dict, Mapping} and arguments[0] is str:
            return _mapping(_decoder(arguments[1]))
    raise TypeError(f"JSON has no form of {kind}")


def _scalar(kind: type, fact: str) -> _Decode:
    def decode(value: Any) -> Any:
        if type(value) is not kind:  # isinstance accepts True as an int
            raise _InvalidError(fact)
        return value

    return decode


def _number(value: Any) -> float:
    try:
        number = float(value) if type(value) in {int, float} else nan
    except OverflowError:
        number = nan
    if not isfinite(number):
        raise _InvalidError("must be a number")
    return number


def _time(value: Any) -> datetime:
    try:
        at = datetime.fromisoformat(value) if type(value) is str else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise _InvalidError("must be a time with an offset")
    return at


def _choice(known: Mapping[Any, Any]) -> _Decode:
    kinds = {type(each) for each in known}
    fact = f"must be {'one of ' if len(known) > 1 else ''}{', '.join(map(str, known))}"

    def decode(value: Any) -> Any:
        if type(value) not in kinds or value not in known:
            raise _InvalidError(fact)
        return known[value]

    return decode


def _checked(inner: _Decode, checks: Iterable[_Decode]) -> _Decode:
    def decode(value: Any) -> Any:
        found = inner(value)
        try:
            for check in checks:
                found = check(found)
        except UnicodeError:
            raise _InvalidError("contains characters that are invalid in UTF-8") from None
        except ValueError as error:
            raise _InvalidError(str(error)) from None
        return found

    return decode


def _items(inner: _Decode) -> _Decode:
    def decode(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _InvalidError("must be a list")
        found = list[Any]()
        try:
            for each in value:
                found.append(inner(each))
        except _InvalidError as error:
            error.place.append(len(found))
            raise
        return tuple(found)

    return decode


def _mapping(inner: _Decode) -> _Decode:
    def decode(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _InvalidError("must be an object")
        key, found = "", dict[str, Any]()
        try:
            for key, each in value.items():
                found[key] = inner(each)
        except _InvalidError as error:
            error.place.append(key)
            raise
        return found

    return decode


def _object(kind: type) -> _Decode:
    hints = get_type_hints(kind, include_extras=True)
    plan = [
        (each.name, _decoder(hints[each.name]), each.default is MISSING and each.default_factory is MISSING)
        for each in fields(kind)
    ]

    def decode(value: Any) -> Any:
        if type(value) is not dict:
            raise _InvalidError("must be an object")
        name, found = "", dict[str, Any]()
        try:
            for name, inner, required in plan:
                if required or name in value:
                    found[name] = inner(value[name])
        except KeyError:
            raise _InvalidError("is missing", name) from None
        except _InvalidError as error:
            error.place.append(name)
            raise
        try:
            return kind(**found)
        except ValueError as error:  # from a check of the whole object
            raise _InvalidError(str(error)) from None

    return decode
