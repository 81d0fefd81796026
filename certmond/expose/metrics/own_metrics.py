"""Metrics of the daemon about its own work, in a separate registry without the default metrics of prometheus_client."""

from __future__ import annotations

from collections.abc import Mapping

from certmond import __version__
from certmond.expose.metrics.prometheus_client_subset import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessMetrics,
    text_of,
)
from certmond.pki.rotation.phases import Phase
from certmond.pki.rotation.worker_batches import Workers

_CAUSES = ("start", "inotify", "overflow", "mount", "resync", "poll", "deadline", "clock", "reload",
           "retry", "step", "look")  # fmt: skip
_STEPS = ("rotate", "issue", "restore", "derive", "restart")
_PHASES = ("idle", *Phase)
_WORKERS = ("all", "released", "acknowledged")
_HOOK_RESULTS = ("told", "failed", "passed_over")
_MODES = ("observe", "enforce")


class Telemetry:
    """The metrics about the work of certmond. The names and meanings of these metrics are stable."""

    def __init__(self, mode: str) -> None:
        self.registry = registry = CollectorRegistry()
        self.watch_events = Counter("certmond_watch_events", "Changes that inotify reported", registry=registry)
        self.watch_overflows = Counter("certmond_watch_overflows", "Overflows of the inotify queue", registry=registry)
        self.watched = Gauge("certmond_watched_directories", "Directories under inotify", registry=registry)
        self.polled = Gauge(
            "certmond_polled_directories",
            "Directories that the daemon polls, because inotify does not report every change in them",
            registry=registry,
        )
        self.passes = Counter("certmond_passes", "Passes of the loop, by cause", ["cause"], registry=registry)
        self.duration = Histogram(
            "certmond_pass_duration_seconds", "Time from the read of the files to the verdicts",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10), registry=registry,
        )  # fmt: skip
        self.latency = Histogram(
            "certmond_change_to_publish_seconds", "Time from the first report of a change to its published verdict",
            buckets=(0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5), registry=registry,
        )  # fmt: skip
        self.last_pass = Gauge(
            "certmond_last_pass_timestamp_seconds", "End of the last pass, Unix time", registry=registry
        )
        self.config_ok = Gauge(
            "certmond_config_last_reload_successful",
            "1 if the daemon uses the configuration on disk, otherwise 0",
            registry=registry,
        )
        self.renewals = Counter(
            "certmond_renewals",
            "Attempts to renew a certificate, by result",
            ["certificate", "result"],
            registry=registry,
        )
        self.restarts = Counter(
            "certmond_restarts", "Restarts of services, by result", ["service", "result"], registry=registry
        )
        self.hook_runs = Counter(
            "certmond_hook_runs", "Runs of hooks, by result", ["hook", "result"], registry=registry
        )
        self._hook_waiting = Gauge(
            "certmond_hook_waiting",
            "Findings with an event that the hook has not received yet",
            ["hook"],
            registry=registry,
        )
        self.unlogged = Counter(
            "certmond_changes_not_logged",
            "Changes of findings and certificates that exceeded the rate limit of the log",
            registry=registry,
        )
        self._planned = Gauge(
            "certmond_planned_steps", "Steps that enforce mode would execute now", ["step"], registry=registry
        )
        self._phase = Gauge(
            "certmond_rotation_phase",
            "1 for the phase of the rotation on this node, or for `idle` without a rotation",
            ["phase"],
            registry=registry,
        )
        self._workers = Gauge(
            "certmond_rotation_workers",
            "Workers in the phase of the rotation in progress, if this node counts them",
            ["state"],
            registry=registry,
        )
        self._mode = Gauge("certmond_mode", "1 for the mode in force", ["mode"], registry=registry)
        info = Gauge("certmond_build_info", "1, with the version as label", ["version"], registry=registry)
        info.labels(__version__).set(1)
        ProcessMetrics(namespace="certmond", registry=registry)
        for cause in _CAUSES:
            self.passes.labels(cause)
        self.set_planned({})
        self.set_rotation(None, None)
        self.config_ok.set(1)
        self.last_pass.set_to_current_time()  # `certmond metrics` counts no pass: the value 0 would mean 1970
        self._events = self._overflows = 0
        self.set_mode(mode)

    def set_mode(self, mode: str) -> None:
        for name in _MODES:
            self._mode.labels(name).set(name == mode)

    def set_planned(self, steps: Mapping[str, int]) -> None:
        """Set the number of planned steps of each kind, with 0 for each kind that is not in `steps`."""
        for name in _STEPS:
            self._planned.labels(name).set(steps.get(name, 0))

    def count_hook(self, hook: str, result: str) -> None:
        """Count a completed run of the hook. Any thread can call this method."""
        self.hook_runs.labels(hook, result).inc()

    def set_hooks(self, waiting: Mapping[str, int]) -> None:
        """Set the number of findings that each configured hook has not received yet."""
        self._hook_waiting.clear()
        for hook, count in waiting.items():
            self._hook_waiting.labels(hook).set(count)
            for result in _HOOK_RESULTS:
                self.hook_runs.labels(hook, result)

    def set_rotation(self, phase: Phase | None, workers: Workers | None) -> None:
        """Set the phase of the rotation in progress, or None if no rotation is in progress.

        Also set the numbers of workers that take part, that may act, and that have acknowledged the phase. If `workers`
        is None, these numbers are 0.
        """
        for name in _PHASES:
            self._phase.labels(str(name)).set(name == (phase or "idle"))
        for name in _WORKERS:
            self._workers.labels(name).set(getattr(workers, name) if workers else 0)

    def count_pass(self, cause: str, duration: float, latency: float | None) -> None:
        """Count a pass that took `duration` seconds.

        `latency` is the time in seconds since the first report of a change, or None if no change caused the pass.
        """
        self.passes.labels(cause).inc()
        self.duration.observe(duration)
        self.last_pass.set_to_current_time()
        if latency is not None:
            self.latency.observe(latency)

    def set_watch(self, *, watched: int, polled: int, events: int, overflows: int) -> None:
        """Set the numbers of watched and of polled directories, and count the new events and overflows.

        `events` and `overflows` are the totals since the start of the daemon.
        """
        self.watched.set(watched)
        self.polled.set(polled)
        self.watch_events.inc(events - self._events)
        self.watch_overflows.inc(overflows - self._overflows)
        self._events, self._overflows = events, overflows

    def text(self) -> str:
        """Return all metrics of the registry in the text format of Prometheus (0.0.4)."""
        return text_of(self.registry)
