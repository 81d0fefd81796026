"""Order of the steps of a rotation's phase in a plan: before the other steps, among the other steps, or held.

A step that failed to write a file does not delay the renewal of a certificate. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from certmond.pki.assessment.last_attempt import Attempt
from certmond.pki.planning.steps import Held, Identity, Issue, Plan, Rotate
from certmond.pki.rotation.planner import MissingSteps


@dataclass(frozen=True, slots=True)
class Pace:
    """The steps of a phase that certmond tries now (`steps`), and the failed steps with their messages (`held`).

    `changes_at` is the time of the next retry. `first` is True if certmond plans renewals only after it has executed
    these steps and observed the node again.
    """

    steps: tuple[Rotate, ...] = ()
    held: tuple[Held, ...] = ()
    changes_at: datetime | None = None
    first: bool = False

    def beside(self, made: Plan) -> Plan:
        """Return the plan `made` with the steps of this phase before its own steps.

        Leave out a renewal of a certificate whose file a step of the phase writes.
        """
        paths = {step.path for step in self.steps}
        rest = (step for step in made.steps if not (isinstance(step, Issue) and step.path in paths))
        instants = filter(None, (made.changes_at, self.changes_at))
        return replace(
            made, steps=(*self.steps, *rest), held=(*self.held, *made.held), changes_at=min(instants, default=None)
        )


def pace(left: MissingSteps, past: Mapping[Identity, Attempt], now: datetime) -> Pace:
    """Return which steps of a phase certmond tries at `now`, according to the attempts in `past`.

    certmond tries a failed step again in each plan. If the phase does not wait for the step, certmond tries the step
    again after a pause of at most ten minutes.
    """
    steps, held, instants, first = list[Rotate](), list[Held](), list[datetime](), False
    for step in left.steps:
        attempt, awaited = past.get((step.target, step.path)), step.path not in left.unawaited
        if attempt is None or not attempt.failures:
            steps.append(step)
            first |= awaited
            continue
        again = None if awaited else attempt.file_retry_at
        held.append(Held(step.target, step.path, attempt.message, again))
        if again is None or not attempt.at <= now < again:
            steps.append(step)
        else:
            instants.append(again)
    return Pace(tuple(steps), tuple(held), min(instants, default=None), first)
