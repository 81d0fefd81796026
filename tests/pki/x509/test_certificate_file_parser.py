"""Parsing the bytes of a file, as tools and accidents leave them: no exception, no hidden block, no leaked key."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.errors import LimitError
from certmond.pki.findings import Reason
from certmond.pki.x509 import certificate_file_parser, pem
from certmond.pki.x509.certificate_file_parser import (
    MAX_BLOCKS,
    MAX_PRIVATE_KEYS,
    Document,
    check_private_keys,
    decode,
    opened_here,
)
from certmond.pki.x509.public_key import public_key_of
from tests.builders import Issued, bundle, integer, make_ca, make_leaf, make_server, oid, pem_block, tlv
from tests.conftest import real_part

CA, OTHER = make_ca(), make_ca("other")
LEAF = make_leaf(CA, key="rsa")
PATH = "/etc/kubernetes/pki/a.crt"


def read(data: bytes, password: bytes | None = None) -> Document:
    return decode(data, PATH, password, opened_here)


def holds(document: Document, *certificates: Issued) -> bool:
    return document.certificates == tuple(certificate.facts for certificate in certificates)


def reasons(document: Document) -> list[Reason]:
    return [fault.reason for fault in document.faults]


def details(document: Document) -> str:
    return "\n".join(fault.detail for fault in document.faults)


# --- PEM as it should be ----------------------------------------------------------------------------------------------


def test_one_certificate() -> None:
    """A file with one certificate gives it, and nothing else."""
    assert read(CA.pem) == Document(certificates=(CA.facts,))


def test_all_files_share_the_object_of_a_ca() -> None:
    """Most files of a node contain the same few CAs. A leaf is usually in one file, so no index refers to it."""
    first, middle = make_ca(version=1), make_ca("middle")
    below = make_leaf(CA, "middle", is_ca=True)
    here, there = read(bundle(LEAF, CA, first, middle, below)), read(bundle(LEAF, CA, first, middle, below))
    assert here.certificates == there.certificates
    same = [one is other for one, other in zip(here.certificates, there.certificates, strict=True)]
    assert same == [False, True, True, True, True]


def test_many_certificates_keep_their_order() -> None:
    """The caller judges which one is first."""
    assert holds(read(bundle(LEAF, CA, OTHER)), LEAF, CA, OTHER)
    assert holds(read(bundle(OTHER, CA, LEAF)), OTHER, CA, LEAF)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_key_may_stand_before_between_or_after_certificates(form: PrivateFormat) -> None:
    """The kubelet's PEM has the certificate first, HAProxy's bundle may have the key first."""
    key = LEAF.key_as(form)
    for data in (key + LEAF.pem + CA.pem, LEAF.pem + key + CA.pem, LEAF.pem + CA.pem + key):
        document = read(data)
        assert holds(document, LEAF, CA)
        assert document.key == LEAF.facts.key
        assert not document.faults


@pytest.mark.parametrize("key", ["rsa", "ec", "ec-p384", "ed25519", "ed448", "dsa"])
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_of_a_private_key_the_public_half_is_learnt(key: str, encoding: Encoding) -> None:
    """Alone in its file it is a key file, in PEM and of a kind that Go loads it is no fault."""
    issued = make_leaf(CA, key=key)
    document = read(issued.key_as(PrivateFormat.PKCS8, encoding=encoding))
    assert document.key == public_key_of(issued.key)
    assert document.only_keys
    loaded = encoding is Encoding.PEM and key not in {"ed448", "dsa"}
    assert set(reasons(document)) == (set() if loaded else {Reason.KEY_UNUSABLE})


def test_the_first_of_two_keys_counts() -> None:
    """Consumers also read no further."""
    assert read(LEAF.key_pem + CA.key_pem).key == LEAF.facts.key


def test_the_curve_that_openssl_writes_before_an_ec_key_is_no_news() -> None:
    """`openssl ecparam -genkey` writes EC PARAMETERS first."""
    parameters = pem_block("EC PARAMETERS", bytes.fromhex("06082a8648ce3d030107"))
    key = CA.key_as(PrivateFormat.TraditionalOpenSSL)
    assert b"EC PRIVATE KEY" in key
    assert read(parameters + key) == Document(key=CA.facts.key)
    assert holds(read(parameters + key + CA.pem), CA)


@pytest.mark.parametrize("label", ["DH PARAMETERS", "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST", "X509 CRL"])
def test_what_is_no_certificate_and_no_key_but_belongs_to_them_is_passed_over(label: str) -> None:
    """Requests, revocation lists and parameters are other people's business."""
    block = pem_block(label, b"whatever")
    assert read(CA.pem + block) == read(block + CA.pem) == read(CA.pem)
    assert read(b"  " + block + CA.pem) == read(CA.pem)


def test_a_public_key_alone() -> None:
    """`sa.pub` holds one."""
    document = read(LEAF.public_pem)
    assert document == Document(public_keys=(LEAF.facts.key,))
    assert document.only_keys
    assert not read(CA.pem + LEAF.public_pem).only_keys


@pytest.mark.parametrize("label", ["CERTIFICATE", "X509 CERTIFICATE"])
def test_the_old_label_of_certificates_is_known(label: str) -> None:
    """OpenSSL reads X509 CERTIFICATE to this day."""
    assert holds(read(pem_block(label, CA.der)), CA)


@pytest.mark.real("openssl")
def test_a_trusted_certificate_of_openssl_is_read_without_its_settings(tmp_path: Path) -> None:
    """`openssl x509 -trustout` writes its own settings behind the certificate, which are no trailing data. Kubernetes
    ignores a block with that label.
    """
    openssl = real_part("openssl")
    command = [openssl, "x509", "-trustout", "-addtrust", "clientAuth", "-setalias", "a"]
    trusted = subprocess.run(command, input=CA.pem, capture_output=True, check=True).stdout
    assert trusted.startswith(b"-----BEGIN TRUSTED CERTIFICATE-----")
    document = read(trusted)
    assert (document.certificates, reasons(document)) == ((CA.facts,), [Reason.MALFORMED])
    assert "the label is TRUSTED CERTIFICATE" in details(document)


@pytest.mark.real("openssl")
def test_the_text_of_openssl_around_blocks_is_ignored(tmp_path: Path) -> None:
    """`openssl x509 -text` and `openssl s_client -showcerts` explain their output."""
    openssl = real_part("openssl")
    text = subprocess.run([openssl, "x509", "-text"], input=CA.pem, capture_output=True, check=True).stdout
    assert b"Signature Algorithm" in text
    assert read(text) == Document(certificates=(CA.facts,))
    assert holds(read(text + b"\nSubject: CN = other\n" + OTHER.pem), CA, OTHER)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(CA.pem.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(CA.pem.rstrip(), id="no newline at the end"),
        pytest.param(b"\n\n" + CA.pem + b"\n \t\n\x00", id="white space and zero bytes around"),
        pytest.param(pem_block("CERTIFICATE", CA.der, width=100_000), id="one long line"),
        pytest.param(pem_block("CERTIFICATE", CA.der, width=1), id="a line for each character"),
        pytest.param(CA.pem.replace(b"-----\nM", b"-----\n\n M"), id="blanks and empty lines inside"),
        pytest.param(CA.pem.replace(b"E-----\n", b"E----- \t\n"), id="blanks at the ends of lines"),
        pytest.param(b"\xef\xbb\xbf\n" + CA.pem, id="a byte order mark on a separate line"),
    ],
)
def test_harmless_variations_of_pem(data: bytes) -> None:
    """A file that Go parses without an error has no fault."""
    assert read(data) == Document(certificates=(CA.facts,))


# --- PEM that Kubernetes does not see ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "numbers"),
    [
        pytest.param(b"\xef\xbb\xbf" + CA.pem + OTHER.pem, [1], id="byte order mark"),
        pytest.param(CA.pem.rstrip() + OTHER.pem, [1, 2], id="joined without a line break"),
        pytest.param(re.sub(rb"(?m)^", b"  ", CA.pem + OTHER.pem).rstrip(b" "), [1, 2], id="indented"),
        pytest.param((CA.pem + OTHER.pem).replace(b"\n", b"\r"), [1, 2], id="line ends of an old Macintosh"),
        pytest.param(CA.pem.rstrip() + b" # comment\n" + OTHER.pem, [1], id="a comment behind END"),
        pytest.param(CA.pem.replace(b"\n-----END", b"-----END") + OTHER.pem, [1], id="END on the last line of base64"),
        pytest.param(CA.pem.replace(b"-----\nM", b"-----\nA: b\n\nM") + OTHER.pem, [1], id="headers"),
        pytest.param(CA.pem.replace(b"-----\nM", b"-----\r\nA: b\r\n\r\nM") + OTHER.pem, [1], id="headers, CRLF"),
    ],
)
def test_a_block_that_go_skips_is_parsed_and_is_a_fault(data: bytes, numbers: list[int]) -> None:
    """Its dates still matter, but Kubernetes does not see it, so the file is malformed."""
    document = read(data)
    assert holds(document, CA, OTHER)
    assert reasons(document) == [Reason.MALFORMED] * len(numbers)
    for number, fault in zip(numbers, document.faults, strict=True):
        assert f"{PATH}, PEM block {number}:" in fault.detail
        assert "so Kubernetes ignores the block" in fault.detail


def test_a_key_that_go_passes_over_is_a_fault_too() -> None:
    """A pair of certificate and key, joined without a line break, stops its component."""
    document = read(LEAF.pem.rstrip() + LEAF.key_pem)
    assert (document.key, len(document.faults)) == (LEAF.facts.key, 2)


@pytest.mark.parametrize("label", ["TSS2", "OPENSSH"])
def test_a_key_in_a_form_of_another_program_is_not_read(label: str) -> None:
    """An example is one that only a TPM can use: it is no damage, whatever its content. A key in Go's forms is read
    below any label, as in Go.
    """
    document = read(pem_block(f"{label} PRIVATE KEY", b"\x30\x03\x02\x01\x01"))
    assert (document.key, reasons(document)) == (None, [Reason.UNREADABLE])
    key = LEAF.key_as(PrivateFormat.PKCS8, encoding=Encoding.DER)
    assert read(pem_block(f"{label} PRIVATE KEY", key)).key == LEAF.facts.key
    assert reasons(read(pem_block("EC PRIVATE KEY", b"\x30\x03\x02\x01\x01"))) == [Reason.MALFORMED]


# --- broken PEM -------------------------------------------------------------------------------------------------------

JUNK = pem_block("CERTIFICATE", b"0\x03\x02\x01\x01")
BROKEN = {
    "no certificate inside": (JUNK, "not a certificate"),
    "not base64": (CA.pem.replace(b"M", b"*", 1), "not base64"),
    "a base64 character too few": (CA.pem.replace(b"\nM", b"\n", 1), "not base64"),
    "cut off before its end": (CA.pem[:200] + b"\n", "cut off"),
    "another END than BEGIN": (CA.pem.replace(b"END CERT", b"END X509 CERT"), "cut off"),
    "nothing between BEGIN and END": (pem_block("CERTIFICATE", b""), "not a certificate"),
    "an unknown label": (pem_block("PKCS7", CA.der), "label that is not a label of a certificate or of a key"),
    "a certificate labelled as a key": (pem_block("PRIVATE KEY", CA.der), "not a usable private key"),
    "a certificate labelled as a public key": (pem_block("PUBLIC KEY", CA.der), "not a usable public key"),
    "a key labelled as a certificate": (
        pem_block("CERTIFICATE", LEAF.key_as(PrivateFormat.PKCS8, encoding=Encoding.DER)),
        "not a certificate",
    ),
}


@pytest.mark.parametrize(("block", "said"), BROKEN.values(), ids=BROKEN)
def test_a_bad_block_hides_no_other_and_is_named_by_its_number(block: bytes, said: str) -> None:
    """The valid certificates before and after it are there, and one fault has the block and the reason."""
    document = read(CA.pem + block + OTHER.pem + LEAF.key_pem)
    assert holds(document, CA, OTHER)
    assert document.key == LEAF.facts.key
    assert reasons(document) == [Reason.MALFORMED]
    assert f"{PATH}, PEM block 2: " in details(document)
    assert said in details(document)


SHADOW = b"root:$6$Zm9v$c2VjcmV0:19000:0:99999:7:::\n"


@pytest.mark.parametrize(
    "data",
    [
        SHADOW,
        b"0" + SHADOW,
        b"-----BEGIN SECRET LABEL-----\n" + SHADOW + b"-----END SECRET LABEL-----\n",
        b"-----BEGIN CERTIFICATE-----\n" + SHADOW + b"-----END CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\n" + SHADOW + b"-----END PRIVATE KEY-----\n",
        b"-----BEGIN PUBLIC KEY-----\n" + SHADOW + b"-----END PUBLIC KEY-----\n",
        CA.pem + SHADOW,
    ],
)
def test_no_fault_quotes_the_content_of_the_file(data: bytes) -> None:
    """The rule covers the text, labels, and parser errors about the first bytes."""
    shown = details(read(data))
    assert shown
    assert not [word for word in ("root", "SECRET", "Zm9v", "c2Vj", "114", "0x72", "Tag", "value:") if word in shown]


def test_every_bad_block_is_reported() -> None:
    """All faults of a file are reported at once."""
    document = read(JUNK + CA.pem + JUNK)
    assert holds(document, CA)
    assert re.findall(r"block (\d)", details(document)) == ["1", "3"]


def test_a_truncated_last_block_is_one_fault() -> None:
    """A full disk leaves such a file."""
    document = read(CA.pem + OTHER.pem[:300])
    assert holds(document, CA)
    assert reasons(document) == [Reason.MALFORMED]
    assert "block 2: is cut off" in details(document)


def test_text_after_the_last_block_is_trailing_data() -> None:
    """Text before and between is explanation. At the end it may be the rest of a block without its BEGIN line."""
    document = read(b"a comment\n" + CA.pem + b"between\n" + OTHER.pem + b"rest\n")
    assert holds(document, CA, OTHER)
    assert reasons(document) == [Reason.TRAILING_DATA]
    assert f"{PATH} contains 4 bytes of text after the last PEM block" in details(document)


def test_der_after_the_certificate_in_its_block_makes_go_refuse_it() -> None:
    """Go's TLS refuses such a block. The certificate is parsed for its dates."""
    document = read(pem_block("CERTIFICATE", CA.der + b"abc"))
    assert holds(document, CA)
    assert reasons(document) == [Reason.MALFORMED]
    assert f"{PATH}, PEM block 1: the block contains 3 bytes after the certificate" in details(document)


def test_more_blocks_than_any_component_has_use_for_are_not_read() -> None:
    """Six hundred certificates give the first 512 and one fault, quickly."""
    document = read(CA.pem * (MAX_BLOCKS + 88))
    assert len(document.certificates) == MAX_BLOCKS == 512
    assert reasons(document) == [Reason.MALFORMED]
    assert "more than 512" in details(document)
    assert read(CA.pem * MAX_BLOCKS) == Document(certificates=(CA.facts,) * MAX_BLOCKS)


# --- DER --------------------------------------------------------------------------------------------------------------


def test_a_certificate_in_der() -> None:
    """A DER file holds one certificate, exactly."""
    assert read(CA.der) == Document(certificates=(CA.facts,))


@pytest.mark.parametrize("rest", [b"\n", b"\x00", OTHER.der, b"-----BEGIN"])
def test_bytes_after_a_certificate_in_der_are_trailing_data(rest: bytes) -> None:
    """The certificate is read, and the fault has the number of bytes behind it."""
    document = read(CA.der + rest)
    assert holds(document, CA)
    assert reasons(document) == [Reason.TRAILING_DATA]
    assert f"{PATH} contains {len(rest)} bytes after the DER certificate" in details(document)


@pytest.mark.parametrize(
    "data",
    [
        b"junk",
        b"\x30",
        b"\x30\x03\x02\x01\x01",
        b"\x30\x03\x02\x01\x01junk",
        b"\x30\x80junk",
        b"\x30\xff" + b"\xff" * 200,
        CA.der[:-1],
        CA.pem.replace(b"-----", b"----"),
        "\ufeff".encode("utf-16") + CA.pem.decode().encode("utf-16-le"),
    ],
)
def test_what_is_neither_pem_nor_der_nor_pkcs12_is_malformed(data: bytes) -> None:
    """The file has one fault with that reason."""
    document = read(data)
    assert document == Document(faults=document.faults)
    assert reasons(document) == [Reason.MALFORMED]
    assert f"{PATH} is neither PEM nor DER nor PKCS#12" in details(document)


def test_the_message_about_a_file_that_is_not_der_quotes_no_byte() -> None:
    """The file might contain a key."""
    assert details(read(b"\x30")) == f"{PATH} is neither PEM nor DER nor PKCS#12"
    assert details(read(b"\x30\x03\x02\x01\x01")).startswith(f"{PATH} is neither PEM nor DER nor PKCS#12: ")


@pytest.mark.parametrize("data", [b"", b"\n", b" \t\r\n", bytes(4096)])
def test_an_empty_file_is_malformed_and_called_empty(data: bytes) -> None:
    """White space and zero bytes, as a crash leaves them after a file grew, are empty too."""
    document = read(data)
    assert reasons(document) == [Reason.MALFORMED]
    assert details(document) == f"{PATH} is empty"


# --- passwords --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "encoding"),
    [
        (PrivateFormat.PKCS8, Encoding.PEM),
        (PrivateFormat.TraditionalOpenSSL, Encoding.PEM),
        (PrivateFormat.PKCS8, Encoding.DER),
    ],
)
def test_an_encrypted_key_counts_as_a_key(form: PrivateFormat, encoding: Encoding) -> None:
    """It is a key file whose public half is unknown, which is no fault."""
    data = LEAF.key_as(form, b"secret", encoding)
    document = read(data)
    assert document == Document(encrypted_key=True)
    assert document.only_keys
    if encoding is Encoding.PEM:
        assert read(LEAF.pem + data) == Document(certificates=(LEAF.facts,), encrypted_key=True)


def test_a_plain_key_beside_an_encrypted_one_counts() -> None:
    """The order does not matter."""
    locked = LEAF.key_as(PrivateFormat.PKCS8, b"secret")
    assert read(locked + CA.key_pem) == read(CA.key_pem + locked) == Document(key=CA.facts.key, encrypted_key=True)


def pkcs12_file(lock: KeySerializationEncryption, *more: Issued, leaf: Issued = LEAF) -> bytes:
    key = leaf.key
    return pkcs12.serialize_key_and_certificates(b"a", key, leaf.cert, [issued.cert for issued in more], lock)


@pytest.mark.parametrize(
    ("lock", "password"),
    [(NoEncryption(), None), (NoEncryption(), b""), (BestAvailableEncryption(b"secret"), b"secret")],
)
def test_a_pkcs12_file_gives_its_certificates_and_the_public_half_of_its_key(
    lock: KeySerializationEncryption, password: bytes | None
) -> None:
    """The leaf is first, then the others, with no password, an empty one or the right one, as the file was made."""
    assert read(pkcs12_file(lock, CA), password) == Document(certificates=(LEAF.facts, CA.facts), key=LEAF.facts.key)


@pytest.mark.parametrize("password", [None, b"", b"wrong"])
def test_a_pkcs12_file_with_another_password_is_unreadable(password: bytes | None) -> None:
    """It is not malformed: most likely the password is wrong."""
    document = read(pkcs12_file(BestAvailableEncryption(b"secret")), password)
    assert document == Document(faults=document.faults)
    assert reasons(document) == [Reason.UNREADABLE]
    assert "password" in details(document)


@pytest.mark.real("openssl")
def test_a_pkcs12_file_of_openssl_with_an_empty_password_opens_without_one(tmp_path: Path) -> None:
    """`openssl pkcs12 -export -passout pass:` encrypts the file with an empty password, which differs from none."""
    openssl = real_part("openssl")
    (tmp_path / "pem").write_bytes(LEAF.pem + LEAF.key_pem)
    command = [openssl, "pkcs12", "-export", "-passout", "pass:", "-in", str(tmp_path / "pem")]
    sealed = subprocess.run(command, capture_output=True, check=True).stdout
    assert read(sealed) == Document(certificates=(LEAF.facts,), key=LEAF.facts.key)


def test_a_pkcs12_file_without_a_key() -> None:
    """A trust store has certificates only."""
    store = pkcs12.serialize_java_truststore([pkcs12.PKCS12Certificate(CA.cert, b"a")], BestAvailableEncryption(b"x"))
    document = read(store, b"x")
    assert holds(document, CA)
    assert document.key is None


def test_a_bad_certificate_in_a_pkcs12_file_hides_no_other() -> None:
    """The same promise as for PEM."""
    bad = make_server(CA, names=["URI:http://[::1"])
    document = read(pkcs12_file(NoEncryption(), bad, CA))
    assert holds(document, LEAF, bad, CA)
    assert document.key == LEAF.facts.key
    assert reasons(document) == [Reason.MALFORMED]
    assert f"{PATH}, certificate 2: " in details(document)


# --- hostile and arbitrary bytes --------------------------------------------------------------------------------------

MEBIBYTE = 1 << 20


class Counted(bytes):
    """Bytes that count each of their bytes that a parser searches or copies."""

    read = 0

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        if not isinstance(found, bytes):
            return found
        Counted.read += len(found)
        return Counted(found)

    def __contains__(self, part: Any) -> bool:
        return self.find(part) >= 0

    def find(self, part: Any, start: Any = 0, end: Any = None) -> int:
        at = super().find(part, start, end)
        Counted.read += (len(self) if end is None else end) - start if at < 0 else at + len(part) - start
        return at

    def strip(self, blank: Any = None) -> bytes:
        Counted.read += len(self)
        return Counted(super().strip(blank))

    def partition(self, part: Any) -> tuple[bytes, bytes, bytes]:
        Counted.read += len(self)
        before, found, after = super().partition(part)
        return Counted(before), found, Counted(after)

    def translate(self, table: Any, deleted: Any = b"") -> bytes:
        Counted.read += len(self)
        return Counted(super().translate(table, deleted))


class CountingPattern:
    """A pattern that counts the bytes from the start of a search to the end of its match, or of the text."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern

    def search(self, text: bytes, start: int = 0) -> re.Match[bytes] | None:
        return self._counted(self._pattern.search(text, start), text, start)

    def match(self, text: bytes, start: int = 0) -> re.Match[bytes] | None:
        return self._counted(self._pattern.match(text, start), text, start, fails_at=start + 1)

    def fullmatch(self, text: bytes) -> re.Match[bytes] | None:
        return self._counted(self._pattern.fullmatch(text), text, 0)

    def sub(self, other: bytes, text: bytes, count: int = 0) -> bytes:
        Counted.read += len(text)
        return Counted(self._pattern.sub(other, text, count=count))

    def _counted(
        self, found: re.Match[bytes] | None, text: bytes, start: int, fails_at: int | None = None
    ) -> re.Match[bytes] | None:
        end = found.end() if found else len(text) if fails_at is None else fails_at
        Counted.read += end - start
        return found


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the bytes that the parser of PEM reads in an object of the class `Counted`."""
    monkeypatch.setattr(Counted, "read", 0)
    for module in (pem, certificate_file_parser):
        for name, pattern in list(vars(module).items()):
            if isinstance(pattern, re.Pattern):
                monkeypatch.setattr(module, name, CountingPattern(pattern))


@pytest.mark.parametrize(
    "unit",
    [
        b"A",
        b"\x30\x84\xff\xff\xff\xff",
        b"-----BEGIN CERTIFICATE-----",
        b"-----BEGIN A-----\n",
        b"-----BEGIN CERTIFICATE-----\n:\n\n",
        b"-----BEGIN ",
        b"-----END CERTIFICATE-----\n",
        JUNK,
        b"\n-----BEGIN CERTIFICATE-----\n-----END ",
        Random(1).randbytes(4096),  # noqa: S311 - junk
    ],
    ids=range(10),
)
@pytest.mark.usefixtures("counting")
def test_a_mebibyte_of_junk_is_read_a_few_times(unit: bytes) -> None:
    """Whatever its repetitions, the parser reads each byte at most four times, and the faults are few."""
    data = Counted((unit * (MEBIBYTE // len(unit) + 1))[:MEBIBYTE])
    document = read(data)
    assert MEBIBYTE <= Counted.read <= 4 * MEBIBYTE
    assert not document.certificates
    assert 0 < len(document.faults) <= MAX_BLOCKS + 1


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([b"", b"\x30\x82", b"\x30\x80\x02\x01\x03\x30", b"-----BEGIN CERTIFICATE-----\n", LEAF.pem]),
    st.binary(max_size=200),
    st.sampled_from([b"", b"\n-----END CERTIFICATE-----\n", b"\n-----END PRIVATE KEY-----\n"]),
)
def test_any_bytes_give_a_document(head: bytes, data: bytes, tail: bytes) -> None:
    """There is never an exception. If nothing was found, a fault has the reason."""
    document = read(head + data + tail)
    assert isinstance(document, Document)
    assert document.faults or document.certificates or document.only_keys


SECRETS = {
    "PKCS#8": LEAF.key_pem,
    "PKCS#1": LEAF.key_as(PrivateFormat.TraditionalOpenSSL),
    "SEC 1": CA.key_as(PrivateFormat.TraditionalOpenSSL),
    "Ed25519": make_ca(key="ed25519").key_pem,
}


def leaks(document: Document, key_pem: bytes) -> bool:
    """Return whether a part of the key, as it is in the file, is in the result."""
    shown = repr(document) + str(document) + details(document)
    der = b"".join(line for line in key_pem.splitlines() if not line.startswith(b"-"))
    pieces = [der[place : place + 12].decode() for place in range(40, len(der) - 12)]
    return any(piece in shown for piece in pieces)


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda pem: pem,
        lambda pem: pem.replace(b"PRIVATE KEY", b"PUBLIC KEY"),
        lambda pem: re.sub(rb"[A-Z0-9]* ?PRIVATE KEY", b"CERTIFICATE", pem),
        lambda pem: re.sub(rb"[A-Z0-9]* ?PRIVATE KEY", b"SECRET", pem),
        lambda pem: pem[:-30],
        lambda pem: pem[: len(pem) // 2],
        lambda pem: pem.replace(b"A", b"*"),
        lambda pem: pem.replace(b"-----", b"---"),
        lambda pem: pem.replace(b"-----\nM", b"-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nM"),
        lambda pem: b"".join(pem.splitlines()[1:-1]),
    ],
    ids=range(10),
)
def test_no_part_of_a_private_key_is_in_the_result(secret: bytes, damage: object) -> None:
    """The rule covers the value, its repr, and the faults, however the key is damaged or mislabelled."""
    assert callable(damage)
    for data in (damage(secret), CA.pem + damage(secret), damage(secret) + CA.pem):
        assert not leaks(read(data), secret)


def test_a_key_in_der_does_not_leak_either() -> None:
    """Its bytes are first parsed as a certificate, and the parser's error is passed on."""
    for issued in (LEAF, CA):
        der = issued.key_as(PrivateFormat.PKCS8, encoding=Encoding.DER)
        for data in (der, der[:-1], der + b"\x00", der[: len(der) // 2]):
            shown = repr(read(data))
            assert not any(der[place : place + 6].hex() in shown for place in range(30, len(der) - 6))
            assert not any(repr(der[place : place + 6])[2:-1] in shown for place in range(30, len(der) - 6))


@pytest.mark.long
@settings(deadline=None, max_examples=400)
@given(
    secret=st.sampled_from(list(SECRETS.values())),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=3), st.integers(0, 40)), max_size=4),
)
def test_a_mutated_bundle_gives_a_document_without_a_key_in_it(
    secret: bytes, changes: list[tuple[int, bytes, int]]
) -> None:
    """With bytes changed, inserted and removed in a real bundle, there is never an exception, a leak, or an invented
    certificate.
    """
    data = LEAF.pem + secret + CA.pem
    for place, new, length in changes:
        start = place % (len(data) + 1)
        data = data[:start] + new + data[start + length :]
    document = read(data)
    assert not leaks(document, secret)
    assert len(document.certificates) <= 3
    assert document.faults or document.certificates or document.only_keys


def test_the_public_half_is_represented_by_its_fingerprint() -> None:
    """A stored key has an algorithm, a size and a SHA-256."""
    spki = LEAF.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = read(LEAF.key_pem).key
    assert key is not None
    assert spki.hex() not in repr(key)
    assert key.sha256 in repr(key)


@pytest.mark.parametrize("pem", [True, False])
def test_a_private_key_that_exceeds_a_limit_is_found_before_it_is_opened(pem: bool) -> None:
    """The rule covers PEM at any position, DER, and an encrypted key with too many iterations."""
    big = tlv(0x30, integer(0), integer(1 << 16_384), *(integer(7),) * 7)
    derived = tlv(0x30, oid("1.2.840.113549.1.5.12"), tlv(0x30, tlv(0x04, b"12345678"), integer(1 << 31)))
    algorithm = tlv(0x30, oid("1.2.840.113549.1.5.13"), tlv(0x30, derived))
    for der, said in ((big, "16,385 bits"), (tlv(0x30, algorithm, tlv(0x04, b"1234")), "iterations")):
        data = LEAF.pem + pem_block("PRIVATE KEY", der) if pem else der
        with pytest.raises(LimitError, match=said):
            check_private_keys(data)


@pytest.mark.parametrize("data", [LEAF.key_pem, LEAF.pem, b"\x30\x05", pem_block("PRIVATE KEY", b"junk"), b""])
def test_a_key_within_the_limits_is_left_to_the_library(data: bytes) -> None:
    """Other damage is not checked here."""
    check_private_keys(data)


def test_private_keys_beyond_a_useful_number_are_not_read() -> None:
    """The first of them counts, and a fault reports that there are more."""
    document = read(LEAF.key_pem * (MAX_PRIVATE_KEYS + 1) + CA.pem)
    assert document.key == public_key_of(LEAF.key)
    assert holds(document, CA)
    assert details(document) == f"{PATH} contains more than 16 private keys; certmond does not read the others"
    assert not read(LEAF.key_pem * MAX_PRIVATE_KEYS).faults
