"""The daemon's loop: wait, observe, assess, plan, publish, execute.

Owns when a pass runs and in which order its parts run. Each pass reads the current state, whatever its cause. It has no
rule about certificates and changes no certificate itself. In observe mode it executes nothing.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from certmond.config.model import Config
from certmond.controllers.watched_records import records_of
from certmond.daemon.enforcer import Enforcer, policy_of
from certmond.daemon.file_changes import CEILING, FileChanges
from certmond.daemon.pass_schedule import Cause, Deadlines, PassSchedule
from certmond.daemon.python_gc import uncollected
from certmond.daemon.reconciler import Reconciler
from certmond.daemon.runtime_files import RuntimeFiles
from certmond.daemon.runtime_lock import locked
from certmond.daemon.sd_notify import Notifier
from certmond.daemon.wakeup import Wake
from certmond.errors import ConfigError, WriteError
from certmond.expose.documents.plan import step_name
from certmond.expose.metrics.exposition import summary
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.files.catalog_observer import Store
from certmond.files.inotify import Watcher
from certmond.notify.audit import DAEMON, Audit
from certmond.notify.change_log import ChangeLog
from certmond.notify.hooks import Hooks
from certmond.notify.journal import Event, Journal
from certmond.pki.assessment.assess import Assessment
from certmond.pki.catalog.observation import Inventory
from certmond.pki.planning.forecast import next_event
from certmond.pki.services.staleness import Surroundings
from certmond.transaction.node_lock import ACTING, NodeLock

HEARTBEAT_INTERVAL = 10.0
"""Seconds between heartbeats for `serve`. The service manager's watchdog may require shorter intervals."""


def utc_now() -> datetime:
    """Return the time of this host's clock, in UTC."""
    return datetime.now(UTC)


class Daemon:
    """The daemon of one node.

    `load` reads the configuration again. `clock` returns aware UTC instants. `monotonic`, in seconds, limits the rate
    of reports and hooks.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        *,
        root: str,
        runtime_dir: Path,
        state_dir: Path,
        journal: Journal,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._config = load()
        self._root = root
        self._runtime_dir = runtime_dir
        self._state_dir = state_dir
        self._journal = journal
        self._clock, self._monotonic = clock, monotonic
        self._notifier = Notifier()
        self._telemetry = Telemetry(self._config.mode)
        self._files = RuntimeFiles(runtime_dir, journal)
        self._store = self._new_store()
        self._wake = Wake()
        self._looked = False
        self._schedule = PassSchedule()
        self._lead = NodeLock(state_dir, ACTING)
        self._enforcer, self._acting = self._new_hand()
        self._acted = self._in_pass = self._looked_meanwhile = False
        self._around, self._shown_at, self._reported = Surroundings(), 0.0, 0
        self._beat_at = 0.0
        self._watcher = Watcher(self._wake.set)
        self._file_changes = FileChanges(self._watcher, self._wake, journal)
        self._changes = ChangeLog(journal, self._telemetry.unlogged.inc)
        self._hooks = Hooks(state_dir, journal, self._telemetry.count_hook, monotonic)
        self._assessment: Assessment | None = None
        self._stopping = self._reload = False
        self._passed_at: float | None = None
        self._summary = ""

    def stop(self, *_: object) -> None:
        """Ask the loop to end. Safe in a signal handler."""
        self._stopping = True
        self._wake.set()

    def reload(self, *_: object) -> None:
        """Ask the loop to read its configuration again. Safe in a signal handler."""
        self._reload = True
        self._wake.set()

    def run(self) -> int:
        """Run until stopped and return 0. Raises RuntimeDirError where the runtime directory cannot be used."""
        with locked(self._runtime_dir), self._wake:
            signal.signal(signal.SIGTERM, self.stop)
            signal.signal(signal.SIGINT, self.stop)
            signal.signal(signal.SIGHUP, self.reload)
            try:
                self._acting.recover()
                self._hooks.configure(self._config.hooks)
                with uncollected():
                    self._pass(Cause("start", None))
                self._journal.tell(Event.STARTED, f"certmond watches this node: {self._summary}")
                self._notifier.ready(self._summary)
                self._beat()
                self._act()  # after READY=1: due steps may take longer than TimeoutStartSec=
                self._publish_activity()
                while not self._stopping:
                    cause = self._next_cause()
                    if cause:
                        self._pass(cause)
                        self._act()
                    self._publish_activity()
            finally:
                self._notifier.stopping()
                self._hooks.close()
                self._watcher.close()
                self._enforcer.neighbourhood.close()
                self._lead.release()
                self._files.remove_heartbeat()
            self._journal.tell(Event.STOPPED, "certmond has stopped")
            self._publish_activity()
        return 0

    def _next_cause(self) -> Cause | None:
        """Wait for the next cause of a pass, or return None.

        None means that the daemon stops, or that only a heartbeat or a check of the running services was due.
        """
        self._beat()
        woken = self._wake.wait(0 if self._reload or self._acted else self._patience())
        if self._stopping:
            return None
        if self._reload:
            return self._reloaded()
        if self._acted:
            self._acted = False
            return Cause("step", None)
        if woken:
            return self._changed(time.monotonic())
        if self._schedule.service_check_begins():
            self._enforcer.neighbourhood.ask()
            return None
        return self._schedule.due(self._deadlines(), self._clock())

    def _patience(self) -> float:
        """Return the seconds until the loop has work without an event."""
        left = self._schedule.seconds_left(self._deadlines(), self._clock())
        watchdog = self._notifier.watchdog / 3 or HEARTBEAT_INTERVAL
        return max(0.0, min(left, HEARTBEAT_INTERVAL, watchdog))

    def _deadlines(self) -> Deadlines:
        rotation = self._enforcer.rotating.until
        instants = (self._assessment and self._assessment.changes_at, self._acting.plan.changes_at, rotation)
        return Deadlines(
            resync=self._config.resync, poll=self._config.poll if self._watcher.polled else None,
            assessed_at=self._assessment.taken_at if self._assessment else None, retry_at=self._acting.retry_at,
            instants=tuple(instant for instant in instants if instant),
        )  # fmt: skip

    def _changed(self, since: float) -> Cause | None:
        """Wait until events cease, at most `CEILING` seconds, then return the cause and what it touched."""
        changes = self._file_changes.collect(since, lambda: self._stopping or self._reload)
        looked, self._looked = self._looked, False
        if changes is None:
            return Cause("look", frozenset()) if looked else None
        return Cause(changes.cause, None if changes.everything else changes.paths, since)

    def _reloaded(self) -> Cause:
        self._reload = False
        self._notifier.reloading()
        try:
            self._config = self._load()
        except ConfigError as error:
            self._telemetry.config_ok.set(0)
            for problem in error.problems:
                self._journal.tell(Event.RELOAD_REFUSED, f"{problem} (the old configuration stays in force)", "error")
        else:
            self._telemetry.config_ok.set(1)
            self._telemetry.set_mode(self._config.mode)
            self._store = self._new_store()
            self._enforcer.neighbourhood.close()
            self._enforcer, self._acting = self._new_hand()
            self._acting.recover()
            self._hooks.configure(self._config.hooks)
            self._journal.tell(Event.RELOADED, "the configuration was read again")
        return Cause("reload", None)

    def _new_store(self) -> Store:
        derived = tuple(spec.path for spec in self._config.derived)
        held = (self._config.hold.file,) if self._config.hold.file else ()
        return Store(self._config.certificates, self._root, self._config.given_facts, also=(*derived, *held))

    def _new_hand(self) -> tuple[Enforcer, Reconciler]:
        enforcing = self._config.mode == "enforce"
        enforcer = Enforcer(
            self._config, root=self._root, state_dir=self._state_dir, clock=self._clock, alive=self._live,
            audit=Audit(self._journal, self._state_dir, DAEMON), acting=enforcing, keeps=True, scattered=True,
            wake=self._look_ended,
        )  # fmt: skip
        if not enforcing:
            self._lead.release()
        return enforcer, Reconciler(
            enforcer, self._journal, self._telemetry, enforcing=enforcing, stopping=lambda: self._stopping,
            leads=self._leads,
        )  # fmt: skip

    def _leads(self) -> bool:
        """Take the node's lock for acting, and return whether no command acts now.

        While it is held, commands begin no step.
        """
        try:
            return self._lead.take(self._runtime_dir)
        except WriteError:
            return True  # every write fails then, with its own message

    def _pass(self, cause: Cause) -> None:
        self._in_pass, started = True, time.monotonic()
        if cause.touched is None:
            self._schedule.full_scan_begins(started)
        inventory = self._observe(cause.touched)
        around = self._enforcer.around(self._store, inventory)
        assessment = self._enforcer.judge(inventory, self._clock(), around, self._assessment)
        self._follow()
        self._acting.decide(assessment, around)
        before = self._show(cause, assessment, around, started)
        self._acting.tell(assessment)
        self._publish_activity()
        self._look_out(cause, assessment)
        if cause.name == "reload":
            self._notifier.ready(self._summary)
        elif before:
            self._notifier.status(self._summary)
        self._in_pass = False

    def _observe(self, touched: frozenset[str] | None) -> Inventory:
        inventory = self._store.observe(touched)
        self._watcher.again(self._store.unfinished)
        return inventory

    def _look_meanwhile(self) -> None:
        """Observe changes while a step waits, and publish them. The next pass plans what follows.

        Does nothing during a pass. Runs at most once in `CEILING` seconds, or in twice that time while events arrive.
        """
        quiet, self._reported = self._reported == self._watcher.events, self._watcher.events
        before, since = self._assessment, time.monotonic() - self._shown_at
        if self._in_pass or before is None or since < (CEILING if quiet else 2 * CEILING):
            return
        started, changes = time.monotonic(), self._watcher.take()
        if changes is None and not (before.changes_at and self._clock() >= before.changes_at):
            return
        touched = (None if changes.everything else changes.paths) if changes else frozenset[str]()
        assessment = self._enforcer.judge(self._observe(touched), self._clock(), self._around, before)
        self._follow()
        self._show(Cause(changes.cause if changes else "deadline", touched), assessment, self._around, started)
        self._looked_meanwhile = True

    def _show(self, cause: Cause, assessment: Assessment, around: Surroundings, started: float) -> Assessment | None:
        """Publish and report the assessment, and return the assessment before it."""
        before, self._assessment, self._around = self._assessment, assessment, around
        self._shown_at = done = time.monotonic()
        looked = "everything" if cause.touched is None else f"{len(cause.touched)} paths"
        said = f"a pass ({cause.name}) over {looked} took {(done - started) * 1000:.0f} ms"
        self._journal.detail(Event.PASSED, said, cause=cause.name)
        self._telemetry.count_pass(cause.name, done - started, None if cause.since is None else done - cause.since)
        self._publish(assessment)
        self._passed_at = time.time()
        self._changes.compare(before, assessment, self._monotonic())
        # Findings on running services are unknown before their first check, and must not count as resolved. Below
        # another root there is no such check.
        self._hooks.hand(assessment, settled=around.live is not None or self._root != "/")
        return before

    def _look_out(self, cause: Cause, assessment: Assessment) -> None:
        """Request a check of the running services where something may have changed.

        While a service uses an old certificate, or refuses clients, also schedule the next check.
        """
        if cause.checks_services or self._enforcer.neighbourhood.has_news:
            self._enforcer.neighbourhood.ask()
        stale = any(status.presence.stale or status.presence.refusing for status in assessment.statuses)
        if stale:
            self._schedule.check_services_within(self._config.poll.total_seconds())

    def _look_ended(self) -> None:
        """Wake the loop. Called by the thread that checks the running services."""
        self._looked = True
        self._wake.set()

    def _act(self) -> None:
        again = self._acting.act()
        self._acted, self._looked_meanwhile = again or self._looked_meanwhile, False
        if self._acting.look_at:
            wait = (self._acting.look_at - utc_now()).total_seconds()
            self._schedule.check_services_within(min(max(0.0, wait), HEARTBEAT_INTERVAL))

    def _follow(self) -> None:
        """Watch the paths of the last scan.

        The watcher reports new paths as changed: they may have changed before the watch.
        """
        self._file_changes.watch({**self._store.interest, **records_of(self._state_dir)})

    def _publish(self, assessment: Assessment) -> None:
        """Write the metrics and the status.

        A full or missing runtime directory is reported once, and the next pass retries.
        """
        self._telemetry.count_watch(self._watcher.events, self._watcher.overflows)
        self._telemetry.watched.set(self._watcher.watched)
        self._telemetry.polled.set(len(self._watcher.polled))
        self._telemetry.set_hooks(self._hooks.waiting)
        self._telemetry.set_phase(self._enforcer.standing.phase)
        self._telemetry.set_workers(self._enforcer.standing.workers)
        self._telemetry.set_planned(Counter(step_name(step) for step in self._acting.plan.steps))
        following = next_event(assessment, policy_of(self._config))
        self._files.write_assessment(self._config, assessment, self._telemetry.text(), following)
        self._summary = summary(assessment, following)

    def _publish_activity(self) -> None:
        """Write the plan, the rotation and recent events, unless they are unchanged since the last write."""
        rotating, standing = self._enforcer.rotating, self._enforcer.standing
        self._files.write_activity(
            self._acting.plan, standing.rotation, rotating.waits, rotating.until, workers=standing.workers
        )

    def _beat(self) -> None:
        """Send a heartbeat to the service manager and to `serve`.

        The loop sends it itself, which proves that it runs.
        """
        self._notifier.alive()
        self._changes.settle(self._monotonic())
        self._beat_at = time.monotonic()
        self._files.write_heartbeat(self._passed_at, self._config.resync)

    def _live(self) -> None:
        """Send heartbeats while a step takes time, and publish what changes meanwhile."""
        if time.monotonic() - self._beat_at < HEARTBEAT_INTERVAL:
            self._notifier.alive()
        else:
            self._beat()
        self._look_meanwhile()
