"""Execution of a rotation by a command.

If another process executes the steps, the command shows the progress of that process. This module defines the intervals
of the scans and the output about each step.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from certmond.cli.messages import print_message
from certmond.cli.plan import FAILED
from certmond.cli.step_handover import Handover
from certmond.cli.wait_progress import Progress
from certmond.daemon.enforcer import Enforcer
from certmond.errors import BusyError, RotationError
from certmond.immutable_class import immutable
from certmond.notify.event_log import bound
from certmond.pki.assessment.assess import Assessment
from certmond.pki.planning.steps import Plan, Write
from certmond.pki.rotation.phases import Rotation
from certmond.pki.services.staleness import Surroundings

_RETRY = timedelta(seconds=1)
"""Pause before the next attempt while another process writes on this node."""
_FIRST_PAUSE = 2.0
"""First pause in seconds before a scan for changes that cause no file event.

The pause doubles up to `_LONGEST_POLL`.
"""
_LONGEST_POLL, _LONGEST = 30.0, 300.0


@immutable
class _StepResult:
    """Result of one step of a rotation.

    `message` describes the step, or the wait if `waits` is True. The next scan is at `until` at the latest. `failed`
    means that an operator must act.
    """

    message: str | None = None
    until: datetime | None = None
    waits: bool = False
    failed: bool = False


def run_rotation(enforcer: Enforcer, handover: Handover, progress: Progress, *, aborting: bool) -> int:
    """Execute the rotation, or show the progress of the process that executes the rotation. Return the exit code.

    The code is `FAILED` if the rotation cannot continue, or did not end with the requested result. Raises RotationError
    if the state of the rotation is unknown, and BusyError if the executing daemon writes no heartbeat.
    """
    shown: Any = None
    rotation: Rotation | None = None
    pause, printed = _FIRST_PAUSE, set[str]()
    while True:
        handover.discard_events()
        assessment, around = enforcer.see()
        before, rotation = rotation, enforcer.rotation_state.rotation
        if rotation is None:
            if enforcer.rotation_state.broken:
                raise RotationError(enforcer.rotation_state.broken)
            if before and before.aborted is not aborting:
                print_message(other_end(before), err=True)
                return FAILED
            click.echo("done")
            return 0
        with handover.acting_lock() as acts, bound(rotation=rotation.id):
            result = _one_step(enforcer, progress, assessment, around, printed) if acts else _StepResult()
        if not acts:
            if frozen := enforcer.rotation_state.missing_steps(assessment).frozen:
                progress.tell(f"[{rotation.phase}] {frozen}")
                return FAILED
            handover.watch_rotation(rotation, enforcer.rotation_state.own)
            continue
        if result.waits and result.message:
            handover.show_rotation_wait(rotation, result.message)
        elif result.message and (rotation.phase, result.message) != shown:
            progress.tell(f"[{rotation.phase}] {result.message}")
            shown = rotation.phase, result.message
        if result.failed:
            return FAILED
        pause = (
            min(2 * pause, _LONGEST_POLL)
            if result.waits and (rotation.phase, result.message) == shown
            else _FIRST_PAUSE
        )
        shown = (rotation.phase, result.message) if result.message else shown
        if result.waits or result.until is not None or result.message is None:
            settled = result.waits and enforcer.rotating.settled
            handover.pause(result.until, enforcer.interest, at_most=_LONGEST if settled else pause)


def other_end(rotation: Rotation) -> str:
    """Return the message that the rotation was aborted or is complete."""
    if rotation.aborted:
        return f"{rotation.name} was aborted: the old {rotation.noun} is in use, not the new {rotation.noun}"
    return f"{rotation.name} is complete: the new {rotation.noun} is in use, not the old {rotation.noun}"


def _one_step(
    enforcer: Enforcer, progress: Progress, assessment: Assessment, around: Surroundings, printed: set[str]
) -> _StepResult:
    """Execute the next step of the rotation, or a planned step that must come first.

    `printed` contains the lines that this command has printed since the last successful step.
    """
    write_failure: str | None = None
    try:
        enforcer.record_good_files(assessment, around)
        made = enforcer.plan(assessment, around=around)
        if made.writes:
            write_failure = _write_files(enforcer, progress, made, printed)
            if write_failure is None:
                return _StepResult(None, datetime.now(UTC))
        step = enforcer.restart(made.restartable, assessment, around)
        if step and step.until is None:
            return _StepResult(f"{step.service}: {step.message}")
        if message := enforcer.rotate(assessment, around, made):  # the rotation can continue while a restart waits
            return _StepResult(message, datetime.now(UTC))
    except BusyError as error:
        return _StepResult(str(error), datetime.now(UTC) + _RETRY, waits=True)
    if write_failure:  # the operator must repair that file, even if the rotation waits for something else
        return _StepResult(write_failure, step.until if step else enforcer.rotating.until, waits=True)
    if step:
        return _StepResult(f"{step.service}: {step.message}", step.until, waits=True)
    if frozen := enforcer.rotation_state.missing_steps(assessment).frozen:
        return _StepResult(frozen, failed=True)
    waits = enforcer.rotating.waits
    return _StepResult(waits[0] if waits else None, enforcer.rotating.until, waits=True)


def _write_files(enforcer: Enforcer, progress: Progress, made: Plan, printed: set[str]) -> str | None:
    """Execute the steps that change files. Return the first message if no step succeeded, otherwise None."""

    def tell(step: Write) -> None:
        line = f"  {step.target}: {step.detail}"
        if line not in printed:
            progress.tell(line)
        printed.add(line)

    outcomes = enforcer.executor.execute(made, tell=tell)
    if any(each.result == "done" for each in outcomes):
        printed.clear()
        return None
    return next((each.message for each in outcomes), None)
