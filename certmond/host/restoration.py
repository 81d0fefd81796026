"""A generation of the archive put back in the place of what is on the node, which is kept as a new one.

Owns which entries may come back at all, and what is said of each file. How files are replaced is the transaction's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from certmond.config import Config
from certmond.errors import CertmondError, WriteError
from certmond.host.archive import Archive, ArchivedFile
from certmond.host.audit import Audit
from certmond.host.journal import Event
from certmond.host.node_files import NodeFiles
from certmond.host.place import digest
from certmond.host.transaction import NewFile, Transactions, Writer
from certmond.pki.catalog import Kind
from certmond.pki.reason import printable


class Restoration:
    """For one configuration and the node below `root`. `writing` takes the lock, waiting for so many seconds."""

    def __init__(
        self,
        config: Config,
        *,
        root: str,
        state_dir: Path,
        audit: Audit,
        clock: Callable[[], datetime],
        writing: Callable[[float], AbstractContextManager[Writer]],
    ) -> None:
        self._by_hand = frozenset(
            each
            for spec in config.certificates
            if spec.authority or spec.kind is Kind.KEY_PAIR
            for each in (spec.name, spec.path, spec.key)
            if each
        )
        self._files, self._transactions = NodeFiles(root), Transactions(root, state_dir)
        self._archive = Archive(state_dir, config.archive.keep)
        self._audit, self._clock, self._writing = audit, clock, writing

    def restore(self, name: str, generation: str | None, patience: float, *, dry_run: bool) -> list[str]:
        """Put a generation of the archive back, by default the newest that is not there now; a sentence for each file.

        Raises CertmondError.
        """
        self._may_come_back(name, ())
        kept = self._archive.ids(name)
        if not kept or generation not in {None, *kept}:
            raise WriteError(f"the archive has no such generation of {name}; there are: {', '.join(kept) or 'none'}")
        others = (each for each in reversed(kept) if not self._is_in_place(self._archive.load(name, each)))
        chosen = self._archive.generation(name, generation or next(others, kept[-1]))
        files = self._archive.load(name, chosen.id)
        self._may_come_back(name, [file.path for file in files])
        present = {file.path: self._files.read(file.path) for file in files}
        changed = [file for file in files if present[file.path] != file.content]
        said = [f"{file.path} is put back as it was before {chosen.when:%Y-%m-%d %H:%M} UTC" for file in changed]
        if strangers := [file for file in changed if self._files.owner(file.path) not in {None, file.owner}]:
            raise WriteError(*(_not_its_owner(file) for file in strangers))
        if dry_run or not changed:
            return said or [f"{name} is as in {chosen.id} already"]
        changes = [
            NewFile(f.path, f.content, f.mode, f.owner, _digest(present[f.path]), at_most=f.mode) for f in changed
        ]
        fields = {"step": "restore", "target": name, "generation": chosen.id}
        with self._writing(patience) as writer:
            self._audit.note(Event.STEP_BEGUN, self._clock(), f"{name}: {chosen.id} is put back", fields=fields)
            replaced = {path: self._transactions.real(path) for path, content in present.items() if content is not None}
            description = {"detail": f"replaced by {chosen.id}"}
            try:
                writer.commit(
                    changes,
                    verify=lambda _: None,  # byte for byte what it was: not for us to object to
                    before_rename=lambda: self._keep(name, replaced, description),
                )
            except CertmondError as error:
                self._audit.conclude(Event.STEP_FAILED, self._clock(), str(error), "error", fields)
                raise
            self._audit.conclude(Event.STEP_DONE, self._clock(), f"{name}: {chosen.id} was put back", fields=fields)
        return said

    def _keep(self, name: str, replaced: dict[str, Path], description: dict[str, str]) -> None:
        self._archive.store(name, replaced, self._clock(), description)

    def _may_come_back(self, name: str, paths: Sequence[str]) -> None:
        """A former CA may be there without its key, or be one that is to be trusted no more: it is not for us to put
        back, nor is a key pair that has no certificate. Raises WriteError.
        """
        if name not in self._by_hand and self._by_hand.isdisjoint(paths):
            return
        fact = f"{name} is a CA or a key pair without a certificate, which is never put back from the archive: a former"
        risk = "one may lack its key, or be trusted no more, and whoever trusts the present one would fail"
        remedy = "put certificate and key back by hand, together, and then rotate (see docs/rotation.md)"
        raise WriteError(f"{fact} {risk}; {remedy}")

    def _is_in_place(self, files: Sequence[ArchivedFile]) -> bool:
        return all(self._files.read(file.path) == file.content for file in files)


def _not_its_owner(file: ArchivedFile) -> str:
    uid, gid = file.owner
    remedy = f"give it back first (chown {uid}:{gid} {file.path}), or move it away"
    return printable(f"{file.path} was kept as {uid}:{gid}'s, and belongs to others now; {remedy}")


def _digest(content: bytes | None) -> str | None:
    return None if content is None else digest(content)
