"""Certificates as Go reads them: the fields, and the rules by which it refuses one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import MalformedError
from certmond.pki.findings import Reason
from certmond.pki.go.certificate import alternative_names_of, extension_of, parse_fields, signed_part_of
from certmond.pki.go.distinguished_names import attribute_texts
from certmond.pki.go.extensions import SUBJECT_ALTERNATIVE_NAME
from certmond.pki.x509.encoding_faults import encoding_faults
from fuzz.der_mutants import Node, parse
from fuzz.mutated_chains import fields_of, signed
from tests.builders import make_ca, make_leaf, make_server, oid, tlv

CA = make_ca()
SERVER = make_server(CA)

Change = Callable[[dict[str, Node]], None]


def changed(change: Change) -> bytes:
    """The server's certificate with other fields, signed again."""
    certificate = parse(SERVER.der)
    content, algorithm, _ = certificate.within
    change(fields_of(certificate))
    return signed(CA, content.encoded, algorithm.encoded)


def put(field: str, encoded: bytes) -> Change:
    """Put this value in place of a field."""

    def change(fields: dict[str, Node]) -> None:
        node = fields[field]
        node.tag, node.content, node.children = encoded[0], parse(encoded).encoded[2:], None
        if encoded[1] & 0x80:
            node.content = encoded[2 + (encoded[1] & 0x7F) :]

    return change


def name(tag: int, text: bytes, kind: bytes = oid("2.5.4.3")) -> bytes:
    return tlv(0x30, tlv(0x31, tlv(0x30, kind + tlv(tag, text))))


GOOD_EXTENSION = tlv(0x30, oid("1.2.3") + tlv(0x04, b""))
REFUSED: dict[str, tuple[Change, str]] = {
    "a version of nine octets": (put("version", tlv(0xA0, tlv(0x02, b"\x01" * 9))), "malformed version"),
    "two values for a version": (put("version", tlv(0xA0, b"\x02\x01\x02\x05\x00")), "malformed version"),
    "version 4": (put("version", tlv(0xA0, b"\x02\x01\x03")), "invalid version"),
    "a negative version": (put("version", tlv(0xA0, b"\x02\x01\xf0")), "malformed version"),
    "a serial number with a zero before it": (put("serial", b"\x02\x02\x00\x01"), "malformed serial number"),
    "a negative serial number": (put("serial", b"\x02\x01\xff"), "negative serial number"),
    "a UniversalString": (put("subject", name(0x1C, b"\x00\x00\x00a")), "unsupported string type"),
    "a string with the tag of a RELATIVE-OID": (put("subject", name(0x0D, b"a")), "unsupported string type"),
    "an underscore in a PrintableString": (put("subject", name(0x13, b"a_b")), "invalid PrintableString"),
    "an attribute without a value": (
        put("subject", tlv(0x30, tlv(0x31, tlv(0x30, oid("2.5.4.3"))))), "invalid attribute value",
    ),
    "an attribute of no type": (put("subject", name(0x0C, b"a", b"\x06\x01\x80")), "invalid attribute type"),
    "an empty name": (put("subject", tlv(0x30, b"\x05\x00")), "invalid RDNSequence"),
    "an issuer that Go cannot read": (put("issuer", name(0x0C, b"\xff")), "invalid UTF-8"),
    "an empty key": (put("key", tlv(0x30, b"\x05\x00")), "malformed public key algorithm"),
    "empty extensions": (put("extensions", tlv(0xA3, b"\x05\x00")), "malformed extensions"),
    "an empty extension": (put("extensions", tlv(0xA3, tlv(0x30, tlv(0x30, b"\x05\x00")))), "OID field"),
    "an extension twice": (put("extensions", tlv(0xA3, tlv(0x30, 2 * GOOD_EXTENSION))), "duplicate extension"),
    "an algorithm without a name": (put("algorithm", tlv(0x30, b"\x05\x00")), "malformed OID"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_go_refuses_is_refused_in_its_words(case: str) -> None:
    """The dates are still read."""
    change, words = REFUSED[case]
    fields = parse_fields(changed(change))
    assert words in "; ".join(fields.objections)
    assert fields.not_after == SERVER.facts.not_after


UNREADABLE: dict[str, bytes] = {
    "a month that no year has": changed(put("validity", tlv(0x30, 2 * tlv(0x17, b"261324120000Z")))),
    "no day of the calendar": changed(put("validity", tlv(0x30, 2 * tlv(0x17, b"270229120000Z")))),
    "one date": changed(put("validity", tlv(0x30, tlv(0x17, b"261124120000Z")))),
    "a byte too many": SERVER.der + b"\x00",
    "no certificate": tlv(0x30, b""),
}


@pytest.mark.parametrize("der", UNREADABLE.values(), ids=UNREADABLE)
def test_without_dates_the_certificate_is_malformed(der: bytes) -> None:
    """The error has Go's words."""
    with pytest.raises(MalformedError, match="x509: "):
        parse_fields(der)


def parts(*, algorithm: bytes | None = None, signature: bytes | None = None) -> bytes:
    """Return the server's certificate with another part beside the signed one."""
    content, beside, value = (each.encoded for each in parse(SERVER.der).within)
    return tlv(0x30, content + (algorithm or beside) + (value if signature is None else signature))


@pytest.mark.parametrize(
    ("der", "words"),
    [
        (parts(algorithm=tlv(0x30, oid("1.2.840.10045.4.3.3"))), "algorithm identifiers don't match"),
        (parts(algorithm=b"\x05\x00"), "malformed algorithm identifier"),
        (parts(signature=b"\x03\x01\x08"), "malformed signature"),
        (parts(signature=b""), "malformed signature"),
    ],
    ids=["another algorithm", "no algorithm", "a bad signature", "no signature"],
)
def test_the_fields_beside_the_signed_part_are_read_too(der: bytes, words: str) -> None:
    """The fields are the repeated algorithm and a BIT STRING."""
    assert words in "; ".join(parse_fields(der).objections)


@pytest.mark.parametrize("number", [0, 1])
def test_before_version_3_there_are_no_extensions(number: int) -> None:
    """Go ignores them, so no certificate of version 1 is a CA by its extensions."""

    def change(fields: dict[str, Node]) -> None:
        fields["version"].children = [Node(0x02, bytes([number]))]

    fields = parse_fields(changed(change))
    assert (fields.version, fields.facts, fields.objections) == (number + 1, {}, ())


def with_identifier(identifier: bytes) -> bytes:
    """The server's certificate with something before its extensions."""
    content, algorithm, _ = parse(SERVER.der).within
    *fields, extensions = (each.encoded for each in content.within)
    return signed(CA, tlv(0x30, b"".join(fields) + identifier + extensions), algorithm.encoded)


@pytest.mark.parametrize(("tag", "word"), [(0x81, "issuerUniqueID"), (0x82, "subjectUniqueID")])
def test_unique_identifiers_are_ignored_if_they_are_readable(tag: int, word: str) -> None:
    """RFC 5280 has them for version 2 and 3, and no component uses them."""
    assert parse_fields(with_identifier(tlv(tag, b"\x00id"))).objections == ()
    cut_off = bytes([tag, 0x84]) + b"\x7f" * 4
    assert f"x509: malformed {word}" in parse_fields(with_identifier(cut_off)).objections
    old = changed(lambda fields: setattr(fields["version"], "children", [Node(0x02, b"\x01")]))
    assert parse_fields(old).objections == ()


def test_a_name_has_the_form_of_rfc_4514() -> None:
    """An unknown type has its number, a value that Go refuses is in hexadecimal digits, and a text that is no name is
    complete.
    """
    assert attribute_texts(name(0x0C, b" a,b\x00 ")) == [["CN=\\ a\\,b\\00\\ "]]
    assert attribute_texts(name(0x0C, b"#a")) == [["CN=\\#a"]]
    assert attribute_texts(name(0x0C, b"")) == [["CN="]]
    assert attribute_texts(name(0x1C, b"a", oid("1.2.3"))) == [["1.2.3=#61"]]
    assert attribute_texts(b"\x05\x00") == [["#0500"]]


def test_the_parts_of_a_certificate_are_found() -> None:
    """The parts are the signed part, and an extension by its name."""
    part = signed_part_of(SERVER.der)
    assert part.algorithm == part.outer_algorithm
    assert part.content in SERVER.der
    assert signed_part_of(make_ca(version=1).der).content
    assert b"kube-apiserver" in (extension_of(SERVER.der, SUBJECT_ALTERNATIVE_NAME) or b"")
    assert extension_of(make_leaf(CA).der, SUBJECT_ALTERNATIVE_NAME) is None
    assert extension_of(make_ca(version=1).der, SUBJECT_ALTERNATIVE_NAME) is None
    assert alternative_names_of(SERVER.der) == extension_of(SERVER.der, SUBJECT_ALTERNATIVE_NAME)
    assert alternative_names_of(b"\x30\x00") is None


def test_a_large_part_is_parsed_each_time() -> None:
    """So the cache of common parts does not grow with it."""
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, 64 * "x") for _ in range(9)]
    ca = make_ca(subject=x509.Name(units))
    large = make_leaf(ca, subject=x509.Name(units[1:]), names=[f"DNS:{number}.example.com" for number in range(100)])
    assert not parse_fields(large.der).objections
    assert len(large.facts.names) == 100


def test_what_is_kept_of_hostile_parts_is_short() -> None:
    """A megabyte of a URI is in no message, a hundred bad extensions are four, and a serial number has its digits."""
    long = parse_fields(make_leaf(CA, names=["URI:http://[" + "a" * 9000]).der)
    assert max(map(len, long.objections)) <= 240
    many = [(f"2.5.29.{place}", False, b"") for place in (14, 15, 19, 30, 31, 32, 33, 36, 37)]
    assert len(parse_fields(make_leaf(CA, extra=many).der).objections) == 4
    with pytest.raises(MalformedError, match="8,193 bits"):
        parse_fields(changed(put("serial", tlv(0x02, b"\x01" * 1025))))
    assert attribute_texts(name(0x0C, b"a", tlv(0x06, b"\xff" * 999))) == [[f"#{'ff' * 16}=a"]]


def test_an_encoding_error_is_a_fault_with_its_reason() -> None:
    """A valid encoding has none. The fault has Go's words, or those of cryptography."""
    assert [*encoding_faults(SERVER.facts, "a.crt")] == []
    (refused,) = encoding_faults(make_ca(serial=-1).facts, "a.crt")
    assert refused.reason is Reason.MALFORMED
    assert "a.crt: " in refused.detail
    assert "x509: negative serial number" in refused.detail
    (unread,) = encoding_faults(make_leaf(CA, path_length=0).facts, "a.crt")
    assert unread.reason is Reason.NONCONFORMING


@given(place=st.integers(0, len(SERVER.der) - 1), value=st.integers(0, 255))
def test_any_octet_may_be_another(place: int, value: int) -> None:
    """The fields, or MalformedError."""
    try:
        fields = parse_fields(SERVER.der[:place] + bytes([value]) + SERVER.der[place + 1 :])
    except MalformedError:
        return
    assert attribute_texts(fields.subject)
