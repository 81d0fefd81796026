"""The listener under every abuse at once, beside a daemon on whose node something changes."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from tests.abuse import Abuse, descriptors
from tests.daemon_harness import running
from tests.free_ports import free_port
from tests.node import PKI, Node
from tests.serve_process import serving
from tests.web_config_files import PAIR, USERS, WebFiles

GOOD = "127.0.0.9"
"""The address of a client that has the password and sends no other request."""
PASSES = 'certmond_passes_total{cause="inotify"}'
THREADS = 96
"""TasksMax of certmond-web.service."""
REFUSALS = {
    "slow_handshakes": {0}, "slow_requests": {0}, "noise": {0}, "silence": {0}, "rewrite": {0},
    "huge_head": {0, 431}, "plain": {0, 400}, "wrong_password": {0, 401, 503},
}  # fmt: skip
"""The possible answers to each kind of abuse; 0 is an end without an answer, for example without a free slot."""


@pytest.mark.parametrize(
    ("connections", "changes"),
    [(300, 3), pytest.param(10_000, 40, marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
)
def test_each_change_is_a_pass_and_reaches_authorized_clients(
    node: Node, tmp_path: Path, connections: int, changes: int
) -> None:
    """Clients hold thousands of silent connections, and send slow and broken handshakes, slow requests, huge headers,
    plain HTTP and wrong passwords, while the web configuration changes. Each change on the node still becomes a pass,
    and is served to a client at another address. No client is served without the password, and the threads of the
    listener stay within the limit of its unit.
    """
    for name in ("web", "serve"):
        (tmp_path / name).mkdir()
    web_files, port, most = WebFiles(tmp_path / "web"), free_port(), 0
    web_files.write(PAIR + USERS)
    listen = ("--listen", f"127.0.0.1:{port}", "--web-config", str(web_files.path))
    with descriptors(connections + 1000) as allowed, running(node.root, tmp_path) as daemon:
        abuse, silent = Abuse(web_files, port), min(connections, allowed - 500)

        def shown(serial: str) -> bool:
            return bool((daemon.entry("apiserver") or {})["serial"] == serial)

        def answered(serial: str) -> bool:
            return serial.encode() in abuse.fetch(GOOD, "/api/v1/status", "secret")

        with serving(tmp_path / "serve", "", *listen, "--runtime-dir", str(daemon.runtime)) as listener:
            listener.until(lambda: abuse.fetch(GOOD, "/healthz", "secret"), "listens")
            with abuse.under_way(silent):
                listener.until(lambda: abuse.most_open >= silent, "all are open")
                for number in range(changes):
                    before = daemon.number(PASSES)
                    node.reissue(f"{PKI}/apiserver")
                    serial = str(node.certificate(f"{PKI}/apiserver.crt").serial_number)
                    daemon.until(partial(shown, serial), f"change {number} is shown")
                    assert daemon.number(PASSES) > before
                    listener.until(partial(answered, serial), f"change {number} is answered")
                    status = Path(f"/proc/{listener.process.pid}/status").read_text()
                    most = max(most, int(re.findall(r"Threads:\s*(\d+)", status)[0]))
            said = listener.log.read_text() + daemon.log.read_text()
    assert abuse.answers.keys() == REFUSALS.keys()
    assert {kind: found for kind, found in abuse.answers.items() if not REFUSALS[kind].issuperset(found)} == {}
    assert most <= THREADS
    assert "Traceback" not in said
