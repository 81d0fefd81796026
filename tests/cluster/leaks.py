"""Detects a private key in sent bytes: as PEM, as its number, in hexadecimal or base64, in one piece or wrapped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator

from cryptography.hazmat.primitives.asymmetric import ec

from tests.builders import Issued

_TELLING = 8
"""Fewer characters of base64 than that are found by chance in any certificate or signature."""


def leaks(sent: bytes, *holders: Issued) -> list[str]:
    """Return the parts of the keys of `holders`, or of any PEM key, in `sent`; empty without a leak."""
    flat = sent
    for gap in (b"\\n", b"\\r", b"\n", b"\r", b" "):
        flat = flat.replace(gap, b"")
    found = [f"{form!r}" for form in _forms(b"PRIVATE KEY") if form in sent or form in flat]
    for holder in holders:
        assert isinstance(holder.key, ec.EllipticCurvePrivateKey)
        secret = holder.key.private_numbers().private_value.to_bytes(holder.key.key_size // 8)
        if any(form in sent or form in flat for form in _forms(secret)):
            found.append(f"the key of {holder.facts.subject}")
    return found


def _forms(secret: bytes) -> Iterator[bytes]:
    yield secret
    yield secret.hex().encode()
    for once in _in_base64(secret):
        yield once
        for twice in _in_base64(once):  # as PEM that a kubeconfig or a Secret embeds
            if len(twice) >= _TELLING:
                yield twice


def _in_base64(secret: bytes) -> Iterable[bytes]:
    """The middle of its base64, for each of the three places where it may begin in a group of three."""
    for offset in range(3):
        text = base64.b64encode(b"\0" * offset + secret)
        yield text[4 if offset else 0 : -4]
