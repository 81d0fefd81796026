"""A program that somebody else could change is not run, and why is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from certmond.host.trusted import distrust


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program in a directory of its own."""
    directory = tmp_path / "bin"
    directory.mkdir(mode=0o755)
    path = directory / "hook"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_what_nobody_else_can_change_is_trusted(program: Path) -> None:
    """Owned by root or by who runs it, written by nobody else, executable: nothing speaks against it."""
    assert distrust(str(program)) is None


@pytest.mark.parametrize("mode", [0o775, 0o757])
@pytest.mark.parametrize("what", [".", ".."])
def test_what_others_can_write_is_not_trusted(program: Path, mode: int, what: str) -> None:
    """A file, or a directory on the way, that group or others can write: it is named with its mode and the remedy."""
    place = program if what == "." else program.parent
    place.chmod(mode)
    assert distrust(str(program)) == f"{place} can be written by others (mode 0{mode:o}); chmod go-w {place}"


def test_a_symlink_is_followed_with_all_its_directories(program: Path, tmp_path: Path) -> None:
    """Who can write a directory with a link on the way can put another there."""
    (open_to_all := tmp_path / "open").mkdir()
    link, outer = open_to_all / "link", tmp_path / "outer"
    link.symlink_to(program)
    outer.symlink_to(link)
    assert distrust(str(outer)) is None
    open_to_all.chmod(0o777)
    assert str(open_to_all) in (distrust(str(outer)) or "")
    open_to_all.chmod(0o1777)  # where nobody moves what is another's
    assert distrust(str(outer)) is None


def test_a_directory_that_is_a_symlink_is_looked_at_on_both_sides(program: Path, tmp_path: Path) -> None:
    """Neither where the link to a directory lies may others write, nor where it leads to."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    program.parent.rename(tmp_path / "there/bin")
    (tmp_path / "here/bin").symlink_to(tmp_path / "there/bin")
    path = str(tmp_path / "here/bin/hook")
    assert distrust(path) is None
    for name in ("here", "there"):
        (tmp_path / name).chmod(0o777)
        assert (distrust(path) or "").startswith(f"{tmp_path / name} can be written by others")
        (tmp_path / name).chmod(0o755)


def test_what_belongs_to_somebody_else_is_not_trusted(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a user that is neither root nor who runs it."""
    if os.geteuid() == 0:
        os.chown(program, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "chown root" in (distrust(str(program)) or "")


def test_what_cannot_be_run_is_said(program: Path) -> None:
    """No file, a directory, a file that is not executable, a circle of links."""
    assert "cannot be run (No such file" in (distrust(str(program) + "x") or "")
    assert "no file that can be run" in (distrust(str(program.parent)) or "")
    program.chmod(0o644)
    assert "chmod +x" in (distrust(str(program)) or "")
    (circle := program.with_name("circle")).symlink_to(circle)
    assert distrust(str(circle)) is not None
