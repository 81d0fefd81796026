"""The wake-up of the daemon's loop by events, signals and deadlines.

Owns an eventfd: `threading.Event` could deadlock when a signal handler interrupts the waiting thread.
"""

from __future__ import annotations

import os
import select
from typing import Self


class Wake:
    """A flag that any thread or signal handler sets and one thread awaits. The next wait detects an earlier set."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def set(self) -> None:
        """Wake the waiting thread, now or at its next wait. Safe in a signal handler."""
        os.eventfd_write(self._descriptor, 1)

    def wait(self, seconds: float) -> bool:
        """Return whether a thread or signal handler set the flag within `seconds`, and clear the flag."""
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
