"""The page at `/` with many certificates: how long it takes to make, and a browser to paint it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fixture import Leaves
from benchmarks.processes import Pair, free_port
from tests.chromium import Browser, chromium

PAINTED = """new Promise((told) => new PerformanceObserver((list) => list.getEntries().forEach((entry) =>
    entry.name === "first-contentful-paint" && told(entry.startTime))).observe({type: "paint", buffered: true}))"""


@contextmanager
def many(work: Path, count: int) -> Iterator[tuple[Leaves, Pair, str]]:
    """Daemon and server on `count` certificates, complete, and where the page is."""
    leaves, port = Leaves.make(work / "node", count), free_port()
    with Pair(work / "pair", leaves.root, leaves.config, port) as pair:
        pair.until(lambda: pair.expiries() == count + 1)
        pair.until(lambda: bool(pair.get("/")))
        yield leaves, pair, f"http://127.0.0.1:{port}/"


def made_and_kept(leaves: Leaves, pair: Pair, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds of the first answer after a change, with the making in it, and of one that is the same."""
    made: list[float] = []
    kept: list[float] = []
    for number in range(rounds):
        leaves.replace_one(pair, number)
        for samples in (made, kept):
            start = time.perf_counter()
            pair.get("/", gzip=True)
            samples.append(1000 * (time.perf_counter() - start))
    return made, kept


def painted(browser: Browser, url: str, rounds: int) -> list[float]:
    """Milliseconds from the navigation to the first contentful paint, each in a tab with nothing kept."""
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
        raise SystemExit("the page is measured in Chromium, which is not installed")
    with chromium(command, work) as running:
        yield running
