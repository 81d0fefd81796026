"""What the listening process answers: requests in, answers out, nothing of sockets and threads.

It knows four file names by heart; no part of a URL ever reaches the file system. A file is opened afresh for each
request, so a descriptor holds one rendering or the next, never a mixture: the plain form goes out by sendfile, the gzip
form is made once per rendering and shared. Imports the standard library only.
"""

import errno
import io
import json
import os
import re
import socket
import stat
import threading
import time
import zlib
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple, Self

HEAD_BYTES = 16 * 1024  # of a request, line and headers together
CHUNK_BYTES = 1024 * 1024  # a client earns more time with each that it takes
ALIVE_SECONDS = 30  # the daemon rewrites its heartbeat at least every ten
TEXT, HTML, JSON = "text/plain; charset=utf-8", "text/html; charset=utf-8", "application/json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = (f"Content-Security-Policy: {PAGE_POLICY}", "Referrer-Policy: no-referrer")
PAGE = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>certmond</title></head><body><h1>certmond</h1><ul>
<li><a href="/metrics">metrics</a></li><li><a href="/api/v1/status">status</a></li>
<li><a href="/healthz">health</a></li><li><a href="/readyz">readiness</a></li></ul></body></html>
"""
REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~\w-]+) ([!-~]+) HTTP/1\.([01])")
HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~\w-]+):([^\0\r]*)")
SEE_JOURNAL = "see `journalctl -u certmond`"


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    keep_alive: bool


class Rendering(io.FileIO):
    """A file as the daemon rendered it; whatever is renamed into its place later does not touch it."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        super().__init__(path, opener=lambda name, _: os.open(name, flags))
        status = os.fstat(self.fileno())
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "not a regular file", path)
        self.size = status.st_size
        self.tag = f"{status.st_dev:x}-{status.st_ino:x}-{self.size:x}-{status.st_mtime_ns:x}"  # no two have the same

    def send(self, connection: socket.socket, offset: int, end: int) -> None:
        while offset < end:
            sent = os.sendfile(connection.fileno(), self.fileno(), offset, end - offset)
            if not sent:
                raise ConnectionAbortedError("the file was shortened while it was being sent")
            offset += sent


class Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes | Rendering
    headers: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.size

    def head(self, *, keep_alive: bool) -> bytes:
        lines = [
            f"HTTP/1.1 {self.status} {self.status.phrase}",
            "Server: certmond",
            time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            f"Connection: {'keep-alive' if keep_alive else 'close'}",
            *self.headers,
        ]
        if self.status is not HTTPStatus.NOT_MODIFIED:
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {self.size}"]
        return "\r\n".join((*lines, "\r\n")).encode()


def sentence(status: HTTPStatus, text: str, *headers: str) -> Answer:
    return Answer(status, TEXT, f"{text}\n".encode(errors="replace"), headers)


def read_request(stream: io.BufferedIOBase) -> Request | HTTPStatus | None:
    """The next request of a connection, or what is wrong with it; None when the client has no more."""
    lines: list[bytes] = []
    room = HEAD_BYTES
    while line := stream.readline(room + 1):
        room -= len(line)
        if room < 0:
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if lines else HTTPStatus.REQUEST_URI_TOO_LONG
        text = line.removesuffix(b"\n").removesuffix(b"\r")
        if text:
            lines.append(text)
        elif lines:
            return parse_request(*lines) or HTTPStatus.BAD_REQUEST
    return None


def parse_request(first: bytes, *rest: bytes) -> Request | None:
    line, fields = REQUEST_LINE.fullmatch(first), [HEADER_LINE.fullmatch(each) for each in rest]
    headers: dict[str, str] = {}
    for name, value in ((field[1].decode().lower(), field[2].decode("latin-1").strip()) for field in fields if field):
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if line is None or None in fields or (line[3] == b"1" and "host" not in headers):
        return None
    wishes = {wish.strip().lower() for wish in headers.get("connection", "").split(",")}
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    keep_alive = (line[3] == b"1" or "keep-alive" in wishes) and "close" not in wishes and not has_body
    path = re.sub(r"^https?://[^/?]*", "", line[2].decode()).partition("?")[0]
    return Request(line[1].decode(), path or "/", headers, keep_alive)


def prefers_gzip(accept_encoding: str) -> bool:
    """Whether gzip is acceptable, and the plain form not liked better (RFC 9110, 12.5.3)."""
    quality: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        coding, semicolon, parameter = item.partition(";")
        weight = re.fullmatch(r"\s*q=([01](?:\.[0-9]{0,3})?)\s*", parameter if semicolon else "q=1")
        quality[coding.strip()] = float(weight[1]) if weight else 0.0
    others = quality.get("*", 0.0)
    gzip = quality.get("gzip", others)
    return gzip > 0 and gzip >= quality.get("identity", others)


class Heartbeat(NamedTuple):
    alive_at: float
    pass_at: float | None
    resync: float
    ready: bool

    @classmethod
    def parse(cls, text: bytes) -> Self:
        beat = json.loads(text)
        pass_at = None if beat["pass_at"] is None else float(beat["pass_at"])
        return cls(float(beat["alive_at"]), pass_at, float(beat["resync"]), beat["ready"] is True)


def not_alive(beat: Heartbeat, now: float) -> str | None:
    """Why the daemon's loop cannot be called alive; a sign of life ahead of the clock is no better than an old one."""
    age = now - beat.alive_at
    if abs(age) < ALIVE_SECONDS:  # put this way round, NaN is not alive
        return None
    return f"the daemon's last sign of life is {age:.0f} s old; it gives one every 10 s: {SEE_JOURNAL}"


def silence(runtime_dir: Path) -> str | None:
    """Why the daemon that renders into `runtime_dir` cannot be called alive; None where it can."""
    path = runtime_dir / "heartbeat.json"
    try:
        return not_alive(Heartbeat.parse(path.read_bytes()), time.time())
    except (OSError, KeyError, OverflowError, TypeError, ValueError) as error:
        return f"{path} is no sign of life ({error!r}): {SEE_JOURNAL}"


def not_ready(beat: Heartbeat, now: float) -> str | None:
    """Why what the daemon rendered should not be relied on."""
    if beat.pass_at is None or not beat.ready:
        return f"the daemon has not completed its first pass: {SEE_JOURNAL}"
    age, limit = now - beat.pass_at, 2 * beat.resync + 60
    if abs(age) < limit:
        return None
    return f"the daemon's last pass is {age:.0f} s old, and {limit:.0f} s is the limit: {SEE_JOURNAL}"


class Document:
    """A file that the daemon replaces as a whole."""

    def __init__(self, path: Path, content_type: str, *headers: str) -> None:
        self.path, self.content_type, self.headers = path, content_type, headers
        self._lock = threading.Lock()
        self._compressed = ("", b"")  # the tag of a rendering, and its gzip form

    def compressed(self) -> tuple[str, bytes]:
        """Whoever asks first after a change compresses; the others wait for it, and all share one copy."""
        with self._lock, Rendering(self.path) as file:
            if file.tag != self._compressed[0]:
                compressor = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
                parts = [compressor.compress(part) for part in iter(partial(file.read, CHUNK_BYTES), b"")]
                self._compressed = (file.tag, b"".join((*parts, compressor.flush())))
            return self._compressed

    def answer(self, request: Request) -> Answer:
        headers = (*self.headers, "Vary: Accept-Encoding")
        body: bytes | Rendering
        if prefers_gzip(request.headers.get("accept-encoding", "")):
            tag, body = self.compressed()
            tag, headers = f'"{tag}-gzip"', (*headers, "Content-Encoding: gzip")
        else:
            body = Rendering(self.path)
            tag = f'"{body.tag}"'
        known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
        if known.isdisjoint({"*", tag}):
            return Answer(HTTPStatus.OK, self.content_type, body, (*headers, f"ETag: {tag}"))
        if isinstance(body, Rendering):
            body.close()
        return Answer(HTTPStatus.NOT_MODIFIED, self.content_type, b"", (*headers, f"ETag: {tag}"))


class Site:
    """The closed set of paths, and what each answers."""

    def __init__(self, runtime_dir: Path) -> None:
        self.page = Document(runtime_dir / "page.html", HTML, *PAGE_HEADERS)
        self.heartbeat = runtime_dir / "heartbeat.json"
        self.routes: dict[str, Callable[[Request], Answer]] = {
            "/": self.front,
            "/metrics": Document(runtime_dir / "metrics.prom", METRICS).answer,
            "/healthz": lambda _: self.verdict(not_alive),
            "/readyz": lambda _: self.verdict(not_ready),
            "/api/v1/status": Document(runtime_dir / "status.json", JSON).answer,
        }

    def answer(self, request: Request) -> Answer:
        route = self.routes.get(request.path)
        if route is None:
            return sentence(HTTPStatus.NOT_FOUND, f"not found; here are {', '.join(self.routes)}")
        if request.method not in {"GET", "HEAD"}:
            return sentence(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered", "Allow: GET, HEAD")
        try:
            return route(request)
        except OSError as error:
            reason = f"{error.filename} cannot be read: {error.strerror}. Is the daemon running? "
            remedy = f"`systemctl start certmond` starts it; {SEE_JOURNAL}"
            return sentence(HTTPStatus.SERVICE_UNAVAILABLE, reason + remedy)

    def front(self, request: Request) -> Answer:
        try:
            return self.page.answer(request)
        except FileNotFoundError:
            return Answer(HTTPStatus.OK, HTML, PAGE, PAGE_HEADERS)

    def verdict(self, why_not: Callable[[Heartbeat, float], str | None]) -> Answer:
        with Rendering(self.heartbeat) as file:
            text = file.read(4096)
        try:
            reason = why_not(Heartbeat.parse(text), time.time())
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            reason = f"{self.heartbeat} is no heartbeat ({error!r}): {SEE_JOURNAL}"
        return sentence(HTTPStatus.SERVICE_UNAVAILABLE, reason) if reason else sentence(HTTPStatus.OK, "ok")
