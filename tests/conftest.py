"""What every test module shares."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.node import Node


def real_part(command: str) -> str:
    """The path of a real peer such as openssl. Without it the test is skipped, or fails where all are required."""
    path = shutil.which(command)
    if path is None:
        reason = f"{command} not installed"
        if os.environ.get("CERTMOND_REQUIRE_REAL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A control-plane node as a real kubeadm v1.24 wrote it."""
    root = tmp_path / "node"
    root.mkdir()
    return Node(root)
