"""TLS handshakes with endpoints, to receive the certificates that the servers present.

certmond verifies no certificate, and sends no data after the handshake. If a TLS 1.2 server requires a client
certificate, the handshake fails, and certmond parses the server's Certificate message from the received bytes.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from certmond.pki.catalog.endpoint import Endpoint, Seen, Served, Unserved

LIMIT = 1.0
"""Time limit in seconds for a handshake with a server on this node or in its network."""
_MOST = 1 << 18  # maximum number of bytes from a server; OpenSSL accepts no chain longer than 100 KiB
_PIECE = 1 << 14
_CIPHERS = "DEFAULT"  # the default of OpenSSL, with RSA key exchange; the default of Python contains fewer ciphers
_ALERT, _HANDSHAKE = 21, 22  # RFC 5246, 6.2.1
_CERTIFICATE = 11  # RFC 5246, 7.4
_AROUND = re.compile(r"^\[[^]]*\] | \(_ssl\.c:[0-9]+\)$")  # the parts that Python adds to OpenSSL's message


class ClientPair(NamedTuple):
    """The paths of the PEM files of a client certificate and its key."""

    certificate: str
    key: str


Pairs = Mapping[Endpoint, ClientPair]


async def served_certificates(
    endpoints: Collection[Endpoint], at: datetime, pairs: Pairs | None = None, limit: float = LIMIT
) -> dict[Endpoint, Seen]:
    """Return the certificate that each endpoint serves at `at`, or the reason for which certmond received none.

    certmond presents the client certificate that `pairs` contains for an endpoint. All handshakes end within `limit`
    seconds.
    """
    deadline = asyncio.get_running_loop().time() + limit
    handshakes = (_handshake_result(endpoint, at, (pairs or {}).get(endpoint), deadline) for endpoint in endpoints)
    # A failure of one endpoint does not affect the others.
    results = await asyncio.gather(*handshakes, return_exceptions=True)
    return {
        endpoint: Unserved(_reason(found, b""), at) if isinstance(found, BaseException) else found
        for endpoint, found in zip(endpoints, results, strict=True)
    }


async def _handshake_result(endpoint: Endpoint, at: datetime, pair: ClientPair | None, deadline: float) -> Seen:
    incoming, outgoing, received = ssl.MemoryBIO(), ssl.MemoryBIO(), bytearray()
    tls = _context(pair).wrap_bio(incoming, outgoing, server_hostname=endpoint.server_name)
    reason, speaks_tls, refused = "it presented no certificate", False, False
    try:
        async with asyncio.timeout_at(deadline):
            with socket.socket(socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET) as connection:
                connection.setblocking(False)
                await asyncio.get_running_loop().sock_connect(connection, (endpoint.address, endpoint.port))
                await _complete_handshake(connection, tls, incoming, outgoing, received)
        leaf = tls.getpeercert(binary_form=True)
    except OSError as error:  # an ssl.SSLError, a TimeoutError, or a network error
        leaf, reason = leaf_in_clear(received), _reason(error, received)
        refused = isinstance(error, ConnectionRefusedError)
        speaks_tls = bool(received) and received[0] in {_ALERT, _HANDSHAKE} and not isinstance(error, TimeoutError)
    return Served(leaf, tls.version() or "TLSv1.2", at) if leaf else Unserved(reason, at, speaks_tls, refused)


async def _complete_handshake(
    connection: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, received: bytearray
) -> None:
    """Complete the handshake. Append the received bytes to `received`, even if the handshake fails."""
    loop = asyncio.get_running_loop()
    while not _advance(tls):
        await loop.sock_sendall(connection, outgoing.read())
        piece = await loop.sock_recv(connection, _PIECE)
        received += piece
        if (
            len(received) > _MOST
        ):  # the time limit does not stop a fast sender: this loop does not yield while data is available
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the server sent more than a handshake")
        if piece:
            incoming.write(piece)
        else:
            incoming.write_eof()
    with suppress(OSError):  # the certificate has arrived, even if the server has closed the connection
        await loop.sock_sendall(connection, outgoing.read())


def _context(pair: ClientPair | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    if pair:
        with suppress(OSError, ValueError):
            context.load_cert_chain(*pair, password=lambda: "")  # otherwise OpenSSL prompts
    return context


def _advance(tls: ssl.SSLObject) -> bool:
    """Advance the handshake with the received bytes. Return whether the handshake is complete."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def leaf_in_clear(received: bytes | bytearray) -> bytes | None:
    """Return the leaf from the first bytes that a TLS 1.2 server sent, or None if the certificate is incomplete."""
    messages, offset = bytearray(), 0
    while offset < len(received) and received[offset] == _HANDSHAKE:  # record: type, version, length (RFC 5246, 6.2.1)
        start = offset + 5
        offset = start + int.from_bytes(received[offset + 3 : start])
        messages += received[start:offset]
    offset = 0
    while offset < len(messages) and messages[offset] != _CERTIFICATE:  # message: type, length (7.4)
        offset += 4 + int.from_bytes(messages[offset + 1 : offset + 4])
    message = messages[offset + 4 : offset + 4 + int.from_bytes(messages[offset + 1 : offset + 4])]
    length = int.from_bytes(message[3:6])  # the length of the first certificate follows the length of the list (7.4.2)
    leaf = bytes(message[6 : 6 + length])
    return leaf if leaf and len(leaf) == length else None


def _reason(error: BaseException, received: bytes | bytearray) -> str:
    match error:
        case _ if received and received[0] not in {_ALERT, _HANDSHAKE}:
            return "the server does not speak TLS"
        case TimeoutError():
            return "the handshake did not end in time" if received else "the server did not answer in time"
        case ConnectionRefusedError():
            return "the connection was refused"
        case ConnectionResetError() | BrokenPipeError():
            return "the connection was reset"
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():  # older versions of Python raise SSLZeroReturnError
            return "the server closed the connection before the end of the handshake"
        case ssl.SSLError(strerror=str(text)):
            return f"the handshake failed ({_AROUND.sub('', text)})"
        case OSError(errno=int(number)):
            return f"the connection failed ({os.strerror(number)})"
        case _:
            return f"the handshake failed ({type(error).__name__}: {error})"
