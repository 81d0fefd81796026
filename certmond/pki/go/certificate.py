"""Certificates as Go 1.24 parses them (crypto/x509/parser.go, ParseCertificate).

This module parses the fields in the DER of a certificate, and collects the reasons for which Go refuses the
certificate. `parse_fields` also returns the fields of a refused certificate.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from certmond.errors import MalformedError
from certmond.pki.asn1.der import Value, read_value
from certmond.pki.asn1.key_limits import check_serial
from certmond.pki.go.der import (
    BIT_STRING,
    INTEGER,
    SEQUENCE,
    bits,
    dotted,
    integer,
    read,
    read_any,
    small_integer,
    starts_with,
    time,
)
from certmond.pki.go.distinguished_names import is_plain_name, name_objections
from certmond.pki.go.extensions import SUBJECT_ALTERNATIVE_NAME, Extension, Understood, parse_extension, understand
from certmond.pki.go.public_key import is_plain_public_key, parse_algorithm, require_public_key
from certmond.pki.go.signature_algorithm import Signature, signature_of

_KEPT = 512
"""Maximum size in octets of a cached part. certmond parses such a part once for all certificates."""
_VERSION, _ISSUER_ID, _SUBJECT_ID, _EXTENSIONS = 0xA0, 0x81, 0x82, 0xA3
_MOST_OBJECTIONS, _LONGEST_WORDS = 4, 240
"""Maximum number and maximum length (in characters) of stored objections, which can quote the certificate."""
_VERSION_3 = b"\xa0\x03\x02\x01\x02"
_ORDINARY_TIMES = re.compile(2 * rb"\x17\x0d(\d{6})((?:[01]\d|2[0-3])[0-5]\d[0-5]\d)Z")


class Fields(NamedTuple):
    """Fields in the DER of a certificate.

    `has_plain_key` is the result of `is_plain_public_key`. `objections` contains the messages with which Go refuses the
    certificate. `facts` contains those fields of `x509.certificate.Certificate` whose values are in the extensions.
    """

    version: int
    serial: int
    signature: Signature
    issuer: bytes
    not_before: datetime
    not_after: datetime
    subject: bytes
    key: bytes
    has_plain_key: bool
    facts: dict[str, Any]
    unknown_critical: tuple[str, ...]
    objections: tuple[str, ...]


class _Reading:
    """Reader of the values in one SEQUENCE, in their order."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data, self.at, self.end = data, at, end

    def next(self, tag: int, words: str) -> Value:
        """Return the next value. Raises MalformedError(words) for a tag other than `tag`, or for malformed DER."""
        data, at = self.data, self.at
        if self.end - at > 1 and data[at] == tag and (size := data[at + 1]) < 0x80 and size <= self.end - at - 2:
            self.at = at + 2 + size
            return Value(data, tag, at, at + 2, self.at)
        value = read(self.data, self.at, self.end, tag, words)
        self.at = value.end
        return value

    def has(self, tag: int) -> bool:
        return starts_with(self.data, self.at, self.end, tag)


def parse_fields(der: bytes) -> Fields:
    """Return the fields of the certificate `der`.

    Raises MalformedError, with Go's message, for trailing data and for a malformed time. Also raises MalformedError if
    a field up to the public key is missing or has the wrong tag. Raises LimitError for a serial number that exceeds the
    limit.
    """
    objections = list[str]()
    whole = read(der, 0, len(der), SEQUENCE, "x509: malformed certificate")
    if whole.end != len(der):
        raise MalformedError("x509: trailing data")
    outer = _Reading(der, whole.content_start, whole.end)
    signed = outer.next(SEQUENCE, "x509: malformed tbs certificate")
    fields = _Reading(der, signed.content_start, signed.end)
    version = _version(fields, objections)
    serial = _serial(fields, objections)
    inner = fields.next(SEQUENCE, "x509: malformed signature algorithm identifier")
    issuer = fields.next(SEQUENCE, "x509: malformed issuer").encoded
    validity = fields.next(SEQUENCE, "x509: malformed validity")
    not_before, not_after = _times(validity.content)
    subject = fields.next(SEQUENCE, "x509: malformed issuer").encoded
    key = fields.next(SEQUENCE, "x509: malformed spki").encoded
    objections += name_objections(issuer) if len(issuer) <= _KEPT else name_objections.__wrapped__(issuer)
    if subject != issuer and not is_plain_name(subject):
        objections += name_objections.__wrapped__(subject)
    has_plain_key = is_plain_public_key(key)
    if not has_plain_key:
        objections += _of_key(key)
    facts, unknown = _extensions(fields, objections) if version == 3 else ({}, ())
    if version == 2:
        _unique_identifiers(fields, objections)
    signature = _signature(inner, objections)
    _outer(outer, inner.content, objections)
    return Fields(
        version, serial, signature, issuer, not_before, not_after, subject, key, has_plain_key, facts, unknown,
        tuple(each[:_LONGEST_WORDS] for each in tuple(dict.fromkeys(objections))[:_MOST_OBJECTIONS]),
    )  # fmt: skip


def _version(fields: _Reading, objections: list[str]) -> int:
    if fields.data[fields.at : fields.at + 5] == _VERSION_3:
        fields.at += 5
        return 3
    if not fields.has(_VERSION):
        return 1
    words = "x509: malformed version"
    explicit = fields.next(_VERSION, words)
    value = read(fields.data, explicit.content_start, explicit.end, INTEGER, words)
    version = 1 + int.from_bytes(value.content, signed=True)
    try:
        small_integer(value.content, words)
    except MalformedError as error:
        objections.append(str(error))
    if version < 1 or value.end != explicit.end:
        objections.append(words)
    elif version > 3:
        objections.append("x509: invalid version")
    return version


def _serial(fields: _Reading, objections: list[str]) -> int:
    content = fields.next(INTEGER, "x509: malformed serial number").content
    check_serial(serial := int.from_bytes(content, signed=True))
    try:
        if integer(content, "x509: malformed serial number") < 0:
            objections.append("x509: negative serial number")
    except MalformedError as error:
        objections.append(str(error))
    return serial


def _times(encoded: bytes) -> tuple[datetime, datetime]:
    if found := _ORDINARY_TIMES.fullmatch(encoded):
        try:
            return _time(found[1], found[2]), _time(found[3], found[4])
        except ValueError:
            pass  # not a day of the calendar: `time` raises the error
    start = read_any(encoded, 0, len(encoded), "x509: unsupported time format")
    end = read_any(encoded, start.end, len(encoded), "x509: unsupported time format")
    return time(start), time(end)


@lru_cache(maxsize=1024)
def _time(day: bytes, hour: bytes) -> datetime:
    """Return the time of a UTCTime of 13 octets. Raises ValueError for a day that does not exist."""
    century = "20" if day < b"5" else "19"
    return datetime.fromisoformat(f"{century}{day.decode('ascii')}T{hour.decode('ascii')}Z")


def _of_key(info: bytes) -> tuple[str, ...]:
    """Return Go's objection to a SubjectPublicKeyInfo, or () if Go accepts the key."""
    try:
        require_public_key(info)
    except MalformedError as error:
        return (str(error),)
    return ()


def _extensions(fields: _Reading, objections: list[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the facts in the extensions, and the critical extensions that Go does not handle."""
    facts, unknown, seen = dict[str, Any](), list[str](), set[bytes]()
    try:
        _unique_identifiers(fields, objections)
        if not fields.has(_EXTENSIONS):
            return facts, ()
        explicit = fields.next(_EXTENSIONS, "x509: malformed extensions")
        whole = read(fields.data, explicit.content_start, explicit.end, SEQUENCE, "x509: malformed extensions")
        several = _Reading(fields.data, whole.content_start, whole.end)
        while several.at < several.end:
            extension, understood, why = _extension(several.next(SEQUENCE, "x509: malformed extension").encoded)
            if why:
                objections.append(why)
            if extension is None:
                continue
            if extension.oid in seen:
                objections.append(f'x509: certificate contains duplicate extension with OID "{dotted(extension.oid)}"')
            seen.add(extension.oid)
            facts |= understood.facts
            if extension.critical and not understood.handled:
                unknown.append(dotted(extension.oid))
    except MalformedError as error:
        objections.append(str(error))
    return facts, tuple(unknown)


def _extension(encoded: bytes) -> tuple[Extension | None, Understood, str | None]:
    return _known_extension(encoded) if len(encoded) <= _KEPT else _known_extension.__wrapped__(encoded)


@lru_cache(maxsize=1024)
def _known_extension(encoded: bytes) -> tuple[Extension | None, Understood, str | None]:
    """Return the extension, the parts of the extension that Go handles, and Go's objection or None.

    The extension is None if its structure is malformed.
    """
    extension = None
    try:
        extension = parse_extension(read_value(encoded))
        return extension, understand(extension), None
    except MalformedError as error:
        return extension, Understood({}), str(error)


def _unique_identifiers(fields: _Reading, objections: list[str]) -> None:
    for tag, words in (
        (_ISSUER_ID, "x509: malformed issuerUniqueID"),
        (_SUBJECT_ID, "x509: malformed subjectUniqueID"),
    ):
        try:
            if fields.has(tag):
                fields.next(tag, words)
        except MalformedError as error:
            objections.append(str(error))
            return


def _outer(outer: _Reading, inner: bytes, objections: list[str]) -> None:
    """Collect Go's objections to the outer algorithm identifier and the signature."""
    try:
        if outer.next(SEQUENCE, "x509: malformed algorithm identifier").content != inner:
            objections.append("x509: inner and outer signature algorithm identifiers don't match")
        bits(outer.next(BIT_STRING, "x509: malformed signature").content, "x509: malformed signature")
    except MalformedError as error:
        objections.append(str(error))


@lru_cache(maxsize=256)
def _known_signature(encoded: bytes) -> tuple[Signature, str | None]:
    """Return the signature algorithm of an AlgorithmIdentifier, and Go's objection or None (parseAI)."""
    try:
        return signature_of(parse_algorithm(read_value(encoded))), None
    except MalformedError as error:
        return Signature("", "unknown"), str(error)


def _signature(identifier: Value, objections: list[str]) -> Signature:
    encoded = identifier.encoded
    signature, why = _known_signature(encoded) if len(encoded) <= _KEPT else _known_signature.__wrapped__(encoded)
    if why:
        objections.append(why)
    return signature


class SignedPart(NamedTuple):
    """Signed part of a certificate, the inner and the outer signature algorithm, and the signature."""

    content: bytes
    algorithm: bytes
    outer_algorithm: bytes
    signature: bytes


def signed_part_of(der: bytes) -> SignedPart:
    """Return the signed part and the signature of a certificate. Raises MalformedError for malformed DER."""
    whole = read(der, 0, len(der), SEQUENCE, "x509: malformed certificate")
    outer = _Reading(der, whole.content_start, whole.end)
    signed = outer.next(SEQUENCE, "x509: malformed tbs certificate")
    fields = _Reading(der, signed.content_start, signed.end)
    if fields.has(_VERSION):
        fields.next(_VERSION, "x509: malformed version")
    fields.next(INTEGER, "x509: malformed serial number")
    inner = fields.next(SEQUENCE, "x509: malformed signature algorithm identifier")
    beside = outer.next(SEQUENCE, "x509: malformed algorithm identifier")
    signature = bits(outer.next(BIT_STRING, "x509: malformed signature").content, "x509: malformed signature")
    return SignedPart(signed.encoded, inner.encoded, beside.encoded, signature.right_aligned)


def extension_of(der: bytes, oid: bytes) -> bytes | None:
    """Return the content of the first extension with the object identifier `oid`, or None if `oid` is absent.

    Raises MalformedError if the certificate or an earlier extension is malformed.
    """
    whole = read(der, 0, len(der), SEQUENCE, "x509: malformed certificate")
    signed = read(der, whole.content_start, whole.end, SEQUENCE, "x509: malformed tbs certificate")
    explicit = next((value for value in signed.values() if value.tag == _EXTENSIONS), None)
    if explicit is None:
        return None
    several = read(der, explicit.content_start, explicit.end, SEQUENCE, "x509: malformed extensions")
    found = (parse_extension(value) for value in several.values())
    return next((extension.content for extension in found if extension.oid == oid), None)


def alternative_names_of(der: bytes) -> bytes | None:
    """Return the content of subjectAltName. Return None if the extension is absent or the certificate is malformed."""
    try:
        return extension_of(der, SUBJECT_ALTERNATIVE_NAME)
    except MalformedError:
        return None
