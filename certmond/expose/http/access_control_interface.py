"""Interface of access control, and an implementation that does not use TLS and admits every client.

The module `access_control` implements the interface with the rules of a web configuration.
"""

from __future__ import annotations

import re
import socket
from http import HTTPStatus
from typing import Protocol

from certmond.expose.http.routes import Answer, Request, sentence

HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]*))(?::[0-9]*)?")  # RFC 3986, 3.2.2 and 3.2.3
MISDIRECTED = (
    "the request is for another host: on loopback without TLS and passwords, `certmond serve` accepts only an IP "
    "address, localhost or the name of this host; configure the proxy to send one of these names as Host (docs/web.md)"
)


class Policy(Protocol):
    """Immutable rules for the admission of clients.

    If new rules come into force, the server ends the connections that have the old rules.
    """

    encrypts: bool
    asks: bool  # clients must authenticate

    def wrap(self, connection: socket.socket) -> socket.socket:
        """Return the plain or encrypted connection that replaces `connection`. This method transfers no bytes."""

    def greet(self, connection: socket.socket) -> bool:
        """Make the TLS handshake, if the connection uses TLS. Return whether the policy admits the client.

        Raises OSError if the handshake fails.
        """

    def refusal(self, request: Request, origin: str) -> Answer | None:
        """Return the answer that refuses the request, or None to admit the request.

        `origin` is the address of the client, for limits on each address.
        """

    def dress(self, answer: Answer) -> Answer:
        """Return the answer with the additional HTTP headers of the policy."""

    def part(self, connection: socket.socket) -> None:
        """Make the closing handshake of TLS, if the connection uses TLS."""


class Gate(Protocol):
    @property
    def latest(self) -> Policy:
        """The result of the last call of `policy`. This property reads no file."""

    def policy(self) -> Policy:
        """Return the policy in force now.

        This method reads files, so the loop that accepts connections must not call this method.
        """

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
        """Do nothing, because a plain connection has no closing handshake."""


class OpenGate:
    def __init__(self) -> None:
        self.latest = OpenPolicy()

    def policy(self) -> OpenPolicy:
        return self.latest

    def metrics(self) -> bytes:
        return b""


def misdirected(request: Request, policy: Policy) -> Answer | None:
    """Return the answer that refuses a request for another host (RFC 9110, 15.5.20).

    Return None if the Host header contains an IP address or a name of this host, or if the policy requires TLS or
    authentication. This check prevents DNS rebinding, in which the name of an attacker's website resolves to the
    loopback address.
    """
    # With TLS, the certificate does not match the name of the website. With passwords, the browser stores no password
    # for this name.
    if policy.encrypts or policy.asks or _is_own(request.headers.get("host", "")):
        return None
    return sentence(HTTPStatus.MISDIRECTED_REQUEST, MISDIRECTED)


def _is_own(host: str) -> bool:
    """Return whether the Host header `host` is empty, an IP address, localhost or the name of this host."""
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
