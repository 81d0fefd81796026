"""The daemon's hand: the plan of each pass, told, and in enforce mode carried out.

Owns what is remembered of that from pass to pass: what was told, whether somebody else is writing, when to try again.
When a pass is made is the daemon's; what is planned and how it is done, `enforce`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

from certmond.enforce import Enforcer
from certmond.errors import BusyError, CertmondError, StateError, WriteError, defect
from certmond.expose.telemetry import Telemetry
from certmond.host.audit import Note
from certmond.host.journal import Event, Journal
from certmond.pki.assess import Assessment
from certmond.pki.entry_share import in_turn
from certmond.pki.holding import Surroundings
from certmond.pki.mismatch import REPAIR_WAIT
from certmond.pki.quota import Budget, Omissions, Quota
from certmond.pki.steps import Issue, Plan, Write

BUSY_INTERVAL, FAILURE_INTERVAL = 2.0, 60.0
"""Seconds until a plan is made again while somebody else is writing, or where a signer has not decided yet, after which
the plan itself says when to ask it; and where the state directory cannot be used.
"""
SLICE = 1.0
"""Seconds after which no further step begins before the node has been looked at, and what is seen is published. A step
that is under way is not interrupted.
"""
TURN = 10.0
"""Seconds for which files alone are written. Then restarts and rotations have a turn, where each entry has had one."""
HELD_EACH, HELD_OVERALL, HELD_INTERVAL = Budget(10, 60), Budget(10_000, 1), 60.0
"""How often it is noted in the trail that a step is held: of one file ten times, then once a minute; and how many
seconds are between two summaries of what was left out. Steps that are begun, done or failed are always noted.
"""
LOOK_INTERVAL = timedelta(seconds=2)
"""Between two looks at what runs, while a rotation waits for it."""
RECOVERY_PATIENCE = 5.0
"""Seconds to wait at the start for somebody else who is writing."""


class Acting:
    """Plans for one configuration, and acts on it if `enforcing`, and as soon as this process `leads`: no command is
    making a step. No step begins once `stopping` says so.
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
        self._begun: set[tuple[type, str, str]] = set()  # the steps of the round that is under way, each once
        self._results: set[str] = set()  # what became of them
        self._served: set[str] = set()  # the entries that had a step since the last turn of restarts and rotations
        self._served_since = monotonic()
        self._told: frozenset[tuple[Event, str, str]] = frozenset()
        self._late: frozenset[tuple[Event, str, str]] = frozenset()  # what is held, and not noted yet
        self._quota, self._omissions = Quota(HELD_EACH, HELD_OVERALL, HELD_OVERALL), Omissions(HELD_INTERVAL)
        self._interrupted: frozenset[str] = frozenset()
        self._seen: tuple[Assessment, Surroundings] | None = None
        self._no_restart_before = 0.0
        self.plan = Plan()
        self.look_at: datetime | None = None
        """When what runs is to be looked at again for the sake of a restart."""
        self.retry_at: float | None = None
        """When the plan is tried again, on the monotonic clock; None where nothing stands in its way."""

    def recover(self) -> None:
        """Finish what a process that was killed has left, before anything else is looked at."""
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
        """Plan what is to be done; in observe mode what would be, as far as what is seen alone tells it.

        Note first which subjects were seen, because a repair of a later plan depends on them.
        """
        self._seen = assessment, around
        self._enforcer.salvage.note(assessment)
        planned = self._enforcer.plan if self._enforcing else self._enforcer.foresee
        self.plan = planned(assessment, around=around)

    def tell(self, assessment: Assessment) -> None:
        """Note in the trail what is planned or held and was not before, unless the hold ends within `REPAIR_WAIT`."""
        if not self._enforcing:
            return
        now = self._monotonic()
        current = {(Event.STEP_PLANNED, step.target, step.path): step.detail for step in self.plan.steps}
        lasting = (held for held in self.plan.held if not held.until or held.until > assessment.taken_at + REPAIR_WAIT)
        current |= {(Event.STEP_HELD, held.target, held.path): held.because for held in lasting}
        fresh = [entry for entry in current if entry not in self._told]
        # What is planned is done, and so bounded by what is done.
        late = {entry for entry in fresh if entry[0] is Event.STEP_HELD and not self._quota.take(entry, now)}
        for entry in self._late - late - current.keys():  # it is held no longer, and was never noted
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
        """Carry out the plan. Whether the node is to be looked at again at once."""
        again = self.retry_at is not None and time.monotonic() >= self.retry_at
        self.retry_at = None
        if not self._enforcing or self._stopping():
            return False
        executor = self._enforcer.executor
        self._enforcer.rotating.until = None  # its moment is now; what is not done then has another
        if not self._leads():
            self.look_at, self.retry_at = None, time.monotonic() + BUSY_INTERVAL
            return False
        # Half done, and not by us: whoever began it was killed, or is at it and holds the lock.
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
        except CertmondError as error:  # the state directory cannot be used: nothing was begun
            self._end_of_round()
            self.retry_at = self._no_restart_before = time.monotonic() + FAILURE_INTERVAL
            self._journal.tell(Event.STEP_FAILED, str(error), "error")
            return False

    def _slice(self) -> bool:
        """Begin the steps that change files, one of each entry in turn, for `SLICE` seconds, and one at least; return
        whether all of the plan have been begun.

        A plan that takes longer is carried out in a round of slices, each of the plan that the pass before it made. A
        step that the plan still has although it was begun, because it failed, waits until the others had their turn.
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
        """Whether files were written for long enough: in a pattern, ever new ones may be due."""
        if begun or self._monotonic() < self._served_since + TURN:
            return False
        return all(step.target in self._served for step in self.plan.writes)

    def _begin_turn(self) -> None:
        self._served, self._served_since = set(), self._monotonic()

    def _end_of_round(self) -> set[str]:
        """Return what became of the steps of the round that is over, and set the time of the next try."""
        results, self._results, self._begun = self._results, set(), set()
        if self._interrupted or "failed" in results:
            self.retry_at = time.monotonic() + FAILURE_INTERVAL
        elif "waiting" in results:
            self.retry_at = time.monotonic() + BUSY_INTERVAL
        return results

    def _without_writing(self) -> bool:
        """What a rotation has to hear and say although nothing can be written for it: it may have been led back.
        Whether to look at everything again now.
        """
        again = self._rotate()
        if self.retry_at:
            self.look_at = self._enforcer.rotating.until = None  # that comes first: each pass tries the plan again
        return again

    def _restart(self) -> bool:
        """One step of a restart, now that its files are as they should be. Whether to look at everything again now."""
        self.look_at = None
        if self._seen is None or time.monotonic() < self._no_restart_before:
            return False
        try:
            self._enforcer.keep_former(*self._seen)
            progress = self._enforcer.restart(self.plan.restartable, *self._seen)
        except CertmondError:
            raise
        except Exception as error:  # noqa: BLE001 - a defect of ours in a restart must not keep renewals from their turn
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
        """Bring a rotation on. Whether to look at everything again now."""
        if self._seen is None:
            return False
        rotating = self._enforcer.rotating
        try:
            said = self._enforcer.rotate(*self._seen, self.plan)
            if said is None and rotating.waits and self.look_at is None:
                soon = datetime.now(UTC) + LOOK_INTERVAL  # whatever it waits for, nobody may tell us of it
                late = rotating.until - LOOK_INTERVAL if rotating.settled and rotating.until else soon
                self.look_at = max(soon, late)
            return said is not None
        except CertmondError:
            raise
        except Exception as error:  # noqa: BLE001 - a defect of ours in a rotation must not keep renewals from their turn
            self._journal.tell(Event.STEP_FAILED, f"a rotation: {defect(error)}", "error")
            self.retry_at = time.monotonic() + FAILURE_INTERVAL
            return False


def _mark(step: Write) -> tuple[type, str, str]:
    """What makes a step the same one in the next plan."""
    return type(step), step.target, step.path
