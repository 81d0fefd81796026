"""Changes of files that inotify reports, collected until they cease, with a report of what inotify cannot see.

`files.inotify` watches the paths.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from certmond.daemon.wakeup import Wake
from certmond.files.inotify import Changes, Interest, Watcher
from certmond.notify.journal import Event, Journal

QUIET = 0.05
"""Seconds without a further event after which a change counts as complete."""
CEILING = 1.0
"""Seconds after which a pass runs although events still arrive."""


class FileChanges:
    """The changes that `watcher` reports to one daemon. An event sets `wake`."""

    def __init__(self, watcher: Watcher, wake: Wake, journal: Journal) -> None:
        self._watcher, self._wake, self._journal = watcher, wake, journal
        self._degraded = False

    def watch(self, interest: Interest) -> None:
        """Watch these paths. Report once that inotify cannot watch some of them."""
        self._watcher.follow(interest)
        degraded = bool(self._watcher.polled)
        if degraded and not self._degraded:
            where = ", ".join(sorted(self._watcher.polled)[:3])
            self._journal.tell(Event.WATCH_DEGRADED, f"inotify cannot see {where}: looked at every so often", "warning")
        self._degraded = degraded

    def collect(self, since: float, ends: Callable[[], bool]) -> Changes | None:
        """Wait until events cease, and return the changes, or None. Report an overflow of inotify.

        The wait ends at the latest `CEILING` seconds after `since`, or when `ends` returns true.
        """
        while time.monotonic() - since < CEILING and self._wake.wait(QUIET) and not ends():
            pass
        changes = self._watcher.take()
        if changes and changes.cause == "overflow":
            self._journal.tell(Event.WATCH_OVERFLOW, "inotify lost events; everything is looked at again", "warning")
        return changes
