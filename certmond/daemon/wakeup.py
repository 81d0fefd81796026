"""The one wake-up of the daemon: events, signals and deadlines all end here.

Owns an eventfd, because a signal handler may interrupt the very thread that waits: `threading.Event` could deadlock.
"""

from __future__ import annotations

import os
import select
from typing import Self


class Wake:
    """Set from any thread or signal handler, awaited by one. What was set before the wait is not lost."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def set(self) -> None:
        """Wake the waiting thread, now or at its next wait. Safe in a signal handler."""
        os.eventfd_write(self._descriptor, 1)

    def wait(self, seconds: float) -> bool:
        """Whether it was set within `seconds`; it is clear again afterwards, before anything is read."""
        if not self._poll.poll(max(0, seconds) * 1000):
            return False
        os.eventfd_read(self._descriptor)
        return True

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
