"""Access to a listener with a web configuration: real sockets, real TLS, real passwords."""

from __future__ import annotations

import base64
import gzip
import itertools
import logging
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import bcrypt
import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat

from certmond.errors import ConfigError
from certmond.expose.http import access_control as gate_module
from certmond.expose.http import connection_limits as limits
from certmond.expose.http import server as serve
from certmond.expose.http import tls
from certmond.expose.http.access_control import Bucket
from certmond.expose.http.server import Server, make_server
from certmond.expose.http.web_config import SUITES, VERSIONS, RateLimit
from tests.builders import Issued, bundle, make_ca, make_intermediate
from tests.conftest import real_part
from tests.deadline import DEADLINE
from tests.http_server import METRICS, ask, await_connections, hear, put, running, say
from tests.web_config_files import HASH, LIFE, NOW, PAIR, USERS, VERIFY, WebFiles, client_pair, server_pair

OLD = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")

DISCLOSED = METRICS + (
    b"# HELP certmond_web_config_last_reload_successful 1 if certmond serve uses the web configuration on disk, "
    b"otherwise 0.\n"
    b"# TYPE certmond_web_config_last_reload_successful gauge\ncertmond_web_config_last_reload_successful 1\n"
)

HEAD = b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""A request after which the connection stays open."""


@pytest.fixture
def web_files(tmp_path: Path) -> WebFiles:
    return WebFiles(tmp_path)


def connect(server: Server, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(server.address), server_hostname="localhost")


def get(path: str = "/metrics", password: str | None = None, user: str = "alice") -> bytes:
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    authorization = f"Authorization: Basic {token}\r\n" if password is not None else ""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Connection: close\r\n\r\n".encode()


def fetch(server: Server, context: ssl.SSLContext, request: bytes = get()) -> bytes:  # a constant
    """Return the whole answer, or nothing without one."""
    with suppress(OSError), connect(server, context) as client:
        client.sendall(request)
        return hear(client)
    return b""


def admitted(server: Server, context: ssl.SSLContext) -> bool:
    return fetch(server, context).endswith(DISCLOSED)


class TestTls:
    @pytest.mark.parametrize("version", ["TLS12", "TLS13"])
    def test_whole_answers(self, web_files: WebFiles, version: str) -> None:
        """Every form of an answer arrives whole through TLS, one after the other on one connection."""
        content = os.urandom(3_000_000)
        put(web_files.runtime / "metrics.prom", content)
        with running(web_files.runtime, gate=web_files.gate(PAIR)) as server:
            with connect(server, web_files.client(version=version)) as client, client.makefile("rb") as stream:
                for method, coding in itertools.product(("GET", "HEAD"), ("identity", "gzip")):
                    line = f"{method} /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: {coding}\r\n\r\n"
                    client.sendall(line.encode())
                    head = b"".join(iter(stream.readline, b"\r\n"))
                    size = int(re.findall(rb"Content-Length: (\d+)", head)[0])
                    if method == "GET":
                        body = stream.read(size)
                        assert (gzip.decompress(body) if coding == "gzip" else body) == content + DISCLOSED[
                            len(METRICS) :
                        ]
            await_connections(server, 0)

    def test_goodbye(self, web_files: WebFiles) -> None:
        """The server closes a connection within TLS, so that an attacker cannot truncate an answer."""
        with running(web_files.runtime, gate=web_files.gate(PAIR)) as server:
            context = web_files.client()
            raw = socket.create_connection(server.address)
            with context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as client:
                client.sendall(get())
                assert hear(client).endswith(DISCLOSED)

    @pytest.mark.long
    def test_answer_under_way(self, web_files: WebFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the server is stopped during an answer, it completes the answer, without a byte in plain text."""
        monkeypatch.setattr(serve, "STOP_SECONDS", 1000)
        content = os.urandom(30_000_000)
        put(web_files.runtime / "metrics.prom", content)
        gate = web_files.gate(PAIR)
        with (
            running(web_files.runtime, patience=1000, gate=gate) as server,
            connect(server, web_files.client()) as client,
        ):
            client.sendall(get())
            head = client.recv(1)
            address = server.address
            server.stop()
            with suppress(ConnectionRefusedError):
                while True:
                    socket.create_connection(address).close()
            assert (head + hear(client)).endswith(content + DISCLOSED[len(METRICS) :])

    @pytest.mark.usefixtures("without_deadlines")
    def test_large_body(self, web_files: WebFiles) -> None:
        """A client that sends a larger body than expected still gets the answer."""
        head = b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n"
        with running(web_files.runtime, gate=web_files.gate(PAIR)) as server:
            assert fetch(server, web_files.client(), head + bytes(2_000_000)).startswith(b"HTTP/1.1 405 ")

    def test_only_http_1(self, web_files: WebFiles) -> None:
        """To a client that speaks HTTP/2 as well, HTTP/1.1 is what is agreed on."""
        context = web_files.client()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with running(web_files.runtime, gate=web_files.gate(PAIR)) as server, connect(server, context) as client:
            assert client.selected_alpn_protocol() == "http/1.1"

    def test_plain_http(self, web_files: WebFiles) -> None:
        """A client that speaks plain HTTP gets an explanation, and nothing else."""
        with running(web_files.runtime, gate=web_files.gate(PAIR)) as server:
            answer = say(server, get())
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"this port requires HTTPS, and received plain HTTP\n")

    def test_without_tls(self, web_files: WebFiles) -> None:
        """Without `tls_server_config` the port is plain, and still requires passwords."""
        with running(web_files.runtime, gate=web_files.gate(USERS)) as server:
            assert say(server, get()).startswith(b"HTTP/1.1 401 ")
            assert say(server, get(password="secret")).endswith(DISCLOSED)

    @pytest.mark.parametrize(("text", "status"), [(PAIR, b"200"), (USERS, b"200"), ("", b"421")])
    def test_another_name(self, web_files: WebFiles, text: str, status: bytes) -> None:
        """With TLS or a password, a browser sends no credentials to a page of another name. So the server answers any
        name, also on loopback.
        """
        request = get(password="secret").replace(b"localhost", b"node-1.example.org")
        with running(web_files.runtime, gate=web_files.gate(text)) as server:
            answer = fetch(server, web_files.client(), request) if text == PAIR else say(server, request)
        assert answer.startswith(b"HTTP/1.1 %s " % status)

    @OLD
    @pytest.mark.parametrize(
        ("least", "most"), [pair for pair in itertools.product(VERSIONS, VERSIONS) if pair[0] <= pair[1]]
    )
    def test_versions(self, web_files: WebFiles, least: str, most: str) -> None:
        """A client of a version from `min_version` to `max_version` comes in, and no other."""
        text = f"{PAIR}  min_version: {least}\n  max_version: {most}\n"
        with running(web_files.runtime, gate=web_files.gate(text)) as server:
            found = {version: admitted(server, web_files.client(version=version)) for version in VERSIONS}
        assert found == {version: least <= version <= most for version in VERSIONS}

    def test_default_versions(self, web_files: WebFiles) -> None:
        """By default those are 1.2 and 1.3."""
        with running(web_files.runtime, gate=web_files.gate(PAIR)) as server:
            assert admitted(server, web_files.client(version="TLS12"))
            assert admitted(server, web_files.client(version="TLS13"))

    @pytest.mark.parametrize("key", ["ec", "rsa"])
    def test_cipher_suites(self, web_files: WebFiles, key: str) -> None:
        """A suite that is named is used, and a client that has only another is turned away."""
        web_files.put_pair(server_pair(web_files.ca, key))
        text = f"{PAIR}  max_version: TLS12\n  cipher_suites: "
        names = [name for name in SUITES if ("ECDSA" in name) == (key == "ec")]
        with running(web_files.runtime, gate=web_files.gate(f"{text}[{names[0]}]\n")) as server:
            for name, other in zip(names, names[1:] + names[:1], strict=True):
                web_files.write(f"{text}[{name}]\n")
                with connect(server, web_files.client(ciphers="ALL:@SECLEVEL=0")) as client:
                    assert (client.cipher() or ("",))[0] == SUITES[name]
                assert not admitted(server, web_files.client(ciphers=SUITES[other]))

    def test_suites_of_1_3_alone(self, web_files: WebFiles) -> None:
        """Where only suites of TLS 1.3 are named, TLS 1.2 finds none; those of 1.3 are always there."""
        with running(
            web_files.runtime, gate=web_files.gate(PAIR + "  cipher_suites: [TLS_AES_128_GCM_SHA256]\n")
        ) as server:
            assert not admitted(server, web_files.client(version="TLS12"))
            assert admitted(server, web_files.client(version="TLS13"))

    @pytest.mark.parametrize("prefer", ["true", "false"])
    def test_whose_preference(self, web_files: WebFiles, prefer: str) -> None:
        """The order of the suites is the server's, or the client's where that is not to be preferred."""
        first, second = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
        text = f"{PAIR}  max_version: TLS12\n  cipher_suites: [{first}, {second}]\n"
        gate = web_files.gate(f"{text}  prefer_server_cipher_suites: {prefer}\n")
        context = web_files.client(ciphers=f"{SUITES[second]}:{SUITES[first]}")
        with running(web_files.runtime, gate=gate) as server, connect(server, context) as client:
            assert (client.cipher() or ("",))[0] == SUITES[first if prefer == "true" else second]

    @pytest.mark.parametrize(
        ("curve", "name", "other"),
        [
            ("CurveP256", "prime256v1", "secp521r1"),
            ("CurveP384", "secp384r1", "prime256v1"),
            ("CurveP521", "secp521r1", "prime256v1"),
            ("X25519", "X25519", "secp384r1"),
        ],
    )
    def test_curve(self, web_files: WebFiles, curve: str, name: str, other: str) -> None:
        """A curve that is named is the one that is used; a client without it is turned away."""
        if curve == "X25519" and sys.version_info < (3, 11, 3):
            pytest.skip("this Python's ssl knows no X25519 by name")
        with running(web_files.runtime, gate=web_files.gate(f"{PAIR}  curve_preferences: [{curve}]\n")) as server:
            for groups, comes_in in ((name, True), (other, False)):
                context = web_files.client()
                context.set_ecdh_curve(groups)
                assert admitted(server, context) is comes_in

    def test_inline(self, web_files: WebFiles) -> None:
        """Certificate, key and CA may be inline in the file."""
        pair = server_pair(web_files.ca)
        block = {"cert": pair.pem, "key": pair.key_pem, "client_ca": web_files.clients.pem}
        lines = "".join(
            f"  {key}: |\n" + "".join(f"    {line}\n" for line in pem.decode().splitlines())
            for key, pem in block.items()
        )
        gate = web_files.gate(f"tls_server_config:\n{lines}  client_auth_type: RequireAndVerifyClientCert\n")
        with running(web_files.runtime, gate=gate) as server:
            assert admitted(server, web_files.client(client_pair(web_files.clients)))
            assert not admitted(server, web_files.client())

    @pytest.mark.real("openssl")
    def test_openssl(self, web_files: WebFiles, tmp_path: Path) -> None:
        """`openssl s_client` proves the chain, and reads the metrics with a client certificate and a password."""
        (tmp_path / "ca.crt").write_bytes(web_files.ca.pem)
        own = client_pair(web_files.clients)
        (tmp_path / "own.pem").write_bytes(own.pem + own.key_pem)
        with running(web_files.runtime, gate=web_files.gate(VERIFY + USERS)) as server:
            command = [real_part("openssl"), "s_client", "-connect", f"127.0.0.1:{server.address[1]}", "-quiet",
                       "-verify_return_error", "-CAfile", str(tmp_path / "ca.crt"), "-verify_hostname", "localhost",
                       "-cert", str(tmp_path / "own.pem"), "-ign_eof"]  # fmt: skip
            done = subprocess.run(command, input=get(password="secret"), capture_output=True, check=True)
        assert done.stdout.endswith(DISCLOSED)


class TestClientCertificates:
    KINDS = ("none", "good", "unrelated", "expired", "server")

    def own(self, web_files: WebFiles, kind: str) -> Issued | None:
        match kind:
            case "good":
                return client_pair(web_files.clients)
            case "unrelated":  # the same name, another key
                return client_pair(make_ca("clients", **LIFE))
            case "expired":
                return client_pair(web_files.clients, not_after=NOW - timedelta(hours=1))
            case "server":
                return client_pair(web_files.clients, extended_usages=["server auth"])
            case _:
                return None

    @pytest.mark.parametrize("version", ["TLS12", "TLS13"])
    @pytest.mark.parametrize(
        ("policy", "comes_in"),
        [
            ("NoClientCert", KINDS),
            ("RequestClientCert", KINDS),
            ("VerifyClientCertIfGiven", ("none", "good")),
            ("RequireAndVerifyClientCert", ("good",)),
        ],
    )
    def test_policies(self, web_files: WebFiles, policy: str, comes_in: tuple[str, ...], version: str) -> None:
        """Each `client_auth_type` admits the same clients as in other servers with that setting."""
        authority = "" if policy == "NoClientCert" else "  client_ca_file: clients.crt\n"
        with running(
            web_files.runtime, gate=web_files.gate(f"{PAIR}{authority}  client_auth_type: {policy}\n")
        ) as server:
            found = [
                kind for kind in self.KINDS if admitted(server, web_files.client(self.own(web_files, kind), version))
            ]
        assert tuple(found) == comes_in

    def test_intermediate_as_authority(self, web_files: WebFiles) -> None:
        """Whatever CA is listed is trusted, also one that another has signed; several can be listed."""
        issuer = make_intermediate(web_files.clients, **LIFE)
        put(web_files.directory / "clients.crt", bundle(make_ca("another", **LIFE), issuer))
        with running(web_files.runtime, gate=web_files.gate(VERIFY)) as server:
            assert admitted(server, web_files.client(client_pair(issuer)))
            assert not admitted(server, web_files.client(client_pair(web_files.clients)))

    @pytest.mark.parametrize(
        ("names", "entry", "comes_in"),
        [
            (["DNS:a.example", "DNS:b.example"], "b.example", True),
            (["DNS:a.example"], "A.example", False),
            (["DNS:*.example"], "a.example", False),
            (["IP:192.0.2.1"], "192.0.2.1", True),
            (["IP:2001:db8::1"], "2001:db8::1", True),
            (["email:ops@example.org"], "ops@example.org", True),
            (["URI:spiffe://cluster/prometheus"], "spiffe://cluster/prometheus", True),
            (["dirName:a.example"], "a.example", False),
            ([], "prometheus", False),
        ],
    )
    def test_allowed_names(self, web_files: WebFiles, names: list[str], entry: str, comes_in: bool) -> None:
        """One of the client's alternative names must be literally in `client_allowed_sans`. The subject does not
        count.
        """
        with running(
            web_files.runtime, gate=web_files.gate(f"{VERIFY}  client_allowed_sans: ['{entry}', other]\n")
        ) as server:
            assert admitted(server, web_files.client(client_pair(web_files.clients, *names))) is comes_in


class TestPasswords:
    @pytest.mark.parametrize(
        "header",
        [
            "",
            "Basic",
            "Basic !!!",
            "Basic " + base64.b64encode(b"alice").decode(),
            "Basic " + base64.b64encode(b"alice:wrong").decode(),
            "Basic " + base64.b64encode(b"alice:").decode(),
            "Basic " + base64.b64encode(b"alice:secret\0x").decode(),
            "Basic " + base64.b64encode(b"bob:secret").decode(),
            "Basic " + base64.b64encode(b":secret").decode(),
            "Bearer " + base64.b64encode(b"alice:secret").decode(),
            f"Basic {base64.b64encode(HASH.encode()).decode()}",
        ],
    )
    def test_refused(self, web_files: WebFiles, header: str) -> None:
        """Without the right user and password the answer to any path is 401, with the authentication scheme."""
        line = f"Authorization: {header}\r\n" if header else ""
        with running(web_files.runtime, gate=web_files.gate(USERS)) as server:
            for path in ("/metrics", "/", "/healthz", "/nothing"):
                answer = say(server, f"GET {path} HTTP/1.0\r\n{line}\r\n".encode())
                assert answer.startswith(b"HTTP/1.1 401 ")
                assert b'\r\nWWW-Authenticate: Basic realm="certmond"' in answer

    def test_forms_of_hashes(self, web_files: WebFiles) -> None:
        """Hashes of htpasswd ($2y$), of others ($2a$, $2b$), and of different costs are good; names may be any text."""
        texts = {"a": HASH.replace("$2b$", "$2y$"), "b": HASH.replace("$2b$", "$2a$"), "c": HASH, "Jörg": HASH}
        texts["d"] = bcrypt.hashpw(b"secret", bcrypt.gensalt(5)).decode()
        gate = web_files.gate("basic_auth_users:\n" + "".join(f"  {name}: {text}\n" for name, text in texts.items()))
        with running(web_files.runtime, gate=gate) as server:
            for name in texts:
                assert say(server, get(password="secret", user=name)).endswith(DISCLOSED)
                assert say(server, get(password="Secret", user=name)).startswith(b"HTTP/1.1 401 ")

    def test_long_password(self, web_files: WebFiles) -> None:
        """Only the first 72 bytes of a password count, as for the tool that made the hash."""
        text = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
        with running(web_files.runtime, gate=web_files.gate(f"basic_auth_users: {{alice: {text}}}\n")) as server:
            assert say(server, get(password="x" * 200)).endswith(DISCLOSED)
            assert say(server, get(password="x" * 71)).startswith(b"HTTP/1.1 401 ")

    def test_no_secret_is_in_an_answer_or_log(self, web_files: WebFiles, caplog: pytest.LogCaptureFixture) -> None:
        """Neither password nor hash is in an answer or in the log."""
        caplog.set_level(logging.DEBUG)
        with running(web_files.runtime, gate=web_files.gate(USERS)) as server:
            reported = say(server, get(password="hunter2")) + say(server, get(password="secret"))
            web_files.write(USERS.replace(HASH, HASH[:-1]))
            reported += say(server, get(password="secret"))
        for secret in (b"hunter2", b"secret", HASH[8:20].encode()):
            assert secret not in reported
            assert secret.decode() not in caplog.text


class TestHeaders:
    def test_on_every_answer(self, web_files: WebFiles) -> None:
        """The headers that are configured are on every answer, also on refusals; certmond's own give way to them."""
        headers = {
            "Content-Security-Policy": "frame-ancestors https://grafana.example",
            "Strict-Transport-Security": "max-age=300",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "deny",
            "X-XSS-Protection": "0",
        }
        lines = "".join(f"    {name}: '{value}'\n" for name, value in headers.items())
        gate = web_files.gate(f"http_server_config:\n  http2: true\n  headers:\n{lines}{USERS}")
        requests = (get("/", "secret"), get(password="secret"), get(), get("/nothing", "secret"), b"?\r\n\r\n")
        with running(web_files.runtime, gate=gate) as server:
            for request in requests:
                head = say(server, request).partition(b"\r\n\r\n")[0].decode()
                for name, value in headers.items():
                    assert re.findall(rf"(?mi)^{name}: (.*?)\r?$", head) == [value]

    def test_blank(self, web_files: WebFiles) -> None:
        """A blank header is not sent, and takes nothing away."""
        gate = web_files.gate(
            "http_server_config:\n  headers:\n    Content-Security-Policy: ''\n    X-XSS-Protection:\n"
        )
        with running(web_files.runtime, gate=gate) as server:
            head = say(server, get("/"))
        assert b"X-XSS-Protection" not in head
        assert head.count(b"Content-Security-Policy: default-src 'none'") == 1

    def test_rate(self, web_files: WebFiles) -> None:
        """Beyond `burst` requests, and one more each interval, the answer is 429."""
        with running(web_files.runtime, gate=web_files.gate("rate_limit: {interval: 1h, burst: 2}\n")) as server:
            assert [say(server, get())[9:12] for _ in range(3)] == [b"200", b"200", b"429"]

    def test_rate_comes_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was used up comes back, one each interval, up to `burst`."""
        now = [1000.0]
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        bucket = Bucket(RateLimit(interval="10s", burst="2"))  # type: ignore[arg-type]
        taken = []
        for seconds in (0, 0, 0, 10, 0, 100, 0, 0):
            now[0] += seconds
            taken.append(bucket.take())
        assert taken == [True, True, False, True, False, True, True, False]


class TestChanges:
    """Files are followed without a restart, and a server never has less than it had."""

    def test_users(self, web_files: WebFiles) -> None:
        """The users are those of the present file, also for a client that was admitted before."""
        with running(web_files.runtime, gate=web_files.gate(USERS)) as server:
            assert say(server, get(password="secret")).endswith(DISCLOSED)
            web_files.write(USERS.replace("alice", "bob"))
            assert say(server, get(password="secret")).startswith(b"HTTP/1.1 401 ")
            assert say(server, get(password="secret", user="bob")).endswith(DISCLOSED)
            web_files.write("")
            assert say(server, get()).endswith(DISCLOSED)

    def test_certificate(self, web_files: WebFiles) -> None:
        """The next connection is served with the certificate that has been put in place."""
        with running(web_files.runtime, gate=web_files.gate(PAIR)) as server:
            for key in ("ec", "rsa", "ec-p384"):
                pair = server_pair(web_files.ca, key)
                web_files.put_pair(pair)
                with connect(server, web_files.client()) as client:
                    assert client.getpeercert(binary_form=True) == pair.der

    def test_torn_pair(
        self, web_files: WebFiles, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While one half of a pair is new, the old pair is served, and for a moment that is no event."""
        monkeypatch.setattr(gate_module, "CHANGE_SECONDS", 1000)
        before, after = server_pair(web_files.ca), server_pair(web_files.ca)
        web_files.put_pair(before)
        with running(web_files.runtime, gate=web_files.gate(PAIR)) as server:

            def served() -> bytes | None:
                with connect(server, web_files.client()) as client:
                    return client.getpeercert(binary_form=True)

            put(web_files.directory / "tls.crt", after.pem)
            assert [served(), served()] == [before.der, before.der]
            put(web_files.directory / "tls.key", after.key_pem)
            assert served() == after.der
        assert caplog.records == []

    def test_files_that_alternate_are_reported(
        self, web_files: WebFiles, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The wait for a writer counts from the first time that the files were unusable, however often they change. A
        new wait begins after two seconds of valid files.
        """
        now = [1000.0]
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        web_files.write(USERS)
        gate = gate_module.Gate(web_files.path)
        reported = []
        for content, seconds in (
            ("x: 1\n", 0.7),
            ("", 0.7),
            ("y: 1\n", 0.7),
            ("", 0.7),
            ("z: 1\n", 2),
            ("", 2),
            ("x: 1\n", 0),
        ):
            web_files.write(USERS + content)
            gate.policy()
            reported.append(len(caplog.records))
            now[0] += seconds
            gate.policy()
        assert reported == [0, 0, 0, 1, 2, 2, 2]

    def test_a_problem_is_reported_once(
        self, web_files: WebFiles, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An unusable configuration is reported once in the journal, with all problems, and the last valid one
        stays.
        """
        monkeypatch.setattr(gate_module, "CHANGE_SECONDS", 0)
        with running(web_files.runtime, gate=web_files.gate(USERS)) as server:
            web_files.write(f"{USERS}colour: red\nrate_limits: 1\n")
            for _ in range(4):
                assert METRICS in say(server, get(password="secret"))
            [record] = caplog.records
            assert record.levelno == logging.WARNING
            assert f"{web_files.path}:3: colour: unknown key" in record.getMessage()
            assert f"{web_files.path}:4: rate_limits: unknown key; did you mean rate_limit?" in record.getMessage()
            web_files.path.unlink()
            for _ in range(4):
                assert METRICS in say(server, get(password="secret"))
            assert "is unreadable (No such file or directory)" in caplog.records[1].getMessage()
            web_files.write("")
            assert say(server, get()).endswith(DISCLOSED)
        assert len(caplog.records) == 2

    def test_a_metric_reports_a_refused_change(self, web_files: WebFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        """While a change is refused, `/metrics` reports it after the daemon's metrics, in each form, with another tag.
        The metric is 1 before, while the change may be incomplete, and again when the file is valid.
        """
        now = [1000.0]
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        gate, tags = web_files.gate(""), set()
        with running(web_files.runtime, patience=1e6, gate=gate) as server:
            for text, later, value in (("", 0, 1), ("a: b\n", 0, 1), ("a: b\n", 3, 0), ("c: d\n", 0, 0), ("", 0, 1)):
                if text != web_files.path.read_text():
                    web_files.write(text)
                now[0] += later
                ask(server, "/healthz")  # looks at the file
                response, body = ask(server, "/metrics", Accept_Encoding="identity")
                again = ask(server, "/metrics", Accept_Encoding="gzip")[1]
                assert gzip.decompress(again) == body
                assert body.startswith(METRICS)
                assert body.endswith(b"\ncertmond_web_config_last_reload_successful %d\n" % value)
                tags.add((response.headers["ETag"], value))
        assert len(tags) == 2

    @pytest.mark.parametrize("text", [PAIR, ""])
    def test_the_metric_of_a_large_rendering(self, web_files: WebFiles, text: str) -> None:
        """What the listener adds comes behind whatever the daemon rendered, however long that is."""
        content = os.urandom(3_000_000)
        put(web_files.runtime / "metrics.prom", content)
        with running(web_files.runtime, gate=web_files.gate(text)) as server:
            answer = fetch(server, web_files.client(), get()) if text else say(server, get())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert body.startswith(content)
        assert body[len(content) :].startswith(b"# HELP certmond_web_config_last_reload_successful ")
        assert b"\r\nContent-Length: %d" % len(body) in head

    def test_renewal_beside_a_mistake(self, web_files: WebFiles) -> None:
        """While the file has a mistake, the certificate that it named before is still followed."""
        with running(web_files.runtime, gate=web_files.gate(PAIR)) as server:
            web_files.write(PAIR + "  colour: red\n")
            for mistake in (
                "  colour: red\n",
                "  client_ca_file: gone\n  client_auth_type: RequireAndVerifyClientCert\n",
            ):
                web_files.write(PAIR + mistake)
                pair = server_pair(web_files.ca)
                web_files.put_pair(pair)
                with connect(server, web_files.client()) as client:
                    assert client.getpeercert(binary_form=True) == pair.der

    def test_authority(self, web_files: WebFiles) -> None:
        """A CA that is no longer listed admits no client: new connections at once, an old one after an answer."""
        own = client_pair(web_files.clients)
        with running(web_files.runtime, gate=web_files.gate(VERIFY)) as server:
            with connect(server, web_files.client(own)) as client, client.makefile("rb") as stream:
                for connection in (b"keep-alive", b"close"):
                    client.sendall(get().replace(b"Connection: close\r\n", b""))
                    head = b"".join(iter(stream.readline, b"\r\n"))
                    assert b"Connection: " + connection in head
                    assert stream.read(len(DISCLOSED)) == DISCLOSED
                    put(web_files.directory / "clients.crt", make_ca("clients", **LIFE).pem)
                assert stream.read() == b""
            assert not admitted(server, web_files.client(own))

    def test_tls_comes_and_goes(self, web_files: WebFiles) -> None:
        """A file that begins to ask for TLS gets it, and one that ceases gets a plain port."""
        with running(web_files.runtime, gate=web_files.gate("")) as server:
            assert say(server, get()).endswith(DISCLOSED)
            web_files.write(PAIR)
            assert admitted(server, web_files.client())
            web_files.write("")
            assert say(server, get()).endswith(DISCLOSED)

    def test_another_password_is_no_change_for_the_certificate(self, web_files: WebFiles) -> None:
        """A client with the right password is not checked again because the certificate was renewed."""
        gate = web_files.gate(PAIR + USERS)
        before = gate.policy()
        web_files.put_pair(server_pair(web_files.ca))
        assert gate.policy() is not before
        assert gate.policy()._passwords is before._passwords


class TestStart:
    """An unusable configuration at the start is refused, with all problems."""

    @pytest.mark.parametrize(
        ("files", "problem"),
        [
            (
                {"tls.crt": None},
                r"web.yaml:2: tls_server_config.cert_file: certmond cannot read \S+/tls.crt \(No such file",
            ),
            (
                {"tls.key": None},
                r"web.yaml:3: tls_server_config.key_file: certmond cannot read \S+/tls.key \(No such file",
            ),
            (
                {"clients.crt": None},
                r"web.yaml:4: tls_server_config.client_ca_file: certmond cannot read \S+/clients.crt",
            ),
            ({"clients.crt": b"nothing"}, r"web.yaml:4: tls_server_config.client_ca_file: contains no certificate"),
            ({"tls.crt": b"nothing"}, r"web.yaml:2: tls_server_config.cert_file: cannot be used with \S+/tls.key"),
            ({"tls.key": b""}, r"web.yaml:2: tls_server_config.cert_file: cannot be used with \S+/tls.key"),
            ({"tls.key": bytes(2_000_000)}, r"web.yaml:2: tls_server_config.cert_file: cannot be used with"),
        ],
    )
    def test_files(self, web_files: WebFiles, files: dict[str, bytes | None], problem: str) -> None:
        """A file that is missing, empty, too large or of another kind is reported with its key, line and path."""
        for name, content in files.items():
            path = web_files.directory / name
            path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(ConfigError, match=problem) as caught:
            web_files.gate(VERIFY)
        assert len(caught.value.problems) == 1

    def test_all_files(self, web_files: WebFiles) -> None:
        """Several problems are reported at once."""
        for name in ("tls.crt", "tls.key", "clients.crt"):
            (web_files.directory / name).unlink()
        with pytest.raises(ConfigError) as caught:
            web_files.gate(VERIFY)
        assert len(caught.value.problems) == 3

    def test_an_unsupported_curve_is_reported(self, web_files: WebFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        """A curve that this Python or OpenSSL does not have is reported with its line, like any other problem."""
        monkeypatch.setitem(tls._CURVES, "X25519", "a curve of another time")
        problem = r"web.yaml:4: tls_server_config.curve_preferences: cannot be X25519, .*; remove the key, "
        with pytest.raises(ConfigError, match=problem):
            web_files.gate(PAIR + "  curve_preferences: [X25519]\n")

    def test_a_key_of_another_certificate_is_reported(self, web_files: WebFiles) -> None:
        """A key that does not belong to the certificate is reported."""
        put(web_files.directory / "tls.key", server_pair(web_files.ca).key_pem)
        with pytest.raises(
            ConfigError, match=r"cert_file: is not the certificate of \S+/tls.key; install a certificate with its key"
        ):
            web_files.gate(PAIR)

    @pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
    def test_encrypted_key(self, web_files: WebFiles, form: PrivateFormat) -> None:
        """An encrypted key is refused without a prompt for its password."""
        pair = server_pair(web_files.ca)
        put(web_files.directory / "tls.crt", pair.pem)
        put(web_files.directory / "tls.key", pair.key_as(form, b"password"))
        with pytest.raises(ConfigError, match=r"tls\.key is encrypted"):
            web_files.gate(PAIR)

    def test_pipe_for_a_key(self, web_files: WebFiles) -> None:
        """A pipe in the place of a file is not waited for."""
        (web_files.directory / "tls.key").unlink()
        os.mkfifo(web_files.directory / "tls.key")
        with pytest.raises(ConfigError, match="it is not a regular file"):
            web_files.gate(PAIR)

    def test_command(self, web_files: WebFiles) -> None:
        """`certmond serve --web-config` prints all problems, and exits 3."""
        web_files.write(PAIR + "  colour: red\nbasic_auth_users: {a: b}\n")
        command = [sys.executable, "-m", "certmond", "serve", "--runtime-dir", str(web_files.runtime), "--listen",
                   "127.0.0.1:0", "--web-config", str(web_files.path)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (3, "")
        lines = done.stderr.splitlines()
        assert [line.partition("web.yaml")[2].partition(": ")[0] for line in lines] == [":4", ":5"]

    @pytest.mark.parametrize(
        ("listen", "text", "warned"),
        [
            ("127.0.0.1:0", None, False),
            ("[::1]:0", None, False),
            ("0.0.0.0:0", None, True),
            ("[::]:0", None, True),
            ("0.0.0.0:0", PAIR, True),
            ("0.0.0.0:0", USERS, True),
            ("0.0.0.0:0", PAIR + USERS, False),
            ("0.0.0.0:0", VERIFY, False),
        ],
    )
    def test_open_to_others(
        self, web_files: WebFiles, listen: str, text: str | None, warned: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A listener on a network without TLS and authentication is allowed, and reported once."""
        with make_server(web_files.runtime, listen, None if text is None else web_files.gate(text)):
            pass
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * warned
        assert ("--web-config FILE" in caplog.text) is warned

    def test_what_is_loaded(self, web_files: WebFiles) -> None:
        """OpenSSL, bcrypt and pydantic are loaded only for a web configuration; what handles node keys never is."""
        web_files.write(PAIR + USERS)
        code = (
            "import sys, pathlib, certmond.expose.http.server\n"
            "print(sorted({'ssl', 'bcrypt', 'pydantic', 'cryptography'} & set(sys.modules)))\n"
            "from certmond.expose.http.access_control import Gate\n"
            "Gate(pathlib.Path(sys.argv[1]))\n"
            "print(sorted({'ssl', 'bcrypt', 'pydantic', 'cryptography', 'certmond.pki'} & set(sys.modules)))\n"
        )
        run = subprocess.run([sys.executable, "-c", code, web_files.path], capture_output=True, text=True, check=True)
        assert run.stdout.splitlines() == ["[]", "['bcrypt', 'pydantic', 'ssl']"]


class TestAbuse:
    """Under abuse of the listener, other clients are served, and the limits hold."""

    @pytest.fixture
    def server(self, web_files: WebFiles) -> Iterator[Server]:
        with running(web_files.runtime, gate=web_files.gate(PAIR + USERS)) as server:
            yield server

    def served(self, server: Server, web_files: WebFiles) -> bool:
        return fetch(server, web_files.client(), get(password="secret")).endswith(DISCLOSED)

    def test_silent_connections(self, server: Server, web_files: WebFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        """Thousands of connections say nothing: the limit holds, and who asks is answered, also from their address."""
        clients = []
        try:
            for number in range(1500):
                clients.append(socket.create_connection(server.address, source_address=("127.0.0.2", 0)))
                assert len(server.slots.taken) <= 64
                if number % 500 == 0:
                    assert self.served(server, web_files)
            monkeypatch.setattr(limits, "GRACE_SECONDS", 0)
            answer = b""
            while not answer:  # those that were turned away for it may not have left yet
                raw = socket.create_connection(server.address, source_address=("127.0.0.2", 0))
                with raw, suppress(OSError), web_files.client().wrap_socket(raw, server_hostname="localhost") as client:
                    client.sendall(get(password="secret"))
                    answer = hear(client)
            assert answer.endswith(DISCLOSED)
        finally:
            for each in clients:
                each.close()

    def test_a_handshake_makes_room(self, server: Server, web_files: WebFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client that begins a handshake replaces at once a client that has not, also from the same address."""
        monkeypatch.setattr(limits, "GRACE_SECONDS", 1000)
        clients = [socket.create_connection(server.address) for _ in range(limits.SHARE)]
        try:
            for number, client in enumerate(clients):
                client.sendall(b"\x16")
                await_connections(server, limits.SHARE, least=number + 1)
            assert self.served(server, web_files)
            assert hear(clients[0]) == b""
        finally:
            for each in clients:
                each.close()

    def test_half_a_handshake(self, web_files: WebFiles) -> None:
        """An unfinished handshake is closed at the end of its time, and delays no other client."""
        outgoing = ssl.MemoryBIO()
        talk = web_files.client().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            talk.do_handshake()
        half = outgoing.read()[:100]
        with running(web_files.runtime, gate=web_files.gate(PAIR)) as server:
            with socket.create_connection(server.address) as client:
                client.sendall(half)
                await_connections(server, 1, least=1)
                assert admitted(server, web_files.client())
            await_connections(server, 0)
            server.patience = 0.5
            with socket.create_connection(server.address, DEADLINE) as client, suppress(ConnectionError):
                client.sendall(half)
                assert hear(client) == b""
            await_connections(server, 0)

    @contextmanager
    def impatient(self, web_files: WebFiles) -> Iterator[tuple[Server, ssl.SSLSocket]]:
        """A connection that the server has answered once. The server waits only briefly from the next request on."""
        with running(web_files.runtime, gate=web_files.gate(PAIR)) as server:
            with connect(server, web_files.client()) as client:
                client.sendall(HEAD)
                answer = b""
                while not answer.endswith(b"\r\n\r\n"):
                    piece = client.recv(65536)
                    assert piece
                    answer += piece
                server.patience = 0.5
                yield server, client
            await_connections(server, 0)

    def test_slow_request(self, web_files: WebFiles) -> None:
        """A request that arrives byte by byte through TLS is closed at the end of its time."""
        with self.impatient(web_files) as (_, client):
            answer, piece = b"", None
            with suppress(OSError):  # the server can also cut the answer to this request
                client.sendall(HEAD)
            client.settimeout(0.02)
            while piece != b"":
                try:
                    client.sendall(b"G")
                    piece = client.recv(65536)
                    answer += piece
                except TimeoutError:
                    pass
                except OSError:
                    piece = b""
            assert answer.count(b"HTTP/1.1 ") <= 1

    def test_client_that_does_not_read(self, web_files: WebFiles) -> None:
        """A client that takes no more of its answer through TLS is cut when its time is up."""
        put(web_files.runtime / "metrics.prom", os.urandom(50_000_000))
        with self.impatient(web_files) as (server, client):
            with suppress(OSError):  # the server can cut the answer before its first byte
                client.sendall(get())
                client.recv(1)
            await_connections(server, 0)

    @pytest.mark.parametrize(
        "noise",
        [b"\0" * 100_000, b"\x16\x03\x01\xff\xff" + b"\1" * 70_000, b"\x80\x2e\x01\x00\x02", b"SSH-2.0-x\r\n" * 9000,
         b"\x15\x03\x01\0\2\2\x28", b"\x16\x03\x01\0\4\1\xff\xff\xff" * 2000],
    )  # fmt: skip
    def test_noise(self, server: Server, web_files: WebFiles, noise: bytes, caplog: pytest.LogCaptureFixture) -> None:
        """Bytes that are no TLS end the connection without an event."""
        with socket.create_connection(server.address) as client, suppress(OSError):
            client.sendall(noise)
            client.shutdown(socket.SHUT_WR)
            hear(client)
        await_connections(server, 0)
        assert self.served(server, web_files)
        assert caplog.records == []

    @pytest.mark.parametrize(
        ("request_bytes", "status"),
        [
            (b"GET /" + b"x" * 20_000, 414),
            (b"GET / HTTP/1.1\r\nAuthorization: Basic " + b"x" * 20_000, 431),
            (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000, 431),
        ],
    )
    def test_huge_headers(self, server: Server, web_files: WebFiles, request_bytes: bytes, status: int) -> None:
        """A header that is too long gets the error status, as without TLS."""
        assert fetch(server, web_files.client(), request_bytes).startswith(b"HTTP/1.1 %d " % status)
        assert self.served(server, web_files)

    @pytest.mark.long
    def test_wrong_passwords(self, server: Server, web_files: WebFiles) -> None:
        """While wrong passwords are tried continuously, a client with the right one is admitted."""
        stop = threading.Event()

        def guess() -> None:
            while not stop.is_set():
                raw = socket.create_connection(server.address, source_address=("127.0.0.2", 0))
                with suppress(OSError), web_files.client().wrap_socket(raw, server_hostname="localhost") as client:
                    client.sendall(get(password="wrong"))
                    answer = hear(client)
                    assert not answer or answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 503 "))

        guessers = [threading.Thread(target=guess) for _ in range(8)]
        for each in guessers:
            each.start()
        try:
            assert all(self.served(server, web_files) for _ in range(10))
        finally:
            stop.set()
            for each in guessers:
                each.join()
