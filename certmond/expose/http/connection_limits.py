"""Limits of connections: number, share of an address, time, and displacement by new connections.

Owns the numbers and the deadlines, and shuts down overdue connections. Reads and writes no payload. One address has at
most half of the slots. If all are taken, a connection that waits for its client is displaced. Those without any request
yield first, and among them the one that is silent longest. A new connection with a request displaces those at once, and
others after `GRACE_SECONDS`. Silent connections therefore displace each other, a flood of them is refused at low cost,
and clients with a request are served.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from certmond.expose.http.routes import HEAD_BYTES

CONNECTIONS = 64  # at the same time, each with a thread
SHARE = CONNECTIONS // 2  # of those, from one address
GRACE_SECONDS = 0.25  # for a handshake and a request, before displacement
LEAVING = 16  # displaced, with threads that still run; a limit of further displacements


@dataclass(slots=True)
class Seat:
    origin: str
    deadline: float  # the monotonic time at which the connection is shut down
    since: float  # when that time was granted
    asked: bool  # it has sent a request, or had begun to on arrival
    waiting: bool  # for the client, whose next request is incomplete


class Seats:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.taken: dict[socket.socket, Seat] = {}
        self._leaving = 0

    def take(self, connection: socket.socket, seconds: float) -> bool:
        """Take a slot for the connection, perhaps of a displaced one. Return whether that was possible."""
        origin, asks, now = origin_of(connection), brings_request(connection), time.monotonic()
        with self.changed:
            own = [seat for seat in self.taken.values() if seat.origin == origin]
            if len(own) >= SHARE and not self._displace(now, asks, origin):
                return False
            if len(self.taken) >= CONNECTIONS and not self._displace(now, asks):
                return False
            self.taken[connection] = Seat(origin, now + seconds, now, asked=asks, waiting=True)
            self.changed.notify_all()
            return True

    def _displace(self, now: float, asks: bool, origin: str | None = None) -> bool:
        def yields(seat: Seat) -> bool:
            ripe = now - seat.since >= GRACE_SECONDS or (asks and not seat.asked)
            return ripe and seat.waiting and origin in {None, seat.origin}

        ripe = [(seat.asked, seat.since, number, each)
                for number, (each, seat) in enumerate(self.taken.items()) if yields(seat)]  # fmt: skip
        if not ripe or self._leaving >= LEAVING:
            return False
        *_, connection = min(ripe)
        del self.taken[connection]
        self._leaving += 1
        _end(connection, socket.SHUT_RDWR)
        return True

    def change(self, connection: socket.socket, wrap: Callable[[socket.socket], socket.socket]) -> socket.socket:
        """Move the slot to the connection that `wrap` returns. Raises ConnectionAbortedError if it was displaced."""
        with self.changed:
            if connection not in self.taken:
                raise ConnectionAbortedError("it has made room")
            other = wrap(connection)
            self.taken[other] = self.taken.pop(connection)
            return other

    def grant(self, connection: socket.socket, seconds: float, *, waiting: bool = False) -> None:
        with self.changed:
            if seat := self.taken.get(connection):  # else it was displaced
                now = time.monotonic()
                if not (seat.waiting and waiting):  # the silence of a waiting client began earlier
                    seat.since = now
                seat.deadline, seat.waiting = now + seconds, waiting
                seat.asked = seat.asked or not waiting

    def leave(self, connection: socket.socket) -> None:
        """Release the slot, at the end of the connection's thread."""
        with self.changed:
            if self.taken.pop(connection, None) is None:
                self._leaving -= 1
            self.changed.notify_all()

    def cut(self, how: int, overdue_at: float = float("inf")) -> None:
        """Shut down the overdue connections. A thread that waits for its client then ends."""
        with self.changed:
            for connection, seat in self.taken.items():
                if seat.deadline <= overdue_at:
                    _end(connection, how)


def brings_request(connection: socket.socket) -> bool:
    """Return whether a complete head has arrived, or the beginning of a TLS handshake, where no more is visible."""
    try:
        head = connection.recv(HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False
    return head.startswith(b"\x16\x03") or b"\n\r\n" in head or b"\n\n" in head


def _end(connection: socket.socket, how: int) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connection, how)  # SSLSocket's own method would continue in plain text


def origin_of(connection: socket.socket) -> str:
    """Return the part of a client's address that it cannot choose: an IPv4 address, or half of an IPv6 address."""
    try:
        host = connection.getpeername()[0]
    except (OSError, IndexError):
        return ""  # the client has disconnected, or has no address
    if connection.family != socket.AF_INET6 or host.startswith("::ffff:"):
        return str(host)
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8].hex()
