"""Copies of a certificate file and its key file in existing directories: state, and replacement in one transaction.

The certificate can be a CA, whose file has several certificates during a rotation. A directory can contain the
certificate file of another program, which certmond does not replace.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping

from certmond.errors import WriteError
from certmond.pki.catalog.derived import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.findings import printable
from certmond.pki.x509.certificate import Anchor
from certmond.pki.x509.parsing import decode
from certmond.renewal.derived_file_state import Current, Foreign, Stale, State, Unmanaged, Unready, owner_ids
from certmond.renewal.key_pair import KeyPair, Unpaired, anchor_of_key, key_pair
from certmond.transaction.commit import NewFile, Writer
from certmond.transaction.dirfd import digest
from certmond.transaction.node_files import NodeFiles


class CopiedPair:
    """The copies of the files of `source` in the directories of `spec`."""

    def __init__(self, spec: DerivedSpec, source: CertificateSpec, files: NodeFiles) -> None:
        self._spec, self._source, self._files = spec, source, files

    def state(self) -> State:
        """Return the state of all copies together. If a file is missing in a directory, the state is `Stale`."""
        directories = self._directories()
        if not directories:
            return Unmanaged()
        try:
            contents = self._contents()
            pair = self._pair(contents)
            if isinstance(pair, Unpaired):
                return Unready(f"{self._spec.path} is not written: {pair.message}; restore {self._source.name}")
            for directory in directories:
                if why := self._foreign(directory, contents):
                    return Foreign(why)
            changes = [change for each in directories for change in self._changes(each, contents)]
        except WriteError as error:
            return Unready(f"{self._spec.path} is not written: {error}")
        return Stale(b"") if changes else Current()

    def make(self, writer: Writer) -> str:
        """Write the files that differ. Return a sentence about the result. Raises WriteError."""
        match self.state():
            case Foreign(message) | Unready(message):
                raise WriteError(message)
            case Stale():
                contents = self._contents()
                changes = [change for each in self._directories() for change in self._changes(each, contents)]
                writer.commit(changes, verify=lambda _written: self._prove(contents))
                return f"{self._spec.path} is written from {self._source.name}"
            case _:
                return f"{self._spec.path} is equal to {self._source.name}"

    def _directories(self) -> tuple[str, ...]:
        """Return the directories of the node that match the path."""
        before, star, after = self._spec.path.partition("*")
        names = sorted(self._files.names(before)) if star else [""]
        found = (f"{before}{name}{after}" for name in names)
        return tuple(directory for directory in found if self._files.exists(directory))

    def _contents(self) -> Mapping[str, bytes | None]:
        """Return the content of the certificate file and of the key file, by their paths."""
        paths = dict.fromkeys(filter(None, (self._source.path, self._source.key)))
        return {path: self._files.read(path, follow_any_link=False) for path in paths}

    def _pair(self, contents: Mapping[str, bytes | None]) -> KeyPair | Anchor | Unpaired:
        path, key_path = self._source.path, self._source.key or self._source.path
        found = anchor_of_key if self._source.is_trust else key_pair
        return found(contents[path], contents.get(key_path), path, key_path)

    def _foreign(self, directory: str, contents: Mapping[str, bytes | None]) -> str | None:
        """Return why certmond may not write in the directory, or None."""
        paths = [posixpath.join(directory, posixpath.basename(path)) for path in contents]
        for path in paths:
            if not self._files.is_in_place(path):
                return f"{path} is a symlink, so certmond does not replace its target; run: rm {path}"
        if why := self._files.exposed(paths, self._spec.owner):
            return why
        own = decode(contents[self._source.path] or b"", self._source.path).certificates
        present = decode(self._files.read(paths[0]) or b"", paths[0]).certificates
        if self._source.is_trust:
            # A rotation replaces the CA in phases, and each phase keeps a certificate of the phase before. The copy can
            # have the last key of another CA.
            if present and set(present).isdisjoint(own):
                fact = f"{paths[0]} has no certificate of {self._source.path}, so certmond does not replace it"
                return f"{fact}; run: cp {' '.join(contents)} {directory}/"
        elif present and present[0].subject_der != own[0].subject_der:
            fact = (
                f"{paths[0]} has a certificate of {printable(present[0].subject)}, not of {printable(own[0].subject)}"
            )
            return f"{fact}, so certmond does not replace it; move it away"
        return None

    def _changes(self, directory: str, contents: Mapping[str, bytes | None]) -> Iterator[NewFile]:
        """Yield the replacement of each file in the directory that differs. The key comes first."""
        owner = owner_ids(self._spec.owner) if self._spec.owner else None
        for path, content in reversed(tuple(contents.items())):
            place = posixpath.join(directory, posixpath.basename(path))
            present = self._files.read(place)
            if content is not None and content != present:
                expected = None if present is None else digest(present)
                yield NewFile(place, content, self._spec.mode, owner, expected, at_most=self._spec.mode)

    def _prove(self, contents: Mapping[str, bytes | None]) -> None:
        if self._contents() != contents:
            fact = f"{self._spec.path} is not written: {self._source.name} changed meanwhile"
            raise WriteError(f"{fact}; certmond retries it")
