"""Observation of the services of this node: units, containers, served certificates and health.

The daemon observes in a separate thread, so that no pass waits for a server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from certmond.errors import RestartError, SigningError, defect
from certmond.immutable_class import immutable
from certmond.pki.catalog.endpoint import Endpoint, Seen, Unserved
from certmond.pki.services.outage import outage_after
from certmond.pki.services.service_observation import Live, ServiceSeen
from certmond.services import containers, pid_file, probe_process
from certmond.services import systemd_client as units
from certmond.services.containers import Pod
from certmond.services.last_run_time import pod_idle_since

if TYPE_CHECKING:
    from certmond.services.health_probe import Anchors


_NO_THREAD = "certmond cannot start a thread; raise TasksMax= of the unit, or end other processes of this host"


@immutable
class Question:
    """Subjects of an observation: endpoints, health addresses, and the other subjects by the name of their service."""

    units: Mapping[str, str] = field(default_factory=dict)
    pid_files: Mapping[str, str] = field(default_factory=dict)
    pods: Mapping[str, Pod] = field(default_factory=dict)
    endpoints: tuple[Endpoint, ...] = ()
    health: Mapping[str, Anchors] = field(default_factory=dict)


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


def _prepare(question: Question) -> None:
    """Import the probes in the calling thread.

    Concurrent imports of asyncio and asyncio.subprocess would break asyncio.
    """
    # The client of the Kubernetes API imports asyncio.subprocess.
    if question.endpoints or question.health:
        with suppress(OSError, ImportError):  # the observation repeats the import and reports the error
            from certmond.services import health_probe as health  # noqa: F401 - as in `_run_probes`
            from certmond.services import tls_probe as probe  # noqa: F401 - as in `_run_probes`


def _with_history(seen: ServiceSeen, name: str, before: Live | None, at: datetime) -> ServiceSeen:
    """Return the state with the outage of the service, and with the start time that certmond observed first.

    In later observations, the start time of the same process differs by milliseconds. After a correction of the clock,
    a PID file can seem older than its process. If certmond observed this process earlier, its state stays known.
    """
    known = before.services.get(name) if before else None
    if known and known.instance and known.instance == seen.instance:
        seen = known if known.running and seen.running is None else replace(seen, started_at=known.started_at)
    return replace(seen, outage=outage_after(before, name, seen, at))


class _ClosedError(Exception):
    """The end of an observation whose thread was closed."""


class ObserverThread:
    """Thread that observes on request and calls `wake` after each observation.

    `wake` must return quickly, and must not raise an exception. `observe` describes `limit`. With `isolated`, a new
    process makes the TLS probes. In this case, no other thread may import asyncio.subprocess.
    """

    def __init__(self, wake: Callable[[], None], limit: float | None = None, *, isolated: bool = False) -> None:
        self._wake = wake
        self._limit, self._isolated = limit, isolated
        self._changed = threading.Condition()
        self._requested: Question | None = None
        self._closed = False
        self.seen: Live | None = None
        """The latest complete observation, or None before the end of the first observation."""
        self._thread: threading.Thread | None = None

    def ask(self, question: Question) -> None:
        """Request an observation. This request replaces an earlier request for which the observation has not started.

        If the thread cannot start, `seen` contains the reason.
        """
        if not self._isolated or question.health:
            _prepare(question)
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="observer", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    self.seen = _unobserved(question, f"the observation did not start: {_NO_THREAD}")
                    return
                self._thread = thread
            self._requested = question
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread. Wait for the end of a running observation, which has a time limit."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._requested)
                question, self._requested = self._requested, None
                if self._closed or question is None:
                    return
            self.seen = self._observe(question)
            self._wake()

    def _end_if_closed(self) -> None:
        if self._closed:
            raise _ClosedError

    def _observe(self, question: Question) -> Live:
        try:
            return observe(question, self.seen, self._limit, self._end_if_closed if self._isolated else None)
        except Exception as error:  # noqa: BLE001 - a defect in one observation must not end the thread
            return _unobserved(question, defect(error))


def _unobserved(question: Question, why: str) -> Live:
    services = dict.fromkeys((*question.units, *question.pid_files, *question.pods), ServiceSeen(None, problem=why))
    return Live(datetime.now(UTC), services)
