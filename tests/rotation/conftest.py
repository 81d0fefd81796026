"""The fixtures of a bed: the programs, which are built once, and a running bed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.rotation.bed import Bed, Make
from tests.rotation.node_files import built

INTERVAL = 50.0
"""Milliseconds: with more connections the tests themselves would have no time on two cores."""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("programs"))


@pytest.fixture
def make(programs: Path, tmp_path: Path) -> Iterator[Make]:
    """A bed that runs."""
    with ExitStack() as open_beds:

        def made(**terms: Any) -> Bed:
            terms = {"control_planes": 1, "interval": INTERVAL, **terms}
            bed = open_beds.enter_context(Bed(tmp_path, programs, **terms))
            bed.start()
            return bed

        yield made
