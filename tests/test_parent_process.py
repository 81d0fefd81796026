"""The end of a forked process with its parent process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from tests.deadline import DEADLINE

FORK = """
import os, signal, sys, time
from certmond.parent_process import end_with
parent = os.getpid()
if not os.fork():
    {first}
    end_with(parent)
    os.write(1, str(os.getpid()).encode())
    time.sleep(3600)
signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_ends_with_its_parent(how: signal.Signals) -> None:
    """If a signal ends the parent process, the kernel kills the forked process."""
    code = FORK.format(first="pass")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        forked = os.pidfd_open(int(os.read(parent.stdout.fileno(), 64)))
        try:
            assert not select.select([forked], [], [], 0)[0]
            parent.send_signal(how)
            assert select.select([forked], [], [], DEADLINE)[0]
        finally:
            os.close(forked)


def test_a_process_whose_parent_has_ended_does_not_begin() -> None:
    """If the parent process ended before the call, the forked process exits without further work."""
    # The caller reads the output until all processes that can write it have ended.
    code = FORK.format(first="os.kill(parent, signal.SIGKILL); all(iter(lambda: os.getppid() == parent, False))")
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
