"""Undamaged copies of a missing or damaged CA certificate on this node: in the archive, and in kubeconfigs."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from shlex import quote

from certmond.errors import CertmondError
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.path_building import find_paths
from certmond.state.archive import Archive
from certmond.transaction.node_file_reader import NodeFiles

_BLANKS, _BASE64 = re.compile(rb"[ \t]+"), re.compile(rb"[A-Za-z0-9+/]+=*")


def copy_command(
    seen: Observation, inventory: Inventory, archive: Archive, files: NodeFiles, now: datetime
) -> str | None:
    """Return the shell command that writes a copy of the CA certificate to the file of `seen`, or None without a copy.

    The copy is the only certificate of its source, is valid at `now`, and has signed every certificate on this node
    whose entry names this CA.
    """
    leaves = [each for each in inventory.observations if seen.spec.name in each.spec.ca and each.certificates]
    copies = (*_archived(seen, archive), *_embedded(seen, inventory, files))
    return next((command for found, command in copies if leaves and _is_ca_of(found, leaves, now)), None)


def _archived(seen: Observation, archive: Archive) -> Iterator[tuple[Sequence[Certificate], str]]:
    """Yield the certificates of each archived copy of the file, and the command that restores it, newest first."""
    with suppress(CertmondError, OSError):
        for _, files in archive.complete_generations(seen.spec.name):
            for file in files:
                found = decode(file.content, file.path)
                if file.path == seen.path and not found.faults:
                    yield found.certificates, f"install -m 644 {quote(file.stored)} {quote(seen.path)}"


def _embedded(seen: Observation, inventory: Inventory, files: NodeFiles) -> Iterator[tuple[Sequence[Certificate], str]]:
    """Yield the CA certificates in each kubeconfig whose only line with CA data has them, and the command that copies
    them.
    """
    for each in (found for observation in inventory.observations for found in observation.embedded):
        with suppress(CertmondError):
            data = _ca_data(files.read(each.path) or b"")
            copied = decode(data, each.path)
            if not each.others and not copied.faults and copied.certificates == each.certificates:
                source, extract = quote(each.path), "awk '$1 == \"certificate-authority-data:\" {print $2}'"
                write = f"base64 -d > {quote(seen.path)} && chmod 644 {quote(seen.path)}"
                yield each.certificates, f"test -s {source} && {extract} {source} | {write}"


def _ca_data(kubeconfig: bytes) -> bytes:
    """Return the bytes that the command copies from a kubeconfig, or b"" without exactly one line with CA data."""
    lines = [_BLANKS.split(line.strip(b" \t")) for line in kubeconfig.split(b"\n")]  # the fields of awk
    values = [fields[1:] for fields in lines if fields[0] == b"certificate-authority-data:"]
    if len(values) != 1 or len(values[0]) != 1 or not _BASE64.fullmatch(values[0][0]):
        return b""
    with suppress(ValueError):
        return b64decode(values[0][0], validate=True)
    return b""


def _is_ca_of(found: Sequence[Certificate], leaves: Sequence[Observation], now: datetime) -> bool:
    """Return whether `found` is one CA certificate that is valid at `now` and has signed all `leaves`."""
    if len(found) != 1 or not found[0].not_before <= now <= found[0].not_after:
        return False
    return all(find_paths(each.certificates[0], found, each.certificates[1:]).paths for each in leaves)
