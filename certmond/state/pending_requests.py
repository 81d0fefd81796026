"""Requests for which a signer has not issued the certificate yet, with their keys.

This module reads and writes `<state directory>/pending/`. For each request, this directory contains the key, the
request, and the SHA-256 of the certificate to replace.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from certmond.errors import KeyUnusableError, MalformedError
from certmond.formats.private_key import PrivateKey, key_pem, load_key
from certmond.pki.planning.steps import Identity
from certmond.pki.x509.certificate import load_request
from certmond.transaction.dirfd import Place, blaming, digest, opened
from certmond.transaction.state_directory import opened_state, read_state, understood, versioned
from certmond.transaction.temp_file import make_directory, new_file, remove

_DIGEST = re.compile(rb"[0-9a-f]{64}")
_Found = tuple[str | None, PrivateKey | None, bytes | None]


class Pending:
    """The pending requests, by name and path of the certificate.

    The caller of a method that writes must hold the lock of all writers.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._directory = state_dir / "pending"

    def keep(self, identity: Identity, key: PrivateKey, csr: bytes, replaces: str) -> None:
        """Store a key, its request, and the SHA-256 of the certificate to replace.

        Raises WriteError if the write fails, and StateError if an untrusted user can change the directory.
        """
        with blaming(str(self._directory)):
            make_directory(self._state_dir)
            make_directory(self._directory)
            with opened_state(self._directory) as directory:
                record = json.dumps(versioned(replaces)).encode()
                # Write the request last: if it exists, the key exists too.
                for suffix, content in ((".key", key_pem(key)), (".for", record), (".csr", csr)):
                    name = _stem(identity) + suffix
                    draft = Place(directory, f".{name}")
                    remove(draft)
                    with new_file(draft, content):
                        pass
                    os.rename(draft.name, name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)

    def resume(self, identity: Identity, cookie: str | None) -> _Found:
        """Return the cookie, the key and the request to repeat.

        All three are None if `cookie` is None, or if a file is missing or unusable. Raises StateError if an untrusted
        user can read the key or change a file.
        """
        if cookie is None:
            return None, None, None
        try:
            with opened_state(self._directory) as directory:
                key = read_state(directory, self._directory / f"{_stem(identity)}.key", secret=True)
                request = read_state(directory, self._directory / f"{_stem(identity)}.csr")
            csr = load_request(request).public_bytes(
                Encoding.PEM
            )  # the request as sent, without other content of the file
            return cookie, load_key(key, str(self._directory)), csr
        except (OSError, MalformedError, KeyUnusableError):
            return None, None, None

    def replaces(self, identity: Identity) -> str | None:
        """Return the SHA-256 of the certificate to replace, or None if the record is missing or damaged.

        Raises StateError if an untrusted user can change the record, or if a later version of certmond has written it.
        """
        path = self._directory / f"{_stem(identity)}.for"
        try:
            with opened_state(self._directory) as directory:
                content = read_state(directory, path)
            # Version 1 also permits the plain digest, which is not JSON.
            found = (
                content.decode("ascii") if _DIGEST.fullmatch(content) else understood(json.loads(content), str(path))
            )
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, str) else None

    def drop(self, identity: Identity) -> None:
        """Remove the pending request of a certificate, if it exists."""
        self._remove(lambda stem: stem == _stem(identity))

    def tidy(self, waiting: Iterable[Identity]) -> None:
        """Remove all requests except those of `waiting`, and the temporary files of killed processes."""
        stems = {_stem(identity) for identity in waiting}
        self._remove(lambda stem: stem not in stems)

    def _remove(self, is_unwanted: Callable[[str], bool]) -> None:
        with suppress(OSError), opened(self._directory) as directory:
            for name in sorted(os.listdir(directory)):  # drafts first, then the request, then the key
                if is_unwanted(name.partition(".")[0]):
                    remove(Place(directory, name))


def _stem(identity: Identity) -> str:
    return digest(os.fsencode("\0".join(identity)))[:32]
