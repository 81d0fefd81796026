"""Check of the request with which the kubelet of this node requests its serving certificate.

This module decides when certmond reads the requests. `pki.services.serving_request_state` evaluates the requests.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from certmond.cluster.api_access import Access
from certmond.errors import CertmondError
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.service_rules import served_before_restart
from certmond.pki.services.serving_request_state import NO_REQUEST, RequestState, request_state, unknown_state

_ANSWER = timedelta(seconds=2)
"""Time limit of a read, because a read delays the next pass of the daemon."""
_PAUSE = 6
"""Interval between two reads, as a multiple of `poll`. The coordinator uses this interval while no rotation runs."""


class ServingRequestCheck:
    """Check of the requests of the node's kubelet.

    `kubeconfig` returns the path of a kubeconfig, or raises RefusedError. `node` is the name to use if no file of the
    node contains the name of the node. `monotonic` returns the seconds of a monotonic clock.
    """

    def __init__(
        self,
        kubeconfig: Callable[[], str],
        *,
        node: str,
        poll: timedelta,
        alive: Callable[[], None],
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._access = Access(kubeconfig, _ANSWER, alive)
        self._node, self._poll, self._pause = node, poll, poll * _PAUSE
        self._clock, self._monotonic = clock, monotonic
        self._next_read = 0.0
        self.state: RequestState | None = None
        """State of the request, or None if the node has a serving certificate or certmond has not read the state."""
        self.until: datetime | None = None
        """Time at which the next pass can report another state, or None if no read is necessary."""

    def ask(self, assessment: Assessment) -> None:
        """Read the requests of the kubelet if the serving certificate is missing and a read is due.

        A kubelet that still serves another certificate sends its request after its restart. Never raises CertmondError.
        """
        missing = (each for each in assessment.statuses if each.seen.requested)
        if all(served_before_restart(each.seen, each.presence) for each in missing):
            self.state, self.until, self._next_read = None, None, 0.0
            return
        before, now = self.state, self._monotonic()
        if now >= self._next_read:
            self.state = self._read(assessment.facts.get("node_name") or self._node)
            pause = self._poll if self.state == NO_REQUEST else self._pause  # a kubelet creates its request soon
            self._next_read = self._monotonic() + pause.total_seconds()
        left = timedelta(seconds=max(0.0, self._next_read - self._monotonic()))
        self.until = self._clock() + (left if self.state == before else timedelta())

    def _read(self, node: str) -> RequestState:
        try:
            from certmond.cluster.serving_request_listing import serving_requests

            return request_state(serving_requests(self._access, node), self._clock())
        except ImportError:
            return unknown_state("the package lightkube is missing; run: pip install lightkube lightkube-models")
        except CertmondError as error:
            return unknown_state(str(error))
