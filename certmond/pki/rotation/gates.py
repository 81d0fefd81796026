"""When a phase may be left: only when every node has said, of what it sees of itself, that it has come so far.

Owns what a node reports and what is asked of the reports. A node that has not answered is not presumed to agree: the
phase stays, until it answers or a person leaves it out. Pure; who carries the reports is `cluster`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from certmond.pki.catalog.settings import RootCaSpec
from certmond.pki.rotation.phases import SIGNER_FAMILY, Mode, Phase, Rotation, desired, forth, may_turn_back, sequence
from certmond.pki.services.trust_sets import digest_of
from certmond.pki.x509.certificate import PublicKey

_HELD = {Phase.TRUST: "before the new {} is used", Phase.ISSUE: "before the former {} is distrusted"}
"""The phases that last for a while although all nodes are ready: others, which nobody reports of, need the time."""
OUTSIDERS = timedelta(hours=1)
"""So long may whoever verifies tokens outside of the cluster keep its keys: /openid/v1/jwks says `max-age=3600`
(pkg/routes/openidmetadata.go)."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a node says of itself when it has reached a phase.

    `trust` is the digest of the anchors that it observes, `issuer` the SHA-256 of the anchor of its leaves ("" where it
    has none, or they differ). `signs` says that it has the key of a CA, and then `ready` that the new one's is there.
    """

    rotation: str
    phase: Phase
    trust: str
    issuer: str = ""
    signs: bool = False
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the cluster, and what it has said last; None where it has said nothing. Its machine may have been
    `started_since`, or be another one of the same name. `took_part`: it was known to say something of the rotation.
    """

    name: str
    control_plane: bool
    report: Report | None = None
    started_since: bool = False
    took_part: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """Why the phase cannot be left yet, and when to ask again, where that is known. It is open without `waits`. `noted`
    is the rotation with what has to be known of it first, by all nodes. `told` is to be said although it is open.
    """

    waits: tuple[str, ...] = ()
    until: datetime | None = None
    noted: Rotation | None = None
    told: str = ""


def closed(rotation: Rotation, members: Iterable[Member]) -> Iterator[str]:
    """Why the phase cannot be left, a sentence for each node that keeps it; none where it can."""
    wanted = desired(rotation)
    for member in members:
        if member.name in rotation.excluded or not _concerns(rotation, member):
            continue
        report = member.report
        if report is None or report.rotation != rotation.id:
            yield f"{member.name} has not answered"
        elif member.started_since:
            yield f"{member.name} has not answered since its machine was started"
        elif report.phase is not rotation.phase:
            yield f"{member.name} has reached {report.phase}, and not {rotation.phase} yet"
        elif rotation.phase is Phase.PREPARE and member.control_plane and not (report.signs and report.ready):
            yield (
                f"{member.name} is a control-plane node without the new {rotation.noun}'s key; run `certmond root-ca "
                f"stage` there with the same files, or, if it is a worker that is labelled so, `rotate --exclude "
                f"{member.name}`"
            )
        elif wanted and report.trust != digest_of(wanted.trust):
            yield f"{member.name} says that it is in {report.phase}, and trusts other {rotation.noun}s"
        elif wanted and wanted.leaves and report.issuer not in {"", wanted.leaves.sha256}:
            yield f"{member.name} says that it is in {report.phase}, and has certificates of another CA"


def _concerns(rotation: Rotation, member: Member) -> bool:
    """Every node lives by the Root CA; by any other, control planes alone, and who has said that it does."""
    return rotation.family == SIGNER_FAMILY or member.control_plane or member.took_part


def ahead(rotation: Rotation, members: Iterable[Member], closed: Collection[str]) -> Iterator[str]:
    """Why a node that has noted `rotation` may not be the one that knows most of it, a sentence for each of the others
    that has said so: of a later phase, of one on the way there from which none leads back, or of another rotation,
    which is none of those that have ended here (`closed`).
    """
    phases = sequence(rotation)
    for name, report in ((each.name, each.report) for each in members if each.report):
        if report.rotation == rotation.id:
            if report.phase in phases and phases.index(report.phase) > phases.index(rotation.phase):
                yield f"{name} has reached {report.phase} already"
        elif report.rotation == forth(rotation.id) and not may_turn_back(replace(rotation, phase=report.phase)):
            yield f"{name} has reached {report.phase} on the way there, from which none leads back"
        elif report.rotation not in {forth(rotation.id), *closed}:
            yield f"{name} has said that it is in {report.rotation}, of which nothing is known here"


def lasting(rotation: Rotation, spec: RootCaSpec, now: datetime) -> Gate:
    """Whether the phase is to last although all nodes are ready. With the keys of tokens that counts from when they all
    are, be it long after the phase began: just before, one may have signed with the former key, or told outsiders of
    it alone.
    """
    if rotation.mode is not Mode.OVERLAP or rotation.phase not in _HELD:
        return Gate()
    since, least = rotation.since, spec.overlap
    if isinstance(rotation.new, PublicKey):
        tokens_end = rotation.phase is Phase.ISSUE
        if rotation.published is None:
            said = "every API server accepts the tokens of both keys now"
            said = (
                "all tokens are signed with the new key now; those of the former one have to end"
                if tokens_end
                else said
            )
            return Gate((said,), now, replace(rotation, published=now))
        since, least = rotation.published, max(least, spec.token_overlap if tokens_end else OUTSIDERS)
    if now >= (until := since + least):
        return Gate()
    why = _HELD[rotation.phase].format(rotation.noun)
    return Gate((f"both {rotation.noun}s are trusted until {until:%Y-%m-%d %H:%M:%S} UTC, {why}",), until)


def unknown_exclusions(rotation: Rotation, members: Mapping[str, Member]) -> tuple[str, ...]:
    """The excluded nodes that the cluster does not have: most likely a slip of the pen."""
    return tuple(name for name in rotation.excluded if name not in members)
