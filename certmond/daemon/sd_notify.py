"""Notifications to systemd (sd_notify(3))."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from certmond.errors import CertmondError
from certmond.pki.findings import printable

_MOST = 500  # characters of a status: `systemctl status` shows one line, and messages have a size limit
_EXTENSION = 60_000_000  # microseconds until the next notification of a long start or reload


class Notifier:
    """Sender of notifications to systemd. If systemd did not start this process, the sender does nothing.

    Raises CertmondError if the environment contains a malformed interval of the watchdog (sd_watchdog_enabled(3)).
    """

    def __init__(self) -> None:
        self._wanted, self._is_ready = "NOTIFY_SOCKET" in os.environ, False
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        interval = os.environ.get("WATCHDOG_USEC", "0") if mine else "0"
        if not (interval.isascii() and interval.isdigit() and len(interval) < 20):
            fact = f"WATCHDOG_USEC has the value {interval!r} in the environment, and not a number of microseconds"
            raise CertmondError(f"{fact}; start certmond with systemctl, or unset this variable")
        self.watchdog = int(interval) / 1e6
        """Maximum number of seconds between two calls of `alive`, or 0 if the watchdog of systemd is off."""
        self.stops = False
        """Whether this process stops, so that TimeoutStopSec= applies."""

    def ready(self, status: str) -> None:
        # `printable` removes line breaks, which a certificate name can contain and which would start another
        # assignment.
        self._is_ready = True
        self._tell(f"READY=1\nSTATUS={printable(status)[:_MOST]}")

    def status(self, status: str) -> None:
        self._tell(f"STATUS={printable(status)[:_MOST]}")

    def alive(self) -> None:
        """Tell systemd that this process works. A start or reload may then exceed TimeoutStartSec=."""
        assignments = ["WATCHDOG=1"] if self.watchdog else []
        if not (self._is_ready or self.stops):
            assignments.append(f"EXTEND_TIMEOUT_USEC={_EXTENSION}")
        if assignments:
            self._tell("\n".join(assignments))

    def reloading(self) -> None:
        self._is_ready = False
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1\nSTATUS=Stopping")

    def _tell(self, message: str) -> None:
        if self._wanted:
            from systemd.daemon import notify  # noqa: PLC0415 - libsystemd is optional outside systemd

            # A lost notification must not stop the daemon.
            with suppress(OSError):
                notify(message)
