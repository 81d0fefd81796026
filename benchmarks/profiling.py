"""Profile of a pass with cProfile in this process: the functions by their CPU time, without the functions they call.

The profile covers two kinds of passes of the daemon (observe, assess, publish): the first pass over all files, and
passes after the replacement of one file. Use only the shares of a profile, and not the times: the profiler adds a cost
to each call, so functions with many calls appear more expensive than they are.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.fixture import START, Leaves
from certmond.config.loader import load
from certmond.daemon.file_changes import QUIET
from certmond.expose.documents.status_reader import STATUS
from certmond.expose.metrics.exposition import METRICS, Renderer
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import Assessment, assess

ROWS = 10
PASSES = 20  # number of passes of the second kind


def profiles(work: Path, count: int) -> Iterator[str]:
    """Yield lines of Markdown: a table for each of the two kinds of passes over `count` certificates."""
    leaves = Leaves.make(work / "node", count)
    store, renderer = Store(load(leaves.config, explicit=True).certificates, str(leaves.root)), Renderer()

    def one_pass(before: Assessment | None, touched: frozenset[str] | None) -> Assessment:
        assessment = assess(store.observe(touched), datetime.now(UTC), before)
        renderer.write_metrics(work / METRICS, assessment)
        renderer.write_status(work / STATUS, assessment, "observe", None)
        return assessment

    gc.disable()  # as the daemon does
    profile = cProfile.Profile(time.process_time)
    assessment = profile.runcall(one_pass, None, None)
    yield from _table(f"The first pass over {count} certificates", profile)
    profile = cProfile.Profile(time.process_time)
    for number in range(PASSES):
        path = leaves.replace(number, START + timedelta(days=364, seconds=number))
        time.sleep(QUIET)
        assessment = profile.runcall(one_pass, assessment, frozenset({str(path)}))
    yield from _table(f"{PASSES} passes in which one of {count} files was replaced", profile)


def _table(title: str, profile: cProfile.Profile) -> Iterator[str]:
    found = pstats.Stats(profile).get_stats_profile()
    rows = sorted(found.func_profiles.items(), key=lambda row: row[1].tottime, reverse=True)
    yield f"\n{title}, {found.total_tt:.2f} s of CPU under the profiler:\n"
    yield "| own time | calls | function |\n|---|---|---|"
    for name, row in rows[:ROWS]:
        where = f"{Path(row.file_name).name}:{row.line_number}" if row.line_number else ""
        yield f"| {row.tottime / found.total_tt:.1%} | {row.ncalls} | `{name}` {where} |"
