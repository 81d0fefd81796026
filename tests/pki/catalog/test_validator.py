"""The validator of a model: a model, or every problem of the given mapping."""

from __future__ import annotations

import pickle
from dataclasses import fields
from typing import Any

import pytest
from pydantic import ValidationError

from certmond.config.model import Config
from certmond.config.rules import PARTS
from certmond.pki.catalog.settings import ClusterSpec, HookSpec
from certmond.pki.catalog.validator import validated, validator


def locations(model: type[Any], given: object) -> list[tuple[object, ...]]:
    with pytest.raises(ValidationError) as caught:
        validated(model, given)
    return [each["loc"] for each in caught.value.errors()]


def test_every_problem_is_reported_at_once() -> None:
    """Unknown, missing and wrong keys of one mapping are all in the error."""
    found = locations(HookSpec, {"command": ["x"], "time_limit": 5, "repeats": "1m"})
    assert sorted(found) == [("command",), ("name",), ("repeats",), ("time_limit",)]


@pytest.mark.parametrize("given", ["yes", "true", 1, 0, None, 1.0])
def test_a_boolean_is_not_converted(given: object) -> None:
    """Only true and false are booleans, so that `"no"` in quotes does not mean true."""
    assert locations(ClusterSpec, {"node_condition": given}) == [("node_condition",)]


@pytest.mark.parametrize("given", [5, 5.5, True, "5", None, ["5m"]])
def test_a_duration_is_not_a_number(given: object) -> None:
    """A number has no unit."""
    assert locations(ClusterSpec, {"spread": given}) == [("spread",)]


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, [("reader",)]), ({"kubeconfig": None}, [("reader",)]), ({"kubeconfig": "x"}, [("kubeconfig",)])],
)
def test_a_rule_for_two_keys_has_one_problem(given: dict[str, object], found: list[tuple[object, ...]]) -> None:
    """The reader needs `kubeconfig`. If `kubeconfig` itself is invalid, only this is a problem."""
    assert locations(ClusterSpec, {**given, "reader": True}) == found
    assert validated(ClusterSpec, {"kubeconfig": "/x", "reader": True}).reader


@pytest.mark.parametrize(("given", "valid"), [("59s", False), ("1m", True), ("24h", True), ("24h1s", False)])
def test_a_duration_is_within_its_limits(given: str, valid: bool) -> None:
    """Both limits are valid, and a duration outside of the limits is a problem."""
    if valid:
        assert validated(ClusterSpec, {"reader_interval": given}).reader_interval
    else:
        assert locations(ClusterSpec, {"reader_interval": given}) == [("reader_interval",)]


@pytest.mark.parametrize("model", [Config, *PARTS.values()])
def test_a_default_is_valid(model: type[Any]) -> None:
    """Each default is a value that the validator accepts and leaves unchanged."""
    required = {"name": "x", "path": "/x", "source": "y", "kind": "kubeadm", "command": ["/x"]}
    given: dict[str, Any] = {each.name: required[each.name] for each in fields(model) if each.name in required}
    if model.__name__ in {"CertificateSpec", "ServiceSpec", "DerivedSpec"}:
        given["kind"] = {"CertificateSpec": "file", "ServiceSpec": "command", "DerivedSpec": "copy"}[model.__name__]
    if model.__name__ == "CAReplacementSpec":
        del given["command"]
    made = validated(model, given)
    assert made == model(**{name: getattr(made, name) for name in given})


def test_a_model_has_no_positional_arguments() -> None:
    """Code names each setting that it sets."""
    with pytest.raises(TypeError):
        Config("enforce")  # type: ignore[call-arg]


def test_a_validator_is_built_once() -> None:
    """The second request returns the same validator."""
    assert validator(HookSpec) is validator(HookSpec)


def test_a_model_can_be_pickled() -> None:
    """A model is equal after its way through a pipe between two processes."""
    made = validated(Config, {"hooks": ({"name": "x", "command": ["/x"], "environment": {"A": "b"}},), "archive": 5})
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - the bytes are from this process
    assert made.archive.keep == 5
