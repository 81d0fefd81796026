"""A command that restarts, beside the daemon: they have one record, and either goes on with what the other began."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import make_ca, make_server
from tests.daemon_harness import DEADLINE, Running, running

DAY = timedelta(days=1)


class Home:
    """A certificate and its one service, which a program restarts. It is well while `health` is listened to."""

    def __init__(self, place: Path) -> None:
        self.place, self.state = place, place / "state"
        self.health = socket.create_server(("127.0.0.1", 0))
        now = datetime.now(UTC)
        ca = make_ca("ca", not_before=now - DAY, not_after=now + 900 * DAY)
        web = make_server(ca, "web", names=["DNS:web"], not_before=now - DAY, not_after=now + 300 * DAY)
        for name, content in (
            ("ca.crt", ca.pem),
            ("ca.key", ca.key_pem),
            ("web.crt", web.pem),
            ("web.key", web.key_pem),
        ):
            (place / name).write_bytes(content)
            (place / name).chmod(0o600)
        self.runs = place / "runs"
        program = place / "act"
        program.write_text(f"#!/bin/sh\necho run >>{self.runs}\n")
        program.chmod(0o755)
        entries: list[dict[str, Any]] = [
            {"name": "ca", "authority": True},
            {"name": "web", "ca": "ca", "usages": ["server auth"], "consumers": ["web"]},
        ]
        for entry in entries:
            entry |= {"path": f"{place}/{entry['name']}.crt", "key": f"{place}/{entry['name']}.key"}
        health = "tcp://{}:{}".format(*self.health.getsockname())
        self.config = place / "config.yaml"
        self.config.write_text(yaml.safe_dump({
            "mode": "enforce", "profile": "none", "node_name": "node-1", "hold": {"unsynchronised_clock": False},
            "restart": {"stable": "1s", "spacing": "1s", "ready_within": "2s"}, "certificates": entries,
            "services": [{"name": "web", "kind": "command", "command": [str(program)], "health": health}],
        }))  # fmt: skip

    @property
    def options(self) -> tuple[str, ...]:
        return "--config", str(self.config), "--state-dir", str(self.state)

    def daemon(self) -> AbstractContextManager[Running]:
        return running(Path("/"), self.place, *self.options)

    @contextmanager
    def stopped_after_its_act(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command that has just run the program, and comes to nothing more until it is told to go on."""
        command = [sys.executable, "-u", "-m", "certmond", *self.options, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                assert any(line == f"web: {self.place}/act was run\n" for line in iter(process.stdout.readline, ""))
                process.send_signal(signal.SIGSTOP)
                yield process
            finally:
                process.kill()

    def ended(self, result: str) -> bool:
        """Whether the daemon has noted such an end of a restart."""
        lines = map(json.loads, (self.state / "audit.log").read_text().splitlines())
        return any(line.get("result") == result and line["by"] == "daemon" for line in lines)


def rest_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=DEADLINE)
    return process.returncode, said


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    with made.health:
        yield made


def test_what_the_daemon_has_brought_to_its_end_is_not_restarted_again(home: Home) -> None:
    """A command that asked for a restart says how it ended, and makes no other."""
    with home.daemon() as daemon:
        daemon.until((home.state / "restarts.json").exists, "it has met the service")
        with home.stopped_after_its_act("restart", "web") as command:
            os.rename(home.place / "web.crt", home.place / "away")  # an event; what is in it stays as it was
            os.rename(home.place / "away", home.place / "web.crt")
            daemon.until(lambda: home.ended("proven"), "the daemon has proven it")
            assert rest_of(command) == (0, "web: web was restarted and is well\n")
    assert home.runs.read_text().split() == ["run"]


def test_what_the_daemon_has_taken_back_is_no_success(home: Home) -> None:
    """Whoever renewed and began the restart says that it failed, although nothing old is in use any more."""
    before = (home.place / "web.crt").read_bytes()
    with home.stopped_after_its_act("renew", "web") as command:
        assert (home.place / "web.crt").read_bytes() != before
        home.health.close()
        with home.daemon() as daemon:
            daemon.until(lambda: home.ended("failed"), "neither the new files nor the former ones help")
            code, said = rest_of(command)
    assert code == 2
    assert said.startswith("web: web did not come up with the new files, nor with the former ones (")
    assert (home.place / "web.crt").read_bytes() == before
    assert home.runs.read_text().split() == ["run"] * 3
