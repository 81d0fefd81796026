"""The present CAs of a distribution on this node, and the new CAs in the directory `staged`.

certmond writes only into the directory `staged`, and never into the directory of the present CAs.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from certmond.config.model import Config
from certmond.errors import CertmondError, RefusedError
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.planning.steps import Held
from certmond.pki.rotation.distribution_ca.new_ca_validation import NewCA, objections
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import Document, decode
from certmond.pki.x509.pem import blocks_in
from certmond.rotation.distribution_ca_generation import PresentCA
from certmond.state.json_file import Memory
from certmond.transaction.commit import Change, NewFile, Removed, Writer
from certmond.transaction.dirfd import digest
from certmond.transaction.node_file_reader import NodeFiles
from certmond.transaction.private_directory import make_private_directory, remove_empty_directory

RECORD = "distribution-cas.json"
_RECEIVED, _STORED = "received", "stored"
PUBLISHED = "server-ca.crt"
"""Name of the file that a server publishes at /cacerts (k3s-io/k3s, pkg/server/handlers)."""


class DistributionCAFiles:
    """The CAs that the command in `ca_replacement` replaces."""

    def __init__(self, config: Config, root: str, state_dir: Path) -> None:
        self.spec, self._config, self._root = config.ca_replacement, config, root
        self._files = NodeFiles(root)
        self._record = Memory(state_dir, RECORD, dict[str, str])

    @property
    def entries(self) -> tuple[CertificateSpec, ...]:
        """The entries of the CAs that the command replaces, and that this node has."""
        found = (each for each in self._config.certificates if each.authority and self.spec.replaces(each.path))
        return tuple(each for each in found if self._files.exists(each.path))

    def authorities(self) -> dict[str, tuple[Certificate, ...]]:
        """Return the certificates in each CA file of this node, with the copies of an agent, by the name of the entry.

        Raises WriteError if a file is unreadable.
        """
        specs = (each for each in self._config.certificates if each.authority)
        found = {each.name: self._document(each.path).certificates for each in specs}
        return {name: certificates for name, certificates in found.items() if certificates}

    def outdated_copies(self, authorities: Mapping[str, tuple[Certificate, ...]]) -> tuple[str, ...]:
        """Return the path of each copy for the agent of a server that differs from the CA file of this server."""
        originals = {posixpath.basename(each.path): authorities.get(each.name) for each in self._top_level}
        found = [(each.path, authorities.get(each.name)) for each in self._copies]
        return tuple(path for path, copy in found if copy != originals.get(posixpath.basename(path), copy))

    def published(self, authorities: Mapping[str, tuple[Certificate, ...]]) -> dict[str, tuple[Certificate, ...]]:
        """Return the CA files of this node that must equal the published file, by their paths."""
        own = [each for each in (*self._top_level, *self._copies) if posixpath.basename(each.path) == PUBLISHED]
        return {each.path: authorities[each.name] for each in own if each.name in authorities}

    @property
    def _top_level(self) -> list[CertificateSpec]:
        return [each for each in self.entries if posixpath.dirname(each.path) == self.spec.present]

    @property
    def _copies(self) -> list[CertificateSpec]:
        """The entries of the copies for the agent."""
        others = (each for each in self._config.certificates if each.authority and not self.spec.replaces(each.path))
        return [each for each in others if each.renewed_by and self._files.exists(each.path)]

    def present(self) -> tuple[PresentCA, ...]:
        """Return the present CAs with the contents of their key files. Raises WriteError if a file is unreadable."""
        return tuple(
            PresentCA(
                f"{self.spec.program}-{self._label(each.path)}", each.path, each.key or "",
                self._document(each.path).certificates, self._files.read(each.key) if each.key else None,
            )
            for each in self.entries
        )  # fmt: skip

    def staged(self) -> tuple[NewCA, ...]:
        """Return the CAs in the directory `staged`. The command ignores a missing or empty file, and so does certmond.

        Raises WriteError if a file is unreadable.
        """
        return tuple(self._staged())

    def _staged(self) -> Iterator[NewCA]:
        for each in self.entries:
            path, key_path = self.spec.staged_path(each.path), self.spec.staged_path(each.key or "")
            content, key_content = self._files.read(path), self._files.read(key_path)
            if not content and not key_content:
                continue
            new = decode(content, path) if content else Document()
            where = key_path if key_content else each.key or ""
            key = decode(key_content or self._files.read(where) or b"", where)
            faults = [fault.detail for fault in new.faults]
            if any(block.is_private_key for block in blocks_in(content or b"")):
                fact = f"{path} contains a private key, but {self.spec.program} sends this file to other nodes"
                faults.append(f"{fact}; move the key to {key_path}")
            yield NewCA(
                each.name, path, key_path, each.path, self._document(each.path).certificates, new.certificates, key.key,
                next((fault.detail for fault in key.faults), ""), tuple(faults),
                self._files.modified_at(path), self._files.modified_at(each.path),
            )  # fmt: skip

    def problems(self, staged: tuple[NewCA, ...], now: datetime) -> tuple[str, ...]:
        """Return each reason why the command would refuse the staged CAs, or why certmond does not use them."""
        command = " ".join(self.spec.command[:3])
        return (*self.links(), *(problem for ca in staged for problem in objections(ca, now, command)))

    def links(self) -> tuple[str, ...]:
        """Return a sentence for each symlink in the directory `staged`.

        certmond would write or remove the target of the symlink, which can be the key of a present CA.
        """
        files = [self.spec.staged_path(path) for each in self.entries for path in (each.path, each.key) if path]
        staged = self.spec.staged or "/"
        places = dict.fromkeys((posixpath.dirname(staged), staged, *map(posixpath.dirname, files), *files))
        found = [each for each in places if not self._files.is_in_place(each)]
        return tuple(
            f"{each} is a symlink, and certmond writes and removes the staged CAs there; replace the symlink with a "
            f"{'file' if each in files else 'directory'}"
            for each in found
        )

    def replaceable(self) -> tuple[str, ...]:
        """Return a sentence for each staged file that another user can change or replace."""
        files = [self.spec.staged_path(path) for each in self.entries for path in (each.path, each.key) if path]
        found = {each: self._files.other_writer(each, None) for each in files if self._files.exists(each)}
        remedy = "permit only root to write there (chown, chmod go-w), and check the files"
        return tuple(f"{path}: {who}, who could replace the new CA; {remedy}" for path, who in found.items() if who)

    def exposed(self) -> str | None:
        """Return why another user could read or change the new keys, or None."""
        return self._files.exposed([self.spec.staged_path(each.path) for each in self.entries], None)

    def write(self, contents: Mapping[str, bytes], writer: Writer) -> None:
        """Write the new files, all or none. The keys of `contents` are the paths of the present files.

        Raises RefusedError if the directory contains a symlink, and WriteError if the write fails.
        """
        self._refuse_links()
        changes: list[Change] = []
        for path, content in contents.items():
            target = self.spec.staged_path(path)
            make_private_directory(self._root, posixpath.dirname(target))
            old = self._files.read(target)
            expected = None if old is None else digest(old)
            changes.append(NewFile(target, content, at_most=0o600, expected=expected))
        writer.commit(changes, verify=lambda _: None)

    def remove(self, writer: Writer) -> tuple[str, ...]:
        """Remove the staged files, and the directories if they are empty. Return the names of other files in them.

        Raises RefusedError if the directory contains a symlink, and WriteError if the removal fails.
        """
        self._refuse_links()
        paths = [self.spec.staged_path(path) for each in self.entries for path in (each.path, each.key) if path]
        known = {path: content for path in paths if (content := self._files.read(path)) is not None}
        if known:
            changes = [Removed(path, digest(content)) for path, content in known.items()]
            writer.commit(changes, verify=lambda _: None)
        directories = sorted({posixpath.dirname(each) for each in paths}, key=len, reverse=True)
        left = list[str]()
        for directory in directories:
            inner = (f"{directory}/{name}" for name in sorted(self._files.names(directory)))
            left += [path for path in inner if path not in directories]
            remove_empty_directory(self._root, directory)
        remove_empty_directory(self._root, posixpath.dirname(self.spec.staged or "/"))
        return tuple(left)

    def _refuse_links(self) -> None:
        if links := self.links():
            raise RefusedError("\n".join(links))

    def received_at(self, staged: tuple[NewCA, ...]) -> str | None:
        """Return the time at which the command first received these CAs, or None if it has not received them.

        Raises MalformedError if the record is damaged.
        """
        return self._recorded(staged).get("at")

    def is_stored(self, staged: tuple[NewCA, ...]) -> bool:
        """Return whether the command has stored these CAs. Raises MalformedError if the record is damaged."""
        return self._recorded(staged).get("state") == _STORED

    def record(self, staged: tuple[NewCA, ...], now: datetime, *, stored: bool) -> None:
        """Record that the command receives these CAs, or has stored them. Raises WriteError if the write fails."""
        at = self.received_at(staged) or f"{now:%Y-%m-%d %H:%M:%S} UTC"
        self._record.write({"cas": _identity(staged), "at": at, "state": _STORED if stored else _RECEIVED})

    def _recorded(self, staged: tuple[NewCA, ...]) -> dict[str, str]:
        record = self._record.load() or {}
        return record if record.get("cas") == _identity(staged) else {}

    def next_step(self, now: datetime) -> str | None:
        """Return the state of an unfinished replacement and the next command, or None if nothing is staged."""
        if not self.spec.command or not self._files.exists(self.spec.staged or "/"):
            return None
        try:
            staged = self.staged()
            if not staged:
                return None
            at = self.received_at(staged)
            problems = self.problems(staged, now)
        except CertmondError as error:
            return str(error)
        if problems:
            return f"{problems[0]}; to stage the CAs again, run: certmond root-ca stage --force"
        if all(each.is_installed for each in staged):
            return f"this node has the new CAs, but {self.spec.staged} still exists; run: certmond root-ca rotate"
        fact = f"new CAs are staged in {self.spec.staged}"
        if at:
            fact += f", and the next start of {self.spec.program} installs them (received at {at})"
        return f"{fact}; run: certmond root-ca rotate"

    def holds(self, now: datetime) -> tuple[Held, ...]:
        """Return a hold with the next step, or () if nothing is staged."""
        step = self.next_step(now)
        return (Held("root-ca", self.spec.staged or "", step),) if step else ()

    def _document(self, path: str) -> Document:
        return decode(content, path) if (content := self._files.read(path)) else Document()

    def _label(self, path: str) -> str:
        inner = posixpath.relpath(path, self.spec.present or "/")
        return inner.removesuffix(".crt").removesuffix("-ca").replace("/", "-")


def _identity(staged: tuple[NewCA, ...]) -> str:
    return " ".join(each.sha256 for ca in staged for each in ca.new)


def require_server(files: DistributionCAFiles) -> None:
    """Raise RefusedError if this node has none of the CAs that the command replaces."""
    if not files.entries:
        fact = f"this node has no CA in {files.spec.present}, so it is not a server"
        raise RefusedError(f"{fact}; run the command on one server")
