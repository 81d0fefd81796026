"""Decorator of the models of the configuration, and the definition of their settings.

A model is an immutable class. `config.parser` creates the models of a configuration, and reports each unknown key, each
missing key and each wrong value. Code that creates a model itself is responsible for valid values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, field, fields
from typing import Any, TypeVar, dataclass_transform, overload

from certmond.immutable_class import immutable

T = TypeVar("T")


@overload
def setting(description: str) -> Any: ...
@overload
def setting(description: str, *, default: T) -> T: ...
@overload
def setting(description: str, *, default_factory: Callable[[], T]) -> T: ...
def setting(description: str, **default: Any) -> Any:
    """Return the definition of a setting. A setting without a default is required."""
    return field(metadata={"description": description}, **default)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting,))
def model(cls: type[T]) -> type[T]:
    """Return `cls` as a model: an immutable class without positional arguments. pydantic refuses unknown keys."""
    cls.__pydantic_config__ = {"extra": "forbid", "validate_default": True}  # type: ignore[attr-defined]
    return immutable(kw_only=True, slots=False)(cls)


def required(model: type[Any]) -> frozenset[str]:
    """Return the names of the settings without a default."""
    return frozenset(each.name for each in fields(model) if each.default is each.default_factory is MISSING)
