"""The version that a package prints."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from certmond.cli.main import cli

REPOSITORY = Path(__file__).parents[2]


def printed(*arguments: str) -> str:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False).output


@pytest.mark.parametrize("arguments", [("--version",), ("version",)])
def test_the_version_names_the_commit_of_a_package(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a commit in commit.txt, both ways to print the version also print its first twelve digits."""
    (tmp_path / "commit.txt").write_text("0123456789abcdef0123456789abcdef01234567\n")
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    assert printed(*arguments) == f"certmond {version('certmond')} (commit 0123456789ab)\n"


def test_a_work_tree_has_no_commit() -> None:
    """In a work tree, commit.txt contains no commit, and certmond prints only the version."""
    assert printed("--version") == f"certmond {version('certmond')}\n"


def test_git_archive_writes_the_commit() -> None:
    """The file commit.txt in the output of `git archive` contains the commit."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    archived = subprocess.run(
        ["sh", "-c", "git archive HEAD certmond/commit.txt | tar -xO"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert archived.stdout == head.stdout
