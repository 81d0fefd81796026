"""Commands beside the daemon: one process acts on the node, and each command follows its work to the end."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.transaction.commit import Transactions
from certmond.transaction.node_lock import ACTING, WRITING, is_held
from tests.builders import make_ca, make_server
from tests.daemon_harness import Running, running
from tests.deadline import AMPLE, DEADLINE
from tests.idle_process import asleep, needs_poll

DAY = timedelta(days=1)
STOP = """
import os, pathlib, signal
from certmond.cli.step_handover import Handover

def pause(*arguments, pause=Handover.pause, **options):
    if pathlib.Path({runs!r}).exists():
        Handover.pause = pause
        os.kill(os.getpid(), signal.SIGSTOP)
    pause(*arguments, **options)

Handover.pause = pause
"""
"""A program in which a command stops itself between two steps, at its first pause after a run of the restart."""


class Command:
    """A running command, and its output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def until(self, said: str) -> None:
        """Wait for a line that has this in it."""
        assert self.process.stdout
        for line in iter(self.process.stdout.readline, ""):
            self.lines.append(line.rstrip("\n"))
            if said in line:
                return
        raise AssertionError(f"never said: {said}\n" + "\n".join(self.lines))

    def end(self) -> int:
        """Let it continue to its end. Return the exit code."""
        self.process.send_signal(signal.SIGCONT)
        said, _ = self.process.communicate(timeout=DEADLINE)
        self.lines += said.splitlines()
        return self.process.returncode


class Home:
    """A certificate and its only service, which a program restarts. The service is healthy while `health` listens."""

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
        self.gate = place / "gate"
        program.write_text(f"#!/bin/sh\necho run >>{self.runs}\n[ ! -p {self.gate} ] || head -c 1 {self.gate}\n")
        program.chmod(0o755)
        self.program = program
        self.config = place / "config.yaml"
        self.configure()

    def configure(self, ready_within: str = AMPLE) -> None:
        """Write the configuration. A service that is not healthy after `ready_within` has failed."""
        entries: list[dict[str, Any]] = [
            {"name": "ca", "authority": True},
            {"name": "web", "ca": "ca", "usages": ["server auth"], "consumers": ["web"]},
        ]
        for entry in entries:
            entry |= {"path": f"{self.place}/{entry['name']}.crt", "key": f"{self.place}/{entry['name']}.key"}
        health = "tcp://{}:{}".format(*self.health.getsockname())
        self.config.write_text(yaml.safe_dump({
            "mode": "enforce", "profile": "none", "node_name": "node-1", "hold": {"unsynchronised_clock": False},
            "restart": {"stable": "1s", "spacing": "1s", "ready_within": ready_within}, "certificates": entries,
            "services": [{"name": "web", "kind": "command", "command": [str(self.program)], "health": health}],
        }))  # fmt: skip

    @contextmanager
    def held_open(self) -> Iterator[Callable[[], None]]:
        """The program ends only when the function that this gives is called, or at the end, as slowly as an API server
        that drains its connections.
        """
        os.mkfifo(self.gate)
        descriptor = os.open(self.gate, os.O_RDWR | os.O_NONBLOCK)

        def end() -> None:
            self.gate.unlink(missing_ok=True)  # a later run finds none
            os.write(descriptor, b"done")

        try:
            yield end
        finally:
            end()
            os.close(descriptor)

    def acts(self) -> list[str]:
        """Return the parent of each run of the program."""
        return self.runs.read_text().split() if self.runs.exists() else []

    @property
    def options(self) -> tuple[str, ...]:
        return "--config", str(self.config), "--state-dir", str(self.state)

    def daemon(self) -> AbstractContextManager[Running]:
        return running(Path("/"), self.place, *self.options)

    @contextmanager
    def command(self, *arguments: str, patient: bool = True, before: str = "") -> Iterator[Command]:
        """A command. One that is not `patient` does not wait for another command that is writing. The interpreter runs
        the program `before` first.
        """
        start = f"from certmond.cli import step_handover, main; step_handover.PATIENCE *= {int(patient)}; main.main()"
        program = f"{before}\n{start}"
        words = [sys.executable, "-u", "-c", program, *self.options, *arguments]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                yield Command(process)
            finally:
                process.kill()

    @contextmanager
    def stopped_after_its_act(self, *arguments: str) -> Iterator[Command]:
        """A command that has run the program and is stopped between two steps, until a test continues it."""
        with self.command(*arguments, before=STOP.format(runs=str(self.runs))) as command:
            command.until(f"web: {self.place}/act has run")
            _, status = os.waitpid(command.process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            assert not is_held(self.state, ACTING)
            assert not is_held(self.state, WRITING)
            yield command

    def ended(self, result: str) -> bool:
        """Return whether the daemon has recorded such an end of a restart."""
        lines = map(json.loads, (self.state / "audit.log").read_text().splitlines())
        return any(line.get("result") == result and line["by"] == "daemon" for line in lines)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    with made.health:
        yield made


def daemon_acts(daemon: Running) -> str:
    return f"the daemon (process {daemon.process.pid}) executes steps on this node; this command shows the progress"


@pytest.mark.long
def test_the_daemon_makes_the_restart_of_a_command(home: Home) -> None:
    """The command records the operator's decision, and the daemon restarts and proves. The command shows both, and ends
    with the result.
    """
    with home.daemon() as daemon:
        daemon.until((home.state / "restarts.json").exists, "it has met the service")
        with home.command("restart", "web") as command:
            assert command.end() == 0, command.lines
    assert command.lines[0] == daemon_acts(daemon)
    assert command.lines[-1] == "web: web was restarted and is healthy"
    assert home.ended("proven")
    assert home.acts() == ["run"]


@pytest.mark.long
def test_a_renewal_beside_a_daemon_lasts_as_long_as_the_restart(home: Home) -> None:
    """A command also waits for a restart that takes longer than its limit for other writers, once the restart has
    begun. It names what it waits for, and exits 0 when the daemon has proof.
    """
    with home.daemon() as daemon, home.held_open() as end:
        daemon.until((home.state / "restarts.json").exists, "it has met the service")
        with home.command("renew", "--all") as command:
            command.until("waiting: web: is being restarted (since ")
            with home.command("renew", "--all", patient=False) as second:  # which must write while the daemon does
                second.until(f"waiting: the daemon (process {daemon.process.pid}) is writing on this node (since ")
                end()
                assert second.end() == 0, second.lines
            assert command.end() == 0, command.lines
    assert "1 of 1 done" in command.lines
    assert any(line.startswith("daemon: web is restarted: ") for line in command.lines)
    assert any(line.startswith("web: web uses the new web") for line in second.lines), "\n".join(second.lines)


WRITERS = (
    ("archive", "restore", "web"),
    ("root-ca", "stage", "--generate"),
    ("renew", "web"),
)


@pytest.mark.long
@needs_poll
@pytest.mark.parametrize("words", WRITERS, ids=" ".join)
def test_what_writes_waits_for_a_daemon_that_is_writing(home: Home, words: tuple[str, ...]) -> None:
    """A command waits for a daemon that writes, also longer than for another command. It names the daemon and the start
    of its work, and then does its own.
    """
    with home.daemon() as daemon, home.held_open() as end:
        daemon.until((home.state / "restarts.json").exists, "it has met the service")
        with home.command("renew", "--all") as first:
            first.until("waiting: web: is being restarted (since ")
            with home.command(*words, patient=False) as second:
                second.until(f"waiting: the daemon (process {daemon.process.pid}) is writing on this node (since ")
                assert second.lines[-1].endswith(" UTC; see: certmond status)")
                asleep(second.process.pid, 20_000)
                end()
                assert second.end() == 0, second.lines
            assert first.end() in {0, 2}, first.lines  # its result may be replaced again by now


@pytest.mark.long
@pytest.mark.parametrize("words", WRITERS, ids=" ".join)
def test_a_command_that_is_writing_is_waited_for_until_an_instant(home: Home, words: tuple[str, ...]) -> None:
    """Without an acting daemon, the line names the writing process and the end of the wait. Then the exit code is 3,
    and the message has that process and the command that shows its work.
    """
    pid = os.getpid()
    with home.command("renew", "web") as command:
        assert command.end() == 0, command.lines
    with Transactions("/", home.state).lock(), home.command(*words, patient=False) as command:
        assert command.end() == 3, command.lines
    wait, said = command.lines[-2:]
    assert wait.startswith(f"waiting: another command (process {pid}) is writing on this node (since "), command.lines
    assert " UTC, until 2" in wait
    assert wait.endswith(f" UTC; see: ps -fp {pid})")
    fact = f"certmond: another command (process {pid}) is writing on this node"
    assert said == f"{fact}; repeat the command after this process has finished; to see the process, run: ps -fp {pid}"


@pytest.mark.long
def test_a_command_goes_on_where_the_daemon_was_killed(home: Home) -> None:
    """The daemon is killed in the middle of its act, and the command that followed it brings the restart to its end."""
    with home.daemon() as daemon, home.held_open() as end:
        daemon.until((home.state / "restarts.json").exists, "it has met the service")
        with home.command("renew", "web") as command:
            command.until("waiting: web: is being restarted (since ")
            daemon.stop(signal.SIGKILL)
            end()
            assert command.end() == 0, command.lines
    assert command.lines[-1] == "web: web uses the new web"
    assert not home.ended("proven")  # by the daemon
    assert home.acts() == ["run", "run"]


@pytest.mark.long
def test_a_command_follows_the_daemon_that_comes_back(home: Home) -> None:
    """A daemon that starts acts as soon as the command has made its step, and the command follows it from there."""
    with home.stopped_after_its_act("renew", "web") as command, home.daemon() as daemon:
        daemon.until(lambda: home.ended("proven"), "the daemon has proven it")
        assert command.end() == 0, command.lines
    assert "web: web uses the new web" in command.lines
    assert home.acts() == ["run"]


@pytest.mark.long
def test_of_two_commands_one_acts(home: Home) -> None:
    """Without a daemon, a second command follows the first, and ends with the same result."""
    with home.held_open() as end, home.command("renew", "web") as first:
        first.until("1 of 1 done")
        while not home.acts():
            select.select([], [], [], 0.02)
        with home.command("restart", "--stale") as second:
            second.until(
                f"another command (process {first.process.pid}) executes steps on this node; "
                "this command shows the progress"
            )
            end()
            assert first.end() == 0, first.lines
            assert second.end() == 0, second.lines
    assert home.acts() == ["run"]


@pytest.mark.long
def test_a_renewal_that_the_daemon_rolled_back_is_no_success(home: Home) -> None:
    """The command that renewed and began the restart reports a failure, although no old certificate is in use."""
    home.configure(ready_within="2s")
    before = (home.place / "web.crt").read_bytes()
    with home.stopped_after_its_act("renew", "web") as command:
        assert (home.place / "web.crt").read_bytes() != before
        home.health.close()
        with home.daemon() as daemon:
            daemon.until(lambda: home.ended("failed"), "neither the new files nor the previous files help")
            code = command.end()
    assert code == 2
    failed = "web: web did not start with the new files, nor with the previous files ("
    assert any(line.startswith(failed) for line in command.lines)
    assert (home.place / "web.crt").read_bytes() == before
    assert home.acts() == ["run"] * 3
