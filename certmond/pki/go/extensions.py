"""Extensions of a certificate as Go 1.24 parses them (crypto/x509/parser.go, processExtensions).

This module decides which extensions Go refuses, and which critical extensions Go does not handle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

from certmond.errors import MalformedError
from certmond.pki.asn1.der import Value
from certmond.pki.go.der import (
    BIT_STRING,
    BOOLEAN,
    INTEGER,
    OCTET_STRING,
    OID,
    SEQUENCE,
    bits,
    boolean,
    dotted,
    is_object_identifier,
    only,
    read,
    read_any,
    small_integer,
    starts_with,
)
from certmond.pki.go.name_constraints import DNS, EMAIL, IP, KINDS, URI, parse_constraints
from certmond.pki.go.uri import require_uri

_USAGES = (
    "digital signature", "content commitment", "key encipherment", "data encipherment", "key agreement", "cert sign",
    "crl sign",
)  # fmt: skip
_OF_AGREEMENT = ("encipher only", "decipher only")
"""Usages of the bits after the bits of `_USAGES`. These usages only restrict the usage "key agreement"."""
_EXTENDED = {
    "2.5.29.37.0": "any", "1.3.6.1.5.5.7.3.1": "server auth", "1.3.6.1.5.5.7.3.2": "client auth",
    "1.3.6.1.5.5.7.3.3": "code signing", "1.3.6.1.5.5.7.3.4": "email protection",
    "1.3.6.1.5.5.7.3.8": "timestamping", "1.3.6.1.5.5.7.3.9": "ocsp signing",
}  # fmt: skip
_ANY_POLICY = bytes.fromhex("551d2000")


class Extension(NamedTuple):
    """One extension (RFC 5280, 4.1), with the contents of its object identifier and its value."""

    oid: bytes
    critical: bool
    content: bytes


class Understood(NamedTuple):
    """Fields of `Certificate` whose values one extension contains, and whether Go handles the whole extension."""

    facts: dict[str, Any]
    handled: bool = True


def parse_extension(value: Value) -> Extension:
    """Return the extension in this SEQUENCE. Raises MalformedError with Go's message (parseExtension)."""
    data, end = value.data, value.end
    name = read(data, value.content_start, end, OID, "x509: malformed extension OID field")
    oid = name.content
    if not is_object_identifier(oid):
        raise MalformedError("x509: malformed extension OID field")
    at, critical = name.end, False
    if starts_with(data, at, end, BOOLEAN):
        flag = read(data, at, end, BOOLEAN, "x509: malformed extension critical field")
        critical = boolean(flag.content, "x509: malformed extension critical field")
        at = flag.end
    return Extension(oid, critical, read(data, at, end, OCTET_STRING, "x509: malformed extension value field").content)


def understand(extension: Extension) -> Understood:
    """Return the parts of the extension that Go handles.

    Raises MalformedError, with Go's message, if Go refuses the extension.
    """
    reader = _READERS.get(extension.oid)
    return reader(extension) if reader else Understood({}, handled=False)


def _sequence(content: bytes, words: str) -> Iterator[Value]:
    """Yield the values in the SEQUENCE `content`. Raises MalformedError(words) for malformed DER."""
    whole = only(content, SEQUENCE, words)
    at = whole.content_start
    while at < whole.end:
        value = read_any(content, at, whole.end, words)
        yield value
        at = value.end


def _key_usage(extension: Extension) -> Understood:
    words = "x509: invalid key usage"
    found = bits(only(extension.content, BIT_STRING, words).content, words)
    named = [name for place, name in enumerate(_USAGES) if found.is_set(place)]
    others = [name for place, name in enumerate(_OF_AGREEMENT, len(_USAGES)) if found.is_set(place)]
    return Understood({"usages": frozenset(named or others)})


def _basic_constraints(extension: Extension) -> Understood:
    words = "x509: invalid basic constraints"
    whole = only(extension.content, SEQUENCE, words)
    data, at, end, is_ca, length = whole.data, whole.content_start, whole.end, False, -1
    if starts_with(data, at, end, BOOLEAN):
        flag = read(data, at, end, BOOLEAN, words)
        is_ca, at = boolean(flag.content, words), flag.end
    if starts_with(data, at, end, INTEGER):
        length = small_integer(read(data, at, end, INTEGER, words).content, words)
    return Understood({"is_ca": is_ca, "path_length": length if length >= 0 else None})


def _alternative_names(extension: Extension) -> Understood:
    values = _sequence(extension.content, "x509: invalid subject alternative name")
    names = [f"{KINDS[tag]}:{_alternative_name(tag, value.content)}" for value in values if (tag := value.tag) in KINDS]
    return Understood({"alternative_names": tuple(dict.fromkeys(names))}, handled=bool(names))


def _alternative_name(tag: int, content: bytes) -> str | IPv4Address | IPv6Address:
    if tag == IP:
        if len(content) not in {4, 16}:
            raise MalformedError(f"x509: cannot parse IP address of length {len(content)}")
        return ip_address(content)
    if not content.isascii():
        kind = {EMAIL: "rfc822Name", DNS: "dNSName"}.get(tag, "uniformResourceIdentifier")
        raise MalformedError(f"x509: SAN {kind} is malformed")
    text = content.decode("ascii")
    if tag == URI:
        require_uri(text)
    return text


def _extended_key_usage(extension: Extension) -> Understood:
    words, found = "x509: invalid extended key usages", []
    for value in _sequence(extension.content, words):
        if value.tag != OID or not is_object_identifier(value.content):
            raise MalformedError(words)
        text = dotted(value.content)
        found.append(_EXTENDED.get(text, text))
    # Go's checkChainForKeyUsage skips a certificate without any usage in the list.
    return Understood({"extended_usages": frozenset(found) or None})


def _subject_key_identifier(extension: Extension) -> Understood:
    if extension.critical:
        raise MalformedError("x509: subject key identifier incorrectly marked critical")
    return Understood(
        {"subject_key_id": only(extension.content, OCTET_STRING, "x509: invalid subject key identifier").content}
    )


def _authority_key_identifier(extension: Extension) -> Understood:
    words = "x509: invalid authority key identifier"
    if extension.critical:
        raise MalformedError("x509: authority key identifier incorrectly marked critical")
    whole = only(extension.content, SEQUENCE, words)
    if not starts_with(whole.data, whole.content_start, whole.end, 0x80):
        return Understood({"authority_key_id": None})
    return Understood({"authority_key_id": read(whole.data, whole.content_start, whole.end, 0x80, words).content})


def _policies(extension: Extension) -> Understood:
    words, seen = "x509: invalid certificate policies", set[bytes]()
    for value in _sequence(extension.content, words):
        if value.tag != SEQUENCE:
            raise MalformedError(words)
        policy = read(value.data, value.content_start, value.end, OID, words).content
        if policy in seen or not _is_policy(policy):
            raise MalformedError(words)
        seen.add(policy)
    return Understood({})


def _is_policy(content: bytes) -> bool:
    """Return whether Go's newOIDFromDER accepts `content`."""
    if not content or content[-1] & 0x80:
        return False
    return all(octet != 0x80 or (place and content[place - 1] & 0x80) for place, octet in enumerate(content))


def _policy_mappings(extension: Extension) -> Understood:
    words, mapped = "x509: invalid policy mappings extension", set[bytes]()
    for value in _sequence(extension.content, words):
        if value.tag != SEQUENCE:
            raise MalformedError(words)
        issuer = read(value.data, value.content_start, value.end, OID, words)
        mapped |= {issuer.content, read(value.data, issuer.end, value.end, OID, words).content}
    return Understood({"demands_policies": True} if _ANY_POLICY in mapped else {})


def _policy_constraints(extension: Extension) -> Understood:
    words = "x509: invalid policy constraints extension"
    whole = only(extension.content, SEQUENCE, words)
    at = whole.content_start
    explicit = starts_with(whole.data, at, whole.end, 0x80)
    for tag in (0x80, 0x81):
        if starts_with(whole.data, at, whole.end, tag):
            value = read(whole.data, at, whole.end, tag, words)
            small_integer(value.content, words)
            at = value.end
    return Understood({"demands_policies": True} if explicit else {})


def _inhibit_any_policy(extension: Extension) -> Understood:
    words = "x509: invalid inhibit any policy extension"
    small_integer(only(extension.content, INTEGER, words).content, words)
    return Understood({})


def _distribution_points(extension: Extension) -> Understood:
    words = "x509: invalid CRL distribution point"
    for point in _sequence(extension.content, words):
        if point.tag != SEQUENCE:
            raise MalformedError(words)
        if not starts_with(point.data, point.content_start, point.end, 0xA0):
            continue
        name = read(point.data, point.content_start, point.end, 0xA0, words)
        full = read(point.data, name.content_start, name.end, 0xA0, words)
        at = full.content_start
        while starts_with(point.data, at, full.end, URI):
            at = read(point.data, at, full.end, URI, words).end
    return Understood({})


def _authority_information(extension: Extension) -> Understood:
    words = "x509: invalid authority info access"
    if extension.critical:
        raise MalformedError("x509: authority info access incorrectly marked critical")
    for value in _sequence(extension.content, words):
        if value.tag != SEQUENCE:
            raise MalformedError(words)
        method = read(value.data, value.content_start, value.end, OID, words)
        if not is_object_identifier(method.content):
            raise MalformedError(words)
        if starts_with(value.data, method.end, value.end, URI):
            read(value.data, method.end, value.end, URI, words)
    return Understood({})


def _name_constraints(extension: Extension) -> Understood:
    return Understood({"constrains_names": True}, handled=parse_constraints(extension.content).handled)


def _oid(last: int) -> bytes:
    return bytes([0x55, 0x1D, last])


SUBJECT_ALTERNATIVE_NAME, NAME_CONSTRAINTS = _oid(17), _oid(30)
_READERS: dict[bytes, Callable[[Extension], Understood]] = {
    _oid(14): _subject_key_identifier,
    _oid(15): _key_usage,
    SUBJECT_ALTERNATIVE_NAME: _alternative_names,
    _oid(19): _basic_constraints,
    NAME_CONSTRAINTS: _name_constraints,
    _oid(31): _distribution_points,
    _oid(32): _policies,
    _oid(33): _policy_mappings,
    _oid(35): _authority_key_identifier,
    _oid(36): _policy_constraints,
    _oid(37): _extended_key_usage,
    _oid(54): _inhibit_any_policy,
    bytes.fromhex("2b06010505070101"): _authority_information,
}
