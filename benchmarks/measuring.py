"""Statistics of the benchmarks, and the directory for measured files."""

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
    """One row of the results: the measurement, the samples in `unit`, and the limit."""

    what: str
    unit: str
    samples: list[float]
    wanted: str

    def row(self) -> str:
        ordered = sorted(self.samples)
        middle, low, high = statistics.median(ordered), ordered[0], ordered[-1]
        spread = f"{number(low)} … {number(high)} ({len(ordered)})"
        return f"| {self.what} | {number(middle)} {self.unit} | {spread} | {self.wanted} |"


def number(value: float) -> str:
    """Return `value` with three significant digits, and with all digits of a larger integer."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def percentile(samples: list[float], share: float) -> float:
    """Return the percentile of `samples` at `share`, from 0 to 1."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a temporary directory, in memory if possible, because the benchmarks do not measure disks."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a place, not a file
    with tempfile.TemporaryDirectory(prefix="certmond-bench-", dir=base) as directory:
        yield Path(directory)
