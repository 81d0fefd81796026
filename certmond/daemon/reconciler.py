"""Logs the plan of each pass and, in enforce mode, executes it.

Owns the state between passes: what was logged, whether another process writes, when to retry. `daemon.loop` decides
when a pass runs. `daemon.enforcer` plans and executes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

from certmond.daemon.enforcer import Enforcer
from certmond.errors import BusyError, CertmondError, StateError, WriteError, defect
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.notify.audit import Note
from certmond.notify.journal import Event, Journal, bound
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.event_rate_limit import Budget, Omissions, Quota
from certmond.pki.assessment.key_mismatch import REPAIR_WAIT
from certmond.pki.planning.renewal_quota import in_turn
from certmond.pki.planning.steps import Issue, Plan, Write
from certmond.pki.services.staleness import Surroundings

BUSY_INTERVAL, FAILURE_INTERVAL = 2.0, 60.0
"""Seconds until the next attempt.

Busy: another process writes, or a signer has not decided; later the plan sets the time to ask the signer. Failure: a
step failed, or the state directory cannot be used.
"""
SLICE = 1.0
"""Seconds after which no further step begins before the daemon has scanned the node and published the result.

A step in progress is not interrupted.
"""
TURN = 10.0
"""Seconds for file steps alone. Restarts and rotations follow once each entry of the plan has had a step."""
HELD_EACH, HELD_OVERALL, HELD_INTERVAL = Budget(10, 60), Budget(10_000, 1), 60.0
"""Limits for audit records of held steps: ten per file, then one a minute; and seconds between two summaries.

A summary counts the records left out. Steps that begin, end or fail are always recorded.
"""
LOOK_INTERVAL = timedelta(seconds=2)
"""Pause between two checks of the running services while a rotation waits for them."""
RECOVERY_PATIENCE = 5.0
"""Seconds that the start waits for another process that writes."""


class Reconciler:
    """Plans for one configuration, and executes the plan if `enforcing` and while this process `leads`.

    A process leads while no command acts. No step begins after `stopping` returns true.
    """

    def __init__(
        self,
        enforcer: Enforcer,
        journal: Journal,
        telemetry: Telemetry,
        *,
        enforcing: bool,
        stopping: Callable[[], bool],
        leads: Callable[[], bool] = lambda: True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._enforcer, self._journal, self._telemetry = enforcer, journal, telemetry
        self._enforcing, self._leads, self._stopping = enforcing, leads, stopping
        self._monotonic = monotonic
        self._begun: set[tuple[type, str, str]] = set()  # steps begun in the current round
        self._results: set[str] = set()  # their results
        self._served: set[str] = set()  # entries with a step since the last restart or rotation
        self._served_since = monotonic()
        self._told: frozenset[tuple[Event, str, str]] = frozenset()
        self._late: frozenset[tuple[Event, str, str]] = frozenset()  # held steps that are not recorded yet
        self._quota, self._omissions = Quota(HELD_EACH, HELD_OVERALL, HELD_OVERALL), Omissions(HELD_INTERVAL)
        self._interrupted: frozenset[str] = frozenset()
        self._seen: tuple[Assessment, Surroundings] | None = None
        self._no_restart_before = 0.0
        self.plan = Plan()
        self.look_at: datetime | None = None
        """When to check the running services again for a restart or a rotation."""
        self.retry_at: float | None = None
        """When to retry the plan, on the monotonic clock, or None."""

    def recover(self) -> None:
        """Finish the transactions of a killed process before the first pass. In observe mode, only report them."""
        if not self._enforcing:
            try:
                self._enforcer.standing.check()
            except StateError as error:
                self._journal.tell(Event.STEP_FAILED, str(error), "error")
            if self._enforcer.executor.interrupted():
                left = "a process that was killed left a replacement of files half done"
                self._journal.tell(Event.RECOVERED, f"{left}; `certmond renew NAME` finishes it first", "warning")
            return
        try:
            self._enforcer.executor.recover(RECOVERY_PATIENCE)
        except CertmondError as error:
            self._journal.tell(Event.STEP_FAILED, str(error), "error")

    def decide(self, assessment: Assessment, around: Surroundings) -> None:
        """Plan the pass. In observe mode, plan from the observed state alone."""
        self._seen = assessment, around
        planned = self._enforcer.plan if self._enforcing else self._enforcer.foresee
        self.plan = planned(assessment, around=around)

    def tell(self, assessment: Assessment) -> None:
        """Record the steps that are newly planned or held, except holds that end within `REPAIR_WAIT`."""
        if not self._enforcing:
            return
        now = self._monotonic()
        current = {(Event.STEP_PLANNED, step.target, step.path): step.detail for step in self.plan.steps}
        lasting = (held for held in self.plan.held if not held.until or held.until > assessment.taken_at + REPAIR_WAIT)
        current |= {(Event.STEP_HELD, held.target, held.path): held.because for held in lasting}
        fresh = [entry for entry in current if entry not in self._told]
        # A planned step needs no limit: each is executed, and the execution is limited.
        late = {entry for entry in fresh if entry[0] is Event.STEP_HELD and not self._quota.take(entry, now)}
        for entry in self._late - late - current.keys():  # no longer held, and never recorded
            self._omissions.add(entry, 1, now)
        if report := self._omissions.reported(now):
            many = f"{report[0]} steps of {report[1]} files were held for a moment in the last minute, and not logged"
            self._journal.tell(Event.LEFT_OUT, f"{many}; see: certmond plan", "warning", count=report[0])
        notes = [
            Note(event, f"{path}: {current[event, target, path]}", {"target": target, "path": path})
            for event, target, path in fresh
            if (event, target, path) not in late
        ]
        try:
            if notes:
                self._enforcer.audit.note_all(notes, assessment.taken_at)
        except WriteError as error:
            self._journal.tell(Event.STEP_FAILED, str(error), "error")
        self._told, self._late = frozenset(current) - late, frozenset(late)

    def act(self) -> bool:
        """Execute the plan. Return whether the daemon must scan the node again at once."""
        rotation = self._enforcer.standing.rotation
        with bound(**({"rotation": rotation.id} if rotation else {})):
            return self._act()

    def _act(self) -> bool:
        again = self.retry_at is not None and time.monotonic() >= self.retry_at
        self.retry_at = None
        if not self._enforcing or self._stopping():
            return False
        executor = self._enforcer.executor
        self._enforcer.rotating.until = None  # this deadline has passed; `_rotate` sets the next
        if not self._leads():
            self.look_at, self.retry_at = None, time.monotonic() + BUSY_INTERVAL
            return False
        # Unfinished transactions of a process that crashed, or that still holds the lock.
        begun = executor.interrupted() - (frozenset() if again else self._interrupted)
        try:
            stands = self._enforcer.standing
            if (stands.replaced.is_followed or stands.first_aid.is_due) and self._rotate():
                return True  # the API server refuses its clients: that comes before anything else
            if not (self.plan.writes or begun):
                self._begin_turn()
                self._end_of_round()
                executor.tidy()
                return self._restart() or self._rotate()
            if self._is_over(begun):
                if self._restart() or self._rotate():
                    return True
                self._begin_turn()
            complete = self._slice()
            self._interrupted = executor.interrupted()
            if not complete:
                return True
            results = self._end_of_round()
            if begun or "done" in results:
                return True
            return self._without_writing()
        except BusyError:
            self.retry_at = time.monotonic() + BUSY_INTERVAL
            return False
        except CertmondError as error:  # the state directory cannot be used, and no step began
            self._end_of_round()
            self.retry_at = self._no_restart_before = time.monotonic() + FAILURE_INTERVAL
            self._journal.tell(Event.STEP_FAILED, str(error), "error")
            return False

    def _slice(self) -> bool:
        """Begin file steps for `SLICE` seconds, at least one, alternating between entries.

        Return whether all have begun.

        A longer plan runs as a round of slices, each with the plan of its pass. A step that failed is still in the
        plan, and waits until the others have begun.
        """
        left = in_turn(
            (step for step in self.plan.writes if _mark(step) not in self._begun),
            (target for _, target, _ in self._begun),
        )
        end, fresh = self._monotonic() + SLICE, list[Write]()

        def over() -> bool:
            return self._stopping() or (bool(fresh) and self._monotonic() >= end)

        outcomes = self._enforcer.executor.execute(Plan(left), tell=fresh.append, stopping=over)
        self._begun |= {_mark(step) for step in fresh}
        self._served |= {step.target for step in fresh}
        self._results |= {outcome.result for outcome in outcomes}
        for outcome in outcomes:
            if isinstance(outcome.step, Issue):
                self._telemetry.renewals.labels(outcome.step.target, outcome.result).inc()
        return len(fresh) == len(left)

    def _is_over(self, begun: Collection[str]) -> bool:
        """Return whether file steps ran long enough. A glob pattern may have new files due without end."""
        if begun or self._monotonic() < self._served_since + TURN:
            return False
        return all(step.target in self._served for step in self.plan.writes)

    def _begin_turn(self) -> None:
        self._served, self._served_since = set(), self._monotonic()

    def _end_of_round(self) -> set[str]:
        """Return the results of the finished round, and set the time of the next attempt."""
        results, self._results, self._begun = self._results, set(), set()
        if self._interrupted or "failed" in results:
            self.retry_at = time.monotonic() + FAILURE_INTERVAL
        elif "waiting" in results:
            self.retry_at = time.monotonic() + BUSY_INTERVAL
        return results

    def _without_writing(self) -> bool:
        """Advance the rotation although no step has succeeded, because an operator may have aborted it.

        Return whether the daemon must scan the node again at once.
        """
        again = self._rotate()
        if self.retry_at:
            self.look_at = self._enforcer.rotating.until = None  # the retry comes first: each pass tries the plan again
        return again

    def _restart(self) -> bool:
        """Advance a restart by one step, after its files are written. Return whether to scan the node again at once."""
        self.look_at = None
        if self._seen is None or time.monotonic() < self._no_restart_before:
            return False
        try:
            self._enforcer.keep_former(*self._seen)
            progress = self._enforcer.restart(self.plan.restartable, *self._seen)
        except CertmondError:
            raise
        except Exception as error:  # noqa: BLE001 - a defect in a restart must not block renewals
            self._journal.tell(Event.STEP_FAILED, f"a restart: {defect(error)}", "error")
            self.retry_at = self._no_restart_before = time.monotonic() + FAILURE_INTERVAL
            return False
        if progress is None:
            return False
        if progress.result is not None:
            self._telemetry.restarts.labels(progress.service, progress.result.value).inc()
        self.look_at = progress.until
        return progress.until is None

    def _rotate(self) -> bool:
        """Advance a rotation. Return whether to scan the node again at once."""
        if self._seen is None:
            return False
        rotating = self._enforcer.rotating
        try:
            said = self._enforcer.rotate(*self._seen, self.plan)
            if said is None and rotating.waits and self.look_at is None:
                soon = datetime.now(UTC) + LOOK_INTERVAL  # no event may announce what it waits for
                late = rotating.until - LOOK_INTERVAL if rotating.settled and rotating.until else soon
                self.look_at = max(soon, late)
            return said is not None
        except CertmondError:
            raise
        except Exception as error:  # noqa: BLE001 - a defect in a rotation must not block renewals
            self._journal.tell(Event.STEP_FAILED, f"a rotation: {defect(error)}", "error")
            self.retry_at = time.monotonic() + FAILURE_INTERVAL
            return False


def _mark(step: Write) -> tuple[type, str, str]:
    """Return what identifies a step across plans."""
    return type(step), step.target, step.path
