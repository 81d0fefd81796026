"""Check of the symlinks through which certmond would write.

A symlink must not refer to a file of another entry, such as a CA. A target in another directory must be a certificate,
a key or a kubeconfig.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence

from certmond.errors import MalformedError
from certmond.formats.kubeconfig import parse_kubeconfig
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.findings import printable
from certmond.pki.x509.certificate_file_parser import decode
from certmond.renewal.key_pair import Files

_PEM = re.compile(rb"-----BEGIN ((TRUSTED|X509) )?CERTIFICATE-----|-----BEGIN ((RSA|EC|ENCRYPTED) )?PRIVATE KEY-----")


class SymlinkTargets:
    """Check of symlinks for the entries `specs`."""

    def __init__(self, specs: Sequence[CertificateSpec], files: Files) -> None:
        self._specs, self._files = [spec for spec in specs if not spec.is_glob], files

    def objection(self, paths: Iterable[str], spec: CertificateSpec | None) -> str | None:
        """Return why certmond must not write to one of the `paths` of the entry `spec`, and the remedy.

        Return None if certmond may write to all `paths`. Raises WriteError if a file is unreadable.
        """
        for path in paths:
            real = self._files.leads_to(path)
            if real == path:
                continue
            home = self._files.leads_to(posixpath.dirname(path))
            if other := self._holder(path, real, spec):
                fact = f"a file of {other}"
            elif not real.startswith(f"{home.rstrip('/')}/") and not self._is_certificate_file(path):
                fact = "which contains neither a certificate nor a key"
            else:
                continue
            is_link = real != posixpath.join(home, posixpath.basename(path))
            remedy = (
                f"remove the symlink: rm {path}" if is_link else "store the files of the entry in a separate directory"
            )
            return printable(f"{path} refers through a symlink to {real}, {fact}; {remedy}")
        return None

    def _holder(self, path: str, real: str, spec: CertificateSpec | None) -> str | None:
        """Return the name of another entry whose files include `real`, or None if there is no such entry."""
        own = self._real_files(spec) if spec else {real}
        for other in self._specs:
            if path in {other.path, other.key}:  # `KeyPairs` checks two entries with one path
                continue
            others = self._real_files(other)
            if real in others and (other.is_trust or others != own):  # equal pairs: two entries share a certificate
                return other.name
        return None

    def _real_files(self, spec: CertificateSpec) -> set[str]:
        return {self._files.leads_to(path) for path in (spec.path, spec.key) if path}

    def _is_certificate_file(self, path: str) -> bool:
        """Return whether the file is missing or empty, or contains a certificate, a key or a kubeconfig."""
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
