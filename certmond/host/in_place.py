"""Values of a YAML text, exchanged where they stand or put in where they are missing.

Owns that comments, order, quotes and whatever else is in the file stay byte for byte: the result is read again to prove
it. Never reads or writes a file, and never quotes the text: it may hold a private key.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from certmond.errors import WriteError
from certmond.host.kubeconfig import as_text, load_mapping

Place = tuple[str | int, ...]
"""Where a value stands in a document: keys and numbers, from the outside in."""

# What stands before a value: anchor and tag, then a quote, or the head of a block with its first indentation.
_HEAD = re.compile(r"""(?:[&!]\S*\s+)*(?:["']|[|>][^\n]*\n\s*|)""")
_TAIL = "\"' \t\r\n"


def exchanged(data: bytes, document: Mapping[str, Any], wanted: Mapping[Place, bytes | str], what: str) -> bytes:
    """Return the text with the values of `wanted`, proven to be the same but for them: bytes as base64, text as it is.
    `document` is what `data` says, and has all that these values stand in. Raises WriteError, which names `what`.
    """
    # What is there already stays as it is written: nothing changes, then, in a file that needs no change.
    edits = {place: content for place, content in wanted.items() if not _is(_value(document, place), content)}
    try:
        result = _spliced(data.decode("utf-8"), edits).encode("utf-8")
        proven = _proves(document, load_mapping(result), wanted)
    except Exception:  # noqa: BLE001 - whatever PyYAML or the proof stumbles over: then it is not proven
        proven, result = False, b""
    if not proven:
        fact = f"{what} cannot be exchanged without changing more than that"
        raise WriteError(f"{fact}; write them as plain values, in UTF-8, each once and shared by no anchor")
    return result


def encoded(content: bytes) -> str:
    """Return the base64 of it."""
    return base64.b64encode(content).decode("ascii")


def decoded(value: Any) -> bytes | None:
    """Return the bytes behind base64, which may be broken into lines; None where it is none."""
    try:
        return base64.b64decode("".join(as_text(value).split()), validate=True)
    except ValueError:
        return None


def _is(value: Any, content: bytes | str) -> bool:
    return bool(value == content if isinstance(content, str) else decoded(value) == content)


def _spliced(text: str, edits: Mapping[Place, bytes | str]) -> str:
    """The text with other values at some places. Raises ValueError where one of them is not a single scalar."""
    # The loader written in Python: its marks count characters, from a BOM on.
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    found = [_edit(text, root, place, content) for place, content in edits.items()]
    for start, stop, new in sorted(found, key=lambda edit: -edit[0]):
        text = f"{text[:start]}{new}{text[stop:]}"
    return text


def _edit(text: str, root: Any, place: Place, content: bytes | str) -> tuple[int, int, str]:
    """From where to where the text changes, and what stands there then."""
    *outer, key = place
    new = content if isinstance(content, str) else encoded(content)
    mapping = _node(root, outer)
    if all(each.value not in {key, "<<"} for each, _ in mapping.value):  # else it may be merged in
        return _insertion(text, mapping, str(key), new)
    node = _node(mapping, [key])
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("is no scalar")  # noqa: TRY004 - what is wrong is the text, not a type of ours
    start, stop = node.start_mark.index, node.end_mark.index
    if head := _HEAD.match(text, start, stop):
        start = head.end()
    stop = start + len(text[start:stop].rstrip(_TAIL))
    return start, stop, f" {new}" if text[start - 1] == ":" else new  # there was no value at all


def _insertion(text: str, mapping: Any, key: str, new: str) -> tuple[int, int, str]:
    """Before the first key of the mapping: in a line of its own, as far indented, or between braces."""
    if mapping.flow_style:
        start = text.index("{", mapping.start_mark.index) + 1
        return start, start, f"{json.dumps(key)}: {json.dumps(new)}, "
    mark = mapping.value[0][0].start_mark
    return mark.index, mark.index, f"{key}: {new}\n{' ' * mark.column}"


def _node(node: Any, place: list[str | int]) -> Any:
    for step in place:
        if isinstance(step, str):
            (node,) = [value for key, value in node.value if key.value == step]
        else:
            node = node.value[step]
    return node


def _proves(before: Mapping[str, Any], after: Mapping[str, Any], wanted: Mapping[Place, bytes | str]) -> bool:
    """The new document has exactly what is wanted, and all else as it was, down to types and order."""
    if not all(_is(_value(after, place), content) for place, content in wanted.items()):
        return False
    # As text, since that is quick with aliases in it, and tells 1 from true and not .nan from itself.
    bare = [yaml.safe_dump(_without(document, list(wanted)), sort_keys=False) for document in (before, after)]
    return bare[0] == bare[1]


def _without(document: Any, places: list[Place]) -> Any:
    """A copy that lacks the values at `places`. It shares nothing on the way there: an alias of such a value, or of
    what holds it, still shows it.
    """
    for place in places:
        document = _bared(document, place)
    return document


def _bared(value: Any, place: Place) -> Any:
    copy = value.copy()
    if len(place) == 1:
        copy.pop(place[0], None)
    else:
        copy[place[0]] = _bared(value[place[0]], place[1:])
    return copy


def _value(document: Any, place: Place) -> Any:
    for step in place[:-1]:
        document = document[step]
    return document.get(place[-1])
