"""What the server asks of whoever guards it, and the guard where there is none: everybody comes in, in plain text.

`gate` has the one that follows a web configuration; it is imported only where there is such a file. Imports the
standard library only, and not even its ssl.
"""

from __future__ import annotations

import socket
from typing import Protocol

from certmond.expose.site import Answer, Request


class Policy(Protocol):
    """Who comes in, and how. Never changes: a connection lives under one, and ends when another is in force."""

    encrypts: bool
    asks: bool  # somebody has to show who they are

    def wrap(self, connection: socket.socket) -> socket.socket:
        """The connection as it is used from now on. Exchanges no byte."""

    def greet(self, connection: socket.socket) -> bool:
        """The handshake, as long as the client takes; whether the client may come in. OSError: it came to nothing."""

    def refusal(self, request: Request, origin: str) -> Answer | None:
        """What to answer in the place of what is asked for; None: go on. `origin` is whose turn it takes."""

    def dress(self, answer: Answer) -> Answer:
        """The answer as it leaves."""

    def part(self, connection: socket.socket) -> None:
        """The farewell: nothing more is sent."""


class Gate(Protocol):
    @property
    def latest(self) -> Policy:
        """What was in force at the last look. Does nothing."""

    def policy(self) -> Policy:
        """What is in force now; looks at files, and so is not for the loop that accepts."""

    def metrics(self) -> bytes:
        """What there is to be told of the guard, in the text format of Prometheus."""


class OpenPolicy:
    encrypts = asks = False

    def wrap(self, connection: socket.socket) -> socket.socket:
        return connection

    def greet(self, connection: socket.socket) -> bool:  # noqa: ARG002  # the name is the protocol's
        return True

    def refusal(self, request: Request, origin: str) -> Answer | None:  # noqa: ARG002  # the names are the protocol's
        return None

    def dress(self, answer: Answer) -> Answer:
        return answer

    def part(self, connection: socket.socket) -> None:
        """Ends of itself."""


class OpenGate:
    def __init__(self) -> None:
        self.latest = OpenPolicy()

    def policy(self) -> OpenPolicy:
        return self.latest

    def metrics(self) -> bytes:
        return b""
