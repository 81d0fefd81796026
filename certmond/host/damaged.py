"""What was damaged, and was replaced: kept in the archive apart from the generations, so that it pushes none out.

Owns how long that is: one that holds the only copy of a private key outlasts the others, and `archive.keep_for`. What
was put into the wrong file by mistake may be the key of a CA.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from certmond.errors import CertmondError, MalformedError
from certmond.host.archive import Archive, ArchivedFile, Generation
from certmond.host.place import digest
from certmond.host.placing import View, damaged_name, is_secret
from certmond.pki.catalog import CertificateSpec
from certmond.pki.encoding import decode

_MOST, _LARGEST = 100, 128 * 1024
"""Generations of one name that are kept at most, and bytes of one that outlasts the others: who breaks a file again and
again must not fill the disk, nor keep the daemon reading.
"""


class DamagedFiles:
    """The damaged files of the entries `specs` on one node. `keep` generations of each are kept in any case."""

    def __init__(self, state_dir: Path, keep: int, specs: Sequence[CertificateSpec], files: View) -> None:
        self._archive, self._keep = Archive(state_dir, _MOST), keep
        self._copies = OnlyCopies(self._archive, specs, files)

    def keep(self, name: str, files: Mapping[str, Path], when: datetime, description: Mapping[str, str]) -> Generation:
        """Keep the damaged `files` of the entry `name`, each as the node calls it and where it really is.

        Raises WriteError. Whoever calls holds the lock.
        """
        apart = damaged_name(name)
        stored = self._archive.store(apart, files, when, description)
        self._archive.remove(apart, self._copies.removable(apart, self._archive.ids(apart)[: -self._keep]))
        return stored


class OnlyCopies:
    """The private keys of which an archive has the only copy, on a node with the entries `specs`."""

    def __init__(self, archive: Archive, specs: Sequence[CertificateSpec], files: View) -> None:
        self._archive, self._files = archive, files
        self._paths = tuple(dict.fromkeys(path for each in specs if not each.is_glob
                                          for path in (each.path, each.key) if path))  # fmt: skip

    def removable(self, apart: str, generations: Sequence[str]) -> list[str]:
        """Return which of these `generations` of damaged files, oldest first, may go: each without a private key that
        is nowhere else, neither in another generation nor on the node. One that is in several of them stays in the
        newest.

        Each file is read once. Raises StateError where a later certmond has written one.
        """
        if not generations:
            return []
        others = [name for name in self._archive.names() if damaged_name(name) == apart and name != apart]
        staying = [(apart, each) for each in self._archive.ids(apart) if each not in generations]
        staying += [(name, each) for name in others for each in self._archive.ids(name)]
        elsewhere = set(self._on_node()).union(*(_keys(self._load(*each)) for each in staying))
        removable = list[str]()
        for generation in reversed(generations):
            files = self._load(apart, generation)
            keys = _keys(files) - elsewhere
            if keys and sum(len(file.content) for file in files) <= _LARGEST:
                elsewhere |= keys
            else:
                removable.append(generation)
        return removable[::-1]

    def _load(self, name: str, generation: str) -> tuple[ArchivedFile, ...]:
        """Nothing of one that was damaged itself."""
        with suppress(MalformedError):
            return self._archive.load(name, generation)
        return ()

    def _on_node(self) -> Iterator[str]:
        for path in self._paths:
            with suppress(CertmondError):
                yield digest(self._files.read(path) or b"")


def kept_as(kept: Iterable[Generation]) -> str:
    """Return the clause that says where the former content is; "" where there was none."""
    return "".join(f"; what was there is kept in the archive as {each.name} {each.id}" for each in kept)


def _keys(files: Iterable[ArchivedFile]) -> set[str]:
    """The SHA-256 of each file with a private key, or a part of one."""
    return {digest(file.content) for file in files if is_secret(file.content) or decode(file.content, file.path).key}
