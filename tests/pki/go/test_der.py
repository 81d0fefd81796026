"""Values of ASN.1 as Go's cryptobyte reads them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import MalformedError
from certmond.pki.asn1.der import read_value
from certmond.pki.go.der import (
    Bits,
    bits,
    boolean,
    dotted,
    integer,
    is_object_identifier,
    only,
    read_any,
    small_integer,
    string,
    time,
)
from tests.builders import tlv


def test_a_value_with_another_tag_or_truncated_has_the_words_of_its_field() -> None:
    """The caller names the field."""
    for data in (b"\x04\x01\x00", b"\x02\x05\x00", b""):
        with pytest.raises(MalformedError, match="the field"):
            only(data, 0x02, "the field")
    with pytest.raises(MalformedError, match="the field"):
        read_any(b"\x02\x05\x00", 0, 3, "the field")


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"\xff\xff", b"\xff\x80"])
def test_an_integer_is_minimal(content: bytes) -> None:
    """It has at least one octet, and no redundant one."""
    with pytest.raises(MalformedError, match="words"):
        integer(content, "words")


def test_an_integer_of_a_field_of_64_bits_fits_into_it() -> None:
    """A serial number may be of any size, a path length may not."""
    assert integer(b"\x01" + bytes(8), "words") == 1 << 64
    assert small_integer(b"\x7f" + b"\xff" * 7, "words") == (1 << 63) - 1
    assert integer(b"\xff", "words") == -1
    with pytest.raises(MalformedError):
        small_integer(b"\x01" + bytes(8), "words")


def test_a_boolean_is_00_or_ff() -> None:
    """DER has no other true."""
    assert (boolean(b"\x00", "words"), boolean(b"\xff", "words")) == (False, True)
    for content in (b"", b"\x01", b"\xff\xff"):
        with pytest.raises(MalformedError):
            boolean(content, "words")


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        (b"", False),
        (b"\x2a", True),
        (b"\x2a\x86", False),
        (b"\x80\x01", False),
        (b"\x2a\x80\x01", False),
        (b"\x2a\x87\xff\xff\xff\x7f", True),
        (b"\x2a\x88\x80\x80\x80\x00", False),
        (b"\x2a\xff\xff\xff\xff\xff\x7f", False),
    ],
)
def test_an_object_identifier_has_minimal_parts_below_2_to_31(content: bytes, taken: bool) -> None:
    """The last part is complete."""
    assert is_object_identifier(content) is taken


def test_an_object_identifier_is_written_with_dots() -> None:
    """Its first octet has two parts."""
    assert dotted(b"\x2a\x86\x48") == "1.2.840"
    assert dotted(b"\x55\x04\x03") == "2.5.4.3"
    assert dotted(b"\x88\x37") == "2.999"
    assert dotted(b"") == "0.0"


def test_a_bit_string_has_no_bits_beyond_its_end() -> None:
    """Unused bits are zero, and a key is read right-aligned."""
    assert bits(b"\x00\xf0", "words").right_aligned == b"\xf0"
    assert bits(b"\x04\xf0\xf0", "words").right_aligned == b"\x0f\x0f"
    found = bits(b"\x07\x80", "words")
    assert [found.is_set(place) for place in range(9)] == [True, *[False] * 8]
    for content in (b"", b"\x08\x00", b"\x01", b"\x01\x01"):
        with pytest.raises(MalformedError):
            bits(content, "words")


@pytest.mark.parametrize(
    ("tag", "content", "text"),
    [
        (0x0C, "café".encode(), "café"),
        (0x13, b"a*b&c", "a*b&c"),
        (0x14, b"caf\xe9", "café"),
        (0x16, b"a@b", "a@b"),
        (0x12, b"1 2", "1 2"),
        (0x1E, b"\x00a\x00b\x00\x00", "ab"),
    ],
)
def test_the_types_of_strings_that_go_takes(tag: int, content: bytes, text: str) -> None:
    """T61String is read as Latin-1, and a BMPString may have a terminator."""
    assert string(tag, content) == text


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        (0x0C, b"\xff"),
        (0x13, b"a_b"),
        (0x16, b"\xe9"),
        (0x12, b"a"),
        (0x1E, b"a"),
        (0x1C, b"\x00\x00\x00a"),
        (0x04, b""),
    ],
)
def test_the_types_of_strings_that_go_refuses(tag: int, content: bytes) -> None:
    """A UniversalString, for one, and characters that a type does not have."""
    with pytest.raises(MalformedError, match=r"invalid|unsupported"):
        string(tag, content)


@pytest.mark.parametrize(
    ("tag", "content", "instant"),
    [
        (0x17, b"2611241200Z", datetime(2026, 11, 24, 12, tzinfo=UTC)),
        (0x17, b"261124120001+0100", datetime(2026, 11, 24, 11, 0, 1, tzinfo=UTC)),
        (0x17, b"500101000000Z", datetime(1950, 1, 1, tzinfo=UTC)),
        (0x18, b"20261124120000-0130", datetime(2026, 11, 24, 13, 30, tzinfo=UTC)),
        (0x18, b"00000101000000Z", datetime(1, 1, 1, tzinfo=UTC)),
        (0x18, b"99991231235959-0100", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_the_times_that_go_takes(tag: int, content: bytes, instant: datetime) -> None:
    """Without seconds, and with an offset, which RFC 5280 forbids."""
    assert time(read_value(tlv(tag, content))) == instant


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        (0x17, b"261124120000"),
        (0x17, b"261324120000Z"),
        (0x17, b"261124120000+0000"),
        (0x17, b"261124120000+2500"),
        (0x17, b"261124120000+0060"),
        (0x18, b"20261124120000.5Z"),
        (0x18, b"202611241200Z"),
        (0x16, b"261124120000Z"),
    ],
)
def test_the_times_that_go_refuses(tag: int, content: bytes) -> None:
    """The cases are no zone, no such month, an offset of zero, a fraction, and another type."""
    with pytest.raises(MalformedError, match="x509: "):
        time(read_value(tlv(tag, content)))


@given(tag=st.integers(0, 255), content=st.binary(max_size=40))
def test_no_octets_raise_anything_else(tag: int, content: bytes) -> None:
    """For any input the result is a value or MalformedError."""
    for call in (
        lambda: string(tag, content),
        lambda: time(read_value(tlv(tag & 0x1E, content))),
        lambda: bits(content, "words").right_aligned,
        lambda: small_integer(content, "words"),
        lambda: dotted(content) if is_object_identifier(content) else None,
    ):
        try:
            call()
        except MalformedError:
            continue


def test_bits_after_the_end_of_a_bit_string_are_not_set() -> None:
    """The first bit is the leftmost. The unused bits of the last octet, and the bits after it, are not set."""
    assert [Bits(b"\x81", 0).is_set(place) for place in range(10)] == [True, *[False] * 6, True, False, False]
    assert not Bits(b"\xff", 3).is_set(5)
    assert Bits(b"\xff", 3).is_set(4)
