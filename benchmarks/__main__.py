"""Benchmarks of certmond on this machine.

`make bench` writes docs/benchmarks.md, and `python -m benchmarks many` only prints the results.

This module defines the measurements and their limits. The daemon and the server run as separate processes. The
benchmarks use only their HTTP responses and /proc. A benchmark is not a test, and no test asserts a duration. `compare`
measures other exporters in the same way.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from importlib.metadata import version
from pathlib import Path

from benchmarks import compare, page
from benchmarks.due import measure_due
from benchmarks.fixture import Leaves, kubeadm_node, parse_loop
from benchmarks.issuing import reissue_node
from benchmarks.measuring import Figure, percentile, scratch, timed
from benchmarks.processes import Pair, free_port
from benchmarks.profiling import profiles
from benchmarks.soak import soak
from benchmarks.torn_pair import Count, measure_torn_pair
from certmond.pki.catalog.entries import KeyAlgorithm

_PAGE = """# Benchmarks

*Reference: time and memory of certmond on one machine.*

The benchmark runs `certmond run` and `certmond serve` as separate processes, and a third process measures both. The
certificate files are in an in-memory file system. Each row contains the median, the minimum, the maximum and the number
of samples. If the project has set a limit for the measurement, the last column contains this limit. The limit `linear`
means that the value must grow at most linearly with the number of files. On a machine with other load, CPU time is more
reliable than wall time. `python -m benchmarks compare --help` describes how to compare certmond with other exporters on
the same files. These decisions record the reasons for the memory use and the speed of certmond:
[0026](decisions/0026-what-is-loaded-and-kept.md), [0030](decisions/0030-a-pass-looks-at-what-changed.md),
[0035](decisions/0035-what-is-alike-is-done-in-a-row.md), [0038](decisions/0038-a-second-process-for-the-first-look.md).

{machine} This command wrote the page: `{command}`.

| measurement | median | minimum … maximum (samples) | limit |
|---|---|---|---|
{rows}
"""


def measure_many(count: int, rounds: int, seconds: float) -> Iterator[Figure]:
    """Yield the rows about `count` certificates."""
    with scratch() as work:
        leaves = Leaves.make(work / "node", count)
        cold, loop, spent = [], [], []
        for turn in range(rounds):
            loop.append(timed(lambda: parse_loop(leaves.directory)))
            with Pair(work / f"cold{turn}", leaves.root, leaves.config, free_port()) as pair:
                # A shorter interval would distort the result: requests take CPU time while both processors are busy.
                cold.append(pair.until(lambda: pair.expiries() == count + 1, every=0.01))
                spent.append(pair.spent())
        yield Figure(
            f"{count} files: time from the start until /metrics is complete and all chains are verified",
            "s",
            cold,
            "≤ 1.5 s",
        )
        yield Figure("  CPU time of both processes in this time", "s", spent, "")
        yield Figure("  for comparison: a loop that calls load_pem_x509_certificate for each file", "s", loop, "")
        with Pair(work / "warm", leaves.root, leaves.config, free_port()) as pair:
            pair.until(lambda: pair.expiries() == count + 1)
            yield from _scrapes(pair)
            seen = [leaves.replace_one(pair, number) for number in range(30 * rounds)]
            yield Figure(
                "time from the replacement of a file until /metrics shows it", "ms", [1000 * s for s in seen], ""
            )
            yield Figure("  99th percentile of this time", "ms", [1000 * percentile(seen, 0.99)], "≤ 150 ms")
            burst = min(1000, count)
            yield Figure(f"time from the replacement of {burst} files at once until /metrics shows all", "s",
                         [leaves.replace_many(pair, burst)], "≤ 1.5 s")  # fmt: skip
            yield Figure(f"resident memory of both processes with {count} files", "MB", [pair.resident()], "≤ 140 MB")
            yield from _idle(pair, seconds)


def measure_growth() -> Iterator[Figure]:
    """Yield the rows about the growth of time and memory with the number of certificates."""
    for count in (100, 1_000, 10_000, 100_000):
        with scratch() as work:
            leaves = Leaves.make(work / "node", count)
            with Pair(work / "pair", leaves.root, leaves.config, free_port()) as pair:
                pair.until(lambda: pair.expiries() == count + 1)  # noqa: B023 - called immediately
                yield Figure(
                    f"{count} files: CPU time from the start until /metrics is complete", "s", [pair.spent()], "linear"
                )
                yield Figure("  resident memory of both processes", "MB", [pair.resident()], "linear")


def measure_node(seconds: float) -> Iterator[Figure]:
    """Yield the rows about a kubeadm node."""
    with scratch() as work:
        root = kubeadm_node(work / "node")
        with Pair(work / "small", root, None, free_port()) as pair:
            cold = pair.until(lambda: pair.expiries() == 14)
            yield Figure("kubeadm node: time from the start until /metrics is complete", "s", [cold], "")
            pair.get("/metrics", gzip=True)
            yield Figure("  resident memory of both processes", "MB", [pair.resident()], "≤ 80 MB")
            yield from _idle(pair, seconds)


def measure_issuing(rounds: int) -> Iterator[Figure]:
    """Yield the rows about the reissue of every leaf of a kubeadm node."""
    rsa = [reissue_node(KeyAlgorithm.RSA_2048) for _ in range(rounds)]
    count = rsa[0].certificates
    yield Figure(f"reissue of a whole node, {count} certificates, RSA-2048", "s", [run.total for run in rsa], "")
    yield Figure("  the key generations in it", "s", [run.keys for run in rsa], "")
    yield Figure("  ratio", "x", [run.total / run.keys for run in rsa], "≤ 1.5 x")
    ecdsa = [reissue_node(KeyAlgorithm.ECDSA_P256) for _ in range(rounds)]
    yield Figure("  the same with ECDSA P-256", "s", [run.total for run in ecdsa], "")


def measure_page(rounds: int) -> Iterator[Figure]:
    """Yield the rows about the page."""
    with scratch() as work, page.browser(work) as browser:
        for count, wanted in ((2_000, "≤ 1000 ms"), (10_000, "")):
            (place := work / str(count)).mkdir()
            with page.many(place, count) as (leaves, pair, url):
                made, kept = page.made_and_kept(leaves, pair, rounds)
                yield Figure(f"the page of {count} certificates, rendered again", "ms", made, "")
                yield Figure("  the same bytes again", "ms", kept, "")
                yield Figure("  first contentful paint in Chromium", "ms", page.painted(browser, url, rounds), wanted)
                yield Figure("  resident memory of both processes after that", "MB", [pair.resident()], "")


def _scrapes(pair: Pair) -> Iterator[Figure]:
    for name, gzip in (("plain", False), ("gzip", True)):
        pair.scrape(gzip=gzip)
        samples = [1000 * timed(partial(pair.scrape, gzip=gzip)) for _ in range(50)]
        yield Figure(f"a request of /metrics, {name}", "ms", samples, "≤ 10 ms")


def _idle(pair: Pair, seconds: float) -> Iterator[Figure]:
    share, wakeups = pair.idle(seconds)
    yield Figure("CPU use of both processes while idle", "% of a core", [100 * share], "< 0.2 %")
    yield Figure("wake-ups of both processes while idle", "/s", [wakeups], "≤ 2 /s")


def _end(number: int, _: object) -> None:
    """Exit, so that the context managers end the processes and remove the directories. Ignore further signals."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> None:
    signal.signal(signal.SIGTERM, _end)
    if sys.argv[1:2] == ["compare"]:
        compare.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="certificates in the large case")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of short measurements")
    parser.add_argument("--seconds", type=float, default=20, help="duration of the idle measurement")
    parser.add_argument("--renewals", type=int, default=1000, help="renewals of the pair of a running etcd")
    parser.add_argument("-o", "--output", type=Path, help="also write the page to this file")
    parser.add_argument("--minutes", type=float, default=60, help="duration of the soak")
    parser.add_argument("--seed", type=int, default=0, help="seed of the changes in the soak")
    which = "which: due, growth, issuing, many, node, page, torn-pair; all by default. Or: profile, soak"
    parser.add_argument("parts", nargs="*", help=which)
    options = parser.parse_args()
    if options.parts == ["soak"]:
        with scratch() as work, closing(soak(work, options.minutes, options.seed)) as lines:
            for line in lines:
                print(line, flush=True)
        return
    if options.parts == ["profile"]:
        with scratch() as work:
            for line in profiles(work, options.count):
                print(line, flush=True)
        return
    print(f"{_machine()}\n\n| measurement | median | minimum … maximum (samples) | limit |\n|---|---|---|---|")
    parts: dict[str, Callable[[], Iterator[Figure | Count]]] = {
        "due": lambda: measure_due(800),
        "growth": measure_growth,
        "issuing": lambda: measure_issuing(2 * options.rounds),
        "many": lambda: measure_many(options.count, options.rounds, options.seconds),
        "node": lambda: measure_node(options.seconds),
        "page": lambda: measure_page(options.rounds),
        "torn-pair": lambda: measure_torn_pair(options.renewals),
    }
    rows = []
    for figures in (part() for name, part in parts.items() if name in (options.parts or parts)):
        for figure in figures:
            rows.append(figure.row())
            print(rows[-1], flush=True)
    if options.output:
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        options.output.write_text(_PAGE.format(command=command, machine=_machine(), rows="\n".join(rows)))


def _machine() -> str:
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())  # fmt: skip
    return (
        f"certmond {version('certmond')}, cryptography {version('cryptography')}, Python {platform.python_version()}, "
        f"{os.cpu_count()} CPUs ({cpu}), Linux {platform.release()}, {time.strftime('%Y-%m-%d')}, "
        f"load {os.getloadavg()[0]:.1f} at the end."
    )


if __name__ == "__main__":
    main()
