"""Foreign private keys: an unusable one gives one sentence, which never quotes the key."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, pkcs12

from certmond.errors import KeyUnusableError
from certmond.formats.private_key import load_key, make_key
from certmond.pki.catalog.entries import KeyAlgorithm
from tests.builders import integer, oid, pem_block, tlv
from tests.conftest import real_part

LARGE = tlv(0x30, integer(0), integer(1 << 20_000), *(integer(7),) * 7)
DERIVED = tlv(0x30, oid("1.2.840.113549.1.5.12"), tlv(0x30, tlv(0x04, b"saltsalt"), integer(1 << 31)))
SLOW = tlv(0x30, tlv(0x30, oid("1.2.840.113549.1.5.13"), tlv(0x30, DERIVED)), tlv(0x04, b"encrypted"))
SHORT = tlv(0x30, integer(0), tlv(0x30, oid("1.3.101.112")), tlv(0x04, tlv(0x04, b"\1" * 31)))


@pytest.mark.parametrize(
    ("label", "der", "said"),
    [
        ("RSA PRIVATE KEY", LARGE, "has an RSA modulus or exponent of 20,001 bits"),
        ("ENCRYPTED PRIVATE KEY", SLOW, "requires"),
        ("PRIVATE KEY", SHORT, "is an Ed25519 key of 31 bytes"),
    ],
)
@pytest.mark.parametrize("pem", [True, False])
def test_a_key_that_exceeds_a_limit_is_refused_before_it_is_opened(
    label: str, der: bytes, said: str, pem: bool
) -> None:
    """With a passphrase, too, and the message has the number."""
    with pytest.raises(KeyUnusableError, match=f"^the private key in /a.key {said}"):
        load_key(pem_block(label, der) if pem else der, "/a.key", b"passphrase")


@pytest.mark.parametrize("form", ["encrypted", "pkcs12"])
@pytest.mark.parametrize("name", ["ca.key", "new ca.key"])
def test_the_printed_command_decrypts_the_key(tmp_path: Path, form: str, name: str) -> None:
    """For an encrypted key and for a PKCS#12 file, the message contains an openssl command that writes a usable key."""
    openssl, file = real_part("openssl"), tmp_path / name
    key, cipher = make_key(KeyAlgorithm.ECDSA_P256), BestAvailableEncryption(b"secret")
    if form == "pkcs12":
        file.write_bytes(pkcs12.serialize_key_and_certificates(b"ca", key, None, None, cipher))
    else:
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher))
    with pytest.raises(KeyUnusableError, match="PKCS#12" if form == "pkcs12" else "is encrypted") as raised:
        load_key(file.read_bytes(), str(file))
    command = shlex.split(str(raised.value).rpartition(": ")[2])
    assert command[0] == "openssl"
    subprocess.run([openssl, *command[1:], "-passin", "pass:secret"], check=True, capture_output=True)
    written = Path(command[command.index("-out") + 1])
    assert load_key(written.read_bytes(), str(written)).public_key() == key.public_key()


def test_a_key_without_a_file_has_a_placeholder() -> None:
    """If the text names no file, the command contains FILE."""
    cipher = BestAvailableEncryption(b"secret")
    data = make_key(KeyAlgorithm.ECDSA_P256).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher)
    with pytest.raises(KeyUnusableError, match=r"openssl pkey -in FILE -out FILE\.new$"):
        load_key(data, "the source of a copy")
