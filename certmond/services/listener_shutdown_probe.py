"""Probe that detects whether a terminating server has closed its listeners.

kube-apiserver closes its listener after `--shutdown-delay-duration`. Then kube-apiserver waits at most 60 s for open
watches (k8s.io/apiserver, pkg/server/genericapiserver.go, RunWithContext; secure_serving.go, RunServer).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Collection

from certmond.pki.catalog.endpoint import Endpoint

_CONNECT = 0.2  # seconds; on this host, a connection succeeds or fails immediately


class Draining:
    """Observer of the `endpoints` of one process. The observer ignores endpoints that refuse the first connection."""

    def __init__(self, endpoints: Collection[Endpoint], allowance: float) -> None:
        self._open = {(each.address, each.port) for each in endpoints if _accepts(each.address, each.port)}
        self._allowance = allowance
        self._closed_at: float | None = None

    def over(self) -> bool:
        """Return whether all endpoints have refused connections for `allowance` seconds.

        Return False if there are no endpoints.
        """
        if not self._open:
            return False
        if any(_accepts(*each) for each in self._open):
            self._closed_at = None
            return False
        now = time.monotonic()
        if self._closed_at is None:
            self._closed_at = now
        return now - self._closed_at >= self._allowance


def _accepts(address: str, port: int) -> bool:
    """Return whether the server might still listen.

    Only a refused connection proves that the server does not listen.
    """
    try:
        with socket.create_connection((address, port), _CONNECT):
            return True
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
