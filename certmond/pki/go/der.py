"""DER values as Go 1.24 parses them (vendor/golang.org/x/crypto/cryptobyte/asn1.go).

The argument `words` is the message of Go's parser. A function raises MalformedError(words) for a value that Go refuses.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from certmond.errors import MalformedError
from certmond.pki.asn1.der import Value, read_value

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID = 0x01, 0x02, 0x03, 0x04, 0x06
UTF8_STRING, PRINTABLE_STRING = 0x0C, 0x13
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18
SEQUENCE, SET = 0x30, 0x31

_UTC = re.compile(rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?(?:Z|([+-])(\d\d)(\d\d))")
_GENERALIZED = re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:Z|([+-])(\d\d)(\d\d))")
_PRINTABLE = bytes(range(0x30, 0x3B)) + bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B)) + b" '()*+,-./=?&"
_NUMERIC = b"0123456789 "


class Bits(NamedTuple):
    """A BIT STRING: its octets, and the number of unused bits in the last octet."""

    octets: bytes
    padding: int

    @property
    def right_aligned(self) -> bytes:
        """The octets of the bits, shifted right by the unused bits (asn1.BitString.RightAlign)."""
        if not self.padding:
            return self.octets
        return (int.from_bytes(self.octets) >> self.padding).to_bytes(len(self.octets))

    def is_set(self, place: int) -> bool:
        """Return whether the bit with the index `place` is set. The leftmost bit has the index 0."""
        return place < 8 * len(self.octets) - self.padding and bool(self.octets[place // 8] >> (7 - place % 8) & 1)


def read(data: bytes, at: int, end: int, tag: int, words: str) -> Value:
    """Return the value at `at` (ReadASN1). Raises MalformedError(words) for another tag or malformed DER."""
    try:
        value = read_value(data, at, end)
    except MalformedError:
        raise MalformedError(words) from None
    if value.tag != tag:
        raise MalformedError(words)
    return value


def read_any(data: bytes, at: int, end: int, words: str) -> Value:
    """Return the value at `at`, with any tag (ReadAnyASN1). Raises MalformedError(words) for malformed DER."""
    try:
        return read_value(data, at, end)
    except MalformedError:
        raise MalformedError(words) from None


def only(data: bytes, tag: int, words: str) -> Value:
    """Return the first value of `data`. Raises MalformedError(words) for another tag or malformed DER."""
    return read(data, 0, len(data), tag, words)


def starts_with(data: bytes, at: int, end: int, tag: int) -> bool:
    """Return whether the octet at `at` is the tag `tag` (PeekASN1Tag). Returns False at the end of the data."""
    return at < end and data[at] == tag


def integer(content: bytes, words: str) -> int:
    """Return the INTEGER of `content`. Raises MalformedError(words) if the encoding is not minimal."""
    if not content or (len(content) > 1 and (content[0], content[1] >> 7) in {(0, 0), (0xFF, 1)}):
        raise MalformedError(words)
    return int.from_bytes(content, signed=True)


def small_integer(content: bytes, words: str) -> int:
    """Return the INTEGER of `content`. Raises MalformedError(words) for more than 64 bits or a non-minimal encoding."""
    value = integer(content, words)
    if len(content) > 8:
        raise MalformedError(words)
    return value


def boolean(content: bytes, words: str) -> bool:
    """Return the BOOLEAN of `content`. Raises MalformedError(words) if `content` is neither 00 nor FF."""
    if content not in {b"\x00", b"\xff"}:
        raise MalformedError(words)
    return content == b"\xff"


def is_object_identifier(content: bytes) -> bool:
    """Return whether Go's ReadASN1ObjectIdentifier accepts `content`."""
    if not content or content[-1] & 0x80:
        return False
    value, length = 0, 0
    for octet in content:
        if length == 5 or value >= 1 << 24 or (length == 0 and octet == 0x80):
            return False
        value, length = value << 7 | octet & 0x7F, length + 1
        if not octet & 0x80:
            value, length = 0, 0
    return True


def dotted(content: bytes) -> str:
    """Return the text of an object identifier, such as 2.5.4.3, from its encoded content."""
    parts, value = list[int](), 0
    for octet in content:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            parts.append(value)
            value = 0
    first, *rest = parts or [0]
    high = min(first // 40, 2)
    return ".".join(map(str, (high, first - 40 * high, *rest)))


def bits(content: bytes, words: str) -> Bits:
    """Return the BIT STRING of `content`. Raises MalformedError(words) for invalid unused bits."""
    padding = content[0] if content else 8
    octets = content[1:]
    if padding > 7 or (padding and not octets) or (padding and octets[-1] & ((1 << padding) - 1)):
        raise MalformedError(words)
    return Bits(octets, padding)


def string(tag: int, content: bytes) -> str:
    """Return the text of an attribute's value (parseASN1String).

    Decodes a T61String as Latin-1. Raises MalformedError if Go refuses the value.
    """
    match tag:
        case 0x0C:
            try:
                return content.decode("utf-8")
            except UnicodeDecodeError:
                raise MalformedError("invalid UTF-8 string") from None
        case 0x13:
            return _of(content, _PRINTABLE, "invalid PrintableString")
        case 0x14:
            return content.decode("latin-1")
        case 0x16:
            if not content.isascii():
                raise MalformedError("invalid IA5String")
            return content.decode("ascii")
        case 0x12:
            return _of(content, _NUMERIC, "invalid NumericString")
        case 0x1E:
            if len(content) % 2:
                raise MalformedError("invalid BMPString")
            return content.removesuffix(b"\x00\x00").decode("utf-16-be", "replace")
        case _:
            raise MalformedError(f"unsupported string type: {tag}")


def is_plain_text(content: bytes) -> bool:
    """Return whether `content` is valid in a PrintableString, and therefore also in a UTF8String."""
    return not content.translate(None, _PRINTABLE)


def _of(content: bytes, permitted: bytes, words: str) -> str:
    if content.translate(None, permitted):
        raise MalformedError(words)
    return content.decode("ascii")


def time(value: Value) -> datetime:
    """Return the UTC time of a UTCTime or GeneralizedTime (parseTime). Raises MalformedError if Go refuses the time.

    Go accepts an offset from UTC, and a UTCTime without seconds. RFC 5280 forbids both.
    """
    if value.tag == UTC_TIME:
        words, found = "x509: malformed UTCTime", _UTC.fullmatch(value.content)
    elif value.tag == GENERALIZED_TIME:
        words, found = "x509: malformed GeneralizedTime", _GENERALIZED.fullmatch(value.content)
    else:
        raise MalformedError("x509: unsupported time format")
    if found is None:
        raise MalformedError(words)
    year, month, day, hour, minute, second = (int(group or 0) for group in found.groups()[:6])
    if value.tag == UTC_TIME:
        year += 2000 if year < 50 else 1900
    offset = _offset(found[7], found[8], found[9], words)
    try:
        local = datetime(max(year, 1), month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        raise MalformedError(words) from None
    try:
        return local - offset
    except OverflowError:
        return local


def _offset(sign: bytes | None, hours: bytes | None, minutes: bytes | None, words: str) -> timedelta:
    """Return the offset from UTC. Raises MalformedError(words) for an offset that Go refuses, such as +0000."""
    if sign is None:
        return timedelta()
    offset = timedelta(hours=int(hours or b"0"), minutes=int(minutes or b"0"))
    if int(hours or b"0") > 24 or int(minutes or b"0") > 59 or not offset:
        raise MalformedError(words)
    return offset if sign == b"+" else -offset
