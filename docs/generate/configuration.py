"""Reference of the configuration: every key with its type, default and meaning, from the schema.

Owns the text of a type and of a default. The meaning of a key is the description of its field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from certmond.config.model import Config
from certmond.config.parser import schema
from certmond.config.rules import PARTS
from certmond.pki.catalog.entries import DEFAULT_EXCLUDE
from certmond.pki.catalog.field_types import AbsolutePath, Batch, Duration, Mode, Name
from certmond.pki.catalog.model_class import required

Schema = Mapping[str, Any]

_KINDS: Mapping[str, Any] = {
    "duration": Duration, "file mode": Mode, "absolute path": AbsolutePath, "name": Name, "number or share": Batch
}  # fmt: skip
_PLAIN = {"string": "text", "boolean": "`true` or `false`", "integer": "number"}
_HEAD = """# Configuration reference

Every key of `/etc/certmond/config.yaml`, of `conf.d/*.yaml` and of a profile, generated from the schema that validates
them (`certmond config schema`). [Configuration](../configuration.md) describes the merge of files, and has examples.

A **duration** is `90s`, `12h`, `30d`, `1y` (365 days) or a combination. A **file mode** is octal. A **share** is
`10%`. A single value is accepted in the place of a **list**.
"""


@dataclass(frozen=True)
class Key:
    """One key: its type, its default ("" for none), and its meaning."""

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """The keys of the file (`name` is ""), or of one of its parts. `many`: the part is a list."""

    name: str
    explanation: str
    many: bool
    keys: tuple[Key, ...]


@cache
def sections() -> tuple[Section, ...]:
    """Return the parts of the configuration in the order of the schema, first the file."""
    whole = schema()
    parts = [Section("", whole["description"], many=False, keys=tuple(_keys(whole, whole, Config)))]
    for name, part in whole["properties"].items():
        if model := _reference(part.get("items", part), whole):
            keys = tuple(_keys(model, whole, PARTS[name]))
            parts.append(Section(name, model["description"], many="items" in part, keys=keys))
    return tuple(parts)


def reference() -> str:
    """Return docs/reference/configuration.md."""
    text = _HEAD
    for section in sections():
        kind = "A list. Each entry has these keys. " if section.many else ""
        text += f"\n## {section.name or 'The file'}\n\n{kind}{section.explanation}\n\n"
        text += "| key | type | default | meaning |\n|---|---|---|---|\n"
        text += "".join(
            f"| `{key.name}` | {_cell(key.type)} | {_cell(key.default)} | {_cell(key.meaning)} |\n"
            for key in section.keys
        )
    return f"{text}\n{_exclude()}"


def schema_text() -> str:
    """Return config/config.schema.json, the output of `certmond config schema`."""
    return json.dumps(schema(), indent=2) + "\n"


def _keys(part: Schema, whole: Schema, model: type[Any]) -> Iterator[Key]:
    for name, key in part["properties"].items():
        linked = _reference(key.get("items", key), whole)
        link = f"[{name}](#{name})"
        kind = (f"list of {link}" if "items" in key else link) if linked else _type(key, whole)
        default = (
            "required" if name in required(model) else _default(name, key.get("default"), nested=linked is not None)
        )
        yield Key(name, kind, default, key["description"])


def _reference(key: Schema, whole: Schema) -> Schema | None:
    """Return the part to which `key` refers, alone or beside a short form, if the part has keys."""
    named = next((each["$ref"] for each in (key, *key.get("anyOf", ())) if "$ref" in each), "")
    target: Schema = whole["$defs"].get(named.rpartition("/")[2], {})
    return target if "properties" in target else None


def _default(name: str, value: Any, *, nested: bool) -> str:
    if value is None or nested:
        return ""
    if name == "exclude":
        return "see below"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _type(key: Schema, whole: Schema) -> str:
    bare = {word: value for word, value in key.items() if word not in {"title", "description", "default"}}
    for name, kind in _KINDS.items():
        if bare == TypeAdapter(kind).json_schema():
            return name
    if "$ref" in bare:
        return _type(whole["$defs"][bare["$ref"].rpartition("/")[2]], whole)
    if "enum" in bare:
        return ", ".join(f"`{value}`" for value in bare["enum"])
    if "anyOf" in bare:
        options = [option for option in bare["anyOf"] if option != {"type": "null"}]
        one = _type(options[0], whole)
        return one if len(options) == 1 else f"list of: {one}"
    if bare["type"] == "array":
        return f"list of: {_type(bare['items'], whole)}"
    if bare["type"] == "object":
        return f"mapping of names to: {_type(bare['additionalProperties'], whole)}"
    if "minimum" in bare:
        return f"{bare['minimum']} to {bare['maximum']}"
    return _PLAIN[bare["type"]]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _exclude() -> str:
    names = ", ".join(f"`{name}`" for name in DEFAULT_EXCLUDE)
    return f"By default, `exclude` has the names of files that are not certificates in use: {names}.\n"
