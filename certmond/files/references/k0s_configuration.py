"""The flags of components in the configuration file of a k0s controller."""

from __future__ import annotations

from collections.abc import Iterator

from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.flag_source import Source, UnreadFile
from certmond.formats.k0s_config import K0sConfig, parse_k0s_config
from certmond.formats.manifest import Container

_FILE = "/etc/k0s/k0s.yaml"
"""The default of --config (k0sproject/k0s, pkg/constant/constant.go)."""


class K0sConfiguration:
    """Finder of the flags in the configuration of k0s."""

    def __init__(self, reader: DocumentReader, files: Files) -> None:
        self._reader, self._files = reader, files

    def sources(self) -> Iterator[Source]:
        """Yield each component with the flags that the configuration adds."""
        for component, flags in self._config().flags.items():
            yield Source(component, Container(component, flags, {}, component), _FILE, in_pod=False)

    def unread_files(self) -> Iterator[UnreadFile]:
        """Yield the configuration file if certmond cannot read or parse it."""
        fault, config = self._reader.entry(_FILE).fault, self._config()
        fact = f"{_FILE} {config.fault}" if config.fault else ""
        if fault and not self._reader.entry(_FILE).missing:
            fact = fault.detail
        if fact:
            yield UnreadFile("k0s.config", f"any flag in {_FILE}", _FILE, fact)

    def _config(self) -> K0sConfig:
        return self._files.value(_FILE, parse_k0s_config) or K0sConfig({})
