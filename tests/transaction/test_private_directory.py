"""Directories for new keys: their mode, their missing parents, and the removal of empty ones only."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from certmond.errors import WriteError
from certmond.transaction.private_directory import make_private_directory, remove_empty_directory


def test_missing_directories_are_private(tmp_path: Path) -> None:
    """An existing directory keeps its mode."""
    (tmp_path / "data").mkdir(mode=0o755)
    for _ in range(2):
        make_private_directory(str(tmp_path), "/data/new/tls")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("data", "data/new", "data/new/tls")]
    assert modes == [0o755, 0o700, 0o700]


def test_a_file_in_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    for act in (make_private_directory, remove_empty_directory):
        with pytest.raises(WriteError, match="/data"):
            act(str(tmp_path), "/data/new" if act is make_private_directory else "/data")


def test_only_an_empty_directory_is_removed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/key").touch()
    remove_empty_directory(str(tmp_path), "/data")
    assert (tmp_path / "data/key").exists()
    (tmp_path / "data/key").unlink()
    for _ in range(2):
        remove_empty_directory(str(tmp_path), "/data")
    assert not (tmp_path / "data").exists()
