"""Reader of DER values (ITU-T X.690). This module reads tags and lengths, and does not interpret the content."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from certmond.errors import MalformedError


class Value(NamedTuple):
    """One DER value in `data`, with the positions of its parts."""

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
        """Yield the values inside this constructed value. Raises MalformedError for malformed DER."""
        at = self.content_start
        while at < self.end:
            value = read_value(self.data, at, self.end)
            yield value
            at = value.end


def read_value(data: bytes, at: int = 0, end: int | None = None) -> Value:
    """Return the DER value at `at`, which must not extend beyond `end`.

    Raises MalformedError if the value is cut off, has a tag number above 30, or has an invalid length (X.690, 10.1).
    Go's cryptobyte applies the same rules.
    """
    end = len(data) if end is None else end
    if end - at < 2:
        raise MalformedError("the DER value is cut off")
    tag, size, content_start = data[at], data[at + 1], at + 2
    if tag & 0x1F == 0x1F:
        raise MalformedError("the DER value has a tag number greater than 30")
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


def leading_value(data: bytes) -> bytes:
    """Return the SEQUENCE at the start of `data`, or all of `data` if the first value is not a SEQUENCE."""
    return data[: _content(data, 0)[1]] if len(data) >= 2 and data[0] == 0x30 else data


def _content(data: bytes, at: int) -> tuple[int, int]:
    """Return the start and the end of the content of the value at `at`."""
    size, begin = data[at + 1], at + 2
    if size & 0x80:
        begin += size & 0x7F
        size = int.from_bytes(data[at + 2 : begin])
    return begin, begin + size
