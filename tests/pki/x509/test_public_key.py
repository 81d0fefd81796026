"""The name of a public key in messages."""

from __future__ import annotations

from certmond.pki.x509.public_key import PublicKey


def test_a_message_has_the_start_of_the_digest() -> None:
    """The algorithm and sixteen hexadecimal digits identify the key."""
    key = PublicKey("RSA", 2048, "0123456789abcdef" * 4, b"")
    assert key.called == "the RSA-2048 key with the SHA-256 0123456789abcdef…"
    assert PublicKey("Ed25519", 256, "ab" * 32, b"").called == "the Ed25519 key with the SHA-256 abababababababab…"


def test_the_representation_omits_the_encoding() -> None:
    """The representation of a key contains the algorithm, the size and the digest. The digest identifies the key."""
    key = PublicKey("RSA", 2048, "ab" * 32, b"encoding")
    assert repr(key) == f"PublicKey(algorithm='RSA', bits=2048, sha256='{'ab' * 32}')"
    assert key == PublicKey("RSA", 2048, "ab" * 32, b"")
    assert key != PublicKey("RSA", 2048, "cd" * 32, b"encoding")
