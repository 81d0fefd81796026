"""Gates between phases: a phase ends only after every node of the rotation has reported this phase.

A node without a report keeps the phase open until an operator excludes the node. `cluster` transports the reports.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from certmond.immutable_class import immutable
from certmond.pki.catalog.settings import RootCaSpec
from certmond.pki.rotation.phases import SIGNER_FAMILY, Mode, Phase, Rotation, desired, forth, may_turn_back, sequence
from certmond.pki.services.trust_set_digest import digest_of
from certmond.pki.x509.public_key import PublicKey

_HELD = {Phase.TRUST: "before any component uses the new {}", Phase.ISSUE: "before any node distrusts the old {}"}
"""Phases with a minimum duration for components that send no report, each with a text for messages."""
_POD_CERTIFICATES = "because client certificates that the old CA signed for Pods can be valid until then"
OUTSIDERS = timedelta(hours=1)
"""Time for which a verifier of tokens outside the cluster can cache the public keys (`max-age=3600` of /openid/v1/jwks,
pkg/routes/openidmetadata.go).
"""
POD_CERTIFICATE = timedelta(hours=24)
"""Longest validity of a certificate that a signer of Kubernetes issues for a PodCertificateRequest
(staging/src/k8s.io/api/certificates/v1/types.go, PodCertificateRequestSpec).
"""


@immutable
class Report:
    """Report of a node that has reached a phase.

    `trust` is the digest of the node's anchors. `issuer` is the SHA-256 of the anchor that has signed all leaves of the
    node, or "" if there is no single such anchor. `signs` is True if the node has the key of the CA, or is a
    control-plane node. `ready` is True if the new key is installed or staged on the node. In an external rotation,
    `signs` is True on a node with `root_ca.record_signer`, and `ready` is about the new certificate.
    """

    rotation: str
    phase: Phase
    trust: str
    issuer: str = ""
    signs: bool = False
    ready: bool = True


@immutable
class Member:
    """Node of the cluster, and its last report.

    `started_since` is True if the host started or was replaced after the report. `took_part` is True if the node has
    reported a phase of the rotation.
    """

    name: str
    control_plane: bool
    report: Report | None = None
    started_since: bool = False
    took_part: bool = False


@immutable
class Gate:
    """Reasons why a phase cannot end yet (`waits`), and the time of the next check (`until`).

    A gate without `waits` is open. `noted` is the rotation with new facts that all nodes must read before the phase
    ends. `message` is the text that an open gate reports.
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
            yield f"{member.name} has not reported"
        elif member.started_since:
            yield f"{member.name} has not reported since its host started"
        elif report.phase is not rotation.phase:
            yield f"{member.name} has reached {report.phase}, but not {rotation.phase} yet"
        elif rotation.phase is Phase.PREPARE and member.control_plane and not (report.signs and report.ready):
            yield _unprepared(member.name, rotation)
        elif wanted and report.trust != digest_of(wanted.trust):
            yield f"{member.name} reports the phase {report.phase}, but trusts other {rotation.noun}s"
        elif wanted and wanted.leaves and report.issuer not in {"", wanted.leaves.sha256}:
            yield f"{member.name} reports the phase {report.phase}, but has certificates that another CA signed"


def _unprepared(name: str, rotation: Rotation) -> str:
    """Return a sentence about a control-plane node that is not ready for the phase after `prepare`."""
    if rotation.external:
        fact = f"{name} is a control-plane node without the new CA, or without `root_ca.record_signer`"
        return f"{fact}; on {name}, set this field, and run `certmond root-ca stage CERT` with the same file"
    return (
        f"{name} is a control-plane node that does not have the key of the new {rotation.noun}; on {name}, run "
        f"`certmond root-ca stage` with the same files; if {name} is a worker with a control-plane label, run "
        f"`certmond root-ca rotate --exclude {name}`"
    )


def _concerns(rotation: Rotation, member: Member) -> bool:
    """Return whether the node takes part in the rotation.

    In a rotation of `ca`, all nodes take part. In another rotation, only control-plane nodes and nodes that have
    reported a phase take part.
    """
    return rotation.family == SIGNER_FAMILY or member.control_plane or member.took_part


def ahead(rotation: Rotation, members: Iterable[Member], closed: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each node whose report is ahead of `rotation`, or is about an unknown rotation.

    In both cases, the record might be outdated. `closed` contains the ids of rotations that have ended on this node.
    """
    phases = sequence(rotation)
    for name, report in ((each.name, each.report) for each in members if each.report):
        if report.rotation == rotation.id:
            if report.phase in phases and phases.index(report.phase) > phases.index(rotation.phase):
                yield f"{name} has reached {report.phase} already"
        elif report.rotation == forth(rotation.id) and not may_turn_back(replace(rotation, phase=report.phase)):
            yield f"{name} had reached {report.phase} before the abort, and no abort is possible from this phase"
        elif report.rotation not in {forth(rotation.id), *closed}:
            yield f"{name} reports the rotation {report.rotation}, which is unknown on this node"


def lasting(rotation: Rotation, spec: RootCaSpec, now: datetime) -> Gate:
    """Return the gate for the minimum duration of a phase that all nodes have reached.

    A phase without a minimum duration has an open gate. For service-account keys, the duration starts when all nodes
    are ready. Until then, a node can sign with the old key. For a CA in `issue`, `published` is set if Pods have client
    certificates that the old CA might have signed. The phase then lasts at least `POD_CERTIFICATE` after this time.
    """
    if rotation.mode is not Mode.OVERLAP or rotation.phase not in _HELD:
        return Gate()
    since, least, issue = rotation.since, spec.overlap, rotation.phase is Phase.ISSUE
    why = _HELD[rotation.phase].format(rotation.noun)
    if isinstance(rotation.new, PublicKey):
        if rotation.published is None:
            accepted = "every API server accepts the tokens of both keys now"
            signed = "the new key signs all tokens now, but the tokens of the old key must still expire"
            return Gate((signed if issue else accepted,), now, replace(rotation, published=now))
        since, least = rotation.published, max(least, spec.token_overlap if issue else OUTSIDERS)
    elif issue and rotation.published is not None:
        since, least, why = rotation.published, max(least, POD_CERTIFICATE), _POD_CERTIFICATES
    if now >= (until := since + least):
        return Gate()
    return Gate((f"all nodes trust both {rotation.noun}s until {until:%Y-%m-%d %H:%M:%S} UTC, {why}",), until)


def unknown_exclusions(rotation: Rotation, members: Mapping[str, Member]) -> tuple[str, ...]:
    """Return the names of excluded nodes that do not exist in the cluster."""
    return tuple(name for name in rotation.excluded if name not in members)
