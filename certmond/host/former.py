"""The files that worked: kept when they are seen to be good, and put back when what came after them did not work.

Owns which generation of the archive is a former one: another than what is there, whole, and still valid. CAs and their
keys are never copied: a Root CA is not taken back by a daemon. What puts files in place is a transaction as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from certmond.config import Config
from certmond.errors import CertmondError, WriteError
from certmond.host.archive import DID_NOT_WORK, Archive, ArchivedFile
from certmond.host.archived_pair import Worth, as_put_back, verdict
from certmond.host.destination import Destinations
from certmond.host.generations import Generations
from certmond.host.key_pair import KeyPair, KeyPairs, Read, Unpaired, as_written, entry_pair
from certmond.host.node_files import NodeFiles
from certmond.host.place import digest
from certmond.host.provenance import ProvenanceLookup
from certmond.host.renewal import archive_name, archived
from certmond.host.transaction import NewFile, Transactions, Writer
from certmond.pki.assess import CertificateStatus
from certmond.pki.catalog import SELF, CertificateSpec, Kind
from certmond.pki.inventory import Observation
from certmond.pki.restart import Target
from certmond.pki.signing_policy import fixed_by, outdone
from certmond.pki.succession import Renewals


class FormerFiles:
    """For one configuration and one node."""

    def __init__(self, config: Config, root: str, state_dir: Path, clock: Callable[[], datetime]) -> None:
        self._specs = {spec.name: spec for spec in config.certificates}
        self._archive = Archive(state_dir, config.archive.keep)
        # One more for what did not work: it must not push out what it is replaced by.
        self._taken_back = Archive(state_dir, config.archive.keep + 1)
        self._files, self._transactions = NodeFiles(root), Transactions(root, state_dir)
        self._generations = Generations(config, self._archive, self._files, clock)
        self._pairs = KeyPairs(config.certificates, self._files)
        self._destinations = Destinations(config.certificates, self._files)
        self._provenance = ProvenanceLookup(config, root, state_dir)
        self._clock = clock
        self._kept: dict[tuple[str, str], Observation] = {}

    def unkept(
        self, statuses: Collection[CertificateStatus], restarting: Container[str] = ()
    ) -> list[CertificateStatus]:
        """The certificates that services use, are good, and were not looked at by `keep` as they are now.

        Of those that `restarting` services use nobody knows yet. What is not among `statuses` is forgotten: where it
        comes back, it is looked at anew.
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
                continue  # it goes at this moment: the next pass sees to it
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
        """Put the newest former files of each target back, in the place of what it has; a sentence about it.

        `statuses` are the verdicts of now: they have the CAs to which former certificates have to lead. Raises
        WriteError where there are none, or somebody has changed the files meanwhile; nothing was changed then.
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
                        break  # they are back already: a process that did it was killed
                    raise WriteError(f"{path} was changed by someone else meanwhile")
            else:
                own = [_change(file, present[file.path]) for file in files if present[file.path] != file.content]
                paths = [change.path for change in own]
                if why := self._files.exposed(paths, spec.owner) or self._destinations.astray(paths, spec):
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
        for generation, kept in self._archive.whole(name):
            if generation.description.get("detail") == DID_NOT_WORK:
                continue
            try:
                files = self._generations.as_trusting(name, kept)
            except CertmondError:
                continue  # its CA cannot be exchanged for the present one
            differs = any(target.contents.get(file.path) not in {None, digest(file.content)} for file in files)
            if differs and status and self._is_good(spec, target, files, status):
                return files, generation.when
        raise WriteError(f"the archive has no former {target.name} that is still valid")

    def _is_good(
        self, spec: CertificateSpec, target: Target, files: Sequence[ArchivedFile], status: CertificateStatus
    ) -> bool:
        """Put back, there is a certificate with its key, and with a path to the CAs of now that holds now."""
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
    # Otherwise nobody knows yet whether it works.
    in_use = status.presence.judged and not (status.presence.stale or status.presence.failures)
    return mine and in_use and status.chain_valid and status.key_matches is True and not status.stale


def _change(file: ArchivedFile, present: bytes | None) -> NewFile:
    expected = None if present is None else digest(present)
    return NewFile(file.path, file.content, file.mode, file.owner, expected, at_most=file.mode)
