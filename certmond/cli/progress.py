"""What a command waits for: told once for each reason, and waited for without looking again and again.

Owns the line about a wait, and the events that end it: files that change, and an instant. What is waited for is its
caller's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import click

from certmond.cli.stdio import discard_output
from certmond.daemon.wakeup import Wake
from certmond.files.inotify import Interest, Watcher
from certmond.pki.findings import printable

_LONGEST = 300.0
"""Seconds after which a wait ends in any case, as the daemon looks at the node again at each `resync`."""
_QUIET = 0.05
"""Seconds in which the changes that belong together are made, and in which a closed file releases its lock."""


STATUS = "certmond status"
"""The command that shows what is going on."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What is waited for, since when, until when where time ends it, and the command of a person that ends it. Where
    there is no such command, `remedy` is empty, and the line names the command that `shows` what is going on.
    """

    reason: str
    since: datetime
    until: datetime | None = None
    remedy: str = ""
    shows: str = STATUS

    def __str__(self) -> str:
        until = f", until {_clock(self.until)}" if self.until else ""
        remedy = f"to end it: {self.remedy}" if self.remedy else f"see: {self.shows}"
        return printable(f"waiting: {self.reason} (since {_clock(self.since)}{until}; {remedy})")


class Progress:
    """The lines of one command on the terminal; none where `quiet`. A wait is told when its reason changes."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._waiting: tuple[str, datetime] | None = None

    def tell(self, line: str) -> None:
        """Print a line about something that happened. Where the reader of the output has gone, print nothing more: what
        was begun is brought to its end all the same.
        """
        if self._quiet:
            return
        try:
            click.echo(printable(line))
        except BrokenPipeError:
            self._quiet = True
            discard_output()

    def wait(
        self,
        reason: str,
        remedy: str = "",
        *,
        until: datetime | None = None,
        since: datetime | None = None,
        shows: str = STATUS,
    ) -> None:
        """Print the wait if it is another than the one before. It counts from now where nothing says since when."""
        if self._waiting and self._waiting[0] == reason:
            return
        begun = since or datetime.now(UTC)
        self._waiting = reason, begun
        self.tell(str(Wait(reason, begun, until, remedy, shows)))


class Events:
    """The changes of files that a command waits for. `follow` names them before they are looked at."""

    def __init__(self) -> None:
        self._wake = Wake()
        self._watcher = Watcher(self._wake.set)
        self._interest: Interest = {}

    def follow(self, interest: Interest) -> None:
        """Wait for these names from now on. What is new among them counts as changed with the next `wait`."""
        if interest != self._interest or self._watcher.polled:
            self._watcher.follow(interest)
            self._interest = dict(interest)

    def forget(self) -> None:
        """Forget what has changed so far: the caller looks at it now."""
        self._wake.wait(0)
        self._watcher.take()

    def wait(self, until: datetime | None = None, *, at_most: float = _LONGEST) -> bool:
        """Wait until a file changes, and at most until the instant. Return whether one did."""
        seconds = min(at_most, _LONGEST)
        if until is not None:
            seconds = min(seconds, max(0.0, (until - datetime.now(UTC)).total_seconds()))
        end = time.monotonic() + seconds
        changed = self._wake.wait(seconds)
        while changed and self._wake.wait(min(_QUIET, max(0.0, end - time.monotonic()))):
            pass
        self._watcher.take()
        self._watcher.follow(self._interest)  # a directory may have come meanwhile
        return changed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching."""
        self._watcher.close()
        self._wake.close()


def _clock(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"
