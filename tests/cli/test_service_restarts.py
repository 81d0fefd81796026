"""`certmond renew` probes the endpoints of the node before and after: one that no longer serves a certificate is an
error.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from certmond.cli.main import cli
from certmond.cli.service_restarts import restart_services
from certmond.pki.planning.steps import Plan
from certmond.pki.services.restart_episode import Past
from certmond.pki.services.restart_episode import Result as RestartResult
from certmond.pki.services.staleness import Surroundings
from tests.builders import DAY, YEAR, make_ca, make_leaf
from tests.deadline import DEADLINE
from tests.test_renewal import now

_INTERNAL_ERROR = b"\x15\x03\x03\x00\x02\x02\x50"  # a TLS record: alert, fatal, internal_error (RFC 8446, 6)


class Served:
    """A certificate below `place`, and a server of it that reads its files for each handshake. As etcd does with a pair
    that does not match, it ends the handshake by an alert where it `breaks` and the certificate is no longer the first.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.breaks = place, False
        start = now()
        ca = make_ca(not_before=start - YEAR, not_after=start + 9 * YEAR)
        leaf = make_leaf(
            ca, "leaf", not_before=start - DAY, not_after=start + 90 * DAY, extended_usages=["server auth"],
            names=["IP:127.0.0.1"],
        )  # fmt: skip
        for name, content in (("ca.crt", ca.pem), ("ca.key", ca.key_pem), ("crt", leaf.pem), ("key", leaf.key_pem)):
            (place / name).write_bytes(content)
            (place / name).chmod(0o600 if name.endswith("key") else 0o644)
        self.first = self.sha256()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def sha256(self) -> str:
        return hashlib.sha256((self.place / "crt").read_bytes()).hexdigest()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        if self.breaks and self.sha256() != self.first:
            connection.recv(1 << 14)
            connection.sendall(_INTERNAL_ERROR)
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.place / "crt", self.place / "key")
        with context.wrap_socket(connection, server_side=True):
            pass

    def certmond(self, *arguments: str) -> Result:
        at = {name: str(self.place / name) for name in ("ca.crt", "ca.key", "crt", "key")}
        service = {"name": "web", "kind": "command", "command": ["/bin/true"], "reloads": ["leaf"],
                   "serves": {"leaf": f"127.0.0.1:{self.port}"}}  # fmt: skip
        document = {
            "profile": "none", "services": [service], "hold": {"unsynchronised_clock": False},
            "certificates": [
                {"name": "ca", "path": at["ca.crt"], "key": at["ca.key"], "authority": True},
                {"name": "leaf", "path": at["crt"], "key": at["key"], "ca": "ca", "usages": ["server auth"],
                 "consumers": ["web"]},
            ],
        }  # fmt: skip
        path = self.place / "config.yaml"
        path.write_text(yaml.safe_dump(document))
        options = ["--config", str(path), "--state-dir", str(self.place / "state")]
        return CliRunner().invoke(cli, [*options, *arguments])


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr("certmond.cli.service_restarts._RELOADED_WITHIN", timedelta(seconds=1))
    monkeypatch.setattr("certmond.services.tls_probe.LIMIT", DEADLINE)
    tmp_path.chmod(0o755)
    server = Served(tmp_path)
    try:
        yield server
    finally:
        server.close()


def test_an_endpoint_that_serves_the_new_certificate_is_reported(served: Served) -> None:
    """The command is then complete: exit 0."""
    done = served.certmond("renew", "leaf")
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"leaf is served at 127.0.0.1:{served.port}\n" in done.stdout
    assert served.sha256() != served.first


@pytest.mark.parametrize("options", [(), ("--no-restart",), ("-o", "json")])
def test_an_endpoint_that_served_a_certificate_before_and_serves_none_now_is_an_error(
    served: Served, options: tuple[str, ...]
) -> None:
    """The command exits 2, with the endpoint, its answer, and the remedy, in any output format."""
    served.breaks = True
    done = served.certmond("renew", "leaf", *options)
    assert done.exit_code == 2
    assert re.fullmatch(
        rf"failed: web at 127\.0\.0\.1:{served.port} no longer serves a certificate: the handshake "
        r"failed \([a-z0-9/ ]*internal error\); see the log of the service, and restore the previous files: "
        r"certmond archive restore NAME\n",
        done.stderr,
    )
    assert served.sha256() != served.first


def test_an_endpoint_that_served_nothing_before_is_no_error(served: Served) -> None:
    """Nothing is worse than before."""
    served.breaks, served.first = True, ""
    done = served.certmond("renew", "leaf")
    assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.long
def test_a_check_finds_a_server_that_ends_each_handshake(served: Served) -> None:
    """It is critical, and is not said of one that serves."""
    assert served.certmond("check").exit_code == 0
    served.breaks, served.first = True, ""
    for name in ("crt", "key"):
        (served.place / name).touch()
    found = served.certmond("check", "-o", "json")
    while found.exit_code == 0:  # until the files have settled
        found = served.certmond("check", "-o", "json")
    assert found.exit_code == 2
    assert f"web at 127.0.0.1:{served.port} serves no certificate (the handshake failed" in found.stdout


@pytest.mark.parametrize(("ended", "result"), [(timedelta(seconds=-1), {}), (timedelta(0), {"web": "failed"})])
def test_a_restart_that_failed_while_certmond_replaced_the_files_is_a_result(
    ended: timedelta, result: dict[str, str]
) -> None:
    """A restart by the daemon counts if it ended after the command began to replace files, also if it ended before the
    command waits for restarts. An earlier restart does not count.
    """
    begun = now() - timedelta(minutes=1)
    past = Past("web", ended_at=begun + ended, result=RestartResult.FAILED, message="web is not healthy")
    restarting = SimpleNamespace(past=lambda: {"web": past}, restarted_now=frozenset)
    enforcer: Any = SimpleNamespace(
        restarting=restarting, see=lambda: (None, Surroundings()), plan=lambda *_: Plan(), restart=print
    )
    handover: Any = SimpleNamespace(
        discard_events=lambda: None, acting_lock=lambda: contextlib.nullcontext(True), retry_while_busy=lambda _: None
    )
    texts: list[str] = []
    progress: Any = SimpleNamespace(tell=texts.append)
    found = restart_services(enforcer, handover, progress, frozenset({"web"}), by_hand=False, begun=begun)
    assert found == (result, ())
    assert texts == ["web: web is not healthy"] * len(result)
