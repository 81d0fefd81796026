"""Limits for the connections of the HTTP server: the total number, the number for each address, and the deadlines.

If no slot is free, a new connection displaces a connection that waits for a request. The server first displaces
connections without any request, then the connection that has been silent for the longest time. Therefore, the server
can answer requests during a flood of silent connections.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from certmond.expose.http.routes import HEAD_BYTES

CONNECTIONS = 64  # maximum number of open connections, each with a thread
SHARE = CONNECTIONS // 2  # maximum number of connections from one address
GRACE_SECONDS = 0.25  # time for a handshake and a request before another connection can displace the connection
LEAVING = 16  # maximum number of displaced connections whose threads still run


@dataclass(slots=True)
class Slot:
    """A connection that the server has accepted."""

    origin: str
    deadline: float  # the monotonic time at which the server shuts down the connection
    since: float  # the monotonic time of the last extension
    asked: bool  # the client has sent a request, or had begun a request when the server accepted the connection
    waiting: bool  # the server waits for the next request of the client


class Slots:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.taken: dict[socket.socket, Slot] = {}
        self._leaving = 0

    def acquire(self, connection: socket.socket, seconds: float) -> bool:
        """Acquire a slot for a new connection, and displace another connection if necessary.

        Return False if no slot is available. `seconds` is the time until the deadline of the connection.
        """
        origin, asks, now = origin_of(connection), brings_request(connection), time.monotonic()
        with self.changed:
            own = [slot for slot in self.taken.values() if slot.origin == origin]
            if len(own) >= SHARE and not self._displace(now, asks, origin):
                return False
            if len(self.taken) >= CONNECTIONS and not self._displace(now, asks):
                return False
            self.taken[connection] = Slot(origin, now + seconds, now, asked=asks, waiting=True)
            self.changed.notify_all()
            return True

    def _displace(self, now: float, asks: bool, origin: str | None = None) -> bool:
        # A new connection with a request immediately displaces a connection without a request. All other displacements
        # require that the old connection has been silent for `GRACE_SECONDS`.
        def may_yield(slot: Slot) -> bool:
            candidates = now - slot.since >= GRACE_SECONDS or (asks and not slot.asked)
            return candidates and slot.waiting and origin in {None, slot.origin}

        candidates = [(slot.asked, slot.since, number, each)
                for number, (each, slot) in enumerate(self.taken.items()) if may_yield(slot)]  # fmt: skip
        if not candidates or self._leaving >= LEAVING:
            return False
        # Displace connections without a request first.
        *_, connection = min(candidates)
        del self.taken[connection]
        self._leaving += 1
        _end(connection, socket.SHUT_RDWR)
        return True

    def change(self, connection: socket.socket, wrap: Callable[[socket.socket], socket.socket]) -> socket.socket:
        """Transfer the slot of `connection` to the connection that `wrap` returns.

        Raises ConnectionAbortedError if another connection has displaced `connection`.
        """
        with self.changed:
            if connection not in self.taken:
                raise ConnectionAbortedError("another connection has displaced this one")
            other = wrap(connection)
            self.taken[other] = self.taken.pop(connection)
            return other

    def extend(self, connection: socket.socket, seconds: float, *, waiting: bool = False) -> None:
        with self.changed:
            if slot := self.taken.get(connection):  # otherwise another connection has displaced this one
                now = time.monotonic()
                if not (slot.waiting and waiting):  # the silence of a waiting client began earlier
                    slot.since = now
                slot.deadline, slot.waiting = now + seconds, waiting
                slot.asked = slot.asked or not waiting

    def release(self, connection: socket.socket) -> None:
        """Release the slot of a connection. Before its end, the thread of the connection must call this method."""
        with self.changed:
            if self.taken.pop(connection, None) is None:
                self._leaving -= 1
            self.changed.notify_all()

    def shut_down(self, how: int, overdue_at: float = float("inf")) -> None:
        """Shut down each connection whose deadline is not later than `overdue_at`.

        `how` is the argument of shutdown(2).
        """
        with self.changed:
            for connection, slot in self.taken.items():
                if slot.deadline <= overdue_at:
                    _end(connection, how)


def brings_request(connection: socket.socket) -> bool:
    """Return whether the client has sent the complete header section of a request, or the start of a TLS handshake."""
    try:
        head = connection.recv(HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False
    return head.startswith(b"\x16\x03") or b"\n\r\n" in head or b"\n\n" in head


def _end(connection: socket.socket, how: int) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connection, how)  # the method of SSLSocket would continue in plain text


def origin_of(connection: socket.socket) -> str:
    """Return the IPv4 address or the IPv6 network (/64) of a client, or "" if the address is unknown."""
    try:
        host = connection.getpeername()[0]
    except (OSError, IndexError):
        return ""  # the client has disconnected, or has no address
    if connection.family != socket.AF_INET6 or host.startswith("::ffff:"):
        return str(host)
    # A client can choose the last 64 bits of its IPv6 address.
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8].hex()
