"""Names of subjects and issuers as Go 1.24 parses them (crypto/x509/parser.go, parseName).

This module decides which names Go refuses. `attribute_texts` also formats the names that the library cryptography
cannot parse.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from certmond.errors import MalformedError
from certmond.pki.go.der import (
    OID,
    PRINTABLE_STRING,
    SEQUENCE,
    SET,
    UTF8_STRING,
    dotted,
    is_object_identifier,
    is_plain_text,
    read,
    read_any,
    string,
)

_ATTRIBUTES = {
    "2.5.4.3": "CN", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.6": "C",
    "2.5.4.9": "STREET", "0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
}  # fmt: skip
_X520, _PLAIN_STRINGS = b"\x06\x03\x55\x04", frozenset({UTF8_STRING, PRINTABLE_STRING})
_ESCAPED = frozenset('\\"+,;<>')


def is_plain_name(name: bytes) -> bool:
    """Return whether a name has the common form: X.520 attributes with plain text, each in a separate SET.

    Go accepts this form, and some other forms.
    """
    at, end = 2, len(name)
    if end != name[1] + 2:
        return False
    while at < end:
        # SET, SEQUENCE, the object identifier 2.5.4.n, and the text, whose length determines the outer lengths
        if end - at < 11 or name[at] != SET or name[at + 2] != SEQUENCE or name[at + 4 : at + 8] != _X520:
            return False
        size = name[at + 10]
        start = at + 11
        at = start + size
        fits = name[start - 10] == size + 9 and name[start - 8] == size + 7 and name[start - 3] < 0x80
        if not fits or at > end or name[start - 2] not in _PLAIN_STRINGS or not is_plain_text(name[start:at]):
            return False
    return True


class _Attribute(NamedTuple):
    """One AttributeTypeAndValue (RFC 5280, 4.1.2.4)."""

    oid: bytes
    tag: int
    content: bytes

    @property
    def text(self) -> str:
        """The text of the attribute, as in RFC 4514. If Go refuses the value, the value is in hexadecimal digits."""
        kind = dotted(self.oid) if is_object_identifier(self.oid) else f"#{self.oid[:16].hex()}"
        try:
            value = _escaped(string(self.tag, self.content))
        except MalformedError:
            value = f"#{self.content.hex()}"
        return f"{_ATTRIBUTES.get(kind, kind)}={value}"


@lru_cache(maxsize=1024)
def name_objections(name: bytes) -> tuple[str, ...]:
    """Return Go's objection to a Name (parseName), or () if Go accepts the name."""
    words = "x509: invalid RDNSequence"
    try:
        for attribute in (each for together in _attributes(name) for each in together):
            if not is_object_identifier(attribute.oid):
                return (f"{words}: invalid attribute type",)
            try:
                string(attribute.tag, attribute.content)
            except MalformedError as error:
                return (f"{words}: invalid attribute value: {error}",)
    except MalformedError as error:
        return (str(error),)
    return ()


def _attributes(name: bytes) -> list[list[_Attribute]]:
    """Return the attributes of each SET of a Name (RFC 5280, 4.1.2.4). Raises MalformedError for another structure."""
    words = "x509: invalid RDNSequence"
    whole, found = read(name, 0, len(name), SEQUENCE, words), list[list[_Attribute]]()
    at = whole.content_start
    while at < whole.end:
        together = read(name, at, whole.end, SET, words)
        at, inner = together.end, together.content_start
        found.append([])
        while inner < together.end:
            pair = read(name, inner, together.end, SEQUENCE, f"{words}: invalid attribute")
            inner = pair.end
            kind = read(name, pair.content_start, pair.end, OID, f"{words}: invalid attribute type")
            value = read_any(name, kind.end, pair.end, f"{words}: invalid attribute value")
            found[-1].append(_Attribute(kind.content, value.tag, value.content))
    return found


def attribute_texts(name: bytes) -> list[list[str]]:
    """Return the texts of the attributes of each SET of a Name, as in RFC 4514.

    If the Name is malformed, the only text is the DER of the Name in hexadecimal digits.
    """
    try:
        return [[each.text for each in together] for together in _attributes(name)]
    except MalformedError:
        return [[f"#{name.hex()}"]]


def _escaped(text: str) -> str:
    """Return an attribute's value with the escapes of RFC 4514, 2.4."""
    escaped = "".join(f"\\{each}" if each in _ESCAPED else each for each in text).replace("\0", "\\00")
    if escaped.startswith(("#", " ")):
        escaped = f"\\{escaped}"
    return f"{escaped[:-1]}\\ " if escaped.endswith(" ") else escaped
