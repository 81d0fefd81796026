"""Thread that observes the services, so that no pass waits for a server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from certmond.errors import defect
from certmond.pki.services.service_observation import Live, ServiceSeen
from certmond.services.observed_subjects import Question

_NO_THREAD = "certmond cannot start a thread; raise TasksMax= of the unit, or end other processes of this host"


class _ClosedError(Exception):
    """The end of an observation whose thread was closed."""


class ObserverThread:
    """Thread that observes on request and calls `wake` after each observation.

    `wake` must return quickly, and must not raise an exception. `service_observer.observe` describes `limit`. With
    `isolated`, a new process makes the TLS probes. In this case, no other thread may import asyncio.subprocess.
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
        _prepare(probes=bool(question.health or (question.endpoints and not self._isolated)))
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
            from certmond.services.service_observer import observe

            return observe(question, self.seen, self._limit, self._end_if_closed if self._isolated else None)
        except Exception as error:  # noqa: BLE001 - a defect in one observation must not end the thread
            return _unobserved(question, defect(error))


def _unobserved(question: Question, why: str) -> Live:
    services = dict.fromkeys((*question.units, *question.pid_files, *question.pods), ServiceSeen(None, problem=why))
    return Live(datetime.now(UTC), services)


def _prepare(*, probes: bool) -> None:
    """Import the observation in the calling thread, and the probes if `probes` is true.

    The metrics of the first pass need none of these modules. Concurrent imports of asyncio and asyncio.subprocess would
    break asyncio, and the client of the Kubernetes API imports asyncio.subprocess.
    """
    import certmond.services.service_observer  # noqa: F401 - for `_observe`

    if probes:
        with suppress(OSError, ImportError):  # the observation repeats the import and reports the error
            from certmond.services import health_probe, tls_probe  # noqa: F401 - for `_observe`
