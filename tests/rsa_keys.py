"""RSA keys that all processes of the test runs share, because a new key of 4096 bits takes a second.

`build/` keeps them between the runs. `make clean` removes them.
"""

from __future__ import annotations

import fcntl
import os
from functools import cache, partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

DIRECTORY = Path(__file__).parents[1] / "build"
COUNT = {2048: 16, 3072: 4, 4096: 8}
"""The number of keys of each size. A key of 1024 bits is quick to make, and few tests need another size."""

_END = b"-----END PRIVATE KEY-----\n"


@cache
def rsa_keys(size: int) -> list[rsa.RSAPrivateKey]:
    """Return the shared keys of this size. The first process that calls this function makes them.

    If the file cannot be written, for example because another user owns it, the process makes keys for itself.
    """
    try:
        DIRECTORY.mkdir(exist_ok=True)
        with open(DIRECTORY / f"rsa-{size}.pem", "ab+", opener=partial(os.open, mode=0o600)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            texts = [text + _END for text in file.read().split(_END)[:-1]]
            if len(texts) != COUNT[size]:
                file.truncate(0)  # a process that was killed wrote some of the keys
                file.writelines(texts := _new(size))
    except OSError:
        texts = _new(size)
    return [_loaded(text) for text in texts]


def _new(size: int) -> list[bytes]:
    keys = (rsa.generate_private_key(65537, size) for _ in range(COUNT[size]))
    return [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for key in keys]


def _loaded(text: bytes) -> rsa.RSAPrivateKey:
    key = load_pem_private_key(text, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key
