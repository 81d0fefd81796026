"""Clients of a TLS server. Each client is a separate process that makes handshakes without a pause.

A handshake consists of a new connection with TLS 1.3, without session resumption, with a verified server name, and of a
response. The response is necessary: with TLS 1.3, the handshake of a client ends before the server has verified the
client certificate.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

ADDRESS = "127.0.0.1"
PATIENCE = 10.0
"""Seconds after which a server without a response counts as a failure."""


class Credentials(NamedTuple):
    """The CA, the certificate and the key of a client."""

    ca: Path
    certificate: Path
    key: Path


@dataclass
class Tally:
    """The results of handshakes: the number of responses, the failures, and the SHA-256 of each leaf."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    leaves: set[str] = field(default_factory=set)

    def attempt(self, port: int, context: ssl.SSLContext) -> None:
        """Make one handshake, and count its result."""
        try:
            self.leaves.add(handshake(port, context))
            self.answered += 1
        except ssl.SSLError as error:
            self.failed[error.reason or type(error).__name__] += 1
        except OSError as error:
            self.failed[type(error).__name__] += 1

    def add(self, other: Tally) -> None:
        self.answered += other.answered
        self.failed += other.failed
        self.leaves |= other.leaves


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """Return the TLS context of a client that requires TLS 1.3."""
    context = ssl.create_default_context(cafile=credentials.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(credentials.certificate, credentials.key)
    return context


def handshake(port: int, context: ssl.SSLContext) -> str:
    """Make a handshake, and return the SHA-256 of the leaf of the server. Raises OSError, such as ssl.SSLError."""
    with (
        socket.create_connection((ADDRESS, port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=ADDRESS) as connection,
    ):
        leaf = connection.getpeercert(binary_form=True) or b""
        connection.sendall(b"GET /version HTTP/1.0\r\n\r\n")
        if not connection.recv(64).startswith(b"HTTP/1.0 200"):
            raise ConnectionError("the server did not answer the request; see its log")
        return hashlib.sha256(leaf).hexdigest()


@contextmanager
def clients(port: int, credentials: Credentials, count: int = 2) -> Iterator[Tally]:
    """Make handshakes in `count` processes until the end of the `with` block. The tally is complete after the block.

    The block starts after each process has received its first response.
    """
    spawn = multiprocessing.get_context("spawn")
    tally, pipes = Tally(), list[Connection]()
    processes = []
    try:
        for _ in range(count):
            receiver, sender = spawn.Pipe()
            process = spawn.Process(target=_shake, args=(sender, port, credentials), daemon=True)
            process.start()
            sender.close()
            pipes.append(receiver)
            processes.append(process)
        for pipe in pipes:
            pipe.recv()
        yield tally
        for pipe in pipes:
            pipe.send(None)
        for pipe in pipes:
            tally.add(pipe.recv())
    finally:
        for pipe in pipes:
            pipe.close()  # a process that waits for the pipe reads the end of the file
        for process in processes:
            process.join()


def _shake(parent: Connection, port: int, credentials: Credentials) -> None:
    """Report the first response, make further handshakes until a message arrives, and then send the tally."""
    context = client_context(credentials)
    tally = Tally()
    tally.leaves.add(handshake(port, context))
    tally.answered += 1
    parent.send(None)
    while not parent.poll():
        tally.attempt(port, context)
    parent.send(tally)
