"""Merger of the YAML texts of a configuration: the profile, the configuration file and conf.d/.

This module knows no type of a field. Therefore, shell completion can read names without the models.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from certmond.config.shipped_profiles import DEFAULT_PROFILE, NO_PROFILE, profiles
from certmond.config.yaml_source import Node, Place, Problem, read, shown

LISTS = ("certificates", "services", "signers", "derived", "hooks")
"""Sections that are lists of entries with a name."""


class Source(NamedTuple):
    """A YAML text, and the name of the text in messages."""

    name: str
    text: str | bytes


def with_profile(documents: Sequence[Node], name: str | None) -> list[Node]:
    """Return the documents, and last a document with the option --profile if `name` is not None."""
    place = Place("--profile")
    return [*documents, *([Node({"profile": Node(name, place)}, place)] if name is not None else [])]


def entry_names(sources: Iterable[Source], section: str, profile: str | None = None) -> Iterator[str]:
    """Yield the name of each entry in the section, also if the configuration is invalid.

    `section` is one of `LISTS`. `profile` overrides the profile in the sources.
    """
    documents = with_profile([document for each in sources if (document := read(*each)[0])], profile)
    merged = merge((*profile_documents(documents), *documents), [])
    for entry in merged.fields[section].items if section in merged.fields else ():
        if entry.name:
            yield entry.name


def profile_documents(documents: Sequence[Node]) -> tuple[Node, ...]:
    """Return the profile that the documents name, preceded by the profiles on which this profile is based.

    For an unknown name, return the default profile, so that the parser can find the other problems.
    """
    named = [node.value for document in documents if (node := document.fields.get("profile")) and node.value]
    name = named[-1] if named else DEFAULT_PROFILE
    text = "" if name == NO_PROFILE else profiles().get(str(name), profiles()[DEFAULT_PROFILE])
    own = read(f"profile {name}", text)[0] or Node({}, Place(""))
    return (*profile_documents((own,)), own) if "profile" in own.fields else (own,)


def merge(documents: Iterable[Node], problems: list[Problem], known: Container[str] = ()) -> Node:
    """Merge the documents. A later document takes precedence. The function ignores keys in `known` without a value.

    Add a problem for each section that is not a list, and for each duplicate name.
    """
    joined: dict[str, Node] = {}
    for document in documents:
        for key, node in document.fields.items():
            if node.value is None and key in known:
                continue
            if key in LISTS and not isinstance(node.value, list):
                problems.append(Problem(node.place, "must be a list, with lines such as `- name: …`"))
                continue
            earlier = joined[key].items if key in joined else []
            joined[key] = replace(node, value=_overlay(earlier, node.items, problems)) if key in LISTS else node
    return Node(joined, Place(""))


def _overlay(earlier: list[Node], entries: list[Node], problems: list[Problem]) -> list[Node]:
    """Return the entries in `earlier`, changed and extended by `entries`. Add a problem for each duplicate name.

    Merge each new entry into the entry of the same name. If there is no such entry, append the new entry.
    """
    result = list(earlier)
    number = {entry.name: number for number, entry in enumerate(result) if entry.name}
    lines: dict[str, int] = {}
    for entry in entries:
        if entry.name in lines:
            text = f"repeats the name of line {lines[entry.name]}, {shown(entry.name)}"
            problems.append(Problem(entry.place, f"{text}; merge the two entries, or rename one of them"))
            continue
        if entry.name in number:
            result[number[entry.name]] = replace(entry, value=result[number[entry.name]].fields | entry.fields)
        else:
            result.append(entry)
        if entry.name:
            lines[entry.name] = entry.place.line
    return result
