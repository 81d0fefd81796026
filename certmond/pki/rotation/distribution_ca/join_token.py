"""The hash of a CA in a token with which a node joins a cluster of k3s or RKE2.

The source is k3s-io/k3s, pkg/clientaccess/token.go (hashCA, parseToken). No result contains the secret of a token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import find_paths

_PREFIX, _END, _LENGTH = "K10", "::", 64


def ca_hash_in(token: str) -> str | None:
    """Return the hash of the CA in a token, or None if the token contains no hash."""
    found, end, _ = token.strip().removeprefix(_PREFIX).partition(_END)
    return found if end and token.strip().startswith(_PREFIX) and len(found) == _LENGTH else None


def hash_of_bundle(content: bytes, certificates: Sequence[Certificate]) -> str:
    """Return the hash of the CA file `content`, which contains `certificates`.

    The hash of a file with one certificate is the hash of the file. For several certificates, it is the hash of the
    Root CA of the first certificate.
    """
    root = root_of(certificates)
    return root.sha256 if root else hashlib.sha256(content).hexdigest()


def root_of(certificates: Sequence[Certificate]) -> Certificate | None:
    """Return the Root CA of the first certificate, if it is one of the other certificates."""
    first, *others = certificates
    roots = [each for each in others if each.authority_key_id in {None, each.subject_key_id}]
    paths = find_paths(first, roots, [each for each in others if each not in roots]).paths
    # Go tries the trust anchors before the intermediate CAs, so its first path is the shortest path.
    shortest = min(paths, key=lambda path: len(path.certificates), default=None)
    return shortest.anchor if shortest else None
