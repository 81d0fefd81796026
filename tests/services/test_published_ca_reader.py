"""The CA that a server publishes: a verified request, and answers that are no CA file."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from certmond.errors import RefusedError, UnreachableError
from certmond.services import published_ca_reader
from certmond.services.published_ca_reader import read_published_ca
from tests.builders import DAY, make_ca, make_intermediate, make_server
from tests.rancher_cluster import NOW

CA = make_ca("root", not_before=NOW - DAY, not_after=NOW + DAY)
OWN = make_intermediate(CA, "own", not_before=NOW - DAY, not_after=NOW + DAY)


class _Handler(BaseHTTPRequestHandler):
    answer: tuple[int, bytes] = (200, b"")
    missing = 0

    def do_GET(self) -> None:
        status, content = self.answer
        self.send_response(status if self.path == "/cacerts" else 404)
        self.send_header("Content-Length", str(len(content) + self.missing))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    leaf = make_server(OWN, "server", names=["DNS:localhost"], not_before=NOW - DAY, not_after=NOW + DAY)
    (tmp_path / "leaf").write_bytes(leaf.pem + OWN.pem)
    (tmp_path / "key").write_bytes(leaf.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "leaf", tmp_path / "key")
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    Thread(target=listener.serve_forever, daemon=True).start()
    yield f"localhost:{listener.server_port}"
    listener.shutdown()
    listener.server_close()


@pytest.mark.parametrize("anchor", [CA, OWN])
def test_the_content_is_returned(server: str, monkeypatch: pytest.MonkeyPatch, anchor: object) -> None:
    """Like for Go, an intermediate CA is a trust anchor, too."""
    monkeypatch.setattr(_Handler, "answer", (200, CA.pem))
    assert read_published_ca(server, anchor.pem.decode()) == CA.pem  # type: ignore[attr-defined]


def test_a_truncated_answer_is_no_ca(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ends before the announced end of the file."""
    monkeypatch.setattr(_Handler, "answer", (200, CA.pem))
    monkeypatch.setattr(_Handler, "missing", 1)
    with pytest.raises(UnreachableError, match=r"1 more expected"):
        read_published_ca(server, CA.pem.decode())


def test_an_unknown_server_is_refused(server: str) -> None:
    """The certificate must have a path to the CA of this node, and the name of the server."""
    for address, anchor in ((server, make_ca("other")), (server.replace("localhost", "127.0.0.1"), CA)):
        with pytest.raises(RefusedError, match="serves a certificate that this node does not trust"):
            read_published_ca(address, anchor.pem.decode())


@pytest.mark.parametrize("answer", [(404, b""), (200, b"x" * 9)])
def test_another_answer_is_no_ca(server: str, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, bytes]) -> None:
    """Another status, and a content beyond the limit."""
    monkeypatch.setattr(_Handler, "answer", answer)
    monkeypatch.setattr(published_ca_reader, "_MAX_SIZE", 8)
    with pytest.raises(UnreachableError, match="does not publish its CA at /cacerts"):
        read_published_ca(server, CA.pem.decode())


@pytest.mark.parametrize("address", ["localhost:1", "localhost:99999", "localhost:x"])
def test_a_server_that_does_not_answer(address: str) -> None:
    with pytest.raises(UnreachableError, match=f"the server {address} does not answer"):
        read_published_ca(address, CA.pem.decode())
