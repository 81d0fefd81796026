"""Comparison with other exporters on the same files.

certmond and the peers run alternately, so that other work on the machine affects all of them. The results do not
include the child processes of a peer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path

from benchmarks.exporters.peers import USAGES, Peer
from benchmarks.fixture import Leaves
from benchmarks.measuring import number, scratch, timed
from benchmarks.processes import Exporter, Pair, free_port

Start = Callable[[Path, Leaves], AbstractContextManager[Exporter]]
"""Function that starts an exporter. The arguments are a new directory for the output, and the certificates."""

OWN = "certmond"
ROWS = (
    "from the start until all certificates are in the metrics, s",
    "CPU time from the start until all certificates are in the metrics, s",
    "a scrape without compression, ms",
    "a scrape with gzip, ms",
    "from the replacement of a file until the metrics show it, ms",
    "resident memory, MB",
    "CPU use while idle, % of a core",
)
Turn = Sequence[Sequence[float]]
"""For certmond and then for each peer: one figure for each of `ROWS`."""


@dataclass(frozen=True)
class Extent:
    """The number of certificates and of turns, and in each turn the seconds without a change and the replacements."""

    count: int
    turns: int
    seconds: float
    replacements: int


def certmond(work: Path, leaves: Leaves) -> Exporter:
    return Pair(work, leaves.root, leaves.config, free_port())


def measure_turns(peers: Sequence[Peer], extent: Extent, begin: Callable[[str], None]) -> Iterator[Turn]:
    """Yield the figures of each turn. Call `begin` with the name of each measurement at its start."""
    starts: dict[str, Start] = {OWN: certmond, **{peer.name: peer.start for peer in peers}}
    with scratch() as work:
        begin(f"compare: creation of {extent.count} certificates")
        leaves = Leaves.make(work / "node", extent.count)
        # Replace each file only once: otherwise the second exporter would have read the change at its start.
        numbers = count()
        for turn in range(extent.turns):
            figures = []
            for name, start in starts.items():
                begin(f"compare: {name}, turn {turn + 1} of {extent.turns}")
                replacements = [*islice(numbers, extent.replacements)]
                figures.append(_figures(start, work / f"{turn}-{name}", leaves, extent.seconds, replacements))
            yield figures


def _figures(start: Start, work: Path, leaves: Leaves, seconds: float, replacements: Sequence[int]) -> list[float]:
    with start(work, leaves) as running:
        cold = running.until(lambda: running.expiries() >= leaves.count, every=0.01)
        spent = running.spent()
        scrapes = []
        for gzip in (False, True):
            running.scrape(gzip=gzip)
            scrapes.append([1000 * timed(partial(running.scrape, gzip=gzip)) for _ in range(20)])
        seen = [1000 * leaves.replace_one(running, number) for number in replacements]
        share, _ = running.idle(seconds)
        return [cold, spent, *map(statistics.median, scrapes), statistics.median(seen), running.resident(), 100 * share]


def section(peers: Sequence[Peer], turns: Sequence[Turn], extent: Extent, machine: str, command: str) -> str:
    """Return the section of docs/comparison.md about the measurements, in Markdown."""
    versions = [f"{peer.name} ({peer.version or 'without a recorded version'})" for peer in peers]
    names = {peer.name for peer in peers}
    missing = [name for name in USAGES if name not in names]
    begin = (
        f"The input was {extent.count:,} files with one leaf certificate each. One CA had signed all of them. "
        f"Each figure is the median of {extent.turns} runs. The minimum and the maximum are in parentheses."
    )
    lines = [
        *(f"{machine} This command ran the programs one after the other:", "", f"    {command}", "", begin, ""),
        *([f"Measured: {', '.join(versions)}.", ""] if versions else []),
        *([f"Not measured: {', '.join(missing)}.", ""] if missing else []),
        *table([OWN, *(peer.name for peer in peers)], turns),
    ]
    return "\n".join(lines)


def table(names: Sequence[str], turns: Sequence[Turn]) -> Iterable[str]:
    """Yield a table in Markdown with one column for each of `names`. The best value of a row is bold."""
    yield f"| | {' | '.join(names)} |"
    yield f"|---|{'---|' * len(names)}"
    for row, what in enumerate(ROWS):
        samples = [[turn[column][row] for turn in turns] for column in range(len(names))]
        medians = [statistics.median(each) for each in samples]
        best = min(medians) if medians.count(min(medians)) == 1 and len(names) > 1 else None
        cells = [_cell(each, is_best=statistics.median(each) == best) for each in samples]
        yield f"| {what} | {' | '.join(cells)} |"


def _cell(samples: Sequence[float], *, is_best: bool) -> str:
    middle = number(statistics.median(samples))
    return f"{f'**{middle}**' if is_best else middle} ({number(min(samples))} … {number(max(samples))})"
