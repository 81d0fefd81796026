"""A real daemon on the tree of a test, and functions that wait for its output."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import preloaded_certmond
from tests.deadline import DEADLINE
from tests.preloaded_certmond import CERTMOND, PROGRAMS

_SERIES = re.compile(r'^(\w+)\{certificate="([^"]*)",path="([^"]*)"(?:,(.*))?\} (\S+)$')


class Output:
    """The directory that a daemon renders into. The daemon can run in this process."""

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime

    def ended(self) -> bool:
        """Return whether the daemon has ended, as far as this object knows."""
        return False

    def said(self) -> str:
        """Return the log of the daemon, if the daemon has one."""
        return ""

    def metrics(self) -> str:
        return (self.runtime / "metrics.prom").read_text()

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.runtime / "status.json").read_text())
        return document

    def activity(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.runtime / "activity.json").read_text())
        return document

    def entry(self, name: str) -> dict[str, Any] | None:
        return next((entry for entry in self.status()["certificates"] if entry["name"] == name), None)

    def reasons(self, name: str) -> set[str]:
        entry = self.entry(name)
        return {item["reason"] for item in entry["findings"]} if entry else set()

    def series(self, family: str, name: str) -> list[float]:
        """The values of a family for one certificate."""
        found = (_SERIES.match(line) for line in self.metrics().splitlines())
        return [float(match[5]) for match in found if match and match[1] == family and match[2] == name]

    def number(self, name: str) -> float:
        """The value of a series that is named in full."""
        return next(
            float(line.rsplit(" ", 1)[1]) for line in self.metrics().splitlines() if line.startswith(name + " ")
        )

    def until(self, holds: Callable[[], Any], what: str, within: float = DEADLINE) -> Any:
        """Wait until `holds`, looking again every so often; fail after `within` seconds. Afterwards the status document
        is as new as the metrics, which the daemon writes first.
        """
        end = time.monotonic() + within
        while True:
            try:
                if found := holds():
                    while self._writes() and not self.ended() and time.monotonic() < end:
                        select.select([], [], [], 0.005)
                    return found
            except (OSError, ValueError, StopIteration):
                pass
            if self.ended() or time.monotonic() > end:
                raise AssertionError(f"{what}: never so\n{self.said()}")
            select.select([], [], [], 0.02)

    def unmount(self, path: Path) -> None:
        """Unmount a file system. The mount is busy while the daemon has a file of it open."""
        command = ["umount", str(path)]
        self.until(lambda: not subprocess.run(command, capture_output=True, check=False).returncode, f"{path}: unmount")

    def _writes(self) -> bool:
        """Return whether the daemon has written the metrics of a pass, and not yet its status document."""
        try:
            metrics, status = ((self.runtime / name).stat().st_mtime_ns for name in ("metrics.prom", "status.json"))
        except OSError:
            return False
        return metrics > status

    def passes(self) -> float:
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in self.metrics().splitlines()
            if line.startswith("certmond_passes_t")
        )


class Running(Output):
    """A daemon in another process, and the directory that it renders into."""

    def __init__(self, process: subprocess.Popen[str] | preloaded_certmond.Process, runtime: Path, log: Path) -> None:
        super().__init__(runtime)
        self.process = process
        self.log = log

    def ended(self) -> bool:
        return self.process.poll() is not None

    def said(self) -> str:
        return self.log.read_text()

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(DEADLINE)


@contextmanager
def running(
    root: Path,
    work: Path,
    *options: str,
    before: Sequence[str] = (),
    within: float = DEADLINE,
    program: Sequence[str] = CERTMOND,
    **environment: str,
) -> Iterator[Running]:
    """Run `certmond run` below `root` until the block ends. The block begins after the first output. `before` is the
    prefix of the command, and must keep it in its own process. `within` is the limit of the start in seconds.
    `program` follows the interpreter.
    """
    runtime, log = work / "run", work / "log"
    runtime.mkdir(exist_ok=True)
    arguments = ["--root", str(root), "run", "--runtime-dir", str(runtime), "--log", "json", *options]
    variables = {**os.environ, "PYTHONWARNINGS": "error", **environment}
    process: subprocess.Popen[str] | preloaded_certmond.Process
    with log.open("w") as output:
        namespaces = preloaded_certmond.namespaces_of(before)
        if program in PROGRAMS and namespaces is not None:
            process = preloaded_certmond.start(arguments, output, output, variables, program, namespaces=namespaces)
        else:
            command = [*before, sys.executable, *program, *arguments]
            process = subprocess.Popen(command, stdout=output, stderr=output, text=True, env=variables)
    daemon = Running(process, runtime, log)
    try:
        rendered = "rendered for the first time"
        daemon.until(lambda: (runtime / "heartbeat.json").exists() and daemon.status(), rendered, within)
        daemon.until(lambda: '"started"' in log.read_text(), "started", within)
        yield daemon
    finally:
        process.kill()
        process.wait()
