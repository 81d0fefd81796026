"""Types for one observation of the services on a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime, timedelta

from certmond.immutable_class import immutable
from certmond.pki.catalog.endpoint import Endpoint, Seen
from certmond.pki.catalog.served_entries import Listener


@immutable
class Outage:
    """Period without a steadily running service. `until` is the time of the last observation without an instance."""

    since: datetime
    until: datetime


@immutable
class ServiceSeen:
    """State of one service.

    `running` is None if the state is unknown. `instance` is systemd's InvocationID or the ID of a container, or "" if
    no instance is known. `started_at` is in UTC. `failed` is True if the service manager no longer tries to start the
    service. `stopped` is True if a user or program has requested the stop. `absent` is True if the service manager has
    no such service. `demanded_by` is the file that shows that the service should run: the enabled unit, or a PID file
    without a known process. Otherwise it is "". `idle_since` is the latest time at which a service without a known
    process might have run, or None if unknown. `problem` is the fact that `demanded_by` or the unknown state shows.
    """

    running: bool | None
    instance: str = ""
    started_at: datetime | None = None
    failed: bool = False
    command: tuple[str, ...] = ()
    problem: str | None = None
    stopped: bool = False
    absent: bool = False
    demanded_by: str = ""
    idle_since: datetime | None = None
    outage: Outage | None = None


@immutable
class Demand:
    """The static Pod manifest that starts a service, and the time of its last change (UTC)."""

    manifest: str
    since: datetime


@immutable
class Content:
    """SHA-256 of a file, and the time of its last change (UTC).

    For a file that contains only trust anchors, `sha256` is the digest of the set of anchors (`trust_set_digest`).
    """

    sha256: str
    since: datetime


@immutable
class Use:
    """Use of a file by a service. `how` is the command-line flag that names the file."""

    reloads: bool
    how: str


@immutable
class Survey:
    """Files and endpoints of the services, as certmond finds them in files and processes of the node.

    `uses` contains the files in the command line of each service, and `serving` the service and the file of each
    endpoint. `health` contains the health-check addresses of each service. `delays` contains the time for which each
    service still listens after SIGTERM. `listeners` contains the endpoints whose certificate is in no file.
    """

    uses: Mapping[str, Mapping[str, Use]] = field(default_factory=dict)
    serving: Mapping[Endpoint, tuple[str, str]] = field(default_factory=dict)
    health: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    delays: Mapping[str, timedelta] = field(default_factory=dict)
    listeners: Mapping[Endpoint, Listener] = field(default_factory=dict)

    def listens(self, service: str) -> tuple[Endpoint, ...]:
        """Return the endpoints at which `service` serves a certificate from a file."""
        return tuple(endpoint for endpoint, (name, _) in self.serving.items() if name == service)


@immutable
class Live:
    """One observation of the running services. The observation began at `at`.

    `served` contains the TLS result of each endpoint. `health` contains the fault of each health-check address, or None
    for a healthy address.
    """

    at: datetime
    services: Mapping[str, ServiceSeen] = field(default_factory=dict)
    served: Mapping[Endpoint, Seen] = field(default_factory=dict)
    health: Mapping[str, str | None] = field(default_factory=dict)
