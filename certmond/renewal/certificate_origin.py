"""Evidence about the origin of each certificate: old CAs, users who can write the files, and later certificates.

`pki.signing.policy` evaluates this evidence.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from operator import itemgetter
from pathlib import Path

from certmond.config.model import Config
from certmond.errors import CertmondError, WriteError
from certmond.files.untrusted_writers import WriterLookup, Writers
from certmond.formats.kubeconfig_certificates import certificates_in
from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import CertificateStatus
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.observation import Inventory, Observation, Provenance
from certmond.pki.planning.installed_successors import Renewals, later_certificates
from certmond.pki.planning.pattern_files import PatternFiles
from certmond.pki.planning.steps import Identity
from certmond.pki.x509.certificate import Certificate, certificates_of
from certmond.pki.x509.issuance import is_issued, issuing_cas
from certmond.renewal.key_pair import KeyPair, entry_pair
from certmond.state.archive import Archive, ArchivedFile, archive_name
from certmond.state.renewals import Ledger
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.dirfd import blaming
from certmond.transaction.node_file_reader import NodeFiles


@immutable
class _Evidence:
    """Cached evidence about a certificate, with its inputs and the time `at` of its collection.

    `archived` are the archived certificates of the same file. `made` does not contain the later certificates.
    """

    seen: Observation
    attempt: Attempt | None
    issuers: tuple[Certificate, ...]
    at: datetime
    made: Provenance
    archived: tuple[Certificate, ...]


class ProvenanceLookup:
    """Collector of the evidence about the certificates of one node. It calls `alive` while it compares many files."""

    def __init__(self, config: Config, root: str, state_dir: Path, alive: Callable[[], None] = lambda: None) -> None:
        self._config, self._root = config, root
        self._archive, self._ledger, self._record = Archive(state_dir), Ledger(state_dir), RotationRecord(state_dir)
        self._authorities = {spec.name: spec for spec in config.certificates if spec.authority}
        self._files, self._pattern_files = NodeFiles(root), PatternFiles(alive)
        self._evidence: dict[Identity, _Evidence] = {}
        self._passes, self._collected_in = 0, Counter[str]()  # the last pass that collected evidence of each entry
        self._waiting: dict[Identity, datetime] = {}  # the time since which a certificate has no recent evidence
        self.is_complete = True
        """Whether the last call of `of_due` had time for all certificates without evidence."""

    def of_due(
        self, due: Iterable[Observation], inventory: Inventory, now: datetime, *, within: float | None = None
    ) -> dict[Identity, Provenance]:
        """Return the evidence for each certificate in `due`, a part of `inventory`, at `now` (aware, UTC).

        With `within`, collect no new evidence after this number of seconds. Then use older evidence about an unchanged
        certificate, and omit the other certificates; `is_complete` is False. Also omit a certificate whose archive is
        unreadable: the executor raises the same error.
        """
        access, found = WriterLookup(self._root), dict[Identity, Provenance]()
        former, evidence = dict[str, tuple[Certificate, ...]](), dict[Identity, _Evidence]()
        present = {each.spec.name: each.certificates for each in inventory.observations if each.spec.authority}
        renewals, ordered = Renewals(self._ledger.attempts()), self._in_turn(due, now)
        self._pattern_files.begin(inventory)
        self._passes, self.is_complete = self._passes + 1, True
        until = None if within is None else time.monotonic() + within
        for seen in ordered:
            ca = next((name for name in seen.spec.ca if present.get(name)), None)
            with suppress(WriteError):
                if ca and ca not in former:
                    former[ca] = self._former(ca, inventory)
                before, attempt = former.get(ca or "", ()), renewals.attempts.get(seen.identity)
                issuers = (*present.get(ca or "", ()), *before)
                cached = None if until is None else self._cached(seen)
                if cached and (cached.attempt, cached.issuers) != (attempt, issuers):
                    cached = None
                is_over = until is not None and time.monotonic() >= until
                if is_over and not cached:
                    self.is_complete = False
                    continue
                if not cached or not (is_over or self._is_recent(cached.at, now)):
                    self._collected_in[seen.name] = self._passes
                    self._waiting.pop(seen.identity, None)
                    signed = is_issued(seen.certificates[0], seen.certificates[1:], issuers)
                    archived, intermediates = self._archived(seen, issuers)
                    made = self._provenance(seen, ca, access, former=before, signed=signed)
                    made = replace(made, intermediates=intermediates)
                    cached = _Evidence(seen, attempt, issuers, now, made, archived)
                evidence[seen.identity], made = cached, cached.made
                if made.owner_writes:
                    made = replace(made, beside=self._pattern_files.of(seen, issuers))
                found[seen.identity] = _with_later(made, seen, cached.archived, renewals)
        self._evidence = evidence
        return found

    def _in_turn(self, due: Iterable[Observation], now: datetime) -> list[Observation]:
        """Return the certificates in the order of the collection.

        First the certificates without recent evidence, one of each entry in turn, and first of the entry whose last
        collection is the oldest. Of an entry, first the certificate that waits for the longest time. Therefore, a user
        who changes files again and again does not delay the other files. Then the certificates with recent evidence.
        """
        waiting, recent = dict[Identity, datetime](), list[Observation]()
        observed = {seen.identity: seen for seen in due}
        for identity, seen in observed.items():
            cached = self._cached(seen)
            if cached and self._is_recent(cached.at, now):
                recent.append(seen)
            else:
                begun = min(now, cached.at + self._config.resync) if cached else now
                waiting[identity] = min(begun, self._waiting.get(identity, begun))
        self._waiting, turns = waiting, Counter[str]()
        numbered = list[tuple[tuple[int, int], Observation]]()
        for identity in sorted(waiting, key=lambda each: waiting[each]):
            numbered.append(((turns[identity[0]], self._collected_in[identity[0]]), observed[identity]))
            turns[identity[0]] += 1
        return [*(seen for _, seen in sorted(numbered, key=itemgetter(0))), *recent]

    def _cached(self, seen: Observation) -> _Evidence | None:
        """Return the evidence about an unchanged certificate, or None."""
        cached = self._evidence.get(seen.identity)
        return cached if cached and seen is cached.seen else None

    def _is_recent(self, at: datetime, now: datetime) -> bool:
        return at <= now < at + self._config.resync

    def renewals(self) -> Renewals:
        """Return the renewals that the state directory records."""
        return Renewals(self._ledger.attempts())

    def of(self, status: CertificateStatus, ca: str | None, renewals: Renewals) -> Provenance:
        """Collect the evidence about one certificate again, and add the evidence to that of its status.

        `ca` is the CA that signs the renewal. Without evidence in the status, certmond does not know the certificates
        in the other files of a pattern, so that each later renewal of such a file counts as lost. Raises WriteError if
        certmond cannot read the archive.
        """
        seen, known = status.seen, status.presence.provenance
        before = known or Provenance()
        former = (*before.former, *(self._former(ca) if ca else ()))
        archived, intermediates = self._archived(seen, (*status.issuers, *former))
        made = replace(
            self._provenance(seen, ca, WriterLookup(self._root), former=former, signed=True),
            intermediates=intermediates, beside=before.beside,
        )  # fmt: skip
        made = _with_later(made, seen, archived, renewals)
        return replace(
            made,
            later=(*made.later, *before.later),
            later_issued=(*made.later_issued, *before.later_issued),
            lost=made.lost or before.lost,
            more_later=made.more_later or before.more_later,
        )

    def _provenance(
        self, seen: Observation, ca: str | None, access: WriterLookup, *, former: Iterable[Certificate], signed: bool
    ) -> Provenance:
        """Return the evidence about a certificate, except the later certificates.

        Check the private key only if a known CA has `signed` the certificate, and if the owner can write the
        certificate file.
        """
        owner, key = seen.spec.owner, [seen.key_path] if seen.key_path else []
        writers = access.writers([seen.path], owner)
        authority = self._authorities.get(ca or "")
        of_ca = access.writers([authority.path], authority.owner) if authority else Writers()
        return Provenance(
            former=tuple(dict.fromkeys(former)),
            path_writers=writers.path or access.writers(key, owner).path,  # a key file has no subject
            file_writers=writers.file,
            owner_writes=writers.owner,
            possessed=writers.owner and signed and self._is_possessed(seen),
            ca_writers=of_ca.path or of_ca.file,
        )

    def _is_possessed(self, seen: Observation) -> bool:
        """Return whether the private key in the files of the certificate matches the certificate.

        Follow no reference, and no symlink of another user, because root can read more files than that user.
        """
        if not seen.key_matches:
            return False
        read = partial(self._files.read, follow_any_link=False)
        try:
            pair = entry_pair(seen.spec.kind, seen.path, seen.key_path, read)
        except WriteError:
            return False
        return isinstance(pair, KeyPair) and pair.leaf == seen.certificates[0]

    def _former(self, name: str, inventory: Inventory | None = None) -> tuple[Certificate, ...]:
        """Return the old CAs of an entry, from the record of rotations and the archive.

        If the record contains no CA of the entry, also return the CAs that all trusted kubeconfigs in `inventory`
        embed.
        """
        accepted = certificates_of((*self._record.anchors().get(name, ()), *self._record.rotated(name)))
        archived = (each for files in self._generations(name) for each, _ in _in_files(files, Kind.BUNDLE))
        embedded = self._embedded(name, inventory) if inventory and not accepted else ()
        return tuple(dict.fromkeys((*accepted, *archived, *embedded)))

    def _embedded(self, name: str, inventory: Inventory) -> tuple[Certificate, ...]:
        """Return the CAs that all kubeconfigs for the CA entry `name` embed.

        Ignore a kubeconfig that an untrusted user can change. A CA in only one of several kubeconfigs does not count,
        because this kubeconfig might be for another cluster.
        """
        access, trusted = WriterLookup(self._root), list[frozenset[Certificate]]()
        for seen in (each for each in inventory.observations if each.spec.embedded_ca == name):
            for embedded in (each for each in seen.embedded if each.file is None and each.certificates):
                writers = access.writers([embedded.path], None)
                if not (writers.path or writers.file):
                    trusted.append(frozenset(embedded.certificates))
        return tuple(frozenset.intersection(*trusted)) if trusted else ()

    def _archived(
        self, seen: Observation, issuers: Sequence[Certificate]
    ) -> tuple[tuple[Certificate, ...], tuple[Certificate, ...]]:
        """Return the archived certificates of the file, and the intermediate CAs of `issuers` in all of these files.

        Raises WriteError if certmond cannot read the archive.
        """
        files = (file for files in self._generations(archive_name(seen.spec, seen.path)) for file in files)
        found = [*_in_files(files, seen.spec.kind)]
        # The owner of the file can remove a CA from the chain, or add a thousand certificates with its name.
        others = (*seen.certificates[1:], *(each for _, chain in found for each in chain))
        return tuple(leaf for leaf, _ in found), issuing_cas(others, issuers) if found else ()

    def _generations(self, name: str) -> list[tuple[ArchivedFile, ...]]:
        """Return the files of each archived generation of an entry, or [] without the permission to read the archive.

        Raises WriteError if the archive is unreadable for another reason.
        """
        with blaming(f"the archive of {name}", "read"), suppress(PermissionError):
            return [files for _, files in self._archive.complete_generations(name)]
        return []


def _in_files(files: Iterable[ArchivedFile], kind: Kind) -> Iterator[tuple[Certificate, tuple[Certificate, ...]]]:
    """Yield the first certificate of each archived file, or every certificate of a bundle. Skip unusable files.

    The second item contains the other certificates of a file, or () for a bundle.
    """
    for file in files:
        with suppress(CertmondError):
            found = certificates_in(file.content, file.path, kind)
            if kind is Kind.BUNDLE:
                yield from ((each, ()) for each in found)
            elif found:
                yield found[0], tuple(found[1:])


def _with_later(
    made: Provenance, seen: Observation, archived: Collection[Certificate], renewals: Renewals
) -> Provenance:
    """Return `made` with the certificates that are later than the present certificate."""
    holder = renewals.holder(seen, made.beside) if made.owner_writes and seen.spec.is_glob else None
    own = renewals.attempts.get(seen.identity)
    later = later_certificates(seen, archived, own, holder, owner_writes=made.owner_writes)
    return replace(made, later=later.archived, later_issued=later.issued, lost=later.lost, more_later=later.more)
