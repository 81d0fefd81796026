"""Archive of damaged files that certmond has replaced, separate from the generations of valid files.

Owns the retention of damaged files: one with the only copy of a private key outlasts the others. A user may have
written the key of a CA into the wrong file by mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from certmond.pki.catalog.entries import CertificateSpec
from certmond.renewal.repair import View, damaged_name, is_secret
from certmond.state.archive import Archive, ArchivedFile, Generation

_MOST = 100
"""Maximum number of generations of one name, so that repeated damage does not fill the disk."""


class DamagedFiles:
    """The damaged files of the entries `specs` on one node. The archive keeps at least `keep` generations of each."""

    def __init__(self, state_dir: Path, keep: int, specs: Sequence[CertificateSpec], files: View) -> None:
        self._archive, self._keep, self._files = Archive(state_dir, _MOST), keep, files
        self._paths = tuple(dict.fromkeys(path for each in specs if not each.is_glob
                                          for path in (each.path, each.key) if path))  # fmt: skip

    def keep(self, name: str, files: Mapping[str, Path], when: datetime, description: Mapping[str, str]) -> Generation:
        """Archive the damaged `files` of the entry `name`: each path of the node, with its resolved path.

        Raises WriteError. The caller holds the lock.
        """
        damaged = damaged_name(name)
        stored = self._archive.store(damaged, files, when, description)
        self._archive.remove(damaged, [each for each in self._archive.ids(damaged)[: -self._keep]
                                     if not self._is_only_copy(name, damaged, each)])  # fmt: skip
        return stored

    def _is_only_copy(self, name: str, damaged: str, generation: str) -> bool:
        """Return whether no other generation, and no file of the node, has a private key of this generation."""
        own, others = list[bytes](), set[bytes]()
        for described, files in (
            *self._archive.complete_generations(name),
            *self._archive.complete_generations(damaged),
        ):
            secret = _secrets(files)
            if described.name == damaged and described.id == generation:
                own += secret
            else:
                others.update(secret)
        return any(each not in others and not self._is_on_node(each) for each in own)

    def _is_on_node(self, content: bytes) -> bool:
        return any(self._files.read(path) == content for path in self._paths)


def archive_clause(generations: Iterable[Generation]) -> str:
    """Return a clause that names the archived damaged content. "" without generations."""
    return "".join(f"; the damaged content is in the archive as {each.name} {each.id}" for each in generations)


def _secrets(files: Iterable[ArchivedFile]) -> list[bytes]:
    return [file.content for file in files if is_secret(file.content)]
