"""What was damaged, and was replaced: kept in the archive apart from the generations, so that it pushes none out.

Owns how long that is: one that holds the only copy of a private key outlasts the others. What was put into the wrong
file by mistake may be the key of a CA.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from certmond.host.archive import Archive, ArchivedFile, Generation
from certmond.host.placing import View, damaged_name, is_secret
from certmond.pki.catalog import CertificateSpec

_MOST = 100
"""Generations of one name that are kept at most: who breaks a file again and again must not fill the disk."""


class DamagedFiles:
    """The damaged files of the entries `specs` on one node. `keep` generations of each are kept in any case."""

    def __init__(self, state_dir: Path, keep: int, specs: Sequence[CertificateSpec], files: View) -> None:
        self._archive, self._keep, self._files = Archive(state_dir, _MOST), keep, files
        self._paths = tuple(dict.fromkeys(path for each in specs if not each.is_glob
                                          for path in (each.path, each.key) if path))  # fmt: skip

    def keep(self, name: str, files: Mapping[str, Path], when: datetime, description: Mapping[str, str]) -> Generation:
        """Keep the damaged `files` of the entry `name`, each as the node calls it and where it really is.

        Raises WriteError. Whoever calls holds the lock.
        """
        apart = damaged_name(name)
        stored = self._archive.store(apart, files, when, description)
        self._archive.remove(apart, [each for each in self._archive.ids(apart)[: -self._keep]
                                     if not self._is_only_copy(name, apart, each)])  # fmt: skip
        return stored

    def _is_only_copy(self, name: str, apart: str, generation: str) -> bool:
        """It has a file with a private key that is as it is nowhere else: neither in another generation, nor on the
        node.
        """
        mine, others = list[bytes](), set[bytes]()
        for described, files in (*self._archive.whole(name), *self._archive.whole(apart)):
            secret = _secrets(files)
            if described.name == apart and described.id == generation:
                mine += secret
            else:
                others.update(secret)
        return any(each not in others and not self._is_on_node(each) for each in mine)

    def _is_on_node(self, content: bytes) -> bool:
        return any(self._files.read(path) == content for path in self._paths)


def kept_as(kept: Iterable[Generation]) -> str:
    """Return the clause that says where the former content is; "" where there was none."""
    return "".join(f"; what was there is kept in the archive as {each.name} {each.id}" for each in kept)


def _secrets(files: Iterable[ArchivedFile]) -> list[bytes]:
    return [file.content for file in files if is_secret(file.content)]
