"""Digest of the set of trust anchors in a file, which does not change with order, repetition or text.

A verifier accepts any anchor at the end of a path, so that only the set matters (RFC 5280, section 6.1). Go's
x509.CertPool and the token keys of kube-apiserver are sets as well. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

from certmond.pki.catalog.observation import Observation
from certmond.pki.x509.certificate import Anchor


def digest_of(trust: Iterable[Anchor]) -> str:
    """Return the SHA-256 of a set of anchors, independent of their order."""
    return hashlib.sha256("\n".join(sorted({each.sha256 for each in trust})).encode()).hexdigest()


def trust_sets(observations: Collection[Observation]) -> dict[str, str]:
    """Return the digest of the set of anchors in each file that has no other content, by its path.

    Leaves out a file with a fault. Leaves out a file that another entry does not describe as trust anchors. Every byte
    of these files may matter.
    """
    anchors = {seen.path: set[Anchor]() for seen in observations if seen.spec.is_trust}
    for seen in (each for each in observations if each.path in anchors):
        found = seen.certificates or seen.public_keys
        if seen.spec.is_trust and found and not seen.faults:
            anchors[seen.path].update(found)
        else:
            del anchors[seen.path]
    return {path: digest_of(trust) for path, trust in anchors.items()}
