"""Which files of a rotation's phase come before everything else, which beside it, and which wait for another try.

Owns that order. A file that could not be written keeps no certificate from being renewed. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from certmond.pki.attempt import Attempt
from certmond.pki.rotation_steps import Lacks
from certmond.pki.steps import Held, Identity, Issue, Plan, Rotate


@dataclass(frozen=True, slots=True)
class Pace:
    """The `steps` of a phase that certmond tries now, and those that it holds until `changes_at`. If they come `first`,
    certmond renews certificates only after a new look at the node.
    """

    steps: tuple[Rotate, ...] = ()
    held: tuple[Held, ...] = ()
    changes_at: datetime | None = None
    first: bool = False

    def beside(self, made: Plan) -> Plan:
        """Return the plan with these steps before its own. A certificate in one of their files has its turn later."""
        paths = {step.path for step in self.steps}
        rest = (step for step in made.steps if not (isinstance(step, Issue) and step.path in paths))
        instants = filter(None, (made.changes_at, self.changes_at))
        return replace(
            made, steps=(*self.steps, *rest), held=(*self.held, *made.held), changes_at=min(instants, default=None)
        )


def pace(left: Lacks, past: Mapping[Identity, Attempt], now: datetime) -> Pace:
    """Return when the steps of a phase are tried, by the attempts of the `past`.

    One that failed is tried in each plan, beside the rest. One that the phase does not wait for is tried again as late
    as a renewal, and after ten minutes at the latest.
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
