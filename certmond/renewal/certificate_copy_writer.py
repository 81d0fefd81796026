"""Copies of a certificate file and its key file in existing directories: state, and replacement in one transaction.

The certificate can be a CA, whose file contains several certificates during a rotation. A directory can contain a file
of another program. certmond does not replace such a file.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping

from certmond.errors import WriteError
from certmond.pki.catalog.derived_file_spec import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.findings import printable
from certmond.pki.x509.certificate import Anchor
from certmond.pki.x509.certificate_file_parser import decode
from certmond.renewal.derived_file_state import (
    Current,
    Foreign,
    Refused,
    Stale,
    State,
    Unmanaged,
    Unready,
    owner_ids,
)
from certmond.renewal.key_pair import KeyPair, Unpaired, anchor_of_key, key_pair
from certmond.transaction.commit import NewFile, Writer
from certmond.transaction.dirfd import digest
from certmond.transaction.node_file_reader import NodeFiles


class CopiedPair:
    """The copies of the files of `source` in the directories of `spec`."""

    def __init__(self, spec: DerivedSpec, source: CertificateSpec, files: NodeFiles) -> None:
        self._spec, self._source, self._files = spec, source, files

    def state(self) -> State:
        """Return the state of all copies together. If a file is missing in a directory, the state is `Stale`."""
        return self._decide()[0]

    def make(self, writer: Writer) -> str:
        """Write the files that differ from the source, all in one transaction. Return a sentence about the result.

        Raises WriteError if certmond must not or cannot write the files.
        """
        state, changes, contents = self._decide()
        if isinstance(state, Foreign | Unready):
            raise WriteError(state.message)
        if changes:
            writer.commit(changes, verify=lambda _written: self._prove(contents))
        what = f"{self._spec.path} is {'written from' if changes else 'equal to'} {self._source.name}"
        refused = state.refused if isinstance(state, Stale | Current) else ()
        return f"{what}, except in {', '.join(each.path for each in refused)}" if refused else what

    def _decide(self) -> tuple[State, list[NewFile], Mapping[str, bytes | None]]:
        """Return the state of all copies, the files to write, and the contents of the source.

        The transaction excludes each directory to which certmond must not write.
        """
        directories, contents = self._directories(), dict[str, bytes | None]()
        if not directories:
            return Unmanaged(), [], contents
        try:
            contents |= self._contents()
            pair = self._pair(contents)
            if isinstance(pair, Unpaired):
                fact = f"certmond does not write {self._spec.path}: {pair.message}"
                return Unready(f"{fact}; restore {self._source.name}"), [], contents
            owner = owner_ids(self._spec.owner) if self._spec.owner else None
        except WriteError as error:
            return Unready(f"certmond does not write {self._spec.path}: {error}"), [], contents
        changes, refused = list[NewFile](), list[Refused]()
        for directory in directories:
            try:
                if why := self._foreign(directory, contents):
                    refused.append(Refused(directory, why))
                else:
                    changes += self._changes(directory, contents, owner)
            except WriteError as error:
                fact = f"certmond does not write a copy of {self._source.name} to {directory}: {error}"
                refused.append(Refused(directory, f"{fact}; see: ls -l {shlex.quote(directory)}"))
        if len(refused) == len(directories):
            return Foreign(refused[0].message, tuple(refused[1:])), [], contents
        return (Stale(b"", tuple(refused)) if changes else Current(tuple(refused))), changes, contents

    def _directories(self) -> tuple[str, ...]:
        """Return the existing directories that match the path of the derived entry."""
        before, star, after = self._spec.path.partition("*")
        names = sorted(self._files.names(before)) if star else [""]
        found = (f"{before}{name}{after}" for name in names)
        return tuple(directory for directory in found if self._files.exists(directory))

    def _contents(self) -> Mapping[str, bytes | None]:
        """Return the contents of the source's certificate file and key file, by path.

        A missing file has the content None.
        """
        paths = dict.fromkeys(filter(None, (self._source.path, self._source.key)))
        return {path: self._files.read(path, follow_any_link=False) for path in paths}

    def _pair(self, contents: Mapping[str, bytes | None]) -> KeyPair | Anchor | Unpaired:
        path, key_path = self._source.path, self._source.key or self._source.path
        found = anchor_of_key if self._source.is_trust else key_pair
        return found(contents[path], contents.get(key_path), path, key_path)

    def _foreign(self, directory: str, contents: Mapping[str, bytes | None]) -> str | None:
        """Return why certmond must not write to the directory, or None if certmond may write to it."""
        paths = [posixpath.join(directory, posixpath.basename(path)) for path in contents]
        for path in paths:
            if not self._files.is_in_place(path):
                return f"{path} is a symlink, so certmond does not replace its target; run: rm {path}"
        if why := self._files.exposed(paths, self._spec.owner):
            return why
        own = decode(contents[self._source.path] or b"", self._source.path).certificates
        present = decode(self._files.read(paths[0]) or b"", paths[0]).certificates
        if self._source.is_trust:
            # A rotation replaces the CA in phases, and each phase keeps a certificate of the previous phase. A copy
            # without a common certificate is another CA, and the copy of its key could be the only copy.
            if present and set(present).isdisjoint(own):
                fact = f"{paths[0]} contains no certificate of {self._source.path}, so certmond does not replace it"
                return f"{fact}; run: cp {' '.join(contents)} {directory}/"
        elif present and present[0].subject_der != own[0].subject_der:
            fact = (
                f"{paths[0]} contains a certificate of {printable(present[0].subject)}, "
                f"not of {printable(own[0].subject)}"
            )
            return f"{fact}, so certmond does not replace it; move it away"
        return None

    def _changes(
        self, directory: str, contents: Mapping[str, bytes | None], owner: tuple[int, int] | None
    ) -> list[NewFile]:
        """Return the replacement of each file in the directory that differs from the source. The key comes first."""
        changes = list[NewFile]()
        for path, content in reversed(tuple(contents.items())):
            place = posixpath.join(directory, posixpath.basename(path))
            present = self._files.read(place)
            if content is not None and content != present:
                expected = None if present is None else digest(present)
                changes.append(NewFile(place, content, self._spec.mode, owner, expected, at_most=self._spec.mode))
        return changes

    def _prove(self, contents: Mapping[str, bytes | None]) -> None:
        if self._contents() != contents:
            fact = f"certmond does not write {self._spec.path}: {self._source.name} changed in the meantime"
            raise WriteError(f"{fact}; certmond tries again")
