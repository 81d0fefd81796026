"""Evidence about the origin of each certificate: old CAs, users who can write the files, and later certificates.

`pki.signing.policy` evaluates this evidence.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from certmond.config.model import Config
from certmond.errors import CertmondError, WriteError
from certmond.files.untrusted_writers import WriterLookup, Writers
from certmond.formats.kubeconfig_certificates import certificates_in
from certmond.immutable_class import immutable
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.observation import Inventory, Observation, Provenance
from certmond.pki.planning.installed_successors import Pattern, Renewals, later_beside
from certmond.pki.planning.steps import Identity
from certmond.pki.signing.policy import is_issued
from certmond.pki.x509.certificate import Certificate, certificates_of
from certmond.renewal.key_pair import KeyPair, entry_pair
from certmond.state.archive import Archive, ArchivedFile, archive_name
from certmond.state.renewals import Ledger
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.dirfd import blaming
from certmond.transaction.node_file_reader import NodeFiles


@immutable
class _Evidence:
    """Cached evidence about a certificate, with its inputs and the time `at` of its collection."""

    seen: Observation
    attempt: Attempt | None
    former: tuple[Certificate, ...]
    at: datetime
    made: Provenance


class ProvenanceLookup:
    """Collector of the evidence about the certificates of one node."""

    def __init__(self, config: Config, root: str, state_dir: Path) -> None:
        self._config, self._root = config, root
        self._archive, self._ledger, self._record = Archive(state_dir), Ledger(state_dir), RotationRecord(state_dir)
        self._authorities = {spec.name: spec for spec in config.certificates if spec.authority}
        self._files = NodeFiles(root)
        self._evidence: dict[Identity, _Evidence] = {}

    def of_due(
        self, due: Iterable[Observation], inventory: Inventory, now: datetime, *, within: float | None = None
    ) -> dict[Identity, Provenance]:
        """Return the evidence for each certificate in `due`, a part of `inventory`, at `now` (aware, UTC).

        With `within`, collect no new evidence after this number of seconds, and omit certificates without cached
        evidence. If the state directory is unreadable, return only the evidence collected before the error.
        """
        access, found = WriterLookup(self._root), dict[Identity, Provenance]()
        former, evidence = dict[str, tuple[Certificate, ...]](), dict[Identity, _Evidence]()
        present = {each.spec.name: each.certificates for each in inventory.observations if each.spec.authority}
        until = None if within is None else time.monotonic() + within
        pattern = Pattern(inventory)
        with suppress(WriteError):  # the executor raises the same error and refuses the renewal
            renewals = Renewals(self._ledger.attempts())
            for seen in due:
                ca = next((name for name in seen.spec.ca if present.get(name)), None)
                if ca and ca not in former:
                    former[ca] = self._former(ca, inventory)
                before, attempt = former.get(ca or "", ()), renewals.attempts.get(seen.identity)
                beside = pattern.beside(seen)
                cached = None if until is None else self._evidence.get(seen.identity)
                if not (cached and self._is_current(cached, seen, attempt, before, now)):
                    if until is not None and time.monotonic() >= until:
                        continue
                    signed = is_issued(
                        seen.certificates[0], seen.certificates[1:], (*present.get(ca or "", ()), *before)
                    )
                    made = self._provenance(seen, ca, access, renewals, former=before, beside=beside, signed=signed)
                    cached = _Evidence(seen, attempt, before, now, made)
                evidence[seen.identity], made = cached, cached.made
                if made.owner_writes:
                    later = later_beside(seen.certificates[0], beside, renewals.elsewhere(seen))
                    made = replace(made, later=(*made.later, *later))
                found[seen.identity] = made
        self._evidence = evidence
        return found

    def _is_current(
        self,
        cached: _Evidence,
        seen: Observation,
        attempt: Attempt | None,
        former: tuple[Certificate, ...],
        now: datetime,
    ) -> bool:
        same = seen is cached.seen and cached.attempt == attempt and cached.former == former
        return same and cached.at <= now < cached.at + self._config.resync

    def renewals(self) -> Renewals:
        """Return the renewals that the state directory records."""
        return Renewals(self._ledger.attempts())

    def of(
        self, seen: Observation, ca: str | None, known: Provenance | None, renewals: Renewals | None = None
    ) -> Provenance:
        """Collect the evidence about one certificate again, and add the evidence to `known`.

        `ca` is the CA that signs the renewal. Raises WriteError if certmond cannot read the archive.
        """
        former = (*(known.former if known else ()), *(self._former(ca) if ca else ()))
        made = self._provenance(
            seen, ca, WriterLookup(self._root), renewals or self.renewals(),
            former=former, beside=known.later if known else (), signed=True,
        )  # fmt: skip
        return replace(made, later=(*made.later, *known.later)) if known else made

    def _provenance(
        self, seen: Observation, ca: str | None, access: WriterLookup, renewals: Renewals, *,
        former: Iterable[Certificate], beside: Iterable[Certificate], signed: bool,
    ) -> Provenance:  # fmt: skip
        """Return the evidence about a certificate.

        Check the private key only if a known CA has `signed` the certificate, and if the owner can write the
        certificate file.
        """
        owner, key = seen.spec.owner, [seen.key_path] if seen.key_path else []
        writers = access.writers([seen.path], owner)
        authority = self._authorities.get(ca or "")
        of_ca = access.writers([authority.path], authority.owner) if authority else Writers()
        later, lost = self._later(seen, renewals, beside, owner_writes=writers.owner)
        return Provenance(
            former=tuple(dict.fromkeys(former)),
            path_writers=writers.path or access.writers(key, owner).path,  # a key file has no subject
            file_writers=writers.file,
            owner_writes=writers.owner,
            possessed=writers.owner and signed and self._is_possessed(seen),
            ca_writers=of_ca.path or of_ca.file,
            later=later,
            lost=lost,
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
        archived = (each for files in self._generations(name) for each in _in_files(files, Kind.BUNDLE))
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

    def _later(
        self, seen: Observation, known: Renewals, beside: Iterable[Certificate], *, owner_writes: bool
    ) -> tuple[tuple[Certificate, ...], bool]:
        """Return the archived certificates later than the present one, and whether a later certificate is missing."""
        present, archived = seen.certificates[0], list[Certificate]()
        for files in self._generations(archive_name(seen.spec, seen.path)):
            archived += _in_files(files, seen.spec.kind)
        # A recorded certificate is lost if neither the archive nor another file contains it.
        last = {each.sha256 for each in known.successors(seen, archived, owner_writes=owner_writes)}
        later = [each for each in archived if each.not_after > present.not_after or each.sha256 in last]
        return tuple(dict.fromkeys(later)), not last <= {each.sha256 for each in (*archived, *beside)}

    def _generations(self, name: str) -> list[tuple[ArchivedFile, ...]]:
        """Return the files of each archived generation of an entry, or [] without the permission to read the archive.

        Raises WriteError if the archive is unreadable for another reason.
        """
        with blaming(f"the archive of {name}", "read"), suppress(PermissionError):
            return [files for _, files in self._archive.complete_generations(name)]
        return []


def _in_files(files: Iterable[ArchivedFile], kind: Kind) -> Iterator[Certificate]:
    """Yield the first certificate of each archived file, or every certificate of a bundle. Skip unusable files."""
    for file in files:
        with suppress(CertmondError):
            found = certificates_in(file.content, file.path, kind)
            yield from found if kind is Kind.BUNDLE else found[:1]
