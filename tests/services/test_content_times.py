"""The instant since which a file has its content: a touch is no change, and a write is one, across processes."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.config.loader import load
from certmond.files.catalog_observer import Store
from certmond.pki.services.service_observation import Content
from certmond.services.content_times import Changes
from tests.node import PKI, Node, key_pem
from tests.test_node_defects import other_key

KEY = f"{PKI}/apiserver.key"
LATE = datetime(2100, 1, 1, tzinfo=UTC)
"""No clock of these tests is as late."""


class Looker:
    """A process after another that looks at a node's files."""

    def __init__(self, node: Node, state: Path, *, keeps: bool = True) -> None:
        self._node, self._state, self._keeps = node, state, keeps
        self.store, self.changes = self._new()

    def _new(self) -> tuple[Store, Changes]:
        return Store(load(None).certificates, str(self._node.root)), Changes(self._state, keeps=self._keeps)

    def restart(self) -> None:
        self.store, self.changes = self._new()

    def look(self) -> Content:
        self.store.observe()
        return self.changes.contents(self.store.states([f"/{KEY}"]), LATE)[f"/{KEY}"]


@pytest.fixture
def looker(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Looker:
    return Looker(node, tmp_path_factory.mktemp("state"))


def changed_at(node: Node) -> datetime:
    """What the file system says, to the microsecond."""
    ctime = node.path(KEY).stat().st_ctime_ns
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ctime // 1000)


def test_an_unknown_file_is_as_old_as_its_last_change_of_any_kind(node: Node, looker: Looker) -> None:
    """So no file is claimed to be older than it may be."""
    assert looker.look().since == changed_at(node)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("touch", ["chmod", "touch", "rewrite", "rename", "chown"])
def test_what_leaves_the_content_is_no_change(node: Node, looker: Looker, touch: str, again: bool) -> None:
    """Neither in one process nor over several."""
    before = looker.look()
    path, content = node.path(KEY), node.read(KEY)
    match touch:
        case "chmod":
            path.chmod(0o640)
        case "touch":
            os.utime(path)
        case "rewrite":
            node.write(KEY, content)
        case "rename":
            node.replace(KEY, content)
        case _:
            os.chown(path, -1, os.getegid())
    assert changed_at(node) > before.since
    if again:
        looker.restart()
    assert looker.look() == before


def test_another_content_is_a_change_and_so_is_its_reversal(node: Node, looker: Looker) -> None:
    """The earlier content was replaced, and the process has not read it again."""
    first, content = looker.look(), node.read(KEY)
    node.write(KEY, key_pem(other_key()))
    second = looker.look()
    assert (second.since, second.sha256 != first.sha256) == (changed_at(node), True)
    looker.restart()
    assert looker.look() == second
    node.write(KEY, content)
    third = looker.look()
    assert (third.sha256, third.since) == (first.sha256, changed_at(node))


def test_a_reader_leaves_no_record(node: Node, tmp_path: Path) -> None:
    """It still has the instants while it runs."""
    looker = Looker(node, tmp_path / "state", keeps=False)
    before = looker.look()
    node.path(KEY).chmod(0o640)
    assert looker.look() == before
    assert not (tmp_path / "state").exists()
    looker.restart()
    assert looker.look().since == changed_at(node)


def test_who_only_looks_uses_what_another_remembers(node: Node, looker: Looker, tmp_path: Path) -> None:
    """A verb and the daemon tell the same."""
    before = looker.look()
    node.path(KEY).chmod(0o640)
    assert Looker(node, looker._state, keeps=False).look() == before


def test_a_state_directory_that_cannot_be_written_costs_only_the_memory(node: Node, tmp_path: Path) -> None:
    """Nothing is raised."""
    (tmp_path / "state").touch()
    looker = Looker(node, tmp_path / "state")
    before = looker.look()
    node.path(KEY).chmod(0o640)
    assert looker.look() == before


def test_what_is_written_is_written_once(looker: Looker) -> None:
    """A pass over files that stay as they are writes nothing."""
    looker.look()
    path = looker._state / "changes.json"
    written = path.stat().st_ino
    looker.look()
    looker.restart()
    looker.look()
    assert path.stat().st_ino == written


def test_a_file_that_returns_unchanged_has_not_changed(tmp_path: Path) -> None:
    """An operator has moved it away and back."""
    changes = Changes(tmp_path, keeps=True)
    first = changes.contents([("/a", "1", 5_000_000_000)], LATE)
    assert changes.contents([], LATE) == {}
    assert changes.contents([("/a", "1", 9_000_000_000)], LATE) == first
    assert Changes(tmp_path, keeps=True).contents([("/a", "1", 9_000_000_000)], LATE) == first


def test_a_recently_observed_file_stays_recorded_though_its_content_is_old(tmp_path: Path) -> None:
    """Names that each rotation creates and removes do not displace an old CA that is absent for a while."""
    ca = ("/ca", "1", 1_000_000_000)
    for number in range(150):
        Changes(tmp_path, keeps=True).contents([ca, (f"/{number}", "2", (number + 5) * 1_000_000_000)], LATE)
    first = Changes(tmp_path, keeps=True).contents([ca], LATE)
    assert Changes(tmp_path, keeps=True).contents([], LATE) == {}
    assert Changes(tmp_path, keeps=True).contents([("/ca", "1", 900_000_000_000)], LATE) == first


def test_of_many_files_that_are_gone_the_oldest_are_forgotten(tmp_path: Path) -> None:
    """Names that come and go do not fill the disk."""
    changes = Changes(tmp_path, keeps=True)
    changes.contents([(f"/{number}", "1", number * 1_000_000_000) for number in range(1000)], LATE)
    changes.contents([], LATE)
    assert len(json.loads((tmp_path / "changes.json").read_text())["content"]) == 100


def test_a_wrong_clock_does_not_last(tmp_path: Path) -> None:
    """A recorded instant that is later than the file's last change of any kind is invalid: the file counts as old as
    that change.
    """
    Changes(tmp_path, keeps=True).contents([("/a", "ab", 2 * 10**18)], LATE)
    earlier = Changes(tmp_path, keeps=True).contents([("/a", "ab", 10**18)], LATE)
    assert earlier["/a"].since == datetime.fromtimestamp(10**9, UTC)


def test_a_clock_that_was_set_back_leaves_no_change_in_the_future(tmp_path: Path) -> None:
    """A file that has changed later than it is now counts as changed now, and stays so: what looks later has looked
    since it changed, in this process and in the next.
    """
    now, changed = datetime(2026, 11, 27, 12, tzinfo=UTC), datetime(2026, 11, 28, 12, tzinfo=UTC)
    file = ("/a", "1", int(changed.timestamp()) * 10**9)
    changes = Changes(tmp_path, keeps=True)
    assert changes.contents([file], now) == {"/a": Content("1", now)}
    later = now + timedelta(minutes=1)
    assert changes.contents([file], later) == {"/a": Content("1", now)}
    assert Changes(tmp_path, keeps=True).contents([file], later) == {"/a": Content("1", now)}


@given(st.binary() | st.sampled_from([b"[]", b'{"/a": {"sha256": "ab", "since": "2001-01-01T00:00:00"}}', b"\x00"]))
def test_garbage_counts_as_an_empty_record(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever is in the record, the files are as old as their last change, and are recorded again."""
    state = tmp_path_factory.mktemp("state")
    (state / "changes.json").write_bytes(content)
    expected = {"/a": Content("ab", datetime.fromtimestamp(10**9, UTC))}
    for ctime in (10**18, 2 * 10**18):
        assert Changes(state, keeps=True).contents([("/a", "ab", ctime)], LATE) == expected


def test_a_path_may_be_anything(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 among them."""
    odd = ("/nginx/\udcff.pem", "ab", 10**18)
    for _ in range(2):
        assert Changes(tmp_path, keeps=True).contents([odd], LATE) == {
            odd[0]: Content("ab", datetime.fromtimestamp(10**9, UTC))
        }
    assert b"udcff" in (tmp_path / "changes.json").read_bytes()
