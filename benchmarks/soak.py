"""Hours in minutes: the daemon in enforce mode on leaves that live for seconds, while somebody changes the files.

Owns the node, what is done to it, and the judgement, which asks nothing of certmond's own code: openssl says what is in
the files; metrics, status and journal have to say the same; memory, descriptors, threads and watches must not grow.
What is restarted is not part of it: below a root of its own nothing runs.
"""

from __future__ import annotations

import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

FEWEST, MOST = 30, 50
"""So many leaves are there at a time."""
BETWEEN, ROUND, PATIENCE = 0.25, 10.0, 30.0
"""Seconds between two changes, between two samples, and until the daemon must have caught up with the last change."""
FILLING = 4400
"""So many certificates come and go before anything is judged: more than any cache of certmond has room for."""
DUE, LIFE = (1, 20), 300
"""A leaf is due in so many seconds after it came, and lives so long in all."""

CONFIG = """
profile: none
mode: enforce
hold: {unsynchronised_clock: false}
key_algorithm: ECDSA-P256
spread: 1s
certificates:
  - {name: ca, path: /ca.crt, key: /ca.key, authority: true}
  - {name: leaf, path: '/leaves/*.pem', ca: ca, usages: [client auth]}
hooks:
  - {name: told, command: [/bin/true]}
"""
_SERIES = re.compile(r'certmond_certificate_not_after_timestamp_seconds\{certificate="\w+",path="([^"]+)"\} (\S+)')
_FINDING = re.compile(r'certmond_finding\{certificate="([^"]+)",path="([^"]+)",reason="(\w+)",severity="(\w+)"\} 1')

Kind = tuple[str, str, str, str]


class Sample(NamedTuple):
    """What the process holds."""

    memory: int  # kB, VmRSS
    descriptors: int
    threads: int
    watches: int


ALLOWED = Sample(memory=3_000, descriptors=2, threads=2, watches=2)
"""So much more may the last third have than the second, by the medians: what is cached, and what a sample meets."""


class Ground:
    """The node below `work`, and whoever changes it."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.root, self.leaves = work, work / "root", work / "root" / "leaves"
        self.leaves.mkdir(parents=True)
        self.chance = random.Random(seed)  # noqa: S311 - no secret
        self.done = Counter[str]()
        self._number = 0
        self._sh("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                 "root/ca.key", "-out", "root/ca.crt", "-subj", "/CN=soak", "-days", "30")  # fmt: skip
        (self.root / "ca.key").chmod(0o600)
        (work / "client").write_text("basicConstraints=critical,CA:FALSE\nextendedKeyUsage=clientAuth\n"
                                     "keyUsage=critical,digitalSignature\nauthorityKeyIdentifier=keyid\n")  # fmt: skip
        self._sh("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "leaf.key", "-out",
                 "leaf.csr", "-subj", "/CN=leaf")  # fmt: skip

    def change(self) -> None:
        """One of the things that happen to files."""
        present = sorted(self.leaves.glob("*.pem"))
        acts: list[Callable[[Path], None]] = [self._break, self._rename, self._touch, self._remove]
        if len(present) < FEWEST or (len(present) < MOST and self.chance.random() < 0.5):
            self._add()
        else:
            act = self.chance.choice(acts)
            act(self.chance.choice(present))
            self.done[act.__name__] += 1

    def _add(self) -> None:
        self._number += 1
        # certmond renews behind two thirds of the life: the leaf is that old but for some seconds.
        due = self.chance.randint(*DUE)
        staged = self.work / "staged"
        staged.write_bytes(self._issued(due - LIFE * 2 / 3, LIFE) + (self.work / "leaf.key").read_bytes())
        staged.chmod(0o600)
        staged.rename(self.leaves / f"{self._number:06d}.pem")
        self.done["_add"] += 1

    def _issued(self, begin: float, life: float) -> bytes:
        """A certificate that is valid from `begin` seconds after now on."""
        first, last = (_openssl_time(time.time() + begin + shift) for shift in (0, life))
        return self._sh("x509", "-req", "-in", "leaf.csr", "-CA", "root/ca.crt", "-CAkey", "root/ca.key", "-extfile",
                        "client", "-not_before", first, "-not_after", last)  # fmt: skip

    def _break(self, path: Path) -> None:
        path.write_bytes(b"junk")

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def _touch(self, path: Path) -> None:
        os.utime(path)

    def _rename(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            path.rename(path.with_name(f"moved-{path.name}"))

    def fill(self) -> Iterator[Path]:
        """The files of the many that go again: each with as many certificates as are read of one file."""
        for number in range(-(-FILLING // 500)):
            path = self.leaves / f"filling-{number}.pem"
            path.write_bytes(b"".join(self._issued(0, 30 * 86400) for _ in range(500)))
            yield path

    def ends(self) -> dict[str, float | None]:
        """The end of each certificate by its path, as openssl reads it; None of a file that is none."""
        found: dict[str, float | None] = {}
        for path in [self.root / "ca.crt", *self.leaves.glob("*.pem")]:
            command = ["openssl", "x509", "-in", str(path), "-noout", "-enddate", "-dateopt", "iso_8601"]
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.partition("=")[2].strip()
            end = datetime.fromisoformat(said).timestamp() if said else None
            found[f"/{path.relative_to(self.root)}"] = end
        return found

    def _sh(self, *words: str) -> bytes:
        return subprocess.run(["openssl", *words], cwd=self.work, check=True, capture_output=True).stdout


def _openssl_time(instant: float) -> str:
    return f"{datetime.fromtimestamp(instant, UTC):%Y%m%d%H%M%SZ}"


class Watched:
    """The daemon, and what it says of itself."""

    def __init__(self, ground: Ground) -> None:
        config, self._runtime, self._state = ground.work / "config.yaml", ground.work / "run", ground.work / "state"
        config.write_text(CONFIG)
        self._runtime.mkdir()
        self._log = (ground.work / "log").open("w+")
        command = [sys.executable, "-m", "certmond", "--root", str(ground.root), "run", "--config", str(config)]
        places = ["--runtime-dir", str(self._runtime), "--state-dir", str(self._state), "--log", "json"]
        self.process = subprocess.Popen([*command, *places], stdout=self._log, stderr=self._log)
        self._standing, self._read = set[Kind](), 0

    def disagreements(self, ground: Ground) -> list[str]:
        """What files, metrics, status and journal say of each other that is not so."""
        disk, metrics = ground.ends(), (self._runtime / "metrics.prom").read_text()
        told = {path: float(value) for path, value in _SERIES.findall(metrics)}
        findings: set[Kind] = set(_FINDING.findall(metrics))
        status = json.loads((self._runtime / "status.json").read_text())["certificates"]
        shown = {(e["name"], e["path"], f["reason"], f["severity"]) for e in status for f in e["findings"]}
        bad = {path for path, end in disk.items() if end is None}
        problems = [f"{path} ends at {end}, and the metrics say {told.get(path)}" for path, end in disk.items()
                    if end is not None and told.get(path) != end]  # fmt: skip
        problems += [f"{path} is in the metrics and not there" for path in told.keys() - disk.keys()]
        if {path for _, path, reason, _ in findings if reason == "malformed"} != bad:
            problems.append(f"what is malformed: {sorted(bad)}")
        if shown != findings:
            problems.append(f"status and metrics: {sorted(shown ^ findings)}")
        if self.standing() != findings:
            problems.append(f"journal and metrics: {sorted(self.standing() ^ findings)}")
        return problems

    def standing(self) -> set[Kind]:
        """The findings that the journal has raised and not cleared."""
        with Path(self._log.name).open() as log:
            log.seek(self._read)
            for line in iter(log.readline, ""):
                if not line.endswith("\n"):
                    break
                self._read += len(line.encode())
                entry = json.loads(line)
                if entry["kind"].startswith("finding_"):
                    kind = (entry["certificate"], entry["path"], entry["reason"], entry["severity"])
                    (self._standing.add if entry["kind"] == "finding_raised" else self._standing.remove)(kind)
        return self._standing

    def renewals(self) -> int:
        log = self._state / "audit.log"
        return sum(json.loads(line)["event"] == "step_done" for line in log.open()) if log.exists() else 0

    def sample(self) -> Sample:
        proc = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        watches = 0
        for info in (proc / "fdinfo").iterdir():
            with suppress(OSError):
                watches += sum(line.startswith("inotify wd:") for line in info.read_text().splitlines())
        return Sample(
            int(status["VmRSS"].split()[0]), len(list((proc / "fd").iterdir())), int(status["Threads"]), watches
        )


def soak(work: Path, minutes: float, seed: int) -> Iterator[str]:
    """The lines of the report. Raises SystemExit where something is not so, or grows."""
    ground = Ground(work, seed)
    for _ in range(FEWEST):
        ground.change()
    filling = list(ground.fill())
    watched = Watched(ground)
    samples, end = list[Sample](), time.monotonic() + 60 * minutes
    try:
        _agree(watched, ground)
        for path in filling:
            path.unlink()
        while time.monotonic() < end:
            pause = time.monotonic() + ROUND
            while time.monotonic() < pause:
                ground.change()
                time.sleep(BETWEEN)
            _agree(watched, ground)
            samples.append(watched.sample())
            yield f"{len(samples):4}  {watched.renewals():6} renewals  {samples[-1]}"
    finally:
        watched.process.terminate()
        status = watched.process.wait(PATIENCE)
    yield f"what was done: {dict(ground.done)}; the daemon ended with status {status}"
    kept = [path.stat().st_size for path in (work / "state").rglob("*") if path.is_file()]
    yield f"the state directory has {len(kept)} files, {sum(kept) // 1000} kB"
    third = len(samples) // 3
    if third < 2:
        raise SystemExit("too short to judge whether anything grows")
    middle, last = samples[third : 2 * third], samples[2 * third :]
    medians = [Sample(*map(statistics.median, zip(*part, strict=True))) for part in (middle, last)]
    yield f"medians of the second third and of the last: {medians[0]}, {medians[1]}"
    if any(after > before + allowed for before, after, allowed in zip(*medians, ALLOWED, strict=True)):
        raise SystemExit(f"more has grown than {ALLOWED}")
    if status:
        raise SystemExit("the daemon did not end well")
    yield "nothing has grown by more than is allowed, and every sample agreed"


def _agree(watched: Watched, ground: Ground) -> None:
    """Wait until all say the same: a change takes a moment, and a leaf may be renewed at any."""
    end = time.monotonic() + PATIENCE
    problems = ["not looked at"]
    while problems and time.monotonic() < end:
        if watched.process.poll() is not None:
            raise SystemExit(f"the daemon has ended; see {ground.work / 'log'}")
        with suppress(FileNotFoundError):
            problems = watched.disagreements(ground)
        time.sleep(0.1)
    if problems:
        raise SystemExit("\n".join(["they do not agree:", *problems]))
