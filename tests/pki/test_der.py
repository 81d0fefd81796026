"""The values of a certificate that are compared as they stand are those that cryptography finds in it."""

from __future__ import annotations

import pytest

from certmond.pki.certificate import parse_certificate
from certmond.pki.der import leading_value, parts_of
from certmond.pki.path import signed_by
from tests.builders import Issued, make_ca, make_leaf

ROOT = make_ca(key="rsa")


@pytest.mark.parametrize(
    "issued",
    [
        ROOT,
        make_leaf(ROOT, "x" * 40),
        make_ca(version=1),
        make_ca(key="ed25519"),
        make_ca(key="rsa", hash="sha256-pss"),
    ],
)
def test_the_parts_are_those_of_the_certificate(issued: Issued) -> None:
    """What is signed, and both names, byte for byte."""
    parts = parts_of(issued.der)
    assert parts.signed == issued.cert.tbs_certificate_bytes
    assert (parts.issuer, parts.subject) == (issued.cert.issuer.public_bytes(), issued.cert.subject.public_bytes())
    assert parts.inner_algorithm == parts.outer_algorithm != b""


def test_a_value_ends_where_its_length_says() -> None:
    """In the short and in the long form; a length that makes no sense is nobody's."""
    for length in (b"\x02", b"\x81\x02", b"\x82\x00\x02"):
        value = b"\x30" + length + b"ab"
        assert leading_value(value + b"more") == value
    for senseless in (b"", b"\x30", b"\x31\x02ab", b"\x30\x84\xff\xff\xff\xffab"):
        assert leading_value(senseless) == senseless


def test_another_word_beside_the_signature_is_nobodys() -> None:
    """RFC 5280, 4.1.1.2: it has to be the same as in what is signed. Here only the absent NULL tells the two apart, so
    that the signature itself would verify.
    """
    leaf = make_leaf(ROOT)
    parts = parts_of(leaf.der)
    identifier = parts.outer_algorithm[2:].removesuffix(b"\x05\x00")
    signature = leaf.der[leaf.der.index(parts.signed) + len(parts.signed) + len(parts.outer_algorithm) :]
    body = parts.signed + b"\x30" + bytes([len(identifier)]) + identifier + signature
    other = parse_certificate(b"\x30\x82" + len(body).to_bytes(2) + body)
    assert signed_by(leaf.facts, ROOT.facts)
    assert not signed_by(other, ROOT.facts)
