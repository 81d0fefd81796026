"""Reads of the node's files before a write."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from certmond.transaction.dirfd import Place
from certmond.transaction.node_file_reader import NodeFiles


def test_the_time_of_the_last_change_is_that_of_the_target_of_a_symlink(tmp_path: Path) -> None:
    """The time is the ctime in UTC. A missing file has none."""
    (tmp_path / "file").touch()
    os.utime(tmp_path / "file", (1, 1))
    (tmp_path / "link").symlink_to("file")
    expected = datetime.fromtimestamp((tmp_path / "file").stat().st_ctime, UTC)
    files = NodeFiles(str(tmp_path))
    assert files.changed_at("/file") == files.changed_at("/link") == expected
    assert files.changed_at("/missing") is None
    assert files.changed_at("/file/below") is None


@pytest.mark.parametrize("seconds", [1e20, -1e20, math.nan])
def test_a_time_outside_of_the_calendar_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """A file system can contain any time."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(Place, "status", lambda _: SimpleNamespace(st_ctime=seconds))
    assert NodeFiles(str(tmp_path)).changed_at("/file") is None
