"""Scans of the node's files for the daemon, and collection of the changes that inotify reports.

`files.catalog_observer` reads the files, and `files.inotify` watches the paths that a scan has read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from certmond.controllers.watched_records import records_of
from certmond.daemon.wakeup import Wake
from certmond.files.catalog_observer import Store
from certmond.files.inotify import Changes, Watcher
from certmond.notify.journal import Event, Journal
from certmond.pki.catalog.observation import Inventory

QUIET = 0.05
"""Seconds that pass without another event before the daemon treats a change of files as complete."""
CEILING = 1.0
"""Maximum number of seconds between the first event and the pass, even if events still arrive."""


class FileChanges:
    """Scanner and watcher of the node's files for one daemon. A change that `watcher` reports sets `wake`."""

    def __init__(self, watcher: Watcher, wake: Wake, state_dir: Path, journal: Journal) -> None:
        self._watcher, self._wake, self._state_dir, self._journal = watcher, wake, state_dir, journal
        self._degraded = False

    def scan(self, store: Store, touched: frozenset[str] | None) -> Inventory:
        """Read the files at the `touched` paths, or all files if None. Return the inventory of the node."""
        inventory = store.observe(touched)
        self._watcher.report_changed(store.unfinished)
        return inventory

    def watch(self, store: Store) -> None:
        """Watch the paths of the last scan, and the files through which commands hand work to the daemon.

        The watcher reports a newly watched path as changed, because the path may have changed between the scan and this
        call. If inotify cannot watch all paths, log a warning once. The daemon then polls.
        """
        self._watcher.set_interest({**store.interest, **records_of(self._state_dir)})
        degraded = bool(self._watcher.polled)
        if degraded and not self._degraded:
            where = ", ".join(sorted(self._watcher.polled)[:3])
            message = f"inotify does not report every change in {where}: certmond polls these directories"
            self._journal.tell(Event.WATCH_DEGRADED, message, "warning")
        self._degraded = degraded

    def collect(self, since: float, ends: Callable[[], bool]) -> Changes | None:
        """Wait until no more events arrive, and return the changes, or None if no watched path has changed.

        Stop waiting `CEILING` seconds after `since` (monotonic clock), or when `ends` returns true.
        """
        while time.monotonic() - since < CEILING and self._wake.wait(QUIET) and not ends():
            pass
        changes = self._watcher.take_changes()
        if changes and changes.cause == "overflow":
            self._journal.tell(Event.WATCH_OVERFLOW, "inotify lost events; certmond scans every file", "warning")
        return changes
