"""Validators of the models, which pydantic builds. Only a process that reads a configuration imports this module."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")
_built = dict[type[Any], TypeAdapter[Any]]()


def validator(model: type[Any]) -> TypeAdapter[Any]:
    """Return the validator of `model`. pydantic takes milliseconds to build one, so certmond builds each only once."""
    if model not in _built:
        _built[model] = TypeAdapter(model)
    return _built[model]


def validated(model: type[T], given: object) -> T:
    """Return the `model` with the keys of the mapping `given`. Raises pydantic.ValidationError with all problems."""
    made: T = validator(model).validate_python(given)
    return made
