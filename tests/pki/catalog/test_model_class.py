"""The class of a model: its settings have descriptions, and pydantic refuses unknown keys."""

from __future__ import annotations

from dataclasses import fields

import pytest
from pydantic import TypeAdapter, ValidationError

from certmond.pki.catalog.model_class import model, required, setting


@model
class Lamp:
    """A lamp."""

    color: str = setting("the color of the lamp")
    labels: dict[str, str] = setting("labels", default_factory=dict)
    watts: int = setting("the power", default=5)


def test_a_setting_without_a_default_is_required() -> None:
    """A lamp needs a color, and nothing else."""
    with pytest.raises(TypeError, match="color"):
        Lamp()  # type: ignore[call-arg]
    assert required(Lamp) == {"color"}
    assert (Lamp(color="red").labels, Lamp(color="red").watts) == ({}, 5)


def test_a_setting_has_its_description() -> None:
    """The description of each setting is in the class and in the JSON schema."""
    found = {each.name: each.metadata["description"] for each in fields(Lamp)}
    assert found == {"color": "the color of the lamp", "labels": "labels", "watts": "the power"}
    schema = TypeAdapter(Lamp).json_schema()
    assert {name: each["description"] for name, each in schema["properties"].items()} == found
    assert (schema["required"], schema["additionalProperties"]) == (["color"], False)


def test_an_unknown_key_is_refused() -> None:
    """A misspelled key is a problem."""
    with pytest.raises(ValidationError, match="colour"):
        TypeAdapter(Lamp).validate_python({"color": "red", "colour": "red"})


def test_two_models_do_not_share_a_mutable_default() -> None:
    """Each model has a separate mapping."""
    assert Lamp(color="red").labels is not Lamp(color="red").labels
