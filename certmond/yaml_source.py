"""YAML text -> values that know their file, line and path, so that what is wrong with one can be said where it stands.

Owns the reading of YAML for configurations: only mappings, lists, text, booleans and nothing; no key twice; anchors,
aliases and merge keys, up to a size that cannot eat memory. Numbers stay text: the numbers of a configuration are modes
and durations, which mean the same with quotes and without. Any text gives a tree or problems, never another error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import yaml
from yaml import events

MAX_BYTES = 1024 * 1024
MAX_VALUES = 100_000
MAX_DEPTH = 32

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = yaml.resolver.Resolver()
_TAG = "tag:yaml.org,2002:"
_AS_TEXT = {"str", "int", "float", "timestamp", "value", "merge"}


class Place(NamedTuple):
    """A place in a configuration. Line 0 is the whole file, an empty path the whole document."""

    file: str
    line: int = 0
    path: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}" if self.path else place

    def below(self, key: str | int) -> Place:
        """The place of an item or a key that is (or should be) in the value here."""
        if isinstance(key, int):
            return self._replace(path=f"{self.path}[{key}]")
        name = key if re.fullmatch(r"[\w-]{1,64}", key) else shown(key)
        return self._replace(path=f"{self.path}.{name}" if self.path else name)


class Problem(NamedTuple):
    """What is wrong, where, and the remedy."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


Value: TypeAlias = "str | bool | list[Node] | dict[str, Node] | None"


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place: for the value of a key, that of the key."""

    value: Value
    place: Place

    def plain(self) -> Any:
        """The value alone."""
        match self.value:
            case list():
                return [node.plain() for node in self.value]
            case dict():
                return {key: node.plain() for key, node in self.value.items()}
            case _:
                return self.value


def shown(text: object) -> str:
    """What somebody wrote, fit for a sentence: quoted, on one line, not too long."""
    whole = repr(text)
    return whole if len(whole) <= 64 else f"{whole[:60]}…{whole[-1]}"


def read(file: str, text: str) -> tuple[Node, list[Problem]]:
    """The document in `text` (an empty mapping where there is none, or none that can be used) and all its problems."""
    reader = _Reader(file)
    node = empty = Node({}, Place(file, 1))
    try:
        node = reader.document(text)
    except _UnusableError as unusable:
        reader.problems.append(Problem(*unusable.args))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        what = ", ".join(part for part in (error.context, error.problem) if part)
        reader.problems.append(Problem(Place(file, line), f"is not YAML: {what}"))
    except yaml.reader.ReaderError as error:
        line = text.encode(errors="replace")[: error.position].count(b"\n") + 1
        reader.problems.append(Problem(Place(file, line), f"is not YAML: it has a control character, {error.reason}"))
    except UnicodeEncodeError as error:
        reader.problems.append(
            Problem(Place(file, text[: error.start].count("\n") + 1), "is not UTF-8; save it as UTF-8")
        )
    if not isinstance(node.value, dict):
        if node.value is not None:
            reader.problems.append(Problem(node.place, "must be a mapping, with lines such as `profile: kubeadm`"))
        node = empty
    return node, reader.problems


class _UnusableError(Exception):
    """The rest of the document cannot be used: (place, sentence)."""


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._values = 0
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._events: Iterator[events.Event] = iter(())

    def document(self, text: str) -> Node:
        if len(text) > MAX_BYTES:
            raise _UnusableError(
                Place(self.file), f"is larger than {MAX_BYTES // 1024} KiB; split it into files in conf.d/"
            )
        self._events = iter(yaml.parse(text, Loader=_LOADER))
        node = Node(None, Place(self.file, 1))
        documents = 0
        for event in self._events:
            if isinstance(event, events.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _UnusableError(
                        self._at(event), "begins a second document; remove the line ---, or use a file in conf.d/"
                    )
                first = next(self._events)
                node = self._node(first, self._at(first), 0)
        return node

    def _at(self, event: events.Event, path: str = "") -> Place:
        return Place(self.file, event.start_mark.line + 1 if event.start_mark else 0, path)

    def _node(self, event: events.Event, place: Place, depth: int) -> Node:
        before = self._values
        self._count(place, 1)
        if depth > MAX_DEPTH:
            raise _UnusableError(
                place._replace(path=""), f"is nested more than {MAX_DEPTH} levels deep; make it flatter"
            )
        match event:
            case events.AliasEvent():
                return self._alias(event.anchor or "", place)
            case events.ScalarEvent():
                node = Node(self._scalar(event, place), place)
            case events.SequenceStartEvent():
                self._refuse_tag(event.tag, place)
                node = Node(list(self._items(place, depth)), place)
            case events.MappingStartEvent():
                self._refuse_tag(event.tag, place)
                node = Node(self._mapping(place, depth), place)
            case _:  # pragma: no cover  # the parser's grammar has no other event here
                raise _UnusableError(place, "is not YAML")
        if event.anchor:
            self._anchors[event.anchor] = node, self._values - before
        return node

    def _count(self, place: Place, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise _UnusableError(
                place._replace(path=""), f"has more than {MAX_VALUES} values, aliases counted; shorten it"
            )

    def _alias(self, anchor: str, place: Place) -> Node:
        if anchor not in self._anchors:
            raise _UnusableError(
                place, f"*{anchor} has no complete &{anchor} before it; write one, or the value itself"
            )
        node, size = self._anchors[anchor]
        self._count(place, size)
        return replace(node, place=place)

    def _items(self, place: Place, depth: int) -> Iterator[Node]:
        for number, event in enumerate(self._events):
            if isinstance(event, events.SequenceEndEvent):
                return
            yield self._node(event, self._at(event, place.below(number).path), depth + 1)

    def _mapping(self, place: Place, depth: int) -> dict[str, Node]:
        merged: dict[str, Node] = {}
        own: dict[str, Node] = {}
        for event in self._events:
            if isinstance(event, events.MappingEndEvent):
                break
            at = self._at(event, place.path)
            key = self._node(event, at, depth + 1)
            name = key.value if isinstance(key.value, str) else ""
            value = self._node(next(self._events), at.below(name) if name else at, depth + 1)
            if not isinstance(key.value, str):
                self.problems.append(Problem(at, "has a key that is not text; put it in quotes"))
            elif name == "<<" and isinstance(event, events.ScalarEvent) and event.implicit[0]:
                merged = self._merged(value) | merged
            elif name in own:
                first = own[name].place.line
                self.problems.append(
                    Problem(value.place, f"is given a second time, after line {first}; keep one of them")
                )
            else:
                own[name] = value
        return merged | own

    def _merged(self, node: Node) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for each in node.value if isinstance(node.value, list) else [node]:
            if isinstance(each.value, dict):
                found = each.value | found
            else:
                self.problems.append(Problem(node.place, "must merge a mapping, or a list of them"))
        return found

    def _scalar(self, event: events.ScalarEvent, place: Place) -> str | bool | None:
        tag = event.tag if event.tag and event.tag != "!" else None
        resolved: str = tag or _RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]
        kind = resolved.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool" and event.value.lower() in yaml.constructor.SafeConstructor.bool_values:
            return yaml.constructor.SafeConstructor.bool_values[event.value.lower()]
        if kind not in _AS_TEXT:
            self.problems.append(Problem(place, f"has the tag {shown(tag)}, which means nothing here; remove it"))
        return event.value

    def _refuse_tag(self, tag: str | None, place: Place) -> None:
        if tag not in {None, "!", f"{_TAG}seq", f"{_TAG}map"}:
            self.problems.append(Problem(place, f"has the tag {shown(tag)}, which means nothing here; remove it"))
