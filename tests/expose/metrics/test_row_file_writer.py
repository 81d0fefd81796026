"""A file with few changes: its content is complete, whatever was written before."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.errors import RuntimeDirError
from certmond.expose.metrics.row_file_writer import Sheet


class Row:
    """A row with a text in each of three columns. It counts how often its texts are requested."""

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, 0

    def texts(self) -> tuple[str, str, str]:
        self.asked += 1
        return f"a {self.text}\n", "", f"{self.text * 3}\n"


HEADS = ("first\n", "second\n", "third\n")


def expected(rows: list[Row], tail: str) -> str:
    """The file as if nothing had been written before."""
    columns = [head + "".join(Row(row.text).texts()[number] for row in rows) for number, head in enumerate(HEADS)]
    return "".join(columns) + tail


POOL = [Row(text) for text in ("", "x", "yy", "ü\udcff", "long" * 40, "z")]


@pytest.mark.long
@given(st.lists(st.tuples(st.lists(st.sampled_from(range(len(POOL))), unique=True), st.text(max_size=3)), min_size=2))
@settings(max_examples=150, deadline=None)
def test_the_file_equals_a_complete_rendering(
    tmp_path_factory: pytest.TempPathFactory, writings: list[tuple[list[int], str]]
) -> None:
    """Whatever stays, disappears, appears and moves from one write to the next, the file has exactly the given rows."""
    sheet, path = Sheet(Row.texts), tmp_path_factory.mktemp("sheet") / "rows"
    for numbers, tail in writings:
        rows = [POOL[number] for number in numbers]
        sheet.write(path, rows, HEADS, tail)
        assert path.read_bytes() == expected(rows, tail).encode("utf-8", "backslashreplace")


def test_a_separator_stands_between_two(tmp_path: Path) -> None:
    """JSON stays JSON when the first row goes, when one comes before it, and when none is left."""
    sheet, path = Sheet[str](lambda text: (f"{json.dumps(text)}\n",), ","), tmp_path / "list"
    one, two, three = "one", "two", "three"
    for rows in ([one, two, three], [two, three], [one, two, three], [three, one], [], [two]):
        sheet.write(path, rows, ("[\n",), "]\n")
        assert json.loads(path.read_text()) == rows


def test_many_new_rows_are_complete(tmp_path: Path) -> None:
    """The file has all rows if many new rows are before, between and after rows that stay."""
    sheet, path, many = Sheet(Row.texts), tmp_path / "rows", [Row(str(number)) for number in range(500)]
    for rows in (many[200:330], many, [*many[100:140], *map(Row, "ab" * 100), *many[140:]]):
        sheet.write(path, rows, HEADS, "end")
        assert path.read_text() == expected(rows, "end")


def test_a_row_that_stays_is_not_made_again(tmp_path: Path) -> None:
    """The texts of a row are requested once, while it is the same object and no other process changes the file."""
    sheet, path, rows = Sheet(Row.texts), tmp_path / "rows", [Row("a"), Row("b"), Row("c")]
    sheet.write(path, rows, HEADS, "")
    sheet.write(path, [rows[0], Row("new"), rows[2]], HEADS, "")
    assert [row.asked for row in rows] == [1, 1, 1]


def test_a_row_that_moves_is_not_made_again(tmp_path: Path) -> None:
    """The texts of a row are also copied if the row is at another position. A row can occur several times."""
    sheet, path, rows = Sheet(Row.texts), tmp_path / "rows", [Row(name) for name in "abcdef"]
    a, b, c, d, e, f = rows
    for order in (rows, [a, c, b, d, f, e], [f, a, e, c]):
        sheet.write(path, order, HEADS, "end")
        assert path.read_text() == expected(order, "end")
    assert [row.asked for row in rows] == [1] * 6
    for order in ([a, a, e, c, c], [c, c], [c], [c, d, c, d, c], [c, c]):
        sheet.write(path, order, HEADS, "end")
        assert path.read_text() == expected(order, "end")


def test_a_writing_takes_no_more_at_a_time_than_the_heap_gives_and_takes_back(tmp_path: Path) -> None:
    """128 KiB, for a few rows: the heap of who takes and gives back more than that in each pass is soon in pieces."""
    sheet, path = Sheet(Row.texts), tmp_path / "rows"
    tracemalloc.start()
    try:
        sheet.write(path, [Row("a"), Row("b")], HEADS, "")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 128 << 10


@pytest.mark.parametrize("touch", ["write", "truncate", "remove"])
def test_a_file_that_was_changed_is_written_completely(tmp_path: Path, touch: str) -> None:
    """Content of another process in the file is not copied: the next write has none of it."""
    sheet, path, rows = Sheet(Row.texts), tmp_path / "rows", [Row("a"), Row("b")]
    sheet.write(path, rows, HEADS, "end")
    if touch == "write":
        with path.open("r+") as file:
            file.write("X" * path.stat().st_size)
    elif touch == "truncate":
        os.truncate(path, 3)
    else:
        path.unlink()
    sheet.write(path, rows, HEADS, "end")
    assert path.read_text() == expected(rows, "end")


def test_a_full_disk_costs_one_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file cannot be written, the old one stays complete and the next write is a complete one. No descriptor
    leaks, and the incomplete file takes no space.
    """
    sheet, path, rows = Sheet(Row.texts), tmp_path / "rows", [Row("a"), Row("b")]
    sheet.write(path, rows, HEADS, "old")
    opened = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "sendfile", lambda *_: 0)
        with pytest.raises(RuntimeDirError, match=r"certmond cannot write \S*rows"):
            sheet.write(path, rows, HEADS, "new")
    assert path.read_text() == expected(rows, "old")
    assert os.listdir(tmp_path) == ["rows"]
    sheet.write(path, rows, HEADS, "new")
    assert path.read_text() == expected(rows, "new")
    assert len(os.listdir("/proc/self/fd")) == opened
