"""Access control of the HTTP server by TLS, client certificates and passwords, from a web configuration.

While a file of the configuration is unusable, the last valid configuration remains in force.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from http import HTTPStatus
from pathlib import Path

from certmond.errors import ConfigError
from certmond.expose.http.basic_auth import Passwords
from certmond.expose.http.routes import TEXT, Answer, Request, sentence
from certmond.expose.http.tls import allowed, make_context
from certmond.expose.http.web_config import RateLimit, Source, load

log = logging.getLogger(__name__)

CHANGE_SECONDS = 2.0
"""Seconds from the detection of an unusable file until certmond logs the problem.

During this time, another process can complete the file.
"""
Mark = tuple[int, ...] | None
SUCCESSFUL = "certmond_web_config_last_reload_successful"
MEANING = "1 if certmond serve uses the web configuration on disk, otherwise 0"
_ALWAYS = {"X-Content-Type-Options"}  # certmond sends this header even without a configuration
_NOT_TLS = b"this port requires HTTPS, and received plain HTTP\n"


class Policy:
    """The rules of a web configuration, with the certificates and users that the configuration names.

    The constructor raises ConfigError if OpenSSL cannot use a certificate, a key or a setting.
    """

    def __init__(self, source: Source, former: Policy | None) -> None:
        self.source, config = source, source.config
        self.encrypts = config.tls
        self.asks = bool(config.basic_auth_users) or config.tls_server_config.client_auth_type.startswith("Require")
        self._context = make_context(source) if config.tls else None
        # Keep the accepted passwords if the users are unchanged, and the state of the rate limit if it is unchanged.
        users, limit = config.basic_auth_users, config.rate_limit
        known = former is not None and former.source.config.basic_auth_users == users
        self._passwords: Passwords = former._passwords if former and known else Passwords(users)
        counted = former is not None and former.source.config.rate_limit == limit
        self._bucket: Bucket = former._bucket if former and counted else Bucket(limit)
        given = {name: value for name, value in config.http_server_config.headers.items() if value}
        self._headers = tuple(f"{name}: {value}" for name, value in given.items() if name not in _ALWAYS)
        self._replaced = tuple(f"{name}:" for name in given)

    def wrap(self, connection: socket.socket) -> socket.socket:
        if self._context is None:
            return connection
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def greet(self, connection: socket.socket) -> bool:
        if not isinstance(connection, ssl.SSLSocket):
            return True
        try:
            connection.do_handshake()
        except ssl.SSLError as error:
            if error.reason != "HTTP_REQUEST":
                raise
            head = Answer(HTTPStatus.BAD_REQUEST, TEXT, _NOT_TLS).head(keep_alive=False)
            socket.socket.sendall(connection, head + _NOT_TLS)
            return False
        return allowed(connection, self.source.config.tls_server_config.client_allowed_sans)

    def refusal(self, request: Request, origin: str) -> Answer | None:
        if not self._bucket.take():
            return sentence(HTTPStatus.TOO_MANY_REQUESTS, "too many requests: try again later")
        return self._passwords.refusal(request, origin)

    def dress(self, answer: Answer) -> Answer:
        """Return the answer with the configured headers. A configured header replaces a header of the same name."""
        own = tuple(each for each in answer.headers if not each.startswith(self._replaced))
        return answer._replace(headers=(*own, *self._headers))

    def part(self, connection: socket.socket) -> None:
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()


class Bucket:
    """Rate limit of one request in each interval. After a pause, the limit permits `burst` requests immediately. The
    interval 0 means no limit.
    """

    def __init__(self, limit: RateLimit) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._level, self._at = float(limit.burst), time.monotonic()

    def take(self) -> bool:
        # An interval of 0 sets no limit.
        if not self._limit.interval:
            return True
        with self._lock:
            now = time.monotonic()
            self._level = min(self._limit.burst, self._level + (now - self._at) / self._limit.interval)
            self._at = now
            if self._level < 1:
                return False
            self._level -= 1
            return True


class Gate:
    """The policy in force, which changes with the web configuration and with the files that this configuration names.

    The constructor raises ConfigError if a file is unusable.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._seen: dict[Path, Mark] = {}
        self._untold: str | None = None  # the problem that is not logged yet
        self._broken_since: float | None = None  # start of the period of CHANGE_SECONDS
        self._good_since: float | None = None
        self._latest: Policy | None = None
        self._refused = False  # True after certmond has logged unusable files
        self._refresh()

    @property
    def latest(self) -> Policy:
        assert self._latest  # noqa: S101  # otherwise the constructor has raised
        return self._latest

    def policy(self) -> Policy:
        """Return the policy in force now. If the new files are unusable, return the last valid policy."""
        with self._lock:
            now = time.monotonic()
            if self._good_since is not None and now >= self._good_since + CHANGE_SECONDS:
                self._broken_since = None
            if any(_mark(path) != mark for path, mark in self._seen.items()):
                try:
                    self._refresh()
                    self._untold, self._refused, self._good_since = None, False, now
                except ConfigError as error:
                    self._untold, self._good_since = str(error), None
                    self._broken_since = now if self._broken_since is None else self._broken_since
            if self._untold and self._broken_since is not None and now >= self._broken_since + CHANGE_SECONDS:
                what = "certmond cannot use the web configuration, and keeps the last valid configuration: %s"
                log.warning(what, self._untold, extra={"kind": "web_config_refused"})
                self._untold, self._refused = None, True
            return self.latest

    def metrics(self) -> bytes:
        value = 0 if self._refused else 1
        return f"# HELP {SUCCESSFUL} {MEANING}.\n# TYPE {SUCCESSFUL} gauge\n{SUCCESSFUL} {value}\n".encode()

    def _refresh(self) -> None:
        """Load the current web configuration. If this configuration is unusable, load the last valid web configuration.

        Raises ConfigError with all problems, even if the last valid web configuration is now in force.
        """
        former, problems, sources = self._latest, list[str](), list[Source]()
        self._seen = {self._path: _mark(self._path)}  # read the marks before the content, so that no change is lost
        try:
            sources.append(load(self._path))
        except ConfigError as error:
            problems += error.problems
        sources += [former.source] if former else []
        for source in sources:
            self._seen = {path: _mark(path) for path in source.paths} | self._seen
        for source in sources:
            try:
                self._latest = Policy(source, former)
                break
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(tuple(dict.fromkeys(problems)))


def _mark(path: Path) -> Mark:
    """Return values that change with the file or its content, or None if stat(2) fails."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
