"""A rotation as the cluster's record has it: to and fro, and which one may take the place of another.

Owns what this certmond understands of a record, and the rule that a record never goes back: to an earlier phase, to
fewer workers that may act in the same one, to another rotation while one is under way, or to what was decided from a
state that has passed; and when it has less than a node has noted, as where it was deleted. Pure; where the record is
kept is `record_api`'s.
"""

from __future__ import annotations

from collections.abc import Collection

from pydantic import ValidationError

from certmond.cluster.record import ClusterRecord
from certmond.errors import OvertakenError, RotationError
from certmond.pki.certificate import to_pem
from certmond.pki.rotation import Mode, Phase, Rotation, abort, flaw, forth, may_be_aborted, sequence

TAKE_AWAY = "kubectl -n kube-system delete configmap certmond-rotation"
"""What a person does with a record that is not to be followed."""


def rotation_of(record: ClusterRecord) -> Rotation:
    """The rotation in a record. Raises RotationError where it is none that this certmond knows."""
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
    """The public record of a rotation. Raises RotationError where it has none."""
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
    """Whether the record has less than a node that has noted `own`: it is gone, or an older one has come back, of it,
    of the way there, or of a rotation that has ended (`closed`). As a phase is left only when every node has reached
    it, the furthest is the one to go on from. Raises RotationError.
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
    """Whether `rotation`, decided while the record was `known` (None where it was not asked for), may take the place of
    `found`. `closed` are the ids of the rotations that this node has ended; `noted` says that it is not decided now,
    but was recorded before. Raises RotationError where it may not, OvertakenError where it is to be decided anew.
    """
    if known is not None and found != known:
        raise OvertakenError("the cluster's record of the rotation was changed by another node; look again")
    if found is None:
        return
    there = rotation_of(found)
    if rotation.id == f"{there.id}-back":
        # Before `issue` the abandoned CA has signed nothing, so that any phase of the way back may follow.
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
