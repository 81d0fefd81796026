"""Services that should run, and that have not run for some time.

A static Pod manifest or an enabled unit starts such a service, or its PID file names no process of the service.

This module decides how long a service has not run, and from which time certmond reports this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from certmond.pki.catalog.observation import Observation
from certmond.pki.catalog.service_spec import OutageSpec, ServiceSpec
from certmond.pki.findings import Fault, Reason
from certmond.pki.services.restart_episode import Result
from certmond.pki.services.service_observation import Demand, Live, Outage, ServiceSeen
from certmond.pki.services.staleness import Surroundings

LIMIT = timedelta(minutes=5)
"""Duration of an outage from which certmond reports the service. An outage is shorter if certmond restarts the service,
the node boots, or the kubelet recreates a Pod. kubeadm waits the same time for the Pod of a changed manifest
(kubernetes/kubernetes, cmd/kubeadm/app/phases/upgrade/staticpods.go, UpgradeManifestTimeout).
"""
STEADY = timedelta(minutes=5)
"""Time for which an instance must run to end an outage. A service that crashes runs for a shorter time: the kubelet
gives a component up to four minutes to start (cmd/kubeadm/app/util/staticpod/utils.go, StartupProbe).
"""
BACK_OFF = timedelta(minutes=5)
"""Longest time for which the kubelet delays the restart of a failing container (MaxContainerBackOff)."""
CHECK_INTERVAL = timedelta(seconds=30)
"""Time between two observations of the services during an outage."""


def outage_after(before: Live | None, name: str, seen: ServiceSeen, at: datetime) -> Outage | None:
    """Return the outage of the service `name` after the observation `seen` at `at`, or None if there is no outage.

    `before` is the previous observation of all services. If the state of the service is unknown, and its last activity
    is also unknown, the previous outage continues.
    """
    known = before.services.get(name) if before else None
    last = known.outage if known else None
    if seen.running is None and seen.idle_since is None:
        return last
    if seen.running:
        return last if last and _is_young(seen.started_at, at) else None
    if seen.idle_since is None:
        return None
    since = last.since if last else seen.idle_since
    steady = known and (known.started_at is None or not _is_young(known.started_at, at))
    if before and known and known.running and steady and not last:
        since = max(since, before.at)  # the log of a service that logs nothing may be older
    return Outage(min(since, at), at)


def _is_young(started_at: datetime | None, at: datetime) -> bool:
    """Return whether an instance might have run for less than `STEADY` at the time `at`."""
    return started_at is None or at - started_at < STEADY


def demands_in_outages(
    demands: Mapping[str, Demand], before: Mapping[str, Demand], live: Live | None
) -> dict[str, Demand]:
    """Return the demand of each service in an outage, as at the first observation of the outage.

    `before` is the result of the previous call. Therefore, a change to the manifest during an outage does not end the
    outage.
    """
    services = live.services if live else {}
    found = dict[str, Demand]()
    for name, demand in demands.items():
        if (seen := services.get(name)) and seen.outage:
            first = before.get(name, demand)
            found[name] = first if first.manifest == demand.manifest else demand
    return found


def unmet_demands(around: Surroundings) -> Iterator[Observation]:
    """Yield an observation with the fault `not_running` for each service that has not run for at least `LIMIT`.

    Skips a service with an episode, and a service for which no file shows that it should run.
    """
    for source, (service, outage) in _outages(around).items():
        if outage.until - outage.since >= LIMIT:
            yield _observation(service, source, outage.since, around.live)


def has_outage(around: Surroundings) -> bool:
    """Return whether a service that should run is in an outage of any duration. Ignores services with an episode."""
    return bool(_outages(around))


def _outages(around: Surroundings) -> dict[str, tuple[ServiceSpec, Outage]]:
    """Return the outages by the path of the file that shows that the service should run.

    Skips a service with an episode, because certmond restarts this service. The outage of a service that was healthy at
    the end of its last restart by certmond begins at this end or later.
    """
    found = dict[str, tuple[ServiceSpec, Outage]]()
    for service in around.services:
        seen = around.live.services.get(service.name) if around.live else None
        past, demand = around.past.get(service.name), around.demands.get(service.name)
        if seen is None or seen.outage is None or (past and past.episode):  # in an episode, certmond restarts it
            continue
        since = seen.outage.since
        if past and past.result is Result.PROVEN and past.ended_at:
            since = max(since, past.ended_at)  # several restarts in a rotation are no crashes
        if demand:
            since = max(since, demand.since)  # the kubelet needs time to start a changed Pod
            found[demand.manifest] = service, replace(seen.outage, since=since)
        elif seen.demanded_by:
            found.setdefault(seen.demanded_by, (service, replace(seen.outage, since=since)))
    return found


def _observation(service: ServiceSpec, source: str, since: datetime, live: Live | None) -> Observation:
    name, problem = service.name, live.services[service.name].problem if live else None
    if service.pid_file:
        fact = f"certmond has found no process of {name} since {_second(since)}: {problem}"
        remedy = f"start {name} again, or correct the file"
    else:
        fact = f"{name} has not run steadily since {_second(since)}, although {source} starts it"
        see = f"systemctl status {service.unit}" if service.unit else f"crictl ps -a --name '^{service.pod}$'"
        remedy = f"find the cause: {see}"
    spec = OutageSpec(name=name, path=source)
    return Observation(name, spec, source, faults=(Fault(Reason.NOT_RUNNING, fact, remedy),))


def _second(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
