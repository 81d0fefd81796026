"""Edit of a static Pod manifest. The edit sets new values for the flags of one container.

All other bytes stay unchanged. The kubelet restarts the Pod after the caller has written the result.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from certmond.errors import MalformedError, WriteError
from certmond.formats.kubeconfig import as_text, load_mapping
from certmond.formats.manifest import Container, containers

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BLOCKS = frozenset("|>")


_Position = tuple[str | int, ...]
"""Keys and list indexes from the root of the document to a word."""


class _Word(NamedTuple):
    """A word of the command line of a container, and the position of the word in the manifest."""

    text: str
    position: _Position


def flag_values_in(data: bytes, path: str, container: str, flags: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the values of each of `flags`, or () for a flag that is not set. The names have no leading dashes.

    The component uses the last value. Raises WriteError if the manifest is invalid, or does not contain exactly one
    container with the name `container`.
    """
    found = _container(_document(data, path), path, container)
    return {flag: tuple(value for name, value in found.flags if name == flag) for flag in flags}


def with_flags(data: bytes, path: str, container: str, flags: Mapping[str, str]) -> bytes:
    """Return the manifest `data` with new values for `flags` of a container. The names have no leading dashes.

    Raises WriteError if the manifest is unusable, if a flag is not set, or if the edit would change other content.
    """
    document = _document(data, path)
    _container(document, path, container)
    words = list(_words(document, container))
    edits, problems = dict[_Position, str](), list[str]()
    for flag, value in flags.items():
        try:
            edits |= _edits(words, flag, value)
        except ValueError as error:
            problems.append(f"--{flag} of container {container!r} in {path} {error}")
    if problems:
        raise WriteError(*problems)
    try:
        result = _with_edits(data.decode("utf-8"), edits).encode("utf-8")
        proven = _is_proven(document, load_mapping(result), container, flags, edits)
    except Exception:  # noqa: BLE001 - after any exception of PyYAML or the proof, the result is not proven
        proven, result = False, b""
    if not proven:
        names = ", ".join(f"--{flag}" for flag in flags)
        fact = (
            f"certmond cannot replace {names} of container {container!r} in {path} without another change to the file"
        )
        raise WriteError(f"{fact}; write each flag as a separate plain or quoted word, on one line, without a tag")
    return result


def _document(data: bytes, path: str) -> Mapping[str, Any]:
    """Return the parsed manifest.

    Raises WriteError if the manifest is not UTF-8, is malformed YAML, or contains several documents or YAML anchors.
    """
    documents, shared = 0, False
    try:
        for event in yaml.parse(data.decode("utf-8"), Loader=_Loader):
            documents += isinstance(event, yaml.DocumentStartEvent)
            shared |= isinstance(event, yaml.NodeEvent) and event.anchor is not None
    except UnicodeDecodeError:
        raise WriteError(f"{path} is not UTF-8; convert the file to UTF-8") from None
    except yaml.YAMLError:
        pass  # the loader below reports the line
    if documents > 1:
        raise WriteError(f"{path} contains several documents; remove the documents that the kubelet does not run")
    if shared:
        raise WriteError(
            f"{path} contains YAML anchors, which share one value between several fields; replace each "
            "alias with the value of its anchor"
        )
    try:
        return load_mapping(data)
    except MalformedError as error:
        raise WriteError(f"{path} {error}; correct it") from None


def _container(document: Mapping[str, Any], path: str, name: str) -> Container:
    found = [each for each in containers(document) if each.name == name]
    if not found:
        raise WriteError(f"{path} contains no container {name!r}; correct the path, or the name of the container")
    if len(found) > 1:
        raise WriteError(f"{path} contains more than one container {name!r}; keep only one of these containers")
    return found[0]


def _words(document: Mapping[str, Any], container: str) -> Iterator[_Word]:
    """Yield the words of the container's `command`, and then of its `args`."""
    for number, fields in enumerate(document["spec"]["containers"]):
        if isinstance(fields, Mapping) and as_text(fields.get("name")) == container:
            for field in ("command", "args"):
                is_set = fields.get(field)
                for position, word in enumerate(is_set if isinstance(is_set, list) else ()):
                    if isinstance(word, str):
                        yield _Word(word, ("spec", "containers", number, field, position))


def _edits(words: list[_Word], flag: str, value: str) -> dict[_Position, str]:
    """Return the new words that set `flag` to `value`, by position.

    Raises ValueError, with the remedy, if the flag is not set or the text of the flag is unsupported.
    """
    edits, is_set = dict[_Position, str](), False
    for number, word in enumerate(words):
        name, assigned, old = word.text.partition("=")
        if not name.startswith("--") or name[2:].replace("_", "-") != flag:
            continue
        is_set = True
        if name[2:] != flag:  # the components accept dashes and underscores
            raise ValueError("contains underscores; write it with dashes")
        if assigned:
            position, instead = word.position, f"{name}={value}"
        elif number + 1 < len(words) and not words[number + 1].text.startswith("-"):
            position, old, instead = words[number + 1].position, words[number + 1].text, value
        else:
            raise ValueError(f"has no value; write it as --{flag}=VALUE")
        if old != value:  # if the value is equal, keep its text
            edits[position] = instead
    if not is_set:
        raise ValueError("is not set; add it to the command as a separate word")
    return edits


def _with_edits(text: str, edits: Mapping[_Position, str]) -> str:
    """Return the text, in which each word in `edits` replaces the word at its position.

    Raises ValueError if an old word is not a plain or quoted scalar.
    """
    # Use the loader that is written in Python, because its marks count characters.
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    nodes = [(_node(root, position), word) for position, word in edits.items()]
    for node, word in sorted(nodes, key=lambda pair: -pair[0].start_mark.index):
        start, stop = node.start_mark.index, node.end_mark.index
        if text[start] == "!" or node.style in _BLOCKS:
            raise ValueError("has a YAML tag, or is a block scalar")
        if node.style:  # the scalar is quoted
            start, stop = start + 1, stop - 1
        text = f"{text[:start]}{word}{text[stop:]}"
    return text


def _node(node: Any, position: _Position) -> yaml.ScalarNode:
    for step in position:
        if isinstance(step, str):
            (node,) = [value for key, value in node.value if key.value == step]
        else:
            node = node.value[step]
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("is not a scalar")  # noqa: TRY004 - the text is wrong, not a type in this program
    return node


def _is_proven(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    container: str,
    flags: Mapping[str, str],
    edits: Mapping[_Position, str],
) -> bool:
    """Return whether `after` differs from `before` only in the new values of the flags."""
    expected = copy.deepcopy(dict(before))
    for position, word in edits.items():
        within: Any = expected
        for step in position[:-1]:
            within = within[step]
        within[position[-1]] = word
    # Compare as text: this distinguishes 1 from true, and treats .nan as equal to .nan.
    if yaml.safe_dump(expected, sort_keys=False) != yaml.safe_dump(after, sort_keys=False):
        return False
    found = next(each for each in containers(after) if each.name == container)
    return all({is_set for name, is_set in found.flags if name == flag} == {value} for flag, value in flags.items())
