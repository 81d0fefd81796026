"""Digest of the set of trust anchors in a file.

Order and duplicates do not matter to a verifier (RFC 5280, section 6.1), to Go's x509.CertPool, or to kube-apiserver.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

from certmond.pki.catalog.observation import Observation
from certmond.pki.x509.certificate import Anchor


def digest_of(trust: Iterable[Anchor]) -> str:
    """Return the SHA-256 of the set of anchors, regardless of order and duplicates."""
    return hashlib.sha256("\n".join(sorted({each.sha256 for each in trust})).encode()).hexdigest()


def trust_sets(observations: Collection[Observation]) -> dict[str, str]:
    """Return the digest of the anchor set of each file, by the path of the file.

    Omits a file that has a fault, contains no trust anchor, or is also a file of an entry that is not a trust anchor.
    """
    anchors = {seen.path: set[Anchor]() for seen in observations if seen.spec.is_trust}
    for seen in (each for each in observations if each.path in anchors):
        found = seen.certificates or seen.public_keys
        if seen.spec.is_trust and found and not seen.faults:
            anchors[seen.path].update(found)
        else:
            # The file is faulty, or is not only a set of anchors, so any changed byte can matter.
            del anchors[seen.path]
    return {path: digest_of(trust) for path, trust in anchors.items()}
