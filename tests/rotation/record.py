"""The record of the clients of a bed: the number of connections by direction, the failures, and their reasons.

A connection that was refused or broke is `down` if the server's process ended, or was not up yet, at any time from the
start of the attempt to its line: it proves nothing about certificates. Any other result than status 200 is a failure.
This module has the parser of the record, and that rule.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right, insort
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

LATE = 0.3
"""Seconds after a server is ready again in which a connection may still tell of the time before."""


class Direction(NamedTuple):
    """NODE/COMPONENT each, of the client and of the server."""

    by: str
    to: str


class Failure(NamedTuple):
    """One attempt: `at` is seconds of time.time(); `kind` is "trust" if a side refused the other in the handshake,
    "answer" for a status other than 200, "network", or "file" if the client's own was unreadable.
    """

    at: float
    direction: Direction
    kind: str
    reason: str


@dataclass
class Tally:
    """The counts of one direction; the newest failure first. Successes come in groups of about 100 ms."""

    good: int = 0
    down: int = 0
    failures: list[Failure] = field(default_factory=list)
    first: float = 0.0
    last: float = 0.0

    @property
    def rate(self) -> float:
        """Connections a second, of all that were tried."""
        return (self.good + self.down + len(self.failures)) / max(self.last - self.first, 0.001)


class Record:
    """The file to which all processes of a bed append lines; each question reads the new ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._lines: list[dict[str, Any]] = []
        """By their time: a process that stalls writes a line late."""
        self._down = _Down()

    def note(self, by: str, event: str) -> None:
        """Record an event of a process that can no longer do so, such as "ends"."""
        with self.path.open("a") as file:
            file.write(json.dumps({"by": by, "event": event, "at": time.time()}) + "\n")

    def _read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read()
        whole = whole[: whole.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in map(json.loads, whole.splitlines()):
            if "event" in line:
                self._down.add(line["by"], line["at"], line["event"] == "ready")
            else:
                insort(self._lines, line, key=itemgetter("at"))

    def tallies(self, since: float = 0.0) -> dict[Direction, Tally]:
        """Return the counts of the record since then."""
        self._read()
        found = defaultdict[Direction, Tally](Tally)
        for line in reversed(self._lines):
            if (at := line["at"]) < since:
                break
            tally = found[direction := Direction(line["by"], line["to"])]
            tally.first, tally.last = min(tally.first or at, at), max(tally.last, at)
            if "good" in line:
                tally.good += line["good"]
            elif line["kind"] == "network" and self._down.meets(direction.to, line["began"], at):
                tally.down += 1
            else:
                tally.failures.append(Failure(at, direction, line["kind"], line["reason"]))
        return dict(found)

    def failures(self, since: float = 0.0) -> list[Failure]:
        """In the order of time."""
        return sorted(each for tally in self.tallies(since).values() for each in tally.failures)


class _Down:
    """When each server was not up."""

    def __init__(self) -> None:
        self._turns = defaultdict[str, list[tuple[float, bool]]](list)

    def add(self, server: str, at: float, ready: bool) -> None:
        self._turns[server].append((at + LATE if ready else at, ready))

    def meets(self, server: str, began: float, at: float) -> bool:
        """Return whether the server was not up at any time from `began` to `at`."""
        turns = sorted(self._turns[server])
        position = bisect_right(turns, (began, True))
        if position == 0 or not turns[position - 1][1]:
            return True
        return any(not ready for _, ready in turns[position : bisect_right(turns, (at, True))])


def summary(failures: list[Failure]) -> str:
    """Return how often each reason occurred in each direction, for the message of a failed test."""
    counted = Counter((*each.direction, each.kind, each.reason) for each in failures)
    return "\n".join(f"{count} x {by} -> {to}: {kind}: {why}" for (by, to, kind, why), count in counted.most_common())
