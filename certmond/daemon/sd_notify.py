"""What the service manager is told (sd_notify(3)): ready, reloading, stopping, alive, and one line of status.

Outside of systemd nothing is told to anybody, and nothing fails. Nor does it where nobody listens any more. A status is
one line of text: a line of its own would be an order, and names of certificates are anybody's choice.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from certmond.pki.findings import printable

_MOST = 500  # characters of a status: `systemctl status` shows it on one line, and a message has a limit


class Notifier:
    """Speaks to the service manager that started this process, if one did."""

    def __init__(self) -> None:
        self._wanted = "NOTIFY_SOCKET" in os.environ
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 if mine else 0.0
        """Seconds within which the service manager expects `alive`; 0 where it does not."""

    def ready(self, status: str) -> None:
        self._tell(f"READY=1\nSTATUS={printable(status)[:_MOST]}")

    def status(self, status: str) -> None:
        self._tell(f"STATUS={printable(status)[:_MOST]}")

    def alive(self) -> None:
        if self.watchdog:
            self._tell("WATCHDOG=1")

    def reloading(self) -> None:
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1\nSTATUS=Stopping")

    def _tell(self, message: str) -> None:
        if self._wanted:
            from systemd.daemon import notify  # noqa: PLC0415 - a laptop without libsystemd has nobody to tell

            with suppress(OSError):
                notify(message)
