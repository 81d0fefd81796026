"""One hook: its thread, the runs of its program, and the record of the findings that the program has received.

This module writes the record (`<state directory>/hooks/NAME.json`), retries failed runs, and limits the rate of runs.
`pki.assessment.hook_events` decides which runs are due.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from certmond.errors import CertmondError, MalformedError, StateError, UnreachableError, WriteError, defect
from certmond.immutable_class import immutable
from certmond.notify.event_log import Event, Journal
from certmond.notify.hook_input import document
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.event_rate_limit import Budget, Omissions, Quota
from certmond.pki.assessment.hook_events import Due, Key, Notice, due, next_repeat, open_findings, selected_findings
from certmond.pki.catalog.settings import HookSpec
from certmond.pki.findings import Severity
from certmond.state.json_file import Memory
from certmond.subprocesses import first_line, run
from certmond.transaction.temp_file import make_directory

MOST = 1000
"""Maximum number of open findings that one hook receives."""
FIRST_PAUSE, LAST_PAUSE = 5.0, 300.0
"""Shortest and longest pause after a failed run, in seconds. Each failure doubles the pause."""
EACH = Budget(burst=4, every=60)
"""Budget of runs for one reason of one certificate.

Four runs can report that a finding is raised, cleared, raised with a higher severity, and cleared again.
"""
OVERALL = Budget(burst=100, every=0.5)
"""Budget of all runs of a hook. A thousand findings take about eight minutes."""
RESERVE = Budget(burst=MOST, every=1)
"""Budget of additional runs for critical findings that have not changed often."""
LOG_EACH, LOG_OVERALL = Budget(burst=2, every=60), Budget(burst=50, every=2)
"""Budgets of journal entries about skipped findings: for one reason of one certificate, and for all findings."""
INTERVAL = 60.0
"""Seconds between two summaries of omitted journal entries."""
_SAVE_INTERVAL = 1.0  # seconds between two writes of the record; after a kill, certmond repeats the unstored runs
_RECORD = tuple[Notice, ...]

Count = Callable[[str, str], None]
"""Function that counts a result of a hook: `told`, `failed` or `passed_over`.

An event that the hook does not receive is `passed_over`.
"""


@immutable
class PassResult:
    """The node and the time of a pass. `settled` is True if certmond has observed the services.

    If `settled` is False, an absent finding does not count as cleared.
    """

    node: str
    at: datetime
    settled: bool


class Hook:
    """One hook, and its thread.

    `pauses` contains the shortest and the longest pause after a failure, in seconds. The thread starts its work after
    the thread of the hook `after` has ended.
    """

    def __init__(
        self,
        spec: HookSpec,
        state_dir: Path,
        journal: Journal,
        count: Count,
        *,
        after: Hook | None = None,
        pauses: tuple[float, float] = (FIRST_PAUSE, LAST_PAUSE),
        most: int = MOST,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.waiting = 0
        self._directory = state_dir / "hooks"
        self._record = Memory(self._directory, f"{spec.name}.json", _RECORD)
        self._journal, self._count, self._pauses, self._most = journal, count, pauses, most
        self._lock, self._woken = threading.Lock(), threading.Event()
        self._delivered: tuple[dict[Key, Notice], PassResult] | None = None
        self._findings_since: dict[Key, Notice] = {}  # findings of all passes since the last `_take_findings`
        self._stopping, self._abandoned = threading.Event(), False
        self._received: dict[Key, Notice] = {}
        self._wanted: dict[Key, Notice] = {}
        self._pass_result = PassResult("", datetime.now(UTC), settled=False)
        self._failures: dict[tuple[str, Key], int] = {}
        self._consecutive_failures, self._retry_at = 0, 0.0
        self._excess, self._unsaved = 0, False
        self._saved_at = 0.0
        self._monotonic = monotonic
        self._quota, self._free_at = Quota(EACH, OVERALL, RESERVE), 0.0
        self._log_quota, self._omissions = Quota(LOG_EACH, LOG_OVERALL, LOG_OVERALL), Omissions(INTERVAL)
        self._rate_limited: frozenset[tuple[str, Key]] = frozenset()
        self._previous = after
        self._thread: threading.Thread | None = None
        self._thread_failure_logged = False

    def deliver_findings_of(self, assessment: Assessment, *, settled: bool) -> None:
        """Give the findings of at least the minimum severity of the hook to the thread. This method never blocks."""
        result = PassResult(assessment.facts.get("node_name", ""), assessment.taken_at, settled)
        self.deliver(open_findings(assessment, self.spec.at_least), result)

    def deliver(self, found: dict[Key, Notice], pass_result: PassResult) -> None:
        """Give the findings of a pass to the thread of the hook. This method never blocks."""
        with self._lock:
            self._delivered = found, pass_result
            self._findings_since |= found
        if self._thread is None:
            self._start()
        self._woken.set()

    def _start(self) -> None:
        name = self.spec.name
        thread = threading.Thread(target=self._run, args=(self._previous,), name=f"hook {name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._thread_failure_logged:
                why = f"hook {name} receives no findings: certmond cannot start a thread; raise TasksMax= of the unit"
                self._journal.tell(Event.HOOK_FAILED, why, "error", hook=name)
            self._thread_failure_logged = True
        else:
            self._thread = thread

    def stop(self) -> None:
        """Prevent further runs. A run in progress continues."""
        self._stopping.set()
        self._woken.set()

    def join(self, patience: float) -> None:
        """Wait until this hook and its predecessors have ended. After `patience` seconds, kill their programs."""
        deadline = time.monotonic() + patience
        for each in self._with_predecessors():
            each._join_thread(max(0.0, deadline - time.monotonic()))

    def _with_predecessors(self) -> list[Hook]:
        """Return the former hooks whose threads might still run, oldest first, and this hook."""
        before = self._previous
        return [*(before._with_predecessors() if before else ()), self]

    def _join_thread(self, patience: float) -> None:
        if self._thread is None:
            return
        self._thread.join(patience)
        self._abandoned = True
        self._thread.join()

    def _run(self, after: Hook | None) -> None:
        for each in after._with_predecessors() if after else ():
            each._join_thread(each.spec.time_limit.total_seconds())
        self._previous = None
        while not self._loads_record() and not self._stopping.is_set():
            self._stopping.wait(max(0.0, self._retry_at - time.monotonic()))
        while not self._stopping.is_set():
            try:
                self._take_findings()
                while not self._stopping.is_set() and (step := self._next()):
                    self._run_step(step)
                    self._take_findings()
            except Exception as error:  # noqa: BLE001 - a defect with one event must not stop the others
                self._fail(None, defect(error))
            self._report()
            self._save()
            self._woken.wait(self._wait_seconds())
        self._save()

    def _loads_record(self) -> bool:
        """Load the record of earlier runs, or an empty record if the content is malformed.

        Return False if the record is unreadable.
        """
        try:
            self._received = {notice.key: notice for notice in self._record.load() or ()}
        except StateError as error:
            self._fail(None, str(error))
            return False
        except MalformedError:
            self._received = {}
        return True

    def _take_findings(self) -> None:
        """Take the delivered findings, and log each finding that was cleared before the hook received the finding."""
        self._woken.clear()
        with self._lock:
            delivered, findings_since, self._findings_since = self._delivered, self._findings_since, {}
            self._delivered = None
        if delivered is None:
            return
        found, self._pass_result = delivered
        before, now = {**findings_since, **self._wanted}, self._monotonic()
        for key, notice in before.items() if self._pass_result.settled else ():
            if key not in found and key not in self._received:
                fact = f"the finding {notice.reason} of {notice.path} was cleared"
                skipped = f"{fact} before hook {self.spec.name} received this notice"
                if self._log_quota.take(notice.subject, now):
                    self._journal.tell(Event.HOOK_FAILED, skipped, **self._fields(notice))
                else:
                    self._omissions.add(notice.subject, 1, now)
                self._count(self.spec.name, "passed_over")
        self._wanted = selected_findings(found, self._received, before, self._most)
        excess = len(found) - len(self._wanted)
        if excess and not self._excess:
            summary = f"hook {self.spec.name} receives {len(self._wanted)} findings; {excess} other findings wait"
            self._journal.tell(
                Event.HOOK_FAILED, f"{summary} until some findings are cleared", "warning", hook=self.spec.name
            )
        self._excess = excess
        steps = {step.key for step in self._due()}
        for event, key in self._rate_limited - steps:
            # The finding was cleared, and returned before certmond ran the hook for the event `cleared`.
            if event == "cleared" and self._pass_result.settled:
                self._omissions.add(key[:3], 1, now)
                self._count(self.spec.name, "passed_over")
        self._rate_limited &= steps
        self._failures = {key: count for key, count in self._failures.items() if key in steps}

    def _due(self) -> list[Due]:
        pass_result, now = self._pass_result, datetime.now(UTC)
        return list(
            due(
                self._wanted,
                self._received,
                now,
                settled=pass_result.settled,
                at=pass_result.at,
                repeat=self.spec.repeat,
            )
        )

    def _next(self) -> Due | None:
        """Return the due run with the fewest failures, or None if no run is due or permitted now."""
        steps, now = self._due(), self._monotonic()
        self.waiting = len(steps) + self._excess
        if not steps or time.monotonic() < self._retry_at:
            return None
        free = {step.key: self._quota.free_at(step.notice.subject, now, urgent=_is_urgent(step)) for step in steps}
        self._free_at = min(free.values())
        self._rate_limited = frozenset(key for key, at in free.items() if at > now)
        admitted = [step for step in steps if step.key not in self._rate_limited]
        if not admitted:
            return None
        # With equal failures, prefer a finding with at least half of its budget left.
        calm = self._quota.is_calm
        return min(admitted, key=lambda step: (self._failures.get(step.key, 0), not calm(step.notice.subject, now)))

    def _wait_seconds(self) -> float | None:
        """Return the seconds until the next action of the thread, or None to wait for the next pass."""
        if self._stopping.is_set():
            return 0
        now, pauses = self._monotonic(), list[float]()
        if self._omissions.due_at is not None:
            pauses.append(self._omissions.due_at - now)
        if self._due():
            pauses.append(max(self._retry_at - time.monotonic(), self._free_at - now))
        elif self.spec.repeat and (again := next_repeat(self._received, self.spec.repeat)):
            pauses.append((again - datetime.now(UTC)).total_seconds())
        return max(0.0, min(pauses)) if pauses else None

    def _run_step(self, step: Due) -> None:
        notice, program = step.notice, self.spec.command[0]
        try:
            data = document(step, self._pass_result.node)
            ended = run(self.spec.command, self.spec.environment, self.spec.time_limit, self._alive, data)
        except CertmondError as error:
            if not self._abandoned:
                self._fail(step, str(error))
            return
        if ended.status:
            text = first_line(ended.said)
            exit_text = (
                f"was ended by signal {-ended.status}" if ended.status < 0 else f"ended with status {ended.status}"
            )
            self._fail(step, f"{program} {exit_text}{f' ({text})' if text else ''}")
            return
        self._failures.pop(step.key, None)
        self._quota.take(notice.subject, self._monotonic(), urgent=_is_urgent(step))
        self._consecutive_failures, self._unsaved = 0, True
        if step.event == "raised":
            self._received[notice.key] = replace(notice, told_at=datetime.now(UTC))
        else:
            del self._received[notice.key]
        self._count(self.spec.name, "told")
        text = first_line(ended.output)
        message = f"hook {self.spec.name} received: {notice.reason} of {notice.path} is {step.event}"
        self._journal.tell(Event.HOOK_TOLD, message, **self._fields(notice), **({"output": text} if text else {}))
        if time.monotonic() - self._saved_at >= _SAVE_INTERVAL:
            self._save()

    def _fail(self, step: Due | None, why: str) -> None:
        if step:
            self._failures[step.key] = self._failures.get(step.key, 0) + 1
        pause = min(self._pauses[1], self._pauses[0] * 2**self._consecutive_failures)
        self._consecutive_failures = min(self._consecutive_failures + 1, 16)
        self._retry_at = time.monotonic() + pause
        self._count(self.spec.name, "failed")
        fields = self._fields(step.notice) if step else {"hook": self.spec.name}
        message = f"hook {self.spec.name} failed: {why}; certmond runs the hook again in {pause:g} s"
        self._journal.tell(Event.HOOK_FAILED, message, "warning", **fields)

    def _report(self) -> None:
        """Write the summary of omitted journal entries if the summary is due."""
        if report := self._omissions.reported(self._monotonic()):
            summary = (
                f"{report[0]} changes of {report[1]} findings were reverted before hook {self.spec.name} received them"
            )
            self._journal.tell(
                Event.LEFT_OUT, f"{summary}, and certmond did not log these changes; see: certmond status", "warning",
                hook=self.spec.name, count=report[0],
            )  # fmt: skip

    def _save(self) -> None:
        if not self._unsaved:
            return
        self._saved_at = time.monotonic()
        try:
            make_directory(self._directory.parent)
            self._record.write(tuple(self._received.values()))
        except (WriteError, OSError) as error:
            why = f"certmond cannot store the findings that hook {self.spec.name} has received ({error})"
            message = f"{why}; after a restart of certmond, the hook receives these findings again"
            self._journal.tell(Event.HOOK_FAILED, message, "error", hook=self.spec.name)
        self._unsaved = False

    def _alive(self) -> None:
        if self._abandoned:
            raise UnreachableError("certmond stops")

    def _fields(self, notice: Notice) -> dict[str, str]:
        return {
            "hook": self.spec.name, "certificate": notice.certificate, "path": notice.path, "reason": notice.reason,
            "severity": notice.severity.value,
        }  # fmt: skip


def _is_urgent(step: Due) -> bool:
    return step.event == "raised" and step.notice.severity is Severity.CRITICAL
