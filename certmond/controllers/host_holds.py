"""Holds of the host: a hold by an operator, an upgrade in progress, or a clock that is not synchronized.

The plan decides which steps a hold delays, and for how long.
"""

from __future__ import annotations

import ctypes
import shlex
from collections.abc import Callable
from datetime import timedelta

from certmond.config.model import Config
from certmond.errors import SigningError, UntrustedError
from certmond.pki.catalog.settings import HoldSpec
from certmond.pki.rotation.rotation_holds import Hold, HoldReason
from certmond.subprocesses import run
from certmond.transaction.node_file_reader import NodeFiles

_TIME_LIMIT = timedelta(seconds=10)  # for the program that reports an upgrade in progress
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
_TIMEX_SIZE = 208  # bytes of struct timex on every architecture of Linux; a larger buffer is harmless


def operator_hold(hold: HoldSpec, root: str, alive: Callable[[], None]) -> Hold | None:
    """Return the hold by the configured file or program, or None if no such hold is active.

    If other users can change the program, certmond does not run the program, and the hold is active.
    """
    if hold.file and (since := NodeFiles(root).modified_at(hold.file)):
        owner = "the user or program that created the file, such as an upgrade of Kubernetes"
        return Hold(HoldReason.FILE, f"held while {hold.file} exists", owner, f"rm {hold.file}", since)
    if hold.command:
        command, owner = shlex.join(hold.command), "the exit status of this program, which must not be 0"
        try:
            fact = f"held while {hold.command[0]} exits with status 0" if _succeeds(hold.command, alive) else None
        except UntrustedError as error:  # without a trusted answer, certmond waits
            fact, owner = f"held: {error}", "the users who can change the program"
        return Hold(HoldReason.COMMAND, fact, owner, command) if fact else None
    return None


def clock_hold(hold: HoldSpec) -> Hold | None:
    """Return a hold if the configuration requires a synchronized clock and this host has none, otherwise None."""
    if hold.unsynchronised_clock and not clock_is_synchronised():
        fact = "held until the clock of this host is synchronized (check: timedatectl)"
        return Hold(HoldReason.CLOCK, fact, "the NTP client of this host", "timedatectl set-ntp true")
    return None


class HostHolds:
    """Checks for a hold by an operator or upgrade, and for a hold by the clock.

    `monotonic` returns the seconds of a monotonic clock.
    """

    def __init__(self, config: Config, root: str, alive: Callable[[], None], monotonic: Callable[[], float]) -> None:
        self._hold, self._root, self._alive, self._monotonic = config.hold, root, alive, monotonic
        self._pause = config.poll.total_seconds()
        self._result: tuple[float, Hold | None, Hold | None] | None = None

    def now(self) -> tuple[Hold | None, Hold | None]:
        """Check the host now. Return the hold by an operator or upgrade, and the hold by the clock.

        Each of the two values is None if there is no such hold.
        """
        result = operator_hold(self._hold, self._root, self._alive), clock_hold(self._hold)
        self._result = (self._monotonic(), *result)
        return result

    def recent(self) -> tuple[Hold | None, Hold | None]:
        """Return the result of the last check. If this result is older than `poll`, check the host again."""
        if self._result is None or not 0 <= self._monotonic() - self._result[0] < self._pause:
            return self.now()
        return self._result[1:]


def clock_is_synchronised() -> bool:
    """Return whether the kernel reports a synchronized clock (adjtimex(2)). Return True if the call fails."""
    buffer = ctypes.create_string_buffer(_TIMEX_SIZE * 2)
    return int(ctypes.CDLL(None, use_errno=True).adjtimex(buffer)) != _TIME_ERROR


def _succeeds(command: tuple[str, ...], alive: Callable[[], None]) -> bool:
    try:
        return run(command, {}, _TIME_LIMIT, alive).status == 0
    except UntrustedError:
        raise
    except SigningError:
        return False
