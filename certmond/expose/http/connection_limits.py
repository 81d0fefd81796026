"""Who is connected: how many there may be, from where, for how long, and who makes room.

Owns the numbers and the clock of connections, and cuts those whose time is up; takes no byte from them and writes none.
No address has more than half of the seats. Where all are taken, who keeps the server waiting for a request makes room:
first those who have not asked for anything yet, and of them who has been silent longest. For a newcomer who brings a
request they do so at once; else nobody does who has waited for hardly a moment. So those who open connections and say
nothing displace each other, a storm of them is turned away, which costs next to nothing, and who asks is served.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from certmond.expose.http.routes import HEAD_BYTES

CONNECTIONS = 64  # at the same time; each has a thread
SHARE = CONNECTIONS // 2  # of those, from one address
GRACE_SECONDS = 0.25  # for a handshake and a request, before one may be displaced
LEAVING = 16  # displaced, with threads that are not yet at their end; no more are displaced meanwhile


@dataclass(slots=True)
class Seat:
    origin: str
    deadline: float  # the monotonic instant at which the connection is cut
    since: float  # when that time was granted
    asked: bool  # it has sent a request, or had begun when it came
    waiting: bool  # for the client: it has not yet sent its next request whole


class Seats:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.taken: dict[socket.socket, Seat] = {}
        self._leaving = 0

    def take(self, connection: socket.socket, seconds: float) -> bool:
        """Whether there is a seat for it, which may have been another's."""
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
                seat.asked = seat.asked or not waiting

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


def brings_request(connection: socket.socket) -> bool:
    """Whether a whole head is there already, or the begin of a TLS handshake, which is as far as that can be seen."""
    try:
        head = connection.recv(HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False
    return head.startswith(b"\x16\x03") or b"\n\r\n" in head or b"\n\n" in head


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
