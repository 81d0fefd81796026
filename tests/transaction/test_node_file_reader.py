"""Reads of the node's files before a write."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from certmond.transaction.dirfd import Place
from certmond.transaction.node_file_reader import NodeFiles


def changed_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.lstat().st_ctime, UTC)


def test_the_time_of_the_last_change_includes_the_symlinks_on_the_path(tmp_path: Path) -> None:
    """The time is the latest ctime in UTC, because a new symlink leads to other content. A missing file has none."""
    file, link, directory = (tmp_path / name for name in ("file", "link", "directory"))
    file.touch()
    files, before = NodeFiles(str(tmp_path)), changed_at(file)
    link.symlink_to("file")
    while changed_at(link) <= before:  # until the clock of the file system has another time
        link.unlink()
        link.symlink_to("file")
    directory.symlink_to(".")
    assert files.changed_at("/file") == before
    assert files.changed_at("/link") == changed_at(link) > before
    assert files.changed_at("/directory/file") == changed_at(directory) >= changed_at(link)
    os.utime(file, (1, 1))
    assert files.changed_at("/link") == changed_at(file)
    assert files.changed_at("/missing") is None
    assert files.changed_at("/file/below") is None


@pytest.mark.parametrize("seconds", [1e20, -1e20])
def test_a_time_outside_of_the_calendar_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """A file system can contain any time."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(Place, "status", lambda _: SimpleNamespace(st_ctime=seconds))
    assert NodeFiles(str(tmp_path)).changed_at("/file") is None
