"""The annotations of types: each converts, refuses or describes a value in the place where pydantic finds it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from certmond.pki.catalog.annotations import (
    After,
    AlsoInSchema,
    Before,
    Beside,
    Bounds,
    Exact,
    OneOrMany,
    Schema,
    Written,
)
from certmond.pki.catalog.model_class import model, setting


def even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


def not_more_than_first(value: int, others: Mapping[str, Any]) -> None:
    if value > others.get("first", value):
        raise ValueError("must not be more than `first`")


Number = Annotated[int, Exact(), Bounds(1, 9), Before(lambda value: int(value) if value == "4" else value), After(even)]


@model
class Pair:
    """Two numbers."""

    first: Number = setting("the first number")
    second: Annotated[Number, Beside(not_more_than_first)] = setting("the second number", default=2)


def problems(given: object) -> list[tuple[object, str]]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Pair).validate_python(given)
    return [(each["loc"][-1], each["msg"].removeprefix("Value error, ")) for each in caught.value.errors()]


def test_a_conversion_is_before_the_type_and_a_rule_after_it() -> None:
    """The text "4" becomes a number. Another text is refused by its type, and an odd number by the rule."""
    assert TypeAdapter(Pair).validate_python({"first": "4"}) == Pair(first=4, second=2)
    assert problems({"first": "6"}) == [("first", "Input should be a valid integer")]
    assert problems({"first": 3}) == [("first", "must be even")]


@pytest.mark.parametrize(
    ("given", "text"), [(0, "greater than or equal to 1"), (10, "less than or equal to 9"), (True, "a valid integer")]
)
def test_a_number_is_within_its_bounds(given: object, text: str) -> None:
    """The error of a number outside of the bounds names the bound. A boolean is no number."""
    ((key, message),) = problems({"first": given})
    assert (key, text in message) == ("first", True)


def test_a_rule_beside_others_sees_the_valid_earlier_keys() -> None:
    """The rule compares with an earlier key. If that key is invalid, only its own problem is reported."""
    assert problems({"first": 2, "second": 4}) == [("second", "must not be more than `first`")]
    assert problems({"first": 3, "second": 4}) == [("first", "must be even")]


def test_a_default_obeys_the_rules() -> None:
    """A rule beside others also checks a default, so that it can require a key."""

    @model
    class Bad:
        """A default that is wrong."""

        number: Number = setting("a number", default=3)

    with pytest.raises(ValidationError, match="must be even"):
        TypeAdapter(Bad).validate_python({})


def test_the_schema_has_what_the_annotations_say() -> None:
    """The JSON schema has the bounds, the description, and the keywords of the annotations."""
    properties = TypeAdapter(Pair).json_schema()["properties"]
    assert properties["first"] | {"minimum": 1, "maximum": 9, "description": "the first number"} == properties["first"]
    text = Annotated[str, Written(str.upper), AlsoInSchema({"pattern": "^a"})]
    assert TypeAdapter(text).json_schema() == {"type": "string", "pattern": "^a"}
    assert TypeAdapter(Annotated[int, Schema({"type": "string"})]).json_schema() == {"type": "string"}
    assert TypeAdapter(Annotated[tuple[int, ...], OneOrMany()]).json_schema()["anyOf"][0] == {"type": "integer"}


def test_a_value_has_its_form_in_a_file() -> None:
    """The form applies to the configuration that certmond prints, and leaves the value unchanged otherwise."""
    adapter = TypeAdapter(Annotated[str, Written(str.upper)])
    assert (adapter.dump_python("a", mode="json"), adapter.dump_python("a")) == ("A", "a")


def test_the_models_need_no_pydantic() -> None:
    """A process that imports the models and their types does not import pydantic."""
    code = "import sys; import certmond.config.model; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
