"""The arithmetic of the figures, and where what is measured lies."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One row: what was measured, the samples in the unit, and what is wanted."""

    what: str
    unit: str
    samples: list[float]
    wanted: str

    def row(self) -> str:
        ordered = sorted(self.samples)
        middle, low, high = statistics.median(ordered), ordered[0], ordered[-1]
        return f"| {self.what} | {middle:.3g} {self.unit} | {low:.3g} … {high:.3g} ({len(ordered)}) | {self.wanted} |"


def percentile(samples: list[float], share: float) -> float:
    """The sample below which `share` of all lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory where there is one: disks are not what is measured."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a place, not a file
    with tempfile.TemporaryDirectory(prefix="certmond-bench-", dir=base) as directory:
        yield Path(directory)
