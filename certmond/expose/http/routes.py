"""Parser of HTTP requests, and the answer to each request.

The server opens a file only once for each request, so an answer never mixes two versions of the file. The server never
uses a part of a URL as the path of a file.
"""

import errno
import io
import os
import re
import socket
import stat
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from certmond.expose.http.heartbeat_check import SEE_JOURNAL, UNREADABLE, Heartbeat, halted, not_alive, not_ready
from certmond.expose.page.render import empty, page, policy

HEAD_BYTES = 16 * 1024  # maximum size of a request line together with the headers
GZIP = 16 + zlib.MAX_WBITS
PART_BYTES = 64 * 1024  # maximum part of a file in memory
CHUNK_BYTES = 1024 * 1024  # each chunk that a client receives extends the deadline of its connection
TEXT, HTML, JSON = "text/plain; charset=utf-8", "text/html; charset=utf-8", "application/json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~\w-]+) ([!-~]+) HTTP/1\.([01])")
ABSOLUTE = re.compile(r"(?i:https?)://([^/?]+)")
HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~\w-]+):([^\0\r]*)")
SHORTENED = "the file was shortened during the transfer"


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    keep_alive: bool


class Rendering(io.FileIO):
    """Open file of the runtime directory. The open file keeps its content when the daemon replaces the file. The
    constructor raises OSError if the file is missing, unreadable or not a regular file.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        super().__init__(path, opener=lambda name, _: os.open(name, flags))
        status = os.fstat(self.fileno())
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "not a regular file", path)
        self.size = status.st_size
        # Each version of a file has a different tag.
        self.tag = f"{status.st_dev:x}-{status.st_ino:x}-{self.size:x}-{status.st_mtime_ns:x}"

    def send(self, connection: socket.socket, offset: int, end: int) -> None:
        while offset < end:
            sent = os.sendfile(connection.fileno(), self.fileno(), offset, end - offset)
            if not sent:
                raise ConnectionAbortedError(SHORTENED)
            offset += sent

    def feed(self, connection: socket.socket, offset: int, end: int) -> None:
        """Send the bytes from `offset` to `end` through a TLS connection, for which sendfile(2) is not possible.

        Raises ConnectionAbortedError if the file contains fewer bytes.
        """
        while offset < end:
            part = os.pread(self.fileno(), min(PART_BYTES, end - offset), offset)
            if not part:
                raise ConnectionAbortedError(SHORTENED)
            connection.sendall(part)
            offset += len(part)


class Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes | Rendering
    headers: tuple[str, ...] = ()
    tail: bytes = b""  # the server sends this text after `body`, as a part of the same HTTP body

    @property
    def size(self) -> int:
        return len(self.tail) + (len(self.body) if isinstance(self.body, bytes) else self.body.size)

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
    """Return the next request of a connection.

    Return None at the end of the connection, or an HTTP status if the request is invalid.
    """
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
    hosts = sum(field[1].lower() == b"host" for field in fields if field)
    if line is None or None in fields or hosts > 1 or (line[3] == b"1" and not hosts):  # RFC 9112, 3.2
        return None
    wishes = {wish.strip().lower() for wish in headers.get("connection", "").split(",")}
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    keep_alive = (line[3] == b"1" or "keep-alive" in wishes) and "close" not in wishes and not has_body
    target = line[2].decode()
    if absolute := ABSOLUTE.match(target):
        headers["host"] = absolute[1]  # the host in the request line overrides Host (RFC 9112, 3.2.2)
        target = target[absolute.end() :]
    return Request(line[1].decode(), target.partition("?")[0] or "/", headers, keep_alive)


def prefers_gzip(accept_encoding: str) -> bool:
    """Return whether the client accepts gzip, and does not prefer the uncompressed form (RFC 9110, 12.5.3)."""
    quality: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        coding, semicolon, parameter = item.partition(";")
        weight = re.fullmatch(r"\s*q=([01](?:\.[0-9]{0,3})?)\s*", parameter if semicolon else "q=1")
        quality[coding.strip()] = float(weight[1]) if weight else 0.0
    others = quality.get("*", 0.0)
    gzip = quality.get("gzip", others)
    return gzip > 0 and gzip >= quality.get("identity", others)


class Document:
    """Route for a file that the daemon replaces by a rename. The server appends the text that `tail` returns."""

    def __init__(self, path: Path, content_type: str, tail: Callable[[], bytes] = bytes) -> None:
        self.path, self.content_type, self.tail = path, content_type, tail
        self._lock = threading.Lock()
        self._compressed = ("", b"")  # the tag of a rendering, and its gzip form

    def compressed(self) -> tuple[str, bytes]:
        """Return the entity tag and the gzip form of the file. All clients share one gzip form of each version."""
        with self._lock, Rendering(self.path) as file:
            tail = self.tail()
            tag = named(file, tail)
            if tag != self._compressed[0]:
                compressor = zlib.compressobj(1, zlib.DEFLATED, GZIP)
                parts = [compressor.compress(part) for part in iter(partial(file.read, PART_BYTES), b"")]
                self._compressed = (tag, b"".join((*parts, compressor.compress(tail), compressor.flush())))
            return self._compressed

    def answer(self, request: Request) -> Answer:
        headers = ("Vary: Accept-Encoding",)
        if prefers_gzip(request.headers.get("accept-encoding", "")):
            tag, packed = self.compressed()
            answer = Answer(HTTPStatus.OK, self.content_type, packed, (*headers, "Content-Encoding: gzip"))
            return conditional(request, f'"{tag}-gzip"', answer)
        body, tail = Rendering(self.path), self.tail()
        answer = Answer(HTTPStatus.OK, self.content_type, body, headers, tail)
        return conditional(request, f'"{named(body, tail)}"', answer)


def named(file: Rendering, tail: bytes) -> str:
    """Return the entity tag of `file` with the appended text `tail`."""
    return f"{file.tag}-{zlib.crc32(tail):x}" if tail else file.tag


def conditional(request: Request, tag: str, answer: Answer) -> Answer:
    """Return the answer with the entity tag `tag`, or an answer with the status 304 if the client has this version."""
    known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
    headers = (*answer.headers, f"ETag: {tag}")
    if known.isdisjoint({"*", tag}):
        return answer._replace(headers=headers)
    if isinstance(answer.body, Rendering):
        answer.body.close()
    return Answer(HTTPStatus.NOT_MODIFIED, answer.content_type, b"", headers)


class Front:
    """Route for the HTML page, which the server renders on the first request after a change.

    The daemon does not render the page, because only the server can report that the daemon has stopped.
    """

    def __init__(self, runtime_dir: Path) -> None:
        self.status, self.activity = runtime_dir / "status.json", runtime_dir / "activity.json"
        self.heartbeat = runtime_dir / "heartbeat.json"
        self._lock = threading.Lock()
        self._made = ("", b"")

    def answer(self, request: Request) -> Answer:
        headers = (f"Content-Security-Policy: {policy()}", "Referrer-Policy: no-referrer", "Vary: Accept-Encoding")
        try:
            tag, packed = self.made()
        except OSError as error:
            return Answer(HTTPStatus.OK, HTML, empty(unreadable(error)).encode(), headers)
        if prefers_gzip(request.headers.get("accept-encoding", "")):
            answer = Answer(HTTPStatus.OK, HTML, packed, (*headers, "Content-Encoding: gzip"))
            return conditional(request, f'"{tag}-gzip"', answer)
        return conditional(request, f'"{tag}"', Answer(HTTPStatus.OK, HTML, zlib.decompress(packed, GZIP), headers))

    def made(self) -> tuple[str, bytes]:
        """Return the entity tag and the gzip form of the current page.

        Raises OSError if the server cannot open the status document, or an existing activity document.
        """
        with self._lock, ExitStack() as stack:
            beat = None
            with suppress(OSError):
                beat = stack.enter_context(Rendering(self.heartbeat)).read(4096)
            why = halted(beat, time.time())
            status = stack.enter_context(Rendering(self.status))
            activity = None
            with suppress(FileNotFoundError):  # a daemon of an earlier version writes no activity document
                activity = stack.enter_context(Rendering(self.activity))
            tag = f"{status.tag}.{activity.tag if activity else ''}.{zlib.crc32((why or '').encode()):x}"
            if tag != self._made[0]:
                try:
                    text = page(status.readall(), activity.readall() if activity else None, why, tag)
                except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
                    text = empty(f"the page cannot show the documents of the daemon ({error!r}): {SEE_JOURNAL}")
                compressor = zlib.compressobj(1, zlib.DEFLATED, GZIP)
                self._made = (tag, compressor.compress(text.encode()) + compressor.flush())
            return self._made


def unreadable(error: OSError) -> str:
    reason = f"certmond cannot read {error.filename}: {error.strerror}. Is the daemon running? "
    return f"{reason}`systemctl start certmond` starts it; {SEE_JOURNAL}"


class Site:
    """The fixed set of URL paths, and the function that answers the requests for each path."""

    def __init__(self, runtime_dir: Path, metrics: Callable[[], bytes] = bytes) -> None:
        """Create the routes. The server appends the result of `metrics` to the metrics of the daemon."""
        self.heartbeat = runtime_dir / "heartbeat.json"
        self.routes: dict[str, Callable[[Request], Answer]] = {
            "/": Front(runtime_dir).answer,
            "/metrics": Document(runtime_dir / "metrics.prom", METRICS, metrics).answer,
            "/healthz": lambda _: self.verdict(not_alive),
            "/readyz": lambda _: self.verdict(not_ready),
            "/api/v1/status": Document(runtime_dir / "status.json", JSON).answer,
            "/api/v1/activity": Document(runtime_dir / "activity.json", JSON).answer,
        }

    def answer(self, request: Request) -> Answer:
        route = self.routes.get(request.path)
        if route is None:
            return sentence(HTTPStatus.NOT_FOUND, f"not found; the paths are {', '.join(self.routes)}")
        if request.method not in {"GET", "HEAD"}:
            return sentence(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are allowed", "Allow: GET, HEAD")
        try:
            return route(request)
        except OSError as error:
            return sentence(HTTPStatus.SERVICE_UNAVAILABLE, unreadable(error))

    def verdict(self, why_not: Callable[[Heartbeat, float], str | None]) -> Answer:
        with Rendering(self.heartbeat) as file:
            text = file.read(4096)
        try:
            reason = why_not(Heartbeat.parse(text), time.time())
        except UNREADABLE as error:
            reason = f"{self.heartbeat} contains no valid heartbeat ({error!r}): {SEE_JOURNAL}"
        return sentence(HTTPStatus.SERVICE_UNAVAILABLE, reason) if reason else sentence(HTTPStatus.OK, "ok")
