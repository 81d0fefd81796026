"""certmond does not run a program that another user can change, and reports the reason."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from certmond.path_trust import distrust, exposed_file, exposure


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a program in a separate directory."""
    directory = tmp_path / "bin"
    directory.mkdir(mode=0o755)
    path = directory / "hook"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_program_that_no_other_user_can_change_is_trusted(program: Path) -> None:
    """A program that belongs to root or to the user of certmond, that no other user can write, and that is executable
    has no exposure.
    """
    assert exposure(str(program)) is None


@pytest.mark.parametrize("mode", [0o775, 0o757])
@pytest.mark.parametrize("what", [".", ".."])
def test_a_program_that_others_can_write_is_not_trusted(program: Path, mode: int, what: str) -> None:
    """A file, or a directory on the path, that group or others can write is named with its mode and the remedy."""
    place = program if what == "." else program.parent
    place.chmod(mode)
    assert exposure(str(program)) == f"other users can write {place} (mode 0{mode:o}); run: chmod go-w {place}"


def test_the_command_for_a_path_with_a_space_removes_the_exposure(tmp_path: Path) -> None:
    """The remedy quotes the path for the shell."""
    path = tmp_path / "a hook's program"
    for secret, mode in ((False, 0o777), (True, 0o640)):
        path.touch()
        path.chmod(mode)
        printed = exposed_file(str(path), path.stat(), secret=secret) or ""
        subprocess.run(["sh", "-c", printed.partition("run: ")[2]], check=True)
        assert exposed_file(str(path), path.stat(), secret=secret) is None


def test_a_symlink_is_followed_with_all_its_directories(program: Path, tmp_path: Path) -> None:
    """A user who can write a directory with a link on the path can replace that link."""
    (open_to_all := tmp_path / "open").mkdir()
    link, outer = open_to_all / "link", tmp_path / "outer"
    link.symlink_to(program)
    outer.symlink_to(link)
    assert exposure(str(outer)) is None
    open_to_all.chmod(0o777)
    assert str(open_to_all) in (exposure(str(outer)) or "")
    open_to_all.chmod(0o1777)  # in a sticky directory a user cannot move the files of another
    assert exposure(str(outer)) is None


def test_both_sides_of_a_linked_directory_are_checked(program: Path, tmp_path: Path) -> None:
    """Others may write neither in the directory of the link nor in its target."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    program.parent.rename(tmp_path / "there/bin")
    (tmp_path / "here/bin").symlink_to(tmp_path / "there/bin")
    path = str(tmp_path / "here/bin/hook")
    assert exposure(path) is None
    for name in ("here", "there"):
        (tmp_path / name).chmod(0o777)
        assert (exposure(path) or "").startswith(f"other users can write {tmp_path / name}")
        (tmp_path / name).chmod(0o755)


def test_what_belongs_to_another_user_is_not_trusted(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a user that is neither root nor the one that runs certmond is named with the command that fixes it."""
    if os.geteuid() == 0:
        os.chown(program, 12345, 12345)
        assert exposure(str(program)) == f"{program} belongs to user 12345; run: chown root {program}"
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert "chown 12345" in (exposure(str(program)) or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the rights to give a file to another user")
def test_a_symlink_of_another_user_is_not_trusted(program: Path, tmp_path: Path) -> None:
    """The rule also holds in a directory with the sticky bit: the owner can retarget the link to any other program of
    root.
    """
    (shared := tmp_path / "shared").mkdir()
    shared.chmod(0o1777)
    (link := shared / "link").symlink_to(program)
    assert exposure(str(link)) is None
    os.chown(link, 12345, 12345, follow_symlinks=False)
    assert exposure(str(link)) == f"{link} belongs to user 12345; run: chown -h root {link}"


def test_each_symlink_between_counts(program: Path, tmp_path: Path) -> None:
    """The directory of a link in the middle of the path is checked, although neither end of the path is in it."""
    (between := tmp_path / "between").mkdir()
    (between / "bin").symlink_to(program.parent)
    (tmp_path / "start").symlink_to("between/../between/bin")
    path = str(tmp_path / "start" / program.name)
    assert exposure(path) is None
    between.chmod(0o777)
    assert (exposure(path) or "").startswith(f"other users can write {between}")


def test_a_script_among_the_arguments_counts(program: Path, tmp_path: Path) -> None:
    """The rule holds for each argument that is the absolute path of a regular file, and for no other word."""
    data, command = (
        tmp_path / "x.sh",
        ("/bin/sh", "-e", str(tmp_path / "x.sh"), str(tmp_path), "/dev/null", "/none", "-"),
    )
    data.write_text("exit 0")
    data.chmod(0o644)
    assert distrust(command) is None
    data.chmod(0o666)
    assert distrust(command) == f"other users can write {data} (mode 0666); run: chmod go-w {data}"


def test_what_is_not_there_is_the_systems_error(program: Path) -> None:
    """A missing file and a loop of links raise the error of the system."""
    with pytest.raises(FileNotFoundError):
        exposure(str(program) + "x")
    (circle := program.with_name("circle")).symlink_to(circle)
    with pytest.raises(OSError, match="Too many levels"):
        exposure(str(circle))


def test_an_ordinary_users_own_group_is_that_user(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the umask 0002 of many distributions, the files of a user are writable for the group of the same name."""
    program.parent.chmod(0o775)
    gid = os.stat(program.parent).st_gid
    assert exposure(str(program)) is not None or os.geteuid() != 0
    monkeypatch.setattr(os, "getegid", lambda: gid)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(program).st_uid or 4711)
    assert exposure(str(program)) is None
    monkeypatch.setattr(os, "getegid", lambda: gid + 1)
    assert (exposure(str(program)) or "").startswith(f"other users can write {program.parent}")
