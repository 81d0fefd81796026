"""The name of a public key in messages, and the comparison of public keys."""

from __future__ import annotations

import hashlib

from certmond.pki.x509.public_key import PublicKey


def test_a_message_has_the_start_of_the_digest() -> None:
    """The algorithm and sixteen hexadecimal digits of the SHA-256 identify the key."""
    start = hashlib.sha256(b"one").hexdigest()[:16]
    assert PublicKey("RSA", 2048, b"one").called == f"the RSA-2048 key with the SHA-256 {start}…"
    assert PublicKey("Ed25519", 256, b"one").called == f"the Ed25519 key with the SHA-256 {start}…"


def test_the_encoding_identifies_the_key() -> None:
    """Keys with equal algorithm, size and SubjectPublicKeyInfo are equal. The representation has only the SHA-256."""
    key = PublicKey("RSA", 2048, b"encoding")
    assert repr(key) == f"PublicKey(RSA-2048, sha256={hashlib.sha256(b'encoding').hexdigest()})"
    assert key == PublicKey("RSA", 2048, b"encoding")
    assert key != PublicKey("RSA", 2048, b"another")
    assert key != PublicKey("RSASSA-PSS", 2048, b"encoding")
    assert key != PublicKey("RSA", 0, b"encoding")
