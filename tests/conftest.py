"""What every test module shares."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

from tests.node import Node

hypothesis.settings.register_profile("certmond", deadline=None)  # how long an example takes is no test's business
hypothesis.settings.load_profile("certmond")


MACHINE = "tests.system."
"""Below it all want the one machine that can be booted at a time: they stay together, and begin before all else."""

FIRST = (
    "tests.test_turns",
    "tests.cluster.test_lease_holders",
    "tests.test_enforce",
    "tests.test_cli",
    "tests.test_init",
    "tests.test_restarts_of_pods",
)
"""Modules that wait for much, or take long: others have to be there that work meanwhile."""

LAST = "tests.test_renewal"
"""What there is left to do where a worker has nothing else."""

SPREAD = ("tests.test_restarts_of_pods", LAST)
"""Modules of long tests that share little: each test is done wherever there is room."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of any other module stay together, for the sake of what they share: a CA, a server."""
    items.sort(key=_turn)
    for item in items:
        module = _module(item)
        if MACHINE in module:
            item.add_marker(pytest.mark.xdist_group("machine"))
        elif not module.endswith(SPREAD):
            item.add_marker(pytest.mark.xdist_group(module))


def _turn(item: pytest.Item) -> int:
    module = _module(item)
    return (MACHINE in module, module.endswith(FIRST), not module.endswith(LAST), True).index(True)


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0].removesuffix(".py").replace("/", ".")


def real_part(command: str) -> str:
    """The path of a real peer such as openssl. Without it the test is skipped, or fails where all are required."""
    return shutil.which(command) or unavailable(f"{command} not installed")


def unavailable(reason: str) -> NoReturn:
    """Skip the test for this reason, or fail it where every real part is required."""
    if os.environ.get("CERTMOND_REQUIRE_REAL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A control-plane node as a real kubeadm v1.24 wrote it."""
    root = tmp_path / "node"
    root.mkdir()
    return Node(root)
