"""Flag with which threads and signal handlers wake the loop of the daemon.

`threading.Event` can deadlock if a signal handler interrupts the waiting thread. An eventfd cannot deadlock.
"""

from __future__ import annotations

import os
import select
from typing import Self


class Wake:
    """Flag that threads and signal handlers set, and for which one thread waits."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def set(self) -> None:
        """Wake the waiting thread, or end its next wait immediately. A signal handler can call this method."""
        os.eventfd_write(self._descriptor, 1)

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for the flag. Clear the flag, and return whether the flag was set."""
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
