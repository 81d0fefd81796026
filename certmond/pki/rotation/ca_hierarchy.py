"""Family: one trust anchor of the catalogue on this node, its present certificates, and the leaves below it.

Owns the rule that a certificate belongs to a CA by its signature, never by a name. Makes no findings.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from certmond.pki.assessment.assess import Assessment
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import find_paths
from certmond.pki.x509.public_key import PublicKey


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate of this node that is not a CA.

    `chain` are the further certificates in its file. `usages` are the usages that its entry requires.
    """

    name: str
    path: str
    certificate: Certificate
    chain: tuple[Certificate, ...] = ()
    usages: frozenset[str] = frozenset()
    validity: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """A trust anchor and its leaves. `trusted` are the anchor's certificates in the order of the file.

    `present` has the same certificates, but first the one whose private key is on this node. `key` is the public half
    of this private key. It is None with `holds_key` if certmond cannot read the key, for example without a passphrase.
    """

    spec: CertificateSpec
    trusted: tuple[Certificate, ...]
    present: tuple[Certificate, ...]
    key: PublicKey | None
    holds_key: bool
    leaves: tuple[Leaf, ...]

    def signed_by(self, ca: Certificate, now: datetime) -> tuple[Leaf, ...]:
        """Return the leaves that have a valid path at `now` if `ca` is the only trust anchor."""
        return tuple(
            leaf
            for leaf in self.leaves
            if find_paths(leaf.certificate, (ca,), leaf.chain, leaf.usages).valid_at(now) is not None
        )

    def leaves_end(self, now: datetime, validity: timedelta) -> datetime:
        """Return when the leaf with the longest validity would end if its CA signed it at `now`.

        `validity` applies to a leaf whose entry has no validity.
        """
        try:
            return now + max((leaf.validity or validity for leaf in self.leaves), default=validity)
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)


def family_of(assessment: Assessment, name: str) -> Family | None:
    """Return the family `name`, or None if the catalogue or this node has no certificate of it."""
    statuses = [status for status in assessment.statuses if status.seen.spec.name == name]
    trusted = tuple(status.seen.certificates[0] for status in statuses if status.seen.certificates)
    if not trusted or not statuses[0].seen.spec.authority:
        return None
    seen = statuses[0].seen
    own = seen.key.sha256 if seen.key else ""
    leaves = tuple(
        Leaf(
            each.seen.name, each.seen.path, each.seen.certificates[0], each.seen.certificates[1:], each.usages,
            each.seen.spec.validity,
        )
        for each in assessment.certificates
        if name in each.seen.spec.ca and each.seen.certificates
    )  # fmt: skip
    return Family(
        spec=seen.spec,
        trusted=trusted,
        present=tuple(sorted(trusted, key=lambda certificate: certificate.key.sha256 != own)),
        key=seen.key,
        holds_key=seen.key is not None or seen.key_unknown,
        leaves=leaves,
    )
