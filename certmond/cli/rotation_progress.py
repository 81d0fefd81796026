"""A rotation brought to its end by a command: step by step where it acts on this node, else by following who does.

Owns when the node is looked at again, and what is shown of a step. The steps are the daemon's own: the same plan, the
same proofs, the same gates.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from certmond.cli.acting_process import Handover
from certmond.cli.plan import FAILED
from certmond.cli.progress import Progress
from certmond.daemon.enforcer import Enforcer
from certmond.errors import BusyError, RotationError
from certmond.pki.assessment.assess import Assessment
from certmond.pki.planning.steps import Plan, Write
from certmond.pki.rotation.phases import Rotation
from certmond.pki.services.staleness import Surroundings

_RETRY = timedelta(seconds=1)
"""Between two tries of a step while another process is writing."""
_UNSEEN = 2.0
"""Seconds until the node is looked at again for what no file tells, as that a service is well or a file can be written;
then twice as many each time, and `_SELDOM` at most.
"""
_SELDOM, _LONGEST = 30.0, 300.0


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of one step: a sentence about it, or what it waits for (`waits`), until when; whether the rotation
    cannot go on without a person (`failed`).
    """

    said: str | None = None
    until: datetime | None = None
    waits: bool = False
    failed: bool = False


def carry_on(enforcer: Enforcer, handover: Handover, progress: Progress, *, back: bool) -> int:
    """Do what there is to do until the rotation is done, there or `back`, or follow the process that does. Return the
    exit code. Raises RotationError where nobody can tell how far it is.
    """
    told: Any = None
    rotation: Rotation | None = None
    unseen, begun = _UNSEEN, set[str]()
    while True:
        handover.look_begins()
        assessment, around = enforcer.see()
        before, rotation = rotation, enforcer.standing.rotation
        if rotation is None:
            if enforcer.standing.broken:
                raise RotationError(enforcer.standing.broken)
            if before and before.aborted is not back:
                click.echo(
                    f"{before.name} was led back: the former {before.noun} is in place, not the new one", err=True
                )
                return FAILED
            click.echo("done")
            return 0
        with handover.turn() as ours:
            done = _one_step(enforcer, progress, assessment, around, begun) if ours else _Done()
        if not ours:
            if frozen := enforcer.standing.lacks(assessment).frozen:
                progress.tell(f"[{rotation.phase}] {frozen}")
                return FAILED
            handover.follow_rotation(rotation, enforcer.standing.own)
            continue
        if done.waits and done.said:
            handover.tell_rotation_wait(rotation, done.said)
        elif done.said and (rotation.phase, done.said) != told:
            progress.tell(f"[{rotation.phase}] {done.said}")
            told = rotation.phase, done.said
        if done.failed:
            return FAILED
        unseen = min(2 * unseen, _SELDOM) if done.waits and (rotation.phase, done.said) == told else _UNSEEN
        told = (rotation.phase, done.said) if done.said else told
        if done.waits or done.until is not None or done.said is None:
            settled = done.waits and enforcer.rotating.settled
            handover.pause(done.until, enforcer.interest, at_most=_LONGEST if settled else unseen)


def _one_step(
    enforcer: Enforcer, progress: Progress, assessment: Assessment, around: Surroundings, begun: set[str]
) -> _Done:
    """Make the next step of the rotation, or of what it needs. A file that cannot be written keeps no restart and no
    other decision from its turn. `begun` are the steps that were told since the last one succeeded.
    """
    unwritten: str | None = None
    try:
        enforcer.keep_former(assessment, around)
        made = enforcer.plan(assessment, around=around)
        if made.writes:
            unwritten = _unwritten(enforcer, progress, made, begun)
            if unwritten is None:
                return _Done(None, datetime.now(UTC))
        step = enforcer.restart(made.restartable, assessment, around)
        if step and step.until is None:
            return _Done(f"{step.service}: {step.message}")
        if said := enforcer.rotate(assessment, around, made):  # which a restart that waits may not concern
            return _Done(said, datetime.now(UTC))
    except BusyError as error:
        return _Done(str(error), datetime.now(UTC) + _RETRY, waits=True)
    if unwritten:  # which a person has to see to, whatever else is waited for
        return _Done(unwritten, step.until if step else enforcer.rotating.until, waits=True)
    if step:
        return _Done(f"{step.service}: {step.message}", step.until, waits=True)
    if frozen := enforcer.standing.lacks(assessment).frozen:
        return _Done(frozen, failed=True)
    waits = enforcer.rotating.waits
    return _Done(waits[0] if waits else None, enforcer.rotating.until, waits=True)


def _unwritten(enforcer: Enforcer, progress: Progress, made: Plan, begun: set[str]) -> str | None:
    """Make the steps that change files. Return why there is nothing new to look at: the first of them that was not
    done, where none was.
    """

    def tell(step: Write) -> None:
        line = f"  {step.target}: {step.detail}"
        if line not in begun:
            progress.tell(line)
        begun.add(line)

    outcomes = enforcer.executor.execute(made, tell=tell)
    if any(each.result == "done" for each in outcomes):
        begun.clear()
        return None
    return next((each.message for each in outcomes), None)
