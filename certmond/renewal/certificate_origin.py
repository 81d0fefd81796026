"""Evidence about the origin of each certificate: old CAs, users who can write the files, and later certificates.

`pki.signing.policy` evaluates this evidence.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
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
from certmond.pki.planning.installed_successors import Pattern, Renewals, later_certificates
from certmond.pki.planning.steps import Identity
from certmond.pki.signing.policy import contents_of, is_issued
from certmond.pki.x509.certificate import Certificate, certificates_of
from certmond.renewal.key_pair import KeyPair, entry_pair
from certmond.state.archive import Archive, ArchivedFile, archive_name
from certmond.state.renewals import Ledger
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.dirfd import blaming
from certmond.transaction.node_file_reader import NodeFiles

_Checked = tuple[tuple[Certificate, ...], tuple[Certificate, ...]]
"""The certificates of a file, and the possible issuers."""


@immutable
class _Evidence:
    """Cached evidence about a certificate, with its inputs and the time `at` of its collection.

    `archived` are the archived certificates of the same file. `made` does not contain the later certificates.
    """

    seen: Observation
    attempt: Attempt | None
    former: tuple[Certificate, ...]
    at: datetime
    made: Provenance
    archived: tuple[Certificate, ...]


class ProvenanceLookup:
    """Collector of the evidence about the certificates of one node."""

    def __init__(self, config: Config, root: str, state_dir: Path) -> None:
        self._config, self._root = config, root
        self._archive, self._ledger, self._record = Archive(state_dir), Ledger(state_dir), RotationRecord(state_dir)
        self._authorities = {spec.name: spec for spec in config.certificates if spec.authority}
        self._files = NodeFiles(root)
        self._evidence: dict[Identity, _Evidence] = {}
        self._contents: dict[_Checked, Hashable | None] = {}
        """The contents of each certificate in a pattern, or None if no CA has issued the certificate."""

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
        pattern, known, self._contents = Pattern(inventory), self._contents, {}
        with suppress(WriteError):  # the executor raises the same error and refuses the renewal
            renewals = Renewals(self._ledger.attempts())
            for seen in due:
                ca = next((name for name in seen.spec.ca if present.get(name)), None)
                if ca and ca not in former:
                    former[ca] = self._former(ca, inventory)
                before, attempt = former.get(ca or "", ()), renewals.attempts.get(seen.identity)
                issuers = (*present.get(ca or "", ()), *before)
                cached = None if until is None else self._evidence.get(seen.identity)
                if not (cached and self._is_current(cached, seen, attempt, before, now)):
                    if until is not None and time.monotonic() >= until:
                        continue
                    signed = is_issued(seen.certificates[0], seen.certificates[1:], issuers)
                    made = self._provenance(seen, ca, access, former=before, signed=signed)
                    cached = _Evidence(seen, attempt, before, now, made, self._archived(seen))
                evidence[seen.identity], made, holder = cached, cached.made, None
                if made.owner_writes and seen.spec.is_glob:
                    holder = renewals.holder(seen, partial(self._issued, pattern.beside(seen), issuers, known))
                later = later_certificates(seen, cached.archived, attempt, holder, owner_writes=made.owner_writes)
                found[seen.identity] = replace(
                    made, later=later.archived, later_elsewhere=later.elsewhere, lost=later.lost
                )
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

    def _issued(
        self,
        files: Iterable[tuple[Certificate, ...]],
        issuers: tuple[Certificate, ...],
        known: Mapping[_Checked, Hashable | None],
    ) -> dict[Certificate, Hashable]:
        """Return the first certificates of `files` that a CA in `issuers` has issued, each with its contents."""
        found = dict[Certificate, Hashable]()
        for certificates in files:
            checked = certificates, issuers
            if checked in known:
                contents = known[checked]
            else:
                is_valid = is_issued(certificates[0], certificates[1:], issuers)
                contents = contents_of(certificates[0]) if is_valid else None
            self._contents[checked] = contents
            if contents is not None:
                found[certificates[0]] = contents
        return found

    def renewals(self) -> Renewals:
        """Return the renewals that the state directory records."""
        return Renewals(self._ledger.attempts())

    def of(self, seen: Observation, ca: str | None, known: Provenance | None, renewals: Renewals) -> Provenance:
        """Collect the evidence about one certificate again, and add the evidence to `known`.

        `ca` is the CA that signs the renewal. Without `known`, certmond does not know the certificates in the other
        files of a pattern, so that each later renewal of such a file counts as lost. Raises WriteError if certmond
        cannot read the archive.
        """
        before = known or Provenance()
        former = (*before.former, *(self._former(ca) if ca else ()))
        made = self._provenance(seen, ca, WriterLookup(self._root), former=former, signed=True)
        holder = renewals.holder(seen) if known is None and made.owner_writes and seen.spec.is_glob else None
        later = later_certificates(
            seen, self._archived(seen), renewals.attempts.get(seen.identity), holder, owner_writes=made.owner_writes,
            known=(*before.later, *before.later_elsewhere),
        )  # fmt: skip
        return replace(
            made,
            later=(*later.archived, *before.later),
            later_elsewhere=(*later.elsewhere, *before.later_elsewhere),
            lost=later.lost or before.lost,
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

    def _archived(self, seen: Observation) -> tuple[Certificate, ...]:
        """Return the archived certificates of the file. Raises WriteError if certmond cannot read the archive."""
        generations = self._generations(archive_name(seen.spec, seen.path))
        return tuple(each for files in generations for each in _in_files(files, seen.spec.kind))

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
