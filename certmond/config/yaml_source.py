"""Parser of YAML text that records the file, line and path of each value.

Numbers remain text, because modes and durations have the same meaning with and without quotes. For any text, the parser
returns a tree or problems, and never raises an exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import yaml
from yaml import events

from certmond.immutable_class import immutable

MAX_BYTES = 1024 * 1024
MAX_VALUES = 100_000
MAX_DEPTH = 32

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = yaml.resolver.Resolver()
_BOOLEANS = yaml.constructor.SafeConstructor.bool_values
_TAG = "tag:yaml.org,2002:"
_AS_TEXT = {"str", "int", "float", "timestamp", "value", "merge"}


class Place(NamedTuple):
    """A place in a configuration. Line 0 refers to the whole file. An empty path refers to the whole document."""

    file: str
    line: int = 0
    path: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}" if self.path else place

    def below(self, key: str | int) -> Place:
        """Return the place of the item or key `key` below this place."""
        if isinstance(key, int):
            return self._replace(path=f"{self.path}[{key}]")
        name = key if re.fullmatch(r"[\w-]{1,64}", key) else shown(key)
        return self._replace(path=f"{self.path}.{name}" if self.path else name)


class Problem(NamedTuple):
    """A problem in a configuration: the place of the problem, and a text with the fact and the remedy."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


Value: TypeAlias = "str | bool | list[Node] | dict[str, Node] | None"


@immutable
class Node:
    """A YAML value, with its place in the file. In a mapping, the place of a value is the place of its key."""

    value: Value
    place: Place

    @property
    def fields(self) -> dict[str, Node]:
        """Values of a mapping by key, or {} if the value is not a mapping."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """Values of a list, or [] if the value is not a list."""
        return self.value if isinstance(self.value, list) else []

    @property
    def name(self) -> str:
        """Text of the field `name`, which identifies an entry of a list, or "" if this field has no text."""
        node = self.fields.get("name")
        return node.value if node and isinstance(node.value, str) else ""

    def texts(self, field: str) -> Iterator[tuple[str, Node]]:
        """Yield each text in the field `field` with its node. The field can be one text or a list of texts."""
        node = self.fields.get(field)
        for each in (node.items or [node]) if node else ():
            if isinstance(each.value, str):
                yield each.value, each

    def keys(self, field: str) -> Iterator[tuple[str, Node]]:
        """Yield each key of the mapping in the field `field`, with its value."""
        node = self.fields.get(field)
        yield from node.fields.items() if node else ()

    def find(self, location: Iterable[str | int]) -> Place:
        """Return the place of `location` below this node. If `location` is missing, return the nearest known place."""
        node = self
        for step in location:
            if isinstance(step, str) and step in node.fields:
                node = node.fields[step]
            elif isinstance(step, int) and step < len(node.items):
                node = node.items[step]
            elif isinstance(node.value, dict):
                return node.place.below(step)
        return node.place  # a single text can replace a list with one item

    def plain(self) -> Any:
        """Return the value without places, and with tuples instead of lists."""
        match self.value:
            case list():
                return tuple(node.plain() for node in self.value)
            case dict():
                return {key: node.plain() for key, node in self.value.items()}
            case _:
                return self.value


def shown(text: object) -> str:
    """Format `text` for a message: in quotes, on one line, and with at most 64 characters."""
    whole = repr(text)
    return whole if len(whole) <= 64 else f"{whole[:60]}…{whole[-1]}"


def read(file: str, text: str | bytes) -> tuple[Node | None, list[Problem]]:
    """Return the mapping in the document `text`, and every problem. The mapping is None if the document is unusable."""
    reader = _Reader(file)
    try:
        return reader.document(text), reader.problems
    except _UnusableError as unusable:
        problem = Problem(*unusable.args)
    except UnicodeError as error:
        head = error.object[: error.start] if isinstance(error, UnicodeDecodeError) else b""
        problem = Problem(Place(file, head.count(b"\n") + 1), "is not UTF-8; save it as UTF-8")
    except yaml.reader.ReaderError as error:
        head = text if isinstance(text, bytes) else text.encode()
        line = head[: error.position].count(b"\n") + 1
        problem = Problem(Place(file, line), f"is not YAML: {error.reason}; remove the character")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        cause = ", ".join(part for part in (error.context, error.problem) if part)
        if _is_indented_by_tab(text, line):
            cause = "a tab indents the line; use spaces"
        problem = Problem(Place(file, line), f"is not YAML: {cause}")
    return None, [*reader.problems, problem]


def _is_indented_by_tab(text: str | bytes, line: int) -> bool:
    lines = (text.decode(errors="replace") if isinstance(text, bytes) else text).splitlines()[line - 1 : line]
    return any("\t" in each[: len(each) - len(each.lstrip())] for each in lines)


class _UnusableError(Exception):
    """Problem that makes the rest of the document unusable. The arguments are the place and the text of the problem."""


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._values = 0
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._events: Iterator[events.Event] = iter(())

    def document(self, text: str | bytes) -> Node:
        whole = text if isinstance(text, bytes) else text.encode()
        if len(whole) > MAX_BYTES:
            raise _UnusableError(Place(self.file), "is larger than 1 MiB; split it into files in conf.d/")
        self._events = iter(yaml.parse(whole.decode(), Loader=_LOADER))
        root = None
        for event in self._events:
            if isinstance(event, events.DocumentStartEvent):
                if root:
                    raise _UnusableError(self._at(event), "begins a second document; remove the line ---")
                first = next(self._events)
                root = self._node(first, self._at(first), 0)
        if root is None or root.value is None:  # the file contains only comments
            return Node({}, Place(self.file, 1))
        if not isinstance(root.value, dict):
            raise _UnusableError(root.place, "must be a mapping, with lines such as `profile: kubeadm`")
        return root

    def _at(self, event: events.Event, path: str = "") -> Place:
        return Place(self.file, event.start_mark.line + 1 if event.start_mark else 0, path)

    def _node(self, event: events.Event, place: Place, depth: int) -> Node:
        before = self._values
        self._count(place, 1)
        if depth > MAX_DEPTH:
            raise _UnusableError(
                place._replace(path=""), f"is nested more than {MAX_DEPTH} levels deep; reduce the nesting"
            )
        match event:
            case events.AliasEvent():
                return self._alias(event.anchor or "", place)
            case events.ScalarEvent():
                node = Node(self._scalar(event, place), place)
            case events.MappingStartEvent():
                node = Node(self._mapping(place, depth), place)
                self._refuse_tag(event.tag, place)
            case events.CollectionStartEvent():
                node = Node(list(self._items(place, depth)), place)
                self._refuse_tag(event.tag, place)
            case _:  # the parser returns no other event here
                raise _UnusableError(place, "is not YAML")
        if event.anchor:
            self._anchors[event.anchor] = node, self._values - before
        return node

    def _count(self, place: Place, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise _UnusableError(
                place._replace(path=""), f"contains more than {MAX_VALUES} values, including aliases; shorten the file"
            )

    def _alias(self, anchor: str, place: Place) -> Node:
        if anchor not in self._anchors:
            raise _UnusableError(
                place, f"*{anchor} has no complete &{anchor} before it; define the anchor, or write the value"
            )
        node, size = self._anchors[anchor]
        self._count(place, size)
        return replace(node, place=place)

    def _items(self, place: Place, depth: int) -> Iterator[Node]:
        number = 0
        while not isinstance(event := next(self._events), events.SequenceEndEvent):
            yield self._node(event, self._at(event, place.below(number).path), depth + 1)
            number += 1

    def _mapping(self, place: Place, depth: int) -> dict[str, Node]:
        merged: dict[str, Node] = {}
        own: dict[str, Node] = {}
        while not isinstance(event := next(self._events), events.MappingEndEvent):
            at = self._at(event, place.path)
            key = self._node(event, at, depth + 1).value
            if isinstance(key, bool) and isinstance(event, events.ScalarEvent):
                key = event.value  # YAML 1.1 resolves keys such as `on` to a Boolean
            value = self._node(next(self._events), at.below(key) if isinstance(key, str) else at, depth + 1)
            if not isinstance(key, str):
                self.problems.append(Problem(at, "contains a key that is not text; put the key in quotes"))
            elif key == "<<" and isinstance(event, events.ScalarEvent) and event.implicit[0]:
                merged = self._merged(value) | merged
            elif key in own:
                text = f"repeats the key of line {own[key].place.line}; remove one of the two keys"
                self.problems.append(Problem(value.place, text))
            else:
                own[key] = value
        return merged | own

    def _merged(self, node: Node) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for each in node.value if isinstance(node.value, list) else [node]:
            found = each.fields | found
            if not isinstance(each.value, dict):
                self.problems.append(Problem(node.place, "must merge a mapping, or a list of mappings"))
        return found

    def _scalar(self, event: events.ScalarEvent, place: Place) -> str | bool | None:
        tag = event.tag if event.tag != "!" else None
        if tag is None:
            implicit = (True, False) if event.tag else event.implicit  # libyaml reports another value for an empty `!`
            resolved: str = _RESOLVER.resolve(yaml.ScalarNode, event.value, implicit)  # type: ignore[no-untyped-call]
            kind = resolved.removeprefix(_TAG)
        else:
            kind = tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool" and event.value.lower() in _BOOLEANS:
            return _BOOLEANS[event.value.lower()]
        if kind not in _AS_TEXT:
            self._refuse_tag(tag, place)
        return event.value

    def _refuse_tag(self, tag: str | None, place: Place) -> None:
        if tag not in {None, "!", f"{_TAG}seq", f"{_TAG}map"}:
            self.problems.append(
                Problem(place, f"has the tag {shown(tag)}, which certmond does not support; remove it")
            )
