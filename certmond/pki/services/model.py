"""What runs and serves on the node, as it was seen at one moment: values, handed from `host` to whoever judges.

Owns what counts as "the same process as before": the instance, which is another one after each start. Judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from certmond.pki.catalog.endpoint import Endpoint, Seen


@dataclass(frozen=True, slots=True)
class ServiceSeen:
    """Whether a service runs, since when, and as which instance.

    `running` is None where that could not be told, and `problem` then says why; `absent` that its manager knows of none
    such, so that nothing of it can run. `instance` is systemd's InvocationID or the id of a container: another one
    after each start, "" where it does not run or has none. `started_at` is by this host's clock (UTC). `failed` says
    that its manager has given up starting it, `stopped` that nothing is wrong with it but that it was told to stop.
    `command` is its command line.
    """

    running: bool | None
    instance: str = ""
    started_at: datetime | None = None
    failed: bool = False
    command: tuple[str, ...] = ()
    problem: str | None = None
    stopped: bool = False
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """The SHA-256 of a file's bytes, or of the set of anchors that it holds and nothing else (`pki.trust`), and since
    when that is so, by this host's clock (UTC).
    """

    sha256: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Use:
    """A service uses a file. `reloads`: it reads the file again by itself. `how` is the flag that says so."""

    reloads: bool
    how: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What the node's own files and processes say of its services, by the service's name.

    `uses` has, for those whose command line is understood, every file that they are told to use; `serving` the
    service and the file behind each endpoint; `health` the addresses that tell whether a service is well; `delays` for
    how long one goes on listening that was told to end, where its flags say so.
    """

    uses: Mapping[str, Mapping[str, Use]] = field(default_factory=dict)
    serving: Mapping[Endpoint, tuple[str, str]] = field(default_factory=dict)
    health: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    delays: Mapping[str, timedelta] = field(default_factory=dict)

    def listens(self, service: str) -> tuple[Endpoint, ...]:
        """Return the endpoints at which the service serves."""
        return tuple(endpoint for endpoint, (name, _) in self.serving.items() if name == service)


@dataclass(frozen=True, slots=True)
class Live:
    """One look at what runs: when it began (this host's clock), the services by name, what is served where, and for
    each health address that was asked None where it is well, else what is wrong.
    """

    at: datetime
    services: Mapping[str, ServiceSeen] = field(default_factory=dict)
    served: Mapping[Endpoint, Seen] = field(default_factory=dict)
    health: Mapping[str, str | None] = field(default_factory=dict)
