"""The flag that wakes the loop of the daemon."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from certmond.daemon.wakeup import Wake
from tests.deadline import DEADLINE


@pytest.fixture
def wake() -> Iterator[Wake]:
    """A flag in its `with` block. The handler of SIGUSR1 sets the flag, and the handler of SIGUSR2 does not."""
    with Wake() as made:
        before = signal.signal(signal.SIGUSR1, lambda *_: made.set()), signal.signal(signal.SIGUSR2, lambda *_: None)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2))
        try:
            yield made
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for number, handler in zip((signal.SIGUSR1, signal.SIGUSR2), before, strict=True):
                signal.signal(number, handler)


def sent_to_another_thread(*numbers: signal.Signals) -> None:
    """Send the signals to another thread."""

    def receive() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        for number in numbers:
            signal.pthread_kill(threading.get_ident(), number)

    thread = threading.Thread(target=receive)
    thread.start()
    thread.join()


def test_a_signal_to_another_thread_ends_the_wait(wake: Wake) -> None:
    """The kernel can deliver a signal of the process to any thread, and then does not interrupt the waiting thread.

    Most of these signals arrive while the main thread waits.
    """
    for _ in range(50):
        received = threading.Timer(0, sent_to_another_thread, (signal.SIGUSR1,))
        received.start()
        assert wake.wait(DEADLINE) or wake.wait(DEADLINE)
        received.join()
        while wake.wait(0):
            pass


def test_a_signal_whose_handler_does_not_set_the_flag(wake: Wake) -> None:
    """The wait ends, but the flag is not set."""
    sent_to_another_thread(signal.SIGUSR2, signal.SIGUSR2)
    assert wake._poll.poll(0), "the wait would not end"
    assert not wake.wait(DEADLINE)
    assert not wake._poll.poll(0), "the next wait would end without a signal"
    wake.set()
    assert wake.wait(0)


def test_the_block_leaves_nothing_behind() -> None:
    """After the block, signals write to no descriptor, and a wait does not return early. A thread or handler can still
    set the flag. After the last reference to the flag, no descriptor is open.
    """
    before = len([*Path("/proc/self/fd").iterdir()])
    with Wake() as made:
        made.set()
        assert made.wait(0)
    assert not made._poll.poll(0)
    assert not made.wait(0)
    made.set()
    assert made.wait(0)
    del made
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    assert signal.set_wakeup_fd(-1) == -1
