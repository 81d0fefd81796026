"""Nodes of a cluster of k3s on this host: servers and agents with the stand-in `rancher_stand_in`, and certmond.

Each node has its own directory. A server publishes its CA at /cacerts, and serves its leaf, as its last start loaded
them.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import yaml
from click.testing import CliRunner, Result

from certmond.cli.main import cli
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode
from tests import hurried_certmond
from tests.builders import make_ca
from tests.deadline import AMPLE
from tests.rancher_stand_in import AGENT_LEAVES, CAS, LEAVES, start

STAND_IN = Path(__file__).parent / "rancher_stand_in.py"
NOW = datetime.now(UTC)


class _Handler(BaseHTTPRequestHandler):
    home: Path

    def do_GET(self) -> None:
        content = (self.home / "published.crt").read_bytes() if self.path == "/cacerts" else b""
        stops = self.home / "stops"
        if stops.exists() and stops.read_text() == "check":
            (self.home / "stopped-check").touch()
        is_ready = self.path == "/cacerts" or (self.home / "running").exists()
        self.send_response(200 if is_ready else 500)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class _TLSServer(ThreadingHTTPServer):
    """Serves the leaf that the last start loaded."""

    home: Path

    def finish_request(self, request: Any, client_address: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.home / "served.crt", self.home / "served.key")
        try:
            with context.wrap_socket(request, server_side=True) as connection:
                super().finish_request(connection, client_address)
        except OSError:  # a client that only wants the certificate
            return


class RancherNode:
    """A node with its service and its configuration of certmond."""

    def __init__(self, name: str, directory: Path, stack: ExitStack, server: RancherNode | None) -> None:
        self.name, self.home, self.log = name, directory / name, directory / "starts"
        for each in ("server/tls/etcd", "agent/etc"):
            (self.home / each).mkdir(parents=True)
        self.node = {
            "kind": "server" if server is None else "agent", "datastore": str(directory / "datastore.json"),
            "log": str(self.log), "server": str(server.home) if server else "", "token": None,
        }  # fmt: skip
        self.write_node()
        program = self.home / "k3s"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} {self.home} "$@"\n')
        program.chmod(0o755)
        handler = type("Handler", (_Handler,), {"home": self.home})
        self.health = _served(ThreadingHTTPServer(("127.0.0.1", 0), handler), stack)
        self.port = 0
        if server is None:
            tls = _TLSServer(("127.0.0.1", 0), handler)
            tls.home = self.home
            self.port = _served(tls, stack)

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def write_node(self) -> None:
        (self.home / "node.json").write_text(json.dumps(self.node))

    def first_start(self) -> None:
        assert start(self.home, self.node) == 0
        self.config = self.home / "config.yaml"
        self.configure()

    def configure(self, ready_within: str = AMPLE) -> None:
        """Write the configuration. A service that is not ready after `ready_within` has failed."""
        self.config.write_text(yaml.safe_dump(self.document(ready_within)))

    def document(self, ready_within: str) -> dict[str, Any]:
        is_server = self.node["kind"] == "server"
        common: dict[str, Any] = {"authority": True, "intermediates": True, "consumers": ["k3s"], "renewed_by": "k3s"}
        authorities = [
            common | {"name": name.replace("/", "-"), "path": f"{self.home}/server/tls/{name}.crt",
                      "key": f"{self.home}/server/tls/{name}.key"} for name in CAS if is_server
        ]  # fmt: skip
        authorities += [
            common | {"name": f"agent-{name}", "path": f"{self.home}/agent/{name}.crt", "key_optional": True}
            for name in ("client-ca", "server-ca")
        ]
        leaves = {**({leaf: (ca,) for leaf, ca in LEAVES.items()} if is_server else {}),
                  **{leaf: (f"agent-{ca}",) for leaf, ca in AGENT_LEAVES.items()}}  # fmt: skip
        names = {leaf: leaf.rpartition("/")[2] for leaf in leaves}
        entries = [
            {"name": name, "path": f"{self.home}/{leaf}.crt", "key": f"{self.home}/{leaf}.key",
             "ca": [ca.replace("/", "-") for ca in leaves[leaf]], "consumers": ["k3s"], "renewed_by": "k3s, at a start",
             "renewed_at_start": "90d", "usages": ["server auth" if "serving" in leaf else "client auth"]}
            for leaf, name in names.items()
        ]  # fmt: skip
        service: dict[str, Any] = {
            "name": "k3s", "kind": "command", "command": [str(self.home / "k3s"), "start"],
            "health": f"http://127.0.0.1:{self.health}/readyz",
            "reloads": [each["name"] for each in (*authorities, *entries)],
        }  # fmt: skip
        if is_server:
            service["serves"] = {"serving-kube-apiserver": f"127.0.0.1:{self.port}"}
        rotated = self.home / "server/rotate-ca"
        return {
            "profile": "none", "node_name": self.name, "hold": {"unsynchronised_clock": False},
            "restart": {"stable": "1s", "spacing": "1s", "ready_within": ready_within},
            "certificates": [*authorities, *entries], "services": [service],
            "ca_replacement": {
                "command": [str(self.home / "k3s"), "certificate", "rotate-ca", f"--path={rotated}"],
                "present": str(self.home / "server/tls"), "staged": str(rotated / "tls"),
                "servers": str(self.home / "agent/etc/servers.json"),
            },
        }  # fmt: skip

    def run(self, *arguments: str) -> Result:
        """Run certmond in this process."""
        return CliRunner().invoke(cli, [*arguments, *self._options])

    def words(self, *arguments: str) -> list[str]:
        """Return the words of a process of certmond."""
        return [sys.executable, *hurried_certmond.PROGRAM, *arguments, *self._options]

    @property
    def _options(self) -> list[str]:
        return ["--config", str(self.config), "--state-dir", str(self.home / "state")]

    def wait_for(self, name: str, seconds: float = 400.0) -> None:
        """Wait until the stand-in has created the file `name`."""
        end = time.monotonic() + seconds
        while not (self.home / name).exists():
            assert time.monotonic() < end, f"{name} does not exist"
            time.sleep(0.05)

    def bundle(self, path: str = "server/tls/server-ca.crt") -> tuple[Certificate, ...]:
        return decode((self.home / path).read_bytes(), path).certificates

    def files(self, directory: str = "server/tls") -> dict[str, bytes]:
        place = self.home / directory
        return {str(each.relative_to(place)): each.read_bytes() for each in place.rglob("*") if each.is_file()}

    @property
    def staged(self) -> Path:
        return self.home / "server/rotate-ca/tls"


class RancherCluster:
    """Servers with the same CAs, and agents of the first server."""

    def __init__(self, directory: Path, stack: ExitStack, *, servers: int, agents: int = 0) -> None:
        directory.chmod(0o755)
        self.servers = [RancherNode(f"server-{n}", directory, stack, None) for n in range(1, servers + 1)]
        self.first = self.servers[0]
        self.log = self.first.log
        old = NOW - timedelta(days=400)
        for name in CAS:
            made = make_ca(
                f"k3s-{name.replace('/', '-')}@1", not_before=old, not_after=old + timedelta(days=3650), serial=0,
                usages=["digital signature", "key encipherment", "cert sign"], names=None,
            )  # fmt: skip
            for server in self.servers:
                for suffix, content in (("crt", made.pem), ("key", made.key_pem)):
                    file = server.home / f"server/tls/{name}.{suffix}"
                    file.touch(0o600)
                    file.write_bytes(content)
                    os.utime(file, (old.timestamp(), old.timestamp()))
        for server in self.servers:
            server.first_start()
        self.agents = [RancherNode(f"agent-{n}", directory, stack, self.first) for n in range(1, agents + 1)]
        for agent in self.agents:
            shutil.rmtree(agent.home / "server")
            document = {"ServerAddresses": [each.address for each in self.servers]}
            (agent.home / "agent/etc/servers.json").write_text(json.dumps(document))
            agent.first_start()
        self.log.unlink()

    def starts(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@contextmanager
def rancher_cluster(directory: Path, *, servers: int = 1, agents: int = 0) -> Iterator[RancherCluster]:
    with ExitStack() as stack:
        yield RancherCluster(directory, stack, servers=servers, agents=agents)


def _served(server: ThreadingHTTPServer, stack: ExitStack) -> int:
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_port)
