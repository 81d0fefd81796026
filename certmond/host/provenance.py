"""Where the certificates that are due come from: former CAs, who can write their files, what certmond put there since.

Owns the gathering of that evidence from the node, the state directory and the root-owned kubeconfigs. Judges nothing:
`pki.signing_policy` does. Only reads.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from certmond.config import Config
from certmond.errors import CertmondError, WriteError
from certmond.host.archive import Archive, ArchivedFile
from certmond.host.key_pair import KeyPair, entry_pair
from certmond.host.ledger import Ledger
from certmond.host.node_files import NodeFiles
from certmond.host.place import blaming
from certmond.host.renewal import archive_name, certificates_in
from certmond.host.rotation_record import RotationRecord
from certmond.host.writers import WriterLookup, Writers
from certmond.pki.attempt import Attempt
from certmond.pki.catalog import Kind
from certmond.pki.certificate import Certificate, certificates_of
from certmond.pki.checks import renewal_point
from certmond.pki.inventory import Inventory, Observation, Provenance
from certmond.pki.settings import LOCAL, NOBODY
from certmond.pki.signing_policy import is_issued
from certmond.pki.steps import Identity
from certmond.pki.succession import Pattern, Renewals, later_beside

_WITH_A_KEY = frozenset({LOCAL, "kubeadm"})  # kinds of signers that need the key of the CA on this node
_RENEWED = frozenset({Kind.FILE, Kind.KUBECONFIG, Kind.KUBELET})


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What was looked up `at` an instant, and what it was looked up of."""

    seen: Observation
    attempt: Attempt | None
    former: tuple[Certificate, ...]
    at: datetime
    made: Provenance


class ProvenanceLookup:
    """The evidence of one node, for one configuration."""

    def __init__(self, config: Config, root: str, state_dir: Path) -> None:
        self._config, self._root = config, root
        self._archive, self._ledger, self._record = Archive(state_dir), Ledger(state_dir), RotationRecord(state_dir)
        self._signers = {spec.name: spec.kind for spec in config.signers}
        self._authorities = {spec.name: spec for spec in config.certificates if spec.authority}
        self._files = NodeFiles(root)
        self._due: dict[Identity, tuple[Observation, datetime | None]] = {}
        self._evidence: dict[Identity, _Evidence] = {}

    def of_due(
        self,
        inventory: Inventory,
        now: datetime,
        *,
        family: str | None = None,
        everything: bool = False,
        within: float | None = None,
    ) -> dict[Identity, Provenance]:
        """Return the provenance of each certificate that certmond may renew at `now`: those whose time has come, those
        of the CA `family`, which is being rotated, or all where `everything` is asked for.

        With `within`, in seconds, the evidence of the calls before is used again for files that did not change, until
        the next resync. New evidence is gathered for so long; the rest is left out, and the executor gathers it.
        """
        keys = {each.name for each in inventory.observations if each.spec.authority and (each.key or each.key_unknown)}
        due, chosen = dict[Identity, tuple[Observation, datetime | None]](), list[Observation]()
        for seen in inventory.observations:
            known = self._due.get(seen.identity)
            since = known[1] if known and known[0] is seen else self._due_at(seen)
            due[seen.identity] = seen, since
            if since is None or not (everything or family in seen.spec.ca or self._is_due(seen, since, now)):
                continue
            if self._signers.get(seen.spec.signer or LOCAL, LOCAL) not in _WITH_A_KEY or not keys.isdisjoint(
                seen.spec.ca
            ):
                chosen.append(seen)
        self._due = due
        if not chosen:
            return {}
        look, found = WriterLookup(self._root), dict[Identity, Provenance]()
        former, evidence = dict[str, tuple[Certificate, ...]](), dict[Identity, _Evidence]()
        present = {each.spec.name: each.certificates for each in inventory.observations if each.spec.authority}
        until = None if within is None else time.monotonic() + within
        pattern = Pattern(inventory)
        with suppress(WriteError):  # the executor meets it again, and refuses
            renewals = Renewals(self._ledger.attempts())
            for seen in chosen:
                ca = next((name for name in seen.spec.ca if present.get(name)), None)
                if ca and ca not in former:
                    former[ca] = self._former(ca, inventory)
                before, attempt = former.get(ca or "", ()), renewals.attempts.get(seen.identity)
                beside = pattern.beside(seen)
                one = None if until is None else self._evidence.get(seen.identity)
                if not (one and self._is_current(one, seen, attempt, before, now)):
                    if until is not None and time.monotonic() >= until:
                        continue
                    signed = is_issued(
                        seen.certificates[0], seen.certificates[1:], (*present.get(ca or "", ()), *before)
                    )
                    made = self._provenance(seen, ca, look, renewals, former=before, beside=beside, signed=signed)
                    one = _Evidence(seen, attempt, before, now, made)
                evidence[seen.identity], made = one, one.made
                if made.owner_writes:
                    later = later_beside(seen.certificates[0], beside, renewals.elsewhere(seen))
                    made = replace(made, later=(*made.later, *later))
                found[seen.identity] = made
        self._evidence = evidence
        return found

    def _is_current(
        self,
        one: _Evidence,
        seen: Observation,
        attempt: Attempt | None,
        former: tuple[Certificate, ...],
        now: datetime,
    ) -> bool:
        same = one.seen is seen and one.attempt == attempt and one.former == former
        return same and one.at <= now < one.at + self._config.resync

    def renewals(self) -> Renewals:
        """Return what is remembered of the renewals at this moment."""
        return Renewals(self._ledger.attempts())

    def of(
        self, seen: Observation, ca: str | None, known: Provenance | None, renewals: Renewals | None = None
    ) -> Provenance:
        """Return the provenance of one certificate as it is now, where the CA `ca` signs. Former CAs and later
        certificates that were `known` stay known.

        Raises WriteError where the archive cannot be read.
        """
        former = (*(known.former if known else ()), *(self._former(ca) if ca else ()))
        made = self._provenance(
            seen, ca, WriterLookup(self._root), renewals or self.renewals(),
            former=former, beside=known.later if known else (), signed=True,
        )  # fmt: skip
        return replace(made, later=(*made.later, *known.later)) if known else made

    def _due_at(self, seen: Observation) -> datetime | None:
        """Since when the certificate can be renewed; None for what certmond does not renew."""
        spec = seen.spec
        if seen.name != spec.name or spec.authority or spec.kind not in _RENEWED or not seen.certificates:
            return None
        if spec.signer == NOBODY or spec.renewed_by:
            return None
        point = renewal_point(seen.certificates[0], spec, self._config.renew_before)
        try:
            return point - self._config.spread
        except OverflowError:
            return point

    def _is_due(self, seen: Observation, since: datetime, now: datetime) -> bool:
        return now >= since or now < seen.certificates[0].not_before or seen.symlink is False

    def _provenance(
        self, seen: Observation, ca: str | None, look: WriterLookup, renewals: Renewals, *,
        former: Iterable[Certificate], beside: Iterable[Certificate], signed: bool,
    ) -> Provenance:  # fmt: skip
        """Without `signed`, no CA has signed it, and possession of its key is not asked."""
        owner, key = seen.spec.owner, [seen.key_path] if seen.key_path else []
        writers = look.writers([seen.path], owner)
        authority = self._authorities.get(ca or "")
        of_ca = look.writers([authority.path], authority.owner) if authority else Writers()
        later, lost = self._later(seen, renewals, beside, owner_writes=writers.owner)
        return Provenance(
            former=tuple(dict.fromkeys(former)),
            path_writers=writers.path or look.writers(key, owner).path,  # what a key says decides no subject
            file_writers=writers.file,
            owner_writes=writers.owner,
            possessed=writers.owner and signed and self._is_possessed(seen),
            ca_writers=of_ca.path or of_ca.file,
            later=later,
            lost=lost,
        )

    def _is_possessed(self, seen: Observation) -> bool:
        """The key that was seen beside the certificate signs for it. What a symlink of another user leads to, or a
        reference in a kubeconfig, does not count: root can read more than that user.
        """
        if not seen.key_matches:
            return False
        read = partial(self._files.read, anyones=False)
        try:
            pair = entry_pair(seen.spec.kind, seen.path, seen.key_path, read)
        except WriteError:
            return False
        return isinstance(pair, KeyPair) and pair.leaf == seen.certificates[0]

    def _former(self, name: str, inventory: Inventory | None = None) -> tuple[Certificate, ...]:
        """The CAs of an entry that the record of rotations, the archive and root-owned kubeconfigs know."""
        lived_by = certificates_of((*self._record.anchors().get(name, ()), *self._record.rotated(name)))
        kept = (each for files in self._generations(name) for each in _in_files(files, Kind.BUNDLE))
        embedded = self._embedded(name, inventory) if inventory and not lived_by else ()
        return tuple(dict.fromkeys((*lived_by, *kept, *embedded)))

    def _embedded(self, name: str, inventory: Inventory) -> tuple[Certificate, ...]:
        """The CAs that every kubeconfig of the entry embeds which only root can write: one of another cluster alone
        proves nothing.
        """
        look, trusted = WriterLookup(self._root), list[frozenset[Certificate]]()
        for seen in (each for each in inventory.observations if each.spec.embedded_ca == name):
            for embedded in (each for each in seen.embedded if each.file is None and each.certificates):
                writers = look.writers([embedded.path], None)
                if not (writers.path or writers.file):
                    trusted.append(frozenset(embedded.certificates))
        return tuple(frozenset.intersection(*trusted)) if trusted else ()

    def _later(
        self, seen: Observation, known: Renewals, beside: Iterable[Certificate], *, owner_writes: bool
    ) -> tuple[tuple[Certificate, ...], bool]:
        """Return the certificates that certmond put in place after the present one, and whether one of them is lost:
        neither in the archive nor `beside` it in another file.
        """
        present, kept = seen.certificates[0], list[Certificate]()
        for files in self._generations(archive_name(seen.spec, seen.path)):
            kept += _in_files(files, seen.spec.kind)
        last = {each.sha256 for each in known.successors(seen, kept, owner_writes=owner_writes)}
        later = [each for each in kept if each.not_after > present.not_after or each.sha256 in last]
        return tuple(dict.fromkeys(later)), not last <= {each.sha256 for each in (*kept, *beside)}

    def _generations(self, name: str) -> list[tuple[ArchivedFile, ...]]:
        """The archived files of an entry; none where the user who runs certmond may not look there.

        Raises WriteError where they cannot be read.
        """
        with blaming(f"the archive of {name}", "read"), suppress(PermissionError):
            return [files for _, files in self._archive.whole(name)]
        return []


def _in_files(files: Iterable[ArchivedFile], kind: Kind) -> Iterator[Certificate]:
    """The end entity of each archived file, or every certificate of a bundle."""
    for file in files:
        with suppress(CertmondError):
            found = certificates_in(file.content, file.path, kind)
            yield from found if kind is Kind.BUNDLE else found[:1]
