"""What a generation of the archive is worth in the place of what is on the node now: its pair, its path and its dates.

Owns the judgement that the daemon and `certmond archive` share. Reads no file by itself, and writes nothing.
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
    """`good`: a pair that is valid now. `outdated`: a pair that is not. `wider`: a later certificate no longer had its
    subject, or a usage or name that it has. `unjudged`: its key needs a passphrase. `broken`: certificate and key do
    not belong together, or one of them cannot be read.
    """

    GOOD = "good"
    OUTDATED = "outdated"
    WIDER = "wider"
    UNJUDGED = "unjudged"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a generation is worth, and in one clause why it is not good."""

    worth: Worth
    why: str = ""


def as_put_back(files: Iterable[ArchivedFile], node: Files) -> Read:
    """Return what reads the node as it would be with these files in their places."""
    found = {file.path: file.content for file in files}
    return as_written([NewFile(path, content) for path, content in found.items()], found, node)


def verdict(
    pair: KeyPair | Unpaired, anchors: Sequence[Certificate] | None, usages: frozenset[str], now: datetime
) -> Verdict:
    """Return what a pair is worth at `now` (aware, UTC). `anchors` are the CAs of which it has to lead to one; where
    they are not known, only its own dates count.
    """
    if isinstance(pair, Unpaired):
        return Verdict(Worth.UNJUDGED if pair.encrypted else Worth.BROKEN, pair.message)
    leaf = pair.leaf
    if now < leaf.not_before:
        return Verdict(Worth.OUTDATED, f"its certificate is not valid before {leaf.not_before:%Y-%m-%d %H:%M} UTC")
    if now >= leaf.expires_at:
        return Verdict(Worth.OUTDATED, f"its certificate ended on {leaf.not_after:%Y-%m-%d %H:%M} UTC")
    if anchors is not None and find_paths(leaf, anchors, pair.chain[1:], usages).valid_at(now) is None:
        return Verdict(Worth.OUTDATED, "its certificate has no certification path to the CA that is here now")
    return Verdict(Worth.GOOD)
