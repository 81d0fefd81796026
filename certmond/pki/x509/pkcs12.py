"""PKCS #12 (RFC 7292): how much work opening a file asks for, before OpenSSL opens it.

Owns the walk through the BER that OpenSSL takes (indefinite lengths, lengths of any form), and the count of iterations:
of the MAC, and of each key derivation in what is not encrypted itself. Bounded in depth and in the number of values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from certmond.errors import LimitError, MalformedError

MAX_ITERATIONS = 5_000_000
"""Of HMAC-SHA-256, in a whole file; each iteration of another function counts as the several that take as long."""

_INTEGER, _OCTETS, _OID, _SEQUENCE, _EXPLICIT = 0x02, 0x04, 0x06, 0x30, 0xA0
_CONSTRUCTED, _HIGH_TAG, _LONG, _INDEFINITE, _END = 0x20, 0x1F, 0x80, 0x80, b"\0\0"
_MAX_DEPTH, _MAX_VALUES, _MOST_TAG = 32, 20_000, 1 << 32
_LARGEST = 1 << 63  # a larger number counts as this one
_ENCRYPTED_DATA = bytes.fromhex("2a864886f70d010706")
_HMAC_SHA256 = bytes.fromhex("2a864886f70d0209")
_DEFAULT_PRF = b""  # HMAC-SHA-1 (RFC 8018, A.2); the KDF of PKCS #12 itself takes no longer
_WEIGHTS = {_HMAC_SHA256: 1, _DEFAULT_PRF: 4}
_OTHER_WEIGHT = 6
_SCRYPT_WEIGHT = 4  # for each block of each of its N * p rounds
_DIGEST = 32  # bytes that one run of PBKDF2 gives


@dataclass(slots=True)
class _Node:
    """A BER value: its first tag byte, its content where it is primitive, and the values in it where it is not."""

    tag: int
    content: bytes = b""
    values: list[_Node] = field(default_factory=list)


def check_iterations(data: bytes) -> bool:
    """Return whether a part of a PKCS #12 file is encrypted, in which more may be asked for than is seen.

    Raises LimitError where the file, or an encrypted PKCS #8 key, asks for more than `MAX_ITERATIONS`, and
    MalformedError where OpenSSL could see another structure than is seen here.
    """
    found = [*_Reader(data).nodes(0, len(data), 0)]
    asked = sum(map(_work, found))
    if asked > MAX_ITERATIONS:
        raise LimitError(
            f"asks for the work of {asked:,} iterations, more than the {MAX_ITERATIONS:,} that certmond does"
        )
    return any(map(_is_encrypted, found))


class _Reader:
    """Reads BER, and the BER in the octet strings that a ContentInfo or a bag has (RFC 2315, 7; RFC 7292, 4.2)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._count = 0

    def nodes(self, at: int, end: int, depth: int) -> Iterator[_Node]:
        while at < end:
            node, at = self._node(at, end, depth)
            yield node

    def _node(self, at: int, end: int, depth: int) -> tuple[_Node, int]:
        self._count += 1
        if depth > _MAX_DEPTH or self._count > _MAX_VALUES:
            raise LimitError(f"has more than {_MAX_VALUES:,} values, or {_MAX_DEPTH} of them inside each other")
        tag, content_at, stop = self._head(at, end)
        if not tag & _CONSTRUCTED:
            if stop is None:
                raise MalformedError("has a primitive value of indefinite length")
            return _Node(tag, self._data[content_at:stop]), stop
        node = _Node(tag)
        limit, place = end if stop is None else stop, content_at
        while place < limit and not (stop is None and self._data[place : place + 2] == _END):
            child, place = self._node(place, limit, depth + 1)
            node.values.append(child)
        if stop is None:
            if self._data[place : place + 2] != _END:
                raise MalformedError("has a value without an end")
            place += len(_END)
        if tag == _EXPLICIT:
            node.values += [inner for child in node.values for inner in self._inside(child, depth)]
        return node, place

    def _inside(self, node: _Node, depth: int) -> list[_Node]:
        """The values in an octet string, which BER may cut into pieces."""
        if node.tag & ~_CONSTRUCTED != _OCTETS:
            return []
        inner = _Reader(_octets(node))
        inner._count = self._count
        found = [*inner.nodes(0, len(inner._data), depth + 1)]
        self._count = inner._count
        return found

    def _head(self, at: int, end: int) -> tuple[int, int, int | None]:
        """The tag byte, where the content begins, and where it ends (None: where its end is marked)."""
        tag, at = self._tag(at, end)
        if at >= end:
            raise MalformedError("has a value that is cut off")
        size = self._data[at]
        at += 1
        if size == _INDEFINITE:
            return tag, at, None
        if size & _LONG:
            count = size & ~_LONG
            size = int.from_bytes(self._data[at : at + count])
            at += count
        if at + size > end:
            raise MalformedError("has a value that is cut off")
        return tag, at, at + size

    def _tag(self, at: int, end: int) -> tuple[int, int]:
        """The tag as one byte, and what follows it. OpenSSL takes a low number in the form of a high one, too."""
        first, number = self._data[at], 0
        at += 1
        if first & _HIGH_TAG != _HIGH_TAG:
            return first, at
        while at < end:
            number = min(number << 7 | self._data[at] & ~_LONG, _MOST_TAG)
            at += 1
            if not self._data[at - 1] & _LONG:
                break
        return first & ~_HIGH_TAG | min(number, _HIGH_TAG), at


def _octets(node: _Node) -> bytes:
    return b"".join(map(_octets, node.values)) if node.values else node.content


def _is_encrypted(node: _Node) -> bool:
    """It has a ContentInfo of the kind EncryptedData (RFC 2315, 13)."""
    return (node.tag, node.content) == (_OID, _ENCRYPTED_DATA) or any(map(_is_encrypted, node.values))


def _work(node: _Node) -> int:
    """The iterations that a value and all in it ask for: a salt is followed by them in each kind of parameters."""
    here = 0
    for place, value in enumerate(node.values[:-1]):
        follower = node.values[place + 1]
        if value.tag & ~_CONSTRUCTED in {_OCTETS, _SEQUENCE & ~_CONSTRUCTED} and follower.tag == _INTEGER:
            here += _asked(node.values[place + 1 :])
    return here + sum(map(_work, node.values))


def _asked(parameters: Sequence[_Node]) -> int:
    """What follows the salt, of PBKDF2 (RFC 8018, A.2), scrypt (RFC 7914, 7), or PKCS #12 (RFC 7292, 4 and C)."""
    numbers = [min(int.from_bytes(each.content), _LARGEST) for each in parameters if each.tag == _INTEGER]
    prf = next((each.values[0].content for each in parameters if each.tag == _SEQUENCE and each.values), _DEFAULT_PRF)
    match numbers:
        case [cost, block, parallel]:
            return cost * block * parallel * _SCRYPT_WEIGHT
        case [iterations, length]:
            return iterations * _WEIGHTS.get(prf, _OTHER_WEIGHT) * max(1, -(-length // _DIGEST))
        case _:
            return max(numbers) * _WEIGHTS.get(prf, _OTHER_WEIGHT)
