"""One restart of a service as a record: its stage, its reason, its attempts, and its result.

Owns the fields that `restart.history` writes to the state directory. `restart_state_machine` decides each change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from certmond.pki.catalog.field_types import Instant


class Stage(StrEnum):
    """Next event of an episode: the act, the proof of the act, or the restore of the previous files."""

    ACT = "act"
    PROVE = "prove"
    PUT_BACK = "put_back"


class Result(StrEnum):
    """Result of an episode."""

    PROVEN = "proven"
    UNPROVEN = "unproven"  # restarted, and as unhealthy as before the restart
    TAKEN_BACK = "taken_back"
    FAILED = "failed"
    SEEN = "seen"  # no restart: certmond cannot observe a command's process, and records the files at first sight
    SUPERSEDED = "superseded"  # its files have changed again, which begins another episode
    REFUSED = "refused"  # unreachable, not distinguishable from other services, or stopped by another process or user


@dataclass(frozen=True, slots=True)
class Target:
    """A certificate that is the reason for a restart: its entry, its path, and the digests of its files."""

    name: str
    path: str
    contents: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Bystander:
    """Another service with outdated files that may end together with the restarted service.

    For example, the controller-manager and the scheduler end with the API server. `instance` is its instance before the
    restart.
    """

    service: str
    instance: str
    targets: tuple[Target, ...]
    why: str
    well_before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Episode:
    """One restart of one service, recorded before and after each act.

    `before` is the instance that the latest act ends, and `instances` are the instances observed since that act.
    `well_before` are the health addresses that were healthy at the start of the episode. `attempt` counts the attempts.
    The third attempt uses the previous files, which certmond restored at `put_back_at`. `acts` counts the recorded
    acts. It exceeds the attempts if a process was killed, or could not write the record after an act. `asked` is True
    if a command requested the restart, not the daemon's plan.
    """

    service: str
    targets: tuple[Target, ...]
    why: str
    begun_at: Instant
    stage: Stage = Stage.ACT
    attempt: int = 1
    before: str = ""
    acted_at: Instant | None = None
    instances: tuple[str, ...] = ()
    well_before: tuple[str, ...] = ()
    good: int = 0
    good_since: Instant | None = None
    good_at: Instant | None = None
    trouble: str = ""
    put_back_at: Instant | None = None
    bystanders: tuple[Bystander, ...] = ()
    acts: int = 0
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Past:
    """State of a service: the present episode, and the result of the last one.

    `contents` are the digests of the files at the end of the last episode, by path, and `instance` was running then.
    `again` is True if that episode was superseded so soon after the episode before it that the files may change again
    and again.
    """

    service: str
    episode: Episode | None = None
    ended_at: Instant | None = None
    result: Result | None = None
    message: str = ""
    targets: tuple[str, ...] = ()
    instance: str = ""
    contents: Mapping[str, str] = field(default_factory=dict)
    again: bool = False

    def has_read(self, path: str, sha256: str, instance: str) -> bool:
        """Return whether `instance` has read this content of the file, because certmond restarted or reloaded it."""
        taken_up = self.result in {Result.PROVEN, Result.UNPROVEN, Result.TAKEN_BACK, Result.SEEN}
        return taken_up and self.instance == instance and self.contents.get(path) == sha256

    def failure(self, contents: Mapping[str, str]) -> str | None:
        """Return the message of the failed last episode while its files are unchanged, or None."""
        if self.result not in {Result.TAKEN_BACK, Result.FAILED, Result.UNPROVEN} or not self.contents:
            return None
        return self.message if all(contents.get(path) == sha for path, sha in self.contents.items()) else None


@dataclass(frozen=True, slots=True)
class Terms:
    """Time limits: a service must be healthy `ready_within` after an act, and stay healthy for `stable`.

    `spacing` is the least time between two restarts of a service.
    """

    ready_within: timedelta = timedelta(minutes=4)
    stable: timedelta = timedelta(seconds=30)
    spacing: timedelta = timedelta(minutes=10)
