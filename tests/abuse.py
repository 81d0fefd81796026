"""Clients that abuse the listener, each in its own thread, until they are stopped.

The HTTP statuses of the answers are stored by the kind of abuse. 0 represents a connection without an answer.
"""

from __future__ import annotations

import base64
import resource
import select
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle

from tests.http_server import hear
from tests.web_config_files import PAIR, USERS, WebFiles, server_pair

ORIGINS = ("127.0.0.1", "127.0.0.2")
"""The addresses of the clients: the address of the listener, and another one."""
CROWD = 24
"""Slow connections of one client; two clients of each kind need more than the available slots."""
NOISE = (b"\0" * 100_000, b"\x16\x03\x01\xff\xff" + b"\1" * 70_000, b"\x15\x03\x01\0\2\2\x28", b"SSH-2.0-x\r\n" * 9000)
CONFIGURATIONS = (
    PAIR + USERS,
    PAIR + USERS + "  bob: {hash}\n",
    PAIR + USERS + "colour: red\n",
    "tls_server_config: [",
)
"""The successive web configurations: valid, with another user, with a mistake, and no YAML."""


class Abuse:
    def __init__(self, web_files: WebFiles, port: int) -> None:
        self.web_files, self.address = web_files, ("127.0.0.1", port)
        self.context = web_files.client()
        self.answers: dict[str, list[int]] = defaultdict(list)
        self.stop = threading.Event()
        self.most_open = 0

    @contextmanager
    def under_way(self, connections: int) -> Iterator[None]:
        """Run all kinds of abuse at once; `connections` is the number of silent ones."""
        kinds = (self.slow_handshakes, self.slow_requests, self.huge_head, self.noise, self.plain, self.wrong_password)
        with ThreadPoolExecutor(len(kinds) * len(ORIGINS) + 2) as pool:
            begun = [pool.submit(self.again_and_again, kind, origin) for kind in kinds for origin in ORIGINS]
            begun += [pool.submit(self.silence, connections), pool.submit(self.rewrite)]
            try:
                yield
            finally:
                self.stop.set()
            for each in begun:
                each.result()

    def again_and_again(self, kind: Callable[[str], bytes], origin: str) -> None:
        while not self.stop.is_set():
            answer = b""
            with suppress(OSError):
                answer = kind(origin)
            self.answers[kind.__name__].append(int(answer[9:12] or 0))

    def connect(self, origin: str) -> socket.socket:
        return socket.create_connection(self.address, timeout=10, source_address=(origin, 0))

    def connect_tls(self, origin: str) -> ssl.SSLSocket:
        return self.context.wrap_socket(self.connect(origin), server_hostname="localhost")

    def fetch(self, origin: str, path: str, password: str, more: str = "") -> bytes:
        """Return the whole answer, or raise OSError without one."""
        token = base64.b64encode(f"alice:{password}".encode()).decode()
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {token}\r\n{more}"
        with self.connect_tls(origin) as client:
            client.sendall(f"{request}Connection: close\r\n\r\n".encode())
            return hear(client)

    def silence(self, connections: int) -> None:
        """Hold this number of silent connections open, and replace each that the server closes."""
        held: dict[int, socket.socket] = {}
        ended, origins = select.epoll(), cycle(ORIGINS)
        with ended:
            while not self.stop.is_set():
                for number, _ in ended.poll(0):
                    held.pop(number).close()
                for _ in range(connections - len(held)):
                    client = socket.socket()
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # leaves no TIME_WAIT
                    client.setblocking(False)
                    held[client.fileno()] = client
                    with suppress(OSError):  # no port is free for a moment
                        client.bind((next(origins), 0))
                        client.connect_ex(self.address)
                    ended.register(client, select.EPOLLRDHUP)
                self.most_open = max(self.most_open, len(held))
                self.answers["silence"].append(0)
                self.stop.wait(0.01)
        for client in held.values():
            client.close()

    def slow_handshakes(self, origin: str) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with suppress(ssl.SSLWantReadError):
            self.context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
        return self._drip([self.connect] * CROWD, origin, outgoing.read()[:-1])

    def slow_requests(self, origin: str) -> bytes:
        return self._drip([self.connect_tls] * CROWD, origin, b"GET /metrics HTTP/1.1\r\nX-Slow: " + b"z" * 16_000)

    def _drip(self, connects: Sequence[Callable[[str], socket.socket]], origin: str, text: bytes) -> bytes:
        """Byte by byte on all of them, until the last one is cut."""
        with ExitStack() as stack:
            clients = []
            for connect in connects:
                with suppress(OSError):
                    clients.append(stack.enter_context(connect(origin)))
            for number in range(len(text)):
                for client in tuple(clients):
                    try:
                        client.sendall(text[number : number + 1])
                    except OSError:
                        clients.remove(client)
                if not clients or self.stop.wait(0.05):
                    break
        return b""

    def huge_head(self, origin: str) -> bytes:
        return self.fetch(origin, "/metrics", "secret", f"A: {'x' * 20_000}\r\n")

    def noise(self, origin: str) -> bytes:
        for noise in NOISE:
            with suppress(OSError), self.connect(origin) as client:
                client.sendall(noise)
                client.shutdown(socket.SHUT_WR)
                hear(client)
        return b""

    def plain(self, origin: str) -> bytes:
        with self.connect(origin) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return hear(client)

    def wrong_password(self, origin: str) -> bytes:
        return self.fetch(origin, "/metrics", "wrong")

    def rewrite(self) -> None:
        """The web configuration and the certificate change all the while, and are wrong half of the time."""
        for text in cycle(CONFIGURATIONS):
            self.web_files.write(text.format(hash=USERS.split()[-1]))
            self.web_files.put_pair(server_pair(self.web_files.ca))
            self.answers["rewrite"].append(0)
            if self.stop.wait(0.05):
                break


@contextmanager
def descriptors(wanted: int) -> Iterator[int]:
    """Set the limit of descriptors to `count`, or to the maximum of this process, for the block."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = min(max(wanted, before), most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    try:
        yield allowed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
