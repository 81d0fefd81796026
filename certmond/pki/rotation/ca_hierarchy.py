"""A family: one trust anchor of the catalogue on this node, its present certificates, and the leaves that hang on it.

Owns which certificate belongs to which CA, by proof and never by name. Judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from certmond.pki.assessment.assess import Assessment
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.x509.certificate import Certificate, PublicKey
from certmond.pki.x509.path_building import find_paths


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate of this node that is not a CA. `chain` is what stands behind it in its file; `usages` are asked of
    it.
    """

    name: str
    path: str
    certificate: Certificate
    chain: tuple[Certificate, ...] = ()
    usages: frozenset[str] = frozenset()
    validity: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """`present` are the trusted certificates in the order of their file, but the one whose key is here first; `trusted`
    are they in the very order of the file. `key` is the public half of the key on this node; None with `holds_key`
    where it cannot be told, such as of one with a passphrase.
    """

    spec: CertificateSpec
    trusted: tuple[Certificate, ...]
    present: tuple[Certificate, ...]
    key: PublicKey | None
    holds_key: bool
    leaves: tuple[Leaf, ...]

    def signed_by(self, ca: Certificate, now: datetime) -> tuple[Leaf, ...]:
        """The leaves that are valid at `now` where nothing but `ca` is trusted."""
        return tuple(
            leaf
            for leaf in self.leaves
            if find_paths(leaf.certificate, (ca,), leaf.chain, leaf.usages).valid_at(now) is not None
        )

    def leaves_end(self, now: datetime, validity: timedelta) -> datetime:
        """When the longest of its leaves would end if it was issued at `now`; `validity` is for those that have none
        of their own.
        """
        try:
            return now + max((leaf.validity or validity for leaf in self.leaves), default=validity)
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)


def family_of(assessment: Assessment, name: str) -> Family | None:
    """The family `name`; None where the catalogue has none or this node has no certificate of it."""
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
