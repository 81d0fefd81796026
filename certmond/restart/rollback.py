"""Rollback of files: certmond archives working files, and restores the archived files if the new files fail.

This module never archives a CA or its key, because the daemon does not roll back a Root CA.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from certmond.config.model import Config
from certmond.errors import CertmondError, WriteError
from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import CertificateStatus
from certmond.pki.catalog.entries import SELF, CertificateSpec, Kind
from certmond.pki.catalog.observation import Observation
from certmond.pki.planning.installed_successors import Renewals
from certmond.pki.services.restart_episode import Target
from certmond.pki.signing.policy import fixed_by, outdone
from certmond.renewal.archive_generation_check import Generations
from certmond.renewal.archived_pair_check import Worth, as_put_back, verdict
from certmond.renewal.certificate_origin import ProvenanceLookup
from certmond.renewal.key_pair import KeyPair, KeyPairs, Read, Unpaired, as_written, entry_pair
from certmond.renewal.renewal_file_builder import archived
from certmond.renewal.symlink_target_check import SymlinkTargets
from certmond.state.archive import DID_NOT_WORK, Archive, ArchivedFile, archive_name
from certmond.transaction.commit import NewFile, Transactions, Writer
from certmond.transaction.dirfd import digest
from certmond.transaction.node_file_reader import NodeFiles


@immutable
class Rollback:
    """Completed rollback. `message` contains a sentence for each target.

    `restored_at` (UTC) is the latest change (ctime) of the restored files and of the symlinks on their paths. This time
    precedes the rollback if a process that was killed, or the recovery of its transaction, had restored the files.
    """

    message: str
    restored_at: datetime


class PreviousFiles:
    """Archiving and restoration of the previous files of one node.

    While certmond archives many files, it calls `alive` for each certificate, for the watchdog of systemd.
    """

    def __init__(
        self, config: Config, root: str, state_dir: Path, clock: Callable[[], datetime], *,
        alive: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._specs = {spec.name: spec for spec in config.certificates}
        self._archive = Archive(state_dir, config.archive.keep)
        # One more generation, so that the failed files do not displace the generation that certmond restores.
        self._failed = Archive(state_dir, config.archive.keep + 1)
        self._files, self._transactions = NodeFiles(root), Transactions(root, state_dir)
        self._generations = Generations(config, self._archive, self._files, clock)
        self._pairs = KeyPairs(config.certificates, self._files)
        self._symlink_targets = SymlinkTargets(config.certificates, self._files)
        self._provenance = ProvenanceLookup(config, root, state_dir)
        self._clock, self._alive = clock, alive
        self._archived: dict[tuple[str, str], Observation] = {}

    def unarchived(
        self, statuses: Collection[CertificateStatus], restarting: Container[str] = ()
    ) -> list[CertificateStatus]:
        """Return the valid certificates in use that `archive` has not stored in their present state.

        Omit a certificate that a service in `restarting` uses: the restart must first show that the certificate works.
        """
        present = {status.seen.identity for status in statuses}
        self._archived = {identity: seen for identity, seen in self._archived.items() if identity in present}
        return [
            status
            for status in statuses
            if _is_good(status)
            and self._archived.get(status.seen.identity) is not status.seen
            and not any(consumer.service in restarting for consumer in status.presence.consumers)
        ]

    def archive(self, statuses: Iterable[CertificateStatus], facts: Mapping[str, str]) -> None:
        """Archive the files of these certificates. The caller must hold the lock of all writers.

        Skip an old certificate with content that both the entry and a later certificate lack. Raises WriteError if
        certmond cannot write the archive.
        """
        renewals = self._provenance.renewals()
        for status in statuses:
            self._alive()
            seen = status.seen
            if self._is_outdone(status, facts, renewals):
                self._archived[seen.identity] = seen
                continue
            name = archive_name(seen.spec, seen.path)
            present = self._present(archived(seen))
            if any(content is None for content in present.values()):
                continue  # another process is replacing the file; the next pass archives the new file
            files = {path: self._transactions.real(path) for path in present}
            description = {
                "serial": status.certificate.serial_hex if status.certificate else "",
                "detail": "in use and valid",
            }
            self._archive.store(name, files, self._clock(), description)
            self._archived[seen.identity] = seen

    def _is_outdone(self, status: CertificateStatus, facts: Mapping[str, str], renewals: Renewals) -> bool:
        seen = status.seen
        if not seen.spec.ca or not seen.certificates:
            return False
        ca = next((name for name in seen.spec.ca if name != SELF), None)
        provenance = self._provenance.of(status, ca, renewals)
        fixed = fixed_by(seen.spec, facts)
        return bool(outdone(seen.certificates[0], seen.certificates[1:], status.issuers, provenance, fixed))

    def restore(self, writer: Writer, targets: Sequence[Target], statuses: Iterable[CertificateStatus]) -> Rollback:
        """Restore the newest valid previous files of each target. Do not write a file that is already restored.

        Raises WriteError if the archive contains no such files, if another process has changed the present files, or if
        certmond must not write the files. In these cases, certmond changes no file.
        """
        known = {status.seen.identity: status for status in statuses}
        changes, replaced, messages = list[NewFile](), list[tuple[str, dict[str, Path]]](), list[str]()
        restored = list[str]()
        for target in targets:
            spec = self._specs.get(target.name)
            if spec is None:
                raise WriteError(f"the configuration has no entry {target.name}")
            name = archive_name(spec, target.path)
            files, when = self._previous(spec, name, target, known.get((target.name, target.path)))
            present = self._present(file.path for file in files)
            restored += present
            for path, content in present.items():
                if path in target.contents and content is not None and digest(content) != target.contents[path]:
                    if all(present[file.path] == file.content for file in files):
                        break  # a killed process has restored the files
                    raise WriteError(f"another process has changed {path} in the meantime")
            else:
                own = [_change(file, present[file.path]) for file in files if present[file.path] != file.content]
                paths = [change.path for change in own]
                if why := self._files.exposed(paths, spec.owner) or self._symlink_targets.objection(paths, spec):
                    raise WriteError(why)
                changes += own
                existing = {
                    path: self._transactions.real(path) for path, content in present.items() if content is not None
                }
                replaced.append((name, existing))
            messages.append(f"certmond restored {target.path} to its state before {when:%Y-%m-%d %H:%M} UTC")

        def archive_failed() -> None:
            for name, paths in replaced:
                self._failed.store(name, paths, self._clock(), {"detail": DID_NOT_WORK})

        def verify(written: Mapping[str, bytes]) -> None:
            read = as_written(changes, written, self._files)
            specs = ((self._specs[target.name], target.path) for target in targets)
            pairs = (self._pair(spec, path, read) for spec, path in specs)
            mismatches = [pair.message for pair in pairs if isinstance(pair, Unpaired)]
            if mismatches := [*mismatches, *self._pairs.mismatches(changes, read)]:
                raise WriteError(*mismatches)

        if changes:
            writer.commit(changes, verify=verify, before_rename=archive_failed)
        changed_at = filter(None, map(self._files.changed_at, restored))
        return Rollback("; ".join(messages), max(changed_at, default=self._clock()))

    def _previous(
        self, spec: CertificateSpec, name: str, target: Target, status: CertificateStatus | None
    ) -> tuple[tuple[ArchivedFile, ...], datetime]:
        for generation, stored in self._archive.complete_generations(name):
            if generation.description.get("detail") == DID_NOT_WORK:
                continue
            try:
                files = self._generations.to_restore(name, stored)
            except CertmondError:
                continue  # certmond cannot write the present CA into this kubeconfig
            if not _differs(files, target):
                if _differs(stored, target):
                    break  # only the CA differs, so the services failed with these credentials
                continue
            if status and self._is_good(spec, target, files, status):
                return files, generation.when
        raise WriteError(f"the archive has no previous generation of {target.name} that is still valid")

    def _is_good(
        self, spec: CertificateSpec, target: Target, files: Sequence[ArchivedFile], status: CertificateStatus
    ) -> bool:
        """Return whether the files contain a certificate that is valid under the present CAs, and its key."""
        pair = self._pair(spec, target.path, as_put_back(files, self._files))
        own = pair.chain if isinstance(pair, KeyPair) else ()
        anchors = status.anchors if spec.ca else own
        return verdict(pair, anchors, status.usages, self._clock()).worth is Worth.GOOD

    def _pair(self, spec: CertificateSpec, path: str, read: Read) -> KeyPair | Unpaired:
        return entry_pair(spec.kind, path, spec.key_of(path), read, references=not self._files.other_writer(path, None))

    def _present(self, paths: Iterable[str]) -> dict[str, bytes | None]:
        return {path: self._files.read(path) for path in paths}


def _is_good(status: CertificateStatus) -> bool:
    seen = status.seen
    # An entry that is no trust anchor can also have a CA, such as the file in --cluster-signing-cert-file.
    is_ca = seen.spec.authority or any(each.is_ca for each in seen.certificates[:1])
    archivable = bool(status.presence.consumers) and not is_ca and seen.spec.kind is not Kind.KEY_PAIR
    # Without these conditions, no restart has shown that the certificate works.
    in_use = status.presence.judged and not (status.presence.stale or status.presence.failures)
    return archivable and in_use and status.chain_valid and status.key_matches is True and not status.stale


def _change(file: ArchivedFile, present: bytes | None) -> NewFile:
    expected = None if present is None else digest(present)
    return NewFile(file.path, file.content, file.mode, file.owner, expected, at_most=file.mode)


def _differs(files: Iterable[ArchivedFile], target: Target) -> bool:
    """Return whether one of the files differs from the file of the target at the same path."""
    return any(target.contents.get(file.path) not in {None, digest(file.content)} for file in files)
