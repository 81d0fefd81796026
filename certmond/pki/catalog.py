"""The catalogue: which certificates a node should have, and what each must be. A new certificate is a new row.

The same schema serves the shipped profiles and the operator's `certificates:` list. Owns the models and the rules that
hold within them; `config` reads them from YAML and joins profile and operator. Never looks at a node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import StrEnum
from ipaddress import ip_address
from string import Template
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from certmond.pki.reason import Severity

_DURATION = re.compile("".join(f"(?:([0-9]{{1,6}}){unit})?" for unit in "ydhms"))
_UNITS = (timedelta(days=365), timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1))
_VARIABLE = re.compile(r"\$\{(\w+)\}")

FACTS = ("node_name", "advertise_address", "service_ip", "dns_domain", "control_plane_name")
"""What `${…}` may stand for. `control_plane_name` is where clients reach the API server, as DNS:… or IP:…."""

SELF = "self"
"""In `ca`: the file's own self-signed certificate is the trust anchor (the kubelet's default serving certificate)."""

DEFAULT_EXCLUDE = (
    ".*", "*.key", "*.csr", "*.pub", "*~", "*.bak", "*.old", "*.orig", "*.tmp", "*.rpmsave", "*.dpkg-*", "expired",
    "kubelet-client-????-??-??-??-??-??.pem", "kubelet-server-????-??-??-??-??-??.pem",
)  # fmt: skip
"""Names that a glob does not take up: keys, requests, backups, `pki/expired`, and the kubelet's retired PEM files."""


class Kind(StrEnum):
    """What a file holds. A `key-pair` has no certificate: the service-account keys."""

    FILE = "file"
    KUBECONFIG = "kubeconfig"
    BUNDLE = "bundle"
    KUBELET = "kubelet"
    KEY_PAIR = "key-pair"


def parse_duration(value: Any) -> Any:
    """The timedelta that 30d, 12h or 1y6d means. Raises ValueError for anything else (pydantic then reports it)."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if not match:
        raise ValueError("must be a duration such as 30d, 12h or 90s")
    total = sum((int(count) * unit for count, unit in zip(match.groups(), _UNITS, strict=True) if count), timedelta())
    if total <= timedelta():
        raise ValueError("must be longer than nothing")
    return total


def format_duration(value: timedelta) -> str:
    """The inverse of `parse_duration`, without years: 5m, 30d, 1h30m."""
    rest, parts = value, []
    for unit, letter in zip(_UNITS[1:], "dhms", strict=True):
        count, rest = divmod(rest, unit)
        parts += [f"{count}{letter}"] if count else []
    return "".join(parts)


def _parse_mode(value: Any) -> Any:
    # Always octal, whether it is written 0600, "0600", 600 or 0o600: that is what a mode means to a person.
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
        raise ValueError(f"there is no fact ${{{unknown[0]}}}; known are {', '.join(FACTS)}")
    if "$" in _VARIABLE.sub("", text).replace("$$", ""):
        raise ValueError("must write a fact as ${node_name}, and a dollar sign as $$")
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


def _octal(mode: int) -> str:
    return f"{mode:04o}"


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\x00" in path:
        raise ValueError("must be an absolute path")
    return "/" + "/".join(part for part in path.split("/") if part not in {"", "."})


def _has_wildcard(path: str) -> bool:
    return any(character in path for character in "*?[")


def _many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _words(value: Any) -> Any:
    if isinstance(value, str):  # split by nobody: there is no shell
        raise ValueError("must be a list of the program and its arguments")  # noqa: TRY004  # pydantic takes no other
    return _many(value)


class _OneOrMany:
    """To an editor: one value, or a list of them."""

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
    WithJsonSchema({"type": "string", "pattern": f"^(?=.){_DURATION.pattern}$"}),
]
Mode = Annotated[
    int,
    BeforeValidator(_parse_mode),
    Field(ge=0, le=0o777),
    PlainSerializer(_octal),
    WithJsonSchema({"type": ["integer", "string"], "pattern": "^(0o?)?[0-7]{3}$"}),
]
AbsolutePath = Annotated[str, AfterValidator(_absolute), Field(json_schema_extra={"pattern": "^/"})]
Subject = Annotated[str, AfterValidator(_subject)]
Usage = Annotated[str, AfterValidator(_usage), Field(json_schema_extra={"enum": sorted(USAGES)})]
AlternativeName = Annotated[str, AfterValidator(_alternative_name)]
Owner = Annotated[str, AfterValidator(_owner)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class Model(BaseModel):
    """Strict and frozen: nothing is coerced, nothing unknown is let through, nothing changes afterwards."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", validate_default=True)


class CertificateSpec(Model):
    """One row: where a certificate is, and what it must be. Text may use the node's facts, as in `${node_name}`."""

    name: Name
    path: AbsolutePath
    kind: Kind = Field(default=Kind.FILE, strict=False)
    key: AbsolutePath | None = Field(default=None, description="its private key; the same file where that holds both")
    key_optional: bool = Field(default=False, description="the key may be elsewhere (an external CA, a worker)")
    authority: bool = Field(default=False, description="holds trust anchors: Root CA certificates, nothing else")
    ca: Many[str] = Field(default=(), description="names of the entries it must chain to; `self` for its own file")
    subject: Many[Subject] = Field(default=(), description="accepted subjects, RFC 4514; the first is the one issued")
    usages: Many[Usage] = Field(default=(), description="what it must be good for, in Kubernetes' names of usages")
    names: Many[AlternativeName] = Field(default=(), description="DNS:… and IP:… that it must carry")
    mode: Mode | None = Field(default=None, description="the most that the certificate's file may permit")
    key_mode: Mode = Field(default=0o600, description="the most that the key's file may permit")
    owner: Owner | None = Field(default=None, description="user, or user:group, that its files must belong to")
    renew_before: Duration | None = Field(default=None, description="due so long before its end; else the general one")
    chain: bool = Field(default=True, description="its file may hold more than the one certificate")
    kubeconfig: AbsolutePath | None = Field(default=None, description="for the kubelet: what refers to it")
    embedded_ca: Name | None = Field(default=None, description="the entry whose certificates a kubeconfig must embed")
    optional: bool = Field(default=False, description="its absence is no finding")
    at_most: Severity | None = Field(
        default=None, strict=False, description="the most severe that its findings can be, where little depends on it"
    )
    mentioned_in: Many[AbsolutePath] = Field(default=(), description="missing only if one of these files names it")
    belongs_with: Many[AbsolutePath] = Field(default=(), description="missing only if one of these files is there")
    exclude: Many[str] = Field(default=DEFAULT_EXCLUDE, description="names that a glob in `path` passes over")
    password_file: AbsolutePath | None = Field(default=None, description="holds the password of a PKCS#12 file")
    consumers: Many[str] = Field(default=(), description="names of the services that use it")

    @property
    def is_glob(self) -> bool:
        """`path` stands for any number of files."""
        return _has_wildcard(self.path)

    @property
    def conditional(self) -> bool:
        """The node's other files say whether it should be there."""
        return bool(self.mentioned_in or self.belongs_with)

    @field_validator("key")
    @classmethod
    def _key_fits(cls, key: str | None, info: ValidationInfo) -> str | None:
        path = info.data.get("path", "")
        if key is None and info.data.get("kind") is Kind.KEY_PAIR:
            raise ValueError("must be given for kind key-pair")
        if key not in {None, path} and _has_wildcard(path):
            raise ValueError("must be left out, or repeat the path, where that is a glob")
        return key


class ServiceSpec(Model):
    """A service of this node that uses certificates: how it is restarted, and what it picks up by itself."""

    name: Name
    kind: Literal["systemd", "static-pod", "command"] = Field(description="what restarts it")
    unit: str | None = Field(default=None, description="for kind systemd: the unit")
    pod: str | None = Field(default=None, description="for kind static-pod: the container")
    command: Annotated[tuple[str, ...], BeforeValidator(_words)] = Field(
        default=(), description="for kind command: a program and its arguments"
    )
    reloads: Many[str] = Field(default=(), description="names of certificates that it reads again without a restart")
    after: Many[str] = Field(default=(), description="names of services that are restarted before it")

    @field_validator("unit", "pod", "command")
    @classmethod
    def _belongs_to_kind(cls, value: T, info: ValidationInfo) -> T:
        kind = {"unit": "systemd", "pod": "static-pod", "command": "command"}[info.field_name or ""]
        if not value and info.data.get("kind") == kind:
            raise ValueError(f"must be given for kind {kind}")
        return value


def anchors_first(specs: Iterable[CertificateSpec]) -> tuple[CertificateSpec, ...]:
    """The rows with every authority before what it signs; otherwise in the given order."""
    return tuple(sorted(specs, key=lambda spec: not spec.authority))


def expand(text: str, facts: Mapping[str, str]) -> str | None:
    """`text` with the node's facts filled in; None where a fact is not known, so that nothing is demanded of it."""
    if any(variable not in facts for variable in _VARIABLE.findall(text)):
        return None
    return Template(text).safe_substitute(facts)


def subject_attributes(text: str) -> frozenset[str]:
    """The attributes of CN=a,O=b: subjects are compared by them, whatever their order (RFC 4514 escapes kept)."""
    return frozenset(part.strip() for part in re.split(r"(?<!\\)[,+]", text))
