"""Whether a server that was told to end serves anybody any more: it has closed its listeners, some time ago.

kube-apiserver closes its listener when `--shutdown-delay-duration` is over and then waits, at most its request timeout
of 60 s, for connections on which a watch is open (staging/src/k8s.io/apiserver/pkg/server/genericapiserver.go,
RunWithContext; secure_serving.go, RunServer). Nobody can connect any more by then. Owns that observation. Ends nothing.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Collection

from certmond.pki.catalog.endpoint import Endpoint

_CONNECT = 0.2  # seconds; on this host a listener answers at once, and a port without one refuses at once


class Draining:
    """Watches the `endpoints` of one process. Those that accept no connection when it is made count for nothing."""

    def __init__(self, endpoints: Collection[Endpoint], allowance: float) -> None:
        self._open = {(each.address, each.port) for each in endpoints if _accepts(each.address, each.port)}
        self._allowance = allowance
        self._closed_at: float | None = None

    def over(self) -> bool:
        """Return whether all have refused connections for `allowance` seconds; False where none ever accepted one."""
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
    """A connection is accepted, or is not refused: what does not answer in time may still listen."""
    try:
        with socket.create_connection((address, port), _CONNECT):
            return True
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
