"""Hours in minutes: both processes in enforce mode on leaves that live for minutes, while somebody changes the files.

Owns the course of it and the judgement whether anything grows: memory by its slope, descriptors, threads and watches by
their medians. Whether all say the same is `opinion`'s; what happens to the files, and the service that is restarted for
them, is `soak_node`'s.
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
"""Seconds between two changes, between two samples, and until the daemon must have caught up with the last change."""
RESTART_EVERY = 3
"""In each such round the service is given another certificate."""
FILLING = 4400
"""So many certificates come and go before anything is judged: more than any cache of certmond has room for."""
PROCESSES = ("run", "serve")


class Sample(NamedTuple):
    """What a process holds."""

    at: float  # seconds
    memory: int  # kB, VmRSS
    descriptors: int
    threads: int
    watches: int


ALLOWED = {"memory": 1_000, "descriptors": 2, "threads": 2, "watches": 2}
"""So much more may be there at the end than after the first third: what a sample meets, and a heap's last pieces."""


class Slope(NamedTuple):
    """kB in an hour: the median of the slopes between any two samples (Theil and Sen), and the quartiles of them."""

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
    """What has grown by more than is allowed over the last two thirds. Raises ValueError where they are too few."""
    third = len(samples) // 3
    if third < 2:
        raise ValueError("too short to judge whether anything grows")
    last = samples[third:]
    grown = {"memory": Slope.of(last).median * (last[-1].at - last[0].at) / 3600}
    for name in ("descriptors", "threads", "watches"):
        before, after = (statistics.median(getattr(s, name) for s in part) for part in (last[:third], last[third:]))
        grown[name] = after - before
    for name, more in grown.items():
        if more > ALLOWED[name]:
            yield f"{name} has grown by {more:.0f}, and {ALLOWED[name]} are allowed"


class Watched:
    """The daemon and the server, and what they say. Used as a context, in which they run."""

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
        """What all of them say now. Raises OSError where one has said nothing yet."""
        metrics, status = self._get("/metrics").decode(), json.loads((self._runtime / "status.json").read_text())
        shown, file = self.node.uses()
        trail = self.state / "audit.log"
        lines = tuple(map(json.loads, trail.read_text().splitlines() if trail.exists() else ()))
        return Opinions(
            self.node.ends(), shown, file, self.node.starts(), metrics, status, self._journal.standing(), lines
        )

    def agree(self) -> Opinions:
        """Wait until all say the same: a change takes a moment, and a leaf may be renewed at any. Raises SystemExit."""
        end = time.monotonic() + PATIENCE
        problems = ["nothing was said"]
        while time.monotonic() < end:
            if any(process.poll() is not None for process in self.processes):
                raise SystemExit(f"a process has ended; see {self._log}")
            with suppress(OSError):
                opinions = self.opinions()
                problems = opinions.disagreements()
                if not problems:
                    return opinions
            time.sleep(0.1)
        raise SystemExit("\n".join(["they do not agree:", *problems]))

    def samples(self) -> list[Sample]:
        """Of each process; the page is asked for before, as a person would."""
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
    """The lines of the report: one a round of `every` seconds. Raises SystemExit where all is not so, or grows."""
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
    yield f"what was done: {dict(node.done)}; the processes ended with {watched.statuses}"
    sizes = [path.stat().st_size for path in watched.state.rglob("*") if path.is_file()]
    yield f"the state directory has {len(sizes)} files, {sum(sizes) // 1000} kB"
    if any(watched.statuses):
        raise SystemExit("a process did not end well")
    problems = list[str]()
    for name, samples in zip(PROCESSES, zip(*kept, strict=True), strict=True):
        try:
            problems += [f"{name}: {each}" for each in growth(samples)]
        except ValueError as error:
            raise SystemExit(str(error)) from error
        yield f"{name}: memory over the last two thirds {Slope.of(samples[len(samples) // 3 :])}"
    if problems:
        raise SystemExit("\n".join(problems))
    yield f"nothing has grown by more than is allowed, and all {len(kept)} samples agreed"
