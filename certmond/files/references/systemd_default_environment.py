"""The environment variables that the configuration of systemd sets for all services of the system.

This module defines the search path of system.conf and its drop-ins (systemd-system.conf(5)). ManagerEnvironment= sets
variables of systemd itself, which no service has.
"""

from __future__ import annotations

from collections.abc import Iterator

from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.formats.unit_file import parse_manager, settings, split_words

_DIRECTORIES = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd")
"""The directories of system.conf, in order of precedence."""
_MAX_FILES = 512


class ManagerConfiguration:
    """Reader of system.conf with its drop-ins."""

    def __init__(self, reader: DocumentReader, files: Files) -> None:
        self._reader, self._files = reader, files

    def names(self) -> tuple[tuple[str, ...], ...]:
        """Return the names in the directories of the configuration."""
        directories = (each for directory in _DIRECTORIES for each in (directory, f"{directory}/system.conf.d"))
        return tuple(map(self._files.listing, directories))

    def environment(self) -> dict[str, tuple[str, str]]:
        """Return (value, file) of each variable. systemd replaces specifiers; certmond replaces only `%%`."""
        parts = []
        for path in self._paths():
            self._reader.entry(path)
            parts.append((path, self._files.value(path, parse_manager) or ()))
        found = dict[str, tuple[str, str]]()
        for word in settings(parts).get("DefaultEnvironment", ()):
            pairs = (each.replace("%%", "%").partition("=") for each in split_words(word.text))
            found.update((name, (value, word.file)) for name, is_set, value in pairs if is_set)
        return found

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield each file that certmond cannot read, with a fact about this file."""
        for path in self._paths():
            entry = self._reader.entry(path)
            if entry.fault and not entry.missing:
                yield path, entry.fault.detail

    def _paths(self) -> Iterator[str]:
        """Yield the paths of system.conf and of its drop-ins, in the order in which systemd reads these files."""
        files = (f"{each}/system.conf" for each in _DIRECTORIES if "system.conf" in self._files.listing(each))
        yield from [*files][:1]
        drop_ins = dict[str, str]()
        for directory in reversed(_DIRECTORIES):
            names = self._files.listing(f"{directory}/system.conf.d")
            drop_ins.update(
                (each, f"{directory}/system.conf.d/{each}")
                for each in names
                if each.endswith(".conf") and each.isprintable()
            )
        yield from (drop_ins[each] for each in sorted(drop_ins)[:_MAX_FILES])
