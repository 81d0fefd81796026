"""Where a write through a symlink would end up, and why certmond does not write there for an entry.

Owns the rule: a symlink of an entry leads to no file of another entry, a CA above all, and outside the entry's own
directory to nothing but certificates, keys and kubeconfigs. Only reads.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence

from certmond.errors import MalformedError
from certmond.host.key_pair import Files
from certmond.host.kubeconfig import parse_kubeconfig
from certmond.pki.catalog import CertificateSpec
from certmond.pki.encoding import decode
from certmond.pki.reason import printable

_PEM = re.compile(rb"-----BEGIN ((TRUSTED|X509) )?CERTIFICATE-----|-----BEGIN ((RSA|EC|ENCRYPTED) )?PRIVATE KEY-----")


class Destinations:
    """The files of the entries `specs`; those of a pattern are not known by their paths."""

    def __init__(self, specs: Sequence[CertificateSpec], files: Files) -> None:
        self._specs, self._files = [spec for spec in specs if not spec.is_glob], files

    def astray(self, paths: Iterable[str], spec: CertificateSpec | None) -> str | None:
        """Return why nothing is written to these paths of the entry `spec`, with the remedy; None where each of them
        leads to a file that may be written. Raises WriteError where a file cannot be read.

        Where two entries name one file by the same path, that is their configuration, and `KeyPairs` says whether their
        pairs stay whole. Two that have the same pair by different paths have one certificate.
        """
        for path in paths:
            real = self._files.leads_to(path)
            if real == path:
                continue
            home = self._files.leads_to(posixpath.dirname(path))
            if other := self._holder(path, real, spec):
                fact = f"a file of {other}"
            elif not real.startswith(f"{home.rstrip('/')}/") and not self._is_of_an_entry(path):
                fact = "which holds neither a certificate nor a key"
            else:
                continue
            is_link = real != posixpath.join(home, posixpath.basename(path))
            remedy = f"remove the symlink: rm {path}" if is_link else "give it a directory of its own"
            return printable(f"{path} leads through a symlink to {real}, {fact}; {remedy}")
        return None

    def _holder(self, path: str, real: str, spec: CertificateSpec | None) -> str | None:
        """The entry that has the file by another path, and not the same pair."""
        own = self._real_files(spec) if spec else {real}
        for other in self._specs:
            if path in {other.path, other.key}:
                continue
            there = self._real_files(other)
            if real in there and (other.is_trust or there != own):
                return other.name
        return None

    def _real_files(self, spec: CertificateSpec) -> set[str]:
        return {self._files.leads_to(path) for path in (spec.path, spec.key) if path}

    def _is_of_an_entry(self, path: str) -> bool:
        """It is missing or empty, or what an entry has, be it damaged."""
        content = self._files.read(path) or b""
        if not content.strip(b"\0\t\r\n ") or _PEM.search(content):
            return True
        document = decode(content, path)
        if document.anchors or document.key or document.encrypted_key:
            return True
        try:
            parse_kubeconfig(content, path)
        except MalformedError:
            return False
        return True
