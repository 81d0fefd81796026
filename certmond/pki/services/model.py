"""Types of an observation of the services on a node: their state, their files, and the certificates that they serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from certmond.pki.catalog.endpoint import Endpoint, Seen


@dataclass(frozen=True, slots=True)
class ServiceSeen:
    """State of one service: whether it runs, its start time, and its instance.

    `running` is None if the state is unknown, and `problem` is then the reason. `absent` is True if the service manager
    does not have the service. `instance` is systemd's InvocationID or the ID of a container, which changes with each
    start. `instance` is "" for a service that does not run or has no ID. `started_at` is in UTC, by the clock of this
    host. `failed` is True if the service manager no longer tries to start the service. `stopped` is True if a user or
    program has requested the stop. `command` is the command line.
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
    """The SHA-256 of a file's bytes, and the time since which the file has them, in UTC by the clock of this host.

    For a file that contains only trust anchors, `sha256` is the digest of the set of anchors (`trust_sets`).
    """

    sha256: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Use:
    """Use of a file by a service. `reloads` is True if the service reloads the file. `how` is the flag for the file."""

    reloads: bool
    how: str


@dataclass(frozen=True, slots=True)
class Survey:
    """Files and endpoints of the services, as found in the node's files and processes.

    `uses` has each file that the command line of a service names. `serving` has the service and the file for each
    endpoint. `health` has the health-check addresses of each service. `delays` has the time for which a service still
    listens after SIGTERM, if its flags set this time.
    """

    uses: Mapping[str, Mapping[str, Use]] = field(default_factory=dict)
    serving: Mapping[Endpoint, tuple[str, str]] = field(default_factory=dict)
    health: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    delays: Mapping[str, timedelta] = field(default_factory=dict)

    def listens(self, service: str) -> tuple[Endpoint, ...]:
        """Return the endpoints at which the service `service` serves a certificate."""
        return tuple(endpoint for endpoint, (name, _) in self.serving.items() if name == service)


@dataclass(frozen=True, slots=True)
class Live:
    """One observation of the running services, which began at the time `at` by the clock of this host.

    `services` has the state of each service by its name. `served` has the TLS result of each endpoint. `health` has the
    fault of each health-check address, or None for a healthy address.
    """

    at: datetime
    services: Mapping[str, ServiceSeen] = field(default_factory=dict)
    served: Mapping[Endpoint, Seen] = field(default_factory=dict)
    health: Mapping[str, str | None] = field(default_factory=dict)
