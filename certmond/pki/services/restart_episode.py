"""Record of one restart of a service (an episode), with its attempts and its result.

`restart.history` stores the record. `restart_state_machine` decides each change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import timedelta
from enum import StrEnum

from certmond.immutable_class import immutable
from certmond.pki.instant import Instant


class Stage(StrEnum):
    """Stage of an episode: certmond restarts the service, proves the restart, or restores the previous files."""

    ACT = "act"
    PROVE = "prove"
    PUT_BACK = "put_back"


class Result(StrEnum):
    """Result of an episode."""

    PROVEN = "proven"
    UNPROVEN = "unproven"  # the service was restarted, and is as unhealthy as before the restart
    TAKEN_BACK = "taken_back"
    FAILED = "failed"
    SEEN = "seen"  # no restart: certmond recorded the files of a service of kind command for the first time
    SUPERSEDED = "superseded"  # the files have changed again, which begins another episode
    REFUSED = "refused"  # certmond cannot reach or identify the service, or another process or user has stopped it


@immutable
class Target:
    """Certificate that causes a restart. `contents` maps the path of each file to the SHA-256 of the file.

    If the service issues the certificate again at its start, `ends_at` is the end of the certificate before the
    restart. Otherwise `ends_at` is None.
    """

    name: str
    path: str
    contents: Mapping[str, str]
    ends_at: Instant | None = None


@immutable
class Bystander:
    """Another service with outdated files, which can stop when certmond restarts the first service.

    For example, kube-controller-manager can stop when the API server stops. `instance` is the instance of the bystander
    before the restart.
    """

    service: str
    instance: str
    targets: tuple[Target, ...]
    why: str
    well_before: tuple[str, ...] = ()


@immutable
class Episode:
    """One restart of one service, in up to four attempts.

    `acts` counts the acts. Each act restarts the service. From the third `attempt` on, the service uses the previous
    files, which certmond restored at `put_back_at`. The fourth attempt ends an instance that started before that time.
    `before` is the instance that the latest act ends, and `instances` are the instances after this act. `well_before`
    contains the health addresses that were healthy at the start of the episode. `asked` is True if a command requested
    the restart.
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
    # `acts` is greater than `attempt` if certmond was killed, or could not write the record after an act.
    acts: int = 0
    asked: bool = False

    @property
    def renews(self) -> bool:
        """Whether the service must issue certificates again in this restart."""
        return any(target.ends_at for target in self.targets)


@immutable
class Past:
    """Restart state of a service: the present episode, and the result of the last episode.

    `contents` contains the SHA-256 that each file had at the end of the last episode. `instance` is the instance of the
    service at this time. `again` is True if the files changed during the last episode, soon after an earlier episode.
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
        """Return whether `instance` has read the content `sha256` of the file `path`."""
        taken_up = self.result in {Result.PROVEN, Result.UNPROVEN, Result.TAKEN_BACK, Result.SEEN}
        return taken_up and self.instance == instance and self.contents.get(path) == sha256

    def failure(self, contents: Mapping[str, str]) -> str | None:
        """Return the message of the last episode if the restart failed or is unproven, otherwise None.

        Returns None also if a file has changed, or if the record contains no file. `contents` contains the present
        SHA-256 of each file.
        """
        if self.result not in {Result.TAKEN_BACK, Result.FAILED, Result.UNPROVEN} or not self.contents:
            return None
        return self.message if all(contents.get(path) == sha for path, sha in self.contents.items()) else None


@immutable
class Terms:
    """Time limits of a restart.

    A service must be healthy within `ready_within` and stay healthy for `stable`. `spacing` is the minimum time between
    two restarts of a service.
    """

    ready_within: timedelta = timedelta(minutes=4)
    stable: timedelta = timedelta(seconds=30)
    spacing: timedelta = timedelta(minutes=10)
