"""Connection to a D-Bus message bus: sequential calls, and the signals that arrive during these calls.

certmond does not use the connection classes of jeepney, because they send Hello without a time limit.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Self

from jeepney import DBusAddress, DBusErrorResponse, HeaderFields, MessageType, Parser, new_method_call
from jeepney.auth import BEGIN, Authenticator
from jeepney.bus import get_bus
from jeepney.wrappers import unwrap_msg

BUS_ITSELF = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")

_ALIVE_INTERVAL = 0.5  # seconds; callers of `alive` expect it every second
_RECEIVE_BYTES = 1 << 16
_MAX_DETAIL = 200  # maximum number of characters to quote from an invalid answer


class Bus:
    """An open connection to the bus. The end of the `with` block closes the connection.

    `deadline` is an instant of time.monotonic(), which a caller can change. Every method raises OSError if the bus does
    not answer before the deadline.
    """

    def __init__(self, address: str, deadline: float, alive: Callable[[], None]) -> None:
        self.deadline = deadline
        self._alive = alive
        self._serials = count(1)
        self._parser = Parser()
        self._signals: deque[Any] = deque()
        with _only_os_errors():
            bus_path = get_bus(address)
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(self._remaining())
            self._socket.connect(bus_path)
            self._authenticate()
            self.call(BUS_ITSELF, "Hello")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, to: DBusAddress, method: str, signature: str | None = None, *arguments: object) -> tuple[Any, ...]:
        """Call a method and return its result. Raises DBusErrorResponse if the peer or the bus returns an error."""
        serial = next(self._serials)
        # Without the flag NO_AUTO_START, a bus that has just started queues the message until systemd has connected.
        self._send(new_method_call(to, method, signature, arguments).serialise(serial=serial))
        while True:
            message = self._receive()
            if message.header.message_type is MessageType.signal:
                self._signals.append(message)
            elif message.header.fields.get(HeaderFields.reply_serial) == serial:
                answer: tuple[Any, ...] = unwrap_msg(message)
                return answer

    def signal(self) -> Any:
        """Return the next signal. Signals that arrived during a call come first."""
        while not self._signals:
            message = self._receive()
            if message.header.message_type is MessageType.signal:
                self._signals.append(message)
        return self._signals.popleft()

    def _authenticate(self) -> None:
        """Authenticate as the user of this process, which the kernel reports to the bus (SASL EXTERNAL)."""
        with _only_os_errors():
            authenticator = Authenticator()
            for line in authenticator:
                self._send(line)
                authenticator.feed(self._read())
        self._send(BEGIN)

    def _receive(self) -> Any:
        with _only_os_errors():
            while (message := self._parser.get_next_message()) is None:
                self._parser.add_data(self._read())
        return message

    def _send(self, data: bytes) -> None:
        self._socket.settimeout(self._remaining())
        self._socket.sendall(data)

    def _read(self) -> bytes:
        while True:
            self._alive()
            self._socket.settimeout(min(self._remaining(), _ALIVE_INTERVAL))
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError:
                continue
            if not data:
                raise ConnectionResetError("the bus closed the connection")
            return data

    def _remaining(self) -> float:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("no answer in time")
        return remaining


@contextmanager
def _only_os_errors() -> Iterator[None]:
    """Convert each exception to an OSError, so that a peer that does not use D-Bus counts as unreachable."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        # jeepney raises AuthenticationError, struct.error, KeyError, AssertionError and others.
        detail = f"{type(error).__name__}: {error}"[:_MAX_DETAIL]
        raise ConnectionAbortedError(f"the peer does not use D-Bus, or denies access: {detail}") from error


def error_message(error: DBusErrorResponse) -> str:
    """Return the message of an error reply, or the name of the error if the reply contains no message."""
    return str(error.data[0] if error.data else error.name).rstrip(".")
