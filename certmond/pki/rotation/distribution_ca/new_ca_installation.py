"""Check after a restart: the CAs on the node are the new CAs, and each leaf belongs to a new CA."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from certmond.pki.assessment.assess import CertificateStatus
from certmond.pki.catalog.entries import SELF
from certmond.pki.rotation.distribution_ca.join_token import root_of
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import signed_by


def old_parts(
    statuses: Iterable[CertificateStatus], authorities: Mapping[str, tuple[Certificate, ...]]
) -> Iterator[str]:
    """Yield a sentence for each leaf that no CA in `authorities` has signed, and for each endpoint with an old leaf.

    `authorities` contains the certificates in the file of each CA, by the name of the entry. The first certificate of a
    file signs leaves. Check only leaves that a service issues at its start.
    """
    for status in statuses:
        spec, leaf = status.seen.spec, status.certificate
        signers = [authorities[name][0] for name in spec.ca if authorities.get(name)]
        if not spec.renewed_at_start or leaf is None or not signers:
            continue
        is_own = SELF in spec.ca and signed_by(leaf, leaf)
        if not is_own and not any(signed_by(leaf, signer) for signer in signers):
            yield f"{status.seen.path} has the issuer {leaf.issuer}, not a new CA"
        for at in status.presence.served:
            if at.matches is False:
                yield f"{at.endpoint} does not serve the certificate in {status.seen.path}"


def is_older(bundle: tuple[Certificate, ...], present: tuple[Certificate, ...]) -> bool:
    """Return whether the CA file `present` has replaced the CA file `bundle`.

    A new file contains the old Root CA. An old file does not contain the new Root CA.
    """
    old, new = root_of(bundle) or bundle[0], root_of(present) or present[0]
    return old in present and new not in bundle
