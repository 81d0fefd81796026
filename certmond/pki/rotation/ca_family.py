"""CA entry of the catalogue with its certificates and leaves on this node.

The signature decides which CA a leaf belongs to. The issuer and subject names are not evidence.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.self_signed_leaves import is_self_signed
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.settings import LOCAL
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import find_paths
from certmond.pki.x509.public_key import PublicKey


@immutable
class Leaf:
    """Certificate of this node that is not a CA.

    `chain` contains the other certificates in the file. The catalogue entry defines `usages`, `validity` and `signer`.
    """

    name: str
    path: str
    certificate: Certificate
    chain: tuple[Certificate, ...] = ()
    usages: frozenset[str] = frozenset()
    validity: timedelta | None = None
    signer: str = LOCAL


@immutable
class Family:
    """CA entry with its certificates and leaves.

    `trusted` contains the CA certificates in the order of the file. `present` starts with the certificate whose private
    key is on this node. If the key file is unreadable, `key` is None and `holds_key` is True.
    """

    spec: CertificateSpec
    trusted: tuple[Certificate, ...]
    present: tuple[Certificate, ...]
    key: PublicKey | None
    holds_key: bool
    leaves: tuple[Leaf, ...]

    def signed_by(self, ca: Certificate, now: datetime) -> tuple[Leaf, ...]:
        """Return the leaves with a certification path to `ca` that is valid at `now`."""
        return tuple(
            leaf
            for leaf in self.leaves
            if find_paths(leaf.certificate, (ca,), leaf.chain, leaf.usages).valid_at(now) is not None
        )

    def leaves_end(self, now: datetime, validity: timedelta) -> datetime:
        """Return the time at which the last leaf would end if the CA signed all leaves at `now`.

        `validity` applies to a leaf whose entry sets no validity, and to a CA without leaves. If the time exceeds
        `datetime.max`, return `datetime.max`.
        """
        try:
            return now + max((leaf.validity or validity for leaf in self.leaves), default=validity)
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)


def family_of(assessment: Assessment, name: str) -> Family | None:
    """Return the CA entry `name` with its certificates and leaves.

    Return None if there is no such entry, if the entry is not a CA, or if certmond has read no certificate of the
    entry. A self-signed certificate is no leaf of the CA, even if its entry also accepts a certificate of the CA.
    """
    statuses = [status for status in assessment.statuses if status.seen.spec.name == name]
    trusted = tuple(status.seen.certificates[0] for status in statuses if status.seen.certificates)
    if not trusted or not statuses[0].seen.spec.authority:
        return None
    seen = statuses[0].seen
    own = seen.key.der if seen.key else b""
    leaves = tuple(
        Leaf(
            each.seen.name, each.seen.path, each.seen.certificates[0], each.seen.certificates[1:], each.usages,
            each.seen.spec.validity, each.seen.spec.signer or LOCAL,
        )
        for each in assessment.certificates
        if name in each.seen.spec.ca and each.seen.certificates
        if not is_self_signed(each.seen, each.trust_anchor, each.issuers)
    )  # fmt: skip
    return Family(
        spec=seen.spec,
        trusted=trusted,
        present=tuple(sorted(trusted, key=lambda certificate: certificate.key.der != own)),
        key=seen.key,
        holds_key=seen.key is not None or seen.key_unknown,
        leaves=leaves,
    )
