"""The first commands of a newcomer, `make` in a checkout: they name the missing packages."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.ordinary_user import command_of, only_root

REPOSITORY = Path(__file__).parents[2]
STAND_INS = {"dpkg-query": "exit 1", "python3": "exit 0"}
"""A host of Debian that has only systemd-python."""


@only_root
@pytest.mark.parametrize(("kind", "status"), [("run", 0), ("test", 0), ("release", 0), ("build", 1)])
def test_a_build_without_a_compiler_does_not_begin(kind: str, status: int) -> None:
    """For an ordinary user, `.ci/packages` prints the command that installs the missing packages. For a build without
    a compiler, it also fails, so that `make deb` does not fail later with an error of pip.
    """
    with tempfile.TemporaryDirectory(prefix="certmond-test-", dir="/tmp") as place:
        Path(place).chmod(0o755)
        for name, script in STAND_INS.items():
            (Path(place) / name).write_text(f"#!/bin/sh\n{script}\n")
            (Path(place) / name).chmod(0o755)
        command = command_of("nobody", ["/usr/bin/env", f"PATH={place}", "/bin/bash", "/mnt/.ci/packages", kind])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert "As root:  apt-get install -y --no-install-recommends python3 " in done.stderr
