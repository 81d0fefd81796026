"""Wait of a command for a file change or an instant, and the output line about the wait.

The caller decides which files and which instant end the wait.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Self

from certmond.cli.messages import print_message
from certmond.cli.stdio import discard_output
from certmond.daemon.wakeup import Wake
from certmond.files.directory_watch import Interest, Watcher
from certmond.immutable_class import immutable
from certmond.pki.findings import printable
from certmond.redaction import redacted

_LONGEST = 300.0
"""Maximum duration of a wait in seconds."""
_QUIET = 0.05
"""Seconds to wait after a file event for related events, and for the release of a file lock."""


STATUS = "certmond status"
"""The command that shows the current state."""


@immutable
class Wait:
    """Reason, start and latest end of a wait, and the command `remedy` that ends the wait.

    If no command ends the wait, the output contains the command `shows`, which prints the state.
    """

    reason: str
    since: datetime
    until: datetime | None = None
    remedy: str = ""
    shows: str = STATUS

    def __str__(self) -> str:
        until = f", until {_clock(self.until)}" if self.until else ""
        remedy = f"to end the wait: {self.remedy}" if self.remedy else f"see: {self.shows}"
        return printable(f"waiting: {self.reason} (since {_clock(self.since)}{until}; {remedy})")


class Progress:
    """Output of one command about its progress. A `quiet` command prints no progress."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._waiting: tuple[str, datetime] | None = None

    def tell(self, line: str) -> None:
        """Print a line. After the reader of the output has closed the pipe, print nothing."""
        if self._quiet:
            return
        try:
            print_message(printable(redacted(line)))
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
        """Print a line about a wait, unless the previous wait had the same reason.

        `since` is the start of the wait, by default now. `until` is the latest end of the wait.
        """
        if self._waiting and self._waiting[0] == reason:
            return
        begun = since or datetime.now(UTC)
        self._waiting = reason, begun
        self.tell(str(Wait(reason, begun, until, remedy, shows)))


class Events:
    """Watcher of the files whose changes end a wait of a command. Call `watch` before you read the files."""

    def __init__(self) -> None:
        self._wake = Wake()
        self._watcher = Watcher(self._wake.set)
        self._interest: Interest = {}

    def watch(self, interest: Interest) -> None:
        """Watch exactly the files in `interest`. The next `wait` treats newly watched files as changed."""
        if interest != self._interest or self._watcher.polled:
            self._watcher.set_interest(interest)
            self._interest = dict(interest)

    def discard(self) -> None:
        """Discard the file changes that the watcher has recorded so far."""
        self._wake.wait(0)
        self._watcher.take_changes()

    def wait(self, until: datetime | None = None, *, at_most: float = _LONGEST) -> bool:
        """Wait for a file change until `until`, for at most `at_most` seconds. Return whether a file changed."""
        seconds = min(at_most, _LONGEST)
        if until is not None:
            seconds = min(seconds, max(0.0, (until - datetime.now(UTC)).total_seconds()))
        end = time.monotonic() + seconds
        changed = self._wake.wait(seconds)
        while changed and self._wake.wait(min(_QUIET, max(0.0, end - time.monotonic()))):
            pass
        self._watcher.take_changes()
        self._watcher.set_interest(self._interest)  # a directory might have appeared in the meantime
        return changed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching."""
        self._watcher.close()


def _clock(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"
