"""Benchmark of the growth of time and memory with the number of certificates.

Growth without a step means that each added certificate costs the same, whatever the number of certificates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.fixture import Leaves
from benchmarks.measuring import Figure, scratch
from benchmarks.processes import Pair, free_port

SIZES = (100, 1_000, 10_000, 100_000)
_LINEAR = "linear"
_REPLACEMENTS = 20


def measure_growth(sizes: Sequence[int] = SIZES) -> Iterator[Figure]:
    """Yield the rows about the start, the memory and a pass with each number of certificates in `sizes`.

    After the rows of the second and each later number, yield the rows about one certificate more.
    """
    before: tuple[int, float, float] | None = None
    for count in sizes:
        with scratch() as work:
            leaves = Leaves.make(work / "node", count)
            with Pair(work / "pair", leaves.root, leaves.config, free_port()) as pair:
                cold = pair.until(lambda: pair.expiries() == count + 1)  # noqa: B023 - called immediately
                spent, resident = pair.spent(), pair.resident()
                yield Figure(f"{count} files: time from the start until /metrics is complete", "s", [cold], _LINEAR)
                yield Figure("  CPU time of both processes in this time", "s", [spent], _LINEAR)
                yield Figure("  resident memory of both processes", "MB", [resident], _LINEAR)
                replacements, daemon = min(count, _REPLACEMENTS), pair.spent_by_first()
                passes = [1000 * one_pass(leaves, pair, number) for number in range(replacements)]
                daemon = 1000 * (pair.spent_by_first() - daemon) / replacements
                yield Figure("  a pass of the daemon after the replacement of one file", "ms", passes, _LINEAR)
                yield Figure("  CPU time of the daemon for one replaced file", "ms", [daemon], _LINEAR)
        if before is not None:
            more = count - before[0]
            added, kept = 1000 * (spent - before[1]) / more, 1000 * (resident - before[2]) / more
            yield Figure(f"  CPU time of each certificate beyond {before[0]}", "ms", [added], "")
            yield Figure(f"  resident memory of each certificate beyond {before[0]}", "kB", [kept], "")
        before = count, spent, resident


def one_pass(leaves: Leaves, pair: Pair, number: int) -> float:
    """Replace one file, and return the seconds of the passes until the metrics contain the new expiry."""
    name = "certmond_pass_duration_seconds_sum"
    start = pair.value(name)
    leaves.replace_one(pair, number)
    return pair.value(name) - start
