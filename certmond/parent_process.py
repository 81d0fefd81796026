"""The parent process of a forked process."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Let the kernel kill this process when `parent`, the process that forked this process, ends (prctl(2)).

    If `parent` has already ended, exit immediately. Without this call, a forked process would continue its work.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
