"""Mutations of one DER value: a mutation changes octets or the structure, and corrects the lengths of the outer values.

The random numbers of the caller select the mutations, so the same seed gives the same mutants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from certmond.errors import MalformedError
from certmond.pki.asn1.der import read_value

_TAGS = (
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0A, 0x0C, 0x12, 0x13, 0x14, 0x16, 0x17, 0x18, 0x1A, 0x1B, 0x1C, 0x1E, 0x30,
    0x31, 0x80, 0x81, 0x82, 0x86, 0x87, 0xA0, 0xA1, 0xA3, 0xA4,
)  # fmt: skip
_TIMES = (
    b"2611241200Z",
    b"261124120000+0100",
    b"261124120000-0000",
    b"20261124120000Z",
    b"2611241200+0200",
    b"261324120000Z",
    b"261124120000",
    b"491231235959Z",
    b"500101000000Z",
    b"20261124120000.5Z",
    b"99991231235959Z",
    b"270229000000Z",
    b"280229000000Z",
    b"2611241260Z",
    b"261124120060Z",
    b"20271124120000+0100",
    b"000101000000Z",
    b"27112412000000Z",
)
_TEXTS = (
    b"caf\xe9",
    b"a@b",
    b"a\x00b",
    b"\xff",
    b"",
    b"caf\xc3\xa9",
    b"x*y&z",
    b"a_b",
    b"00",
    b" a ",
    b"#1",
    b"a,b+c",
    b"\x00A",
    b"\x00A\x00\x00",
    b"CN",
    b"DE",
    b"DEU",
    b"\xed\xa0\x80",
    b"\xd8\x00\x00A",
    b"\"'<>;",
)
URIS = (
    b"https://a.example.com:6443/x", b"http://[::1", b"http://a b/", b"urn:uuid:1", b"//host", b"http://a..b/", b"a:b",
    b"://x", b"http://a:x/", b"http://a%zz/", b"http://a%41/", b"http://[fe80::1%25en0]/", b"*", b"", b"1:2", b"a/b:c",
    b"http://a.b./", b"http://u@h/", b"http://u:p@h:1/", b"http://u[@h/", b"http://\x7f/", b"spiffe://cluster/ns",
    b"http://[::1]:80/", b"http://[::1]x/", b"///p", b"http:///p", b"http://h#%zz", b"http://h/%zz", b"http://h?%zz",
    b"http://<>\"/", b"http://h_/", b"http://:80/", b"mailto:a@b", b"http://\xc3\xa9/", b"http://h^/", b"http://h%25/",
    b"http://[::1%25%20]/", b"http://[a]b]/", b"http://a%c3%a9/",
)  # fmt: skip
_WRAPPERS = frozenset({0x03, 0x04})


@dataclass
class Node:
    """One value: a tag with octets or nested values.

    `head` contains the octets before the nested values, as in a BIT STRING.
    """

    tag: int
    content: bytes = b""
    children: list[Node] | None = None
    head: bytes = b""
    padded: int = field(default=0)

    @property
    def within(self) -> list[Node]:
        """Return the nested values."""
        return self.children or []

    @property
    def encoded(self) -> bytes:
        content = (
            self.content if self.children is None else self.head + b"".join(each.encoded for each in self.children)
        )
        return bytes([self.tag]) + _length(len(content), self.padded) + content


def _length(size: int, padded: int) -> bytes:
    if size < 0x80 and not padded:
        return bytes([size])
    octets = size.to_bytes(max(1, (size.bit_length() + 7) // 8) + max(0, padded - 1))
    return bytes([0x80 | len(octets)]) + octets


def parse(der: bytes) -> Node:
    """Return the value with all nested values, including values in strings that contain DER. Raises MalformedError."""
    value = read_value(der)
    if value.end != len(der):
        raise MalformedError("more than one value")
    return _node(value.tag, value.content)


def _node(tag: int, content: bytes) -> Node:
    head, inner = (content[:1], content[1:]) if tag == 0x03 else (b"", content)
    if (tag & 0x20 or tag in _WRAPPERS) and inner:
        try:
            children, at = [], 0
            while at < len(inner):
                value = read_value(inner, at)
                children.append(_node(value.tag, value.content))
                at = value.end
        except MalformedError:
            pass
        else:
            return Node(tag, children=children, head=head)
    return Node(tag, content)


def all_nodes(node: Node) -> list[Node]:
    """Return the value and all nested values."""
    return [node, *(each for child in node.children or () for each in all_nodes(child))]


def mutant(rng: Random, der: bytes, places: Callable[[Node], list[Node]] = all_nodes) -> bytes:
    """Return `der` with one or two random changes among `places`."""
    root = parse(der)
    for _ in range(rng.choices([1, 2], [4, 1])[0]):
        candidates = places(root)
        rng.choices(list(_CHANGES), list(_CHANGES.values()))[0](rng, rng.choice(candidates), root)
    return root.encoded


def _leaf(rng: Random, node: Node) -> Node:
    """Return a value without nested values: `node`, or a value below `node`."""
    return rng.choice([each for each in all_nodes(node) if each.children is None] or [node])


def _octet(rng: Random, node: Node, _root: Node) -> None:
    node = _leaf(rng, node)
    if node.children is None and node.content:
        at = rng.randrange(len(node.content))
        octet = rng.choice([node.content[at] ^ (1 << rng.randrange(8)), rng.randrange(256), 0, 0x80, 0xFF])
        node.content = node.content[:at] + bytes([octet]) + node.content[at + 1 :]


def _size(rng: Random, node: Node, _root: Node) -> None:
    node = _leaf(rng, node)
    if node.children is None:
        cut = rng.randrange(len(node.content) + 1)
        extra = rng.choice([b"\x00", b"\xff", b"\x80", b"\x01", rng.randbytes(rng.randrange(1, 9))])
        node.content = rng.choice([node.content[:cut], extra + node.content, node.content + extra, b"", extra])


def _tag(rng: Random, node: Node, _root: Node) -> None:
    node.tag = rng.choice([rng.choice(_TAGS), node.tag ^ (1 << rng.randrange(8))])


def _twice(rng: Random, node: Node, root: Node) -> None:
    parent = _parent(node, root)
    if parent is not None and parent.children:
        parent.children.insert(rng.randrange(len(parent.children) + 1), node)


def _gone(_rng: Random, node: Node, root: Node) -> None:
    parent = _parent(node, root)
    if parent is not None and parent.children:
        parent.children = [each for each in parent.children if each is not node]


def _moved(rng: Random, node: Node, _root: Node) -> None:
    if node.children:
        rng.shuffle(node.children)


def _added(rng: Random, node: Node, _root: Node) -> None:
    if node.children is not None:
        new = Node(rng.choice(_TAGS), rng.choice([b"", b"\x00", b"\x01", b"\x2a\x03", rng.choice(_TEXTS)]))
        node.children.insert(rng.randrange(len(node.children) + 1), new)


def _long_length(rng: Random, node: Node, _root: Node) -> None:
    node.padded = rng.randrange(1, 3)


def _known(rng: Random, node: Node, _root: Node) -> None:
    """Replace a value with a known value of the same type, as other programs write this type."""
    node = _leaf(rng, node)
    if node.tag in {0x17, 0x18}:
        node.tag, node.content = rng.choice([0x17, 0x18]), rng.choice(_TIMES)
    elif node.tag in {0x0C, 0x13, 0x16, 0x14, 0x1E, 0x12}:
        node.tag, node.content = rng.choice([0x0C, 0x13, 0x14, 0x16, 0x1E, 0x12, 0x1A]), rng.choice(_TEXTS)
    elif node.tag in {0x81, 0x82, 0x86, 0x87}:
        tag = node.tag = rng.choice([0x81, 0x82, 0x86, 0x86, 0x87])
        octets = [rng.randbytes(size) for size in (0, 3, 4, 5, 8, 16, 32)]
        node.content = rng.choice(octets) if tag == 0x87 else rng.choice(URIS if tag == 0x86 else _TEXTS)
    elif node.tag == 0x02:
        node.content = rng.choice([b"\x00", b"\x00\x01", b"\xff", b"\x80", b"\x00\x80", b"\x01" * 21, b"\xff\xff", b""])
    elif node.tag == 0x01:
        node.content = rng.choice([b"\x00", b"\x01", b"\xff", b"", b"\xff\xff"])
    elif node.tag == 0x06:
        node.content = rng.choice(
            [
                b"",
                b"\x80\x01",
                b"\x2a\x86",
                b"\x2a",
                b"\x88\x37",
                b"\x2a\xff\xff\xff\xff\x7f",
                b"\x55\x1d\x11",
                b"\x55\x04\x63",
            ]
        )


def _parent(node: Node, root: Node) -> Node | None:
    return next((each for each in all_nodes(root) if each.children and any(c is node for c in each.children)), None)


_CHANGES: dict[Callable[[Random, Node, Node], None], int] = {
    _octet: 25, _size: 12, _tag: 12, _twice: 8, _gone: 8, _moved: 4, _added: 8, _long_length: 3, _known: 30,
}  # fmt: skip
