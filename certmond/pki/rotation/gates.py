"""Gates between phases: a phase ends only after every node has reported this phase.

Owns the contents of a report, and the checks of the reports. A node without a report keeps the phase open, until the
node reports or an operator excludes it. Pure. `cluster` transports the reports.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from certmond.pki.catalog.settings import RootCaSpec
from certmond.pki.rotation.phases import SIGNER_FAMILY, Mode, Phase, Rotation, desired, forth, may_turn_back, sequence
from certmond.pki.services.trust_sets import digest_of
from certmond.pki.x509.public_key import PublicKey

_HELD = {Phase.TRUST: "before the new {} is used", Phase.ISSUE: "before the old {} is distrusted"}
"""Phases with a minimum duration after all nodes are ready, for components that send no report."""
OUTSIDERS = timedelta(hours=1)
"""How long a verifier of tokens outside of the cluster may cache the public keys: /openid/v1/jwks has `max-age=3600`
(pkg/routes/openidmetadata.go).
"""


@dataclass(frozen=True, slots=True)
class Report:
    """Report of a node that has reached a phase.

    `trust` is the digest of the anchors that the node observes. `issuer` is the SHA-256 of the anchor of its leaves. It
    is "" if the node has no leaves, or leaves of several anchors. `signs` is True if the node has the key of a CA. Then
    `ready` is True if the node has the key of the new CA.
    """

    rotation: str
    phase: Phase
    trust: str
    issuer: str = ""
    signs: bool = False
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the cluster, and its last report, or None.

    `started_since` is True if the machine was started after the report, or if another machine now has the name.
    `took_part` is True if the node has reported on the rotation.
    """

    name: str
    control_plane: bool
    report: Report | None = None
    started_since: bool = False
    took_part: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """Reasons for which the phase cannot end yet (`waits`), and the time of the next check, if known.

    A gate without `waits` is open. `noted` is the rotation with new facts that all nodes must read before the phase
    ends. `message` is what an open gate reports.
    """

    waits: tuple[str, ...] = ()
    until: datetime | None = None
    noted: Rotation | None = None
    message: str = ""


def closed(rotation: Rotation, members: Iterable[Member]) -> Iterator[str]:
    """Yield a sentence for each node that keeps the phase open."""
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
                f"stage` there with the same files, or, if it is a worker with the label of a control plane, "
                f"`certmond root-ca rotate --exclude {member.name}`"
            )
        elif wanted and report.trust != digest_of(wanted.trust):
            yield f"{member.name} reports the phase {report.phase}, and trusts other {rotation.noun}s"
        elif wanted and wanted.leaves and report.issuer not in {"", wanted.leaves.sha256}:
            yield f"{member.name} reports the phase {report.phase}, and has certificates of another CA"


def _concerns(rotation: Rotation, member: Member) -> bool:
    """Return whether the node takes part: for `ca` each node, otherwise control planes and nodes that have reported."""
    return rotation.family == SIGNER_FAMILY or member.control_plane or member.took_part


def ahead(rotation: Rotation, members: Iterable[Member], closed: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each node whose report is ahead of `rotation`.

    Such a report shows that the record with `rotation` may be outdated. The report has a later phase. Or it has a phase
    of the aborted rotation that permits no abort. Or it has another rotation, which has not ended here (`closed`).
    """
    phases = sequence(rotation)
    for name, report in ((each.name, each.report) for each in members if each.report):
        if report.rotation == rotation.id:
            if report.phase in phases and phases.index(report.phase) > phases.index(rotation.phase):
                yield f"{name} has reached {report.phase} already"
        elif report.rotation == forth(rotation.id) and not may_turn_back(replace(rotation, phase=report.phase)):
            yield f"{name} had reached {report.phase} before the abort, and no abort is possible from this phase"
        elif report.rotation not in {forth(rotation.id), *closed}:
            yield f"{name} reports the rotation {report.rotation}, which this node does not know"


def lasting(rotation: Rotation, spec: RootCaSpec, now: datetime) -> Gate:
    """Return the gate for the minimum duration of a phase whose nodes are all ready.

    For a CA, the duration counts from the start of the phase. For token keys, it counts from the time at which all
    nodes are ready. Until then, a node may sign with the old key, or publish only the old key to external verifiers.
    """
    if rotation.mode is not Mode.OVERLAP or rotation.phase not in _HELD:
        return Gate()
    since, least = rotation.since, spec.overlap
    if isinstance(rotation.new, PublicKey):
        tokens_end = rotation.phase is Phase.ISSUE
        if rotation.published is None:
            accepted = "every API server accepts the tokens of both keys now"
            signed = "the new key signs all tokens now, and the tokens of the old key must end"
            return Gate((signed if tokens_end else accepted,), now, replace(rotation, published=now))
        since, least = rotation.published, max(least, spec.token_overlap if tokens_end else OUTSIDERS)
    if now >= (until := since + least):
        return Gate()
    why = _HELD[rotation.phase].format(rotation.noun)
    return Gate((f"both {rotation.noun}s are trusted until {until:%Y-%m-%d %H:%M:%S} UTC, {why}",), until)


def unknown_exclusions(rotation: Rotation, members: Mapping[str, Member]) -> tuple[str, ...]:
    """Return the excluded nodes that the cluster does not have, which are probably typing errors."""
    return tuple(name for name in rotation.excluded if name not in members)
