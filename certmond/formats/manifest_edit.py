"""Edits of a static Pod manifest's text: other values for some flags of one container.

Owns the only edit of a manifest that certmond makes, for --cluster-signing-cert-file and similar flags. Only the words
of these flags change. The rest stays byte for byte, and the result is parsed again to prove it. Never reads or writes a
file: a caller that writes the result restarts the Pod.
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


_Place = tuple[str | int, ...]
"""The place of a word in a document: keys and indexes, from the outside in."""


class _Word(NamedTuple):
    """A word of the container's command line."""

    text: str
    place: _Place


def flag_values_in(data: bytes, path: str, container: str, flags: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the values of each flag (named without dashes) of the container in order, of which the last one counts; ()
    if it is not set.

    Raises WriteError if they cannot be determined; `path` names the file in it.
    """
    found = _container(_document(data, path), path, container)
    return {flag: tuple(value for name, value in found.flags if name == flag) for flag in flags}


def with_flags(data: bytes, path: str, container: str, flags: Mapping[str, str]) -> bytes:
    """Return the manifest `data` with a new value for each flag (named without dashes) of the container, however often
    it is set. Equal values leave the bytes unchanged.

    Raises WriteError if this is not possible without another change; `path` names the file in it.
    """
    document = _document(data, path)
    _container(document, path, container)
    words = list(_words(document, container))
    edits, problems = dict[_Place, str](), list[str]()
    for flag, value in flags.items():
        try:
            edits |= _edits(words, flag, value)
        except ValueError as error:
            problems.append(f"--{flag} of container {container!r} in {path} {error}")
    if problems:
        raise WriteError(*problems)
    try:
        result = _spliced(data.decode("utf-8"), edits).encode("utf-8")
        proven = _proves(document, load_mapping(result), container, flags, edits)
    except Exception:  # noqa: BLE001 - after any exception of PyYAML or the proof, the result is not proven
        proven, result = False, b""
    if not proven:
        names = ", ".join(f"--{flag}" for flag in flags)
        fact = f"{names} of container {container!r} in {path} cannot be exchanged without changing more than them"
        raise WriteError(f"{fact}; write each as a plain or quoted word of its own, on one line, without a tag")
    return result


def _document(data: bytes, path: str) -> Mapping[str, Any]:
    """Return the one document, which has no anchors. Raises WriteError."""
    documents, shared = 0, False
    try:
        for event in yaml.parse(data.decode("utf-8"), Loader=_Loader):
            documents += isinstance(event, yaml.DocumentStartEvent)
            shared |= isinstance(event, yaml.NodeEvent) and event.anchor is not None
    except UnicodeDecodeError:
        raise WriteError(f"{path} is not UTF-8; write it anew in that encoding") from None
    except yaml.YAMLError:
        pass  # the loader reports the place
    if documents > 1:
        raise WriteError(f"{path} holds several documents; leave in it the one that the kubelet runs")
    if shared:
        raise WriteError(
            f"{path} has YAML anchors, which let one text stand for several; write out each where it stands"
        )
    try:
        return load_mapping(data)
    except MalformedError as error:
        raise WriteError(f"{path} {error}; correct it") from None


def _container(document: Mapping[str, Any], path: str, name: str) -> Container:
    found = [each for each in containers(document) if each.name == name]
    if not found:
        raise WriteError(f"{path} has no container {name!r}; look whether it is the manifest that is meant")
    if len(found) > 1:
        raise WriteError(f"{path} has more than one container {name!r}; leave one of them")
    return found[0]


def _words(document: Mapping[str, Any], container: str) -> Iterator[_Word]:
    """Yield the words from which `containers` reads the flags."""
    for number, fields in enumerate(document["spec"]["containers"]):
        if isinstance(fields, Mapping) and as_text(fields.get("name")) == container:
            for field in ("command", "args"):
                given = fields.get(field)
                for position, word in enumerate(given if isinstance(given, list) else ()):
                    if isinstance(word, str):
                        yield _Word(word, ("spec", "containers", number, field, position))


def _edits(words: list[_Word], flag: str, value: str) -> dict[_Place, str]:
    """Return the words that change. Raises ValueError with the problem and the remedy."""
    edits, given = dict[_Place, str](), False
    for number, word in enumerate(words):
        name, assigned, old = word.text.partition("=")
        if not name.startswith("--") or name[2:].replace("_", "-") != flag:
            continue
        given = True
        if name[2:] != flag:  # a component accepts both spellings
            raise ValueError("is written with underscores; write it with dashes")
        if assigned:
            place, instead = word.place, f"{name}={value}"
        elif number + 1 < len(words) and not words[number + 1].text.startswith("-"):
            place, old, instead = words[number + 1].place, words[number + 1].text, value
        else:
            raise ValueError(f"is followed by no value; write it as --{flag}=VALUE")
        if old != value:  # an equal value keeps its text
            edits[place] = instead
    if not given:
        raise ValueError("is not given; add it to the command, as a word of its own")
    return edits


def _spliced(text: str, edits: Mapping[_Place, str]) -> str:
    """Return the text with other words. Raises ValueError if an old one is not a plain or quoted scalar."""
    # The loader in Python, whose marks count characters.
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    nodes = [(_node(root, place), word) for place, word in edits.items()]
    for node, word in sorted(nodes, key=lambda pair: -pair[0].start_mark.index):
        start, stop = node.start_mark.index, node.end_mark.index
        if text[start] == "!" or node.style in _BLOCKS:
            raise ValueError("is tagged, or a block")
        if node.style:  # a quote
            start, stop = start + 1, stop - 1
        text = f"{text[:start]}{word}{text[stop:]}"
    return text


def _node(node: Any, place: _Place) -> yaml.ScalarNode:
    for step in place:
        if isinstance(step, str):
            (node,) = [value for key, value in node.value if key.value == step]
        else:
            node = node.value[step]
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("is no scalar")  # noqa: TRY004 - the text is wrong, not a type in this program
    return node


def _proves(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    container: str,
    flags: Mapping[str, str],
    edits: Mapping[_Place, str],
) -> bool:
    """Return whether only these words have changed, and the container has the flags."""
    expected = copy.deepcopy(dict(before))
    for place, word in edits.items():
        within: Any = expected
        for step in place[:-1]:
            within = within[step]
        within[place[-1]] = word
    # As text: that distinguishes 1 from true, and finds .nan equal to itself.
    if yaml.safe_dump(expected, sort_keys=False) != yaml.safe_dump(after, sort_keys=False):
        return False
    found = next(each for each in containers(after) if each.name == container)
    return all({given for name, given in found.flags if name == flag} == {value} for flag, value in flags.items())
