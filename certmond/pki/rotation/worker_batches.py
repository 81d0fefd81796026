"""In which order workers follow in a phase: one first, then some at a time, when all before them have come so far.

Owns a worker's place among the workers, and up to which place they may act. A worker that is silent keeps those behind
it where they are, so that what breaks a kubelet breaks few. Control planes come before all workers, and take turns of
their own (`turns`). Pure; who raises the mark, and tells the nodes, is `cluster.conductor`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from certmond.pki.rotation.gates import Gate, Member, closed
from certmond.pki.rotation.phases import SIGNER_FAMILY, Mode, Phase, Rotation, forth, sequence

_CHANGING = frozenset({Phase.TRUST, Phase.ISSUE, Phase.DISTRUST})
"""The phases that change anything on a worker. In the others its kubelet is not restarted, and nobody waits."""
_NAMED = 5
"""So many workers of a batch are told by their names."""


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers are waited for in the phase, how many of these may act, and how many have acknowledged it."""

    all: int
    released: int
    acknowledged: int

    def __str__(self) -> str:
        return f"{self.all} workers: {self.released} released, {self.acknowledged} acknowledged"


def place(name: str) -> float:
    """Where a node is among all, from 0 to below 1: decided by its name, so that nobody has to be asked."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def stepwise(rotation: Rotation) -> tuple[Phase, ...]:
    """The phases in which workers go in batches: none where it is done at once, or of a CA that workers do not have."""
    if rotation.family != SIGNER_FAMILY or rotation.mode is Mode.REPLACE:
        return ()
    return tuple(phase for phase in sequence(rotation) if phase in _CHANGING)


def in_batches(rotation: Rotation) -> bool:
    """Workers go in batches in the phase that the rotation is in."""
    return rotation.shared and rotation.phase in stepwise(rotation)


def is_released(rotation: Rotation, name: str) -> bool:
    """This worker may act in the phase."""
    return not in_batches(rotation) or place(name) < rotation.released


def held_back(rotation: Rotation, name: str) -> str | None:
    """Why this worker does nothing of the phase yet, a sentence; None where it may act."""
    if is_released(rotation, name):
        return None
    return "the batch of this worker has not come yet; a control plane says who has to come so far before"


def joined(own: Rotation, told: Rotation) -> Rotation:
    """`told`, of which this node knows `own`: who may act already is not held back again in the same phase."""
    if (own.id, own.phase) != (told.id, told.phase) or own.released <= told.released:
        return told
    return replace(told, released=own.released)


def workers(rotation: Rotation, members: Iterable[Member]) -> Workers | None:
    """How far the workers are; None in a phase without batches."""
    if not in_batches(rotation):
        return None
    found = _waited_for(rotation, members)
    released = [each for each in found if is_released(rotation, each.name)]
    return Workers(len(found), len(released), sum(not any(closed(rotation, [each])) for each in released))


def behind(rotation: Rotation, members: Iterable[Member]) -> tuple[str, ...]:
    """Why neither the next workers may act nor the phase can be left: a sentence for each node that has to come so far
    first. Of those that may not act yet nothing is told.
    """
    members = list(members)
    acting = (each for each in members if not _is_worker(rotation, each) or is_released(rotation, each.name))
    waits, count = tuple(closed(rotation, acting)), workers(rotation, members)
    return (f"{waits[0]} ({count})", *waits[1:]) if waits and count and count.all else waits


def next_batch(rotation: Rotation, members: Iterable[Member], batch: str) -> Gate:
    """The rotation with those workers released that are next, where all before them have come so far: one first, then
    `batch` at a time, a number or a percentage, rounded down, but one at least. Open where nobody is held back.
    """
    found = _waited_for(rotation, members)
    count = workers(rotation, found)
    if count is None or rotation.released >= 1:
        return Gate()
    waiting = sorted((place(each.name), each.name) for each in found if not is_released(rotation, each.name))
    if not waiting:  # but perhaps somebody who was left out, and is there
        return Gate(("no worker is held back any more",), noted=replace(rotation, released=1.0))
    size = _size(batch, count.all) if count.released else 1
    names, later = [name for _, name in waiting[:size]], [at for at, _ in waiting[size:]]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    said = f"{rotation.phase} is acknowledged by {count.acknowledged} of {count.all} workers"
    # Up to the one behind them: who joins with a place before that one waits for nobody.
    mark = later[0] if later else 1.0
    return Gate((f"{said}; next: {', '.join(names[:_NAMED])}{more}",), noted=replace(rotation, released=mark))


def _waited_for(rotation: Rotation, members: Iterable[Member]) -> list[Member]:
    """The workers, but those that a person has left out."""
    return [each for each in members if _is_worker(rotation, each) and each.name not in rotation.excluded]


def _is_worker(rotation: Rotation, member: Member) -> bool:
    """By its label, or by its own word: no control plane comes beyond `prepare` without the new key, so that who has
    none was labelled as one since, and waits for its batch as before.
    """
    report = member.report
    if not member.control_plane or report is None:
        return not member.control_plane
    return forth(report.rotation) == forth(rotation.id) and not report.ready


def _size(batch: str, count: int) -> int:
    share, percent, _ = batch.partition("%")
    return max(1, count * int(share) // 100) if percent else int(share)
