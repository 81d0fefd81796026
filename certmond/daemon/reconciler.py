"""Execution of the plan after each pass of the daemon in enforce mode.

`daemon.loop` decides when a pass runs. `daemon.enforcer` makes the plan and executes the steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

from certmond.daemon.enforcer import Enforcer
from certmond.errors import BusyError, CertmondError, StateError, WriteError, defect
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.notify.audit import Note
from certmond.notify.event_log import Event, Journal, bound
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.event_rate_limit import Budget, Omissions, Quota
from certmond.pki.assessment.key_mismatch_delay import REPAIR_WAIT
from certmond.pki.planning.renewal_quota import round_robin
from certmond.pki.planning.steps import Issue, Plan, Write
from certmond.pki.services.staleness import Surroundings

BUSY_INTERVAL, FAILURE_INTERVAL = 2.0, 60.0
"""Seconds until the next attempt to execute the plan: while another process or a signer is busy, and after a failure.
"""
SLICE = 1.0
"""Seconds for which the daemon executes steps that change files before the next scan. The daemon interrupts no step."""
FILE_STEP_TIME = 10.0
"""Minimum number of seconds for steps that change files, before restarts and rotations follow."""
HELD_EACH, HELD_OVERALL, HELD_INTERVAL = Budget(10, 60), Budget(10_000, 1), 60.0
"""Limits on audit records of held steps: for each file, and for all files. The third value is the interval in seconds
between two summaries of omitted records.
"""
CHECK_INTERVAL = timedelta(seconds=2)
"""Minimum time between two checks of the running services while a rotation waits."""
RECOVERY_PATIENCE = 5.0
"""Maximum number of seconds for which the starting daemon waits for another process that writes."""


class Reconciler:
    """Planner of the daemon for one configuration. With `enforcing`, this object also executes the plan.

    `take_lock` returns False while a command executes steps. No step begins after `stopping` returns true.
    """

    def __init__(
        self,
        enforcer: Enforcer,
        journal: Journal,
        telemetry: Telemetry,
        *,
        enforcing: bool,
        stopping: Callable[[], bool],
        take_lock: Callable[[], bool] = lambda: True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._enforcer, self._journal, self._telemetry = enforcer, journal, telemetry
        self._enforcing, self._take_lock, self._stopping = enforcing, take_lock, stopping
        self._monotonic = monotonic
        self._begun: set[tuple[type, str, str]] = set()  # steps that have begun in the current round
        self._results: set[str] = set()  # the results of those steps
        self._stepped: set[str] = set()  # entries with a step since the last restart or rotation
        self._stepping_since = monotonic()
        self._recorded: frozenset[tuple[Event, str, str]] = frozenset()
        self._unrecorded: frozenset[tuple[Event, str, str]] = frozenset()  # held steps without a record
        self._quota, self._omissions = Quota(HELD_EACH, HELD_OVERALL, HELD_OVERALL), Omissions(HELD_INTERVAL)
        self._interrupted: frozenset[str] = frozenset()
        self._observed: tuple[Assessment, Surroundings] | None = None
        self._no_restart_before = 0.0
        self.plan = Plan()
        self.service_check_at: datetime | None = None
        """Time of the next check of the running services for a restart or a rotation, or None."""
        self.retry_at: float | None = None
        """Time of the next attempt to execute the plan, on the monotonic clock, or None."""

    def recover(self) -> None:
        """Complete or revert the transactions of a killed process. In observe mode, only log such a transaction."""
        if not self._enforcing:
            try:
                self._enforcer.rotation_state.check()
            except StateError as error:
                self._journal.tell(Event.STEP_FAILED, str(error), "error")
            if self._enforcer.interrupted():
                fact = "a killed process left an interrupted transaction in the state directory"
                self._journal.tell(
                    Event.RECOVERED,
                    f"{fact}; to complete or revert the transaction, run: certmond renew NAME",
                    "warning",
                )
            return
        try:
            self._enforcer.executor.recover(RECOVERY_PATIENCE)
        except CertmondError as error:
            self._journal.tell(Event.STEP_FAILED, str(error), "error")

    def make_plan(self, assessment: Assessment, around: Surroundings) -> None:
        """Plan the steps for `assessment`, and store the result in `plan`."""
        self._observed = assessment, around
        # A later repair of a damaged certificate needs the subject of the certificate.
        self._enforcer.last_subjects.record(assessment)
        planned = self._enforcer.plan if self._enforcing else self._enforcer.plan_observed
        self.plan = planned(assessment, around=around)

    def record_plan(self, assessment: Assessment) -> None:
        """In enforce mode, write an audit record for each newly planned or held step.

        Omit short holds, and limit the rate of records about the other holds.
        """
        if not self._enforcing:
            return
        now = self._monotonic()
        current = {(Event.STEP_PLANNED, step.target, step.path): step.detail for step in self.plan.steps}
        lasting = (held for held in self.plan.held if not held.until or held.until > assessment.taken_at + REPAIR_WAIT)
        current |= {(Event.STEP_HELD, held.target, held.path): held.because for held in lasting}
        new = [entry for entry in current if entry not in self._recorded]
        # Planned steps need no limit here, because the execution limits their number.
        late = {entry for entry in new if entry[0] is Event.STEP_HELD and not self._quota.take(entry, now)}
        for entry in self._unrecorded - late - current.keys():  # the hold ended without a record
            self._omissions.add(entry, 1, now)
        if report := self._omissions.reported(now):
            fact = f"certmond did not log {report[0]} short holds of steps for {report[1]} files in the last minute"
            self._journal.tell(Event.LEFT_OUT, f"{fact}; see: certmond plan", "warning", count=report[0])
        notes = [
            Note(event, f"{path}: {current[event, target, path]}", {"target": target, "path": path})
            for event, target, path in new
            if (event, target, path) not in late
        ]
        try:
            if notes:
                self._enforcer.audit.note_all(notes, assessment.taken_at)
        except WriteError as error:
            self._journal.tell(Event.STEP_FAILED, str(error), "error")
        self._recorded, self._unrecorded = frozenset(current) - late, frozenset(late)

    def execute(self) -> bool:
        """Execute steps of the plan in enforce mode. Return whether the daemon must scan the node again."""
        rotation = self._enforcer.rotation_state.rotation
        with bound(**({"rotation": rotation.id} if rotation else {})):
            return self._execute()

    def _execute(self) -> bool:
        again = self.retry_at is not None and time.monotonic() >= self.retry_at
        self.retry_at = None
        if not self._enforcing or self._stopping():
            return False
        executor = self._enforcer.executor
        self._enforcer.rotating.until = None  # `_rotate` sets the deadline of the rotation again
        if not self._take_lock():
            self.service_check_at, self.retry_at = None, time.monotonic() + BUSY_INTERVAL
            return False
        # Interrupted transactions of a process that crashed, or that still holds the lock.
        begun = self._enforcer.interrupted() - (frozenset() if again else self._interrupted)
        try:
            state = self._enforcer.rotation_state
            if (state.replaced.is_followed or state.interim_trust.is_due) and self._rotate():
                return True  # before file steps, because the API server refuses its clients
            if not (self.plan.writes or begun):
                self._begin_file_steps()
                self._end_of_round()
                executor.tidy()
                return self._restart() or self._rotate()
            if self._file_steps_are_over(begun):
                if self._restart() or self._rotate():
                    return True
                self._begin_file_steps()
            complete = self._slice()
            self._interrupted = self._enforcer.interrupted()
            if not complete:
                return True
            results = self._end_of_round()
            if begun or "done" in results:
                return True
            return self._rotate_without_file_steps()
        except BusyError:
            self.retry_at = time.monotonic() + BUSY_INTERVAL
            return False
        except CertmondError as error:  # the state directory cannot be used, and no step began
            self._end_of_round()
            self.retry_at = self._no_restart_before = time.monotonic() + FAILURE_INTERVAL
            self._journal.tell(Event.STEP_FAILED, str(error), "error")
            return False

    def _slice(self) -> bool:
        """Execute steps that change files, for about `SLICE` seconds.

        Return whether all such steps of the plan have begun.
        """
        # A failed step runs again only after all other steps of the plan have begun.
        left = round_robin(
            (step for step in self.plan.writes if _identity(step) not in self._begun),
            (target for _, target, _ in self._begun),
        )
        end, new = self._monotonic() + SLICE, list[Write]()

        def over() -> bool:
            return self._stopping() or (bool(new) and self._monotonic() >= end)

        outcomes = self._enforcer.executor.execute(Plan(left), tell=new.append, stopping=over)
        self._begun |= {_identity(step) for step in new}
        self._stepped |= {step.target for step in new}
        self._results |= {outcome.result for outcome in outcomes}
        for outcome in outcomes:
            if isinstance(outcome.step, Issue):
                self._telemetry.renewals.labels(outcome.step.target, outcome.result).inc()
        return len(new) == len(left)

    def _file_steps_are_over(self, begun: Collection[str]) -> bool:
        """Return whether restarts and rotations are next, although steps that change files remain."""
        if begun or self._monotonic() < self._stepping_since + FILE_STEP_TIME:
            return False
        # Without this limit, an entry with a path pattern could delay restarts and rotations without end.
        return all(step.target in self._stepped for step in self.plan.writes)

    def _begin_file_steps(self) -> None:
        self._stepped, self._stepping_since = set(), self._monotonic()

    def _end_of_round(self) -> set[str]:
        """End a round of steps. Return the results of the steps, and set the time of the next attempt."""
        results, self._results, self._begun = self._results, set(), set()
        if self._interrupted or "failed" in results:
            self.retry_at = time.monotonic() + FAILURE_INTERVAL
        elif "waiting" in results:
            self.retry_at = time.monotonic() + BUSY_INTERVAL
        return results

    def _rotate_without_file_steps(self) -> bool:
        """Advance the rotation although no file has changed. Return whether the daemon must scan the node again."""
        # An abort of the rotation must not wait for other steps.
        again = self._rotate()
        if self.retry_at:
            # The retry comes first, because each pass executes the plan again.
            self.service_check_at = self._enforcer.rotating.until = None
        return again

    def _restart(self) -> bool:
        """Begin or continue a restart. Return whether the daemon must scan the node again."""
        self.service_check_at = None
        if self._observed is None or time.monotonic() < self._no_restart_before:
            return False
        try:
            self._enforcer.record_good_files(*self._observed)
            progress = self._enforcer.restart(self.plan.restartable, *self._observed)
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
        self.service_check_at = progress.until
        return progress.until is None

    def _rotate(self) -> bool:
        """Advance a rotation or interim trust. Return whether the daemon must scan the node again."""
        if self._observed is None:
            return False
        rotating = self._enforcer.rotating
        try:
            message = self._enforcer.rotate(*self._observed, self.plan)
            if message is None and rotating.waits and self.service_check_at is None:
                soon = datetime.now(UTC) + CHECK_INTERVAL  # the expected change might cause no event
                late = rotating.until - CHECK_INTERVAL if rotating.settled and rotating.until else soon
                self.service_check_at = max(soon, late)
            return message is not None
        except CertmondError:
            raise
        except Exception as error:  # noqa: BLE001 - a defect in a rotation must not block renewals
            self._journal.tell(Event.STEP_FAILED, f"a rotation: {defect(error)}", "error")
            self.retry_at = time.monotonic() + FAILURE_INTERVAL
            return False


def _identity(step: Write) -> tuple[type, str, str]:
    """Return the kind, target and path, which identify a step in the plans of several passes."""
    return type(step), step.target, step.path
