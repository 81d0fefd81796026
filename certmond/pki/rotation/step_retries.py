"""The missing steps of a rotation phase that certmond executes now, and the failed steps that wait for a retry.

In the plan, these steps precede the renewals. A step that could not write a file does not delay the renewal of
certificates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from certmond.immutable_class import immutable
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.planning.steps import Held, Identity, Issue, Plan, Rotate
from certmond.pki.rotation.planner import MissingSteps


@immutable
class Pace:
    """Steps of a phase that certmond tries now (`steps`), and failed steps (`held`).

    `changes_at` is the time of the next retry, or None if no step waits for a retry. If `first` is True, certmond
    executes these steps and observes the node again before it plans renewals.
    """

    steps: tuple[Rotate, ...] = ()
    held: tuple[Held, ...] = ()
    changes_at: datetime | None = None
    first: bool = False

    def beside(self, made: Plan) -> Plan:
        """Return the plan `made` with the steps of this phase first, and without renewals of the same files."""
        paths = {step.path for step in self.steps}
        rest = (step for step in made.steps if not (isinstance(step, Issue) and step.path in paths))
        instants = filter(None, (made.changes_at, self.changes_at))
        return replace(
            made, steps=(*self.steps, *rest), held=(*self.held, *made.held), changes_at=min(instants, default=None)
        )


def pace(left: MissingSteps, past: Mapping[Identity, Attempt], now: datetime) -> Pace:
    """Return the steps of a phase that certmond tries at `now`, according to the attempts in `past`.

    If the phase does not wait for a failed step, certmond retries the step only after a pause.
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
