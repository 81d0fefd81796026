"""Call of a function at most twice a second, however often a pass reports its progress."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

INTERVAL = 0.5
"""Minimum number of seconds between two calls. Callers of `alive` expect it every second."""


class PacedCall:
    """A function that calls `function` if the last call was at least `INTERVAL` seconds ago.

    In a forked process, it does nothing.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function, self._pid, self._called_at = function, os.getpid(), time.monotonic()

    def __call__(self) -> None:
        if (now := time.monotonic()) - self._called_at >= INTERVAL and os.getpid() == self._pid:
            self._called_at = now
            self._function()
