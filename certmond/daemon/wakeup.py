"""Flag with which threads and signal handlers wake the loop of the daemon.

`threading.Event` can deadlock if a signal handler interrupts the waiting thread. An eventfd cannot deadlock.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import Self

_MANY = 4096  # number of signals that one wait reads


class Wake:
    """Flag that threads and signal handlers set, and for which one thread waits.

    In a `with` block, which only the main thread may enter, each signal with a handler ends a wait.
    """

    _descriptor = -1

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)
        self._signals: tuple[int, int] | None = None  # pipe with a byte for each signal
        self._former = -1

    def set(self) -> None:
        """Wake the waiting thread, or end its next wait immediately. A signal handler can call this method."""
        os.eventfd_write(self._descriptor, 1)

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for the flag. Clear the flag, and return whether the flag was set."""
        if not self._poll.poll(max(0, seconds) * 1000):
            return False
        with suppress(BlockingIOError):
            if self._signals:
                os.read(self._signals[0], _MANY)
        with suppress(BlockingIOError):  # the handler of a signal did not set the flag
            os.eventfd_read(self._descriptor)
            return True
        return False

    def __del__(self) -> None:
        # Not at the end of the `with` block: threads and signal handlers can set the flag later, and another file can
        # get the number of a closed descriptor.
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        # Python runs a handler in the main thread. If the kernel delivers the signal to another thread, the signal does
        # not interrupt poll() in the main thread.
        self._signals = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll.register(self._signals[0], select.POLLIN)
        self._former = signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._signals:
            signal.set_wakeup_fd(self._former)
            self._poll.unregister(self._signals[0])
            for each in self._signals:
                os.close(each)
            self._signals = None
