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

from certmond.errors import MalformedError
from certmond.pki.catalog.annotations import (
    After,
    AlsoInSchema,
    Before,
    Bounds,
    Exact,
    OneOrMany,
    Schema,
    Written,
)
from certmond.pki.catalog.duration import DURATION, format_duration, parse_duration
from certmond.pki.catalog.endpoint import Endpoint

_HEALTH = re.compile(r"(?:tcp:|https?:)//(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})(?:/[!-~]*)?")
_BATCH = re.compile(r"[1-9][0-9]{0,5}|(?:100|[1-9][0-9]?)%")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
_WILDCARDS = frozenset("*?[")

FACTS = ("node_name", "advertise_address", "service_ip", "dns_domain", "control_plane_name")
"""Names of the facts in `${…}`. `control_plane_name` starts with DNS: or IP:."""


def within(least: str, most: str) -> After:
    """Return a rule that accepts the durations from `least` to `most`."""

    def check(value: timedelta) -> timedelta:
        if not parse_duration(least) <= value <= parse_duration(most):
            raise ValueError(f"must be from {least} to {most}")
        return value

    return After(check)


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


def valid_name(text: str) -> str:
    """Return `text`. Raises ValueError if `text` is not valid as the name of an entry or of a rotation."""
    if not _NAME.fullmatch(text):
        raise ValueError("must be a name of at most 63 letters, digits, '.', '_' and '-'")
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


def absolute_path(path: str) -> str:
    """Return the path without empty components and `.`. Raises ValueError if the path is not absolute."""
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


def _words(value: Any) -> Any:
    if isinstance(value, str):  # certmond uses no shell, which could split the text
        raise ValueError("must be a list of the program and its arguments")  # noqa: TRY004  # as pydantic requires
    return _many(value)


USAGES = frozenset({"digital signature", "key encipherment", "cert sign", "crl sign", "server auth", "client auth"})

T = TypeVar("T")
Flag = Annotated[bool, Exact()]
Many = Annotated[tuple[T, ...], Before(_many), OneOrMany()]
Words = Annotated[tuple[str, ...], Before(_words)]
"""A program and its arguments."""
Duration = Annotated[
    timedelta,
    Before(parse_duration),
    Written(format_duration),
    Schema({"type": "string", "pattern": f"^(?=.){DURATION.pattern}$"}),
]
Mode = Annotated[
    int,
    Exact(),
    Bounds(0, 0o777),
    Before(_parse_mode),
    Written(_octal),
    Schema({"type": ["integer", "string"], "pattern": "^(0o?)?[0-7]{3}$"}),
]
Count = Annotated[int, Exact(), Before(_count)]
Batch = Annotated[
    str,
    Before(_batch),
    Schema({"type": ["integer", "string"], "minimum": 1, "maximum": 999_999, "pattern": f"^(?:{_BATCH.pattern})$"}),
]
"""Number or percentage of workers that change their files at the same time in a rotation."""
AbsolutePath = Annotated[str, After(absolute_path), AlsoInSchema({"pattern": "^/"})]
Subject = Annotated[str, After(_subject)]
Usage = Annotated[str, After(_usage), AlsoInSchema({"enum": sorted(USAGES)})]
AlternativeName = Annotated[str, After(_alternative_name)]
Owner = Annotated[str, After(_owner)]
EndpointText = Annotated[str, After(_endpoint)]
Sentence = Annotated[str, After(_sentence)]
HealthAddress = Annotated[str, After(_health_address)]
Namespace = Annotated[str, After(_namespace)]
Name = Annotated[str, After(valid_name), AlsoInSchema({"pattern": _NAME.pattern})]


def expand(text: str, facts: Mapping[str, str]) -> str | None:
    """Return `text` with each fact replaced by its value on the node, or None if a fact is unknown."""
    if any(variable not in facts for variable in _VARIABLE.findall(text)):
        return None
    return Template(text).safe_substitute(facts)


def subject_attributes(text: str) -> frozenset[str]:
    """Return the attributes of a subject such as CN=a,O=b. Does not decode the escapes of RFC 4514."""
    return frozenset(part.strip() for part in re.split(r"(?<!\\)[,+]", text))
