"""What the server asks of whoever guards it, and the guard where there is none: everybody comes in, in plain text.

`gate` has the one that follows a web configuration; it is imported only where there is such a file. Where nobody has to
show who they are, what is asked on loopback has to be asked of this host. Imports the standard library only, and not
even its ssl.
"""

from __future__ import annotations

import re
import socket
from http import HTTPStatus
from typing import Protocol

from certmond.expose.http.routes import Answer, Request, sentence

HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]*))(?::[0-9]*)?")  # RFC 3986, 3.2.2 and 3.2.3
MISDIRECTED = (
    "this was asked of another host: without TLS and passwords, loopback answers to an address, to localhost and to "
    "the name of this host; a proxy before `certmond serve` has to send one of these as Host (docs/web.md)"
)


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


def misdirected(request: Request, policy: Policy) -> Answer | None:
    """What to answer on loopback to a request that is for another host (RFC 9110, 15.5.20); None where it is for us.

    A page in a browser reads what comes from its own name, wherever that leads, and its owner can make it lead here
    (DNS rebinding). An address is nobody's name; with TLS the browser finds the name wrong, and a password it has not.
    """
    if policy.encrypts or policy.asks or _is_own(request.headers.get("host", "")):
        return None
    return sentence(HTTPStatus.MISDIRECTED_REQUEST, MISDIRECTED)


def _is_own(host: str) -> bool:
    """Whether it is no name, or a name that only this host gives itself."""
    parts = HOST.fullmatch(host.lower())
    if parts is None:
        return False
    if parts["six"]:
        return _is_address(socket.AF_INET6, parts["six"])
    name = parts["name"].removesuffix(".")
    return name in {"", "localhost", socket.gethostname().lower()} or _is_address(socket.AF_INET, name)


def _is_address(family: int, text: str) -> bool:
    try:
        return bool(socket.inet_pton(family, text))
    except OSError:
        return False
