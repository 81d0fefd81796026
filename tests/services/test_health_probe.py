"""The health of a service by its probes. Every server here is a real one on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.services.health_probe import health_problems
from tests.builders import Issued, make_ca
from tests.services.test_tls_probe import (
    ALWAYS,
    GENEROUS,
    SHORT,
    Answer,
    Files,
    Serve,
    Server,
    saying,
    server_certificate,
    until_closed,
)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def start(answer: Answer, address: str = "127.0.0.1") -> Server:
            server = Server(answer, address)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture(scope="module")
def ca() -> Issued:
    return make_ca("kubernetes", **ALWAYS)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def wrong(address: str, anchors: str | None = None, limit: float = GENEROUS) -> str | None:
    """Return the message without the address."""
    said = asyncio.run(health_problems({address: anchors}, limit))[address]
    if said is None:
        return None
    assert said.startswith(address)
    return said.removeprefix(address).lstrip(": ")


def over_tls(context: ssl.SSLContext, words: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as shaken:
            saying(words)(shaken)

    return answer


def status(code: int | str, reason: str = "OK") -> bytes:
    return f"HTTP/1.1 {code} {reason}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("code", [200, 204, 302, 399, 401, 403])
def test_an_answer_is_healthy(serve: Serve, code: int) -> None:
    """The rule is the kubelet's, and a server that refuses unknown clients is up. No redirect is followed."""
    server = serve(saying(status(code)))
    assert wrong(f"http://{server.endpoint}/healthz") is None
    assert server.asked == 1


@pytest.mark.parametrize("code", [100, 199, 400, 404, 429, 500, 503])
def test_another_answer_is_unhealthy(serve: Serve, code: int) -> None:
    """The message has its status."""
    assert wrong(f"http://{serve(saying(status(code))).endpoint}/") == f"answers {code}"


@pytest.mark.parametrize(
    "words",
    [b"garbage\r\n", b"\n", b"HTTP/1.1\r\n", b"HTTP/1.1 OK\r\n", b"SSH-2.0-x 200\r\n", b"HTTP/1.1 -200 x\r\n",
     b"HTTP/1.1 \xb2\xb0\xb0\r\n", b"\x15\x03\x01\x00\x02\x02\x46" * 9 + b"\n", b"x" * (1 << 20)],
)  # fmt: skip
def test_what_is_no_answer_of_http_is_none(serve: Serve, words: bytes) -> None:
    """However long it is."""
    assert wrong(f"http://{serve(saying(words)).endpoint}/") == "does not answer with HTTP"


def test_a_server_that_closes_has_not_answered(serve: Serve) -> None:
    """The same holds if no process listens."""
    server = serve(lambda connection: connection.recv(1 << 16))
    assert wrong(f"http://{server.endpoint}/") == "does not answer with HTTP"
    assert wrong("http://127.0.0.1:1/") is not None


def test_the_request_has_only_the_path(serve: Serve) -> None:
    """The request has the query and the named host, and no header that identifies certmond."""
    heard: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        heard.append(connection.recv(1 << 16))
        connection.sendall(status(200))

    server = serve(answer)
    for place, asked in (("/readyz?exclude=a&b", "/readyz?exclude=a&b"), ("", "/"), ("/?a", "/?a")):
        assert wrong(f"http://{server.endpoint}{place}") is None
        request = f"GET {asked} HTTP/1.1\r\nHost: {server.endpoint}\r\nConnection: close\r\n\r\n"
        assert heard.pop() == request.encode()


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 200"])
def test_a_server_that_does_not_come_to_an_end_is_not_well(serve: Serve, words: bytes) -> None:
    """Within the limit for all of them together, and the others are not held up."""
    slow, quick = serve(saying(words)), serve(saying(status(200)))
    addresses = {f"http://{server.endpoint}/": None for server in (slow, quick)}
    late = f"http://{slow.endpoint}/ does not answer in time"
    said: list[str | None] = []
    for limit in (SHORT, 5.0, GENEROUS):  # the quick server may answer after a short limit
        said = list(asyncio.run(health_problems(addresses, limit)).values())
        if said[1] is None:
            break
    assert said == [late, None]


def test_a_port_that_takes_a_connection_is_well(serve: Serve) -> None:
    """For who speaks no HTTP; nothing is sent there."""
    server = serve(until_closed)
    assert wrong(f"tcp://{server.endpoint}") is None
    assert wrong("tcp://127.0.0.1:1") is not None


def test_an_address_may_be_ipv6(serve: Serve) -> None:
    """In brackets."""
    try:
        server = serve(saying(status(200)), "::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert wrong(f"http://{server.endpoint}/") is None


# --- the identity of the server ---------------------------------------------------------------------------------------


def anchors(*issued: Issued) -> str:
    return b"".join(each.pem for each in issued).decode()


def test_a_server_is_verified_against_its_ca(serve: Serve, files: Files, ca: Issued) -> None:
    """By its chain, and not by its name: the way led to this node already. Any of several CAs will do."""
    leaf = server_certificate(ca, names=["DNS:elsewhere.example"])
    server = serve(over_tls(files.context(leaf), status(200)))
    address = f"https://{server.endpoint}/healthz"
    for given_anchors in (anchors(ca), anchors(make_ca(**ALWAYS), ca)):
        assert wrong(address, given_anchors) is None


def test_a_server_of_another_ca_is_not_well(serve: Serve, files: Files, ca: Issued) -> None:
    """Though it is of the same name. Without a CA to go by, as for what a component makes itself, it is heard."""
    unrelated = server_certificate(make_ca("kubernetes", **ALWAYS))
    address = f"https://{serve(over_tls(files.context(unrelated), status(200))).endpoint}/"
    said = wrong(address, anchors(ca))
    assert said is not None
    assert said.startswith("serves a certificate that does not verify against its CA (")
    assert wrong(address) is None


def test_a_server_with_an_expired_certificate_is_not_well(serve: Serve, files: Files, ca: Issued) -> None:
    """Its clients refuse it, whatever it answers."""
    today = datetime.now(UTC)
    old = server_certificate(ca, not_before=today - timedelta(days=9), not_after=today - timedelta(days=1))
    address = f"https://{serve(over_tls(files.context(old), status(200))).endpoint}/"
    assert wrong(address, anchors(ca)) == (
        "serves a certificate that does not verify against its CA (certificate has expired)"
    )  # fmt: skip
    assert wrong(address) is None


def test_a_ca_of_an_old_kubeadm_is_accepted(serve: Serve, files: Files) -> None:
    """Before v1.27 it has the serial number 0, which OpenSSL refuses in strict mode."""
    old = make_ca(serial=0, not_before=ALWAYS["not_before"], not_after=ALWAYS["not_after"])
    leaf = server_certificate(old)
    address = f"https://{serve(over_tls(files.context(leaf), status(200))).endpoint}/"
    assert wrong(address, anchors(old)) is None


def test_a_server_that_does_not_speak_tls_is_unhealthy(serve: Serve, ca: Issued) -> None:
    """The message reports a failed handshake, with or without a CA. Invalid anchors raise no error."""
    server = serve(saying(b"HTTP/1.1 400 no TLS\r\n\r\n"))
    for given_anchors in (None, anchors(ca)):
        said = wrong(f"https://{server.endpoint}/", given_anchors)
        assert said is not None
        assert said.startswith("the handshake failed (")
    assert wrong(f"https://{server.endpoint}/", "junk") is not None


def test_a_server_may_demand_a_client_certificate(serve: Serve, files: Files, ca: Issued) -> None:
    """certmond has no such certificate, and reports the server as unhealthy without an exception."""
    context = files.context(server_certificate(ca), ssl.TLSVersion.TLSv1_2)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=anchors(ca))
    assert wrong(f"https://{serve(over_tls(context, status(200))).endpoint}/", anchors(ca)) is not None


# --- any address ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999/", "http://127.0.0.1/", "https://[::1/", "", "junk"])
def test_what_is_no_address_is_not_well(address: str) -> None:
    """A manifest may say anything."""
    assert asyncio.run(health_problems({address: None}, GENEROUS))[address]


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_no_address_raises(text: str) -> None:
    """No process listens at port 1."""
    address = f"tcp://127.0.0.1:1/{text}"
    assert asyncio.run(health_problems({address: None, text: None}, SHORT))[address]


def test_nothing_asked_is_nothing_said() -> None:
    """No loop is needed for it."""
    assert asyncio.run(health_problems({})) == {}


def test_without_descriptors_nothing_is_well_and_nothing_raised() -> None:
    """Nor is it waited for."""
    script = """if True:
        import asyncio, resource
        from certmond.services.health_probe import health_problems
        async def main():
            resource.setrlimit(resource.RLIMIT_NOFILE, (7, 7))
            return await health_problems({"http://127.0.0.1:1/": None, "https://127.0.0.1:1/": None})
        print(asyncio.run(main()))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=GENEROUS, check=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert done.stdout.count(b"does not answer") == 2


def silent_after(context: ssl.SSLContext, words: bytes, end: threading.Event, closed: threading.Event) -> Answer:
    """After the request of the client, the server sends `words`, and closes the connection only after `end`."""

    def answer(connection: socket.socket) -> None:
        shaken = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=True)
        shaken.recv(1 << 12)
        if words:
            shaken.sendall(words)
        end.wait(GENEROUS)
        closed.set()
        shaken.close()

    return answer


@pytest.fixture
def unlimited_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the server can end a wait for an orderly end of TLS."""
    monkeypatch.setattr("asyncio.constants.SSL_SHUTDOWN_TIMEOUT", 4 * GENEROUS)


@pytest.mark.long
@pytest.mark.parametrize(("words", "well"), [(b"", False), (b"HTTP/1.1 200 OK\r\n\r\n", True)])
@pytest.mark.usefixtures("unlimited_shutdown")
def test_a_silent_server_is_not_waited_for(serve: Serve, files: Files, ca: Issued, words: bytes, well: bool) -> None:
    """The wait for its answer has a limit, and there is no wait for an orderly end of TLS."""
    end, closed = threading.Event(), threading.Event()
    server = serve(silent_after(files.context(server_certificate(ca)), words, end, closed))
    address = f"https://127.0.0.1:{server.endpoint.port}/"
    said = asyncio.run(health_problems({address: None}, GENEROUS if well else SHORT))[address]
    waited = closed.is_set()
    end.set()
    assert not waited
    assert said == (None if well else f"{address} does not answer in time")
