"""Archive of the damaged files that certmond has replaced.

certmond keeps the only copy of a private key beyond `archive.keep_for`. This private key might be the key of a CA,
which a user has written into the wrong file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from certmond.errors import CertmondError, MalformedError
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.x509.certificate_file_parser import decode
from certmond.renewal.new_files import View, damaged_name, is_secret
from certmond.state.archive import Archive, ArchivedFile, Generation
from certmond.transaction.dirfd import digest

_MOST, _LARGEST = 100, 128 * 1024
"""Maximum number of generations of one name, and maximum size in bytes of a generation that certmond keeps for its key.

Repeated damage must not fill the disk.
"""


class DamagedFiles:
    """Archive of the damaged files of the entries `specs`, with at least `keep` generations of each entry."""

    def __init__(self, state_dir: Path, keep: int, specs: Sequence[CertificateSpec], files: View) -> None:
        self._archive, self._keep = Archive(state_dir, _MOST), keep
        self._only_copies = OnlyCopies(self._archive, specs, files)

    def keep(self, name: str, files: Mapping[str, Path], when: datetime, description: Mapping[str, str]) -> Generation:
        """Archive the damaged `files` of the entry `name`, and return the new generation.

        `files` maps each path of the node to its resolved path. The caller must hold the lock of all writers. Raises
        WriteError if certmond cannot write the archive.
        """
        damaged = damaged_name(name)
        stored = self._archive.store(damaged, files, when, description)
        self._archive.remove(damaged, self._only_copies.removable(damaged, self._archive.ids(damaged)[: -self._keep]))
        return stored


class OnlyCopies:
    """Search for private keys whose only copy is in the archive."""

    def __init__(self, archive: Archive, specs: Sequence[CertificateSpec], files: View) -> None:
        self._archive, self._files = archive, files
        self._paths = tuple(dict.fromkeys(path for each in specs if not each.is_glob
                                          for path in (each.path, each.key) if path))  # fmt: skip

    def removable(self, damaged: str, generations: Sequence[str]) -> list[str]:
        """Return the `generations` of the name `damaged` that certmond may remove, oldest first.

        certmond keeps a small generation with the only copy of a private key. Raises StateError if a later version of
        certmond wrote a generation.
        """
        if not generations:
            return []
        others = [name for name in self._archive.names() if damaged_name(name) == damaged and name != damaged]
        staying = [(damaged, each) for each in self._archive.ids(damaged) if each not in generations]
        staying += [(name, each) for name in others for each in self._archive.ids(name)]
        copies = set(self._node_files()).union(*(_keys(self._load(*each)) for each in staying))
        removable = list[str]()
        for generation in reversed(generations):  # of several generations with one key, keep the newest
            files = self._load(damaged, generation)
            keys = _keys(files) - copies
            if keys and sum(len(file.content) for file in files) <= _LARGEST:
                copies |= keys
            else:
                removable.append(generation)
        return removable[::-1]

    def _load(self, name: str, generation: str) -> tuple[ArchivedFile, ...]:
        """Return the files of a generation, or () if the generation is malformed."""
        with suppress(MalformedError):
            return self._archive.load(name, generation)
        return ()

    def _node_files(self) -> Iterator[str]:
        """Yield the SHA-256 digest of each readable file of the entries."""
        for path in self._paths:
            with suppress(CertmondError):
                yield digest(self._files.read(path) or b"")


def archive_clause(generations: Iterable[Generation]) -> str:
    """Return a clause that names the archived generations of damaged files, or "" without a generation."""
    return "".join(f"; the damaged content is in the archive as {each.name} {each.id}" for each in generations)


def _keys(files: Iterable[ArchivedFile]) -> set[str]:
    """Return the SHA-256 digest of each file that contains at least a part of a private key."""
    return {digest(file.content) for file in files if is_secret(file.content) or decode(file.content, file.path).key}
