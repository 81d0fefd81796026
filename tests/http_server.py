"""A server in this process, on a real socket of the loopback, and clients that speak to it byte by byte."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

from certmond.expose.http.access_control_interface import Gate
from certmond.expose.http.server import Server, make_server
from tests.deadline import DEADLINE

METRICS = b'# TYPE certmond_findings gauge\ncertmond_findings{severity="critical"} 0.0\n'
STATUS = (
    b'{"schema": 1, "taken_at": "2026-11-24T12:00:00Z", "node": "node-1", "mode": "observe", "certificates": [],'
    b' "trust_anchors": [], "findings": []}'
)
ACTIVITY = b'{"schema": 1, "plan": null, "rotation": null, "events": []}'
PATHS = ("/", "/metrics", "/healthz", "/readyz", "/api/v1/status", "/api/v1/activity")
RESYNC = 300


def put(path: Path, content: bytes) -> None:
    """Write like the daemon: to a draft, which is then renamed."""
    beside = path.with_name(f".{path.name}.{threading.get_ident()}")
    beside.write_bytes(content)
    beside.rename(path)


def beat(alive: float = 0, passed: float | None = 0, **other: object) -> bytes:
    """Return a heartbeat whose loop was alive, and whose pass was complete, so many seconds ago."""
    now = time.time()
    pass_at = None if passed is None else now - passed
    return json.dumps({"alive_at": now - alive, "pass_at": pass_at, "resync": RESYNC, "ready": True, **other}).encode()


def render(directory: Path) -> Path:
    """A runtime directory as the daemon leaves it."""
    put(directory / "metrics.prom", METRICS)
    put(directory / "status.json", STATUS)
    put(directory / "activity.json", ACTIVITY)
    put(directory / "heartbeat.json", beat())
    return directory


@contextmanager
def running(
    runtime_dir: Path, listen: str = "127.0.0.1:0", patience: float = 1000, gate: Gate | None = None
) -> Iterator[Server]:
    """A server whose patience no client exhausts, unless the test sets another."""
    with make_server(runtime_dir, listen, gate) as server:
        server.patience = patience
        loop = threading.Thread(target=server.serve_forever)
        loop.start()
        try:
            yield server
        finally:
            server.stop()
            loop.join()


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    """Send one request on a new connection. Names of headers are written with underscores."""
    with closing(HTTPConnection(*server.address)) as client:
        client.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = client.getresponse()
        return response, response.read()


def say(server: Server, request: bytes) -> bytes:
    """All that the server answers to these bytes, up to its end of the connection."""
    with socket.create_connection(server.address) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return hear(client)


def hear(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def await_connections(server: Server, most: int, least: int = 0) -> None:
    with server.slots.changed:
        assert server.slots.changed.wait_for(lambda: least <= len(server.slots.taken) <= most, timeout=DEADLINE)
