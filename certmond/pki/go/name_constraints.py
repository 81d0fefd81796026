"""Name constraints as Go 1.24 parses them (parseNameConstraintsExtension), and mailboxes (parseRFC2821Mailbox).

`x509.name_constraints` compares names with the constraints.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from certmond.errors import MalformedError
from certmond.pki.asn1.der import Value
from certmond.pki.go.der import SEQUENCE, only, read, read_any, starts_with
from certmond.pki.go.uri import is_domain

EMAIL, DNS, URI, IP = 0x81, 0x82, 0x86, 0x87
KINDS = {EMAIL: "email", DNS: "DNS", URI: "URI", IP: "IP"}
"""The kinds of GeneralName that Go supports (RFC 5280, 4.2.1.6), by their tags."""
_ATEXT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-/=?^_`{|}~.")


class Constraint(NamedTuple):
    """One subtree of nameConstraints: "DNS", "email" or "URI" with a text, or "IP" with a network."""

    kind: str
    value: str | IPv4Network | IPv6Network


class Constraints(NamedTuple):
    """The subtrees of nameConstraints. `handled` is True if Go supports all subtrees."""

    permitted: tuple[Constraint, ...]
    excluded: tuple[Constraint, ...]
    handled: bool


def parse_constraints(content: bytes) -> Constraints:
    """Return the subtrees in a nameConstraints extension (parseNameConstraintsExtension).

    Raises MalformedError, with Go's message, if Go refuses the extension.
    """
    words = "x509: invalid NameConstraints extension"
    whole = only(content, SEQUENCE, words)
    at, found = whole.content_start, dict[int, Value]()
    for tag in (0xA0, 0xA1):
        if starts_with(content, at, whole.end, tag):
            found[tag] = read(content, at, whole.end, tag, words)
            at = found[tag].end
    if at != whole.end or whole.end != len(content):
        raise MalformedError(words)
    if not any(value.content for value in found.values()):
        raise MalformedError("x509: empty name constraints extension")
    subtrees = {tag: [*_subtrees(value, words)] for tag, value in found.items()}
    permitted, excluded = (tuple(filter(None, subtrees.get(tag, ()))) for tag in (0xA0, 0xA1))
    return Constraints(permitted, excluded, all(None not in each for each in subtrees.values()))


def _subtrees(subtrees: Value, words: str) -> Iterator[Constraint | None]:
    at = subtrees.content_start
    while at < subtrees.end:
        subtree = read(subtrees.data, at, subtrees.end, SEQUENCE, words)
        base = read_any(subtree.data, subtree.content_start, subtree.end, words)
        yield _constraint(base.tag, base.content)
        at = subtree.end


def _constraint(tag: int, content: bytes) -> Constraint | None:
    if tag not in KINDS:
        return None
    if tag == IP:
        return Constraint("IP", _network(content))
    if not content.isascii():
        raise MalformedError(f"x509: invalid constraint value: x509: {content!r} cannot be encoded as an IA5String")
    text = content.decode("ascii")
    name = {DNS: "dnsName", EMAIL: "rfc822Name"}.get(tag, "URI")
    if tag == URI and _is_address(text):
        raise MalformedError(f"x509: failed to parse URI constraint {text!r}: cannot be IP address")
    known = parse_mailbox(text) is not None if tag == EMAIL and "@" in text else is_domain(text.removeprefix("."))
    if not known:
        raise MalformedError(f"x509: failed to parse {name} constraint {text!r}")
    return Constraint(KINDS[tag], text)


def _network(content: bytes) -> IPv4Network | IPv6Network:
    half = len(content) // 2
    if len(content) not in {8, 32}:
        raise MalformedError(f"x509: IP constraint contained value of length {len(content)}")
    mask = int.from_bytes(content[half:])
    inverse = mask ^ ((1 << 8 * half) - 1)
    if inverse & (inverse + 1):
        raise MalformedError(f"x509: IP constraint contained invalid mask {content[half:].hex()}")
    return ip_network((content[:half], 8 * half - inverse.bit_length()), strict=False)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def parse_mailbox(text: str) -> tuple[str, str] | None:
    """Return the local part and the domain of an email address, or None if parseRFC2821Mailbox refuses the address."""
    local, rest = _quoted(text[1:]) if text.startswith('"') else _atoms(text)
    if local is None or not rest.startswith("@") or not is_domain(rest[1:]):
        return None
    return local, rest[1:]


def _quoted(text: str) -> tuple[str | None, str]:
    local, at = "", 0
    while at < len(text):
        character = text[at]
        at += 1
        if character == '"':
            return local, text[at:]
        if character == "\\":
            character, at = text[at : at + 1], at + 1
            if character in {"", "\0", "\n", "\r"}:
                break
        elif character in "\0\t\n\r" or character > "\x7f":
            break
        local += character
    return None, ""


def _atoms(text: str) -> tuple[str | None, str]:
    local, at = "", 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
            if at == len(text):
                return None, ""
        elif text[at] not in _ATEXT:
            break
        local, at = local + text[at], at + 1
    if not local or local.startswith(".") or local.endswith(".") or ".." in local:
        return None, ""
    return local, text[at:]
