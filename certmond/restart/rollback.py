"""Rollback of files: archive those that work, and restore them if their successors do not.

Owns which generation of the archive is a previous one: different from the present files, complete, and still valid. CAs
and their keys are never copied, because the daemon does not roll back a Root CA. An ordinary transaction replaces the
files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from certmond.config.model import Config
from certmond.errors import WriteError
from certmond.pki.assessment.assess import CertificateStatus
from certmond.pki.catalog.entries import SELF, CertificateSpec, Kind
from certmond.pki.catalog.observation import Observation
from certmond.pki.planning.installed_successors import Renewals
from certmond.pki.services.restart_state_machine import Target
from certmond.pki.signing.policy import fixed_by, outdone
from certmond.renewal.archived_pair import Worth, as_put_back, verdict
from certmond.renewal.certificate_origin import ProvenanceLookup
from certmond.renewal.key_pair import KeyPair, KeyPairs, Read, Unpaired, as_written, entry_pair
from certmond.renewal.replace import archive_name, archived
from certmond.state.archive import DID_NOT_WORK, Archive, ArchivedFile
from certmond.transaction.commit import NewFile, Transactions, Writer
from certmond.transaction.dirfd import digest
from certmond.transaction.node_files import NodeFiles


class PreviousFiles:
    """The previous files for one configuration and one node."""

    def __init__(self, config: Config, root: str, state_dir: Path, clock: Callable[[], datetime]) -> None:
        self._specs = {spec.name: spec for spec in config.certificates}
        self._archive = Archive(state_dir, config.archive.keep)
        # One more, so that the files that did not work do not push out the generation that replaces them.
        self._taken_back = Archive(state_dir, config.archive.keep + 1)
        self._files, self._transactions = NodeFiles(root), Transactions(root, state_dir)
        self._pairs = KeyPairs(config.certificates, self._files)
        self._provenance = ProvenanceLookup(config, root, state_dir)
        self._clock = clock
        self._kept: dict[tuple[str, str], Observation] = {}

    def unkept(
        self, statuses: Collection[CertificateStatus], restarting: Container[str] = ()
    ) -> list[CertificateStatus]:
        """Return the certificates that services use, that are good, and that `keep` has not stored in their present
        state.

        Those that `restarting` services use are left out: whether they work is not known yet. A certificate that is not
        among `statuses` is dropped, and stored again when it returns.
        """
        there = {status.seen.identity for status in statuses}
        self._kept = {identity: seen for identity, seen in self._kept.items() if identity in there}
        return [
            status
            for status in statuses
            if _is_good(status)
            and self._kept.get(status.seen.identity) is not status.seen
            and not any(consumer.service in restarting for consumer in status.presence.consumers)
        ]

    def keep(self, statuses: Iterable[CertificateStatus], facts: Mapping[str, str]) -> None:
        """Store what is good and not in the archive yet. Whoever calls holds the lock. Raises WriteError.

        `facts` are the node's. A former certificate that somebody put back, with more than the one that followed it,
        is not stored.
        """
        renewals = self._provenance.renewals()
        for status in statuses:
            seen = status.seen
            if self._is_outdone(status, facts, renewals):
                self._kept[seen.identity] = seen
                continue
            name = archive_name(seen.spec, seen.path)
            present = self._present(archived(seen))
            if any(content is None for content in present.values()):
                continue  # the file is being replaced; the next pass stores it
            files = {path: self._transactions.real(path) for path in present}
            description = {
                "serial": f"{status.certificate.serial:x}" if status.certificate else "",
                "detail": "seen good",
            }
            self._archive.store(name, files, self._clock(), description)
            self._kept[seen.identity] = seen

    def _is_outdone(self, status: CertificateStatus, facts: Mapping[str, str], renewals: Renewals) -> bool:
        seen, known = status.seen, status.presence.provenance
        if not seen.spec.ca or not seen.certificates:
            return False
        ca = next((name for name in seen.spec.ca if name != SELF), None)
        provenance = self._provenance.of(seen, ca, known, renewals)
        fixed = fixed_by(seen.spec, facts)
        return bool(outdone(seen.certificates[0], seen.certificates[1:], status.issuers, provenance, fixed))

    def put_back(self, writer: Writer, targets: Sequence[Target], statuses: Iterable[CertificateStatus]) -> str:
        """Restore the newest previous files of each target. Return a sentence.

        `statuses` are the present verdicts, with the CAs to which previous certificates must chain. Raises WriteError,
        without a change, if there are no such files, or another process has changed the files meanwhile.
        """
        known = {status.seen.identity: status for status in statuses}
        changes, kept, said = list[NewFile](), list[tuple[str, dict[str, Path]]](), list[str]()
        for target in targets:
            spec = self._specs.get(target.name)
            if spec is None:
                raise WriteError(f"{target.name} is not in the configuration any more")
            name = archive_name(spec, target.path)
            files, when = self._former(spec, name, target, known.get((target.name, target.path)))
            present = self._present(file.path for file in files)
            for path, content in present.items():
                if path in target.contents and content is not None and digest(content) != target.contents[path]:
                    if all(present[file.path] == file.content for file in files):
                        break  # they are restored already, by a process that was killed
                    raise WriteError(f"{path} was changed by someone else meanwhile")
            else:
                own = [_change(file, present[file.path]) for file in files if present[file.path] != file.content]
                if why := self._files.exposed([change.path for change in own], spec.owner):
                    raise WriteError(why)
                changes += own
                there = {
                    path: self._transactions.real(path) for path, content in present.items() if content is not None
                }
                kept.append((name, there))
            said.append(f"{target.path} is put back as it was on {when:%Y-%m-%d %H:%M} UTC")

        def keep() -> None:
            for name, there in kept:
                self._taken_back.store(name, there, self._clock(), {"detail": DID_NOT_WORK})

        def verify(written: Mapping[str, bytes]) -> None:
            read = as_written(changes, written, self._files)
            specs = ((self._specs[target.name], target.path) for target in targets)
            pairs = (self._pair(spec, path, read) for spec, path in specs)
            torn = [pair.message for pair in pairs if isinstance(pair, Unpaired)]
            if torn := [*torn, *self._pairs.torn(changes, read)]:
                raise WriteError(*torn)

        if changes:
            writer.commit(changes, verify=verify, before_rename=keep)
        return "; ".join(said)

    def _former(
        self, spec: CertificateSpec, name: str, target: Target, status: CertificateStatus | None
    ) -> tuple[tuple[ArchivedFile, ...], datetime]:
        for generation, files in self._archive.whole(name):
            if generation.description.get("detail") == DID_NOT_WORK:
                continue
            differs = any(target.contents.get(file.path) not in {None, digest(file.content)} for file in files)
            if differs and status and self._is_good(spec, target, files, status):
                return files, generation.when
        raise WriteError(f"the archive has no former {target.name} that is still valid")

    def _is_good(
        self, spec: CertificateSpec, target: Target, files: Sequence[ArchivedFile], status: CertificateStatus
    ) -> bool:
        """Return whether the restored files would be a valid certificate with its key, under the present CAs."""
        pair = self._pair(spec, target.path, as_put_back(files, self._files))
        own = pair.chain if isinstance(pair, KeyPair) else ()
        anchors = status.anchors if spec.ca else own
        return verdict(pair, anchors, status.usages, self._clock()).worth is Worth.GOOD

    def _pair(self, spec: CertificateSpec, path: str, read: Read) -> KeyPair | Unpaired:
        key_path = None if spec.is_glob else spec.key
        return entry_pair(spec.kind, path, key_path, read, references=not self._files.strangers(path, None))

    def _present(self, paths: Iterable[str]) -> dict[str, bytes | None]:
        return {path: self._files.read(path) for path in paths}


def _is_good(status: CertificateStatus) -> bool:
    seen = status.seen
    mine = bool(status.presence.consumers) and not seen.spec.authority and seen.spec.kind is not Kind.KEY_PAIR
    # Otherwise it is not known yet whether the certificate works.
    in_use = status.presence.judged and not (status.presence.stale or status.presence.failures)
    return mine and in_use and status.chain_valid and status.key_matches is True and not status.stale


def _change(file: ArchivedFile, present: bytes | None) -> NewFile:
    expected = None if present is None else digest(present)
    return NewFile(file.path, file.content, file.mode, file.owner, expected, at_most=file.mode)
