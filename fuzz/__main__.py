"""Search for inputs that violate an invariant of a parser. Each target has an equal share of the time.

build/fuzz contains the inputs for the next run. The end of the report names each input that violates an invariant. To
repeat such an input, run `python -m fuzz.run TARGET FILE`. Then add a test of the parser for this input.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from fuzz import corpus
from fuzz.targets import TARGETS

WORK = Path(__file__).parents[1] / "build" / "fuzz"
MOST_SECONDS, MOST_MEGABYTES, LONGEST = 20, 2048, 16384
"""Limits for one input. If the run takes longer or uses more memory, the input is a failure. LONGEST is in bytes."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="duration for all targets together (30)")
    parser.add_argument("--keep", action="store_true", help="at the end, write fuzz/corpus again, from all inputs")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], help="default: all")
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    broken = []
    for name in names:
        found = WORK / name
        found.mkdir(parents=True, exist_ok=True)
        for number, each in enumerate(corpus.inputs(name)):
            (found / f"kept-{number}").write_bytes(each)
        limits = [
            f"-max_total_time={max(1, round(60 * options.minutes / len(names)))}", f"-max_len={LONGEST}",
            f"-timeout={MOST_SECONDS}", f"-rss_limit_mb={MOST_MEGABYTES}", f"-artifact_prefix={WORK}/broken-{name}-",
        ]  # fmt: skip
        with (WORK / f"{name}.log").open("w") as log:
            command = [sys.executable, "-m", "fuzz.run", name, *limits, "-print_final_stats=1", str(found)]
            status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        stats = dict(
            line.removeprefix("stat::").split(":", 1)
            for line in (WORK / f"{name}.log").read_text(errors="replace").splitlines()
            if line.startswith("stat::")
        )
        runs = stats.get("number_of_executed_units", "?").strip()
        print(f"{name:24} {runs:>10} inputs  {'BROKEN' if status else 'holds'}", flush=True)
        broken += [name] if status else []
        if options.keep and not status:
            kept = corpus.keep(name, TARGETS[name], (path.read_bytes() for path in found.iterdir()))
            print(f"{'':24} {kept:>10} inputs kept", flush=True)
    for name in broken:
        inputs = ", ".join(str(path) for path in sorted(WORK.glob(f"broken-{name}-*"))) or "libFuzzer wrote no input"
        print(f"{name}: {inputs}; see {WORK / name}.log")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
