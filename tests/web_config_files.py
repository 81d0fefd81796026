"""A directory with a web configuration and its files, and clients that trust its CA."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypedDict

from certmond.expose.http.access_control import Gate
from tests.builders import Issued, make_ca, make_leaf
from tests.http_server import put, render

HASH = "$2b$04$OvYMHI/91PxcZqq3VVbrn.f6w9WnXAZUR0jPghYDkmFpSLFu6ynkq"  # of "secret", at the lowest cost
PAIR = "tls_server_config:\n  cert_file: tls.crt\n  key_file: tls.key\n"
USERS = f"basic_auth_users:\n  alice: {HASH}\n"
VERIFY = PAIR + "  client_ca_file: clients.crt\n  client_auth_type: RequireAndVerifyClientCert\n"


class Life(TypedDict):
    not_before: datetime
    not_after: datetime


NOW = datetime.now(UTC).replace(microsecond=0)  # a handshake uses the clock of this machine
LIFE: Life = {"not_before": NOW - timedelta(days=2), "not_after": NOW + timedelta(days=2)}
TLS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}


def server_pair(ca: Issued, key: str = "ec") -> Issued:
    names = ["DNS:localhost", "IP:127.0.0.1"]
    return make_leaf(ca, "localhost", key=key, extended_usages=["server auth"], names=names, **LIFE)


def client_pair(ca: Issued, *names: str, **other: object) -> Issued:
    wanted = {"extended_usages": ["client auth"], "names": names or None, **LIFE, **other}
    return make_leaf(ca, "prometheus", **wanted)  # type: ignore[arg-type]


class WebFiles:
    """A directory with a web configuration and its files, and clients that trust its CA."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory, directory / "web.yaml"
        self.ca, self.clients = make_ca("servers", **LIFE), make_ca("clients", **LIFE)
        self.runtime = directory / "run"
        self.runtime.mkdir()
        render(self.runtime)
        self.put_pair(server_pair(self.ca))
        put(directory / "clients.crt", self.clients.pem)

    def put_pair(self, pair: Issued) -> None:
        put(self.directory / "tls.crt", pair.pem)
        put(self.directory / "tls.key", pair.key_pem)

    def gate(self, text: str) -> Gate:
        self.write(text)
        return Gate(self.path)

    def write(self, text: str) -> None:
        put(self.path, text.encode())

    def client(self, own: Issued | None = None, version: str | None = None, ciphers: str = "") -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.ca.pem.decode())
        if own:
            path = self.directory / "own.pem"
            path.write_bytes(own.pem + own.key_pem)
            context.load_cert_chain(path)
        if version:
            context.minimum_version = context.maximum_version = TLS[version]
        if ciphers or version:
            context.set_ciphers(ciphers or "ALL:@SECLEVEL=0")
        return context
