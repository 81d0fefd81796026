"""Parser of the configuration. The result is a Config, or a ConfigError with every problem.

Each problem has a file, a line, a path and a remedy. The module `source_merger` merges the profile and the files. The
module `rules` checks entries against each other. The module `source_files` reads the files.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from certmond.config.model import EVERY_KEY, Config
from certmond.config.rules import PARTS, SECTIONS, between_entries, dependency_cycles, references
from certmond.config.shipped_profiles import NO_PROFILE, profiles
from certmond.config.source_merger import Source, merge, profile_documents, with_profile
from certmond.config.validation_messages import problem_of
from certmond.config.yaml_source import Node, Problem, read
from certmond.errors import ConfigError
from certmond.pki.catalog.model_class import required
from certmond.pki.catalog.validator import validated, validator

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID = "urn:certmond:schema:configuration"
"""Identifier of the schema. The identifier is not a URL, so that no editor tries to download the schema."""


_MODELS: Mapping[str, type[Any]] = {"": Config, **PARTS}
_KEYS = {name: tuple(each.name for each in fields(model)) for name, model in _MODELS.items()}


class Parsed(NamedTuple):
    """A configuration, and the merged tree of the keys that the profile and the files set."""

    config: Config
    tree: Node


def parse(sources: Sequence[Source], *, profile: str | None = None) -> Config:
    """Return the configuration from the profile and `sources`, as `parse_tree` does."""
    return parse_tree(sources, profile=profile).config


def parse_tree(
    sources: Sequence[Source],
    *,
    profile: str | None = None,
    unread: Sequence[Problem] = (),
    keys: Container[str] = EVERY_KEY,
) -> Parsed:
    """Return the configuration from the profile and `sources`. A later source takes precedence.

    `profile` overrides the profile in the sources. The function ignores known keys that are not in `keys`. Raises
    ConfigError with every problem, including `unread`, the problems of sources that certmond cannot read.
    """
    problems = list(unread)
    documents = []
    for source in sources:
        document, found = read(*source)
        documents += [_only(keys, document)] if document else []
        problems += found
    whole = not unread and len(documents) == len(sources)  # otherwise an unread source can contain the missing value
    documents = with_profile(documents, profile)
    tree = merge((*profile_documents(documents), *documents), problems, EVERY_KEY)
    config = Config()
    try:
        config = validated(Config, tree.plain())
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += [problem_of(each, tree, _KEYS) for each in details if whole or each["type"] != "missing"]
    else:
        problems += between_entries(config.certificates, config.derived, config.signers, tree) if whole else ()
    order = {source.name: number for number, source in enumerate(sources)}
    if whole:
        problems += [*references(tree), *dependency_cycles(tree, order)]
    if problems:
        problems.sort(key=lambda problem: (order.get(problem.place.file, -1), problem.place.line))
        raise ConfigError(tuple(dict.fromkeys(map(str, problems))))
    return Parsed(config, tree)


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file, for editors."""
    whole = validator(Config).json_schema()
    models: list[tuple[dict[str, Any], type[Any]]] = [(whole, Config)]
    models += [(whole["$defs"][model.__name__], model) for model in PARTS.values()]
    for part, model in models:
        for name, default in _defaults(model).items():
            part["properties"][name]["default"] = default
    for model in SECTIONS.values():
        whole["$defs"][model.__name__]["required"] = [
            "name"
        ]  # the entry of the same name in the profile can contain the other required keys
    short = whole["$defs"]["ArchiveSpec"]["properties"]["keep"]
    archive = whole["properties"]["archive"]
    archive["anyOf"] = [{"$ref": archive.pop("$ref")}, {key: short[key] for key in ("type", "minimum", "maximum")}]
    whole["properties"]["profile"]["enum"] = [*profiles(), NO_PROFILE]
    return {"$schema": DIALECT, "$id": SCHEMA_ID, **whole, "title": "certmond configuration"}


def _defaults(model: type[Any]) -> dict[str, Any]:
    """Return the default of each key in the format of the configuration, such as 30d or 0600."""
    names = required(model)
    written = validator(model).dump_python(model(**dict.fromkeys(names)), mode="json", warnings=False)
    return {name: value for name, value in written.items() if name not in names}


def dump(parsed: Parsed) -> str:
    """Return the effective configuration as YAML that `parse` accepts.

    An entry contains only the keys that the profile or a configuration file sets.
    """
    whole = validator(Config).dump_python(parsed.config, mode="json")
    for section in SECTIONS:
        given = parsed.tree.fields[section].items if section in parsed.tree.fields else []
        whole[section] = [
            {key: value for key, value in entry.items() if key in node.fields}
            for entry, node in zip(whole[section], given, strict=True)
        ]
    return yaml.dump(whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """YAML dumper with short lists of texts on one line, without aliases, and with escaped unprintable characters."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  # the name is PyYAML's
        return True

    def represent_sequence(self, tag: str, items: Iterable[Any], flow_style: bool | None = None) -> yaml.SequenceNode:
        flow_style = all(isinstance(item, str) for item in items) and len(", ".join(items)) < 80
        return super().represent_sequence(tag, items, flow_style)

    def represent_scalar(self, tag: str, value: str, style: str | None = None) -> yaml.ScalarNode:
        return super().represent_scalar(tag, value, style if value.isprintable() else '"')


def _only(keys: Container[str], document: Node) -> Node:
    """Return the document without the known keys that are not in `keys`.

    The document keeps unknown keys, because an unknown key might be a misspelled key of `keys`.
    """
    ignored = [key for key in EVERY_KEY if key not in keys]
    return replace(document, value={key: node for key, node in document.fields.items() if key not in ignored})
