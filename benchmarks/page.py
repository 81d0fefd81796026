"""Benchmark of the page at `/` with many certificates: the time to render it, and the time of a browser to paint it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fixture import Leaves
from benchmarks.processes import Pair, free_port
from tests.chromium import Browser, chromium

PAINTED = """new Promise((done) => new PerformanceObserver((list) => list.getEntries().forEach((entry) =>
    entry.name === "first-contentful-paint" && done(entry.startTime))).observe({type: "paint", buffered: true}))"""


@contextmanager
def many(work: Path, count: int) -> Iterator[tuple[Leaves, Pair, str]]:
    """Yield `count` certificates, the daemon and server after the first pass, and the URL of the page."""
    leaves, port = Leaves.make(work / "node", count), free_port()
    with Pair(work / "pair", leaves.root, leaves.config, port) as pair:
        pair.until(lambda: pair.expiries() == count + 1)
        pair.until(lambda: bool(pair.get("/")))
        yield leaves, pair, f"http://127.0.0.1:{port}/"


def made_and_kept(leaves: Leaves, pair: Pair, rounds: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds of the first response after a change, which includes a rendering, and of the next one."""
    made: list[float] = []
    kept: list[float] = []
    page = pair.get("/", gzip=True)
    for number in range(rounds):
        leaves.replace_one(pair, number)
        before, took = page, 0.0
        while page == before:  # the daemon writes the metrics before the status
            page, took = timed(pair)
        made.append(took)
        again, took = timed(pair)
        while again != page:  # the daemon writes an event after the status
            page = again
            again, took = timed(pair)
        kept.append(took)
    return made, kept


def timed(pair: Pair) -> tuple[bytes, float]:
    """Return the page, and the duration of its response in milliseconds."""
    start = time.perf_counter()
    page = pair.get("/", gzip=True)
    return page, 1000 * (time.perf_counter() - start)


def painted(browser: Browser, url: str, rounds: int) -> list[float]:
    """Return the milliseconds from the navigation to the first contentful paint, for `rounds` tabs without a cache."""
    found = []
    for _ in range(rounds):
        with browser.page() as page:
            page.open(url)
            found.append(float(page.run(PAINTED)))
    return found


@contextmanager
def browser(work: Path) -> Iterator[Browser]:
    command = shutil.which("chromium")
    if command is None:
        raise SystemExit("the benchmark of the page needs Chromium; install it: apt-get install chromium")
    with chromium(command, work) as running:
        yield running
