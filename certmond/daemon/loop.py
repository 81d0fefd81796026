"""Loop of the daemon: wait for an event, scan and assess the node, then plan, publish and execute steps.

A pass depends only on the current state of the node, not on earlier events.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from certmond.config.model import Config
from certmond.config.renewal_policy import policy_of
from certmond.daemon.enforcer import Enforcer
from certmond.daemon.file_changes import CEILING, FileChanges
from certmond.daemon.loaded_configuration import LoadedConfiguration
from certmond.daemon.pass_schedule import Cause, Deadlines, PassSchedule
from certmond.daemon.python_gc import uncollected
from certmond.daemon.reconciler import Reconciler
from certmond.daemon.runtime_files import RuntimeFiles
from certmond.daemon.runtime_lock import locked
from certmond.daemon.sd_notify import Notifier
from certmond.daemon.wakeup import Wake
from certmond.errors import WriteError
from certmond.expose.documents.plan import step_name
from certmond.expose.metrics.exposition import summary
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.files.catalog_observer import Store
from certmond.files.directory_watch import Watcher
from certmond.notify.audit import DAEMON, Audit
from certmond.notify.change_log import ChangeLog
from certmond.notify.event_log import Event, Journal
from certmond.notify.hooks import Hooks
from certmond.pki.assessment.assess import Assessment
from certmond.pki.catalog.observation import Inventory
from certmond.pki.planning.forecast import next_event
from certmond.pki.services.staleness import Surroundings
from certmond.transaction.node_lock import ACTING, NodeLock

HEARTBEAT_INTERVAL = 10.0
"""Maximum number of seconds between two heartbeats. The watchdog of systemd can require a shorter interval."""


def utc_now() -> datetime:
    """Return the current time of the system clock, in UTC."""
    return datetime.now(UTC)


class Daemon:
    """The daemon of one node.

    `load` reads the configuration. `clock` returns the time in UTC. `monotonic` is the clock of rate limits.
    """

    def __init__(
        self, load: Callable[[], Config], *, root: str, runtime_dir: Path, state_dir: Path, journal: Journal,
        clock: Callable[[], datetime] = utc_now, monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._configuration = LoadedConfiguration(load, root)
        self._root, self._runtime_dir, self._state_dir = root, runtime_dir, state_dir
        self._journal, self._clock, self._monotonic = journal, clock, monotonic
        # Events and times
        self._wake, self._schedule = Wake(), PassSchedule()
        self._watcher = Watcher(self._wake.set)
        self._file_changes = FileChanges(self._watcher, self._wake, state_dir, journal)
        self._stopping = self._reloading = self._services_checked = self._scan_again = False
        # Reports
        self._notifier, self._telemetry = Notifier(), Telemetry(self._config.mode)
        self._files = RuntimeFiles(runtime_dir, journal)
        self._change_log = ChangeLog(journal, self._telemetry.unlogged.inc)
        self._hooks = Hooks(state_dir, journal, self._telemetry.count_hook, monotonic)
        self._heartbeat_at, self._summary = 0.0, ""
        # Results of the last pass
        self._assessment: Assessment | None = None
        self._surroundings = Surroundings()
        self._passed_at: float | None = None
        self._published_at, self._event_count = 0.0, 0
        self._in_pass = self._scanned_during_step = False
        # Components for the present configuration
        self._acting_lock = NodeLock(state_dir, ACTING)
        self._enforcer, self._reconciler = self._new_controllers(self._config)

    @property
    def _config(self) -> Config:
        return self._configuration.current

    @property
    def _store(self) -> Store:
        return self._enforcer.store

    def stop(self, *_: object) -> None:
        """Request the end of the loop. A signal handler can call this method."""
        self._stopping = self._notifier.stops = True
        self._wake.set()

    def reload(self, *_: object) -> None:
        """Request a reload of the configuration. A signal handler can call this method."""
        self._reloading = True
        self._wake.set()

    def run(self) -> int:
        """Run the daemon until `stop`, and return 0. Raises RuntimeDirError if the runtime directory is unavailable."""
        with locked(self._runtime_dir), self._wake:
            signal.signal(signal.SIGTERM, self.stop)
            signal.signal(signal.SIGINT, self.stop)
            signal.signal(signal.SIGHUP, self.reload)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))  # a request during the start is pending
            try:
                self._start()
                while not self._stopping:
                    cause = self._next_cause()
                    if cause:
                        self._pass(cause)
                        self._execute()
                    self._publish_activity()
            finally:
                self._notifier.stopping()
                self._hooks.close()
                self._watcher.close()
                self._enforcer.close()
                self._acting_lock.release()
                self._files.remove_heartbeat()
            self._journal.tell(Event.STOPPED, "certmond has stopped")
            self._publish_activity()
        return 0

    def _start(self) -> None:
        """Recover interrupted transactions, make the first pass, notify systemd, and execute the first plan."""
        self._reconciler.recover()
        self._hooks.configure(self._config.hooks)
        with uncollected():
            self._pass(Cause("start", None))
        self._journal.tell(Event.STARTED, f"certmond watches this node: {self._summary}")
        self._notifier.ready(self._summary)
        self._send_heartbeat()
        self._execute()  # after READY=1: due steps might take longer than TimeoutStartSec=
        self._publish_activity()

    # When a pass runs

    def _next_cause(self) -> Cause | None:
        """Wait for an event or a deadline. Return the cause of the next pass, or None if no pass is due."""
        self._send_heartbeat()
        woken = self._wake.wait(0 if self._reloading or self._scan_again else self._seconds_to_wait())
        if self._stopping:
            return None
        if self._reloading:
            return self._read_configuration()
        if self._scan_again:
            self._scan_again = False
            return Cause("step", None)
        if woken:
            return self._change_cause(time.monotonic())
        if self._schedule.service_check_begins():
            self._enforcer.surroundings_observer.ask()
            return None
        return self._schedule.due(self._deadlines(), self._clock())

    def _seconds_to_wait(self) -> float:
        """Return the seconds until the next deadline, heartbeat or watchdog notification."""
        left = self._schedule.seconds_left(self._deadlines(), self._clock())
        watchdog = self._notifier.watchdog / 3 or HEARTBEAT_INTERVAL
        return max(0.0, min(left, HEARTBEAT_INTERVAL, watchdog))

    def _deadlines(self) -> Deadlines:
        of = self._enforcer
        of_cluster = (each.until for each in of.cluster_objects if each)
        ends = (self._assessment and self._assessment.changes_at, self._reconciler.plan.changes_at, of.rotation_until)
        return Deadlines(
            resync=self._config.resync, poll=self._config.poll if self._watcher.polled else None,
            assessed_at=self._assessment.taken_at if self._assessment else None, retry_at=self._reconciler.retry_at,
            instants=tuple(instant for instant in (*ends, *of_cluster) if instant),
        )  # fmt: skip

    def _change_cause(self, since: float) -> Cause | None:
        """Wait until events cease. Return the cause of the next pass, or None if no pass is due."""
        changes = self._file_changes.collect(since, lambda: self._stopping or self._reloading)
        checked, self._services_checked = self._services_checked, False
        if changes is None:
            return Cause("look", frozenset()) if checked else None
        return Cause(changes.cause, None if changes.everything else changes.paths, since)

    def _read_configuration(self) -> Cause:
        """Read the configuration again, and return the cause of the next pass. Keep the old one if it is invalid."""
        self._reloading, self._in_pass = False, True  # the first scan of the new configuration must be complete
        self._notifier.reloading()
        if made := self._configuration.reload(self._journal, self._telemetry, self._new_controllers):
            former = self._enforcer
            former.close()
            self._enforcer, self._reconciler = made
            if self._config.mode != "enforce":
                self._acting_lock.release()
            self._enforcer.continue_from(former)
            self._reconciler.recover()
            self._hooks.configure(self._config.hooks)
            self._journal.tell(Event.RELOADED, "certmond has read the configuration again")
        return Cause("reload", None)

    def _new_controllers(self, config: Config) -> tuple[Enforcer, Reconciler]:
        enforcing = config.mode == "enforce"
        self._hooks.prepare(config.hooks)  # a reload must not change anything before all modules are imported
        enforcer = Enforcer(
            config, root=self._root, state_dir=self._state_dir, clock=self._clock, alive=self._keep_alive,
            audit=Audit(self._journal, self._state_dir, DAEMON), acting=enforcing, keeps=True, scattered=True,
            wake=self._service_check_ended,
        )  # fmt: skip
        return enforcer, Reconciler(
            enforcer, self._journal, self._telemetry, enforcing=enforcing, stopping=lambda: self._stopping,
            take_lock=self._take_acting_lock,
        )  # fmt: skip

    def _take_acting_lock(self) -> bool:
        """Take the lock for the execution of steps. Return False only if a command holds the lock."""
        try:
            return self._acting_lock.take(self._runtime_dir)
        except WriteError:
            return True  # each write then fails with its own message

    # The parts of a pass

    def _pass(self, cause: Cause) -> None:
        """Scan and assess the node, plan the steps, then publish and log the result."""
        self._in_pass, started = True, time.monotonic()
        if cause.touched is None:
            self._schedule.full_scan_begins(cause, started)
        if self._enforcer.surroundings_observer.sees_other_processes:
            self._store.read_processes()
        inventory = self._scan(cause.touched)
        surroundings = self._enforcer.surroundings(self._store, inventory)
        assessment = self._enforcer.assess(inventory, self._clock(), surroundings, self._assessment)
        self._file_changes.watch(self._store)
        self._reconciler.make_plan(assessment, surroundings)
        before = self._report(cause, assessment, surroundings, started)
        self._reconciler.record_plan(assessment)
        self._publish_activity()
        self._request_service_check(cause, assessment)
        if cause.name == "reload":
            self._notifier.ready(self._summary)
        elif before:
            self._notifier.status(self._summary)
        self._in_pass = False

    def _scan(self, touched: frozenset[str] | None) -> Inventory:
        inventory = self._file_changes.scan(self._store, touched)
        return replace(inventory, refused_configuration=self._configuration.problems)

    def _request_service_check(self, cause: Cause, assessment: Assessment) -> None:
        """Request a check of the services if `cause` or changed files require one, and schedule a later check."""
        if cause.checks_services or self._enforcer.surroundings_observer.has_news:
            self._enforcer.surroundings_observer.ask()
        self._schedule.check_later(assessment, self._surroundings, self._config.poll)

    def _service_check_ended(self) -> None:
        """Wake the loop after a check of the running services. The thread of the check calls this method."""
        self._services_checked = True
        self._wake.set()

    # Execution

    def _execute(self) -> None:
        """Execute the plan in enforce mode. If no new scan is due, read and write the API objects of this node."""
        again, assessment = self._reconciler.execute(), self._assessment
        if assessment and not again:  # after all files, because a slow answer delays the loop
            check, report, _ = self._enforcer.cluster_objects
            if check:
                check.ask(assessment)
            if report and self._surroundings.live and (failure := report.report(assessment)):
                self._journal.tell(Event.CONDITION_FAILED, failure, "warning")
        self._scan_again, self._scanned_during_step = again or self._scanned_during_step, False
        if self._reconciler.service_check_at:
            wait = (self._reconciler.service_check_at - utc_now()).total_seconds()
            self._schedule.check_services_within(min(max(0.0, wait), HEARTBEAT_INTERVAL))

    def _keep_alive(self) -> None:
        """Send a heartbeat during a long pass or step, and publish changes of the node during a step."""
        if time.monotonic() - self._heartbeat_at < HEARTBEAT_INTERVAL:
            self._notifier.alive()
        else:
            self._send_heartbeat()
        self._scan_during_step()

    def _scan_during_step(self) -> None:
        """Scan changed files while a step is in progress, and publish the result."""
        # Scan at most once in `CEILING` seconds, or in twice this time while events arrive.
        quiet, self._event_count = self._event_count == self._watcher.events, self._watcher.events
        before, since = self._assessment, time.monotonic() - self._published_at
        if self._in_pass or before is None or since < (CEILING if quiet else 2 * CEILING):
            return
        changes = self._watcher.take_changes()
        if changes is None and not (before.changes_at and self._clock() >= before.changes_at):
            return
        # The scan itself calls `_keep_alive`. If the scan fails, the steps continue without further scans.
        self._in_pass, self._scanned_during_step, started = True, True, time.monotonic()
        touched = (None if changes.everything else changes.paths) if changes else frozenset[str]()
        assessment = self._enforcer.assess(self._scan(touched), self._clock(), self._surroundings, before)
        self._file_changes.watch(self._store)
        self._report(Cause(changes.cause if changes else "deadline", touched), assessment, self._surroundings, started)
        self._in_pass = False

    # Reports

    def _report(
        self, cause: Cause, assessment: Assessment, surroundings: Surroundings, started: float
    ) -> Assessment | None:
        """Publish the assessment, log its changes, and run hooks. Return the previous assessment, if any."""
        before, self._assessment, self._surroundings = self._assessment, assessment, surroundings
        self._published_at = done = time.monotonic()  # `started` is a time of this clock
        scope = "all files" if cause.touched is None else f"changed paths: {len(cause.touched)}"
        message = f"a pass ({cause.name}; {scope}) took {(done - started) * 1000:.0f} ms"
        self._journal.detail(Event.PASSED, message, cause=cause.name)
        self._telemetry.count_pass(cause.name, done - started, None if cause.since is None else done - cause.since)
        # Findings about running services are unknown before the first check of the services, and must not count as
        # resolved. Below another root, certmond does not check services.
        settled = surroundings.live is not None or self._root != "/"
        self._publish(assessment, services_checked=settled)
        self._passed_at = time.time()
        self._change_log.compare(before, assessment, self._monotonic())
        self._hooks.deliver(assessment, settled=settled)
        return before

    def _publish(self, assessment: Assessment, *, services_checked: bool) -> None:
        """Write the metrics and the status document into the runtime directory."""
        state, watcher = self._enforcer.rotation_state, self._watcher
        self._telemetry.set_watch(
            watched=watcher.watched, polled=len(watcher.polled), events=watcher.events, overflows=watcher.overflows
        )
        self._telemetry.set_hooks(self._hooks.waiting)
        self._telemetry.set_rotation(state.phase, state.workers)
        self._telemetry.set_planned(Counter(step_name(step) for step in self._reconciler.plan.steps))
        following = next_event(assessment, policy_of(self._config))
        self._files.write_assessment(self._config, assessment, self._telemetry.text(), following)
        self._summary = summary(assessment, following, services_checked=services_checked)

    def _publish_activity(self) -> None:
        """Write the plan, the rotation and recent events into the runtime directory, if they have changed."""
        of = self._enforcer
        self._files.write_activity(self._reconciler.plan, of.rotation_state, of.rotation_waits, of.rotation_until)

    def _send_heartbeat(self) -> None:
        """Send a heartbeat to systemd and to `certmond serve`."""
        # Only the thread of the loop calls this method, so a heartbeat proves that the loop runs.
        self._notifier.alive()
        self._change_log.settle(self._monotonic())
        self._heartbeat_at = time.monotonic()
        self._files.write_heartbeat(self._passed_at, self._config.resync)
