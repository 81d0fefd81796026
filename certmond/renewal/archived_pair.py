"""Verdict on a generation of the archive as a replacement of the current files: its pair, its path and its dates.

The daemon and `certmond archive` share this verdict. Reads and writes no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import find_paths
from certmond.renewal.key_pair import Files, KeyPair, Read, Unpaired, as_written
from certmond.state.archive import ArchivedFile
from certmond.transaction.commit import NewFile


class Worth(StrEnum):
    """The verdicts on a pair of certificate and key.

    `good`: the pair is valid now. `outdated`: the pair is not valid now. `wider`: a later certificate lacks the
    subject, a usage or a name of the pair. `unjudged`: the key needs a passphrase. `broken`: certificate and key do not
    match, or certmond cannot parse one of them.
    """

    GOOD = "good"
    OUTDATED = "outdated"
    WIDER = "wider"
    UNJUDGED = "unjudged"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on a generation. `why` is a clause with the reason, unless the verdict is `good`."""

    worth: Worth
    why: str = ""


def as_put_back(files: Iterable[ArchivedFile], node: Files) -> Read:
    """Return a function that reads the node as it would be with these files restored."""
    found = {file.path: file.content for file in files}
    return as_written([NewFile(path, content) for path, content in found.items()], found, node)


def verdict(
    pair: KeyPair | Unpaired, anchors: Sequence[Certificate] | None, usages: frozenset[str], now: datetime
) -> Verdict:
    """Return the verdict on a pair at `now` (aware, UTC).

    `anchors` are the CAs of which one must anchor its path. If they are None, only the pair's own dates count.
    """
    if isinstance(pair, Unpaired):
        return Verdict(Worth.UNJUDGED if pair.encrypted else Worth.BROKEN, pair.message)
    leaf = pair.leaf
    if now < leaf.not_before:
        return Verdict(Worth.OUTDATED, f"its certificate is not valid before {leaf.not_before:%Y-%m-%d %H:%M} UTC")
    if now >= leaf.expires_at:
        return Verdict(Worth.OUTDATED, f"its certificate ended on {leaf.not_after:%Y-%m-%d %H:%M} UTC")
    if anchors is not None and find_paths(leaf, anchors, pair.chain[1:], usages).valid_at(now) is None:
        return Verdict(Worth.OUTDATED, "its certificate has no certification path to the present CA")
    return Verdict(Worth.GOOD)
