"""Repeated runs of the tests on a loaded machine: `python -m benchmarks.flaky` lists each test that failed.

One busy process per CPU runs beside the tests. A test that fails only in some runs depends on the load, on the order or
on another test: this is a defect of the test or of certmond.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]


_BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"


@contextmanager
def busy_cpus(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep `count` CPUs busy with these processes until the block ends, or until this process is killed."""
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY, str(os.getpid())]) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def failures(report: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the first line of the error of each failed test in a JUnit report."""
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest has just written it
        for error in (*case.iter("failure"), *case.iter("error")):
            message = (error.get("message") or "").partition("\n")[0]
            yield f"{case.get('classname')}::{case.get('name')}", message[:100]


def run_tests(arguments: Sequence[str], report: Path, log: Path, seed: str) -> list[tuple[str, str]]:
    """Run the tests once, as `.ci/run` does, with the sample of `seed`. Return the failed tests, or the exit code of
    pytest if it did not run all tests.
    """
    environment = {**os.environ, "CERTMOND_LONG": "sample", "CERTMOND_SEED": seed}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments]
    with log.open("w") as output:
        code = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code not in {0, 1} or not report.exists():
        return [("pytest", f"ended with the exit code {code}; see {log}")]
    return [*failures(report)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests several times, and print each failed test. Return 1 if any test failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flaky", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="number of runs [10]")
    parser.add_argument("--load", type=int, default=os.cpu_count() or 1, help="number of busy CPUs [all]")
    parser.add_argument("--log", type=Path, default=Path("build/flaky"), help="directory of the logs [build/flaky]")
    parser.add_argument("tests", nargs="*", help="arguments for pytest [-n 4]")
    options = parser.parse_args(arguments)
    options.log.mkdir(parents=True, exist_ok=True)
    found = defaultdict[str, list[str]](list)
    with tempfile.TemporaryDirectory() as work, busy_cpus(options.load):
        for number in range(1, options.runs + 1):
            log = options.log.absolute() / f"{number}.log"
            failed = run_tests(options.tests or ["-n", "4"], Path(work) / f"{number}.xml", log, f"run {number}")
            for name, message in failed:
                found[name].append(message)
            print(f"run {number} of {options.runs}: {len(failed)} failed", flush=True)
    for name, messages in sorted(found.items(), key=lambda item: -len(item[1])):
        print(f"{len(messages)} of {options.runs}  {name}: {messages[0]}")
    print(f"The logs are in {options.log}." if found else "No test failed.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
