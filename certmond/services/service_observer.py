"""Observation of the services of this node: units, containers, served certificates and health."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from certmond.errors import RestartError, SigningError
from certmond.pki.catalog.endpoint import Endpoint, Seen, Unserved
from certmond.pki.services.outage import outage_after
from certmond.pki.services.service_observation import Live, ServiceSeen
from certmond.services import containers, pid_file, probe_process
from certmond.services import systemd_client as units
from certmond.services.last_run_time import pod_idle_since
from certmond.services.observed_subjects import Pod, Question


def observe(
    question: Question,
    before: Live | None = None,
    limit: float | None = None,
    isolated: Callable[[], None] | None = None,
) -> Live:
    """Observe the subjects of `question`. `before` is the previous observation.

    `limit` is the time limit in seconds for the TLS probes, or None for the default limit. If `isolated` is not None
    and `question` has no health address, a new process makes the TLS probes. An exception of `isolated`, which is
    called every second, ends the new process.
    """
    at = datetime.now(UTC)
    by_unit = units.unit_states(set(question.units.values())) if question.units else {}
    services = {name: by_unit[unit] for name, unit in question.units.items()}
    services |= {name: pid_file.service_state(path) for name, path in question.pid_files.items()}
    services |= _pods(question.pods) if question.pods else {}
    served, health_problems = _probe_results(question, at, limit, isolated)
    return Live(
        at, {name: _with_history(seen, name, before, at) for name, seen in services.items()}, served, health_problems
    )


def _pods(pods: Mapping[str, Pod]) -> dict[str, ServiceSeen]:
    try:
        found = containers.running_containers(set(pods.values()))
    except RestartError as error:
        return dict.fromkeys(pods, ServiceSeen(None, problem=str(error)))
    return {
        name: containers.service_state(found[pod]) if found[pod] else ServiceSeen(False, idle_since=pod_idle_since(pod))
        for name, pod in pods.items()
    }


def _probe_results(
    question: Question, at: datetime, limit: float | None, isolated: Callable[[], None] | None
) -> tuple[dict[Endpoint, Seen], dict[str, str | None]]:
    if not (question.endpoints or question.health):
        return {}, {}
    if isolated and not question.health:
        with suppress(OSError, SigningError):  # otherwise, this process makes the probes
            return probe_process.served_certificates(question.endpoints, at, limit, isolated), {}
    try:
        return _run_probes(question, at, limit)
    except (OSError, ImportError) as error:  # the event loop failed, for example because of too many open files
        why = f"the connection failed ({getattr(error, 'strerror', None) or error})"
        return {each: Unserved(why, at) for each in question.endpoints}, dict.fromkeys(question.health, why)


def _run_probes(
    question: Question, at: datetime, limit: float | None
) -> tuple[dict[Endpoint, Seen], dict[str, str | None]]:
    import asyncio

    from certmond.services import health_probe as health
    from certmond.services import tls_probe as probe

    async def ask() -> tuple[dict[Endpoint, Seen], dict[str, str | None]]:
        handshakes = probe.served_certificates(question.endpoints, at, {}, probe.LIMIT if limit is None else limit)
        return await asyncio.gather(handshakes, health.health_problems(question.health))

    with asyncio.Runner() as runner:
        return runner.run(ask())


def _with_history(seen: ServiceSeen, name: str, before: Live | None, at: datetime) -> ServiceSeen:
    """Return the state with the outage of the service, and with the start time that certmond observed first.

    In later observations, the start time of the same process differs by milliseconds. After a correction of the clock,
    a PID file can seem older than its process. If certmond observed this process earlier, its state stays known.
    """
    known = before.services.get(name) if before else None
    if known and known.instance and known.instance == seen.instance:
        seen = known if known.running and seen.running is None else replace(seen, started_at=known.started_at)
    return replace(seen, outage=outage_after(before, name, seen, at))
