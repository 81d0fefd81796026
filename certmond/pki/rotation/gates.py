"""Gates between phases: a phase ends only after every node has reported that it has reached it.

Owns the contents of a report, and the checks of the reports. A node without a report keeps the phase open, until it
reports or an operator excludes it. Pure. `cluster` transports the reports.
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
"""Phases with a minimum duration after all nodes are ready, for components without a report."""
OUTSIDERS = timedelta(hours=1)
"""How long a verifier of tokens outside of the cluster may cache its keys: /openid/v1/jwks has `max-age=3600`
(pkg/routes/openidmetadata.go).
"""


@dataclass(frozen=True, slots=True)
class Report:
    """Report of a node that has reached a phase.

    `trust` is the digest of the anchors that it observes. `issuer` is the SHA-256 of the anchor of its leaves, or "" if
    it has no leaves or they differ. `signs` is True if it has the key of a CA, and then `ready` if it has the key of
    the new CA.
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

    `started_since` is True if its machine was started after the report, or is another one with the same name.
    `took_part` is True if the node is known to report on the rotation.
    """

    name: str
    control_plane: bool
    report: Report | None = None
    started_since: bool = False
    took_part: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """Reasons for which the phase cannot end yet, and when to check again, if known. It is open without `waits`.

    `noted` is the rotation with the facts that all nodes must have first. `message` is a message of an open gate.
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
                f"stage` there with the same files, or, if it is a worker with the label of a control plane, `rotate "
                f"--exclude {member.name}`"
            )
        elif wanted and report.trust != digest_of(wanted.trust):
            yield f"{member.name} reports the phase {report.phase}, and trusts other {rotation.noun}s"
        elif wanted and wanted.leaves and report.issuer not in {"", wanted.leaves.sha256}:
            yield f"{member.name} reports the phase {report.phase}, and has certificates of another CA"


def _concerns(rotation: Rotation, member: Member) -> bool:
    """Return whether the node takes part: every node for the Root CA, otherwise control planes and reporting nodes."""
    return rotation.family == SIGNER_FAMILY or member.control_plane or member.took_part


def ahead(rotation: Rotation, members: Iterable[Member], closed: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each node whose report is ahead of `rotation`.

    Then the record with `rotation` may be outdated. The report has a later phase, or one that no longer permitted the
    abort. Or it has another rotation, which is not among those that ended here (`closed`).
    """
    phases = sequence(rotation)
    for name, report in ((each.name, each.report) for each in members if each.report):
        if report.rotation == rotation.id:
            if report.phase in phases and phases.index(report.phase) > phases.index(rotation.phase):
                yield f"{name} has reached {report.phase} already"
        elif report.rotation == forth(rotation.id) and not may_turn_back(replace(rotation, phase=report.phase)):
            yield f"{name} has reached {report.phase} before the abort, and no abort is possible from that phase"
        elif report.rotation not in {forth(rotation.id), *closed}:
            yield f"{name} reports the rotation {report.rotation}, which this node does not know"


def lasting(rotation: Rotation, spec: RootCaSpec, now: datetime) -> Gate:
    """Return the gate for the minimum duration of the phase after all nodes are ready.

    For token keys, the duration counts from when all nodes are ready. Just before, one may still have signed with the
    old key, or published only the old key to verifiers outside of the cluster.
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
