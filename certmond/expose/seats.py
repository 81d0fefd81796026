"""Who is connected: how many there may be, from where, for how long, and who makes room.

Owns the numbers and the clock of connections, and cuts those whose time is up; reads and writes nothing on them. No
address has more than half of the seats. Where all are taken, who has kept the server waiting longest for a request
makes room, unless that was hardly a moment: so those who open connections and say nothing displace each other, and a
storm of them is turned away, which costs next to nothing.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

CONNECTIONS = 64  # at the same time; each has a thread
SHARE = CONNECTIONS // 2  # of those, from one address
GRACE_SECONDS = 0.25  # for a handshake and a request, before one may be displaced
LEAVING = 16  # displaced, with threads that are not yet at their end; no more are displaced meanwhile


@dataclass(slots=True)
class Seat:
    origin: str
    deadline: float  # the monotonic instant at which the connection is cut
    since: float  # when that time was granted
    waiting: bool  # for the client: it has not yet sent its next request whole


class Seats:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.taken: dict[socket.socket, Seat] = {}
        self._leaving = 0

    def take(self, connection: socket.socket, seconds: float) -> bool:
        """Whether there is a seat for it, which may have been another's."""
        origin, now = origin_of(connection), time.monotonic()
        with self.changed:
            own = [seat for seat in self.taken.values() if seat.origin == origin]
            if len(own) >= SHARE and not self._displace(now, origin):
                return False
            if len(self.taken) >= CONNECTIONS and not self._displace(now):
                return False
            self.taken[connection] = Seat(origin, now + seconds, now, waiting=True)
            return True

    def _displace(self, now: float, origin: str | None = None) -> bool:
        idle = ((seat.since, number, each) for number, (each, seat) in enumerate(self.taken.items())
                if seat.waiting and origin in {None, seat.origin})  # fmt: skip
        since, _, connection = min(idle, default=(now, 0, None))
        if connection is None or now - since < GRACE_SECONDS or self._leaving >= LEAVING:
            return False
        del self.taken[connection]
        self._leaving += 1
        _end(connection, socket.SHUT_RDWR)
        return True

    def change(self, connection: socket.socket, wrap: Callable[[socket.socket], socket.socket]) -> socket.socket:
        """The same seat for what `wrap` makes of the connection. ConnectionAbortedError if it has lost it."""
        with self.changed:
            if connection not in self.taken:
                raise ConnectionAbortedError("it has made room")
            other = wrap(connection)
            self.taken[other] = self.taken.pop(connection)
            return other

    def grant(self, connection: socket.socket, seconds: float, *, waiting: bool = False) -> None:
        with self.changed:
            if seat := self.taken.get(connection):  # else it is being turned away
                now = time.monotonic()
                if not (seat.waiting and waiting):  # who has said nothing yet is silent since it came
                    seat.since = now
                seat.deadline, seat.waiting = now + seconds, waiting

    def leave(self, connection: socket.socket) -> None:
        """Its thread is at its end."""
        with self.changed:
            if self.taken.pop(connection, None) is None:
                self._leaving -= 1
            self.changed.notify_all()

    def cut(self, how: int, overdue_at: float = float("inf")) -> None:
        """Those whose time is up. A thread that was waiting for its client wakes up and ends."""
        with self.changed:
            for connection, seat in self.taken.items():
                if seat.deadline <= overdue_at:
                    _end(connection, how)


def _end(connection: socket.socket, how: int) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connection, how)  # SSLSocket's own would go on in plain text


def origin_of(connection: socket.socket) -> str:
    """Where a client is, as far as it cannot choose that itself: an IPv4 address, or the first half of an IPv6 one."""
    try:
        host = connection.getpeername()[0]
    except (OSError, IndexError):
        return ""  # it has gone, or has no address
    if connection.family != socket.AF_INET6 or host.startswith("::ffff:"):
        return str(host)
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8].hex()
