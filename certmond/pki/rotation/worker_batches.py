"""Batches of workers in a phase: first one worker, then several at a time, after all workers before them are ready.

Owns the place of a worker, and the place up to which workers may act. A worker without a report stops the workers
behind it, so that a fault breaks few kubelets. Control planes come before all workers, and use the restart lock
(`restart_lock`). Pure. `cluster.coordinator` raises the limit and informs the nodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from certmond.pki.rotation.gates import Gate, Member, closed
from certmond.pki.rotation.phases import SIGNER_FAMILY, Mode, Phase, Rotation, forth, sequence

_CHANGING = frozenset({Phase.TRUST, Phase.ISSUE, Phase.DISTRUST})
"""Phases with changes on a worker. In the other phases, certmond restarts no kubelet, and no worker waits."""
_NAMED = 5
"""Number of workers of a batch that a message names."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Numbers of workers: all that take part, those that may act, and those that have acknowledged the phase."""

    all: int
    released: int
    acknowledged: int

    def __str__(self) -> str:
        return f"{self.all} workers: {self.released} released, {self.acknowledged} acknowledged"


def place(name: str) -> float:
    """Return the place of a node, from 0 to below 1, computed from its name without a request."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def stepwise(rotation: Rotation) -> tuple[Phase, ...]:
    """Return the phases with batches. The mode `replace` and a CA that workers do not have need no batches."""
    if rotation.family != SIGNER_FAMILY or rotation.mode is Mode.REPLACE:
        return ()
    return tuple(phase for phase in sequence(rotation) if phase in _CHANGING)


def in_batches(rotation: Rotation) -> bool:
    """Return whether the present phase of the rotation has batches."""
    return rotation.shared and rotation.phase in stepwise(rotation)


def is_released(rotation: Rotation, name: str) -> bool:
    """Return whether this worker may act in the phase."""
    return not in_batches(rotation) or place(name) < rotation.released


def held_back(rotation: Rotation, name: str) -> str | None:
    """Return why this worker does not act in the phase yet, as a sentence, or None if it may act."""
    if is_released(rotation, name):
        return None
    return "the batch of this worker has not begun; list the workers before it on a control plane: certmond status"


def joined(own: Rotation, announced: Rotation) -> Rotation:
    """Return `announced` with the higher `released` of both in the same phase: a released worker stays released."""
    if (own.id, own.phase) != (announced.id, announced.phase) or own.released <= announced.released:
        return announced
    return replace(announced, released=own.released)


def workers(rotation: Rotation, members: Iterable[Member]) -> Workers | None:
    """Return the progress of the workers, or None in a phase without batches."""
    if not in_batches(rotation):
        return None
    found = _waited_for(rotation, members)
    released = [each for each in found if is_released(rotation, each.name)]
    return Workers(len(found), len(released), sum(not any(closed(rotation, [each])) for each in released))


def behind(rotation: Rotation, members: Iterable[Member]) -> tuple[str, ...]:
    """Return a sentence for each node that keeps the phase open, or the next workers from acting.

    Workers that may not act yet have no sentence.
    """
    members = list(members)
    acting = (each for each in members if not _is_worker(rotation, each) or is_released(rotation, each.name))
    waits, count = tuple(closed(rotation, acting)), workers(rotation, members)
    return (f"{waits[0]} ({count})", *waits[1:]) if waits and count and count.all else waits


def next_batch(rotation: Rotation, members: Iterable[Member], batch: str) -> Gate:
    """Return a gate whose rotation releases the next workers, or an open gate if all workers are released.

    The caller has checked that all workers before them are ready. The first batch is one worker. The size of each later
    batch is `batch`: a number, or a percentage, rounded down to at least one worker.
    """
    found = _waited_for(rotation, members)
    count = workers(rotation, found)
    if count is None or rotation.released >= 1:
        return Gate()
    waiting = sorted((place(each.name), each.name) for each in found if not is_released(rotation, each.name))
    if not waiting:  # an excluded worker may still be held back
        return Gate(("all workers are released",), noted=replace(rotation, released=1.0))
    size = _size(batch, count.all) if count.released else 1
    names, later = [name for _, name in waiting[:size]], [at for at, _ in waiting[size:]]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    fact = f"{rotation.phase} is acknowledged by {count.acknowledged} of {count.all} workers"
    # Up to the next place: a worker that joins with a place before it need not wait.
    mark = later[0] if later else 1.0
    return Gate((f"{fact}; next: {', '.join(names[:_NAMED])}{more}",), noted=replace(rotation, released=mark))


def _waited_for(rotation: Rotation, members: Iterable[Member]) -> list[Member]:
    """Return the workers without those that an operator has excluded."""
    return [each for each in members if _is_worker(rotation, each) and each.name not in rotation.excluded]


def _is_worker(rotation: Rotation, member: Member) -> bool:
    """Return whether the node is a worker, by its label or by its report.

    A control plane does not leave `prepare` without the new key. A node that is labeled as a control plane, but does
    not have the new key, got its label later. It waits for its batch like a worker.
    """
    report = member.report
    if not member.control_plane or report is None:
        return not member.control_plane
    return forth(report.rotation) == forth(rotation.id) and not report.ready


def _size(batch: str, count: int) -> int:
    share, percent, _ = batch.partition("%")
    return max(1, count * int(share) // 100) if percent else int(share)
