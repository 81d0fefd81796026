"""Completion of a rotation by a command: it acts step by step, or follows the process that acts on this node.

Owns when the node is scanned again, and what is shown of a step. The steps are those of the daemon, with the same plan,
verification and gates.
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
from certmond.notify.journal import bound
from certmond.pki.assessment.assess import Assessment
from certmond.pki.planning.steps import Plan, Write
from certmond.pki.rotation.phases import Rotation
from certmond.pki.services.staleness import Surroundings

_RETRY = timedelta(seconds=1)
"""Pause between two attempts while another process writes."""
_UNSEEN = 2.0
"""Seconds until the next scan for changes without a file event, such as a service that becomes healthy.

The pause doubles each time, up to `_SELDOM`.
"""
_SELDOM, _LONGEST = 30.0, 300.0


@dataclass(frozen=True, slots=True)
class _Done:
    """The result of one step: a sentence about it, or what it waits for (`waits`), and until when.

    `failed`: the rotation cannot continue without an operator.
    """

    said: str | None = None
    until: datetime | None = None
    waits: bool = False
    failed: bool = False


def carry_on(enforcer: Enforcer, handover: Handover, progress: Progress, *, back: bool) -> int:
    """Execute steps until the rotation is complete or aborted (`back`), or follow the process that does.

    Return the exit code. Raises RotationError where the progress is unknown.
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
        with handover.turn() as ours, bound(rotation=rotation.id):
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
    """Execute the next step of the rotation, or of what it needs.

    A file that cannot be written does not block restarts or the rotation's decisions. `begun` has the steps printed
    since the last success.
    """
    unwritten: str | None = None
    try:
        enforcer.record_good_files(assessment, around)
        made = enforcer.plan(assessment, around=around)
        if made.writes:
            unwritten = _unwritten(enforcer, progress, made, begun)
            if unwritten is None:
                return _Done(None, datetime.now(UTC))
        step = enforcer.restart(made.restartable, assessment, around)
        if step and step.until is None:
            return _Done(f"{step.service}: {step.message}")
        if said := enforcer.rotate(assessment, around, made):  # may be independent of a restart that waits
            return _Done(said, datetime.now(UTC))
    except BusyError as error:
        return _Done(str(error), datetime.now(UTC) + _RETRY, waits=True)
    if unwritten:  # the operator must fix that, whatever else the rotation waits for
        return _Done(unwritten, step.until if step else enforcer.rotating.until, waits=True)
    if step:
        return _Done(f"{step.service}: {step.message}", step.until, waits=True)
    if frozen := enforcer.standing.lacks(assessment).frozen:
        return _Done(frozen, failed=True)
    waits = enforcer.rotating.waits
    return _Done(waits[0] if waits else None, enforcer.rotating.until, waits=True)


def _unwritten(enforcer: Enforcer, progress: Progress, made: Plan, begun: set[str]) -> str | None:
    """Execute the steps that change files. Return None if one was done, else the message of the first."""

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
