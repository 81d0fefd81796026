"""Conversion between a rotation and the cluster's record, and the rules for the replacement of a record.

A record never moves to an earlier phase, or to fewer released workers in the same phase. It never changes to another
rotation while one is in progress, nor to a decision from an outdated state. Owns also the rule when a record is behind
a node, as after its deletion. Pure; `record_api` stores the record.
"""

from __future__ import annotations

from collections.abc import Collection

from pydantic import ValidationError

from certmond.cluster.record import ClusterRecord
from certmond.errors import OvertakenError, RotationError
from certmond.pki.rotation.phases import Mode, Phase, Rotation, abort, flaw, forth, may_be_aborted, sequence
from certmond.pki.x509.certificate import to_pem

TAKE_AWAY = "kubectl -n kube-system delete configmap certmond-rotation"
"""The operator's command to delete a record that must not be followed."""


def rotation_of(record: ClusterRecord) -> Rotation:
    """Return the rotation in a record. Raises RotationError where this certmond does not know it."""
    try:
        (new,), old = record.new_anchors, record.old_anchors
        made = Rotation(
            record.id, record.family, Mode(record.mode), old, new, Phase(record.phase), record.since, record.aborted,
            excluded=record.excluded, published=record.published, signature=record.signature, released=record.released,
        )  # fmt: skip
    except ValueError:
        made = None
    if made is None or flaw(made):
        raise RotationError(
            f"the cluster's record of the rotation {record.id} is none that this certmond knows; install the one that "
            f"wrote it, on {record.coordinator}, on this node, too"
        )
    return made


def record_of(rotation: Rotation, coordinator: str) -> ClusterRecord:
    """Return the public record of a rotation. Raises RotationError where it has none."""
    if rotation.found:
        raise RotationError(
            f"{rotation.name} was begun by this node alone, which has found another CA in place; let it end there, "
            "without `cluster:` in the configuration"
        )
    try:
        return ClusterRecord(
            id=rotation.id, family=rotation.family, mode=rotation.mode.value, phase=rotation.phase.value,
            since=rotation.since, old=tuple(to_pem(each).decode("ascii") for each in rotation.old),
            new=to_pem(rotation.new).decode("ascii"), excluded=rotation.excluded, aborted=rotation.aborted,
            coordinator=coordinator, published=rotation.published, signature=rotation.signature,
            released=rotation.released,
        )  # fmt: skip
    except ValidationError as error:
        wrong = ", ".join(sorted({str(each["loc"][0]) for each in error.errors(include_input=False) if each["loc"]}))
        raise RotationError(
            f"{rotation.name} cannot be recorded ({wrong}); nodes are named as `kubectl get nodes` shows them"
        ) from None


def lacks(found: ClusterRecord | None, own: Rotation, closed: Collection[str] = ()) -> bool:
    """Return whether the record is behind a node that has recorded `own`.

    It is missing, or an older one has returned: of that rotation, of the rotation that `own` aborts, or of one that has
    ended (`closed`). A phase ends only after every node has reached it, so the furthest phase is valid. Raises
    RotationError.
    """
    if found is None:
        return True
    there = rotation_of(found)
    if own.id == there.id:
        phases = sequence(there)
        if own.phase is there.phase:
            return own.released > there.released
        return own.phase in phases and phases.index(own.phase) > phases.index(there.phase)
    return own.id == f"{there.id}-back" or (there.over and forth(there.id) in closed)


def admit(
    rotation: Rotation,
    found: ClusterRecord | None,
    known: ClusterRecord | None,
    closed: Collection[str] = (),
    *,
    noted: bool = False,
) -> None:
    """Check that `rotation`, decided while the record was `known`, may replace the record `found`.

    `known` is None where the record was not read. `closed` are the ids of the rotations that this node has ended.
    `noted`: the rotation was recorded before and is not a new decision. Raises RotationError where it may not,
    OvertakenError where the caller must decide again.
    """
    if known is not None and found != known:
        raise OvertakenError("the cluster's record of the rotation was changed by another node; look again")
    if found is None:
        return
    there = rotation_of(found)
    if rotation.id == f"{there.id}-back":
        # Before `issue` the new CA has signed nothing, so any phase of the abort may follow.
        if abort(there, rotation.since).phase is rotation.phase or (noted and there.phase is not Phase.ISSUE):
            return
        if noted:
            raise RotationError(_older(there, f"of which this node has noted the way back, in {rotation.phase}"))
    elif rotation.id != there.id:
        if there.over:
            return
        raise RotationError(_not_beside(there, ended=forth(there.id) in closed))
    elif rotation.phase is there.phase:
        if rotation.released >= there.released:
            return
        raise OvertakenError(f"{there.name} has released more workers meanwhile; look at it again, and decide anew")
    elif (phases := sequence(there)).index(rotation.phase) > phases.index(there.phase):
        return
    raise OvertakenError(f"{there.name} has gone on to {there.phase} meanwhile; look at it again, and decide anew")


def _not_beside(there: Rotation, *, ended: bool) -> str:
    if ended:
        return _older(there, "which this node has ended")
    on = f"let it go on by `certmond root-ca rotate --family {there.family}`"
    on += ", or `certmond root-ca abort` it" if may_be_aborted(there) else ""
    return f"the cluster is in {there.name}, in the phase {there.phase}; one at a time: {on}"


def _older(there: Rotation, known: str) -> str:
    fact = f"the cluster's record is of {there.name}, in the phase {there.phase}, {known}: it is an older one that has"
    remedy = f"where `certmond root-ca show` tells of it on no node, take it away by `{TAKE_AWAY}`, and go on"
    return f"{fact} come back, as with an etcd that was restored; {remedy}"
