"""Conversion between a rotation and the cluster's record, and the rules for the replacement of a record.

A node never replaces the record with an earlier state of the rotation. While a rotation is in progress, its abort is
the only other rotation whose record can replace the present record.
"""

from __future__ import annotations

from collections.abc import Collection

from certmond.cluster.record import DELETE_RECORD, ClusterRecord
from certmond.errors import OvertakenError, RotationError
from certmond.pki.rotation.phases import Mode, Phase, Rotation, abort, flaw, forth, may_be_aborted, sequence
from certmond.pki.x509.certificate import to_pem


def rotation_of(record: ClusterRecord) -> Rotation:
    """Return the rotation in a record. Raises RotationError if this version of certmond does not support the record."""
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
            f"this version of certmond does not support the cluster's record of the rotation {record.id}; install "
            f"on this node the version of certmond that runs on {record.coordinator}, the node that wrote the record"
        )
    return made


def record_of(rotation: Rotation, coordinator: str) -> ClusterRecord:
    """Return the record of a rotation.

    Raises RotationError if this node alone began the rotation, or if a value is not valid in a record.
    """
    if rotation.found:
        raise RotationError(
            f"this node alone began {rotation.name}, after a user replaced the CA on this node; to complete the "
            "rotation here, remove `cluster:` from the configuration and restart certmond"
        )
    try:
        record = ClusterRecord(
            id=rotation.id, family=rotation.family, mode=rotation.mode.value, phase=rotation.phase.value,
            since=rotation.since, old=tuple(to_pem(each).decode("ascii") for each in rotation.old),
            new=to_pem(rotation.new).decode("ascii"), excluded=rotation.excluded, aborted=rotation.aborted,
            coordinator=coordinator, published=rotation.published, signature=rotation.signature,
            released=rotation.released,
        )  # fmt: skip
    except ValueError as error:
        wrong = str(error)
    else:
        if not (invalid := record.invalid_fields()):
            return record
        wrong = ", ".join(sorted(invalid))
    raise RotationError(
        f"certmond cannot record {rotation.name}, because a value is invalid ({wrong}); use the node names in "
        "the output of `kubectl get nodes`"
    )


def is_behind(found: ClusterRecord | None, own: Rotation, closed: Collection[str] = ()) -> bool:
    """Return whether the cluster's record is missing or older than `own`, the rotation in a node's record.

    `closed` contains the IDs of the rotations that the node has ended. Of two phases of the same
    rotation, the later phase is valid, because a phase ends only after every node has reached this phase.

    Raises RotationError if this version of certmond does not support the record.
    """
    if found is None:
        return True
    recorded = rotation_of(found)
    if own.id == recorded.id:
        phases = sequence(recorded)
        if own.phase is recorded.phase:
            return own.released > recorded.released
        return own.phase in phases and phases.index(own.phase) > phases.index(recorded.phase)
    return own.id == f"{recorded.id}-back" or (recorded.over and forth(recorded.id) in closed)


def admit(
    rotation: Rotation,
    found: ClusterRecord | None,
    known: ClusterRecord | None,
    closed: Collection[str] = (),
    *,
    noted: bool = False,
) -> None:
    """Check that `rotation` may replace the record `found`.

    `known` is the record on which the caller's decision depends, if any. With `noted`, the rotation comes from the
    record of this node. Raises RotationError if `rotation` may not replace the record, and OvertakenError if the caller
    must read the record and decide again.
    """
    if known is not None and found != known:
        raise OvertakenError("another node has changed the cluster's record of the rotation; certmond reads it again")
    if found is None:
        return
    recorded = rotation_of(found)
    if rotation.id == f"{recorded.id}-back":
        # Before the phase `issue`, the new CA has signed no certificate, so any phase of the abort can follow.
        if abort(recorded, rotation.since).phase is rotation.phase or (noted and recorded.phase is not Phase.ISSUE):
            return
        if noted:
            raise RotationError(
                _older(recorded, f"this node has recorded that the abort has reached the phase {rotation.phase}")
            )
    elif rotation.id != recorded.id:
        if recorded.over:
            return
        raise RotationError(_conflict(recorded, ended=forth(recorded.id) in closed))
    elif rotation.phase is recorded.phase:
        if rotation.released >= recorded.released:
            return
        raise OvertakenError(f"{recorded.name} has released more workers; certmond reads the record again")
    elif (phases := sequence(recorded)).index(rotation.phase) > phases.index(recorded.phase):
        return
    raise OvertakenError(f"{recorded.name} has advanced to the phase {recorded.phase}; certmond reads the record again")


def _conflict(recorded: Rotation, *, ended: bool) -> str:
    if ended:
        return _older(recorded, "this node has ended the rotation")
    command = f"certmond root-ca rotate --family {recorded.family}"
    command += ", or: certmond root-ca abort" if may_be_aborted(recorded) else ""
    return f"{recorded.name} is in progress in the cluster, in the phase {recorded.phase}; complete it first: {command}"


def _older(recorded: Rotation, known: str) -> str:
    fact = f"the cluster has a record of {recorded.name} in the phase {recorded.phase}, but {known}: a restore of etcd"
    remedy = f"if `certmond root-ca show` reports this rotation on no node, run: {DELETE_RECORD}"
    return f"{fact} might have brought back an old record; {remedy}"
