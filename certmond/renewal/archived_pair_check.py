"""Verdicts on archived pairs: whether the certificate and the key match, and whether the certificate is valid now.

The daemon and `certmond archive` use the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum

from certmond.immutable_class import immutable
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import find_paths
from certmond.renewal.key_pair import Files, KeyPair, Read, Unpaired, as_written
from certmond.state.archive import ArchivedFile
from certmond.transaction.commit import NewFile


class Worth(StrEnum):
    """Verdict on an archived certificate and its key.

    - `good`: the certificate is valid now.
    - `outdated`: the certificate is not valid now, or has no certification path to the present CA.
    - `wider`: the certificate has a subject, a usage or a name that both the entry and a later certificate lack.
    - `unjudged`: the key needs a passphrase, or the file needs a password.
    - `broken`: the certificate and the key do not match, or are malformed.
    """

    GOOD = "good"
    OUTDATED = "outdated"
    WIDER = "wider"
    UNJUDGED = "unjudged"
    BROKEN = "broken"


@immutable
class Verdict:
    """Verdict on a generation. `why` is the reason, or "" if the verdict is `good`."""

    worth: Worth
    why: str = ""


def as_put_back(files: Iterable[ArchivedFile], node: Files) -> Read:
    """Return a function that reads the files of the node as they would be after a restore of `files`."""
    found = {file.path: file.content for file in files}
    return as_written([NewFile(path, content) for path, content in found.items()], found, node)


def verdict(
    pair: KeyPair | Unpaired, anchors: Sequence[Certificate] | None, usages: frozenset[str], now: datetime
) -> Verdict:
    """Return the verdict on a certificate and its key at `now` (aware, UTC).

    A pair is `outdated` if the certificate is not valid at `now`, or has no certification path to a CA in `anchors`. If
    `anchors` is None, the verdict ignores the path.
    """
    if isinstance(pair, Unpaired):
        return Verdict(Worth.UNJUDGED if pair.encrypted else Worth.BROKEN, pair.message)
    leaf = pair.leaf
    if now < leaf.not_before:
        return Verdict(Worth.OUTDATED, f"its certificate is not valid before {leaf.not_before:%Y-%m-%d %H:%M} UTC")
    if now >= leaf.expires_at:
        return Verdict(Worth.OUTDATED, f"its certificate expired on {leaf.not_after:%Y-%m-%d %H:%M} UTC")
    if anchors is not None and find_paths(leaf, anchors, pair.chain[1:], usages).valid_at(now) is None:
        return Verdict(Worth.OUTDATED, "its certificate has no certification path to the present CA")
    return Verdict(Worth.GOOD)
