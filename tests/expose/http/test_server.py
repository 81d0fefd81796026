"""The process that listens, on real sockets of the loopback."""

import gzip
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from certmond.errors import ListenError
from certmond.expose.http import connection_limits as limits
from certmond.expose.http import heartbeat_check
from certmond.expose.http import routes as site
from certmond.expose.http import server as serve
from certmond.expose.http.heartbeat_check import Heartbeat, not_alive, not_ready
from certmond.expose.http.routes import prefers_gzip
from certmond.expose.http.server import Server, make_server
from tests.conftest import no_thread_left
from tests.deadline import DEADLINE
from tests.http_server import (
    ACTIVITY,
    METRICS,
    PATHS,
    STATUS,
    ask,
    await_connections,
    beat,
    hear,
    put,
    render,
    running,
    say,
)

WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory whose heartbeat nothing writes again. It counts for the whole test."""
    monkeypatch.setattr(heartbeat_check, "ALIVE_SECONDS", 900)
    return render(tmp_path)


@pytest.fixture
def server(runtime_dir: Path) -> Iterator[Server]:
    with running(runtime_dir) as server:
        yield server


class TestEndpoints:
    def test_metrics(self, server: Server) -> None:
        """`/metrics` is the file that the daemon rendered, byte for byte, in the Prometheus text format 0.0.4."""
        response, body = ask(server, "/metrics")
        assert (response.status, body) == (200, METRICS)
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert response.headers["Content-Encoding"] is None

    def test_status(self, server: Server) -> None:
        """`/api/v1/status` is the daemon's JSON."""
        response, body = ask(server, "/api/v1/status")
        assert (response.status, body) == (200, STATUS)
        assert response.headers["Content-Type"] == "application/json"

    def test_activity(self, server: Server) -> None:
        """`/api/v1/activity` is the daemon's JSON."""
        response, body = ask(server, "/api/v1/activity")
        assert (response.status, body) == (200, ACTIVITY)
        assert response.headers["Content-Type"] == "application/json"

    def test_page(self, server: Server) -> None:
        """`/` is a page of the daemon's rendering. It may run only its own script, and no page may frame it."""
        response, body = ask(server, "/")
        assert response.status == 200
        assert b"node-1" in body
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = response.headers["Content-Security-Policy"]
        assert {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert {f"/{path}" for path in re.findall(r'<a href="([a-z][^"]+)"', body.decode())} == set(PATHS) - {"/"}

    def test_page_without_a_rendering(self, server: Server, runtime_dir: Path) -> None:
        """While the daemon has rendered nothing, `/` reports that under the same policy, with the same links."""
        policy = ask(server, "/")[0].headers["Content-Security-Policy"]
        (runtime_dir / "status.json").unlink()
        response, body = ask(server, "/")
        assert response.status == 200
        assert response.headers["Content-Security-Policy"] == policy
        assert f"certmond cannot read {runtime_dir / 'status.json'}" in body.decode()
        assert {f"/{path}" for path in re.findall(r'<a href="([a-z][^"]+)"', body.decode())} == set(PATHS) - {"/"}

    def test_page_of_something_else(self, server: Server, runtime_dir: Path) -> None:
        """If the status document is invalid, `/` reports that it cannot be shown."""
        put(runtime_dir / "status.json", b'{"schema": 2}')
        response, body = ask(server, "/")
        assert response.status == 200
        assert b"cannot show" in body

    def test_page_follows(self, server: Server, runtime_dir: Path) -> None:
        """The page has another entity tag when status, activity or the daemon's health is another, and only then."""
        put(runtime_dir / "heartbeat.json", beat())
        tags = [ask(server, "/")[0].headers["ETag"]]
        changes = {"status.json": STATUS, "activity.json": ACTIVITY, "heartbeat.json": beat(alive=3600)}
        for name, content in changes.items():
            put(runtime_dir / name, content)
            tags.append(ask(server, "/")[0].headers["ETag"])
        assert len(set(tags)) == 4
        put(runtime_dir / "heartbeat.json", beat())
        assert ask(server, "/", If_None_Match=ask(server, "/")[0].headers["ETag"])[0].status == 304
        again = ask(server, "/", Accept_Encoding="gzip", If_None_Match=ask(server, "/")[0].headers["ETag"])[0]
        assert again.status == 200

    def test_page_of_a_dead_daemon(self, server: Server, runtime_dir: Path) -> None:
        """When the daemon has ended, the page reports it beside the last state, and needs no activity for it."""
        for name in ("heartbeat.json", "activity.json"):
            (runtime_dir / name).unlink()
        body = ask(server, "/")[1].decode()
        assert "The daemon is not running" in body
        assert "node-1" in body

    @pytest.mark.parametrize("path", PATHS)
    def test_common_headers(self, server: Server, path: str) -> None:
        """Clients must not store answers or guess their type, and the server sends its name without a version."""
        response, _ = ask(server, path)
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Server"] == "certmond"
        assert response.headers["Date"].endswith(" GMT")

    @pytest.mark.parametrize("path", [*PATHS, "/nothing"])
    def test_head(self, server: Server, path: str) -> None:
        """HEAD answers as GET does, without the body; the connection stays usable."""
        with closing(HTTPConnection(*server.address)) as client:
            seen = []
            for method in ("GET", "HEAD", "GET"):
                client.request(method, path)
                response = client.getresponse()
                body = response.read()
                headers = {name: value for name, value in response.getheaders() if name != "Date"}
                seen.append((response.status, headers, body))
            assert seen[0] == seen[2]
            assert seen[1] == (*seen[0][:2], b"")

    @pytest.mark.parametrize("target", ["/metrics?x=1", "HTTP://localhost:9964/metrics", "http://[::1]/metrics?"])
    def test_other_forms_of_a_target(self, server: Server, target: str) -> None:
        """A query changes nothing, and a target in absolute form is understood."""
        assert say(server, f"GET {target} HTTP/1.0\r\n\r\n".encode()).endswith(METRICS)

    def test_unknown_path(self, server: Server) -> None:
        """An unknown path is 404, and the answer names those that exist."""
        response, body = ask(server, "/metric")
        assert response.status == 404
        assert all(path in body.decode() for path in PATHS)

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
    def test_other_methods(self, server: Server, method: str) -> None:
        """Any method but GET and HEAD is 405, with what is allowed."""
        response, _ = ask(server, "/metrics", method)
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD"

    def test_body_is_no_request(self, server: Server) -> None:
        """The body of a request is never parsed as another request."""
        smuggled = b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
        head = b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
        answer = say(server, head + smuggled)
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert answer.count(b"HTTP/1.1 ") == 1

    @pytest.mark.usefixtures("without_deadlines")
    def test_large_body(self, server: Server) -> None:
        """A client that sends a larger body than expected still gets the answer."""
        head = b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n"
        assert say(server, head + bytes(20_000_000)).startswith(b"HTTP/1.1 405 ")

    @pytest.mark.parametrize(
        "path",
        [
            "/../../../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "//etc/passwd",
            "/metrics/../secret",
            "/metrics.prom",
            "/secret",
            "/./secret",
            "/secret%00.html",
            "secret",
            "*",
            "file:///etc/passwd",
        ],
    )
    def test_no_path_reaches_the_file_system(self, server: Server, runtime_dir: Path, path: str) -> None:
        """Only the files of the daemon are served, for any path."""
        put(runtime_dir / "secret", b"secret bytes")
        answer = say(server, f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert b"root:" not in answer
        assert b"secret bytes" not in answer

    @pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
    def test_only_regular_files(self, server: Server, runtime_dir: Path, kind: str) -> None:
        """A link, a pipe or a directory in place of a rendering is not followed, waited for or listed."""
        metrics = runtime_dir / "metrics.prom"
        metrics.unlink()
        make: dict[str, Callable[[], None]] = {
            "link": lambda: metrics.symlink_to("/etc/passwd"),
            "fifo": lambda: os.mkfifo(metrics),
            "directory": metrics.mkdir,
        }
        make[kind]()
        assert ask(server, "/metrics")[0].status == 503


class TestEncodings:
    def test_gzip_equals_plain(self, server: Server) -> None:
        """The gzip form is the plain form, compressed."""
        response, body = ask(server, "/metrics", Accept_Encoding="gzip")
        assert response.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(body) == METRICS

    @pytest.mark.parametrize("coding", ["gzip", "identity"])
    @pytest.mark.parametrize("path", ["/", "/metrics", "/api/v1/status"])
    def test_vary(self, server: Server, path: str, coding: str) -> None:
        """Both forms say that they depend on what the client accepts."""
        assert ask(server, path, Accept_Encoding=coding)[0].headers["Vary"] == "Accept-Encoding"

    @pytest.mark.parametrize(
        "accepted",
        ["gzip", "GZIP", "deflate, gzip;q=1.0", "gzip;q=0.001", "*", "gzip; q=0.5, br", "identity;q=0.5, gzip;q=0.5"],
    )
    def test_gzip_accepted(self, accepted: str) -> None:
        """A client that accepts gzip gets it, unless it likes the plain form better."""
        assert prefers_gzip(accepted)

    @pytest.mark.parametrize(
        "accepted",
        [
            "",
            "identity",
            "deflate, br",
            "gzip;q=0",
            "gzip; q=0.000",
            "*;q=0",
            "gzip;q=0, *",
            "gzip;q=0.5, identity",
            "gzip;q=0.2, *;q=0.9",
            "gzip;q=much",
            "gzip;q=-1",
            "gzip;q=nan",
        ],
    )
    def test_gzip_not_accepted(self, accepted: str) -> None:
        """q=0 refuses a coding, a smaller weight ranks it lower, and a weight that is no number counts as none."""
        assert not prefers_gzip(accepted)

    def test_refusal_is_honoured(self, server: Server) -> None:
        """A client that refuses gzip gets the plain form."""
        response, body = ask(server, "/metrics", Accept_Encoding="gzip;q=0")
        assert response.headers["Content-Encoding"] is None
        assert body == METRICS

    def test_compressed_once(self, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many ask at once, a rendering is compressed once; the next rendering is compressed again."""
        made: list[int] = []
        copies: list[bytes] = []
        together = threading.Barrier(8)
        document = site.Document(runtime_dir / "metrics.prom", "text/plain")
        compressobj = zlib.compressobj

        def counted(level: int, method: int, window: int) -> object:
            made.append(level)
            return compressobj(level, method, window)

        monkeypatch.setattr(zlib, "compressobj", counted)

        def scrape() -> None:
            together.wait()
            copies.append(document.compressed()[1])

        for content in (METRICS * 1000, METRICS * 2000):
            put(document.path, content)
            copies.clear()
            made.clear()
            threads = [threading.Thread(target=scrape) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert made == [1]
            assert len({id(copy) for copy in copies}) == 1
            assert gzip.decompress(copies[0]) == content

    @pytest.mark.parametrize("coding", ["gzip", "identity"])
    def test_not_modified(self, server: Server, runtime_dir: Path, coding: str) -> None:
        """A client that sends the tag of the present rendering gets 304. The next rendering is sent."""
        first, _ = ask(server, "/api/v1/status", Accept_Encoding=coding)
        tag = first.headers["ETag"]
        for shown in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again, body = ask(server, "/api/v1/status", Accept_Encoding=coding, If_None_Match=shown)
            assert (again.status, body) == (304, b"")
            assert again.headers["ETag"] == tag
        put(runtime_dir / "status.json", STATUS + b" ")
        changed, _ = ask(server, "/api/v1/status", Accept_Encoding=coding, If_None_Match=tag)
        assert changed.status == 200
        assert changed.headers["ETag"] != tag

    def test_forms_have_separate_tags(self, server: Server) -> None:
        """The plain form and the gzip form have different tags."""
        tags = {ask(server, "/metrics", Accept_Encoding=coding)[0].headers["ETag"] for coding in ("gzip", "identity")}
        assert len(tags) == 2


class TestHealth:
    def test_alive(self, server: Server) -> None:
        """`/healthz` is 200 and "ok" while the daemon's loop gives signs of life."""
        response, body = ask(server, "/healthz")
        assert (response.status, body) == (200, b"ok\n")

    def test_ready(self, server: Server) -> None:
        """`/readyz` is 200 and "ok" when a pass has been completed and is recent."""
        response, body = ask(server, "/readyz")
        assert (response.status, body) == (200, b"ok\n")

    @pytest.mark.parametrize(("age", "alive"), [(0, True), (29, True), (31, False), (-29, True), (-3600, False)])
    def test_signs_of_life(self, age: float, alive: bool) -> None:
        """A sign of life counts for 30 s; one that lies further ahead of the clock does not count either."""
        heartbeat = Heartbeat(alive_at=1e9 - age, pass_at=None, resync=60, ready=False)
        assert (not_alive(heartbeat, 1e9) is None) is alive

    @pytest.mark.parametrize(("age", "ready"), [(0, True), (659, True), (661, False), (-3600, False)])
    def test_last_pass(self, age: float, ready: bool) -> None:
        """A pass counts for twice the resync interval and a minute."""
        heartbeat = Heartbeat(alive_at=0, pass_at=1e9 - age, resync=300, ready=True)
        assert (not_ready(heartbeat, 1e9) is None) is ready

    @pytest.mark.parametrize(
        ("path", "content", "reason"),
        [
            ("/healthz", lambda: beat(alive=1000), r"last heartbeat is 1\d\d\d s old"),
            ("/healthz", lambda: beat(alive=float("nan")), "last heartbeat"),
            ("/readyz", lambda: beat(passed=None), "first pass"),
            ("/readyz", lambda: beat(ready=False), "first pass"),
            ("/readyz", lambda: beat(passed=86400), r"last pass is 864\d\d s old, but the limit is 660 s"),
            ("/healthz", lambda: b"", "contains no valid heartbeat"),
            ("/readyz", lambda: b"[]", "contains no valid heartbeat"),
            ("/readyz", lambda: b"{}", "contains no valid heartbeat"),
            ("/healthz", lambda: b"\xff", "contains no valid heartbeat"),
            ("/healthz", lambda: beat(resync=None), "contains no valid heartbeat"),
            ("/healthz", lambda: beat(resync=10**400), "contains no valid heartbeat"),
        ],
    )
    def test_bad_heartbeat(
        self, server: Server, runtime_dir: Path, path: str, content: Callable[[], bytes], reason: str
    ) -> None:
        """A stale or invalid heartbeat is 503, with the reason and the remedy, in one line."""
        put(runtime_dir / "heartbeat.json", content())
        response, body = ask(server, path)
        assert response.status == 503
        assert re.search(reason, body.decode())
        assert "journalctl -u certmond" in body.decode()
        assert body.endswith(b"\n")
        assert body.count(b"\n") == 1

    def test_stale_pass_is_still_alive(self, server: Server, runtime_dir: Path) -> None:
        """Readiness and liveness are independent."""
        put(runtime_dir / "heartbeat.json", beat(passed=86400))
        assert [ask(server, path)[0].status for path in ("/healthz", "/readyz")] == [200, 503]

    @pytest.mark.parametrize("path", sorted(set(PATHS) - {"/"}))
    def test_daemon_never_ran(self, tmp_path: Path, path: str) -> None:
        """Before the daemon has rendered anything, the answer is 503 with the missing file and the remedy."""
        with running(tmp_path) as server:
            response, body = ask(server, path)
        assert response.status == 503
        assert str(tmp_path) in body.decode()
        assert "systemctl start certmond" in body.decode()


class TestManyClients:
    @pytest.mark.long
    def test_swap_during_scrapes(self, server: Server, runtime_dir: Path) -> None:
        """A scrape is the old rendering or the new one, whole, while the daemon replaces it."""
        whole = {bytes([65 + turn]) * (200_000 + turn) for turn in range(10)}
        put(runtime_dir / "metrics.prom", min(whole))
        done = threading.Event()

        def render() -> None:
            while not done.is_set():
                for content in whole:
                    put(runtime_dir / "metrics.prom", content)

        writer = threading.Thread(target=render)
        writer.start()
        try:
            bodies = [ask(server, "/metrics")[1] for _ in range(100)]
            bodies += [gzip.decompress(ask(server, "/metrics", Accept_Encoding="gzip")[1]) for _ in range(100)]
        finally:
            done.set()
            writer.join()
        assert whole.issuperset(bodies)
        assert len(set(bodies)) > 1

    def test_swap_while_a_client_reads(self, server: Server, runtime_dir: Path) -> None:
        """A rendering that is being sent is sent to its end, though another has taken its place."""
        old = os.urandom(14_000_000)
        put(runtime_dir / "metrics.prom", old)
        with closing(HTTPConnection(*server.address)) as client:
            client.request("GET", "/metrics")
            response = client.getresponse()
            put(runtime_dir / "metrics.prom", b"new")
            assert response.read() == old
        assert ask(server, "/metrics")[1] == b"new"

    def test_large_file(self, server: Server, runtime_dir: Path) -> None:
        """The metrics of 10,000 certificates arrive whole in both forms, several times on one connection."""
        content = b"".join(b'certmond_certificate_info{certificate="%d"} 1.0\n' % number for number in range(300_000))
        assert len(content) > 14_000_000
        put(runtime_dir / "metrics.prom", content)
        with closing(HTTPConnection(*server.address)) as client:
            for coding, decode in (("identity", bytes), ("gzip", gzip.decompress)) * 2:
                client.request("GET", "/metrics", headers={"Accept-Encoding": coding})
                assert decode(client.getresponse().read()) == content

    def test_parallel_scrapes(self, server: Server, runtime_dir: Path) -> None:
        """Many clients are served at once, each the whole."""
        content = os.urandom(1_000_000)
        put(runtime_dir / "metrics.prom", content)
        bodies: list[bytes] = []

        def scrape(coding: str) -> None:
            for _ in range(3):
                response, body = ask(server, "/metrics", Accept_Encoding=coding)
                bodies.append(gzip.decompress(body) if response.headers["Content-Encoding"] else body)

        threads = [threading.Thread(target=scrape, args=(["gzip", "identity"][turn % 2],)) for turn in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(bodies) == 60
        assert set(bodies) == {content}

    def test_pipelined_requests(self, server: Server) -> None:
        """Requests that arrive together are answered in their order."""
        answer = say(
            server,
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2,
        )
        assert answer.count(b"HTTP/1.1 200 OK") == 4
        assert answer.count(METRICS) == 2
        assert answer.endswith(METRICS)

    def crowd(self, stack: ExitStack, server: Server, said: bytes) -> list[socket.socket]:
        """Open as many connections from 127.0.0.2 as one address may have, and send `said` on each."""
        clients = []
        for number in range(limits.SHARE):
            client = stack.enter_context(socket.create_connection(server.address, source_address=("127.0.0.2", 0)))
            client.sendall(said)
            clients.append(client)
            await_connections(server, limits.SHARE, least=number + 1)
        return clients

    def another(self, server: Server, request: bytes) -> bytes:
        """What the next one from there hears, who says this."""
        with socket.create_connection(server.address, source_address=("127.0.0.2", 0)) as client:
            client.sendall(request)
            return hear(client)

    def test_half_of_the_slots(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """One address has 32 connections at most: a further one replaces the one that has been silent longest."""
        monkeypatch.setattr(limits, "GRACE_SECONDS", 0)
        with ExitStack() as stack:
            clients = self.crowd(stack, server, b"G")
            assert self.another(server, WHOLE).startswith(b"HTTP/1.1 200 ")
            assert hear(clients[0]) == b""
            clients[-1].sendall(WHOLE[1:])
            assert hear(clients[-1]).startswith(b"HTTP/1.1 200 ")

    def test_a_new_connection_has_time_to_send(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """A new connection is not closed for a client that sends nothing more: that one gets 503, and others are
        served.
        """
        monkeypatch.setattr(limits, "GRACE_SECONDS", 1000)
        with ExitStack() as stack:
            clients = self.crowd(stack, server, b"G")
            assert self.another(server, b"G").startswith(b"HTTP/1.1 503 ")
            assert ask(server, "/healthz")[0].status == 200
            clients[0].sendall(WHOLE[1:])
            assert hear(clients[0]).startswith(b"HTTP/1.1 200 ")

    def test_a_request_makes_room(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client with a complete request replaces at once a client without one, the oldest first."""
        monkeypatch.setattr(limits, "GRACE_SECONDS", 1000)
        with ExitStack() as stack:
            clients = self.crowd(stack, server, WHOLE[:-2])
            assert self.another(server, WHOLE).startswith(b"HTTP/1.1 200 ")
            assert hear(clients[0]) == b""

    def test_a_client_that_was_served_stays(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client that was served has a moment for the next request, also if other clients send theirs."""
        monkeypatch.setattr(limits, "GRACE_SECONDS", 1000)
        with ExitStack() as stack:
            clients = self.crowd(stack, server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for client in clients:
                assert client.recv(1000).endswith(b"ok\n")
            assert self.another(server, WHOLE).startswith(b"HTTP/1.1 503 ")
            clients[0].sendall(WHOLE)
            assert hear(clients[0]).startswith(b"HTTP/1.1 200 ")

    def test_a_silent_connection_takes_no_slot(self, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A connection on which no byte arrives takes no slot at first: the kernel queues it."""
        monkeypatch.setattr(serve, "DEFER_SECONDS", 600)
        with running(runtime_dir) as server, ExitStack() as stack:
            silent = [stack.enter_context(socket.create_connection(server.address)) for _ in range(limits.SHARE)]
            assert ask(server, "/healthz")[0].status == 200
            assert len(server.slots.taken) <= 1
            silent[0].sendall(WHOLE)
            assert hear(silent[0]).startswith(b"HTTP/1.1 200 ")

    def test_no_thread_left(self, server: Server) -> None:
        """If no thread can be started, a client gets 503. The next one is served when a thread is available."""
        with no_thread_left():
            assert self.another(server, WHOLE).startswith(b"HTTP/1.1 503 ")
        assert self.another(server, WHOLE).startswith(b"HTTP/1.1 200 ")
        await_connections(server, 0)

    def test_origins(self) -> None:
        """IPv4 clients are distinguished by their address, also on an IPv6 socket, and IPv6 clients by its first
        half.
        """
        with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
            for host, origin in (("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "0" * 16)):
                with socket.create_connection((host, listener.getsockname()[1])), listener.accept()[0] as connection:
                    assert limits.origin_of(connection) == origin

    def test_all_slots(self, server: Server, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """While 64 connections read their answers, another gets 503. When one of them ends, there is room."""
        monkeypatch.setattr(limits, "GRACE_SECONDS", 0)
        put(runtime_dir / "metrics.prom", os.urandom(50_000_000))
        with ExitStack() as stack:
            others = []
            for number in range(limits.CONNECTIONS):
                source = (f"127.0.0.{2 + number % 2}", 0)
                client = stack.enter_context(socket.create_connection(server.address, source_address=source))
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                client.recv(1)
                others.append(client)
            with socket.create_connection(server.address) as client:
                assert hear(client).startswith(b"HTTP/1.1 503 ")
            others[0].close()
            await_connections(server, limits.CONNECTIONS - 1)
            assert ask(server, "/healthz")[0].status == 200


class TestBadClients:
    def test_slow_request(self, runtime_dir: Path) -> None:
        """A client that sends its request byte by byte is closed at the end of its time."""
        with running(runtime_dir, patience=0.3) as server, socket.create_connection(server.address) as client:
            client.settimeout(0.02)
            client.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
            answer = None
            while answer is None:
                try:
                    client.sendall(b"z")
                    answer = client.recv(1)
                except TimeoutError:
                    pass
                except ConnectionError:
                    answer = b""
            assert answer == b""

    def test_idle_connection(self, runtime_dir: Path) -> None:
        """An idle connection is closed when its time has passed."""
        request, answer = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", b""
        with running(runtime_dir) as server, socket.create_connection(server.address, DEADLINE) as client:
            client.sendall(request)
            while not answer.endswith(METRICS):
                piece = client.recv(65536)
                assert piece
                answer += piece
            server.patience = 0.3
            client.sendall(request)  # the server can also cut this answer
            hear(client)
            await_connections(server, 0)

    def test_client_that_does_not_read(self, runtime_dir: Path) -> None:
        """A client that takes no more of its answer is cut when its time is up, and holds no thread."""
        put(runtime_dir / "metrics.prom", os.urandom(50_000_000))
        with running(runtime_dir, patience=0.3) as server, socket.create_connection(server.address) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.recv(1)
            await_connections(server, 0)
            server.patience = 1000
            assert ask(server, "/healthz")[0].status == 200

    def test_client_that_goes_away(
        self, server: Server, runtime_dir: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A client that disconnects in the middle of its answer causes no traceback and no log entry."""
        put(runtime_dir / "metrics.prom", os.urandom(50_000_000))
        for reset in (True, False):
            with socket.create_connection(server.address) as client:
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                client.recv(1)
        await_connections(server, 0)
        assert capfd.readouterr() == ("", "")
        assert caplog.records == []

    def test_shortened_file(self, runtime_dir: Path) -> None:
        """A file that is shortened in its place, which the daemon never does, ends the connection, not the server."""
        content = os.urandom(50_000_000)
        put(runtime_dir / "metrics.prom", content)
        with running(runtime_dir, patience=1000) as server:
            with socket.create_connection(server.address) as client:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                client.recv(1)
                os.truncate(runtime_dir / "metrics.prom", 10)
                assert len(hear(client)) < len(content)
            assert ask(server, "/metrics")[1] == content[:10]

    @pytest.mark.parametrize(
        ("request_bytes", "status"),
        [
            (b"GET /metrics\r\n\r\n", 400),
            (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
            (b"GET  /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n folded: line\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\r\nHost : x\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nA:" + b"\t" * 16000 + b"\0\r\n\r\n", 400),
            (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
            (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 20000 + b"\r\n\r\n", 431),
            (b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n", 431),
        ],
    )
    def test_malformed_requests(self, server: Server, request_bytes: bytes, status: int) -> None:
        """Bytes that are no HTTP/1 request, or exceed its limits, get an error status, and the connection is closed."""
        answer = say(server, request_bytes)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nConnection: close\r\n" in answer

    def test_http_1_0(self, server: Server) -> None:
        """An HTTP/1.0 client has its connection closed after the answer, unless it asks to keep it."""
        assert b"Connection: close" in say(server, b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b"Connection: keep-alive" in say(server, b"GET /healthz HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")

    @pytest.mark.long
    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @example(b"\r\n\r\n\r\n")
    @example(b"\0")
    @example(b"GET / HTTP/1.1\r\nHost: \xff\r\nContent-Length: \xff\r\n\r\n")
    @example(b"GET http://[ HTTP/1.0\r\nAccept-Encoding: ;;,;q=,gzip;q\r\n\r\n")
    @given(
        st.binary(max_size=400)
        | st.lists(
            st.sampled_from([b"GET ", b"HEAD ", b"/metrics", b" HTTP/1.1", b"\r\n", b"\n", b"Host:", b":", b"\0"])
            | st.binary(max_size=5)
        ).map(b"".join)
    )
    def test_arbitrary_bytes(self, server: Server, caplog: pytest.LogCaptureFixture, request_bytes: bytes) -> None:
        """No bytes stop the server or cause a traceback: the next client is served."""
        answer = say(server, request_bytes)
        assert answer == b"" or re.match(rb"HTTP/1\.1 [2-5][0-9][0-9] ", answer)
        assert ask(server, "/healthz")[0].status == 200
        assert caplog.records == []


class TestHost:
    """The names under which a client without authentication may send requests."""

    OWN = (
        "127.0.0.1",
        "127.0.0.1:9964",
        "[::1]",
        "[::1]:9964",
        "192.0.2.1",
        "localhost",
        "LOCALHOST:9964",
        "localhost.",
        "",
    )

    @pytest.mark.parametrize("path", [*PATHS, "/nothing"])
    def test_another_name(self, server: Server, path: str) -> None:
        """On loopback, a request for another name than this host's gets 421 without content: a page in a browser may
        have resolved its own name to this address.
        """
        response, body = ask(server, path, Host=f"rebound.example:{server.address[1]}")
        assert response.status == 421
        assert b"certmond" not in body.replace(b"certmond serve", b"")
        assert b"localhost" in body
        assert b"docs/web.md" in body
        assert body.count(b"\n") == 1

    @pytest.mark.parametrize("host", [*OWN, socket.gethostname(), f"{socket.gethostname()}:9964"])
    def test_own_names(self, server: Server, host: str) -> None:
        """An address, `localhost` and the host's own name are answered, with a port or without; so is who says none."""
        assert say(server, f"GET /healthz HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()).startswith(b"HTTP/1.1 200 ")
        assert say(server, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")

    @pytest.mark.parametrize(
        "host",
        ["rebound.example", "localhost.rebound.example", "127.0.0.1.rebound.example", "rebound.example:127.0.0.1",
         f"{socket.gethostname()}.rebound.example", "[rebound.example]", "::1.example", "user@localhost", "localhost:x",
         "127.0.0.1 rebound.example"],
    )  # fmt: skip
    def test_names_that_look_alike(self, server: Server, host: str) -> None:
        """A name that only begins or ends like one of those, and what is no name at all, is another."""
        assert say(server, f"GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()).startswith(b"HTTP/1.1 421 ")

    @pytest.mark.parametrize(
        ("target", "host", "status"),
        [("http://rebound.example", "localhost", b"421"), ("HTTP://rebound.example:9964", "localhost", b"421"),
         ("http://user@localhost", "localhost", b"421"), ("http://localhost", "rebound.example", b"200")],
    )  # fmt: skip
    def test_a_name_in_the_target(self, server: Server, target: str, host: str, status: bytes) -> None:
        """The name in a target in absolute form takes precedence over Host (RFC 9112, 3.2.2)."""
        for version in ("1.0", "1.1"):
            request = f"GET {target}/metrics HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            assert say(server, request.encode()).startswith(b"HTTP/1.1 %s " % status)

    @pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
    def test_another_name_on_a_network(self, runtime_dir: Path, listen: str) -> None:
        """A listener that is not on loopback answers any name."""
        with running(runtime_dir, listen) as server:
            assert ask(server, "/metrics", Host="node-1.example.org:9964")[1] == METRICS

    def test_a_socket_of_the_file_system(self, runtime_dir: Path) -> None:
        """No page can direct a browser to a Unix socket: a client of one, such as a proxy, may send any name."""
        path = str(runtime_dir / "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            server = Server(runtime_dir, [listener])
            server.patience = 1000
            loop = threading.Thread(target=server.serve_forever)
            loop.start()
            with server, socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(WHOLE.replace(b"localhost", b"node-1.example.org"))
                assert hear(client).startswith(b"HTTP/1.1 200 ")
                server.stop()
                loop.join()


class TestListening:
    def test_ipv6(self, runtime_dir: Path) -> None:
        """An IPv6 address is written in brackets."""
        with running(runtime_dir, "[::1]:0") as server:
            assert server.address[0] == "::1"
            assert ask(server, "/metrics")[1] == METRICS

    @pytest.mark.parametrize(
        "listen",
        ["", "9964", ":9964", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "::1:9964", "[::1]"],
    )
    def test_bad_address(self, runtime_dir: Path, listen: str) -> None:
        """What is no listen address is named, beside one that is right."""
        with pytest.raises(ListenError) as caught:
            make_server(runtime_dir, listen)
        assert repr(listen) in str(caught.value)
        assert "127.0.0.1:9964" in str(caught.value)

    def test_port_taken(self, server: Server, runtime_dir: Path) -> None:
        """A port that another process has is named, with the way to find that process."""
        listen = f"127.0.0.1:{server.address[1]}"
        with pytest.raises(ListenError, match=rf"{listen} \(Address already in use\).*ss -ltnp"):
            make_server(runtime_dir, listen)

    def test_foreign_address(self, runtime_dir: Path) -> None:
        """An address that this host does not have is named, with the way to see those that it has."""
        with pytest.raises(ListenError, match=r"192\.0\.2\.1:9964 \(.*ip address"):
            make_server(runtime_dir, "192.0.2.1:9964")

    def test_imports(self) -> None:
        """The process that listens loads nothing that handles keys, and nothing beyond the standard library."""
        code = (
            "import sys, certmond.expose.http.server\n"
            "loaded = {name.partition('.')[0] for name in sys.modules}\n"
            "print(*sorted(name for name in sys.modules if name.startswith('certmond')))\n"
            "print(*sorted(loaded - sys.stdlib_module_names - {'certmond'}))\n"
        )
        root = Path(serve.__file__).parents[3]
        run = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=root)
        own, foreign = run.stdout.splitlines()
        modules = {
            "documents": ("remaining_lifetime",),
            "http": ("access_control_interface", "connection_limits", "heartbeat_check", "routes", "server"),
            "page": ("certificate_tree", "html", "model", "render"),
        }
        expose = {f"certmond.expose.{each}" for each in modules}
        expose |= {f"certmond.expose.{package}.{name}" for package, names in modules.items() for name in names}
        assert {*own.split()} == {"certmond", "certmond.errors", "certmond.expose"} | expose
        assert set(foreign.split()) <= {"__main__"}


class TestProcess:
    """The whole process, as systemd runs it: `serve` on a socket that was opened for it."""

    CODE = """
import os, sys
from pathlib import Path
from certmond.expose.http.server import Server, serve
Server.patience = 1000
os.dup2(int(sys.argv[2]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
sys.exit(serve(Path(sys.argv[1]), "an address that is not used"))
"""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_life_under_systemd(self, runtime_dir: Path, number: signal.Signals) -> None:
        """It serves on the socket passed to it, says READY, pings the watchdog, says STOPPING and exits with 0."""
        said: queue.Queue[bytes] = queue.Queue()

        def listen(manager: socket.socket) -> None:
            """Read as systemd does: the child waits while the socket is full."""
            while datagram := manager.recv(100):
                said.put(datagram)

        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
            ExitStack() as stack,
        ):
            manager.bind(str(runtime_dir / "notify"))
            reader = threading.Thread(target=listen, args=(manager,))
            reader.start()
            stack.callback(reader.join)
            stack.callback(manager.shutdown, socket.SHUT_RD)  # the reader receives an empty datagram
            child = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", self.CODE, str(runtime_dir), str(listener.fileno())],
                    pass_fds=[listener.fileno()],
                    env={**os.environ, "NOTIFY_SOCKET": str(runtime_dir / "notify"), "WATCHDOG_USEC": "100000"},
                    cwd=Path(serve.__file__).parents[3],
                    stderr=subprocess.PIPE,
                )
            )
            stack.callback(child.kill)  # should anything below fail
            assert [said.get(timeout=DEADLINE) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
            with closing(HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=DEADLINE)) as client:
                client.request("GET", "/metrics")
                assert client.getresponse().read() == METRICS
                child.send_signal(number)
                assert b"STOPPING=1" in iter(lambda: said.get(timeout=DEADLINE), b"")
            assert child.stderr
            assert (child.wait(DEADLINE), child.stderr.read()) == (0, b"")

    def test_socket_that_does_not_listen(self, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A socket unit with Accept=yes passes a connection: that is refused, with the setting to change."""
        import systemd.daemon

        with socket.socket() as connection:
            monkeypatch.setenv("LISTEN_FDS", "1")
            monkeypatch.setattr(systemd.daemon, "listen_fds", lambda: [connection.fileno()])
            with pytest.raises(ListenError, match="Accept=no"):
                make_server(runtime_dir, "127.0.0.1:0")

    def test_answer_under_way(self, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the server is stopped during an answer, it completes the answer. A new connection is refused."""
        monkeypatch.setattr(serve, "STOP_SECONDS", 1000)
        content = os.urandom(50_000_000)
        put(runtime_dir / "metrics.prom", content)
        with running(runtime_dir, patience=1000) as server, socket.create_connection(server.address) as client:
            address = server.address
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.recv(1)
            server.stop()
            assert hear(client).endswith(content)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    def test_idle_connection_at_the_end(self, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An idle connection does not delay the end."""
        monkeypatch.setattr(serve, "STOP_SECONDS", 1000)
        with running(runtime_dir, patience=1000) as server, socket.create_connection(server.address) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.recv(1)
            server.stop()
            assert hear(client).endswith(b"ok\n")

    def test_stuck_client_at_the_end(self, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nor does a client that takes no more of its answer."""
        monkeypatch.setattr(serve, "STOP_SECONDS", 0.1)
        put(runtime_dir / "metrics.prom", os.urandom(50_000_000))
        with running(runtime_dir, patience=1000) as server, socket.create_connection(server.address) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.recv(1)
            server.stop()
            await_connections(server, 0)
