"""Clients of a TLS server that shake hands as fast as they can, each in a process of its own.

Owns what counts as a handshake: a new connection, TLS 1.3, nothing resumed, the server verified with its name, and an
answer over it. The answer is part of it, for with TLS 1.3 a client is done before the server has verified it.
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
"""Seconds after which a server that says nothing counts as a failure."""


class Credentials(NamedTuple):
    """What a client trusts, and who it is."""

    ca: Path
    certificate: Path
    key: Path


@dataclass
class Tally:
    """What became of the handshakes: how many were answered, how the others failed, and the SHA-256 of each leaf."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    leaves: set[str] = field(default_factory=set)

    def attempt(self, port: int, context: ssl.SSLContext) -> None:
        """One more handshake."""
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
    """Of a client that insists on TLS 1.3."""
    context = ssl.create_default_context(cafile=credentials.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(credentials.certificate, credentials.key)
    return context


def handshake(port: int, context: ssl.SSLContext) -> str:
    """The SHA-256 of the leaf of the server that answered. Raises OSError, of which ssl.SSLError is one."""
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
    """Handshakes without a pause, in `count` processes, until the end of the `with`; only then the tally is filled.

    The body begins when each of them has been answered once.
    """
    spawn = multiprocessing.get_context("spawn")
    tally, pipes = Tally(), list[Connection]()
    processes = []
    try:
        for _ in range(count):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_shake, args=(theirs, port, credentials), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
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
            pipe.close()  # who still waits for its end sees it
        for process in processes:
            process.join()


def _shake(parent: Connection, port: int, credentials: Credentials) -> None:
    """Say when the first handshake was answered; go on until something comes; send the tally."""
    context = client_context(credentials)
    tally = Tally()
    tally.leaves.add(handshake(port, context))
    tally.answered += 1
    parent.send(None)
    while not parent.poll():
        tally.attempt(port, context)
    parent.send(tally)
