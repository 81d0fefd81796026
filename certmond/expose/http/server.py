"""HTTP server of `certmond serve`, which serves the files that the daemon writes into the runtime directory.

The module `routes` creates the answers. The modules `access_control_interface` and `access_control` decide which
clients have access. The server reads no key of the node. The only external library that the server imports is
`systemd`.
"""

import errno
import io
import logging
import os
import re
import selectors
import signal
import socket
import threading
import time
from contextlib import nullcontext, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Self

from certmond.errors import ListenError
from certmond.expose.http.access_control_interface import Gate, OpenGate, Policy, misdirected
from certmond.expose.http.connection_limits import Slots, origin_of
from certmond.expose.http.routes import CHUNK_BYTES, HEAD_BYTES, Answer, Site, read_request, sentence

log = logging.getLogger(__name__)

AT_ONCE = 64  # connections to accept before the next check of the deadlines
BACKLOG = 1024  # connections that wait in the kernel; if more clients connect, some of them retry after a second
DEFER_SECONDS = 1  # the kernel delays a connection for this time, until its client sends data
STOP_SECONDS = 0.8  # time for answers in progress after a request to stop
LISTEN = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<four>[0-9.]+|localhost)):(?P<port>[0-9]{1,5})")
EXPOSED = (
    "listening on %s without TLS or without authentication: other hosts can read the names, paths and expiry of the "
    "certificates; configure both with --web-config FILE (docs/web.md), or block other hosts with a firewall"
)
REMEDIES = {
    errno.EADDRINUSE: "another process uses this port: find it with `ss -ltnp`, or choose another port with --listen",
    errno.EADDRNOTAVAIL: "choose an address that `ip address` shows on this host",
    errno.EACCES: "a port below 1024 needs a privilege that this process does not have: choose a higher port",
    errno.EPERM: "the systemd unit allows only its default port: add a drop-in with SocketBindAllow= for this port",
}


class Server:
    """HTTP server with a loop that accepts connections and checks deadlines, and a thread for each connection."""

    patience = 10.0  # seconds for the handshake, for a complete request, and for each chunk of the answer

    def __init__(self, runtime_dir: Path, listeners: list[socket.socket], gate: Gate | None = None) -> None:
        self.listeners, self.gate = listeners, gate or OpenGate()
        self.site = Site(runtime_dir, self.gate.metrics)
        for listener in listeners:
            listener.setblocking(False)
            if listener.family != socket.AF_UNIX:
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFER_SECONDS)
        self.slots = Slots()
        self._stopping = False
        self._woken, self._waker = socket.socketpair()
        self._ping_every = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6  # half of systemd's limit
        self._ping_at = 0.0

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listeners[0].getsockname()[:2]
        return host, port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self.listeners, self._woken, self._waker):
            each.close()

    def stop(self) -> None:
        """Request the end of `serve_forever`. A signal handler can call this method."""
        self._stopping = True
        with suppress(OSError):
            self._waker.send(b"\0")

    def serve_forever(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            for listener in self.listeners:
                selector.register(listener, selectors.EVENT_READ, listener)
            notify("READY=1")
            while not self._stopping:
                pause = self._service_actions()
                for key, _ in selector.select(pause):
                    for _ in range(AT_ONCE if key.data else 0):
                        if not self._accept(key.data):
                            break
        notify("STOPPING=1")
        for listener in self.listeners:
            listener.close()
        self.slots.shut_down(socket.SHUT_RD)  # end connections that wait for a request; answers in progress continue
        with self.slots.changed:
            self.slots.changed.wait_for(lambda: not self.slots.taken, STOP_SECONDS)
        self.slots.shut_down(socket.SHUT_RDWR)

    def _service_actions(self) -> float | None:
        """Notify systemd, shut down overdue connections, and return the seconds until the next call.

        Return None if no further call is necessary.
        """
        now = time.monotonic()
        if self._ping_every and now >= self._ping_at:
            notify("WATCHDOG=1")
            self._ping_at = now + self._ping_every
        self.slots.shut_down(socket.SHUT_RDWR, overdue_at=now)
        pauses = [self._ping_at - now] if self._ping_every else []
        return min(pauses + ([min(1.0, self.patience)] if self.slots.taken else []), default=None)

    def _accept(self, listener: socket.socket) -> bool:
        """Accept a waiting connection, and start a thread for the connection.

        Without a free slot or thread, refuse the accepted connection. Return False if the server cannot accept a
        connection now.
        """
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return False
        except OSError:  # the client disconnected, or no descriptor is free: pause, because the listener stays readable
            time.sleep(0.05)
            return False
        if self.slots.acquire(connection, self.patience):
            connection.setblocking(True)
            local = listener.family != socket.AF_UNIX and not is_open(listener)
            try:
                threading.Thread(target=self._converse, args=(connection, local), daemon=True).start()
            except RuntimeError:  # no thread is available
                self.slots.release(connection)
                self._turn_away(connection)
        else:
            self._turn_away(connection)
        return True

    def _turn_away(self, connection: socket.socket) -> None:
        answer = sentence(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open: try again later")
        with connection, suppress(OSError):
            connection.setblocking(False)
            if not self.gate.latest.encrypts:  # TLS would need a handshake, which would block this thread
                self._send(connection, answer, keep_alive=False)
            connection.shutdown(socket.SHUT_WR)

    def _converse(self, connection: socket.socket, local: bool) -> None:
        """Serve a connection until it ends. `local` is true for a listener on loopback."""
        try:
            origin, policy = origin_of(connection), self.gate.policy()
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self.slots.change(connection, policy.wrap)
            if policy.greet(connection):
                with connection.makefile("rb") as stream:
                    while self._exchange(connection, stream, policy, origin, local):
                        pass
            self.slots.extend(connection, min(1.0, self.patience))
            with suppress(OSError):
                policy.part(connection)
            socket.socket.shutdown(connection, socket.SHUT_WR)
            while socket.socket.recv(connection, HEAD_BYTES):
                pass  # to close the socket with unread bytes would reset the connection and lose the answer
        except OSError:
            pass  # the client disconnected, or the deadline of the connection passed
        except Exception:
            log.exception("certmond did not answer a request", extra={"kind": "request_failed"})
        finally:
            connection.close()
            self.slots.release(connection)

    def _exchange(
        self, connection: socket.socket, stream: io.BufferedIOBase, policy: Policy, origin: str, local: bool
    ) -> bool:
        """Read and answer one request. Return whether the connection stays open for another request."""
        self.slots.extend(connection, self.patience, waiting=True)
        request = read_request(stream)
        if request is None:
            return False
        if isinstance(request, HTTPStatus):
            self._send(connection, policy.dress(sentence(request, request.phrase)), keep_alive=False)
            return False
        self.slots.extend(connection, self.patience)
        latest = self.gate.policy()
        refusal = latest.refusal(request, origin) or (misdirected(request, latest) if local else None)
        answer = latest.dress(refusal or self.site.answer(request))
        keep_alive = request.keep_alive and latest is policy and not self._stopping
        self.slots.extend(connection, self.patience)
        self._send(connection, answer, keep_alive=keep_alive, whole=request.method != "HEAD")
        return keep_alive

    def _send(self, connection: socket.socket, answer: Answer, *, keep_alive: bool, whole: bool = True) -> None:
        size, body, tail = answer.size if whole else 0, answer.body, answer.tail if whole else b""
        plain = type(connection) is socket.socket  # SSLSocket accepts no flags, and sendfile bypasses encryption
        with nullcontext() if isinstance(body, bytes) else body:
            connection.sendall(answer.head(keep_alive=keep_alive), socket.MSG_MORE if size and plain else 0)
            own = size - len(tail)
            for offset in range(0, own, CHUNK_BYTES):
                end = min(own, offset + CHUNK_BYTES)
                if isinstance(body, bytes):
                    connection.sendall(memoryview(body)[offset:end])
                elif plain:
                    body.send(connection, offset, end)
                else:
                    body.feed(connection, offset, end)
                self.slots.extend(connection, self.patience)
            connection.sendall(tail)


def notify(state: str) -> None:
    """Send the notification `state` to systemd (sd_notify(3)), if systemd started this process."""
    if "NOTIFY_SOCKET" in os.environ:
        import systemd.daemon  # noqa: PLC0415  # optional outside systemd

        with suppress(OSError):  # systemd no longer listens: continue
            systemd.daemon.notify(state)


def inherited() -> list[socket.socket]:
    """Return the listening sockets that systemd passed, or [] if systemd passed no socket.

    Raises ListenError if systemd passed a socket that does not listen.
    """
    if "LISTEN_FDS" not in os.environ:
        return []
    import systemd.daemon  # noqa: PLC0415  # optional outside systemd

    descriptors = systemd.daemon.listen_fds()
    if not all(systemd.daemon.is_socket(each, type=socket.SOCK_STREAM, listening=1) for each in descriptors):
        raise ListenError(
            "systemd passed a socket that is not a listening stream socket: set ListenStream= and Accept=no in the "
            ".socket unit"
        )
    return [socket.socket(fileno=each) for each in descriptors]


def bind(listen: str) -> socket.socket:
    example = "write for example 127.0.0.1:9964 or [::1]:9964"
    parts = LISTEN.fullmatch(listen)
    if parts is None or int(parts["port"]) > 65535:
        raise ListenError(f"cannot listen on {listen!r}, which is not ADDRESS:PORT: {example}")
    address = (parts["six"] or parts["four"], int(parts["port"]))
    family = socket.AF_INET6 if parts["six"] else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        fact = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise ListenError(f"cannot listen on {listen} ({fact}): {REMEDIES.get(error.errno or 0, example)}") from error


def make_server(runtime_dir: Path, listen: str, gate: Gate | None = None) -> Server:
    server = Server(runtime_dir, inherited() or [bind(listen)], gate)
    if not (server.gate.latest.encrypts and server.gate.latest.asks):
        for address in filter(is_open, server.listeners):
            log.warning(EXPOSED, address.getsockname()[:2], extra={"kind": "web_exposed"})
    return server


def is_open(listener: socket.socket) -> bool:
    """Return whether the listener has an IP address that is not a loopback address."""
    if listener.family == socket.AF_UNIX:
        return False
    host: str = listener.getsockname()[0]
    return not host.removeprefix("::ffff:").startswith("127.") and host != "::1"


def serve(runtime_dir: Path, listen: str, gate: Gate | None = None) -> int:
    """Run the HTTP server until SIGTERM or SIGINT, and return 0. Raises ListenError if the server cannot listen."""
    with make_server(runtime_dir, listen, gate) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop())
        server.serve_forever()
    return 0
