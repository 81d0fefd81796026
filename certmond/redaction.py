"""Removal of key material from texts and values before certmond logs or shows them.

Key material is a PEM block of a private key (RFC 7468), as plain text or in a further base64 encoding. The removal
takes linear time, because an attacker could supply a long text.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping

REMOVED = "[private key removed]"

_BEGIN = re.compile(r"-{4,5} ?BEGIN [^-]{0,40}?PRIVATE KEY(?: BLOCK)?(?: ?-{4,5})?")
_END = re.compile(r"-{4,5} ?END [^-]{0,40}?PRIVATE KEY(?: BLOCK)?(?: ?-{4,5})?")
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_BODY = _BASE64 + " \t\r\n\\"  # characters before the END line of a PEM block; a line end can be escaped as \n
_REST = re.compile(r"(?:[A-Za-z0-9+/=]|\r?\n[ \t]*|\\n)*")  # the rest of a base64 text, on one or more lines


def _encoded(shift: int) -> str:
    """Return the part of the base64 encoding of `PRIVATE KEY` that does not depend on the adjacent bytes.

    `shift` is the offset of the text in a group of three bytes: 0, 1 or 2.
    """
    words = b"\0" * shift + b"PRIVATE KEY"
    return b64encode(words)[-(-shift * 8 // 6) : len(words) * 8 // 6].decode()


_ENCODED = tuple(_encoded(shift) for shift in range(3))
_HEADER = re.compile("|".join(_ENCODED))


def redacted(text: str) -> str:
    """Return `text`, in which `REMOVED` replaces each private key."""
    if "PRIVATE KEY" in text:
        text = _without_blocks(text)
    if any(each in text for each in _ENCODED):
        text = _without_base64(text)
    return text


def redacted_value(value: object) -> object:
    """Return `value` without key material.

    Keep numbers, Booleans, None and mappings. Convert tuples and sets to lists. Convert all other values, and the keys
    of mappings, to text.
    """
    match value:
        case str():
            return redacted(value)
        case None | bool() | int() | float():
            return value
        case bytes():
            return redacted(value.decode("utf-8", "backslashreplace"))
        case Mapping():
            return {redacted(str(name)): redacted_value(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [redacted_value(item) for item in value]
        case _:
            return redacted(str(value))


def _without_blocks(text: str) -> str:
    pieces, at = list[str](), 0
    while begin := _BEGIN.search(text, at):
        end = _END.search(text, begin.end())
        pieces += _without_ends(text[at : begin.start()]), REMOVED
        at = end.end() if end else len(text)
    return "".join((*pieces, _without_ends(text[at:])))


def _without_ends(text: str) -> str:
    """Return `text`, in which `REMOVED` replaces each private key without a BEGIN line."""
    pieces, at = list[str](), 0
    while end := _END.search(text, at):
        pieces += text[at : end.start()].rstrip(_BODY), REMOVED
        at = end.end()
    return "".join((*pieces, text[at:]))


def _without_base64(text: str) -> str:
    pieces, at = list[str](), 0
    while found := _HEADER.search(text, at):
        pieces += text[at : found.start()].rstrip(_BASE64), REMOVED
        rest = _REST.match(text, found.end())
        at = rest.end() if rest else found.end()
    return "".join((*pieces, text[at:]))
