"""The packages of the present work tree, which the tests of this directory share."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import real_part

REPOSITORY = Path(__file__).parents[2]
BUILD_DEADLINE = 900.0  # pip fetches and compiles; on a machine that does much else besides


class Built:
    """The result of one build of a commit, each file by its suffix."""

    def __init__(self, out: Path, checkout: Path, commit: str) -> None:
        for part in ("dpkg-shlibdeps", "rpmbuild"):
            real_part(part)
        environment = {**os.environ, "OUT": str(out), "COMMIT": commit}
        done = subprocess.run(
            [checkout / "packaging/build", "dist", "rpm", "deb"],
            env=environment, capture_output=True, text=True, timeout=BUILD_DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        self.files = sorted(out.iterdir())

    def __getitem__(self, end: str) -> Path:
        (found,) = (file for file in self.files if file.name.endswith(end))
        return found


@pytest.fixture(scope="session")
def commit() -> str:
    """The work tree as it is, as a commit that no branch has."""
    stashed = subprocess.run(["git", "stash", "create"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return stashed.stdout.strip() or "HEAD"


@pytest.fixture(scope="session")
def built(commit: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("built"), REPOSITORY, commit)
