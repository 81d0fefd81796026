"""Wait of a command: one line of output for each reason, and file events instead of polling.

Owns the line, and the events that end a wait: a changed file, or an instant. The caller decides what to wait for.
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
from certmond.redaction import redacted

_LONGEST = 300.0
"""Maximum seconds of a wait. Then the command scans the node again, as the daemon does at each `resync`."""
_QUIET = 0.05
"""Seconds within which related changes arrive, and within which a closed file releases its lock."""


STATUS = "certmond status"
"""The command that shows the current state."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait of a command: its reason, its start, its latest end, and the command with which an operator ends it.

    If no such command exists, `remedy` is empty. Then the line names the command that `shows` the state.
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
    """Terminal output of one command. A `quiet` command prints none. Prints a wait when its reason changes."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._waiting: tuple[str, datetime] | None = None

    def tell(self, line: str) -> None:
        """Print a line about an event. If the reader has closed the output, print no further line and continue."""
        if self._quiet:
            return
        try:
            click.echo(printable(redacted(line)))
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
        """Print the wait if its reason differs from that of the last wait. `since` is its start, by default now."""
        if self._waiting and self._waiting[0] == reason:
            return
        begun = since or datetime.now(UTC)
        self._waiting = reason, begun
        self.tell(str(Wait(reason, begun, until, remedy, shows)))


class Events:
    """The file changes that a command waits for. Call `watch` before reading the files."""

    def __init__(self) -> None:
        self._wake = Wake()
        self._watcher = Watcher(self._wake.set)
        self._interest: Interest = {}

    def watch(self, interest: Interest) -> None:
        """Watch exactly these names from now on. The next `wait` treats newly watched names as changed."""
        if interest != self._interest or self._watcher.polled:
            self._watcher.set_interest(interest)
            self._interest = dict(interest)

    def discard(self) -> None:
        """Discard the changes up to now, because the caller reads the files now."""
        self._wake.wait(0)
        self._watcher.take_changes()

    def wait(self, until: datetime | None = None, *, at_most: float = _LONGEST) -> bool:
        """Wait until a file changes, but not beyond `until` or `at_most` seconds. Return whether a file changed."""
        seconds = min(at_most, _LONGEST)
        if until is not None:
            seconds = min(seconds, max(0.0, (until - datetime.now(UTC)).total_seconds()))
        end = time.monotonic() + seconds
        changed = self._wake.wait(seconds)
        while changed and self._wake.wait(min(_QUIET, max(0.0, end - time.monotonic()))):
            pass
        self._watcher.take_changes()
        self._watcher.set_interest(self._interest)  # a directory may have appeared meanwhile
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
