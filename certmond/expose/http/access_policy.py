"""Interface of access control, and an implementation that admits every client without TLS.

`access_control` implements the interface from a web configuration. certmond imports that module only if a web
configuration exists. Without TLS and passwords, a request on loopback must name this host. This module imports the
standard library only, without the module ssl.
"""

from __future__ import annotations

import re
import socket
from http import HTTPStatus
from typing import Protocol

from certmond.expose.http.routes import Answer, Request, sentence

HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]*))(?::[0-9]*)?")  # RFC 3986, 3.2.2 and 3.2.3
MISDIRECTED = (
    "the request is for another host: on loopback without TLS and passwords, certmond accepts only an IP address, "
    "localhost or the name of this host; configure a proxy to send one of these as Host (docs/web.md)"
)


class Policy(Protocol):
    """Immutable rules that admit clients. After a change, the server ends the connections that have old rules."""

    encrypts: bool
    asks: bool  # clients must authenticate

    def wrap(self, connection: socket.socket) -> socket.socket:
        """Return the plain or encrypted connection that replaces `connection`. Send and receive no bytes."""

    def greet(self, connection: socket.socket) -> bool:
        """Make the TLS handshake, if any. Return whether the client is admitted. Raises OSError if it fails."""

    def refusal(self, request: Request, origin: str) -> Answer | None:
        """Return the answer that refuses the request, or None to admit it. Limits apply to the address `origin`."""

    def dress(self, answer: Answer) -> Answer:
        """Return the answer with the additional HTTP headers of the policy."""

    def part(self, connection: socket.socket) -> None:
        """Close the connection for writing."""


class Gate(Protocol):
    @property
    def latest(self) -> Policy:
        """Return the result of the last call of `policy`. Read no file."""

    def policy(self) -> Policy:
        """Return the policy in force now. The loop that accepts connections must not call it: it may read files."""

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
    """Return the answer that refuses a loopback request for another host (RFC 9110, 15.5.20), or None to admit it.

    This check prevents DNS rebinding: an attacker resolves the name of a web site to the loopback address, so that a
    page of the site can read certmond's answer. The check is not necessary with TLS, because the name does not match
    the certificate, or with passwords, because the browser has no password for this name.
    """
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
