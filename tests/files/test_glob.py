"""The expansion of a pattern, and its update after changes of single names."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.files import directory_names, glob
from certmond.files.cache import Files
from certmond.files.glob import expand

EXCLUDED = ("*.bak",)
PATTERNS = ("/c/*.crt", "/c/x*", "/c/*/*.crt", "/c/**/*.crt", "/c/**", "/*/a.crt")
CHANGES = st.lists(
    st.tuples(st.sampled_from(["/c/a.crt", "/c/x.bak", "/c/x", "/c/d/a.crt", "/c/d/x.crt", "/c/xx.crt", "/e/a.crt"])),
    min_size=1, max_size=12,
)  # fmt: skip


def turn(path: Path) -> str:
    """Remove the file if it exists, or else create it. Return the changed path that inotify reports."""
    changed = path
    if path.exists():
        path.unlink()
    else:
        while not changed.parent.exists():
            changed = changed.parent
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(changed)


@pytest.mark.long
@given(st.sampled_from(PATTERNS), CHANGES, st.sampled_from([2, 100]))
def test_an_updated_expansion_equals_a_new_one(pattern: str, changes: list[tuple[str]], limit: int) -> None:
    """After any change of files below its directories, also at the limit of files."""
    with tempfile.TemporaryDirectory() as place, mock.patch.object(glob, "MAX_FILES", limit):
        (Path(place) / "c").mkdir()
        files = Files(place)
        found = expand(files, pattern, EXCLUDED)
        for (path,) in changes:
            files.refresh(frozenset({turn(Path(place + path))}))
            found = found.updated(files) or expand(files, pattern, EXCLUDED)
            new = expand(Files(place), pattern, EXCLUDED)
            assert (found.paths, found.excess) == (new.paths, new.excess)


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Record the paths of the calls of a function of `os`."""
    calls: list[str] = []
    real: Callable[..., Any] = getattr(os, name)

    def call(path: str, **named: Any) -> Any:
        calls.append(path)
        return real(path, **named)

    monkeypatch.setattr(os, name, call)
    return calls


@pytest.mark.parametrize("name", ["new.crt", "new.tmp", "new.bak"])
def test_a_new_name_costs_one_look(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is not read again, and no other name is compared with the pattern. A name that the pattern does not
    match costs no look.
    """
    for number in range(50):
        (tmp_path / f"{number}.crt").touch()
    files = Files("/")
    found = expand(files, f"{tmp_path}/*.crt", EXCLUDED)
    (tmp_path / name).touch()
    compared: list[str] = []

    def compare(each: str, pattern: str) -> bool:
        compared.append(each)
        return fnmatchcase(each, pattern)

    monkeypatch.setattr(directory_names, "fnmatchcase", compare)
    looks, lists = counted(monkeypatch, "lstat"), counted(monkeypatch, "listdir")
    files.refresh(frozenset({f"{tmp_path}/{name}"}))
    updated = found.updated(files)
    monkeypatch.undo()
    assert updated is not None
    assert len(updated.paths) == 50 + (name == "new.crt")
    assert (looks, lists) == ([f"{tmp_path}/{name}"] if name == "new.crt" else [], [])
    assert compared == [name]


def test_a_directory_that_could_not_be_read_is_read_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If certmond had no free descriptor for a directory, a change of one name makes it read all names."""
    (tmp_path / "a.crt").touch()
    files = Files("/")
    monkeypatch.setattr(os, "listdir", mock.Mock(side_effect=OSError(errno.EMFILE, "")))
    found = expand(files, f"{tmp_path}/*.crt", EXCLUDED)
    monkeypatch.undo()
    (tmp_path / "b.crt").touch()
    files.refresh(frozenset({f"{tmp_path}/b.crt"}))
    found = found.updated(files) or expand(files, f"{tmp_path}/*.crt", EXCLUDED)
    assert found.paths == (f"{tmp_path}/a.crt", f"{tmp_path}/b.crt")


def test_a_directory_that_cannot_be_read_any_more_is_read_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a scan had no free descriptor for a directory that had no matching name before, certmond watches all names of
    the directory, and a change of any name makes it read the directory.
    """
    (tmp_path / "README").touch()
    files = Files("/")
    found = expand(files, f"{tmp_path}/*.crt", EXCLUDED)
    (tmp_path / "a.crt").touch()
    files.refresh(None)
    monkeypatch.setattr(os, "listdir", mock.Mock(side_effect=OSError(errno.EMFILE, "")))
    found = expand(files, f"{tmp_path}/*.crt", EXCLUDED)
    monkeypatch.undo()
    assert found.paths == ()
    assert files.interest[str(tmp_path)] is None
    files.refresh(frozenset({f"{tmp_path}/README"}))
    found = found.updated(files) or expand(files, f"{tmp_path}/*.crt", EXCLUDED)
    assert found.paths == (f"{tmp_path}/a.crt",)
    assert "README" not in (files.interest[str(tmp_path)] or ())


def test_a_directory_that_is_replaced_is_read_again(tmp_path: Path) -> None:
    """The names of the directory that was there before are no part of the new expansion."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c/a.crt").touch()
    files = Files(str(tmp_path))
    found = expand(files, "/c/*.crt", ())
    shutil.rmtree(tmp_path / "c")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/b.crt").touch()
    files.refresh(frozenset({f"{tmp_path}/c"}))
    assert found.updated(files) is None
    assert expand(files, "/c/*.crt", ()).paths == ("/c/b.crt",)
