"""Order of the steps of a rotation's phase in a plan: before the other steps, among them, or held until a retry.

A file that certmond could not write does not delay the renewal of a certificate. Pure.
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
    """The `steps` of a phase that certmond tries now, and those that it holds until `changes_at`.

    `first` is True if certmond plans renewals only after it has executed these steps and observed the node again.
    """

    steps: tuple[Rotate, ...] = ()
    held: tuple[Held, ...] = ()
    changes_at: datetime | None = None
    first: bool = False

    def beside(self, made: Plan) -> Plan:
        """Return a plan with these steps, then those of `made`, without renewals of certificates in the same files."""
        paths = {step.path for step in self.steps}
        rest = (step for step in made.steps if not (isinstance(step, Issue) and step.path in paths))
        instants = filter(None, (made.changes_at, self.changes_at))
        return replace(
            made, steps=(*self.steps, *rest), held=(*self.held, *made.held), changes_at=min(instants, default=None)
        )


def pace(left: MissingSteps, past: Mapping[Identity, Attempt], now: datetime) -> Pace:
    """Return which steps of a phase certmond tries now, according to the attempts in `past`.

    certmond tries a failed step again in each plan, among the other steps. If the phase does not wait for the step,
    certmond tries it again after the pause of a renewal, at most ten minutes.
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
