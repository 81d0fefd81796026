"""The gate of the listener: who comes in, by TLS, client certificate and password, as a web configuration says.

Owns the reading of that file and of what it names, at the start and again when one of them has changed: looked at by
stat(2) for every connection and request. What cannot be used is told once in the journal, and by a metric as long as it
stands; what was good before stays in force: so a pair of which one half is new is waited for.
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
"""How long files that cannot be used may be half of a change, from the first look that saw it; and how long all has to
be good before another change is waited for."""
Mark = tuple[int, ...] | None
SUCCESSFUL = "certmond_web_config_last_reload_successful"
MEANING = "Whether the web configuration on disk is in force"
_ALWAYS = {"X-Content-Type-Options"}  # sent without being asked for
_NOT_TLS = b"this port speaks HTTPS, and was spoken to in plain HTTP\n"


class Policy:
    """A configuration with its certificates and users; what its methods promise stands at `entrance.Policy`.

    Raises ConfigError where the certificates cannot be used.
    """

    def __init__(self, source: Source, former: Policy | None) -> None:
        self.source, config = source, source.config
        self.encrypts = config.tls
        self.asks = bool(config.basic_auth_users) or config.tls_server_config.client_auth_type.startswith("Require")
        self._context = make_context(source) if config.tls else None
        # Whoever has shown the right password need not do so again because of another change.
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
        """With the headers of the configuration; certmond's own of the same name give way."""
        own = tuple(each for each in answer.headers if not each.startswith(self._replaced))
        return answer._replace(headers=(*own, *self._headers))

    def part(self, connection: socket.socket) -> None:
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()


class Bucket:
    """A request each interval, and `burst` at once after a time without any. Without an interval there is no limit."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._level, self._at = float(limit.burst), time.monotonic()

    def take(self) -> bool:
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
    """What is in force, following the files. Raises ConfigError when it is made from what cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._seen: dict[Path, Mark] = {}
        self._untold: str | None = None  # what is wrong, and may be a change under way
        self._broken_since: float | None = None  # when that wait began; None once all was good for as long again
        self._good_since: float | None = None
        self._latest: Policy | None = None
        self._refused = False  # and told
        self._refresh()

    @property
    def latest(self) -> Policy:
        assert self._latest  # noqa: S101  # or there would be no gate
        return self._latest

    def policy(self) -> Policy:
        """What is in force now. Who asks first after a change reads; the others wait for that."""
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
                log.warning("the web configuration cannot be used; what was good stays in force: %s", self._untold)
                self._untold, self._refused = None, True
            return self.latest

    def metrics(self) -> bytes:
        value = 0 if self._refused else 1
        return f"# HELP {SUCCESSFUL} {MEANING}.\n# TYPE {SUCCESSFUL} gauge\n{SUCCESSFUL} {value}\n".encode()

    def _refresh(self) -> None:
        """Take the configuration that is there now, else what the files of the former one have become.

        Raises ConfigError with what is wrong, also where the latter is in force instead.
        """
        former, problems, sources = self._latest, list[str](), list[Source]()
        self._seen = {self._path: _mark(self._path)}  # marks are older than what is read: no change goes unseen
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
    """What changes when the file that a path leads to is another, or has other bytes; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
