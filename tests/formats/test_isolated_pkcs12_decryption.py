"""PKCS#12 files with an encrypted part: opened in a separate process, for at most a second."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat, pkcs12

from certmond.formats.isolated_pkcs12_decryption import decode_isolated
from certmond.pki.findings import Reason
from certmond.pki.x509.pkcs12_cost_check import check_iterations
from certmond.pki.x509.public_key import public_key_of
from tests.builders import integer, make_ca, oid, tlv

CA = make_ca()
UNOPENED = "/a.p12 is a PKCS#12 file, and certmond cannot run the process that opens it"
DATA, ENCRYPTED = oid("1.2.840.113549.1.7.1"), oid("1.2.840.113549.1.7.6")


def derivation(iterations: int) -> bytes:
    prf = tlv(0x30, oid("1.2.840.113549.2.9"), tlv(0x05))
    function = tlv(0x30, oid("1.2.840.113549.1.5.12"), tlv(0x30, tlv(0x04, b"saltsalt"), integer(iterations), prf))
    cipher = tlv(0x30, oid("2.16.840.1.101.3.4.1.42"), tlv(0x04, b"\1" * 16))
    return tlv(0x30, oid("1.2.840.113549.1.5.13"), tlv(0x30, function, cipher))


def concealing(iterations: int, password: bytes) -> bytes:
    """A file whose encrypted part has a key that asks for so many iterations."""
    bag = oid("1.2.840.113549.1.12.10.1.2") + tlv(0xA0, tlv(0x30, derivation(iterations), tlv(0x04, b"\1" * 32)))
    pad = padding.PKCS7(128).padder()
    plain = pad.update(tlv(0x30, tlv(0x30, bag))) + pad.finalize()
    key = PBKDF2HMAC(hashes.SHA256(), 32, b"saltsalt", 1).derive(password)
    cipher = Cipher(algorithms.AES(key), modes.CBC(b"\1" * 16)).encryptor()
    content = tlv(0x30, DATA, derivation(1), tlv(0x80, cipher.update(plain) + cipher.finalize()))
    safes = tlv(0x30, tlv(0x30, ENCRYPTED, tlv(0xA0, tlv(0x30, integer(0), content))))
    return tlv(0x30, integer(3), tlv(0x30, DATA, tlv(0xA0, tlv(0x04, safes))))


@pytest.mark.long
@pytest.mark.parametrize("password", [b"secret", None])
def test_iterations_in_an_encrypted_part_take_at_most_a_second(password: bytes | None) -> None:
    """Their number is not visible before, and the file is malformed. On a busy host, the process can reach the limit of
    elapsed time before.
    """
    data = concealing((1 << 31) - 1, password or b"")
    assert check_iterations(data)
    (fault,) = decode_isolated(data, "/a.p12", password).faults
    assert (fault.reason, fault.detail) in {
        (Reason.MALFORMED, "/a.p12 is a PKCS#12 file that takes more than 1 second of processor time to open"),
        (Reason.UNREADABLE, f"{UNOPENED} (no result after 10 seconds)"),
    }


@pytest.mark.long
@pytest.mark.parametrize("algorithm", [*pkcs12.PBES])
def test_a_file_is_opened_with_its_password(algorithm: pkcs12.PBES) -> None:
    """Its certificates and the public half of its key are there; with another password, or none, it is unreadable."""
    form = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(1000).key_cert_algorithm(algorithm)
    other = make_ca("other")
    data = pkcs12.serialize_key_and_certificates(b"a", CA.key, CA.cert, [other.cert], form.build(b"secret"))
    found = decode_isolated(data, "/a.p12", b"secret")
    assert (found.certificates, found.key) == ((CA.facts, other.facts), public_key_of(CA.key))
    for password in (b"another", None):
        (fault,) = decode_isolated(data, "/a.p12", password).faults
        assert fault.reason is Reason.UNREADABLE


def test_a_file_without_a_key_has_none() -> None:
    """Be it encrypted or not."""
    form = PrivateFormat.PKCS12.encryption_builder().build(b"secret")
    for protection in (NoEncryption(), form):
        data = pkcs12.serialize_key_and_certificates(b"a", None, CA.cert, None, protection)
        assert decode_isolated(data, "/a.p12", b"secret").key is None


def test_a_failed_start_of_the_process_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan continues. The fault is no fact about the file, and contains the command that opens the file again."""
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    (fault,) = decode_isolated(concealing(1, b""), "/a.p12").faults
    assert (fault.reason, fault.detail) == (Reason.UNREADABLE, f"{UNOPENED} (No such file or directory)")
    assert fault.remedy
    assert fault.remedy.endswith("systemctl reload certmond")


@pytest.mark.parametrize("killer", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_is_a_finding(monkeypatch: pytest.MonkeyPatch, killer: signal.Signals) -> None:
    """The kernel can kill the process because of a lack of memory, which is no fact about the file either."""
    program = f"import os; os.kill(os.getpid(), {killer.value})"
    monkeypatch.setattr("certmond.formats.isolated_pkcs12_decryption._PROGRAM", program)
    (fault,) = decode_isolated(concealing(1, b""), "/a.p12").faults
    assert (fault.reason, fault.detail) == (Reason.UNREADABLE, f"{UNOPENED} (killed by {killer.name})")


def test_a_lack_of_descriptors_is_a_finding() -> None:
    """However many descriptors are left, the scan continues."""
    data, details, taken = concealing(1, b""), set[str](), list[int]()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with suppress(OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(8):
            details |= {fault.detail for fault in decode_isolated(data, "/a.p12").faults}
            os.close(taken.pop())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in taken:
            os.close(each)
    assert f"{UNOPENED} (Too many open files)" in details
