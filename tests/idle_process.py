"""Detects that a process sleeps, by the state of its main thread in the kernel."""

from __future__ import annotations

import platform
import signal
import time
from pathlib import Path

import pytest

from tests.deadline import DEADLINE

_POLL = "7"
"""poll(2) in /proc/PID/syscall; its third argument is for how many milliseconds it waits."""

needs_poll = pytest.mark.skipif(platform.machine() != "x86_64", reason="poll(2) has another number here")


def asleep(process: int, milliseconds: int) -> None:
    """Wait until the main thread has a poll(2) timeout longer than `milliseconds`, and is in the same call a second
    later.

    A process that polls has a shorter timeout, and a process that wakes itself uses the processor in between. The other
    threads may wake: each mount on the host wakes the one that follows the mount table.
    """
    end, before = time.monotonic() + DEADLINE, ""
    thread = Path(f"/proc/{process}/task/{process}")
    while True:
        call = (thread / "syscall").read_text().split()
        now = (thread / "schedstat").read_text()
        if call[0] == _POLL and int(call[3], 16) > milliseconds and now == before:
            return
        assert time.monotonic() < end, f"it waits in {call}, or is given a processor again and again"
        before = now
        signal.sigtimedwait([], 1)
