"""Annotations of the types of values: their conversions, rules and JSON schemas.

pydantic calls the methods of an annotation when it builds a validator or a schema. A process that only uses the models
does not import pydantic, which uses more memory than the configuration of a node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from certmond.immutable_class import immutable

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


@immutable
class Before:
    """A conversion of the given value, before the check of its type. The function raises ValueError for a problem."""

    function: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic import BeforeValidator  # noqa: PLC0415 - see the docstring of the module

        return BeforeValidator(self.function).__get_pydantic_core_schema__(source, handler)


@immutable
class After:
    """A rule for a value of the right type. The function returns the value, or raises ValueError for a problem."""

    function: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic import AfterValidator  # noqa: PLC0415 - see the docstring of the module

        return AfterValidator(self.function).__get_pydantic_core_schema__(source, handler)


@immutable
class Beside:
    """A rule for a value beside the values of the earlier keys of the model, as far as these are valid.

    The function raises ValueError for a problem.
    """

    function: Callable[[Any, Mapping[str, Any]], None]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # noqa: PLC0415 - see the docstring of the module

        def check(value: Any, info: ValidationInfo) -> Any:
            self.function(value, info.data)
            return value

        return core_schema.with_info_after_validator_function(check, handler(source))


@immutable
class Exact:
    """A value of exactly this type: pydantic does not convert a number to a boolean, or a text to a number."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = {**handler(source), "strict": True}
        return cast("CoreSchema", schema)


@immutable
class Bounds:
    """The least and the greatest value of an integer."""

    least: int
    most: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import PydanticKnownError, core_schema  # noqa: PLC0415 - see the docstring of the module

        def check(value: int) -> int:
            if value < self.least:
                raise PydanticKnownError("greater_than_equal", {"ge": self.least})
            if value > self.most:
                raise PydanticKnownError("less_than_equal", {"le": self.most})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), "minimum": self.least, "maximum": self.most}


@immutable
class Written:
    """The form of a value in a configuration file."""

    function: Callable[[Any], str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic import PlainSerializer  # noqa: PLC0415 - see the docstring of the module

        return PlainSerializer(self.function, when_used="json").__get_pydantic_core_schema__(source, handler)


@immutable
class Schema:
    """The JSON schema of a value."""

    schema: JsonSchemaValue

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(self.schema)


@immutable
class AlsoInSchema:
    """Keywords that the JSON schema of a value also contains."""

    keywords: JsonSchemaValue

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), **self.keywords}


@immutable
class OneOrMany:
    """The JSON schema of a value that is one item or a list of items."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        array = handler(core)
        return {"anyOf": [array["items"], array]}
