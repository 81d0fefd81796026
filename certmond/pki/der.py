"""DER (ITU-T X.690): the values in an encoding, and the parts of a certificate that are compared byte for byte.

Owns tags and lengths, and nothing of their meaning. `read_value` takes any bytes. `parts_of` takes a certificate that
cryptography has parsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from certmond.errors import MalformedError

_EXTENSIONS, _ALTERNATIVE_NAMES = 0xA3, bytes.fromhex("551d11")
_VERSION = 0xA0  # the tag of the only field before the serial number, which may be absent (RFC 5280, 4.1)


class Value(NamedTuple):
    """One DER value in `data`: its first tag byte, where it starts, where its content starts, and where it ends."""

    data: bytes
    tag: int
    start: int
    content_start: int
    end: int

    @property
    def content(self) -> bytes:
        """The content without tag and length."""
        return self.data[self.content_start : self.end]

    @property
    def encoded(self) -> bytes:
        """The whole value with tag and length."""
        return self.data[self.start : self.end]

    def values(self) -> Iterator[Value]:
        """The values that a constructed value consists of. Raises MalformedError where the content is not values."""
        at = self.content_start
        while at < self.end:
            value = read_value(self.data, at, self.end)
            yield value
            at = value.end


def read_value(data: bytes, at: int = 0, end: int | None = None) -> Value:
    """Return the DER value at `at`, which must end at `end` or before.

    Raises MalformedError for a length that is not the shortest form (X.690, 10.1), for an indefinite length, for a tag
    number above 30, and for a value that goes beyond `end`. Go's cryptobyte refuses the same.
    """
    end = len(data) if end is None else end
    if end - at < 2:
        raise MalformedError("the DER value is cut off")
    tag, size, content_start = data[at], data[at + 1], at + 2
    if tag & 0x1F == 0x1F:
        raise MalformedError("the DER value has a tag number above 30")
    if size & 0x80:
        count = size & 0x7F
        content_start += count
        if not 1 <= count <= 4 or content_start > end:
            raise MalformedError("the DER value has no valid length")
        size = int.from_bytes(data[at + 2 : content_start])
        if size < 0x80 or size >> (8 * count - 8) == 0:
            raise MalformedError("the DER value has a length that is not in its shortest form")
    if size > end - content_start:
        raise MalformedError("the DER value is cut off")
    return Value(data, tag, at, content_start, content_start + size)


class Parts(NamedTuple):
    """Of a Certificate (RFC 5280, 4.1): what is signed, with which algorithm by its own word and by that beside the
    signature, the two names, the SubjectPublicKeyInfo, and what follows that: the extensions, if any.
    """

    signed: bytes
    inner_algorithm: bytes
    issuer: bytes
    subject: bytes
    key: bytes
    rest: bytes
    outer_algorithm: bytes


def parts_of(certificate: bytes) -> Parts:
    """The parts of a certificate that can be loaded."""
    signed_at, _ = _content(certificate, 0)
    at, signed_end = _content(certificate, signed_at)
    serial_at = _content(certificate, at)[1] if certificate[at] == _VERSION else at
    algorithm_at = _content(certificate, serial_at)[1]
    issuer_at = _content(certificate, algorithm_at)[1]
    validity_at = _content(certificate, issuer_at)[1]
    subject_at = _content(certificate, validity_at)[1]
    subject_end = _content(certificate, subject_at)[1]
    key_end = _content(certificate, subject_end)[1]
    outer_end = _content(certificate, signed_end)[1]
    return Parts(
        certificate[signed_at:signed_end],
        certificate[algorithm_at:issuer_at],
        certificate[issuer_at:validity_at],
        certificate[subject_at:subject_end],
        certificate[subject_end:key_end],
        certificate[key_end:signed_end],
        certificate[signed_end:outer_end],
    )


def alternative_names(certificate: bytes) -> Value | None:
    """The GeneralNames of the subjectAltName extension (RFC 5280, 4.2.1.6) of a certificate that can be loaded.

    None where it has no such extension, or none that is DER.
    """
    with suppress(MalformedError):
        for extension in _extensions(parts_of(certificate).rest):
            parts = [*extension.values()]
            if parts and parts[0].content == _ALTERNATIVE_NAMES:
                return read_value(parts[-1].content)
    return None


def _extensions(rest: bytes) -> Iterator[Value]:
    at = 0
    while at < len(rest):
        field = read_value(rest, at)
        at = field.end
        for extensions in field.values() if field.tag == _EXTENSIONS else ():
            yield from extensions.values()


def leading_value(data: bytes) -> bytes:
    """The first DER value of `data`, without what follows it; `data` itself where its length field makes no sense."""
    return data[: _content(data, 0)[1]] if len(data) >= 2 and data[0] == 0x30 else data


def _content(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the value at `at` begins, and where it ends."""
    size, begin = data[at + 1], at + 2
    if size & 0x80:
        begin += size & 0x7F
        size = int.from_bytes(data[at + 2 : begin])
    return begin, begin + size
