"""Scanner of the node's files for the daemon, and collector of the changes that inotify reports."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from certmond.controllers.watched_state_files import records_of
from certmond.daemon.wakeup import Wake
from certmond.files.catalog_observer import Store
from certmond.files.directory_watch import Changes, Watcher
from certmond.notify.event_log import Event, Journal
from certmond.pki.catalog.observation import Inventory

QUIET = 0.05
"""Seconds without an event after which certmond treats a change to several files as complete."""
CEILING = 1.0
"""Maximum number of seconds from the first event to the pass."""


class FileChanges:
    """Scanner and watcher of the node's files for one daemon. A change to a file sets `wake`."""

    def __init__(self, watcher: Watcher, wake: Wake, state_dir: Path, journal: Journal) -> None:
        self._watcher, self._wake, self._state_dir, self._journal = watcher, wake, state_dir, journal
        self._degraded = False

    def scan(self, store: Store, touched: frozenset[str] | None) -> Inventory:
        """Read the files at the `touched` paths (all files if `touched` is None), and return the inventory."""
        inventory = store.observe(touched)
        self._watcher.report_changed(store.unfinished)
        return inventory

    def watch(self, store: Store) -> None:
        """Watch the paths of the last scan, and the files through which commands give work to the daemon."""
        # The watcher reports a newly watched path as changed: the path can change between the scan and this call.
        self._watcher.set_interest({**store.interest, **records_of(self._state_dir)})
        # If inotify cannot watch all paths, the daemon polls.
        degraded = bool(self._watcher.polled)
        if degraded and not self._degraded:
            where = ", ".join(sorted(self._watcher.polled)[:3])
            message = f"inotify does not report every change in {where}, so certmond polls these directories"
            self._journal.tell(Event.WATCH_DEGRADED, message, "warning")
        self._degraded = degraded

    def collect(self, since: float, ends: Callable[[], bool]) -> Changes | None:
        """Wait until events cease, and return the changes, or None if no file has changed.

        Stop `CEILING` seconds after `since` (monotonic clock), or when `ends` returns true.
        """
        while time.monotonic() - since < CEILING and self._wake.wait(QUIET) and not ends():
            pass
        changes = self._watcher.take_changes()
        if changes and changes.cause == "overflow":
            self._journal.tell(Event.WATCH_OVERFLOW, "inotify lost events, so certmond scans every file", "warning")
        return changes
