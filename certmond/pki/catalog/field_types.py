"""Types of values in the catalogue and the configuration: durations, modes, subjects, names.

This module defines the syntax of each type, and the names of the facts, such as `${node_name}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address
from string import Template
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from certmond.errors import MalformedError
from certmond.pki.catalog.duration import DURATION, format_duration, parse_duration
from certmond.pki.catalog.endpoint import Endpoint

_HEALTH = re.compile(r"(?:tcp:|https?:)//(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})(?:/[!-~]*)?")
_BATCH = re.compile(r"[1-9][0-9]{0,5}|(?:100|[1-9][0-9]?)%")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_WILDCARDS = frozenset("*?[")

FACTS = ("node_name", "advertise_address", "service_ip", "dns_domain", "control_plane_name")
"""Names of the facts in `${…}`. `control_plane_name` starts with DNS: or IP:."""


def within(least: str, most: str) -> AfterValidator:
    """Return a validator that accepts the durations from `least` to `most`."""

    def check(value: timedelta) -> timedelta:
        if not parse_duration(least) <= value <= parse_duration(most):
            raise ValueError(f"must be from {least} to {most}")
        return value

    return AfterValidator(check)


def _parse_mode(value: Any) -> Any:
    # A mode is always octal, as operators expect, whether the text is 0600, "0600", 600 or 0o600.
    if isinstance(value, str) and re.fullmatch(r"(0o?)?[0-7]{3}", value):
        return int(value[-3:], 8)
    if type(value) is not int:
        raise ValueError("must be a file mode such as 0600")
    return value


def _usage(text: str) -> str:
    if text not in USAGES:
        raise ValueError(f"must be one of {', '.join(sorted(USAGES))}")
    return text


def _with_facts(text: str) -> str:
    if unknown := [fact for fact in _VARIABLE.findall(text) if fact not in FACTS]:
        raise ValueError(f"there is no fact ${{{unknown[0]}}}; the facts are {', '.join(FACTS)}")
    if "$" in _VARIABLE.sub("", text).replace("$$", ""):
        raise ValueError("must contain each fact in the form ${node_name}, and each dollar sign as $$")
    return text


def _subject(text: str) -> str:
    if not all(re.fullmatch(r"[A-Za-z0-9.]+=.+", part, re.DOTALL) for part in subject_attributes(text)):
        raise ValueError("must be a subject such as CN=kubernetes-admin,O=system:masters")
    return _with_facts(text)


def _alternative_name(text: str) -> str:
    kind, _, value = text.partition(":")
    if text != "${control_plane_name}" and (kind not in {"DNS", "IP"} or not re.fullmatch(r"\S+", value)):
        raise ValueError("must begin with DNS: or IP:, or be ${control_plane_name}")
    if kind == "IP" and "$" not in value:
        try:
            ip_address(value)
        except ValueError:
            raise ValueError("must have an IP address after IP:") from None
    return _with_facts(text)


def _owner(text: str) -> str:
    if not re.fullmatch(r"[^:\s]+(:[^:\s]+)?", text):
        raise ValueError("must be user or user:group")
    return text


def _namespace(name: str) -> str:
    if not re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise ValueError("must be a namespace: at most 63 lowercase letters and digits, with '-' only between them")
    return name


def _sentence(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must be a short text on one line")
    return text.strip()


def _endpoint(text: str) -> str:
    try:
        return str(Endpoint.parse(text))
    except MalformedError as error:
        raise ValueError(f"must be ADDRESS:PORT or NAME@ADDRESS:PORT: {error}") from None


def _health_address(text: str) -> str:
    match = _HEALTH.fullmatch(text)
    if not match or not 0 < int(match[1]) < 65536:
        raise ValueError("must be http://ADDRESS:PORT/PATH, https://ADDRESS:PORT/PATH or tcp://ADDRESS:PORT")
    return text


def _octal(mode: int) -> str:
    return f"{mode:04o}"


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\x00" in path:
        raise ValueError("must be an absolute path")
    return "/" + "/".join(part for part in path.split("/") if part not in {"", "."})


def has_wildcard(path: str) -> bool:
    return not _WILDCARDS.isdisjoint(path)


def _many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _batch(value: Any) -> Any:
    if not isinstance(value, str) or not _BATCH.fullmatch(value):
        raise ValueError("must be a number from 1 to 999999, or a percentage such as 10%")
    return value


def _count(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,6}", value) else value


def words(value: Any) -> Any:
    if isinstance(value, str):  # certmond uses no shell, which could split the text
        raise ValueError("must be a list of the program and its arguments")  # noqa: TRY004  # as pydantic requires
    return _many(value)


class _OneOrMany:
    """JSON schema of a field whose value is one item or a list of items."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        array = handler(core)
        return {"anyOf": [array["items"], array]}


USAGES = frozenset({"digital signature", "key encipherment", "cert sign", "crl sign", "server auth", "client auth"})

T = TypeVar("T")
Many = Annotated[tuple[T, ...], BeforeValidator(_many), _OneOrMany()]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": f"^(?=.){DURATION.pattern}$"}),
]
Mode = Annotated[
    int,
    BeforeValidator(_parse_mode),
    Field(ge=0, le=0o777),
    PlainSerializer(_octal),
    WithJsonSchema({"type": ["integer", "string"], "pattern": "^(0o?)?[0-7]{3}$"}),
]
Count = Annotated[int, BeforeValidator(_count)]
Batch = Annotated[
    str,
    BeforeValidator(_batch),
    WithJsonSchema(
        {"type": ["integer", "string"], "minimum": 1, "maximum": 999_999, "pattern": f"^(?:{_BATCH.pattern})$"}
    ),
]
"""Number or percentage of workers that change their files at the same time in a rotation."""
AbsolutePath = Annotated[str, AfterValidator(_absolute), Field(json_schema_extra={"pattern": "^/"})]
Subject = Annotated[str, AfterValidator(_subject)]
Usage = Annotated[str, AfterValidator(_usage), Field(json_schema_extra={"enum": sorted(USAGES)})]
AlternativeName = Annotated[str, AfterValidator(_alternative_name)]
Owner = Annotated[str, AfterValidator(_owner)]
EndpointText = Annotated[str, AfterValidator(_endpoint)]
Sentence = Annotated[str, AfterValidator(_sentence)]
HealthAddress = Annotated[str, AfterValidator(_health_address)]
Namespace = Annotated[str, AfterValidator(_namespace)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class Model(BaseModel):
    """Base class of the models: strict types, no unknown fields, immutable."""

    # `Config` contains the validators of its sections. With `defer_build`, pydantic does not build them a second time.
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", validate_default=True, defer_build=True)


def expand(text: str, facts: Mapping[str, str]) -> str | None:
    """Return `text` with each fact replaced by its value on the node, or None if a fact is unknown."""
    if any(variable not in facts for variable in _VARIABLE.findall(text)):
        return None
    return Template(text).safe_substitute(facts)


def subject_attributes(text: str) -> frozenset[str]:
    """Return the attributes of a subject such as CN=a,O=b. Does not decode the escapes of RFC 4514."""
    return frozenset(part.strip() for part in re.split(r"(?<!\\)[,+]", text))
