"""The kubelet's rotating PEM: the name of the next dated file behind …-current.pem, and what such a file holds.

Owns what the kubelet agrees with us about: names and content (client-go, util/certificate/certificate_store.go). Never
touches a file.
"""

from __future__ import annotations

import posixpath
from collections.abc import Container
from datetime import datetime, timedelta

from certmond.errors import WriteError

_CURRENT = "-current.pem"


def dated(path: str, when: datetime) -> str:
    """The file that the kubelet would write at `when` behind the symlink `path`. As Go's time.Now() does, it names the
    local time.
    """
    name = posixpath.basename(path)
    if not name.endswith(_CURRENT):
        raise WriteError(f"{path} does not end in {_CURRENT}, as the kubelet's rotating PEM does; correct its entry")
    return f"{path.removesuffix(_CURRENT)}-{when.astimezone():%Y-%m-%d-%H-%M-%S}.pem"


def successor(path: str, when: datetime, taken: Container[str]) -> str:
    """The dated file of `when`, or of the first second after it whose name is not `taken` in the directory: an older
    file is never written over, as it is what there is to go back to.
    """
    while posixpath.basename(found := dated(path, when)) in taken:
        when += timedelta(seconds=1)
    return found


def content(certificate_pem: bytes, key_pem: bytes) -> bytes:
    """The certificate with its chain, then the key: the order that the kubelet writes, and that HAProxy reads."""
    return b"".join(part.rstrip() + b"\n" for part in (certificate_pem, key_pem))
