"""Handover of steps from a command to the process that executes steps on this node.

The executing process is the daemon in enforce mode. If this daemon does not run, the executing process is the first
command that takes the lock. All other commands show the progress of the executing process.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from certmond.cli.acting_process_report import ActivityReport, document
from certmond.cli.wait_progress import Events, Progress
from certmond.controllers.watched_state_files import records_of
from certmond.errors import BusyError, MalformedError
from certmond.expose.metrics.exposition import ACTIVITY, HEARTBEAT
from certmond.files.directory_watch import Interest
from certmond.pki.rotation.phases import Rotation, may_be_aborted
from certmond.pki.services.restart_episode import Episode, Past, Stage, Terms
from certmond.pki.services.restart_state_machine import state_of
from certmond.restart.history import History
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.node_lock import ACTING, COMMAND, WRITING, Holder, NodeLock, holder_of, is_held, writer_of

PATIENCE = timedelta(seconds=30)
"""Maximum time that a command waits for another command that writes on this node."""

T = TypeVar("T")

_RESTART_TIMEOUT = 60.0
"""Seconds that a command waits for the daemon to begin a restart."""
_LOCK_POLL = 30.0
"""Seconds between two checks of a lock. The end of a killed process might cause no file event."""
_SILENT, _HUNG = 30.0, 120.0
"""Seconds without a heartbeat of the daemon. After the first time, a command prints a message. After the second time,
the command fails.
"""
_SHOWN = frozenset({"step_begun", "step_done", "step_failed", "recovered", "rotation"})
"""Events of the daemon that a command shows."""
_SINCE = re.compile(r" since (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC")
"""Pattern of the time at which a hold began, in a message from `pki.rotation.rotation_holds`."""


class Handover:
    """Handover of steps from one command to the process that executes steps on this node."""

    def __init__(self, state_dir: Path, progress: Progress, terms: Terms) -> None:
        self._state_dir, self._progress, self._terms = state_dir, progress, terms
        self._command, self._acting = NodeLock(state_dir, COMMAND), NodeLock(state_dir, ACTING)
        self._history, self._record = History(state_dir), RotationRecord(state_dir)
        self._events = Events()
        self._shown_events: set[tuple[str, str]] | None = None
        self._followed_pid: int | None = None
        self._heartbeat: tuple[float, float] = (
            0.0,
            time.monotonic(),
        )  # the last heartbeat, and the time at which this command first read this heartbeat
        self._last_state: object = None

    @contextmanager
    def acting_lock(self) -> Iterator[bool]:
        """Yield True if this command may execute steps on the node during the `with` block, otherwise False.

        Raises WriteError if certmond cannot open the lock, and StateError if the state directory is unusable.
        """
        acts = self._command.take() and self._acting.take()
        try:
            yield acts
        finally:
            self._acting.release()

    def retry_while_busy(self, act: Callable[[], T]) -> T:
        """Return the result of `act`. While another process writes on this node, wait and call `act` again.

        Raises BusyError if another command writes for longer than `PATIENCE`, or if the daemon writes no heartbeat for
        `_HUNG` seconds.
        """
        waited: Holder | None = None
        begun = end = datetime.now(UTC)
        while True:
            try:
                return act()
            except BusyError:
                self._watch({self._real_path(self._state_dir): frozenset({WRITING, ACTING})})
                writer = writer_of(self._state_dir) or Holder(0)
                acts = self._acts(writer)
                if writer != waited:
                    waited, begun = writer, datetime.now(UTC)
                    end = begun + PATIENCE
                elif not acts and datetime.now(UTC) >= end:
                    raise
                self._show_events(self._report())
                until = None if acts else end
                self._progress.wait(f"{writer} is writing on this node", since=begun, until=until, shows=writer.shows)
                while is_held(self._state_dir, WRITING) and (acts or datetime.now(UTC) < end):
                    self._events.wait(until, at_most=_LOCK_POLL)
                    report = self._report()
                    if report.silent >= _SILENT:
                        self._show_silence(report)

    def _acts(self, writer: Holder) -> bool:
        """Return whether `writer` executes the steps on this node and is another process."""
        acting = holder_of(self._state_dir, ACTING)
        return acting is not None and acting.pid == writer.pid != os.getpid()

    def pause(self, until: datetime | None, interest: Interest, *, at_most: float = 300.0) -> None:
        """Wait for a change to a file in `interest` or to a record of certmond.

        The wait ends at `until` or after `at_most` seconds, whichever is earlier.
        """
        self._watch({**interest, **records_of(self._state_dir)})
        self._events.wait(until, at_most=at_most)

    def discard_events(self, interest: Interest | None = None) -> None:
        """Discard all previous events of file changes. With `interest`, first watch the files in `interest`."""
        if interest is not None:
            self._watch({**interest, **records_of(self._state_dir)})
        self._events.discard()

    # Progress of the acting process

    def watch_restarts(self, left: Collection[str], since: datetime) -> tuple[str, str] | None:
        """Show how another process restarts the services in `left`, until the progress changes.

        Ignore passes of the other process before `since`. If the restart of a service is held, or does not begin within
        `_RESTART_TIMEOUT` seconds, return the service and the reason. Otherwise return None. Raises BusyError if the
        daemon has written no heartbeat for `_HUNG` seconds.
        """
        before, end = self._end_times(left), time.monotonic() + _RESTART_TIMEOUT
        while True:
            report = self._report()
            if report.holder is None:
                return None
            past = self._history.all()
            if self._end_times(left) != before:
                return None
            episode = next((each.episode for each in past.values() if each.episode), None)
            if episode is None and report.passed_at > since.timestamp():
                if (held := [name for name in left if name in report.held]) and not report.planned & {*left}:
                    return held[0], report.held[held[0]]
                if not report.planned & {*left} and time.monotonic() >= end:
                    return next(iter(left)), f"{report.holder} has not begun the restart; see: certmond status"
            if report.silent >= _SILENT:
                self._show_silence(report)
            elif episode:
                self.show_restart(episode)
            else:
                names = ", ".join(sorted(left))
                self._progress.wait(report.obstacle or f"{report.holder} restarts {names} next")
            if self._changed((episode and (episode.service, episode.stage), report.planned, report.held.keys())):
                return None
            self._events.wait(at_most=min(_SILENT, max(1.0, end - time.monotonic())))

    def watch_rotation(self, rotation: Rotation, noted: Rotation | None) -> None:
        """Show the progress of a rotation that another process executes, until the progress changes.

        `noted` is the rotation in the record of this node at the last scan. Return also if this record changes, or if
        the other process ends. Raises BusyError if the daemon has written no heartbeat for `_HUNG` seconds.
        """
        while True:
            report = self._report()
            if report.holder is None or self._current_rotation() != noted:
                return
            progress = report.rotation(rotation)
            waits = list(progress.get("waits", ()))
            episode = next((each.episode for each in self._history.all().values() if each.episode), None)
            if report.silent >= _SILENT:
                self._show_silence(report)
            elif episode:
                self.show_restart(episode)
            elif waits:
                self.show_rotation_wait(rotation, report.obstacle or waits[0], len(waits) - 1)
            if self._changed((rotation.phase, bool(progress), waits[:1])):
                return
            self._events.wait(at_most=_SILENT)

    def show_rotation_wait(self, rotation: Rotation, reason: str, more: int = 0) -> None:
        """Show why the rotation waits, the start of the wait and, if such a command exists, a command that ends the
        wait.

        `more` is the number of other reasons.
        """
        others, since = f" (and {more} more)" if more > 0 else "", rotation.since
        fact, _, command = reason.partition("; run: ")
        if command and (found := _SINCE.search(fact)):
            since = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
            fact = fact.replace(found[0], "", 1)
        self._progress.wait(f"[{rotation.phase}] {fact}{others}", command or _abort_command(rotation), since=since)

    def show_restart(self, episode: Episode) -> None:
        """Show the state of a restart and, until a check succeeds, the deadline of the verification. After a problem,
        also show the command that restores the files.
        """
        until = episode.acted_at + self._terms.ready_within if episode.acted_at and not episode.good else None
        remedy = self._restore_command(episode) if episode.trouble else ""
        state = "is being restarted" if episode.stage is Stage.ACT else state_of(episode)
        self._progress.wait(f"{episode.service}: {state}", remedy, until=until, since=episode.begun_at)

    def _restore_command(self, episode: Episode) -> str:
        """Return the command that restores the files after a failed restart, or "" if there is no such command.

        During a rotation, return the command that aborts the rotation, or "" if the phase permits no abort. A restored
        file of the old CA would stop the rotation.
        """
        if rotation := self._current_rotation():
            return _abort_command(rotation)
        names = dict.fromkeys(target.name for target in episode.targets)
        return " && ".join(f"certmond archive restore {name}" for name in names)

    def _changed(self, state: object) -> bool:
        """Return whether `state` differs from the state in the previous call."""
        before, self._last_state = self._last_state, state
        return before != state

    def _end_times(self, names: Collection[str]) -> dict[str, datetime | None]:
        past: Mapping[str, Past] = self._history.all()
        return {name: past[name].ended_at for name in names if name in past and past[name].episode is None}

    def _current_rotation(self) -> Rotation | None:
        try:
            return self._record.load()
        except MalformedError:
            return None

    def _show_silence(self, report: ActivityReport) -> None:
        """Show that the daemon writes no heartbeat, and the time at which this command fails."""
        now = datetime.now(UTC)
        since, until = now - timedelta(seconds=report.silent), now + timedelta(seconds=_HUNG - report.silent)
        fact = f"{report.holder} writes no heartbeat"
        self._progress.wait(fact, "systemctl restart certmond", since=since, until=until)

    def _silence(self, heartbeat: Mapping[str, Any]) -> float:
        """Return the seconds since this command first read the latest heartbeat of the daemon."""
        beat, now = float(heartbeat.get("alive_at") or 0.0), time.monotonic()
        if beat != self._heartbeat[0]:
            self._heartbeat = beat, now
        return now - self._heartbeat[1]

    def _report(self) -> ActivityReport:
        """Return the report of the process that executes steps, and watch the files of this report.

        Raises BusyError if the daemon has written no heartbeat for `_HUNG` seconds.
        """
        holder = holder_of(self._state_dir, ACTING) or holder_of(self._state_dir, COMMAND)
        if self._command.is_acquired and holder and holder.pid == os.getpid():
            holder = None
        if holder and holder.pid != self._followed_pid:
            self._followed_pid = holder.pid
            self._progress.tell(f"{holder} executes steps on this node; this command shows the progress")
        self._watch(self._record_files(holder.runtime_dir if holder else None))
        if holder is None or holder.runtime_dir is None:
            return ActivityReport(holder)
        heartbeat = document(holder.runtime_dir / HEARTBEAT)
        silent = self._silence(heartbeat)
        if silent >= _HUNG:
            raise BusyError(f"{holder} has written no heartbeat for {silent:.0f} s; run: systemctl restart certmond")
        passed_at = float(heartbeat.get("pass_at") or 0.0)
        report = ActivityReport(holder, document(holder.runtime_dir / ACTIVITY), passed_at, silent)
        self._show_events(report)
        return report

    def _show_events(self, report: ActivityReport) -> None:
        """Show the events in `_SHOWN` that the daemon has added since the previous report."""
        found = [(each["at"], each["message"]) for each in report.activity.get("events", ()) if each["event"] in _SHOWN]
        if self._shown_events is not None and report.activity:
            for at, message in reversed(found):
                if (at, message) not in self._shown_events:
                    self._progress.tell(f"daemon: {message}")
        if report.activity or self._shown_events is None:
            self._shown_events = {*found}

    # Watched files

    def _watch(self, interest: Interest) -> None:
        self._events.watch(interest)

    def _record_files(self, runtime_dir: Path | None) -> Interest:
        found = records_of(self._state_dir)
        here = self._real_path(self._state_dir)
        found[here] = frozenset({*(found[here] or ()), ACTING, COMMAND})
        if runtime_dir:
            found[self._real_path(runtime_dir)] = frozenset({ACTIVITY, HEARTBEAT})
        return found

    @staticmethod
    def _real_path(directory: Path) -> str:
        return os.path.realpath(directory)

    def __enter__(self) -> Self:
        self._report()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching files, and release the lock of the command."""
        self._events.close()
        self._command.release()


def _abort_command(rotation: Rotation) -> str:
    return "certmond root-ca abort" if may_be_aborted(rotation) else ""
