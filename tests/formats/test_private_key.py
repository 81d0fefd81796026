"""Foreign private keys: an unusable one gives one sentence, which never quotes the key."""

from __future__ import annotations

import pytest

from certmond.errors import KeyUnusableError
from certmond.formats.private_key import load_key
from tests.builders import integer, oid, pem_block, tlv

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
