"""Extensions for which Go has separate rules, by OID and value: well formed, empty, repeated and truncated.

The oracle reports the result of Go for each extension.
"""

from __future__ import annotations

from fuzz.der_mutants import URIS
from tests.builders import oid, tlv

_POLICY = tlv(0x30, oid("1.2.3.4"))
EXTENSIONS: list[tuple[str, bytes]] = [
    ("2.5.29.32", tlv(0x30, _POLICY + _POLICY)),
    ("2.5.29.32", tlv(0x30, _POLICY)),
    ("2.5.29.32", tlv(0x30, b"")),
    ("2.5.29.32", tlv(0x30, tlv(0x30, tlv(0x06, b"\x2a\xff\xff\xff\xff\xff\x7f")))),
    ("2.5.29.37", tlv(0x30, b"")),
    ("2.5.29.37", tlv(0x30, oid("1.3.6.1.5.5.7.3.1") + oid("1.2.3"))),
    ("2.5.29.37", tlv(0x30, oid("2.5.29.37.0"))),
    ("2.5.29.15", b"\x03\x02\x00\x80"),
    ("2.5.29.15", b"\x03\x01\x00"),
    ("2.5.29.15", b"\x03\x03\x07\x00\x80"),
    ("2.5.29.15", b"\x03\x02\x00\x01"),
    ("2.5.29.15", b"\x03\x02\x05\xff"),
    ("2.5.29.15", b"\x03\x02\x02\x04"),
    ("2.5.29.19", tlv(0x30, b"")),
    ("2.5.29.19", tlv(0x30, b"\x01\x01\xff")),
    ("2.5.29.19", tlv(0x30, b"\x02\x01\x00")),
    ("2.5.29.19", tlv(0x30, b"\x01\x01\xff\x02\x01\xff")),
    ("2.5.29.19", tlv(0x30, b"\x01\x01\x01")),
    ("2.5.29.19", tlv(0x30, b"\x01\x01\xff\x02\x09\x01" + bytes(8))),
    ("2.5.29.14", tlv(0x04, b"")),
    ("2.5.29.35", tlv(0x30, b"")),
    ("2.5.29.35", tlv(0x30, tlv(0x80, b"12"))),
    ("2.5.29.35", tlv(0x30, tlv(0x82, b"\x01"))),
    ("2.5.29.36", tlv(0x30, b"\x80\x01\x00")),
    ("2.5.29.36", tlv(0x30, b"")),
    ("2.5.29.54", b"\x02\x01\x00"),
    ("2.5.29.36", tlv(0x30, b"\x80\x02\x00\x00")),
    ("2.5.29.54", b"\x02\x02\x00\x01"),
    ("2.5.29.54", b"\x02\x01\xff"),
    ("2.5.29.33", tlv(0x30, tlv(0x30, oid("1.2.3") + oid("1.2.4")))),
    ("2.5.29.33", tlv(0x30, tlv(0x30, oid("1.2.3")))),
    ("2.5.29.31", tlv(0x30, tlv(0x30, tlv(0xA0, tlv(0xA0, tlv(0x86, b"http://a")))))),
    ("2.5.29.31", tlv(0x30, b"\x05\x00")),
    (
        "2.5.29.31",
        tlv(0x30, tlv(0x30, tlv(0xA0, tlv(0xA1, b"")))),
    ),
    ("2.5.29.31", tlv(0x30, tlv(0x30, b""))),
    ("1.3.6.1.5.5.7.1.1", tlv(0x30, tlv(0x30, oid("1.3.6.1.5.5.7.48.1") + tlv(0x86, b"http://a")))),
    ("1.3.6.1.5.5.7.1.1", tlv(0x30, tlv(0x30, oid("1.3.6.1.5.5.7.48.1")))),
    ("1.3.6.1.5.5.7.1.1", tlv(0x30, b"\x05\x00")),
    ("1.2.3.4.5", b"\x05\x00"),
    ("1.2.3.4.5", b""),
    ("2.5.29.17", tlv(0x30, b"")),
    ("2.5.29.17", tlv(0x30, tlv(0xA4, b"\x30\x00"))),
    ("2.5.29.17", tlv(0x30, tlv(0x87, b"\x0a\x00\x00\x01\xff\xff\xff\x00"))),
    ("2.5.29.17", tlv(0x30, tlv(0x82, b"a..b"))),
    ("2.5.29.17", tlv(0x30, tlv(0x82, b"\xe9"))),
    ("2.5.29.17", tlv(0x30, tlv(0x81, b"not an address"))),
    ("2.5.29.30", tlv(0x30, tlv(0xA0, tlv(0x30, tlv(0x87, b"\x0a\x01\x02\x03\xff\x00\x00\x00"))))),
    ("2.5.29.30", tlv(0x30, tlv(0xA1, tlv(0x30, tlv(0x87, b"\x0a\x01\x02\x03\xff\x00\x00\x00"))))),
    ("2.5.29.30", tlv(0x30, tlv(0xA0, tlv(0x30, tlv(0x87, b"\x0a\x00\x00\x00\xff\x00\xff\x00"))))),
    ("2.5.29.30", tlv(0x30, tlv(0xA0, tlv(0x30, tlv(0x82, b"example.com."))))),
    ("2.5.29.30", tlv(0x30, b"")),
    ("2.5.29.30", tlv(0x30, tlv(0xA0, b""))),
    ("2.5.29.30", tlv(0x30, tlv(0xA1, tlv(0x30, tlv(0x86, b"10.0.0.1"))))),
    ("2.5.29.30", tlv(0x30, tlv(0xA1, tlv(0x30, tlv(0x81, b'"a b"@c'))))),
    ("2.5.29.30", tlv(0x30, tlv(0xA1, tlv(0x30, tlv(0xA4, b"\x30\x00"))))),
    ("2.5.29.30", tlv(0x30, tlv(0xA1, tlv(0x30, tlv(0x81, b"a b@c"))))),
    *(("2.5.29.17", tlv(0x30, tlv(0x86, uri) + tlv(0x82, b"a.example.com"))) for uri in URIS),
]
