"""A small document of the state directory: a written one is read, and a file may have any content."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import WriteError
from certmond.pki.instant import Instant
from certmond.state.json_file import Memory

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Entry:
    at: Instant
    names: tuple[str, ...] = ()


def memory(state_dir: Path) -> Memory[dict[str, Entry]]:
    return Memory(state_dir, "entries.json", dict[str, Entry])


def test_reading_takes_as_much_memory_as_there_is(tmp_path: Path) -> None:
    """And not as much as there may be, which would be 64 MiB: the daemon reads several such documents in each pass."""
    memory(tmp_path).write({"a": Entry(at=NOW)})
    tracemalloc.start()
    try:
        assert memory(tmp_path).read() == {"a": Entry(at=NOW)}
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 20


@pytest.mark.long
@given(st.dictionaries(st.text(), st.lists(st.text(st.characters(categories=("L", "Cs"))), max_size=3), max_size=3))
def test_what_was_written_is_there_for_the_next_process(
    tmp_path_factory: pytest.TempPathFactory, found: dict[str, list[str]]
) -> None:
    """Whatever is in it: a path may hold bytes that are no UTF-8."""
    state = tmp_path_factory.mktemp("state")
    value = {key: Entry(at=NOW, names=tuple(names)) for key, names in found.items()}
    memory(state).write(value)
    assert memory(state).read() == value


def test_it_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """A missing directory is created, and no other file is left in it."""
    state = tmp_path / "state"
    memory(state).write({"a": Entry(at=NOW)})
    memory(state).write({"b": Entry(at=NOW)})
    assert os.listdir(state) == ["entries.json"]
    assert (state / "entries.json").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"1", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 100_000, b'{"a": {}}',
        b'{"a": {"at": 1e400}}',
        b'{"a": {"at": "2026-11-24T12:00:00"}}',
        b'{"a": {"at": "0001-01-01T00:00:00+05:00"}}',
        b'{"a": {"at": "9999-12-31T23:59:59Z"}}',
    ],
)  # fmt: skip
def test_an_invalid_file_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    """The rule also covers an instant without a time zone, or beyond the range of calculations. The file is
    replaced.
    """
    (tmp_path / "entries.json").write_bytes(content)
    assert memory(tmp_path).read() is None
    memory(tmp_path).write({})
    assert memory(tmp_path).read() == {}


@given(st.binary())
def test_arbitrary_bytes_are_no_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Any bytes are a document, or count as none."""
    state = tmp_path_factory.mktemp("state")
    (state / "entries.json").write_bytes(content)
    assert memory(state).read() in (None, {})


@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "nothing"])
def test_a_path_that_is_no_file_counts_as_empty(tmp_path: Path, kind: str) -> None:
    """certmond does not wait for the writer of a pipe, and follows no link."""
    path = tmp_path / "entries.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "elsewhere").write_text("{}")
        path.symlink_to(tmp_path / "elsewhere")
    assert memory(tmp_path).read() is None


def test_an_instant_is_in_utc(tmp_path: Path) -> None:
    """Whatever zone the file names."""
    (tmp_path / "entries.json").write_text('{"a": {"at": "2026-11-24T17:00:00+05:00"}}')
    found = memory(tmp_path).read()
    assert found is not None
    assert (found["a"].at, found["a"].at.tzinfo) == (NOW, UTC)


def test_where_it_cannot_be_written_the_old_one_stays(tmp_path: Path) -> None:
    """And the error names the file."""
    memory(tmp_path).write({"a": Entry(at=NOW)})
    (tmp_path / ".entries.json.new").mkdir()
    (tmp_path / ".entries.json.new" / "in the way").touch()
    with pytest.raises(WriteError, match=r"entries\.json"):
        memory(tmp_path).write({})
    assert memory(tmp_path).read() == {"a": Entry(at=NOW)}
    with pytest.raises(WriteError, match=r"entries\.json"):
        memory(tmp_path / "entries.json").write({})


KILLED = """
import os, sys
from pathlib import Path
from certmond.state.json_file import Memory
calls = 0
def killing(call):
    def wrapped(*arguments, **keywords):
        global calls
        calls += 1
        if calls > int(sys.argv[2]):
            os._exit(9)
        return call(*arguments, **keywords)
    return wrapped
for name in ("open", "rename", "fsync", "write", "unlink", "mkdir", "fchmod"):
    setattr(os, name, killing(getattr(os, name)))
Memory(Path(sys.argv[1]), "entries.json", dict[str, int]).write({"new": 1})
"""


@pytest.mark.long
def test_a_process_that_is_killed_leaves_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    """At any call; what else it leaves is removed, or replaced by the next that writes."""
    outcomes = []
    simple = Memory(tmp_path, "entries.json", dict[str, int])
    for number in range(100):
        simple.write({"old": 1})
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(number)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
        assert done.returncode in {0, 9}
        found = simple.read()
        assert found in ({"old": 1}, {"new": 1})
        outcomes.append("new" in (found or {}))
        simple.tidy()
        assert os.listdir(tmp_path) == ["entries.json"]
        if done.returncode == 0:
            break
    assert (outcomes[0], outcomes[-1]) == (False, True)
    assert sorted(outcomes) == outcomes


def test_it_is_a_list_of_lines_that_people_can_read(tmp_path: Path) -> None:
    """JSON with the version of its format, and times as RFC 3339 has them."""
    memory(tmp_path).write({"a": Entry(at=NOW + timedelta(microseconds=5), names=("b",))})
    text = (tmp_path / "entries.json").read_text()
    content = {"a": {"at": "2026-11-24T12:00:00.000005+00:00", "names": ["b"]}}
    assert json.loads(text) == {"version": 1, "content": content}
    assert text.count("\n") > 3
