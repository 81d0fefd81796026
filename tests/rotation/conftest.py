"""What the tests of a bed share: the programs, which are built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rotation.making import built


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("programs"))
