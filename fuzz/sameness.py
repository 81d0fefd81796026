"""Differences between two YAML texts in the values and in the text around the values, without the use of certmond.

An edit changes nothing else if all other values keep their types and their order, and if every byte outside of the
changed values stays the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import yaml

Place = tuple[Any, ...]
"""The path of a value in a document: keys and indexes, from the root."""


class Difference(NamedTuple):
    """Two different values at the same path. Lists and mappings count as different only if their keys differ."""

    place: Place
    before: Any
    after: Any


def differences(before: bytes, after: bytes) -> list[Difference]:
    """Return the differences between two documents."""
    return list(_walk((), yaml.safe_load(before), yaml.safe_load(after), set()))


def _walk(place: Place, old: Any, new: Any, met: set[tuple[int, int]]) -> Iterator[Difference]:
    if (id(old), id(new)) in met:  # an alias: the comparison is done or in progress
        return
    if type(old) is type(new) and isinstance(old, (Mapping, list)):
        met.add((id(old), id(new)))
        names = [list(each) if isinstance(each, Mapping) else range(len(each)) for each in (old, new)]
        if list(map(repr, names[0])) != list(map(repr, names[1])):
            yield Difference(place, old, new)
            return
        for name, other in zip(*names, strict=True):
            yield from _walk((*place, name), old[name], new[other], met)
    elif repr(old) != repr(new):  # compare as text, which distinguishes 1 from true, but not .nan from .nan
        yield Difference(place, old, new)


def around(data: bytes, places: Iterable[Place]) -> list[str]:
    """Return the text before, between and after the values at `places`."""
    text = data.decode()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    marks = sorted((node.start_mark.index, node.end_mark.index) for node in (_node(root, each) for each in places))
    return [
        text[start:stop]
        for start, stop in zip([0, *(m[1] for m in marks)], [*(m[0] for m in marks), None], strict=True)
    ]


def _node(root: Any, place: Place) -> yaml.Node:
    node = root
    for step in place:
        found = node.value[step] if isinstance(step, int) else next(v for k, v in node.value if k.value == step)
        node = found
    return node  # type: ignore[no-any-return]
