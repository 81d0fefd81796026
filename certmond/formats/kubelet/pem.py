"""Names and contents of the PEM files that the kubelet rotates.

The symlink …-current.pem points to the newest dated file (client-go, util/certificate/certificate_store.go).
"""

from __future__ import annotations

import posixpath
from collections.abc import Container
from datetime import datetime, timedelta

from certmond.errors import WriteError

_CURRENT = "-current.pem"


def dated(path: str, when: datetime) -> str:
    """Return the path of the file that the kubelet writes at `when` for the symlink `path`.

    As in the kubelet, the name contains the local time. Raises WriteError if `path` does not end with -current.pem.
    """
    name = posixpath.basename(path)
    if not name.endswith(_CURRENT):
        raise WriteError(
            f"{path} does not end in {_CURRENT}, as each certificate file that the kubelet rotates does; "
            "correct `path` in the entry"
        )
    return f"{path.removesuffix(_CURRENT)}-{when.astimezone():%Y-%m-%d-%H-%M-%S}.pem"


def successor(path: str, when: datetime, taken: Container[str]) -> str:
    """Return the path of the dated file for `when`, or for the first later second whose file name is not in `taken`.

    certmond never overwrites an older file, because a rollback needs this file. Raises WriteError if `path` does not
    end with -current.pem.
    """
    while posixpath.basename(found := dated(path, when)) in taken:
        when += timedelta(seconds=1)
    return found


def content(certificate_pem: bytes, key_pem: bytes) -> bytes:
    """Return the content of a PEM file: the certificate with its chain, followed by the key.

    The kubelet and HAProxy use this order.
    """
    return b"".join(part.rstrip() + b"\n" for part in (certificate_pem, key_pem))
