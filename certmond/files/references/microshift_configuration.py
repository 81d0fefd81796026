"""The additional serving certificates of the API server in the configuration of MicroShift.

The fields are from openshift/microshift, pkg/config/apiserver.go (NamedCertificates).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.flag_source import Source, UnreadFile
from certmond.files.references.unit_files import Place
from certmond.formats.kubeconfig import as_text
from certmond.formats.manifest import Container
from certmond.pki.catalog.component_certificate_flags import APISERVER

_FILE, _DROP_INS = "/etc/microshift/config.yaml", "/etc/microshift/config.d"
_FLAG, _FIELD = "tls-sni-cert-key", "namedCertificates"
"""The flag to which MicroShift converts the field."""


class MicroShiftConfiguration:
    """Finder of the certificates in the configuration of MicroShift."""

    def __init__(self, reader: DocumentReader, files: Files) -> None:
        self._reader, self._files = reader, files

    def names(self) -> tuple[str, ...]:
        """Return the names in the directory of drop-ins."""
        return self._files.listing(_DROP_INS)

    def sources(self) -> Iterator[Source]:
        """Yield the API server with a flag for each additional certificate.

        The last file that sets the field replaces the whole list, also with null (RFC 7396; pkg/config/files.go,
        getActiveConfigFromYAMLDropins).
        """
        found = [(path, manifest) for path in self._paths() if (manifest := self._reader.manifest(path))]
        last = next(((path, each) for path, each in reversed(found) if _sets_field(each.fields)), None)
        if last and (flags := tuple(_flags(last[1].fields))):
            places = {_FLAG: Place(last[0], _FIELD)}
            yield Source(APISERVER, Container(APISERVER, flags, {}), last[0], in_pod=False, places=places)

    def unread_files(self) -> Iterator[UnreadFile]:
        """Yield each file of the configuration that certmond cannot read or parse. Omit missing and empty files."""
        for path in self._paths():
            entry, manifest = self._reader.entry(path), self._reader.manifest(path)
            fact = entry.fault.detail if entry.fault and not entry.missing else ""
            if manifest and manifest.fault and manifest.text.strip():
                fact = f"{path} {manifest.fault}"
            if fact:
                yield UnreadFile("microshift.config", f"any field in {path}", path, fact)

    def _paths(self) -> Iterator[str]:
        yield _FILE
        yield from (f"{_DROP_INS}/{name}" for name in self.names() if name.endswith(".yaml") and name.isprintable())


def _sets_field(fields: Mapping[str, Any]) -> bool:
    server = fields.get("apiServer", {})
    return server is None or (isinstance(server, Mapping) and _FIELD in server)


def _flags(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    server = fields.get("apiServer")
    listed = server.get(_FIELD) if isinstance(server, Mapping) else None
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, Mapping) and (certificate := as_text(each.get("certPath"))):
            yield _FLAG, f"{certificate},{as_text(each.get('keyPath'))}"
