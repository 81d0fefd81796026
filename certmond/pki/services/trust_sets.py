"""The set of anchors that a file makes its readers trust: the same set in other bytes is no change for them.

A verifier looks for any anchor that leads to an end: neither order nor repetition nor text between PEM blocks matters
(RFC 5280, section 6.1; Go's x509.CertPool and kube-apiserver's public keys of tokens are sets, too). Owns the digest of
such a set. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

from certmond.pki.catalog.observation import Observation
from certmond.pki.x509.certificate import Anchor


def digest_of(trust: Iterable[Anchor]) -> str:
    """Return the SHA-256 of a set of anchors, whatever their order."""
    return hashlib.sha256("\n".join(sorted({each.sha256 for each in trust})).encode()).hexdigest()


def trust_sets(observations: Collection[Observation]) -> dict[str, str]:
    """Return the digest of the set of anchors in each file that holds nothing else, by its path.

    A file with a fault is left out, and so is one that another entry describes as something else: of these every byte
    may matter.
    """
    anchors = {seen.path: set[Anchor]() for seen in observations if seen.spec.is_trust}
    for seen in (each for each in observations if each.path in anchors):
        found = seen.certificates or seen.public_keys
        if seen.spec.is_trust and found and not seen.faults:
            anchors[seen.path].update(found)
        else:
            del anchors[seen.path]
    return {path: digest_of(trust) for path, trust in anchors.items()}
