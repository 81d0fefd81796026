"""How two YAML texts differ, told by code that is not certmond's: which values do, and whether anything else does.

Owns what "nothing else changes" means for a file that is edited in place: the values with their types and order, and
every byte that is not part of a value that differs. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import yaml

Place = tuple[Any, ...]
"""Where a value stands in a document: keys and numbers, from the outside in."""


class Difference(NamedTuple):
    """Two values at one place; lists and mappings only where they have not the same keys."""

    place: Place
    before: Any
    after: Any


def differences(before: bytes, after: bytes) -> list[Difference]:
    """Where two documents differ."""
    return list(_walk((), yaml.safe_load(before), yaml.safe_load(after), set()))


def _walk(place: Place, old: Any, new: Any, met: set[tuple[int, int]]) -> Iterator[Difference]:
    if (id(old), id(new)) in met:  # behind an anchor: it has been compared, or is being so
        return
    if type(old) is type(new) and isinstance(old, (Mapping, list)):
        met.add((id(old), id(new)))
        names = [list(each) if isinstance(each, Mapping) else range(len(each)) for each in (old, new)]
        if list(map(repr, names[0])) != list(map(repr, names[1])):
            yield Difference(place, old, new)
            return
        for name, other in zip(*names, strict=True):
            yield from _walk((*place, name), old[name], new[other], met)
    elif repr(old) != repr(new):  # as text, that tells 1 from true, and not .nan from itself
        yield Difference(place, old, new)


def around(data: bytes, places: Iterable[Place]) -> list[str]:
    """The text before, between and behind the values at these places."""
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
