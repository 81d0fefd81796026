"""Holds of the host: an operator's hold, an upgrade in progress, or a clock that is not synchronized.

Owns the checks on this host. The plan decides what follows, and for how long.
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
from certmond.transaction.node_files import NodeFiles

_TIME_LIMIT = timedelta(seconds=10)  # for the program that reports an upgrade in progress
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
_TIMEX_SIZE = 208  # struct timex, on every architecture of Linux; a larger buffer is harmless


def reason_to_wait(hold: HoldSpec, root: str, alive: Callable[[], None]) -> Hold | None:
    """Return the first hold of an operator or of an upgrade, or None."""
    if hold.file and (since := NodeFiles(root).modified_at(hold.file)):
        what = "whoever has made that file, such as for an upgrade of Kubernetes"
        return Hold(HoldReason.FILE, f"held while {hold.file} is there", what, f"rm {hold.file}", since)
    if hold.command:
        words, what = shlex.join(hold.command), "that program, which holds while it exits with 0"
        try:
            said = f"held while {hold.command[0]} says so" if _succeeds(hold.command, alive) else None
        except UntrustedError as error:  # another user controls the answer, and a missing answer is no consent
            said, what = f"held: {error}", "who can change that program"
        return Hold(HoldReason.COMMAND, said, what, words) if said else None
    return None


def doubt_of_the_clock(hold: HoldSpec) -> Hold | None:
    """Return why this host's clock is not trustworthy; None where it is, or where the configuration skips the check."""
    if hold.unsynchronised_clock and not clock_is_synchronised():
        fact = "held until this host's clock is synchronised (timedatectl shows it)"
        return Hold(HoldReason.CLOCK, fact, "the NTP client of this host", "timedatectl set-ntp true")
    return None


class HostHolds:
    """Both checks, for one configuration. `monotonic` returns seconds."""

    def __init__(self, config: Config, root: str, alive: Callable[[], None], monotonic: Callable[[], float]) -> None:
        self._hold, self._root, self._alive, self._monotonic = config.hold, root, alive, monotonic
        self._pause = config.poll.total_seconds()
        self._answers: tuple[float, Hold | None, Hold | None] | None = None

    def now(self) -> tuple[Hold | None, Hold | None]:
        """Check now, and return the hold and the doubt about the clock. May run a program."""
        answers = reason_to_wait(self._hold, self._root, self._alive), doubt_of_the_clock(self._hold)
        self._answers = (self._monotonic(), *answers)
        return answers

    def lately(self) -> tuple[Hold | None, Hold | None]:
        """Return the same, at most `poll` old."""
        if self._answers is None or not 0 <= self._monotonic() - self._answers[0] < self._pause:
            return self.now()
        return self._answers[1:]


def clock_is_synchronised() -> bool:
    """Return whether the kernel reports a synchronized clock (adjtimex(2)). True where the call fails."""
    buffer = ctypes.create_string_buffer(_TIMEX_SIZE * 2)
    return int(ctypes.CDLL(None, use_errno=True).adjtimex(buffer)) != _TIME_ERROR


def _succeeds(command: tuple[str, ...], alive: Callable[[], None]) -> bool:
    try:
        return run(command, {}, _TIME_LIMIT, alive).status == 0
    except UntrustedError:
        raise
    except SigningError:
        return False
