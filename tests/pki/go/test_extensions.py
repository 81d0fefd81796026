"""Extensions as Go parses them: the refused ones with its words, and the values of the others."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import MalformedError
from certmond.pki.asn1.der import read_value
from certmond.pki.go.extensions import Extension, parse_extension, understand
from certmond.pki.go.name_constraints import Constraint, parse_constraints, parse_mailbox
from tests.builders import oid, tlv


def extension(name: str, content: bytes, *, critical: bool = False) -> Extension:
    return Extension(read_value(oid(name)).content, critical, content)


def subtree(tag: int, content: bytes, *, excluded: bool = False) -> bytes:
    return tlv(0x30, tlv(0xA1 if excluded else 0xA0, tlv(0x30, tlv(tag, content))))


POLICY = tlv(0x30, oid("1.2.3.4"))
FULL = tlv(0xA0, tlv(0xA0, tlv(0x86, b"http://a") + tlv(0x82, b"b")))


@pytest.mark.parametrize(
    ("name", "content", "facts"),
    [
        ("2.5.29.14", tlv(0x04, b"id"), {"subject_key_id": b"id"}),
        ("2.5.29.15", b"\x03\x02\x02\x84", {"usages": frozenset({"digital signature", "cert sign"})}),
        ("2.5.29.15", b"\x03\x02\x00\x01", {"usages": frozenset({"encipher only"})}),
        ("2.5.29.15", b"\x03\x01\x00", {"usages": frozenset()}),
        (
            "2.5.29.17",
            tlv(0x30, tlv(0x82, b"a") + tlv(0x87, b"\x0a\x00\x00\x01") + tlv(0xA4, b"")),
            {"alternative_names": ("DNS:a", "IP:10.0.0.1")},
        ),
        ("2.5.29.19", tlv(0x30, b"\x01\x01\xff\x02\x01\x03"), {"is_ca": True, "path_length": 3}),
        ("2.5.29.19", tlv(0x30, b"\x02\x01\xff"), {"is_ca": False, "path_length": None}),
        ("2.5.29.30", subtree(0x82, b"a"), {"constrains_names": True}),
        ("2.5.29.31", tlv(0x30, tlv(0x30, FULL) + tlv(0x30, b"")), {}),
        ("2.5.29.32", tlv(0x30, POLICY), {}),
        ("2.5.29.33", tlv(0x30, tlv(0x30, oid("1.2.3") + oid("1.2.4"))), {}),
        ("2.5.29.33", tlv(0x30, tlv(0x30, oid("1.2.3") + oid("2.5.29.32.0"))), {"demands_policies": True}),
        ("2.5.29.35", tlv(0x30, tlv(0x80, b"id")), {"authority_key_id": b"id"}),
        ("2.5.29.35", tlv(0x30, b""), {"authority_key_id": None}),
        ("2.5.29.36", tlv(0x30, b"\x81\x01\x00"), {}),
        ("2.5.29.36", tlv(0x30, b"\x80\x01\x00"), {"demands_policies": True}),
        ("2.5.29.37", tlv(0x30, b""), {"extended_usages": None}),
        (
            "2.5.29.37",
            tlv(0x30, oid("1.3.6.1.5.5.7.3.2") + oid("1.2.3")),
            {"extended_usages": frozenset({"client auth", "1.2.3"})},
        ),
        ("2.5.29.54", b"\x02\x01\x00", {}),
        (
            "1.3.6.1.5.5.7.1.1",
            tlv(0x30, tlv(0x30, oid("1.3.6") + tlv(0x86, b"http://a")) + tlv(0x30, oid("1.3.6"))),
            {},
        ),
    ],
)
def test_an_extension_that_go_parses(name: str, content: bytes, facts: dict[str, Any]) -> None:
    """It gives the facts that components use."""
    found = understand(extension(name, content))
    assert (found.facts, found.handled) == (facts, True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("1.2.3", b"anything"),
        ("2.5.29.17", tlv(0x30, tlv(0xA4, b""))),
        ("2.5.29.30", subtree(0xA4, b"", excluded=True)),
    ],
)
def test_an_extension_that_go_does_not_handle(name: str, content: bytes) -> None:
    """Go parses the certificate, and refuses it in a path if such an extension is critical."""
    assert not understand(extension(name, content)).handled


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("2.5.29.14", b"\x05\x00", "invalid subject key identifier"),
        ("2.5.29.15", b"\x03\x02\x00", "invalid key usage"),
        ("2.5.29.17", b"\x05\x00", "invalid subject alternative name"),
        ("2.5.29.17", tlv(0x30, b"\x82\x05"), "invalid subject alternative name"),
        ("2.5.29.17", tlv(0x30, tlv(0x87, bytes(8))), "IP address of length 8"),
        ("2.5.29.17", tlv(0x30, tlv(0x82, b"\xe9")), "SAN dNSName is malformed"),
        ("2.5.29.17", tlv(0x30, tlv(0x81, b"\xe9")), "SAN rfc822Name is malformed"),
        ("2.5.29.17", tlv(0x30, tlv(0x86, b"\xe9")), "SAN uniformResourceIdentifier is malformed"),
        ("2.5.29.17", tlv(0x30, tlv(0x86, b"http://[::1")), "cannot parse URI"),
        ("2.5.29.19", tlv(0x30, b"\x01\x01\x01"), "invalid basic constraints"),
        ("2.5.29.19", tlv(0x30, tlv(0x02, b"\x01" * 9)), "invalid basic constraints"),
        ("2.5.29.31", tlv(0x30, b"\x05\x00"), "invalid CRL distribution point"),
        ("2.5.29.31", tlv(0x30, tlv(0x30, tlv(0xA0, tlv(0xA1, b"")))), "invalid CRL distribution point"),
        ("2.5.29.32", tlv(0x30, POLICY + POLICY), "invalid certificate policies"),
        ("2.5.29.32", tlv(0x30, b"\x05\x00"), "invalid certificate policies"),
        ("2.5.29.32", tlv(0x30, tlv(0x30, b"\x06\x00")), "invalid certificate policies"),
        ("2.5.29.32", tlv(0x30, tlv(0x30, b"\x06\x02\x2a\x80")), "invalid certificate policies"),
        ("2.5.29.32", tlv(0x30, tlv(0x30, b"\x06\x03\x2a\x80\x01")), "invalid certificate policies"),
        ("2.5.29.33", tlv(0x30, b"\x05\x00"), "invalid policy mappings"),
        ("2.5.29.33", tlv(0x30, tlv(0x30, oid("1.2.3"))), "invalid policy mappings"),
        ("2.5.29.36", tlv(0x30, b"\x80\x02\x00\x00"), "invalid policy constraints"),
        ("2.5.29.37", tlv(0x30, b"\x06\x01\x80"), "invalid extended key usages"),
        ("2.5.29.37", tlv(0x30, b"\x05\x00"), "invalid extended key usages"),
        ("2.5.29.54", b"\x02\x02\x00\x01", "invalid inhibit any policy"),
        ("1.3.6.1.5.5.7.1.1", tlv(0x30, b"\x05\x00"), "invalid authority info access"),
        ("1.3.6.1.5.5.7.1.1", tlv(0x30, tlv(0x30, b"\x06\x01\x80")), "invalid authority info access"),
    ],
)
def test_an_extension_that_go_refuses(name: str, content: bytes, words: str) -> None:
    """Go then does not parse the certificate."""
    with pytest.raises(MalformedError, match=words):
        understand(extension(name, content))


@pytest.mark.parametrize("name", ["2.5.29.14", "2.5.29.35", "1.3.6.1.5.5.7.1.1"])
def test_what_go_refuses_to_be_critical(name: str) -> None:
    """RFC 5280 demands that key identifiers and access information are not."""
    with pytest.raises(MalformedError, match="incorrectly marked critical"):
        understand(extension(name, tlv(0x30, b""), critical=True))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x06\x01\x80\x04\x00", "OID field"),
        (b"\x06\x01\x2a\x01\x01\x01\x04\x00", "critical field"),
        (b"\x06\x01\x2a\x05\x00", "value field"),
    ],
)
def test_an_extension_that_is_none(content: bytes, words: str) -> None:
    """An object identifier, a BOOLEAN that may be absent, and an OCTET STRING."""
    with pytest.raises(MalformedError, match=words):
        parse_extension(read_value(tlv(0x30, content)))


@pytest.mark.parametrize(
    ("tag", "content", "constraint"),
    [
        (0x82, b".a.b", Constraint("DNS", ".a.b")),
        (0x82, b"", Constraint("DNS", "")),
        (0x81, b"a@b", Constraint("email", "a@b")),
        (0x81, b".b", Constraint("email", ".b")),
        (0x86, b"a.b", Constraint("URI", "a.b")),
        (0x87, b"\x0a\x01\x02\x03\xff\x00\x00\x00", Constraint("IP", ip_network("10.0.0.0/8"))),
        (0x87, bytes(32), Constraint("IP", ip_network("::/0"))),
    ],
)
def test_the_constraints_that_go_reads(tag: int, content: bytes, constraint: Constraint) -> None:
    """An address may have bits beside its mask."""
    assert parse_constraints(subtree(tag, content)).permitted == (constraint,)
    assert parse_constraints(subtree(tag, content, excluded=True)).excluded == (constraint,)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tlv(0x30, b""), "empty name constraints"),
        (tlv(0x30, tlv(0xA0, b"")), "empty name constraints"),
        (tlv(0x30, b"\x05\x00"), "invalid NameConstraints"),
        (subtree(0x82, b"a") + b"\x00", "invalid NameConstraints"),
        (subtree(0x82, b"a."), "dnsName constraint"),
        (subtree(0x82, b"\xe9"), "IA5String"),
        (subtree(0x81, b"@b"), "rfc822Name constraint"),
        (subtree(0x86, b"10.0.0.1"), "cannot be IP address"),
        (subtree(0x86, b"a b"), "URI constraint"),
        (subtree(0x87, bytes(4)), "length 4"),
        (subtree(0x87, b"\x0a\x00\x00\x00\xff\x00\xff\x00"), "invalid mask"),
    ],
)
def test_the_constraints_that_go_refuses(content: bytes, words: str) -> None:
    """For Kubernetes such a CA has signed nothing."""
    with pytest.raises(MalformedError, match=words):
        parse_constraints(content)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a@b", ("a", "b")),
        ('"a b"@c', ("a b", "c")),
        ('"a\\"b"@c', ('a"b', "c")),
        ("a\\ b@c", ("a b", "c")),
        ("a.b@c", ("a.b", "c")),
        ("@b", None),
        ("a", None),
        ("a b@c", None),
        (".a@b", None),
        ("a..b@c", None),
        ("a.@b", None),
        ("a@b.", None),
        ('"a', None),
        ('"a\n"@b', None),
        ('"a\\', None),
        ('"\\\0"@b', None),
        ("a\\", None),
        ("", None),
    ],
)
def test_an_email_address_is_parsed_by_rfc_2821(text: str, parts: tuple[str, str] | None) -> None:
    """The result is None for an address that Go cannot parse."""
    assert parse_mailbox(text) == parts


@given(
    name=st.sampled_from([14, 15, 17, 19, 30, 31, 32, 33, 35, 36, 37, 54]),
    content=st.binary(max_size=60),
    nested=st.booleans(),
)
def test_any_octets_are_parsed_or_malformed(name: int, content: bytes, nested: bool) -> None:
    """No octets raise another error."""
    try:
        understand(extension(f"2.5.29.{name}", tlv(0x30, content) if nested else content))
    except MalformedError:
        return
