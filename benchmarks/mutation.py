"""`python -m benchmarks.mutation`: how many mistakes in certmond.pki do the tests of tests/pki notice?

Owns the running: each mutant is written into a copy of the tree, and the tests that reach its line are run there, the
quick ones first, until one fails. What was found is kept in build/mutation, so that it may be interrupted and goes on
where it was; a change of the code or of the tests begins afresh. Never writes into the tree that it is run from.

A child is forked for each mutant from this process, which has imported what all of them need, but nothing of certmond.
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
COPIED = ("certmond", "config", "docs", "tests", "pyproject.toml")
MEMORY = 4 << 30
KILLED, SURVIVED = "killed", "survived"

Tests = dict[str, float]
"""The seconds that each test takes, by its id."""


class Order:
    """What pytest is told: which of the tests it collects are run, in which order, and how long each may take."""

    def __init__(self, tests: Tests | None = None) -> None:
        self.tests = tests
        self.taken: Tests = defaultdict(float)
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if (tests := self.tests) is not None:
            items[:] = sorted((item for item in items if item.nodeid in tests), key=lambda item: tests[item.nodeid])
            for item in items:
                item.add_marker(pytest.mark.timeout(10 + 10 * tests[item.nodeid]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.taken[report.nodeid] += report.duration
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def in_child(tree: Path, work: Callable[[], Any]) -> Any:
    """What `work` returns in a child of its own, in the tree; None where it came to no end."""
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
        except BaseException:  # noqa: BLE001 - whatever a mutant does, this child ends here
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    os.waitpid(child, 0)
    return json.loads(answer.read_text()) if answer.exists() else None


def run(order: Order, files: Iterable[str], *options: str) -> Order:
    early = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis is imported before pytest knows of it
    common = ["-q", "-n", "0", "-p", "no:cacheprovider", "-W", early, "--hypothesis-profile=mutation"]
    status = pytest.main([*common, *options, *files], plugins=[order])
    if status and not order.failed:  # as where what all tests need cannot be imported
        order.failed = f"pytest itself, which ended with {int(status)}"
    import certmond  # noqa: PLC0415 - only a child has one

    assert Path(str(certmond.__file__)).is_relative_to(Path.cwd()), "the copy is what was tested"
    return order


def baseline(tree: Path) -> dict[str, Any]:
    """The tests with their seconds, and for each module the tests that reach each of its lines."""

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

    print(f"running {TESTS} once, to see which test reaches which line", flush=True)
    found: dict[str, Any] | None = in_child(tree, work)
    if found is None or found["failed"]:
        raise SystemExit(f"{TESTS} must pass first; see {WORK / 'log'}")
    return found


def judged(tree: Path, module: str, mutant: Mutant, known: dict[str, Any]) -> dict[str, Any]:
    """What became of a mutant, and which test noticed it."""
    reached = known["reached"].get(module, {})
    names = {name for line in range(mutant.begin, mutant.line + 1) for name in reached.get(str(line), ())}
    tests = {name: known["tests"][name] for name in names or known["tests"]}  # an import is before every test
    files = sorted({name.partition("::")[0] for name in tests})
    path, start = tree / module, time.monotonic()
    original = path.read_text()
    path.write_text(mutant.text)
    try:
        failed = in_child(tree, lambda: run(Order(tests), files, "-x").failed)
    finally:
        path.write_text(original)
    verdict = SURVIVED if failed == "" else KILLED
    by = failed or ("its process, which came to no end" if failed is None else "")
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
    """Of everything that a result depends on."""
    found = hashlib.sha256()
    for path in [
        Path(__file__).with_name("mutants.py"),
        *sorted(ROOT.glob(f"{CODE}/*.py")),
        *sorted(ROOT.glob(f"{TESTS}/*.py")),
    ]:
        found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def chosen(sample: int | None, seed: int, modules: list[str]) -> list[tuple[str, Mutant]]:
    """The mutants that are asked for, in the order in which they are tried."""
    names = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / CODE).glob("*.py"))]
    wanted = [name for name in names if not modules or Path(name).stem in modules]
    known = [(name, mutant) for name in wanted for mutant in mutants((ROOT / name).read_text())]
    return known if sample is None else random.Random(seed).sample(known, min(sample, len(known)))  # noqa: S311 - no secret


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("--sample", type=int, metavar="N", help="so many mutants, chosen by chance; all if not given")
    parser.add_argument("--seed", type=int, default=0, help="which sample: the same number, the same mutants")
    parser.add_argument("modules", nargs="*", help="of certmond/pki, such as `plan`; all if none is named")
    options = parser.parse_args()
    hypothesis.settings.register_profile(
        "mutation", deadline=None, derandomize=True, database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],  # nobody asks for the smallest example
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
