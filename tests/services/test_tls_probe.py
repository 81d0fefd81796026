"""The probe reads the served certificate of any server, however it behaves. Every server here is a real one on
loopback.

No test sleeps or measures a duration. If a limit must pass, it is short and no other result is possible. If it must
not, it is `GENEROUS`. If it must pass after the server has answered, `look_until` repeats the probe with longer limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import pty
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki.catalog.endpoint import Endpoint, Seen, Served, Unserved
from certmond.services.tls_probe import LIMIT, ClientPair, Pairs, leaf_in_clear, served_certificates
from tests.builders import Issued, Modifiers, make_ca, make_leaf
from tests.conftest import real_part, unavailable
from tests.deadline import DEADLINE
from tests.free_ports import free_ports

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
GENEROUS, SHORT = DEADLINE, 0.2
ALWAYS: Modifiers = {"not_before": NOW - timedelta(days=2000), "not_after": NOW + timedelta(days=20000)}
ANCIENT = "DEFAULT:@SECLEVEL=0"

Answer = Callable[[socket.socket], object]


def probe(
    endpoints: Collection[Endpoint], at: datetime, pairs: Pairs | None = None, limit: float = LIMIT
) -> dict[Endpoint, Seen]:
    return asyncio.run(served_certificates(endpoints, at, pairs, limit))


class Server:
    """Listens on the loopback, and has `answer` deal with each connection, one after the other."""

    def __init__(self, answer: Answer, address: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._answer = answer
        self._listener = socket.create_server((address, 0), family=family)
        self.endpoint = Endpoint(address, self._listener.getsockname()[1])
        self.asked = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def named(self, name: str) -> Endpoint:
        return Endpoint(self.endpoint.address, self.endpoint.port, name)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # it was shut down
                return
            with connection, contextlib.suppress(OSError):
                self.asked += 1
                self._answer(connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


Serve = Callable[..., Server]


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
    return make_ca("etcd-ca", **ALWAYS)


def server_certificate(ca: Issued, key: str = "ec", **modifiers: object) -> Issued:
    wanted = {"extended_usages": ["server auth", "client auth"], "names": ["DNS:localhost", "IP:127.0.0.1"]}
    return make_leaf(ca, "node-1", **{**ALWAYS, **wanted, "key": key, **modifiers})  # type: ignore[arg-type]


class Files:
    """The PEM files of a server, or of the prober."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, name: str, content: bytes) -> str:
        path = self._directory / name
        path.write_bytes(content)
        return str(path)

    def pair(self, issued: Issued, name: str = "server") -> ClientPair:
        return ClientPair(self.path(f"{name}.crt", issued.pem), self.path(f"{name}.key", issued.key_pem))

    def context(self, issued: Issued, version: ssl.TLSVersion | None = None, ciphers: str = ANCIENT) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers(ciphers)
        context.load_cert_chain(*self.pair(issued))
        if version:
            context.minimum_version = context.maximum_version = version
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def until_closed(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(1 << 16):
            pass


def tls(context: ssl.SSLContext) -> Answer:
    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as shaken:
            until_closed(shaken)

    return answer


def saying(*words: bytes) -> Answer:
    """Hear the client, say this, and wait until it has gone."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"".join(words))
        until_closed(connection)

    return answer


def look(endpoint: Endpoint, pair: ClientPair | None = None, limit: float = GENEROUS) -> Seen:
    return probe([endpoint], NOW, {endpoint: pair} if pair else None, limit)[endpoint]


def look_until(expected: Callable[[Seen], object], endpoint: Endpoint, limits: Sequence[float]) -> Seen:
    """Probe with each limit until the result is as expected. Return the last result."""
    seen = look(endpoint, limit=limits[0])
    for limit in limits[1:]:
        if expected(seen):
            break
        seen = look(endpoint, limit=limit)
    return seen


def reason(seen: Seen) -> str:
    assert isinstance(seen, Unserved)
    return seen.reason


# --- the served certificate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("key", ["ec", "ec-p521", "rsa", "ed25519"])
def test_the_leaf_is_read(serve: Serve, files: Files, ca: Issued, version: ssl.TLSVersion, key: str) -> None:
    """The result has the version of TLS, the caller's time, and the exact certificate."""
    leaf = server_certificate(ca, key)
    server = serve(tls(files.context(leaf, version)))
    assert look(server.endpoint) == Served(leaf.der, version.name.replace("v1_", "v1."), NOW)


def test_an_invalid_certificate_is_read(serve: Serve, files: Files) -> None:
    """The probe does not verify it: expired, for another name, of an unknown CA, with a weak key and SHA-1."""
    old = {"not_before": NOW - timedelta(days=9), "not_after": NOW - timedelta(days=8), "names": ["DNS:other"]}
    leaf = server_certificate(make_ca(), "rsa-1024", hash="sha1", **old)
    server = serve(tls(files.context(leaf)))
    assert look(server.named("node-1.example")) == Served(leaf.der, "TLSv1.3", NOW)


@pytest.mark.parametrize("cipher", ["AES128-SHA256", "AES256-GCM-SHA384", "AES128-SHA"])
def test_a_server_with_rsa_key_exchange_is_probed(serve: Serve, files: Files, ca: Issued, cipher: str) -> None:
    """It supports TLS 1.2 and nothing newer, as old configurations require."""
    leaf = server_certificate(ca, "rsa")
    server = serve(tls(files.context(leaf, ssl.TLSVersion.TLSv1_2, f"{cipher}:@SECLEVEL=0")))
    assert look(server.endpoint) == Served(leaf.der, "TLSv1.2", NOW)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("key", ["ec", "rsa"])
def test_a_server_that_requires_a_client_certificate_is_probed_without_one(
    serve: Serve, files: Files, ca: Issued, version: ssl.TLSVersion, key: str
) -> None:
    """The handshake fails in TLS 1.2, after the server has presented its certificate."""
    leaf = server_certificate(ca, key)
    context = files.context(leaf, version)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca.pem.decode())
    refused = threading.Event()

    def answer(connection: socket.socket) -> None:
        try:
            tls(context)(connection)
        except ssl.SSLError:
            refused.set()

    server = serve(answer)
    assert look(server.endpoint) == Served(leaf.der, version.name.replace("v1_", "v1."), NOW)
    assert refused.wait(GENEROUS)


def test_a_server_may_answer_by_name(serve: Serve, files: Files, ca: Issued) -> None:
    """Each name is a separate endpoint, and so is an endpoint without a name. Without a name the server sends the
    default certificate.
    """
    leaves = {name: server_certificate(ca) for name in (None, "a.example", "b.example")}
    contexts = {name: files.context(leaf) for name, leaf in leaves.items()}
    asked = []

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        asked.append(name)
        connection.context = contexts[name]

    contexts[None].sni_callback = choose
    server = serve(tls(contexts[None]))
    endpoints = {None: server.endpoint} | {name: server.named(name) for name in ("a.example", "b.example")}
    seen = probe(endpoints.values(), NOW, limit=GENEROUS)
    assert seen == {endpoints[name]: Served(leaf.der, "TLSv1.3", NOW) for name, leaf in leaves.items()}
    assert set(asked) == {None, "a.example", "b.example"}


def test_an_endpoint_may_be_ipv6(serve: Serve, files: Files, ca: Issued) -> None:
    """On the loopback, too."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        unavailable("this host has no IPv6")
    leaf = server_certificate(ca)
    server = serve(tls(files.context(leaf)), "::1")
    assert look(server.endpoint) == Served(leaf.der, "TLSv1.3", NOW)


def test_a_replaced_certificate_is_read_by_the_next_probe(serve: Serve, files: Files, ca: Issued) -> None:
    """No state is kept between probes, and no session."""
    first, second = server_certificate(ca), server_certificate(ca)
    context = files.context(first)
    server = serve(tls(context))
    assert look(server.endpoint) == Served(first.der, "TLSv1.3", NOW)
    context.load_cert_chain(*files.pair(second))
    assert look(server.endpoint) == Served(second.der, "TLSv1.3", NOW)


# --- peers that are in use on nodes -----------------------------------------------------------------------------------


class Running:
    """A program whose output is read line by line."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )

    def until(self, pattern: str) -> re.Match[str]:
        """The first line from now on in which `pattern` is found; the test's own time limit is the limit."""
        assert self._process.stdout
        seen = []
        for line in self._process.stdout:
            seen.append(line)
            if match := re.search(pattern, line):
                return match
        pytest.fail(f"it ended without saying {pattern}:\n{''.join(seen[-20:])}")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as stack:

        def start(*command: str) -> Running:
            running = Running(command)
            stack.callback(running.close)
            return running

        yield start


@pytest.mark.real("openssl")
@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_openssl_that_requires_a_client_certificate_is_probed(
    run: Callable[..., Running], files: Files, ca: Issued, option: str, version: str
) -> None:
    """The server is `s_server -Verify`, without a client certificate and with one."""
    leaf, client = server_certificate(ca, "rsa"), files.pair(make_leaf(ca, "client", **ALWAYS), "client")
    pair, trusted = files.pair(leaf), files.path("ca.crt", ca.pem)
    server = run(
        real_part("openssl"), "s_server", "-accept", "127.0.0.1:0", option, "-cert", pair.certificate, "-key", pair.key,
        "-Verify", "1", "-verify_return_error", "-CAfile", trusted,
    )  # fmt: skip
    endpoint = Endpoint.parse(server.until(r"ACCEPT (\S+)")[1])
    assert look(endpoint) == Served(leaf.der, version, NOW)
    server.until("peer did not return a certificate")
    assert look(endpoint, client) == Served(leaf.der, version, NOW)
    server.until("CN *= *client")


GO_SERVER = """
package main

import ("crypto/tls"; "crypto/x509"; "fmt"; "net"; "os")

func main() {
	pair, _ := tls.LoadX509KeyPair(os.Args[1], os.Args[2])
	pem, _ := os.ReadFile(os.Args[3])
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	version := map[string]uint16{"TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13}[os.Args[4]]
	config := &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs: pool, MinVersion: version, MaxVersion: version}
	listener, _ := net.Listen("tcp", "127.0.0.1:0")
	fmt.Println("listens on", listener.Addr())
	for {
		raw, _ := listener.Accept()
		connection := tls.Server(raw, config)
		if err := connection.Handshake(); err != nil {
			fmt.Println("refused:", err)
		} else {
			fmt.Println("welcome:", connection.ConnectionState().PeerCertificates[0].Subject.CommonName)
		}
		connection.Close()
	}
}
"""


@pytest.fixture(scope="module")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    go, place = real_part("go"), tmp_path_factory.mktemp("go")
    (place / "main.go").write_text(GO_SERVER)
    settings = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0"}
    environment = {"GOCACHE": str(place / "cache")} if "HOME" not in os.environ else {}
    subprocess.run(
        [go, "build", "-o", "server", "main.go"], cwd=place, env=environment | dict(os.environ) | settings, check=True
    )
    return str(place / "server")


@pytest.fixture
def go_server(run: Callable[..., Running], files: Files, ca: Issued, go_program: str) -> Callable[..., Running]:
    """A server in Go that has a certificate, demands one of `ca`, and speaks one version of TLS."""
    return lambda leaf, version: run(go_program, *files.pair(leaf), files.path("ca.crt", ca.pem), version)


@pytest.mark.long
@pytest.mark.real("go")
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("key", ["ec", "rsa"])
def test_go_that_requires_a_client_certificate_is_probed(
    go_server: Callable[..., Running], files: Files, ca: Issued, version: str, key: str
) -> None:
    """The cases are no client certificate, an accepted one, and an unusable one."""
    leaf = server_certificate(ca, key)
    client = make_leaf(ca, "kube-etcd-healthcheck-client", **ALWAYS)
    server = go_server(leaf, version)
    endpoint = Endpoint.parse(server.until(r"listens on (\S+)")[1])
    served = Served(leaf.der, version, NOW)
    assert look(endpoint) == served
    server.until("refused: tls: client didn't provide a certificate")
    pair = files.pair(client, "client")
    assert look(endpoint, pair) == served
    server.until("welcome: kube-etcd-healthcheck-client")
    assert look(endpoint, files.pair(make_leaf(make_ca(), "unrelated", **ALWAYS), "unrelated")) == served
    server.until("refused: tls: failed to verify")
    unusable = [
        pair._replace(key="/no/such/file"),
        pair._replace(certificate="/no/such/file"),
        pair._replace(key="with\x00nul"),
        pair._replace(key=files.path("other.key", leaf.key_pem)),
        pair._replace(key=files.path("no.key", b"nothing")),
        pair._replace(key=files.path("encrypted.key", client.key_as(PrivateFormat.PKCS8, b"secret"))),
    ]
    for each in unusable:
        assert look(endpoint, each) == served
        server.until("refused: tls: client didn't provide a certificate")


@pytest.mark.real("etcd")
@pytest.mark.parametrize("versions", [[], ["--tls-min-version=TLS1.2", "--tls-max-version=TLS1.2"]])
def test_etcd_with_mutual_tls_is_probed(
    run: Callable[..., Running], files: Files, ca: Issued, tmp_path: Path, versions: list[str]
) -> None:
    """The probe covers clients and peers. A client certificate avoids a line in its log for each probe."""
    program = real_part("etcd")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    if tuple(map(int, version.split(".")[:2])) < (3, 5):
        unavailable(f"etcd {version} is older than 3.5, and has other flags and words")
    server, peer, client = server_certificate(ca), server_certificate(ca), make_leaf(ca, "client", **ALWAYS)
    pairs = files.pair(server), files.pair(peer, "peer"), files.pair(client, "client")
    trusted = files.path("ca.crt", ca.pem)
    ports = free_ports(2)
    urls = [f"https://127.0.0.1:{port}" for port in ports]
    etcd = run(
        program, "--name=node-1", f"--data-dir={tmp_path}/data", f"--initial-cluster=node-1={urls[1]}",
        f"--listen-client-urls={urls[0]}", f"--advertise-client-urls={urls[0]}",
        f"--listen-peer-urls={urls[1]}", f"--initial-advertise-peer-urls={urls[1]}",
        f"--cert-file={pairs[0].certificate}", f"--key-file={pairs[0].key}", "--client-cert-auth=true",
        f"--peer-cert-file={pairs[1].certificate}", f"--peer-key-file={pairs[1].key}", "--peer-client-cert-auth=true",
        f"--trusted-ca-file={trusted}", f"--peer-trusted-ca-file={trusted}", *versions,
    )  # fmt: skip
    etcd.until("serving client traffic securely")
    clients, peers = (Endpoint("127.0.0.1", port) for port in ports)
    version = "TLSv1.2" if versions else "TLSv1.3"
    served = {clients: Served(server.der, version, NOW), peers: Served(peer.der, version, NOW)}
    with_pairs = {clients: pairs[2], peers: pairs[1]}
    assert probe([clients, peers], NOW, with_pairs, GENEROUS) == served
    assert probe([clients], NOW, limit=GENEROUS)[clients] == served[clients]
    refused = r"rejected connection on (\w+) endpoint.*client didn't provide a certificate"
    assert etcd.until("rejected connection|panic")[0] == "rejected connection"
    assert probe([peers], NOW, limit=GENEROUS)[peers] == served[peers]
    assert etcd.until(refused)[1] == "peer"
    renewed = server_certificate(ca, key=server.key)  # type: ignore[arg-type]
    Path(pairs[0].certificate).write_bytes(renewed.pem)
    assert look(clients, pairs[2]) == Served(renewed.der, version, NOW)


ENCRYPTED = """
import asyncio, sys
from datetime import UTC, datetime
from certmond.services.tls_probe import ClientPair, served_certificates
from certmond.pki.catalog.endpoint import Endpoint

closed = Endpoint("127.0.0.1", 1)
asyncio.run(served_certificates([closed], datetime.now(UTC), {closed: ClientPair(*sys.argv[1:])}))
print("done")
"""


def test_no_password_of_a_key_is_prompted_for(files: Files, ca: Issued) -> None:
    """The rule also holds with a terminal."""
    client = make_leaf(ca, "client", **ALWAYS)
    pair = files.pair(client)._replace(key=files.path("a.key", client.key_as(PrivateFormat.PKCS8, b"secret")))
    master, terminal = pty.openpty()
    with open(master, "rb", buffering=0) as screen:
        child = subprocess.Popen(
            [sys.executable, "-c", ENCRYPTED, *pair], stdin=terminal, stdout=terminal, stderr=terminal,
            preexec_fn=lambda: os.login_tty(terminal),  # noqa: PLW1509 - the only way to a separate terminal
        )  # fmt: skip
        os.close(terminal)
        assert screen.read(1 << 10).startswith(b"done")
        child.wait()


# --- servers that serve nothing ---------------------------------------------------------------------------------------


def test_a_closed_port_refuses() -> None:
    """The test binds it, so that no other process listens there."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        seen = look(Endpoint("127.0.0.1", bound.getsockname()[1]))
        assert isinstance(seen, Unserved)
        assert (seen.reason, seen.refused) == ("the connection was refused", True)


def test_a_network_that_cannot_be_reached_is_a_reason() -> None:
    """The reason is the kernel's error, which refuses connections to a broadcast address by default."""
    seen = look(Endpoint("255.255.255.255", 1))
    assert isinstance(seen, Unserved)
    assert not seen.refused
    assert seen.reason in {
        f"the connection failed ({os.strerror(number)})" for number in (errno.EACCES, errno.ENETUNREACH)
    }


def test_a_server_that_takes_no_more_connections_does_not_answer() -> None:
    """Its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        seen = look(Endpoint("127.0.0.1", listener.getsockname()[1]), limit=SHORT)
    assert reason(seen) == "the server did not answer in time"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (b"", "the server did not answer in time"),
        (b"\x16", "the handshake did not end in time"),
        (b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03", "the handshake did not end in time"),
        (
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
            "the server does not speak TLS",
        ),
        (b"SSH-2.0-OpenSSH_10.0\r\n", "the server does not speak TLS"),
        (b"H", "the server does not speak TLS"),
        (b"\x15\x03\x01\x00\x02\x02\x46", r"the handshake failed \([a-z0-9/ ]*protocol version\)"),
        (b"\x15\x03\x01\x00\x02\x02\x28", r"the handshake failed \([a-z0-9/ ]*handshake failure\)"),
        (b"\x16\x03\x03\xff\xff" + b"\x02" * 65535, r"the handshake failed \([a-z ]+\)"),
        (b"\x16\x03\x03\x00\x04\x02\xff\xff\xff", r"the handshake failed \([a-z ]+\)"),
        (b"\x16\x03\x03\x00\x04\x63\x00\x00\x00", r"the handshake failed \([a-z ]+\)"),
    ],
)
def test_any_other_answer_is_a_reason(serve: Serve, words: bytes, expected: str) -> None:
    """The cases are silence, half of a handshake, no TLS at all, an alert, and a record or message that is too long.
    Only a server that completed a TLS handshake has spoken TLS.
    """
    passes = "time" in expected or len(words) == 1
    limits = (SHORT, 5.0, GENEROUS) if passes else (GENEROUS,)
    server = serve(saying(words))
    seen = look_until(lambda found: re.fullmatch(expected, reason(found)), server.endpoint, limits)
    assert re.fullmatch(expected, reason(seen))
    assert isinstance(seen, Unserved)
    assert seen.spoke_tls is expected.startswith("the handshake failed")


@pytest.mark.parametrize("words", [b"", b"\x16\x03\x03", b"HTTP/1.0 400 Bad Request\r\n\r\n"])
def test_a_server_that_closes_the_connection_has_served_nothing(serve: Serve, words: bytes) -> None:
    """Politely, having heard the client."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(words)
        connection.shutdown(socket.SHUT_WR)
        until_closed(connection)

    closed = "the server closed the connection before the end of the handshake"
    assert reason(look(serve(answer).endpoint)) == ("the server does not speak TLS" if words[:1] == b"H" else closed)


def test_a_connection_that_is_reset_is_a_reason(serve: Serve) -> None:
    """The reset comes at once, as from a proxy without a backend."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert reason(look(serve(answer).endpoint)) == "the connection was reset"


def test_a_server_that_never_stops_is_left(serve: Serve) -> None:
    """HelloRequests do not count, and may be sent without end: neither memory nor the loop is theirs."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        for _ in itertools.count():
            connection.sendall(b"\x16\x03\x03\x00\x04\x00\x00\x00\x00" * 4096)

    assert reason(look(serve(answer).endpoint)) == "the handshake failed (the server sent more than a handshake)"


def server_flight(context: ssl.SSLContext, hello: bytes) -> bytes:
    """What a server answers to this ClientHello, before it hears more."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(hello)
    with contextlib.suppress(ssl.SSLWantReadError):
        server.do_handshake()
    return outgoing.read()


def test_a_presented_certificate_is_read_though_nothing_follows(serve: Serve, files: Files, ca: Issued) -> None:
    """The server hangs in the middle of a TLS 1.2 handshake: the presented certificate is the served one."""
    leaf = server_certificate(ca)
    context = files.context(leaf, ssl.TLSVersion.TLSv1_2)

    def answer(connection: socket.socket) -> None:
        connection.sendall(server_flight(context, connection.recv(1 << 16)))
        until_closed(connection)

    seen = look_until(lambda found: isinstance(found, Served), serve(answer).endpoint, (2.0, 20.0, GENEROUS))
    assert seen == Served(leaf.der, "TLSv1.2", NOW)


def test_a_server_that_has_gone_has_served_what_it_presented(serve: Serve, files: Files, ca: Issued) -> None:
    """It says all that a server says in TLS 1.3, and resets the connection."""
    leaf = server_certificate(ca)
    context = files.context(leaf, ssl.TLSVersion.TLSv1_3)

    def answer(connection: socket.socket) -> None:
        connection.sendall(server_flight(context, connection.recv(1 << 16)))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert look(serve(answer).endpoint) == Served(leaf.der, "TLSv1.3", NOW)


# --- reading a certificate that is in the clear -----------------------------------------------------------------------


def client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def records(flight: bytes, cuts: Sequence[int]) -> bytes:
    """The same messages, in records that end elsewhere."""
    messages, place = b"", 0
    while place < len(flight):
        length = int.from_bytes(flight[place + 3 : place + 5])
        messages += flight[place + 5 : place + 5 + length]
        place += 5 + length
    ends = sorted({0, len(messages), *(cut % len(messages) for cut in cuts)})
    pieces = [messages[start:end] for start, end in itertools.pairwise(ends)]
    return b"".join(b"\x16\x03\x03" + len(piece).to_bytes(2) + piece for piece in pieces)


@pytest.fixture(scope="module")
def flight(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A real server's first flight in TLS 1.2, and the certificate in it."""
    ca = make_ca(**ALWAYS)
    leaf = server_certificate(ca)
    context = Files(tmp_path_factory.mktemp("flight")).context(leaf, ssl.TLSVersion.TLSv1_2)
    return server_flight(context, client_hello()), leaf.der


@given(st.lists(st.integers(0, 1 << 16), max_size=40))
def test_the_leaf_is_read_however_it_is_cut_into_records(flight: tuple[bytes, bytes], cuts: list[int]) -> None:
    """Boundaries of records and messages are independent."""
    sent, leaf = flight
    assert leaf_in_clear(records(sent, cuts)) == leaf


def test_the_leaf_is_read_as_soon_as_all_of_it_is_there(flight: tuple[bytes, bytes]) -> None:
    """Half of it is nothing."""
    sent, leaf = flight
    end = sent.index(leaf) + len(leaf)
    assert {leaf_in_clear(sent[:length]) for length in range(end)} == {None}
    assert {leaf_in_clear(sent[:length]) for length in range(end, len(sent) + 1)} == {leaf}


def test_there_is_none_to_read_in_tls_1_3(files: Files, ca: Issued) -> None:
    """It is encrypted, and the handshake succeeds without any."""
    sent = server_flight(files.context(server_certificate(ca), ssl.TLSVersion.TLSv1_3), client_hello())
    assert len(sent) > 500
    assert leaf_in_clear(sent) is None


@given(st.binary(max_size=60), st.binary(max_size=40))
def test_any_bytes_can_be_read(tail: bytes, message: bytes) -> None:
    """They hold a certificate, or none."""
    record = b"\x16\x03\x03" + len(message).to_bytes(2) + message
    for received in (tail, record, record + tail, b"\x16\x03\x03\x00\x40" + b"\x0b" + tail):
        assert leaf_in_clear(received) != b""


@pytest.mark.parametrize(
    "received",
    [
        b"\x16\x03\x03\x00\x07\x0b\x00\x00\x03\x00\x00\x00",  # no certificate in the list
        b"\x16\x03\x03\x00\x0b\x0b\x00\x00\x03\x00\x00\x00\x00\x00\x01\x30",  # the same, and another message
        b"\x16\x03\x03\x00\x0a\x0b\x00\x00\x06\x00\x00\x03\x00\x00\x00",  # an empty one
        b"\x17\x03\x03\x00\x0b\x0b\x00\x00\x07\x00\x00\x04\x00\x00\x01\x30",  # what looks like it is encrypted
    ],
)
def test_a_message_without_a_certificate_has_none(received: bytes) -> None:
    """Bytes after the message, or bytes that are no handshake, do not count as a certificate."""
    assert leaf_in_clear(received) is None


# --- many at once -----------------------------------------------------------------------------------------------------


def test_no_endpoint_waits_for_another(serve: Serve, files: Files, ca: Issued) -> None:
    """A silent server lets the test continue only after the last of many probes: they run concurrently."""
    leaf = server_certificate(ca)
    asked = threading.Event()
    good = tls(files.context(leaf))

    def hang(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        asked.wait(GENEROUS)

    def last(connection: socket.socket) -> None:
        asked.set()
        good(connection)

    hanging = [serve(hang) for _ in range(20)]
    server = serve(last)
    seen = probe([*(each.endpoint for each in hanging), server.endpoint], NOW, limit=GENEROUS)
    assert seen.pop(server.endpoint) == Served(leaf.der, "TLSv1.3", NOW)
    assert {reason(each) for each in seen.values()} == {
        "the server closed the connection before the end of the handshake"
    }


def test_a_failed_probe_does_not_affect_the_others(serve: Serve, files: Files, ca: Issued) -> None:
    """This also covers a defect of certmond."""
    leaf = server_certificate(ca)
    context = tls(files.context(leaf))
    bad, good = serve(context), serve(context)
    mistake: Pairs = {bad.endpoint: ClientPair(1.5, 2.5)}  # type: ignore[arg-type]
    seen = probe([bad.endpoint, good.endpoint], NOW, mistake, GENEROUS)
    assert reason(seen[bad.endpoint]).startswith("the handshake failed (TypeError: ")
    assert seen[good.endpoint] == Served(leaf.der, "TLSv1.3", NOW)


DESTITUTE = """
import gc, os, resource
from certmond.services.observed_subjects import Question
from certmond.services.service_observer import observe
from certmond.pki.catalog.endpoint import Endpoint

free = os.dup(0)
os.close(free)
for more in range(5):
    gc.collect()  # what asyncio has made of a loop
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, 1024))
    seen = observe(Question(endpoints=(Endpoint("127.0.0.1", PORT),))).served
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    print(*(each.reason for each in seen.values()))
"""


@pytest.mark.long
def test_without_descriptors_the_probe_has_a_reason() -> None:
    """The rule covers the loop and the connection. The message reports it, and a later probe works."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        script = DESTITUTE.replace("PORT", str(bound.getsockname()[1]))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    reasons = done.stdout.splitlines()
    assert reasons == ["the connection failed (Too many open files)"] * 4 + ["the connection was refused"]


def test_no_endpoint_gives_no_result() -> None:
    """The probe returns at once."""
    assert probe([], NOW) == {}


def test_no_descriptor_is_left_behind(serve: Serve, files: Files, ca: Issued) -> None:
    """Whatever became of the connection."""
    good, mute = serve(tls(files.context(server_certificate(ca)))), serve(saying(b""))
    rude = serve(lambda connection: connection.recv(1))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        probe([good.endpoint, mute.endpoint, rude.endpoint, Endpoint("127.0.0.1", 1)], NOW, limit=SHORT)
    assert len(os.listdir("/proc/self/fd")) <= before + 3  # the servers' own ends, should they still be open
