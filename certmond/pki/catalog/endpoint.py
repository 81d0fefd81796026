"""Endpoint of a service, and the certificate that a server presents at the endpoint.

This module defines the text form of an endpoint: `192.0.2.10:6443`, `[2001:db8::1]:2379`, or
`api.example.com@192.0.2.10:6443` with a server name (SNI).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import field
from datetime import datetime
from ipaddress import ip_address

from certmond.errors import MalformedError
from certmond.immutable_class import immutable

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_TEXT = re.compile(r"(?:([^@]+)@)?(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})")


@immutable
class Endpoint:
    """Address and port of a server, with an optional server name (SNI).

    Two notations of the same endpoint are equal. Raises MalformedError for an invalid address, port or server name (RFC
    6066, section 3).
    """

    address: str
    port: int
    server_name: str | None = None

    def __post_init__(self) -> None:
        name = self.server_name and self.server_name.lower().removesuffix(".")
        object.__setattr__(self, "address", _canonical(self.address))
        object.__setattr__(self, "server_name", name)
        if not 0 < self.port < 1 << 16:
            raise MalformedError(f"{self.port} is not a port")
        if name is not None and (not _NAME.fullmatch(name) or name.rpartition(".")[2].isdigit()):
            raise MalformedError(f"{name!r} is not a DNS name")

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Return the endpoint with the text form `text`. Raises MalformedError if `text` has another form."""
        match = _TEXT.fullmatch(text)
        if not match:
            raise MalformedError(f"{text!r} is not an endpoint such as 192.0.2.10:6443 or [2001:db8::1]:6443")
        name, bracketed, plain, port = match.groups()
        return cls(bracketed or plain, int(port), name)

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.server_name}@{host}:{self.port}" if self.server_name else f"{host}:{self.port}"


@immutable
class Served:
    """Certificate that a server presented, in DER form. certmond has not validated the certificate."""

    der: bytes = field(repr=False)
    version: str
    at: datetime

    @property
    def sha256(self) -> str:
        """The SHA-256 digest of the certificate, in hexadecimal."""
        return hashlib.sha256(self.der).hexdigest()


@immutable
class Unserved:
    """Result of a probe of a server that presented no certificate. `reason` is the cause.

    `spoke_tls` is True if the server accepted the connection, but ended the TLS handshake. `refused` is True if no
    server listens at the endpoint.
    """

    reason: str
    at: datetime
    spoke_tls: bool = False
    refused: bool = False


Seen = Served | Unserved


def _canonical(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        raise MalformedError(f"{text!r} is not an IP address") from None
    if address.is_unspecified or "%" in text:
        raise MalformedError(f"{text} is not the address of a server")
    return address.compressed
