"""The distribution of tests to workers, in a real run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.xdist_scheduler import company, turn

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.long
def test_one_worker_runs_a_module() -> None:
    """One of several workers runs all tests of a module, and no worker runs all modules."""
    names = (
        "catalog/test_unmet_requirements",
        "test_findings",
        "assessment/test_service_rules",
        "services/test_staleness",
    )
    modules = [f"tests/pki/{name}.py" for name in names]
    command = [sys.executable, "-m", "pytest", "-n", "2", "-v", "-p", "no:cacheprovider", *modules]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=REPOSITORY, env=inherited, capture_output=True, text=True, check=True)
    workers = defaultdict(set)
    for worker, module in re.findall(r"^\[(gw\d)\] .* PASSED ([^:]+)::", done.stdout, re.MULTILINE):
        workers[module].add(worker)
    assert workers.keys() == set(modules)
    assert all(len(those) == 1 for those in workers.values())
    assert len(set.union(*workers.values())) == 2


@pytest.mark.parametrize(
    "names",
    [
        ("system/test_units", "packaging/test_packages"),
        ("rotation/test_daemons", "rotation/test_families"),
        ("rotation/test_bed", "rotation/test_plan"),
    ],
)
def test_one_worker_begins_with_the_tests_of_a_machine_or_cluster(names: Sequence[str]) -> None:
    """There is one machine, one cluster of several nodes and one of mostly one node at a time: the modules of each have
    one worker, from the start.
    """
    wanting = [f"tests/{name}.py::test_it" for name in names]
    assert len(set(map(company, wanting))) == 1
    others = [
        "tests/controllers/test_restart_lock.py::test_it",
        "tests/pki/x509/test_path_building.py::test_it",
        "tests/test_renewal.py::test_it",
    ]
    assert sorted([*others[::-1], *wanting], key=turn) == [*wanting, *others]


def test_long_tests_that_share_nothing_are_spread() -> None:
    """Two of them have nothing in common, not even by their parameters."""
    killed = [f"tests/test_renewal.py::test_killed_again_and_again[{seed}]" for seed in range(2)]
    assert len(set(map(company, killed))) == 2
