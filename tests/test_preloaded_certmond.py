"""A process that the preloaded parent forks behaves like `python -m certmond`."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pytest

from certmond.controllers import restart
from certmond.pki.services import restart_state_machine
from tests import hurried_certmond, preloaded_certmond
from tests.control_plane import namespaces
from tests.deadline import DEADLINE
from tests.node import Node

COMMANDS: tuple[list[str], ...] = (
    ["version"],
    ["check", "--at", "2026-12-01T00:00:00Z", "-o", "yaml"],
    ["check", "nothing"],
    ["check", "--outputt"],
    ["renew", "--dry-run", "apiserver"],
    [],
)


def wait_for(path: Path) -> None:
    end = time.monotonic() + DEADLINE
    while not path.exists():
        assert time.monotonic() < end
        select.select([], [], [], 0.02)


def result(run: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    """Return the exit code and the texts of a run. The end of a new certificate depends on the minute of the run."""
    return run.returncode, re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "TIME", run.stdout), run.stderr


@pytest.mark.long
def test_its_results_are_those_of_an_interpreter_of_its_own(node: Node) -> None:
    """Each command, also a wrong one, has the same output, the same errors and the same exit code."""
    for words in COMMANDS:
        arguments = ["--root", str(node.root), *words]
        command = [sys.executable, "-m", "certmond", *arguments]
        own = subprocess.run(command, capture_output=True, text=True, check=False)
        forked = preloaded_certmond.run(arguments, DEADLINE)
        assert result(forked) == result(own), words


@pytest.mark.long
def test_it_has_directory_environment_and_mask_of_its_caller(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It resolves relative paths in the caller's directory, and has the given environment and the caller's mask."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("node_name: node-7\n")
    words = ["--root", str(node.root), "--config", "config.yaml", "config", "show"]
    shown = preloaded_certmond.run(words, DEADLINE, {"PATH": os.environ["PATH"]})
    assert "node_name: node-7" in shown.stdout, shown.stderr
    hurry = {"HURRY": '{"certmond.pki.rotation.phases:NONE": 1}'}
    hurried = preloaded_certmond.run(["version"], DEADLINE, hurry, hurried_certmond.PROGRAM)
    assert (hurried.returncode, "has no attribute 'NONE'" in hurried.stderr) == (1, True)
    mask = os.umask(0o027)
    try:
        with tempfile.TemporaryFile() as output:
            words = ["--root", str(node.root), "run", "--runtime-dir", str(tmp_path)]
            process = preloaded_certmond.start(words, output, output, os.environ)
    finally:
        os.umask(mask)
    wait_for(tmp_path / "status.json")
    assert "Umask:\t0027" in Path(f"/proc/{process.pid}/status").read_text()
    process.kill()
    process.wait(DEADLINE)


@pytest.mark.long
def test_a_kill_ends_it(node: Node, tmp_path: Path) -> None:
    """The exit code is the negative number of the signal, and the next process starts."""
    words = ["--root", str(node.root), "run", "--runtime-dir", str(tmp_path)]
    with tempfile.TemporaryFile() as output:
        process = preloaded_certmond.start(words, output, output, os.environ)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.0)
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL
        process.send_signal(signal.SIGTERM)  # it has ended, and the number may be another process
    assert preloaded_certmond.run(["version"], DEADLINE).returncode == 0


WORKER = """
import os, sys
from tests import preloaded_certmond
with open(os.devnull, "w") as output:
    words = ["run", "--root", sys.argv[1], "--state-dir", sys.argv[2], "--runtime-dir", sys.argv[2]]
    print(preloaded_certmond.start(words, output, output, os.environ).pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.long
def test_it_ends_with_a_killed_worker(node: Node, tmp_path: Path) -> None:
    """A daemon does not survive a worker of pytest that was killed."""
    command = [sys.executable, "-c", WORKER, str(node.root), str(tmp_path)]
    pid = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout)
    end = time.monotonic() + DEADLINE
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        select.select([], [], [], 0.02)


@pytest.mark.real("unshare")
def test_it_joins_the_namespaces_of_a_node(tmp_path: Path) -> None:
    """It has the files and the network of the node."""
    configuration = tmp_path / "node/etc/certmond/config.yaml"
    configuration.parent.mkdir(parents=True)
    configuration.write_text("node_name: node-7\n")
    with namespaces(tmp_path) as prefix, tempfile.TemporaryFile() as output:
        joined = preloaded_certmond.namespaces_of(prefix)
        assert joined
        shown = preloaded_certmond.run(["config", "show"], DEADLINE, namespaces=joined)
        assert "node_name: node-7" in shown.stdout, shown.stderr
        words = ["run", "--runtime-dir", str(tmp_path)]
        process = preloaded_certmond.start(words, output, output, os.environ, namespaces=joined)
        wait_for(tmp_path / "status.json")
        own = subprocess.run([*prefix, "readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True)
        network = os.readlink(f"/proc/{process.pid}/ns/net")
        process.kill()
        process.wait(DEADLINE)
        assert network == own.stdout.strip()


def test_another_prefix_joins_no_namespaces(tmp_path: Path) -> None:
    """A process with a prefix such as strace, or with another option of nsenter, has its own interpreter."""
    assert preloaded_certmond.namespaces_of(()) == []
    nsenter = ["/usr/bin/nsenter", "--mount=/proc/7/ns/mnt", "--net=/proc/7/ns/net", f"--wd={tmp_path}"]
    assert preloaded_certmond.namespaces_of(nsenter) == ["/proc/7/ns/mnt", "/proc/7/ns/net"]
    for prefix in (["strace", "-f"], [*nsenter, "--setuid=65534"], [*nsenter, "strace"]):
        assert preloaded_certmond.namespaces_of(prefix) is None, prefix


def test_a_shorter_time_reaches_modules_that_have_imported_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked process, whose modules are imported already, has the times of one that imports them afterwards."""
    hurried_certmond.hurry_one("certmond.pki.services.restart_state_machine:INTERVAL", 0.3, monkeypatch.setattr)
    for module in (restart_state_machine, restart):
        assert timedelta(seconds=0.3) == module.INTERVAL
