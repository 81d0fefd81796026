"""How tests are shared out among workers, seen where it is done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tests.sharing_out import company, turn

REPOSITORY = Path(__file__).parents[1]


def test_a_module_is_done_by_one_worker() -> None:
    """Of several workers one does all tests of a module, and no worker has to do all modules."""
    modules = [f"tests/pki/test_{name}.py" for name in ("demand", "reason", "service_checks", "holding")]
    command = [sys.executable, "-m", "pytest", "-n", "2", "-v", "-p", "no:cacheprovider", *modules]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=REPOSITORY, env=inherited, capture_output=True, text=True, check=True)
    workers = defaultdict(set)
    for worker, module in re.findall(r"^\[(gw\d)\] .* PASSED ([^:]+)::", done.stdout, re.MULTILINE):
        workers[module].add(worker)
    assert workers.keys() == set(modules)
    assert all(len(those) == 1 for those in workers.values())
    assert len(set.union(*workers.values())) == 2


def test_whatever_wants_the_machine_is_done_by_one_worker_that_begins_with_it() -> None:
    """There is one machine: its modules have one worker, from the first moment."""
    wanting = [f"tests/system/test_{name}.py::test_it" for name in ("units", "unit_bus", "consumers")]
    wanting.append("tests/packaging/test_packages.py::test_it")
    assert len(set(map(company, wanting))) == 1
    others = ["tests/test_turns.py::test_it", "tests/pki/test_path.py::test_it", "tests/test_renewal.py::test_it"]
    assert sorted([*others[::-1], *wanting], key=turn) == [*wanting, *others]


def test_long_tests_that_share_nothing_are_spread() -> None:
    """Two of them have nothing in common, not even by their parameters."""
    killed = [f"tests/test_renewal.py::test_killed_again_and_again[{seed}]" for seed in range(2)]
    assert len(set(map(company, killed))) == 2
