"""Mutation test of certmond.pki: `python -m benchmarks.mutation` counts the defects that the tests of tests/pki detect.

For each mutant, the program writes the mutant to a copy of the source tree, and runs the tests that reach the changed
line. The fastest test runs first, and the run ends with the first failure. build/mutation contains the results, so that
an interrupted run can continue. A change to the code or to the tests starts a new run. The program never writes to the
original tree.

A forked child process tests each mutant. The parent process has imported the common dependencies, but no module of
certmond.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import coverage
import cryptography.x509
import hypothesis
import pydantic
import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from benchmarks.mutants import Mutant, mutants

IMPORTED = (cryptography.x509, hypothesis, pkcs12, pydantic)
ROOT, CODE, TESTS = Path(__file__).parents[1], "certmond/pki", "tests/pki"
WORK = ROOT / "build" / "mutation"
COPIED = ("certmond", "config", "docs", "fuzz", "tests", "pyproject.toml")
MEMORY = 4 << 30
KILLED, SURVIVED = "killed", "survived"
LIMITS = (10, 40)
"""Time limits of a test, as multiples of its duration without a mutant plus one second.

If a test exceeds the first limit, the run of the mutant is repeated with the second limit. A busy processor, or the
creation of a fixture that another test has created in the first run, can also exceed the first limit.
"""

Tests = dict[str, float]
"""The duration of each test in seconds, by the ID of the test."""


class Order:
    """Plugin of pytest that selects the tests, the order of the tests, and the time limit of each test."""

    def __init__(self, tests: Tests | None = None, limit: int = 0) -> None:
        self.tests, self.limit = tests, limit
        self.taken: Tests = defaultdict(float)
        self.failed, self.exceeded_limit = "", False

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if (tests := self.tests) is not None:
            items[:] = sorted((item for item in items if item.nodeid in tests), key=lambda item: tests[item.nodeid])
            for item in items:
                item.add_marker(pytest.mark.timeout(self.limit * (1 + tests[item.nodeid])))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.taken[report.nodeid] += report.duration
        if report.failed and not self.failed:
            self.failed, self.exceeded_limit = report.nodeid, "Timeout (>" in report.longreprtext

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def in_child(tree: Path, work: Callable[[], Any]) -> Any:
    """Return the result of `work` in a forked child process in the directory `tree`, or None if the child failed."""
    answer = WORK / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        try:
            os.chdir(tree)
            sys.path[:] = [str(tree), *(each for each in sys.path if Path(each).resolve() != ROOT)]
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            with (WORK / "log").open("w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                answer.write_text(json.dumps(work()))
        except BaseException:  # noqa: BLE001 - the child ends here after any exception of a mutant
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    os.waitpid(child, 0)
    return json.loads(answer.read_text()) if answer.exists() else None


def run(order: Order, files: Iterable[str], *options: str) -> Order:
    early = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis is imported before pytest registers it
    common = ["-q", "-n", "0", "-p", "no:cacheprovider", "-W", early, "--hypothesis-profile=mutation"]
    status = pytest.main([*common, *options, *files], plugins=[order])
    if status and not order.failed:  # for example if a common import fails
        order.failed = f"pytest itself, with the status {int(status)}"
    import certmond  # noqa: PLC0415 - only a child imports it

    assert Path(str(certmond.__file__)).is_relative_to(Path.cwd()), "the tests must import the copy"
    return order


def baseline(tree: Path) -> dict[str, Any]:
    """Return the tests with their durations in seconds, and the tests that reach each line of each module."""

    def work() -> dict[str, Any]:
        order = run(Order(), [TESTS], f"--cov={CODE}", "--cov-context=test", "--cov-report=")
        reached: dict[str, dict[str, list[str]]] = {}
        data = coverage.CoverageData(basename=str(tree / ".coverage"))
        data.read()
        for name in data.measured_files():
            module = tree.joinpath(name).relative_to(tree).as_posix()
            reached[module] = {
                str(line): sorted({context.partition("|")[0] for context in contexts} - {""})
                for line, contexts in data.contexts_by_lineno(name).items()
            }
        return {"failed": order.failed, "tests": order.taken, "reached": reached}

    print(f"running {TESTS} once, to record which test reaches which line", flush=True)
    found: dict[str, Any] | None = in_child(tree, work)
    if found is None or found["failed"]:
        raise SystemExit(f"{TESTS} must pass first; see {WORK / 'log'}")
    return found


def first_failure(tree: Path, tests: Tests, files: list[str]) -> str | None:
    """Return the first test that fails, "" if all tests pass, or None if the child process did not finish."""

    def work(limit: int) -> tuple[str, bool]:
        order = run(Order(tests, limit), files, "-x")
        return order.failed, order.exceeded_limit

    found: tuple[str, bool] | None = None
    for limit in LIMITS:
        found = in_child(tree, partial(work, limit))
        if found is None or not found[1]:
            break
    return None if found is None else found[0]


def judged(tree: Path, module: str, mutant: Mutant, known: dict[str, Any]) -> dict[str, Any]:
    """Return the verdict on a mutant, and the test that detected it."""
    reached = known["reached"].get(module, {})
    names = {name for line in range(mutant.begin, mutant.line + 1) for name in reached.get(str(line), ())}
    tests = {name: known["tests"][name] for name in names or known["tests"]}  # an import precedes every test
    files = sorted({name.partition("::")[0] for name in tests})
    path, start = tree / module, time.monotonic()
    original = path.read_text()
    path.write_text(mutant.text)
    try:
        failed = first_failure(tree, tests, files)
    finally:
        path.write_text(original)
    verdict = SURVIVED if failed == "" else KILLED
    by = failed or ("its process, which did not finish" if failed is None else "")
    return {"verdict": verdict, "by": by, "tests": len(tests), "seconds": round(time.monotonic() - start, 1)}


def fresh_copy(tree: Path) -> None:
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, tree / name)


def digest() -> str:
    """Return the digest of all files on which a result depends."""
    found = hashlib.sha256()
    for path in [
        Path(__file__).with_name("mutants.py"),
        *sorted((ROOT / CODE).rglob("*.py")),
        *sorted((ROOT / TESTS).rglob("*.py")),
        *sorted((ROOT / "tests").glob("*.py")),
    ]:
        found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def chosen(sample: int | None, seed: int, modules: list[str]) -> list[tuple[str, Mutant]]:
    """Return the selected mutants, in the order of the run."""
    names = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / CODE).rglob("*.py"))]
    wanted = [name for name in names if not modules or Path(name).stem in modules]
    known = [(name, mutant) for name in wanted for mutant in mutants((ROOT / name).read_text())]
    return known if sample is None else random.Random(seed).sample(known, min(sample, len(known)))  # noqa: S311 - no secret


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("--sample", type=int, metavar="N", help="number of random mutants (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("modules", nargs="*", help="modules of certmond/pki, such as `findings` (default: all)")
    options = parser.parse_args()
    os.environ["CERTMOND_LONG"] = "1"  # without its long tests, pki would have fewer
    hypothesis.settings.register_profile(
        "mutation", deadline=None, derandomize=True, database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],  # hypothesis does not need to shrink an example
    )  # fmt: skip
    tree, memory = WORK / "tree", WORK / digest()
    memory.mkdir(parents=True, exist_ok=True)
    fresh_copy(tree)
    known, results = memory / "baseline.json", memory / "results.jsonl"
    if not known.exists():
        known.write_text(json.dumps(baseline(tree)))
    reached = json.loads(known.read_text())
    results.touch()
    done = {(each["module"], each["line"], each["what"]): each for each in map(json.loads, results.open())}
    count, survivors = Counter[str](), list[str]()
    for module, mutant in chosen(options.sample, options.seed, options.modules):
        found = done.get((module, mutant.line, mutant.what))
        if found is None:
            found = {
                "module": module,
                "line": mutant.line,
                "what": mutant.what,
                **judged(tree, module, mutant, reached),
            }
            with results.open("a") as file:
                file.write(json.dumps(found) + "\n")
        count[found["verdict"]] += 1
        line = f"{module}:{mutant.line}: {mutant.what}"
        survivors += [line] * (found["verdict"] == SURVIVED)
        print(f"{found['verdict']:8} {found['seconds']:6} s  {line}", flush=True)
    print(f"\n{count[KILLED]} of {count.total()} mutants killed: {count[KILLED] / max(count.total(), 1):.1%}")
    print("".join(f"  survived: {line}\n" for line in survivors), end="")


if __name__ == "__main__":
    main()
