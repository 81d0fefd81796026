"""Which key may sign tokens after the present one."""

from __future__ import annotations

import pytest

from certmond.pki.rotation.service_account_key_validation import objections
from certmond.pki.x509.public_key import PublicKey


def key(algorithm: str, bits: int, sha256: str = "new") -> PublicKey:
    return PublicKey(algorithm, bits, sha256, b"")


PRESENT = (key("RSA", 2048, "old"),)


@pytest.mark.parametrize("new", [("RSA", 2048), ("RSA", 4096), ("ECDSA", 256), ("ECDSA", 384), ("ECDSA", 521)])
def test_what_kubernetes_signs_with_may_follow(new: tuple[str, int]) -> None:
    """RSA of 2048 bits or more, and ECDSA on P-256, P-384 and P-521 (pkg/serviceaccount/jwt.go)."""
    assert list(objections(key(*new), PRESENT, "/new.key")) == []


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (("RSA", 2047), "2047 bits"),
        (("ECDSA", 224), "cannot sign tokens with"),
        (("ECDSA", 385), "cannot sign tokens with"),
        (("Ed25519", 256), "cannot sign tokens with"),
    ],
)
def test_what_it_does_not_sign_with_may_not(new: tuple[str, int], words: str) -> None:
    """The sentence names the file."""
    (said,) = objections(key(*new), PRESENT, "/new.key")
    assert words in said
    assert "/new.key" in said
