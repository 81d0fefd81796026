"""Edits of a YAML text: replacement of values, and insertion of missing values.

All other bytes stay unchanged. No message quotes the text, which can contain a private key.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from certmond.errors import WriteError
from certmond.formats.kubeconfig import as_text, load_mapping

Position = tuple[str | int, ...]
"""Keys and list indexes from the root of the document to a value."""

# The text before a value: anchor and tag, then a quote, or the header of a block scalar with its first indentation.
_HEAD = re.compile(r"""(?:[&!]\S*\s+)*(?:["']|[|>][^\n]*\n\s*|)""")
_TAIL = "\"' \t\r\n"


def with_values(
    data: bytes, document: Mapping[str, Any], new_values: Mapping[Position, bytes | str], what: str
) -> bytes:
    """Return the YAML text `data` in which `new_values` replace the old values. Encode values of type bytes in base64.

    `document` is the parsed `data`. Raises WriteError if the edit would change other content. `what` describes the
    values in the message.
    """
    # The text of an equal value stays unchanged, so that certmond does not change an up-to-date file.
    edits = {
        position: content
        for position, content in new_values.items()
        if not _equals(_value(document, position), content)
    }
    try:
        result = _with_edits(data.decode("utf-8"), edits).encode("utf-8")
        proven = _is_proven(document, load_mapping(result), new_values)
    except Exception:  # noqa: BLE001 - after any exception of PyYAML or the proof, the result is not proven
        proven, result = False, b""
    if not proven:
        fact = f"certmond cannot replace {what} without another change to the file"
        raise WriteError(
            f"{fact}; write each of these values only once, in UTF-8, and without YAML anchors and aliases"
        )
    return result


def encoded(content: bytes) -> str:
    """Return `content` in base64, as text."""
    return base64.b64encode(content).decode("ascii")


def decoded(value: Any) -> bytes | None:
    """Return the bytes of a base64 text, which can contain line breaks, or None if the text is not base64.

    Return b"" if `value` is not a string.
    """
    try:
        return base64.b64decode("".join(as_text(value).split()), validate=True)
    except ValueError:
        return None


def _equals(value: Any, content: bytes | str) -> bool:
    return bool(value == content if isinstance(content, str) else decoded(value) == content)


def _with_edits(text: str, edits: Mapping[Position, bytes | str]) -> str:
    """Return the text in which the new values in `edits` replace the old values.

    Raises ValueError if an old value is not a scalar.
    """
    # Use the loader that is written in Python, because its marks count characters, including a BOM. Compose only the
    # first document, as `load_mapping` does.
    root = next(yaml.compose_all(text, Loader=yaml.SafeLoader))
    replacements = [_edit(text, root, position, content) for position, content in edits.items()]
    for start, stop, new in sorted(replacements, key=lambda edit: -edit[0]):
        text = f"{text[:start]}{new}{text[stop:]}"
    return text


def _edit(text: str, root: Any, position: Position, content: bytes | str) -> tuple[int, int, str]:
    """Return the start and the end of the old value at `position`, and the new text.

    If there is no old value, return the place and the text of an insertion. Raises ValueError if the old value is not a
    scalar.
    """
    *outer, key = position
    new = content if isinstance(content, str) else encoded(content)
    mapping = _node(root, outer)
    if all(each.value not in {key, "<<"} for each, _ in mapping.value):  # "<<" can merge the key from another mapping
        return _insertion(text, mapping, str(key), new)
    node = _node(mapping, [key])
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("is not a scalar")  # noqa: TRY004 - the text is wrong, not a type in this program
    start, stop = node.start_mark.index, node.end_mark.index
    if head := _HEAD.match(text, start, stop):
        start = head.end()
    stop = start + len(text[start:stop].rstrip(_TAIL))
    return start, stop, f" {new}" if text[start - 1] == ":" else new  # the key had no value


def _insertion(text: str, mapping: Any, key: str, new: str) -> tuple[int, int, str]:
    """Return the edit that inserts `key` before the first key of `mapping`, in the style of this mapping."""
    if mapping.flow_style:
        start = text.index("{", mapping.start_mark.index) + 1
        return start, start, f"{json.dumps(key)}: {json.dumps(new)}, "
    mark = mapping.value[0][0].start_mark
    return mark.index, mark.index, f"{key}: {new}\n{' ' * mark.column}"


def _node(node: Any, position: list[str | int]) -> Any:
    for step in position:
        if isinstance(step, str):
            (node,) = [value for key, value in node.value if key.value == step]
        else:
            node = node.value[step]
    return node


def _is_proven(before: Mapping[str, Any], after: Mapping[str, Any], new_values: Mapping[Position, bytes | str]) -> bool:
    """Return whether `after` contains the new values, and otherwise equals `before`."""
    if not all(_equals(_value(after, position), content) for position, content in new_values.items()):
        return False
    # Compare as text: this is fast with aliases, distinguishes 1 from true, and treats .nan as equal to .nan.
    bare = [yaml.safe_dump(_without(document, list(new_values)), sort_keys=False) for document in (before, after)]
    return bare[0] == bare[1]


def _without(document: Any, positions: list[Position]) -> Any:
    """Return a copy of the document without the values at `positions`."""
    for position in positions:
        document = _without_one(document, position)
    return document


def _without_one(value: Any, position: Position) -> Any:
    copy = value.copy()  # another position can share this mapping (a YAML alias)
    if len(position) == 1:
        copy.pop(position[0], None)
    else:
        copy[position[0]] = _without_one(value[position[0]], position[1:])
    return copy


def _value(document: Any, position: Position) -> Any:
    for step in position[:-1]:
        document = document[step]
    return document.get(position[-1])
