"""Soak test: both processes run in enforce mode with leaves that are valid for minutes, while a program changes files.

This module checks for growth, by the slope of the memory, and the medians of descriptors, threads and watches. The
module `opinion` compares the outputs of certmond. The module `soak_node` changes the files, and runs the service that
certmond restarts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.opinion import Journal, Opinions
from benchmarks.processes import free_port
from benchmarks.soak_node import SoakNode

BETWEEN, ROUND, PATIENCE = 0.25, 10.0, 120.0
"""Seconds between two changes, between two samples, and until the daemon must have processed the last change."""
RESTART_EVERY = 3
"""Number of rounds between two new certificates of the service."""
FILLING = 4400
"""Number of certificates that are created and removed before the first sample. This exceeds each cache of certmond."""
PROCESSES = ("run", "serve")


class Sample(NamedTuple):
    """The resources of a process."""

    at: float  # seconds
    memory: int  # kB, VmRSS
    descriptors: int
    threads: int
    watches: int


ALLOWED = {"memory": 1_000, "descriptors": 2, "threads": 2, "watches": 2}
"""Permitted growth from the first third to the end, for the noise of samples and the fragmentation of the heap."""


class Slope(NamedTuple):
    """Slope of the memory in kB per hour: the median and the quartiles of the slopes between any two samples.

    This is the Theil-Sen estimator.
    """

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Slope:
        pairs = [(b.memory - a.memory) / (b.at - a.at) * 3600 for a, b in combinations(samples, 2)]
        return cls(*statistics.quantiles(pairs, n=4))

    def __str__(self) -> str:
        return f"{self.median:+.0f} kB/h ({self.low:+.0f} … {self.high:+.0f})"


def growth(samples: Sequence[Sample]) -> Iterator[str]:
    """Yield a line for each resource that has grown too much over the last two thirds of the samples.

    Raises ValueError if there are too few samples.
    """
    third = len(samples) // 3
    if third < 2:
        raise ValueError("too short for a check of growth")
    last = samples[third:]
    grown = {"memory": Slope.of(last).median * (last[-1].at - last[0].at) / 3600}
    for name in ("descriptors", "threads", "watches"):
        before, after = (statistics.median(getattr(s, name) for s in part) for part in (last[:third], last[third:]))
        grown[name] = after - before
    for name, more in grown.items():
        if more > ALLOWED[name]:
            yield f"{name} has grown by {more:.0f}, but only {ALLOWED[name]} are allowed"


class Watched:
    """The daemon and the server, and the outputs of both. Both processes run during the `with` block."""

    def __init__(self, node: SoakNode) -> None:
        self.node, self.work, self.state = node, node.work, node.work / "state"
        self._runtime, self._log, self._port = node.work / "run", node.work / "log", free_port()
        self._journal = Journal(self._log)

    def __enter__(self) -> Self:
        config = self.work / "config.yaml"
        config.write_text(self.node.config())
        self._runtime.mkdir()
        common, places = [sys.executable, "-m", "certmond"], ["--runtime-dir", str(self._runtime)]
        run = [*common, "run", "--config", str(config), *places, "--state-dir", str(self.state), "--log", "json"]
        serve = [*common, "serve", *places, "--listen", f"127.0.0.1:{self._port}"]
        self.processes = []
        for name, command in zip(PROCESSES, (run, serve), strict=True):
            with (self._log if name == "run" else self.work / "serve.log").open("w") as log:
                self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.terminate()
        self.statuses = [process.wait(PATIENCE) for process in self.processes]

    def opinions(self) -> Opinions:
        """Return the present outputs. Raises OSError if an output does not exist yet."""
        metrics, status = self._get("/metrics").decode(), json.loads((self._runtime / "status.json").read_text())
        shown, file = self.node.uses()
        trail = self.state / "audit.log"
        lines = tuple(map(json.loads, trail.read_text().splitlines() if trail.exists() else ()))
        return Opinions(
            self.node.ends(), shown, file, self.node.starts(), metrics, status, self._journal.standing(), lines
        )

    def agree(self) -> Opinions:
        """Wait until all outputs agree, because the processing of a change or of a renewal takes time.

        Raises SystemExit if the outputs do not agree in time, or if a process has ended.
        """
        end = time.monotonic() + PATIENCE
        problems = ["no output exists"]
        while time.monotonic() < end:
            if any(process.poll() is not None for process in self.processes):
                raise SystemExit(f"a process has ended; see {self._log}")
            with suppress(OSError):
                opinions = self.opinions()
                problems = opinions.disagreements()
                if not problems:
                    return opinions
            time.sleep(0.1)
        raise SystemExit("\n".join(["the outputs do not agree:", *problems]))

    def samples(self) -> list[Sample]:
        """Request the page, and return a sample of each process."""
        self._get("/")
        return [_sample(process.pid) for process in self.processes]

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=PATIENCE) as answer:
            return bytes(answer.read())


def _sample(pid: int) -> Sample:
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    watches = 0
    for info in (proc / "fdinfo").iterdir():
        with suppress(OSError):
            watches += sum(line.startswith("inotify wd:") for line in info.read_text().splitlines())
    descriptors = len(os.listdir(proc / "fd"))
    return Sample(time.monotonic(), int(status["VmRSS"].split()[0]), descriptors, int(status["Threads"]), watches)


def soak(
    work: Path, minutes: float, seed: int, *, filling: int = FILLING, every: float = ROUND
) -> Generator[str, None, None]:
    """Yield the lines of the report, one for each round of `every` seconds. Raises SystemExit on failure or growth."""
    node = SoakNode(work, seed)
    kept: list[list[Sample]] = []
    filled = list(node.fill(filling))
    with node, (watched := Watched(node)):
        watched.agree()
        for path in filled:
            path.unlink()
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            pause = time.monotonic() + every
            if len(kept) % RESTART_EVERY == 0:
                node.replace_served()
            while time.monotonic() < pause:
                node.change()
                time.sleep(BETWEEN)
            said = watched.agree()
            kept.append(watched.samples())
            acts = f"{said.acts('issue', 'done'):5} renewals {said.acts('restart', 'proven'):4} restarts"
            yield f"{len(kept):4} {acts}  " + "  ".join(
                f"{name}: {s.memory} kB, {s.descriptors} descriptors, {s.threads} threads, {s.watches} watches"
                for name, s in zip(PROCESSES, kept[-1], strict=True)
            )
    yield f"changes: {dict(node.done)}; the processes ended with {watched.statuses}"
    sizes = [path.stat().st_size for path in watched.state.rglob("*") if path.is_file()]
    yield f"the state directory contains {len(sizes)} files, {sum(sizes) // 1000} kB"
    if any(watched.statuses):
        raise SystemExit("a process ended with an error")
    problems = list[str]()
    for name, samples in zip(PROCESSES, zip(*kept, strict=True), strict=True):
        try:
            problems += [f"{name}: {each}" for each in growth(samples)]
        except ValueError as error:
            raise SystemExit(str(error)) from error
        yield f"{name}: memory over the last two thirds {Slope.of(samples[len(samples) // 3 :])}"
    if problems:
        raise SystemExit("\n".join(problems))
    yield f"no resource has grown by more than the permitted amount, and the outputs agreed in all {len(kept)} samples"
