"""Benchmarks of certmond on this machine.

`make bench` writes docs/benchmarks.md and docs/comparison.md, and `python -m benchmarks many` only prints the results.

This module defines the measurements and their limits. The daemon and the server run as separate processes. The
benchmarks use only their HTTP responses and /proc. A benchmark is not a test, and no test asserts a duration. `compare`
measures other exporters in the same way.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from importlib.metadata import version
from pathlib import Path

from benchmarks import page
from benchmarks.due import measure_due
from benchmarks.exporters.compare import Extent, measure_turns, section
from benchmarks.exporters.peers import USAGES, Peer, check, parse_peer
from benchmarks.fixture import Leaves, kubeadm_node, parse_loop
from benchmarks.growth import SIZES, measure_growth
from benchmarks.issuing import reissue_node
from benchmarks.measuring import Figure, percentile, scratch, timed
from benchmarks.processes import Pair, free_port
from benchmarks.profiling import profiles
from benchmarks.report.pages import filled, write_pages
from benchmarks.report.progress import Progress
from benchmarks.soak import soak
from benchmarks.torn_pair import Count, measure_torn_pair
from certmond.pki.catalog.entries import KeyAlgorithm

BENCHMARKS, COMPARISON = "benchmarks.md", "comparison.md"


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
            yield Figure(f"resident memory of both processes with {count} files", "MB", [pair.resident()], "≤ 110 MB")
            yield from _idle(pair, seconds)


def measure_node(seconds: float) -> Iterator[Figure]:
    """Yield the rows about a kubeadm node."""
    with scratch() as work:
        root = kubeadm_node(work / "node")
        with Pair(work / "small", root, None, free_port()) as pair:
            cold = pair.until(lambda: pair.expiries() == 14)
            yield Figure("kubeadm node: time from the start until /metrics is complete", "s", [cold], "")
            pair.get("/metrics", gzip=True)
            yield Figure("  resident memory of both processes", "MB", [pair.resident()], "≤ 65 MB")
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


_TABLE_PARTS: Mapping[str, Callable[[argparse.Namespace], Iterator[Figure | Count]]] = {
    "due": lambda _: measure_due(800),
    "growth": lambda options: measure_growth(options.sizes),
    "issuing": lambda options: measure_issuing(2 * options.rounds),
    "many": lambda options: measure_many(options.count, options.rounds, options.seconds),
    "node": lambda options: measure_node(options.seconds),
    "page": lambda options: measure_page(options.rounds),
    "torn-pair": lambda options: measure_torn_pair(options.renewals),
}
_COMPARE = "compare"
_PARTS = (*_TABLE_PARTS, _COMPARE)
_PROGRAMS = {"page": ("chromium", "chromium"), "torn-pair": ("etcd", "etcd-server")}
"""The programs that parts need, with their packages."""


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command. Exit with 2 for wrong options, for a wrong peer and for a missing program."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="certificates in `many`, `compare` and `profile`")
    parser.add_argument(
        "--sizes", type=_sizes, default=SIZES, metavar="N,N…", help="numbers of certificates in `growth`"
    )
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of short measurements")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each exporter in `compare`")
    parser.add_argument("--seconds", type=float, default=20, help="duration of the idle measurement")
    parser.add_argument("--renewals", type=int, default=1000, help="renewals of the pair of a running etcd")
    parser.add_argument(
        "--peer", type=_peer, action="append", default=[], metavar="NAME=PROGRAM", dest="peers",
        help=f"an exporter for `compare`: {', '.join(USAGES)}. Repeat the option for each exporter",
    )  # fmt: skip
    parser.add_argument(
        "--pages", type=Path, metavar="DIRECTORY", help=f"also write {BENCHMARKS} and {COMPARISON} in this directory"
    )
    parser.add_argument("--minutes", type=float, default=60, help="duration of the soak")
    parser.add_argument("--seed", type=int, default=0, help="seed of the changes in the soak")
    which = f"which: {', '.join(_PARTS)}; all by default. Or: profile, soak"
    parser.add_argument("parts", nargs="*", help=which)
    options = parser.parse_intermixed_args(arguments)
    options.parts = options.parts or [*_PARTS]
    wrong = [part for part in options.parts if part not in _PARTS]
    if wrong and options.parts not in (["profile"], ["soak"]):
        parser.error(f"unknown part {wrong[0]!r}; {which}")
    names = [peer.name for peer in options.peers]
    if len({*names}) < len(names):
        parser.error("each --peer needs a different name")
    if options.pages and not options.pages.is_dir():
        parser.error(f"{options.pages} is not a directory")
    for part, (program, package) in _PROGRAMS.items():
        if part in options.parts and not shutil.which(program):
            parser.error(f"the part {part} needs {program}; install it (Debian: {package}), or name the other parts")
    if _COMPARE in options.parts:
        try:
            with Progress() as progress:
                check(options.peers, progress.begin)
        except ValueError as error:
            parser.error(str(error))
    return options


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _peer(text: str) -> Peer:
    try:
        return parse_peer(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main() -> None:
    signal.signal(signal.SIGTERM, _end)
    options = parse_options(sys.argv[1:])
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
    with Progress() as progress:
        pages = _measured(options, progress)
    if options.pages:
        write_pages(options.pages, pages)


def _measured(options: argparse.Namespace, progress: Progress) -> dict[str, str]:
    """Run the parts, print the results, and return the pages with these results."""
    command, pages = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]), dict[str, str]()
    rows = []
    print("| measurement | median | minimum … maximum (samples) | limit |\n|---|---|---|---|", flush=True)
    for name in (part for part in _TABLE_PARTS if part in options.parts):
        progress.begin(name)
        for figure in _TABLE_PARTS[name](options):
            rows.append(figure.row())
            print(rows[-1], flush=True)
    if rows:
        values = {"machine": _machine(), "command": command, "rows": "\n".join(rows)}
        pages[BENCHMARKS] = filled(BENCHMARKS, values)
    if _COMPARE in options.parts:
        extent = Extent(options.count, options.turns, options.seconds, replacements=10)
        turns = [*measure_turns(options.peers, extent, progress.begin)]
        text = section(options.peers, turns, extent, _machine(), command)
        print(f"\n{text}", flush=True)
        pages[COMPARISON] = filled(COMPARISON, {"measurements": text})
    return pages


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
