"""Batches of workers in a phase: first one worker, then several workers at a time.

A batch begins after all workers of earlier batches have reported, so that a fault breaks few kubelets.
`cluster.rotation_coordinator` releases the batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from certmond.immutable_class import immutable
from certmond.pki.rotation.gates import Gate, Member, closed
from certmond.pki.rotation.phases import SIGNER_FAMILY, Mode, Phase, Rotation, forth, sequence

_CHANGING = frozenset({Phase.TRUST, Phase.ISSUE, Phase.DISTRUST})
"""Phases in which certmond changes files on a worker and restarts its kubelet."""
_NAMED = 5
"""Maximum number of workers whose names a message lists."""


@immutable
class Workers:
    """Numbers of workers in a phase.

    `all` counts the workers that take part, `released` the workers that may act, and `acknowledged` the workers that
    have acknowledged the phase.
    """

    all: int
    released: int
    acknowledged: int

    def __str__(self) -> str:
        return f"{self.all} workers: {self.released} released, {self.acknowledged} acknowledged"


def place(name: str) -> float:
    """Return the place of a node in the order of the batches: a hash of the node's name, at least 0 and less than 1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def stepwise(rotation: Rotation) -> tuple[Phase, ...]:
    """Return the phases of the rotation in which workers act in batches."""
    if rotation.family != SIGNER_FAMILY or rotation.mode is Mode.REPLACE:
        return ()
    return tuple(phase for phase in sequence(rotation) if phase in _CHANGING)


def in_batches(rotation: Rotation) -> bool:
    """Return whether workers act in batches in the present phase of the rotation."""
    return rotation.shared and rotation.phase in stepwise(rotation)


def is_released(rotation: Rotation, name: str) -> bool:
    """Return whether the worker `name` may act in the present phase."""
    return not in_batches(rotation) or place(name) < rotation.released


def held_back(rotation: Rotation, name: str) -> str | None:
    """Return why the worker `name` must wait in the present phase, as a sentence, or None if the worker may act."""
    if is_released(rotation, name):
        return None
    return "the batch of this worker has not begun; on a control-plane node, list the earlier workers: certmond status"


def joined(own: Rotation, announced: Rotation) -> Rotation:
    """Return `announced`, but never with a lower `released` than `own` in the same phase.

    Therefore, a worker that may act does not lose this permission.
    """
    if (own.id, own.phase) != (announced.id, announced.phase) or own.released <= announced.released:
        return announced
    return replace(announced, released=own.released)


def workers(rotation: Rotation, members: Iterable[Member]) -> Workers | None:
    """Return the progress of the workers in the present phase, or None if the phase has no batches."""
    if not in_batches(rotation):
        return None
    found = _waited_for(rotation, members)
    released = [each for each in found if is_released(rotation, each.name)]
    return Workers(len(found), len(released), sum(not any(closed(rotation, [each])) for each in released))


def behind(rotation: Rotation, members: Iterable[Member]) -> tuple[str, ...]:
    """Return a sentence for each node for which the phase or the next batch of workers waits.

    In a phase with batches, the first sentence also contains the progress of the workers.
    """
    members = list(members)
    acting = (each for each in members if not _is_worker(rotation, each) or is_released(rotation, each.name))
    waits, count = tuple(closed(rotation, acting)), workers(rotation, members)
    return (f"{waits[0]} ({count})", *waits[1:]) if waits and count and count.all else waits


def next_batch(rotation: Rotation, members: Iterable[Member], batch: str) -> Gate:
    """Return a gate whose `noted` rotation releases the next batch, or an open gate if all workers are released.

    The gate is also open in a phase without batches. Before the call, all released workers must have acknowledged the
    phase. `batch` is the number or the percentage of workers in each batch, except the first batch, which consists of
    one worker.
    """
    found = _waited_for(rotation, members)
    count = workers(rotation, found)
    if count is None or rotation.released >= 1:
        return Gate()
    waiting = sorted((place(each.name), each.name) for each in found if not is_released(rotation, each.name))
    if not waiting:  # an excluded worker can still be waiting
        return Gate(("all workers are released",), noted=replace(rotation, released=1.0))
    size = _size(batch, count.all) if count.released else 1
    names, later = [name for _, name in waiting[:size]], [at for at, _ in waiting[size:]]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    fact = f"{count.acknowledged} of {count.all} workers have acknowledged {rotation.phase}"
    # The limit is the place of the next waiting worker, so that a new worker with a lower place does not wait.
    mark = later[0] if later else 1.0
    return Gate((f"{fact}; next: {', '.join(names[:_NAMED])}{more}",), noted=replace(rotation, released=mark))


def _waited_for(rotation: Rotation, members: Iterable[Member]) -> list[Member]:
    """Return the workers that the operator has not excluded from the rotation."""
    return [each for each in members if _is_worker(rotation, each) and each.name not in rotation.excluded]


def _is_worker(rotation: Rotation, member: Member) -> bool:
    """Return whether the node is a worker, according to its label and its report.

    A node that received the control-plane label after the phase `prepare` has no new key, and counts as a worker.
    """
    report = member.report
    if not member.control_plane or report is None:
        return not member.control_plane
    return forth(report.rotation) == forth(rotation.id) and not report.ready


def _size(batch: str, count: int) -> int:
    share, percent, _ = batch.partition("%")
    return max(1, count * int(share) // 100) if percent else int(share)
