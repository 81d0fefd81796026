"""Measure certmond on this machine and print one table: `make bench`, or `python -m benchmarks --count 1000`.

Owns the fixture (a directory of PEM files signed by one CA), the processes that are measured, and the arithmetic. Every
figure is of the real daemon and the real server as processes of their own, read from outside: their HTTP answers and
/proc. Nothing here is a test; tests assert no time.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from benchmarks import page
from benchmarks.fixture import Leaves, kubeadm_node, parse_loop
from benchmarks.issuing import reissue_node
from benchmarks.processes import Pair, free_port
from benchmarks.torn_pair import Count, measure_torn_pair
from certmond.pki.catalog import KeyAlgorithm


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


def measure_many(count: int, rounds: int, seconds: float) -> Iterator[Figure]:
    """The rows about `count` certificates."""
    with scratch() as work:
        leaves = Leaves.make(work / "node", count)
        cold, loop = [], []
        for turn in range(rounds):
            loop.append(timed(lambda: parse_loop(leaves.directory)))
            with Pair(work / f"cold{turn}", leaves.root, leaves.config, free_port()) as pair:
                cold.append(pair.until(lambda: pair.expiries() == count + 1))
        yield Figure(f"{count} files: cold start to complete /metrics, chains verified", "s", cold, "≤ 1.5 s")
        yield Figure("  beside it: a plain loop over load_pem_x509_certificate", "s", loop, "")
        with Pair(work / "warm", leaves.root, leaves.config, free_port()) as pair:
            pair.until(lambda: pair.expiries() == count + 1)
            yield from _scrapes(pair)
            seen = [leaves.replace_one(pair, number) for number in range(30 * rounds)]
            yield Figure("file replaced to visible in /metrics, median", "ms", [1000 * s for s in seen], "")
            yield Figure("  p99", "ms", [1000 * percentile(seen, 0.99)], "≤ 150 ms")
            yield Figure(f"resident memory, both processes, {count}", "MB", [pair.resident()], "≤ 140 MB")
            yield from _idle(pair, seconds)


def measure_node(seconds: float) -> Iterator[Figure]:
    """The rows about a kubeadm node."""
    with scratch() as work:
        root = kubeadm_node(work / "node")
        with Pair(work / "small", root, None, free_port()) as pair:
            cold = pair.until(lambda: pair.expiries() == 14)
            yield Figure("kubeadm node: cold start to complete /metrics", "s", [cold], "")
            pair.get("/metrics", gzip=True)
            yield Figure("resident memory, both processes, kubeadm node", "MB", [pair.resident()], "≤ 80 MB")
            yield from _idle(pair, seconds)


def measure_issuing(rounds: int) -> Iterator[Figure]:
    """The rows about reissuing every leaf of a kubeadm node."""
    rsa = [reissue_node(KeyAlgorithm.RSA_2048) for _ in range(rounds)]
    count = rsa[0].certificates
    yield Figure(f"reissue of a whole node, {count} certificates, RSA-2048", "s", [run.total for run in rsa], "")
    yield Figure("  the key generations in it", "s", [run.keys for run in rsa], "")
    yield Figure("  ratio", "x", [run.total / run.keys for run in rsa], "≤ 1.5 x")
    ecdsa = [reissue_node(KeyAlgorithm.ECDSA_P256) for _ in range(rounds)]
    yield Figure("  the same with ECDSA P-256", "s", [run.total for run in ecdsa], "")


def measure_page(rounds: int) -> Iterator[Figure]:
    """The rows about the page."""
    with scratch() as work, page.browser(work) as browser:
        for count, wanted in ((2_000, "≤ 1000 ms"), (10_000, "")):
            (place := work / str(count)).mkdir()
            with page.many(place, count) as (leaves, pair, url):
                made, kept = page.made_and_kept(leaves, pair, rounds)
                yield Figure(f"the page of {count} certificates, made anew", "ms", made, "")
                yield Figure("  as it was made", "ms", kept, "")
                yield Figure("  first contentful paint in Chromium", "ms", page.painted(browser, url, rounds), wanted)
                yield Figure("  resident memory of both processes, it having been shown", "MB", [pair.resident()], "")


def _scrapes(pair: Pair) -> Iterator[Figure]:
    for name, gzip in (("plain", False), ("gzip", True)):
        pair.get("/metrics", gzip=gzip)
        samples = [1000 * timed(partial(pair.get, "/metrics", gzip=gzip)) for _ in range(50)]
        yield Figure(f"/metrics {name}, p50", "ms", samples, "≤ 10 ms")


def _idle(pair: Pair, seconds: float) -> Iterator[Figure]:
    share, wakeups = pair.idle(seconds)
    yield Figure("idle, both processes", "% of a core", [100 * share], "< 0.2 %")
    yield Figure("idle, wake-ups of both", "/s", [wakeups], "≤ 2 /s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="certificates in the large case")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of what is short")
    parser.add_argument("--seconds", type=float, default=20, help="how long idleness is watched")
    parser.add_argument("--renewals", type=int, default=1000, help="of the pair of a live etcd")
    parser.add_argument("parts", nargs="*", help="which: issuing, many, node, page, torn-pair; all where none is named")
    options = parser.parse_args()
    print(
        f"certmond {version('certmond')}, cryptography {version('cryptography')}, Python {platform.python_version()},"
    )
    print(f"{os.cpu_count()} CPUs, Linux {platform.release()}, {time.strftime('%Y-%m-%d')}\n")
    print("| what | median | spread (samples) | wanted |\n|---|---|---|---|")
    parts: dict[str, Callable[[], Iterator[Figure | Count]]] = {
        "issuing": lambda: measure_issuing(2 * options.rounds),
        "many": lambda: measure_many(options.count, options.rounds, options.seconds),
        "node": lambda: measure_node(options.seconds),
        "page": lambda: measure_page(options.rounds),
        "torn-pair": lambda: measure_torn_pair(options.renewals),
    }
    for figures in (part() for name, part in parts.items() if name in (options.parts or parts)):
        for figure in figures:
            print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
