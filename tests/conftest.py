"""Fixtures and options of all test modules."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest
from _pytest.tmpdir import tmppath_result_key

from tests.node import Node
from tests.sampling import EVERY_STOP, LONG, SEED, left_out, module_of
from tests.xdist_scheduler import Scheduling, turn

os.environ.pop("PYTHONUNBUFFERED", None)  # a daemon under test has the buffers of one that a unit starts
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # otherwise each process under test compiles certmond again
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it for its workers, and tables depend on it

# No test depends on the duration of an example, nor on the time that hypothesis needs to invent it.
TIMELESS: dict[str, Any] = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("certmond", **TIMELESS)
hypothesis.settings.register_profile("thorough", **TIMELESS, max_examples=2000)  # --hypothesis-profile=thorough
hypothesis.settings.load_profile("certmond")


HOURS = 4 * 3600.0
"""Time limit, in seconds, of a test that tries every stop."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Use this scheduler for any `--dist`: two workers never need the one machine, nor build what one could have
    shared.
    """
    config.option.loadscopereorder = False  # otherwise the tests of one long module would be the last
    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without garbage collection, which would take a quarter of the time. Later garbage collections
    skip all objects of the collection.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)  # after -k, which can select fewer tests than the sample has
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests so that long ones begin first. Deselect long tests without CERTMOND_LONG, and the tests of a group
    that are not in the sample.
    """
    items.sort(key=lambda item: turn(item.nodeid))
    if config.getoption("cov_context", None) is None:  # with contexts, the coverage names each test that reaches a line
        for item in filter(_without_coverage, items):
            item.add_marker("no_cover")
    if EVERY_STOP:
        for item in items:
            item.add_marker(pytest.mark.timeout(HOURS), append=False)
    markers = [item.get_closest_marker("sampled") for item in items]
    out = left_out(
        [
            marker.args[0] if marker else module_of(item.nodeid, item.get_closest_marker("long") is not None)
            for item, marker in zip(items, markers, strict=True)
        ]
    )
    if not LONG:
        out |= {place for place, item in enumerate(items) if item.get_closest_marker("long")}
    config.hook.pytest_deselected(items=[items[place] for place in sorted(out)])
    items[:] = [item for place, item in enumerate(items) if place not in out]


def _without_coverage(item: pytest.Item) -> bool:
    """Return whether `item` is a test of a property, or a long test outside of tests/pki. Coverage would double the
    time of these tests, and other tests reach almost every line.
    """
    is_property = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
    return is_property or bool(item.get_closest_marker("long") and not item.nodeid.startswith("tests/pki/"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the files of a test whose fixtures failed, too. pytest alone keeps them only after a failed call."""
    report = yield
    if report.when == "setup" and report.failed:
        item.stash.setdefault(tmppath_result_key, {})["call"] = False
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """After a failure, print the seed that repeats the sample."""
    if terminalreporter.stats.get("failed") and not EVERY_STOP:
        terminalreporter.write_line(f"Long tests and stops were a sample: CERTMOND_SEED={SEED} repeats it.")


def real_part(command: str) -> str:
    """Return the path of a real peer such as openssl. Without it the test is skipped, or fails where all are
    required.
    """
    return shutil.which(command) or unavailable(f"{command} not installed")


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Make each start of a thread fail, because it requests more memory than exists. Running threads continue."""
    threading.stack_size(1 << 50)
    try:
        yield
    finally:
        threading.stack_size(0)


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


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """Return a directory in memory if one with room exists: thousands of writes and kills do not wait for a disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 256 << 20:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="certmond-test-", dir=memory) as place:
        yield Path(place)
