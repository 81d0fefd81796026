"""Why nothing is to be renewed at this moment: an upgrade is under way, or the clock cannot be trusted.

Owns the asking of this host. What follows from the answer, and how long it counts, is the plan's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from datetime import timedelta

from certmond.errors import SigningError, UntrustedError
from certmond.host.node_files import NodeFiles
from certmond.host.program import run
from certmond.pki.settings import HoldSpec

_TIME_LIMIT = timedelta(seconds=10)  # for the program that says whether an upgrade is under way
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_SIZE = 208  # struct timex, on every architecture of Linux; larger than that is harmless


def reason_to_wait(hold: HoldSpec, root: str, alive: Callable[[], None]) -> str | None:
    """The first reason to wait, in words; None where there is none."""
    if hold.file and NodeFiles(root).exists(hold.file):
        return f"held while {hold.file} is there"
    if hold.command:
        try:
            return f"held while {hold.command[0]} says so" if _succeeds(hold.command, alive) else None
        except UntrustedError as error:  # its answer would be that of another user, and a missing answer is no consent
            return f"held: {error}"
    return None


def doubt_of_the_clock(hold: HoldSpec) -> str | None:
    """Why this host's clock cannot be trusted, in words; None where it can, or that is not to be asked."""
    if hold.unsynchronised_clock and not clock_is_synchronised():
        return "held until this host's clock is synchronised (timedatectl shows it)"
    return None


def clock_is_synchronised() -> bool:
    """What the kernel says of its clock (adjtimex(2)). Where it cannot be asked, the clock is trusted."""
    buffer = ctypes.create_string_buffer(_TIMEX_SIZE * 2)
    return int(ctypes.CDLL(None, use_errno=True).adjtimex(buffer)) != _TIME_ERROR


def _succeeds(command: tuple[str, ...], alive: Callable[[], None]) -> bool:
    try:
        return run(command, {}, _TIME_LIMIT, alive).status == 0
    except UntrustedError:
        raise
    except SigningError:
        return False
