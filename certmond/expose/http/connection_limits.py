"""Limits of connections: number, share of an address, time, and displacement by new connections.

Owns the numbers and the deadlines, and shuts down overdue connections. Reads and writes no payload. One address has at
most half of the slots. If all slots are in use, a new connection displaces one that waits for its client. It displaces
connections without any request first, and of these the longest silent one. A new connection with a request displaces
them immediately, and others after `GRACE_SECONDS`. So silent connections displace each other, the refusal of many of
them costs little, and clients with a request are served.
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
class Slot:
    origin: str
    deadline: float  # the monotonic time at which the server shuts down the connection
    since: float  # the monotonic time of the last extension
    asked: bool  # the client has sent a request, or had begun to send one on arrival
    waiting: bool  # the server waits for the next request of the client


class Slots:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.taken: dict[socket.socket, Slot] = {}
        self._leaving = 0

    def acquire(self, connection: socket.socket, seconds: float) -> bool:
        """Acquire a slot for the connection, if necessary that of a displaced one. Return whether that succeeded."""
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
        def may_yield(slot: Slot) -> bool:
            candidates = now - slot.since >= GRACE_SECONDS or (asks and not slot.asked)
            return candidates and slot.waiting and origin in {None, slot.origin}

        candidates = [(slot.asked, slot.since, number, each)
                for number, (each, slot) in enumerate(self.taken.items()) if may_yield(slot)]  # fmt: skip
        if not candidates or self._leaving >= LEAVING:
            return False
        *_, connection = min(candidates)
        del self.taken[connection]
        self._leaving += 1
        _end(connection, socket.SHUT_RDWR)
        return True

    def change(self, connection: socket.socket, wrap: Callable[[socket.socket], socket.socket]) -> socket.socket:
        """Move the slot to the connection that `wrap` returns. Raises ConnectionAbortedError if it was displaced."""
        with self.changed:
            if connection not in self.taken:
                raise ConnectionAbortedError("another connection has displaced it")
            other = wrap(connection)
            self.taken[other] = self.taken.pop(connection)
            return other

    def extend(self, connection: socket.socket, seconds: float, *, waiting: bool = False) -> None:
        with self.changed:
            if slot := self.taken.get(connection):  # otherwise it was displaced
                now = time.monotonic()
                if not (slot.waiting and waiting):  # the silence of a waiting client began earlier
                    slot.since = now
                slot.deadline, slot.waiting = now + seconds, waiting
                slot.asked = slot.asked or not waiting

    def release(self, connection: socket.socket) -> None:
        """Release the slot, at the end of the connection's thread."""
        with self.changed:
            if self.taken.pop(connection, None) is None:
                self._leaving -= 1
            self.changed.notify_all()

    def shut_down(self, how: int, overdue_at: float = float("inf")) -> None:
        """Shut down the overdue connections, which ends a thread that waits for its client."""
        with self.changed:
            for connection, slot in self.taken.items():
                if slot.deadline <= overdue_at:
                    _end(connection, how)


def brings_request(connection: socket.socket) -> bool:
    """Return whether a complete request head, or the beginning of a TLS handshake, has arrived."""
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
