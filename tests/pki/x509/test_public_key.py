"""The name of a public key in messages."""

from __future__ import annotations

from certmond.pki.x509.public_key import PublicKey


def test_a_message_has_the_start_of_the_digest() -> None:
    """The algorithm and sixteen hexadecimal digits identify the key."""
    key = PublicKey("RSA", 2048, "0123456789abcdef" * 4, b"")
    assert key.called == "the RSA-2048 key with the SHA-256 0123456789abcdef…"
    assert PublicKey("Ed25519", 256, "ab" * 32, b"").called == "the Ed25519 key with the SHA-256 abababababababab…"
