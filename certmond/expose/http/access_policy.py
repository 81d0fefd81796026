"""The interface of access control, and the implementation that admits every client in plain text.

`access_control` implements the interface from a web configuration. certmond imports it only if such a configuration
exists. Without authentication, a request on loopback must be for a name of this host. Imports the standard library
only, without ssl.
"""

from __future__ import annotations

import re
import socket
from http import HTTPStatus
from typing import Protocol

from certmond.expose.http.routes import Answer, Request, sentence

HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]*))(?::[0-9]*)?")  # RFC 3986, 3.2.2 and 3.2.3
MISDIRECTED = (
    "the request is for another host: without TLS and passwords, loopback accepts an address, localhost and the name "
    "of this host; a proxy before `certmond serve` must send one of these as Host (docs/web.md)"
)


class Policy(Protocol):
    """The immutable rules that admit clients. After a change, the server ends the connections with the old rules."""

    encrypts: bool
    asks: bool  # clients must authenticate

    def wrap(self, connection: socket.socket) -> socket.socket:
        """Return the plain or encrypted connection that replaces `connection`. Exchange no bytes."""

    def greet(self, connection: socket.socket) -> bool:
        """Do the handshake, and return whether the client is admitted. Raises OSError if it fails."""

    def refusal(self, request: Request, origin: str) -> Answer | None:
        """Return the answer that refuses the request, or None. `origin` is the address to which the limits apply."""

    def dress(self, answer: Answer) -> Answer:
        """Return the answer with the headers of the policy."""

    def part(self, connection: socket.socket) -> None:
        """Close the connection for writing."""


class Gate(Protocol):
    @property
    def latest(self) -> Policy:
        """Return the policy that was in force at the last call of `policy`. Read no file."""

    def policy(self) -> Policy:
        """Return the policy in force now. It reads files, so the loop that accepts connections must not call it."""

    def metrics(self) -> bytes:
        """Return the metrics of the access control, in the text format of Prometheus."""


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
        """Do nothing, because only TLS has a closing handshake."""


class OpenGate:
    def __init__(self) -> None:
        self.latest = OpenPolicy()

    def policy(self) -> OpenPolicy:
        return self.latest

    def metrics(self) -> bytes:
        return b""


def misdirected(request: Request, policy: Policy) -> Answer | None:
    """Return the answer that refuses a request for another host on loopback (RFC 9110, 15.5.20), or None.

    The owner of a web site can resolve the name of the site to the loopback address (DNS rebinding). Then a page of the
    site can read certmond's answer. An address as Host is safe. With TLS, the name of the site does not match the
    certificate. With passwords, the browser has no password for the name of the site.
    """
    if policy.encrypts or policy.asks or _is_own(request.headers.get("host", "")):
        return None
    return sentence(HTTPStatus.MISDIRECTED_REQUEST, MISDIRECTED)


def _is_own(host: str) -> bool:
    """Return whether `host` is an address, or a name that only this host uses."""
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
