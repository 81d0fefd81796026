"""Loader of YAML documents, with a limit for the values that aliases repeat.

A few lines with aliases of aliases can represent more values than the memory can contain.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from certmond.errors import LimitError

MAX_REPEATED = 400_000
"""Maximum number of values that aliases add to a document.

go-yaml also limits these values, from 400,000 values in a document (decode.go, allowedAliasRatio). Like certmond,
go-yaml refuses an alias inside the value of its anchor.
"""
_CHARACTERS = 64
"""Number of characters of a text that count as one value."""
_ENDLESS = 1 << 32  # higher numbers can have any length
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_OF_TEXT = frozenset({"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"})


class _Loader(_Base):  # type: ignore[misc]
    """Loader that returns a date and a single `=` as strings, as Kubernetes components do (go-yaml v2, decode.go).

    PyYAML refuses a date that does not exist, and a single `=`.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML reads this attribute of the class
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OF_TEXT]
        for first, resolvers in _Base.yaml_implicit_resolvers.items()
    }


def load_documents(data: bytes) -> Iterator[Any]:
    """Yield the value of each YAML document. A value contains the same object for an anchor and for its aliases.

    Raises LimitError if aliases repeat too many values or never end. Also raises each exception that PyYAML raises.
    """
    loader = _Loader(data)
    try:
        while loader.check_node():
            root: Any = loader.get_node()
            if b"*" in data and _repeated(root) > MAX_REPEATED:
                raise LimitError(f"is too large: its aliases repeat more than {MAX_REPEATED:,} values")
            yield loader.construct_document(root)
    finally:
        loader.dispose()


def _repeated(root: Any) -> int:
    """Return the number of values that aliases add below a node, at most _ENDLESS.

    Raises LimitError for an alias inside the value of its anchor.
    """
    whole, single = dict[int, int](), dict[int, int]()  # number of a node -> values with and without its descendants
    pending = [root]
    while pending:
        node = pending[-1]
        if id(node) in whole:
            pending.pop()
        elif id(node) in single:
            whole[id(node)] = min(single[id(node)] + sum(whole[id(each)] for each in _children(node)), _ENDLESS)
        else:
            single[id(node)] = 1 + (len(node.value) // _CHARACTERS if isinstance(node.value, str) else 0)
            for each in _children(node):
                if id(each) in single and id(each) not in whole:  # the node is its own descendant
                    raise LimitError("is not YAML that go-yaml accepts: an alias is inside its anchor")
                pending.append(each)
    return whole[id(root)] - sum(single.values())


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
