"""What is served at this moment: a TLS handshake with each endpoint, and the certificate that its server presents.

Owns the connection, from its first packet to the leaf's DER. A server is looked at, not trusted:
nothing is verified, every cipher that OpenSSL has by default will do, and nothing is sent after the handshake. Opens no
key, unless it is given the files of a client certificate. Judges nothing: that nobody answers is a value, too.

*asyncio*: every endpoint has the whole second at the same time, however many there are, where
in a pool the ninth would wait for the first eight. Within it, a handshake reads as the sequence that it is.

*A server that demands a client certificate* presents its own before. In TLS 1.3 the handshake has even ended for the
client when the server refuses. In TLS 1.2 it fails, and `ssl` hands out no certificate of a handshake that failed; but
there the server's Certificate message is clear text, and is read from what was received. So no key of the node is
needed: a client certificate spares the server a line in its log, and one that cannot be used is left out.
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
"""Seconds, from the first packet to the certificate: whoever serves is on this node, or near it."""
_MOST = 1 << 18  # bytes that are taken from a server; OpenSSL takes no chain of more than 100 KiB
_PIECE = 1 << 14
_CIPHERS = "DEFAULT"  # OpenSSL's own, with RSA key exchange, where Python's are fewer
_ALERT, _HANDSHAKE = 21, 22  # RFC 5246, 6.2.1
_CERTIFICATE = 11  # RFC 5246, 7.4
_AROUND = re.compile(r"^\[[^]]*\] | \(_ssl\.c:[0-9]+\)$")  # what Python writes around OpenSSL's words


class ClientPair(NamedTuple):
    """The PEM files of a client certificate and its key. They are read when they are used, and not kept."""

    certificate: str
    key: str


Pairs = Mapping[Endpoint, ClientPair]


async def ask(
    endpoints: Collection[Endpoint], at: datetime, pairs: Pairs | None = None, limit: float = LIMIT
) -> dict[Endpoint, Seen]:
    """What each of the endpoints serves, seen within `limit` seconds for all of them. `at` is the caller's time."""
    deadline = asyncio.get_running_loop().time() + limit
    looks = (_look(endpoint, at, (pairs or {}).get(endpoint), deadline) for endpoint in endpoints)
    # What one of them meets is nothing to the others.
    seen = await asyncio.gather(*looks, return_exceptions=True)
    return {
        endpoint: Unserved(_reason(found, b""), at) if isinstance(found, BaseException) else found
        for endpoint, found in zip(endpoints, seen, strict=True)
    }


async def _look(endpoint: Endpoint, at: datetime, pair: ClientPair | None, deadline: float) -> Seen:
    incoming, outgoing, received = ssl.MemoryBIO(), ssl.MemoryBIO(), bytearray()
    tls = _context(pair).wrap_bio(incoming, outgoing, server_hostname=endpoint.server_name)
    reason, spoke = "it presented no certificate", False
    try:
        async with asyncio.timeout_at(deadline):
            with socket.socket(socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET) as connection:
                connection.setblocking(False)
                await asyncio.get_running_loop().sock_connect(connection, (endpoint.address, endpoint.port))
                await _shake_hands(connection, tls, incoming, outgoing, received)
        leaf = tls.getpeercert(binary_form=True)
    except OSError as error:  # an ssl.SSLError, a TimeoutError, or the network's
        leaf, reason = leaf_in_clear(received), _reason(error, received)
        spoke = bool(received) and received[0] in {_ALERT, _HANDSHAKE} and not isinstance(error, TimeoutError)
    return Served(leaf, tls.version() or "TLSv1.2", at) if leaf else Unserved(reason, at, spoke)


async def _shake_hands(
    connection: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, received: bytearray
) -> None:
    """To the end of the handshake. What was received is in `received`, also where that end is not reached."""
    loop = asyncio.get_running_loop()
    while not _complete(tls):
        await loop.sock_sendall(connection, outgoing.read())
        piece = await loop.sock_recv(connection, _PIECE)
        received += piece
        if len(received) > _MOST:  # nothing else stops a fast sender: the loop is not waited for while there is more
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "more than a handshake was sent")
        if piece:
            incoming.write(piece)
        else:
            incoming.write_eof()
    with suppress(OSError):  # the certificate is here; a server that has gone has still served it
        await loop.sock_sendall(connection, outgoing.read())


def _context(pair: ClientPair | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    if pair:
        with suppress(OSError, ValueError):
            context.load_cert_chain(*pair, password=lambda: "")  # without one, OpenSSL would ask at the terminal
    return context


def _complete(tls: ssl.SSLObject) -> bool:
    """Take the handshake as far as what was received allows; whether that is to its end."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def leaf_in_clear(received: bytes | bytearray) -> bytes | None:
    """The server's own certificate in what a TLS 1.2 server sent, as soon as it is there."""
    messages, place = bytearray(), 0
    while place < len(received) and received[place] == _HANDSHAKE:  # a record: type, version, length (RFC 5246, 6.2.1)
        start = place + 5
        place = start + int.from_bytes(received[place + 3 : start])
        messages += received[start:place]
    place = 0
    while place < len(messages) and messages[place] != _CERTIFICATE:  # a message: type, length (7.4)
        place += 4 + int.from_bytes(messages[place + 1 : place + 4])
    message = messages[place + 4 : place + 4 + int.from_bytes(messages[place + 1 : place + 4])]
    length = int.from_bytes(message[3:6])  # after that of the list, that of its first (7.4.2)
    leaf = bytes(message[6 : 6 + length])
    return leaf if leaf and len(leaf) == length else None


def _reason(error: BaseException, received: bytes | bytearray) -> str:
    match error:
        case _ if received and received[0] not in {_ALERT, _HANDSHAKE}:
            return "it does not speak TLS"
        case TimeoutError():
            return "the handshake did not end in time" if received else "it did not answer in time"
        case ConnectionRefusedError():
            return "the connection was refused"
        case ConnectionResetError() | BrokenPipeError():
            return "the connection was reset"
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():  # the latter is older Pythons' word for it
            return "it closed the connection before the handshake had ended"
        case ssl.SSLError(strerror=str(text)):
            return f"the handshake failed ({_AROUND.sub('', text)})"
        case OSError(errno=int(number)):
            return f"the connection failed ({os.strerror(number)})"
        case _:
            return f"the look at it failed ({type(error).__name__}: {error})"
