"""A process that the preloaded parent forks behaves like `python -m certmond`."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests import hurried_certmond, preloaded_certmond
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


@pytest.mark.long
def test_its_results_are_those_of_an_interpreter_of_its_own(node: Node) -> None:
    """Each command, also a wrong one, has the same output, the same errors and the same exit code."""
    for words in COMMANDS:
        arguments = ["--root", str(node.root), *words]
        command = [sys.executable, "-m", "certmond", *arguments]
        own = subprocess.run(command, capture_output=True, text=True, check=False)
        forked = preloaded_certmond.run(arguments, DEADLINE)
        assert (forked.returncode, forked.stdout, forked.stderr) == (own.returncode, own.stdout, own.stderr), words


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
    end = time.monotonic() + DEADLINE
    while not (tmp_path / "status.json").exists():
        assert time.monotonic() < end
        select.select([], [], [], 0.02)
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
