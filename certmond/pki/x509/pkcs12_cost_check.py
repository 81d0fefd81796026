"""Limit on the cost of a PKCS #12 file (RFC 7292). certmond checks this limit before OpenSSL opens the file.

The reader accepts the same BER as OpenSSL, and counts the iterations of the MAC and of each key derivation outside
encrypted parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from certmond.errors import LimitError, MalformedError

MAX_ITERATIONS = 5_000_000
"""Maximum number of iterations of HMAC-SHA-256 for a file. An iteration of a slower function counts as several."""

_INTEGER, _OCTETS, _OID, _SEQUENCE, _EXPLICIT = 0x02, 0x04, 0x06, 0x30, 0xA0
_CONSTRUCTED, _HIGH_TAG, _LONG, _INDEFINITE, _END = 0x20, 0x1F, 0x80, 0x80, b"\0\0"
_MAX_DEPTH, _MAX_VALUES, _MOST_TAG = 32, 20_000, 1 << 32
_LARGEST = 1 << 63  # a larger number counts as this number
_ENCRYPTED_DATA = bytes.fromhex("2a864886f70d010706")
_HMAC_SHA256 = bytes.fromhex("2a864886f70d0209")
_DEFAULT_PRF = b""  # HMAC-SHA-1 (RFC 8018, A.2); the KDF of PKCS #12 takes no longer
_WEIGHTS = {_HMAC_SHA256: 1, _DEFAULT_PRF: 4}
_OTHER_WEIGHT = 6
_SCRYPT_WEIGHT = 4  # for each block of each of the N * p rounds
_DIGEST = 32  # bytes of one run of PBKDF2


@dataclass(slots=True)
class _Node:
    """BER value. A primitive value has `content`, and a constructed value has inner `values`."""

    tag: int
    content: bytes = b""
    values: list[_Node] = field(default_factory=list)


def check_iterations(data: bytes) -> bool:
    """Check the cost of a PKCS #12 file or an encrypted PKCS #8 key. Return whether `data` contains EncryptedData.

    Raises LimitError if `data` exceeds `MAX_ITERATIONS`, or the maximum number or depth of values. Raises
    MalformedError if OpenSSL might read the file differently.
    """
    found = [*_Reader(data).nodes(0, len(data), 0)]
    asked = sum(map(_work, found))
    if asked > MAX_ITERATIONS:
        raise LimitError(f"requires {asked:,} iterations, more than the {MAX_ITERATIONS:,} that certmond executes")
    return any(map(_is_encrypted, found))


class _Reader:
    """Reader of BER, including the BER inside octet strings (RFC 2315, 7; RFC 7292, 4.2)."""

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
            raise LimitError(f"has more than {_MAX_VALUES:,} values, or more than {_MAX_DEPTH} nested values")
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
        """Return the BER values inside an octet string, or an empty list for any other value."""
        if node.tag & ~_CONSTRUCTED != _OCTETS:
            return []
        inner = _Reader(_octets(node))
        inner._count = self._count
        found = [*inner.nodes(0, len(inner._data), depth + 1)]
        self._count = inner._count
        return found

    def _head(self, at: int, end: int) -> tuple[int, int, int | None]:
        """Return the tag byte of a value, and the start and the end of its content.

        The end is None for an indefinite length.
        """
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
        """Return the tag as one byte, and the position after the tag.

        Like OpenSSL, accepts a low tag number in the form for high tag numbers.
        """
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
    """Return whether the value contains a ContentInfo of the type EncryptedData (RFC 2315, 13)."""
    return (node.tag, node.content) == (_OID, _ENCRYPTED_DATA) or any(map(_is_encrypted, node.values))


def _work(node: _Node) -> int:
    """Return the cost in iterations of all key derivations in a value."""
    here = 0
    for place, value in enumerate(node.values[:-1]):
        follower = node.values[place + 1]
        # The parameters of a key derivation contain the salt first, and then the number of iterations.
        if value.tag & ~_CONSTRUCTED in {_OCTETS, _SEQUENCE & ~_CONSTRUCTED} and follower.tag == _INTEGER:
            here += _asked(node.values[place + 1 :])
    return here + sum(map(_work, node.values))


def _asked(parameters: Sequence[_Node]) -> int:
    """Return the cost in iterations of one key derivation, from its parameters after the salt.

    The algorithm is PBKDF2 (RFC 8018, A.2), scrypt (RFC 7914, 7), or the KDF of PKCS #12 (RFC 7292, 4 and C).
    """
    numbers = [min(int.from_bytes(each.content), _LARGEST) for each in parameters if each.tag == _INTEGER]
    prf = next((each.values[0].content for each in parameters if each.tag == _SEQUENCE and each.values), _DEFAULT_PRF)
    match numbers:
        case [cost, block, parallel]:
            return cost * block * parallel * _SCRYPT_WEIGHT
        case [iterations, length]:
            return iterations * _WEIGHTS.get(prf, _OTHER_WEIGHT) * max(1, -(-length // _DIGEST))
        case _:
            return max(numbers) * _WEIGHTS.get(prf, _OTHER_WEIGHT)
