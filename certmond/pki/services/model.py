"""Snapshot of the services of a node and of what each one serves.

Owns the identity of a process: its instance, which changes with each start. Makes no findings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from certmond.pki.catalog.endpoint import Endpoint, Seen


@dataclass(frozen=True, slots=True)
class ServiceSeen:
    """Whether a service runs, since when, and as which instance.

    `running` is None if the state is unknown, and `problem` is then the reason. `absent` is True if the service manager
    has no such service. `instance` is systemd's InvocationID or the ID of a container, and changes with each start. It
    is "" for a service that does not run or has no ID. `started_at` is by this host's clock (UTC). `failed` is True if
    the service manager has stopped trying to start the service. `stopped` is True if a user or program requested the
    stop. `command` is the command line.
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
    """The SHA-256 of a file's bytes, and since when it has this content, by this host's clock (UTC).

    For a file with only trust anchors, `sha256` is the digest of their set (`trust_sets`).
    """

    sha256: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Use:
    """Use of a file by a service. `reloads` is True if the service reloads the file. `how` is the flag for it."""

    reloads: bool
    how: str


@dataclass(frozen=True, slots=True)
class Survey:
    """Files and endpoints of the services, from the node's files and processes, by the service's name.

    `uses` has every file that a known command line names. `serving` has the service and the file behind each endpoint.
    `health` has the addresses that show whether a service is healthy. `delays` has the time for which a service still
    listens after SIGTERM, if its flags set this time.
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
    """One observation of the running services.

    The observation began `at` (this host's clock). `services` are by name, and `served` is by endpoint. `health` has
    None for each healthy address, otherwise the fault.
    """

    at: datetime
    services: Mapping[str, ServiceSeen] = field(default_factory=dict)
    served: Mapping[Endpoint, Seen] = field(default_factory=dict)
    health: Mapping[str, str | None] = field(default_factory=dict)
