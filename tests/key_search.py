"""Search for the private key of a CA in files, without the key: only the public key of the CA is known.

A key in a PKCS#11 token cannot be read, so a test cannot compare files with the key. Instead, each 32 bytes of a file
are taken as the private number of a P-256 key.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SIZE = 32  # bytes of a private number


def files_with_key(files: Iterable[Path], public: ec.EllipticCurvePublicKey) -> list[Path]:
    """Return the files that contain the private number of this P-256 key at any offset, raw or in base64."""
    wanted = public.public_numbers().x
    return [path for path in files if any(_contains(content, wanted) for content in _decoded(path.read_bytes()))]


def _decoded(content: bytes, depth: int = 2) -> Iterator[bytes]:
    """Yield the content, and the content of each part in base64, such as PEM, or PEM in a kubeconfig."""
    yield content
    for part in re.findall(rb"[A-Za-z0-9+/\s]{40,}", content) if depth else ():
        text = b"".join(part.split())
        yield from _decoded(base64.b64decode(text[: len(text) // 4 * 4]), depth - 1)


def _contains(content: bytes, wanted: int) -> bool:
    return any(_x(content[at : at + _SIZE]) == wanted for at in range(len(content) - _SIZE + 1))


@cache
def _x(text: bytes) -> int | None:
    """Return the x coordinate of the public key of a private number, or None if the number is out of range."""
    number = int.from_bytes(text)
    if not 0 < number < _ORDER:
        return None
    return ec.derive_private_key(number, ec.SECP256R1()).public_key().public_numbers().x
