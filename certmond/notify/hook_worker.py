"""One hook: its thread, the runs of its program, and the record of what it was run for.

Owns the record (`<state directory>/hooks/NAME.json`), the retries, and the rate limit. `pki.assessment.hook_delivery`
decides what is due, after each pass.

Each run gets one document on standard input, without a shell, and ends before the next. A hook runs exactly once for
each event, and again if certmond is killed before it has stored the result. A finding that flaps is delivered in its
latest state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from certmond.errors import CertmondError, MalformedError, StateError, UnreachableError, WriteError, defect
from certmond.notify.hook_input import document
from certmond.notify.journal import Event, Journal
from certmond.pki.assessment.event_rate_limit import Budget, Omissions, Quota
from certmond.pki.assessment.hook_delivery import Due, Key, Notice, due, next_repeat, wanted
from certmond.pki.catalog.settings import HookSpec
from certmond.pki.findings import Severity
from certmond.state.json_file import Memory
from certmond.subprocesses import first_line, run
from certmond.transaction.temp_file import make_directory

MOST = 1000
"""Findings that one hook gets at a time; the others wait until some of these are cleared."""
FIRST_PAUSE, LAST_PAUSE = 5.0, 300.0
"""Seconds between a failed run and the next one, doubled each time."""
EACH = Budget(burst=4, every=60)
"""Runs for one reason of one certificate: raised, cleared, raised more severely, cleared; then one a minute."""
OVERALL = Budget(burst=100, every=0.5)
"""Runs in all; then two a second, so that a thousand findings take eight minutes."""
RESERVE = Budget(burst=MOST, every=1)
"""Runs beyond that, for raised critical findings that do not flap."""
LINES, ALL_LINES = Budget(burst=2, every=60), Budget(burst=50, every=2)
"""Entries of the journal about skipped findings, for one reason of one certificate, and for all."""
INTERVAL = 60.0
"""Seconds between two summaries of omitted entries."""
_SAVE_INTERVAL = 1.0  # seconds; what is not stored when certmond is killed is delivered again
_MEMORY = TypeAdapter(list[Notice])

Count = Callable[[str, str], None]
"""Called with the name of a hook and the result of a run: `told`, `failed`, or `passed_over` without a run."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The result of a pass. With `settled`, services were observed, so that a missing finding is cleared."""

    node: str
    at: datetime
    settled: bool


class Hook:
    """One hook, and its thread. `pauses` are the first and the last pause after a failure, in seconds.

    `monotonic` is the clock of the rate limit, in seconds.
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
        self._memory = Memory(self._directory, f"{spec.name}.json", _MEMORY)
        self._journal, self._count, self._pauses, self._most = journal, count, pauses, most
        self._lock, self._woken = threading.Lock(), threading.Event()
        self._handed: tuple[dict[Key, Notice], Seen] | None = None
        self._passing: dict[Key, Notice] = {}  # findings at any time since the thread last took them
        self._leaving, self._abandoned = threading.Event(), False
        self._told: dict[Key, Notice] = {}
        self._want: dict[Key, Notice] = {}
        self._seen = Seen("", datetime.now(UTC), settled=False)
        self._failures: dict[tuple[str, Key], int] = {}
        self._in_a_row, self._not_before = 0, 0.0
        self._left_out, self._unsaved = 0, False
        self._saved_at = 0.0
        self._monotonic = monotonic
        self._quota, self._free_at = Quota(EACH, OVERALL, RESERVE), 0.0
        self._lines, self._omissions = Quota(LINES, ALL_LINES, ALL_LINES), Omissions(INTERVAL)
        self._kept_back: frozenset[tuple[str, Key]] = frozenset()
        self._after = after
        self._thread: threading.Thread | None = None
        self._halted = False

    def hand(self, found: dict[Key, Notice], seen: Seen) -> None:
        """Pass the present findings to the thread, which the first call starts. Returns at once."""
        with self._lock:
            self._handed = found, seen
            self._passing |= found
        if self._thread is None:
            self._begin()
        self._woken.set()

    def _begin(self) -> None:
        name = self.spec.name
        thread = threading.Thread(target=self._work, args=(self._after,), name=f"hook {name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._halted:
                why = f"hook {name} is told nothing until a thread is to be had; see TasksMax= of the unit"
                self._journal.tell(Event.HOOK_FAILED, why, "error", hook=name)
            self._halted = True
        else:
            self._thread = thread

    def leave(self) -> None:
        """Start no more runs."""
        self._leaving.set()
        self._woken.set()

    def end(self, patience: float) -> None:
        """Wait for the thread. A program that takes longer than `patience` seconds is killed."""
        if self._thread is None:
            return
        self._thread.join(patience)
        self._abandoned = True
        self._thread.join()

    def _work(self, after: Hook | None) -> None:
        if after is not None:
            after.end(after.spec.time_limit.total_seconds())
        while not self._recalled() and not self._leaving.is_set():
            self._leaving.wait(max(0.0, self._not_before - time.monotonic()))
        while not self._leaving.is_set():
            try:
                self._take()
                while not self._leaving.is_set() and (step := self._next()):
                    self._tell(step)
                    self._take()
            except Exception as error:  # noqa: BLE001 - a defect with one event must not stop the others
                self._fail(None, defect(error))
            self._report()
            self._save()
            self._woken.wait(self._patience())
        self._save()

    def _recalled(self) -> bool:
        """Return whether certmond may run the hook: not while it cannot read the record of earlier runs.

        A damaged record counts as an empty one.
        """
        try:
            self._told = {notice.key: notice for notice in self._memory.load() or ()}
        except StateError as error:
            self._fail(None, str(error))
            return False
        except MalformedError:
            self._told = {}
        return True

    def _take(self) -> None:
        """Take the findings that were passed. Those that came and went in between are skipped, which is logged."""
        self._woken.clear()
        with self._lock:
            handed, passing, self._passing = self._handed, self._passing, {}
            self._handed = None
        if handed is None:
            return
        found, self._seen = handed
        before, now = {**passing, **self._want}, self._monotonic()
        for key, notice in before.items() if self._seen.settled else ():
            if key not in found and key not in self._told:
                gone = f"{notice.reason} of {notice.path} was cleared before hook {self.spec.name} was told of it"
                if self._lines.take(notice.subject, now):
                    self._journal.tell(Event.HOOK_FAILED, gone, **self._fields(notice))
                else:
                    self._omissions.add(notice.subject, 1, now)
                self._count(self.spec.name, "passed_over")
        self._want = wanted(found, self._told, before, self._most)
        left_out = len(found) - len(self._want)
        if left_out and not self._left_out:
            many = f"hook {self.spec.name} is told of {len(self._want)} findings, and not of {left_out} less grave ones"
            self._journal.tell(Event.HOOK_FAILED, f"{many}, until some are cleared", "warning", hook=self.spec.name)
        self._left_out = left_out
        steps = {step.key for step in self._due()}
        for event, key in self._kept_back - steps:
            # The finding returned before certmond ran the hook for its end.
            if event == "cleared" and self._seen.settled:
                self._omissions.add(key[:3], 1, now)
                self._count(self.spec.name, "passed_over")
        self._kept_back &= steps
        self._failures = {key: count for key, count in self._failures.items() if key in steps}

    def _due(self) -> list[Due]:
        seen, now = self._seen, datetime.now(UTC)
        return list(due(self._want, self._told, now, settled=seen.settled, at=seen.at, repeat=self.spec.repeat))

    def _next(self) -> Due | None:
        """Return the next run: those with the fewest failures first, then findings that do not flap, then others.

        None while no run is due, in the pause after a failure, and while the budget is used up.
        """
        steps, now = self._due(), self._monotonic()
        self.waiting = len(steps) + self._left_out
        if not steps or time.monotonic() < self._not_before:
            return None
        free = {step.key: self._quota.free_at(step.notice.subject, now, urgent=_is_urgent(step)) for step in steps}
        self._free_at = min(free.values())
        self._kept_back = frozenset(key for key, at in free.items() if at > now)
        admitted = [step for step in steps if step.key not in self._kept_back]
        if not admitted:
            return None
        calm = self._quota.is_calm
        return min(admitted, key=lambda step: (self._failures.get(step.key, 0), not calm(step.notice.subject, now)))

    def _patience(self) -> float | None:
        """Return the seconds until the next action without a new pass, or None."""
        if self._leaving.is_set():
            return 0
        now, pauses = self._monotonic(), list[float]()
        if self._omissions.due_at is not None:
            pauses.append(self._omissions.due_at - now)
        if self._due():
            pauses.append(max(self._not_before - time.monotonic(), self._free_at - now))
        elif self.spec.repeat and (again := next_repeat(self._told, self.spec.repeat)):
            pauses.append((again - datetime.now(UTC)).total_seconds())
        return max(0.0, min(pauses)) if pauses else None

    def _tell(self, step: Due) -> None:
        notice, program = step.notice, self.spec.command[0]
        try:
            given = document(step, self._seen.node)
            ended = run(self.spec.command, self.spec.environment, self.spec.time_limit, self._alive, given)
        except CertmondError as error:
            if not self._abandoned:
                self._fail(step, str(error))
            return
        if ended.status:
            said = first_line(ended.said)
            how = f"was ended by signal {-ended.status}" if ended.status < 0 else f"ended with status {ended.status}"
            self._fail(step, f"{program} {how}{f' ({said})' if said else ''}")
            return
        self._failures.pop(step.key, None)
        self._quota.take(notice.subject, self._monotonic(), urgent=_is_urgent(step))
        self._in_a_row, self._unsaved = 0, True
        if step.event == "raised":
            self._told[notice.key] = replace(notice, told_at=datetime.now(UTC))
        else:
            del self._told[notice.key]
        self._count(self.spec.name, "told")
        said = first_line(ended.output)
        message = f"hook {self.spec.name} was told: {notice.reason} of {notice.path} is {step.event}"
        self._journal.tell(Event.HOOK_TOLD, message, **self._fields(notice), **({"output": said} if said else {}))
        if time.monotonic() - self._saved_at >= _SAVE_INTERVAL:
            self._save()

    def _fail(self, step: Due | None, why: str) -> None:
        if step:
            self._failures[step.key] = self._failures.get(step.key, 0) + 1
        pause = min(self._pauses[1], self._pauses[0] * 2**self._in_a_row)
        self._in_a_row = min(self._in_a_row + 1, 16)
        self._not_before = time.monotonic() + pause
        self._count(self.spec.name, "failed")
        fields = self._fields(step.notice) if step else {"hook": self.spec.name}
        message = f"hook {self.spec.name} failed: {why} (it is run again in {pause:g} s)"
        self._journal.tell(Event.HOOK_FAILED, message, "warning", **fields)

    def _report(self) -> None:
        """Write the summary of omitted entries, if it is due."""
        if report := self._omissions.reported(self._monotonic()):
            many = (
                f"{report[0]} changes of {report[1]} findings were over before hook {self.spec.name} was run for them"
            )
            self._journal.tell(
                Event.LEFT_OUT, f"{many}, and not logged; see: certmond status", "warning", hook=self.spec.name,
                count=report[0],
            )  # fmt: skip

    def _save(self) -> None:
        if not self._unsaved:
            return
        self._saved_at = time.monotonic()
        try:
            make_directory(self._directory.parent)
            self._memory.write(list(self._told.values()))
        except (WriteError, OSError) as error:
            why = f"what hook {self.spec.name} was told cannot be noted ({error}); it will be told again after a start"
            self._journal.tell(Event.HOOK_FAILED, why, "error", hook=self.spec.name)
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
