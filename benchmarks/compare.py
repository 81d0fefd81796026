"""Comparison with other exporters on the same files: `python -m benchmarks compare --peer 'NAME: COMMAND {directory}'`.

Each peer is a command that serves metrics about the certificates in `{directory}`. Repeat `--port`, `--path` and
`--series` for each peer, in the order of the peers. The values are the port, the path of the metrics, and the series
with the expiry of each certificate. certmond and the peers run alternately, so that other work on the machine affects
all of them. A ratio compares two results of the same turn. The results do not include the child processes of a peer.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path

from benchmarks.fixture import Leaves
from benchmarks.measuring import percentile, scratch, timed
from benchmarks.processes import Exporter, Pair, free_port

Start = Callable[[Path, Leaves], AbstractContextManager[Exporter]]
"""Function that starts an exporter. The arguments are a new directory for the output, and the certificates."""

ROWS = {
    "cold start to complete metrics": "s",
    "  CPU until then": "s",
    "metrics plain, p50": "ms",
    "metrics gzip, p50": "ms",
    "file replaced to visible, median": "ms",
    "  the longest": "ms",
    "resident memory": "MB",
    "idle": "% of a core",
    "idle, wake-ups": "/s",
}


@dataclass(frozen=True)
class Peer:
    """Another exporter, from the command line."""

    name: str
    command: str
    port: int
    path: str
    series: str

    def start(self, work: Path, leaves: Leaves) -> Exporter:
        work.mkdir()
        command = shlex.split(self.command.replace("{directory}", str(leaves.directory)))
        path = self.path.replace("{directory}", str(leaves.directory))
        return Exporter([command], work / "log", self.port, path, self.series)


def certmond(work: Path, leaves: Leaves) -> Exporter:
    return Pair(work, leaves.root, leaves.config, free_port())


def one_turn(start: Start, work: Path, leaves: Leaves, seconds: float, replacements: Sequence[int]) -> list[float]:
    """Return one figure for each of `ROWS`, in the same order."""
    with start(work, leaves) as running:
        cold = running.until(lambda: running.expiries() >= leaves.count, every=0.01)
        spent = running.spent()
        scrapes = []
        for gzip in (False, True):
            running.scrape(gzip=gzip)
            scrapes.append([timed(partial(running.scrape, gzip=gzip)) for _ in range(20)])
        seen = [leaves.replace_one(running, number) for number in replacements]
        share, wakeups = running.idle(seconds)
        return [
            cold, spent, *(1000 * statistics.median(each) for each in scrapes),
            1000 * statistics.median(seen), 1000 * percentile(seen, 1), running.resident(), 100 * share, wakeups,
        ]  # fmt: skip


def table(peers: Sequence[str], figures: Sequence[Sequence[Sequence[float]]]) -> str:
    """Return a table in Markdown.

    `figures` contains, for each turn, the results of `one_turn` for certmond and then for each peer.
    """
    lines = [f"| what | certmond | {' | '.join(f'{name} | ratio' for name in peers)} |"]
    lines.append(f"|---|---|{'---|---|' * len(peers)}")
    for row, (what, unit) in enumerate(ROWS.items()):
        own = [turn[0][row] for turn in figures]
        cells = [f"{what} ({unit})", _spread(own)]
        for number in range(1, len(peers) + 1):
            theirs = [turn[number][row] for turn in figures]
            ratios = [other / figure for other, figure in zip(theirs, own, strict=True) if figure]
            cells += [_spread(theirs), _spread(ratios) if ratios else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(samples: Sequence[float]) -> str:
    return f"{statistics.median(samples):.3g} ({min(samples):.3g} … {max(samples):.3g})"


def parse_peers(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[Peer]]:
    parser = argparse.ArgumentParser(prog="benchmarks compare", description=__doc__)
    parser.add_argument("--peer", action="append", default=[], metavar="'NAME: COMMAND {directory}'")
    parser.add_argument(
        "--port", action="append", default=[], type=int, help="port of the peer on the loopback address"
    )
    parser.add_argument("--path", action="append", default=[], help="path of the metrics of the peer (/metrics)")
    parser.add_argument("--series", action="append", default=[], help="the series with the expiry of each certificate")
    parser.add_argument("--count", type=int, default=1000, help="certificates")
    parser.add_argument("--rounds", type=int, default=3, help="number of turns")
    parser.add_argument("--seconds", type=float, default=10, help="duration of the idle measurement")
    parser.add_argument("--replacements", type=int, default=10, help="replacements of one file in each turn")
    options = parser.parse_args(arguments)
    paths = options.path or ["/metrics"] * len(options.peer)
    if len({len(options.peer), len(options.port), len(paths), len(options.series)}) != 1:
        parser.error(
            "each --peer needs a --port and a --series; if one --peer has a --path, each --peer needs a --path"
        )
    peers = []
    for peer, port, path, series in zip(options.peer, options.port, paths, options.series, strict=True):
        name, colon, command = peer.partition(":")
        if not (name.strip() and colon and command.strip()):
            parser.error(f"{peer!r} is not NAME: COMMAND")
        peers.append(Peer(name.strip(), command.strip(), port, path, series))
    return options, peers


def main(arguments: Sequence[str]) -> None:
    options, peers = parse_peers(arguments)
    starts: list[Start] = [certmond, *(peer.start for peer in peers)]
    with scratch() as work:
        leaves = Leaves.make(work / "node", options.count)
        numbers = (
            count()
        )  # replace each file only once: otherwise the second exporter would have read the change at its start

        def once(start: Start, name: str) -> list[float]:
            return one_turn(start, work / name, leaves, options.seconds, [*islice(numbers, options.replacements)])

        figures = [
            [once(start, f"{turn}-{number}") for number, start in enumerate(starts)] for turn in range(options.rounds)
        ]
    print(f"{options.count} certificates, {options.rounds} turns: median (least … most)\n")
    print(table([peer.name for peer in peers], figures))
