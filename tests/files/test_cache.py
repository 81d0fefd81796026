"""Reading files on a real file system: the links that are followed, the files that are opened, and when they are read
again.
"""

from __future__ import annotations

import gc
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.files import cache_entry as entry
from certmond.files import consistent_read as content
from certmond.files.cache import Files
from certmond.files.cache_entry import Entry, PasswordParser
from certmond.files.consistent_read import MAX_SIZE, content_of
from certmond.files.directory_names import MatchingNames
from tests.files.beside import FORKS, elsewhere, worthwhile

YEAR = 365 * 86400


class Reader:
    """A parser that stores its input."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def __call__(self, data: bytes, path: str) -> bytes:
        self.seen.append(data)
        return b"<" + data + b">"


class Tree:
    """Files below a root directory, and a `Files` for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = Files(str(root))
        self.parse = Reader()

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def write(self, path: str, content: bytes = b"x") -> Path:
        """In place where there is one."""
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_bytes(content)
        return self.at(path)

    def replace(self, path: str, content: bytes) -> None:
        self.write(f"{path}.new", content).rename(self.at(path))

    def link(self, path: str, target: str) -> None:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).unlink(missing_ok=True)
        self.at(path).symlink_to(target)

    def touched(self, *paths: str) -> frozenset[str]:
        return frozenset(str(self.at(path)) for path in paths)

    def value(self, path: str) -> bytes | None:
        return self.files.value(path, self.parse)

    def parse_all(self, *paths: str) -> None:
        assert {path for some in self.files.parsed(paths, self.parse) for path in some} == {*paths}

    def fault(self, path: str) -> str:
        """Return the fault of the path, or "". A path with a fault has no content."""
        value, entry = self.value(path), self.files.entry(path)
        if entry.fault is None:
            return ""
        assert value is None
        assert path in entry.fault.detail
        return f"{entry.fault.reason}: {entry.fault.detail.replace(path, '…')}"

    def interest(self) -> Mapping[str, object]:
        """Below the root, which is called /."""
        prefix = str(self.root)
        assert all(place == prefix or place.startswith(f"{prefix}/") for place in self.files.interest)
        return {place.removeprefix(prefix) or "/": names for place, names in self.files.interest.items()}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "root").mkdir()
    return Tree(tmp_path / "root")


def without_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of a file shows no change of what it holds."""
    for module in (content, entry):
        monkeypatch.setattr(
            module, "state_of", lambda status: content._STATE.pack(0, status.st_ino, 0, status.st_mode, *[0] * 6)
        )


@pytest.mark.parametrize("seconds", [-(10**12), -1, 10**10, 10**12])
def test_a_file_may_have_any_modification_time(tree: Tree, seconds: int) -> None:
    """certmond reads a file whose owner has set a modification time before 1970 or after 2262."""
    file = tree.root / "file"
    file.write_bytes(b"content")
    os.utime(file, (seconds, seconds))
    files = Files(str(tree.root))
    assert files.value("/file", lambda content, _: content) == b"content"
    found, status = files.entry("/file"), file.stat()
    assert (found.size, found.changed_ns, found.is_directory) == (7, status.st_ctime_ns, False)
    assert found.state == content.state_of(status)
    assert found.state != content.state_of(tree.root.stat())


class Calls:
    """Counts the system calls that look at anything."""

    NAMES = ("open", "lstat", "stat", "readlink", "listdir", "scandir", "pread", "fstat")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, Any]] = []
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.made.append((name, arguments[0]))
            return real(*arguments, **named)

        return call

    def paths(self, *names: str) -> list[str]:
        """Those of the files; /proc only says what the kernel calls one that is open."""
        made = [path for name, path in self.made if name in names and isinstance(path, str)]
        return [os.path.basename(path) for path in made if not path.startswith("/proc/self/fd/")]


def settle(path: Path) -> None:
    """Set the times as if the last change were long ago, which the kernel does not allow for ctime."""
    past = time.time_ns() - YEAR * 10**9
    os.utime(path, ns=(past, past))


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is so far ahead of all files that none of them is fresh."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**12)


# --- resolution of paths ----------------------------------------------------------------------------------------------


def test_an_absolute_link_is_followed_below_the_root(tree: Tree) -> None:
    """As a process in that root would: a mounted disk links to its own files, not to this node's."""
    tree.write("/srv/real.crt", b"inside")
    tree.link("/etc/a.crt", "/srv/real.crt")
    tree.link("/opt", "/etc")
    assert tree.value("/etc/a.crt") == tree.value("/opt/a.crt") == b"<inside>"
    assert tree.files.entry("/etc/a.crt").is_link
    assert not tree.files.entry("/srv/real.crt").is_link


@pytest.mark.parametrize("target", ["../../../../../secret", "/../../secret", "x/../../../../secret", "/..//./secret"])
def test_nothing_leads_above_the_root(tree: Tree, target: str) -> None:
    """`..` of the root is the root, as for any process."""
    (tree.root.parent / "secret").write_bytes(b"outside")
    tree.at("/etc/x").mkdir(parents=True)
    tree.link("/etc/a.crt", target)
    assert tree.fault("/etc/a.crt").startswith("missing")
    assert tree.fault("/../secret").startswith("missing")
    tree.write("/secret", b"inside")
    tree.files.refresh(None)
    assert tree.value("/etc/a.crt") == tree.value("/../secret") == b"<inside>"


def test_dots_are_followed_from_the_target_of_a_link(tree: Tree) -> None:
    """`..` is the parent of the link's target, not of the link."""
    tree.write("/data/v1/a.crt", b"here")
    tree.write("/a.crt", b"not here")
    tree.link("/link", "/data/v1/sub")
    tree.at("/data/v1/sub").mkdir()
    assert tree.value("/link/../a.crt") == b"<here>"


def test_the_root_may_itself_be_reached_by_a_link(tmp_path: Path) -> None:
    """`--root /mnt` where that is one."""
    tree = Tree(tmp_path / "real")
    tree.write("/etc/a.crt", b"here")
    (tmp_path / "link").symlink_to("real")
    files = Files(str(tmp_path / "link"))
    assert files.value("/etc/a.crt", tree.parse) == b"<here>"
    assert set(files.interest) == {str(tmp_path / "real"), str(tmp_path / "real/etc")}


def test_forty_links_are_followed_and_no_more(tree: Tree) -> None:
    """As Linux does; a loop ends there."""
    tree.write("/l0", b"end")
    for number in range(1, 42):
        tree.link(f"/l{number}", f"l{number - 1}")
    assert tree.value("/l40") == b"<end>"
    assert tree.fault("/l41") == "unreadable: … is a loop of symlinks"
    tree.link("/a", "b")
    tree.link("/b", "/a")
    tree.link("/c", "c/d")
    assert tree.fault("/a") == tree.fault("/c") == "unreadable: … is a loop of symlinks"
    assert tree.fault("/a/x.crt") == "unreadable: …: /a is a loop of symlinks"


def test_an_absent_file_is_missing(tree: Tree) -> None:
    """Any part of the path may be absent. A dangling link is known as a link."""
    tree.write("/etc/file")
    tree.link("/etc/dangling.crt", "/nowhere/a.crt")
    for path in ("/etc/a.crt", "/a/b/c.crt", "/etc/file/a.crt", "/etc/dangling.crt"):
        assert tree.fault(path) == "missing: … does not exist"
        assert tree.files.entry(path).missing
    assert tree.files.entry("/etc/dangling.crt").is_link
    assert not tree.files.entry("/etc/a.crt").is_link


def test_a_name_that_no_file_can_have_is_a_fault(tree: Tree) -> None:
    """And not a crash."""
    assert tree.fault(f"/{'x' * 300}") == "unreadable: certmond cannot read … (File name too long)"
    assert tree.fault(f"/{'x' * 300}/a.crt").startswith("unreadable: …")
    for name in ("a\0b", "\ud800"):
        assert tree.fault(f"/{name}") == "unreadable: certmond cannot read … (Invalid argument)"
        assert tree.fault(f"/{name}/a.crt").startswith("unreadable: …")
        assert tree.files.listing(f"/{name}") == ()


# --- opening files ----------------------------------------------------------------------------------------------------


def test_only_regular_files_are_opened(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO would block, and a device has side effects: the message has their type."""
    os.mkfifo(tree.at("/fifo"))
    tree.at("/directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree.at("/socket")))
    tree.link("/null", "/dev/null")
    tree.at("/dev").mkdir()
    if os.geteuid() == 0:
        os.mknod(tree.at("/dev/null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        assert tree.fault("/null") == "unreadable: … is a device, not a regular file"
    calls = Calls(monkeypatch)
    for name, kind in (("fifo", "a FIFO"), ("directory", "a directory"), ("socket", "a socket")):
        assert tree.fault(f"/{name}") == f"unreadable: … is {kind}, not a regular file"
    assert not calls.paths("open")
    assert tree.files.entry("/directory").is_directory
    assert not tree.files.entry("/fifo").is_directory
    assert not tree.files.entry("/nothing").is_directory


def test_a_fifo_that_takes_the_place_of_a_file_never_blocks(tree: Tree) -> None:
    """Not even between the look and the opening."""
    tree.write("/a.crt")
    tree.files.entry("/a.crt")
    tree.at("/a.crt").unlink()
    os.mkfifo(tree.at("/a.crt"))
    assert tree.fault("/a.crt") == "unreadable: certmond cannot read … (it is no longer a regular file)"
    tree.files.refresh(tree.touched("/a.crt"))
    assert tree.fault("/a.crt") == "unreadable: … is a FIFO, not a regular file"


@pytest.mark.parametrize("instead", ["gone", "link", "large"])
def test_what_happens_between_look_and_opening_is_a_fault_until_the_next_look(tree: Tree, instead: str) -> None:
    """The file vanishes, becomes a link, or grows."""
    path = tree.write("/a.crt")
    tree.write("/other.crt", b"other")
    tree.files.entry("/a.crt")
    if instead == "large":
        os.truncate(path, MAX_SIZE + 1)
        expected = "unreadable: certmond cannot read … (File too large)"
    else:
        path.unlink()
        expected = "missing: … does not exist"
    if instead == "link":
        tree.link("/a.crt", "other.crt")
        assert tree.value("/a.crt") == b"<other>", "a link is followed, and looked at when it was reported"
    else:
        assert tree.fault("/a.crt") == expected
    tree.replace("/a.crt", b"again")
    tree.files.refresh(tree.touched("/a.crt"))
    assert tree.value("/a.crt") == b"<again>"


def test_a_huge_file_is_not_read(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """600 MB of nothing, as a log under the wrong name, cost no memory: it is not opened."""
    os.truncate(tree.write("/big.pem"), 600 << 20)
    calls = Calls(monkeypatch)
    assert tree.fault("/big.pem") == "unreadable: … has 629145600 bytes, more than the maximum of 1048576"
    assert not calls.paths("open")
    os.truncate(tree.at("/big.pem"), 10)
    tree.files.refresh(tree.touched("/big.pem"))
    assert tree.value("/big.pem") is not None


def test_the_limit_itself_is_read(tree: Tree) -> None:
    """One byte more is not."""
    tree.write("/a", bytes(MAX_SIZE))
    tree.write("/b", bytes(MAX_SIZE + 1))
    assert len(tree.value("/a") or b"") == MAX_SIZE + 2
    assert tree.fault("/b").startswith("unreadable")


def test_of_many_files_a_few_are_read_and_then_parsed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, no more than 256 KB and one file are in memory before they are parsed, each once; one
    that cannot be read keeps no other from it.
    """
    paths = [tree.write(f"/{number:02}", bytes([number]) * 20_000).name for number in range(40)]
    tree.write("/30", bytes(MAX_SIZE))
    os.mkfifo(tree.at("/fifo"))
    calls, held = Calls(monkeypatch), list[int]()

    def parse(data: bytes, path: str) -> bytes:
        held.append(len(calls.paths("open")) - len(held))
        return path.encode()

    everything = [f"/{name}" for name in ("fifo", *paths, "none")]
    [*tree.files.parsed(everything, parse)]
    assert len(held) == 40
    assert 1 < max(held) <= 14
    assert [tree.files.value(path, parse) for path in everything] == [None, *(b"/" + p.encode() for p in paths), None]
    assert len(held) == 40


def test_a_file_that_is_longer_than_its_size_is_read_to_its_end_or_the_limit() -> None:
    """A file may grow meanwhile. The kernel reports a size of 0 for its own files."""
    with open("/proc/version", "rb") as file:
        assert content_of(file) == Path("/proc/version").read_bytes()
    with open("/dev/zero", "rb") as file, pytest.raises(OSError, match="too large"):
        content_of(file)


@pytest.mark.parametrize("first", [[b"AABB", b"BBBB"], [None, b"BBBB"]])
def test_a_file_is_read_in_one_state(tree: Tree, monkeypatch: pytest.MonkeyPatch, first: list[bytes | None]) -> None:
    """certmond waits for a process that writes in place. A file that changes continuously is a fault, not a partial
    read.
    """
    path = tree.write("/a.crt", b"AAAA")
    pread = os.pread
    writes: Iterator[bytes | None] = iter(first)

    def torn(descriptor: int, size: int, offset: int) -> bytes:
        content = pread(descriptor, size, offset)
        if (following := next(writes, None)) is not None:
            path.write_bytes(following)
        return content

    monkeypatch.setattr(os, "pread", torn)
    assert tree.value("/a.crt") == b"<BBBB>"
    writes = iter([b"x" * length for length in range(100)])
    tree.files.refresh(None)
    assert tree.fault("/a.crt") == "unreadable: certmond cannot read … (another process is writing the file)"
    writes = iter([])
    tree.files.refresh(tree.touched("/a.crt"))
    assert (tree.value("/a.crt") or b"").startswith(b"<x")


def test_a_writer_that_keeps_the_time_stamps_is_noticed_all_the_same(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel stamps a write before it copies: half a copy has the same stamps as the whole."""
    path = tree.write("/a.crt", b"AAAA")
    pread = os.pread
    writes = iter([b"AABB", b"BBBB"])
    without_times(monkeypatch)

    def torn(descriptor: int, size: int, offset: int) -> bytes:
        content = pread(descriptor, size, offset)
        if (following := next(writes, None)) is not None:
            path.write_bytes(following)
        return content

    monkeypatch.setattr(os, "pread", torn)
    assert tree.value("/a.crt") == b"<BBBB>"


def test_descriptors_are_given_back(tree: Tree) -> None:
    """Whatever the outcome."""
    tree.write("/a.crt")
    os.mkfifo(tree.at("/fifo"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        tree.files.refresh(None)
        for path in ("/a.crt", "/fifo", "/none", "/"):
            tree.value(path)
    assert len(os.listdir("/proc/self/fd")) == before


# --- when a file is read again ----------------------------------------------------------------------------------------


def test_an_unchanged_file_is_not_read(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred files only the one whose directory reported it is read, without a system call for the others."""
    for number in range(100):
        tree.write(f"/etc/{number}.crt", b"%d" % number)
        tree.value(f"/etc/{number}.crt")
    tree.replace("/etc/42.crt", b"new")
    calls = Calls(monkeypatch)
    tree.files.refresh(tree.touched("/etc/42.crt"))
    assert [tree.value(f"/etc/{number}.crt") for number in range(41, 44)] == [b"<41>", b"<new>", b"<43>"]
    assert all(tree.value(f"/etc/{number}.crt") for number in range(100))
    assert set(calls.paths(*Calls.NAMES)) == {"42.crt"}
    assert calls.paths("open") == ["42.crt"]


def test_a_second_look_without_a_change_opens_nothing(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, long_ago: None
) -> None:
    """The resync only asks for the state of each file, and hands out the same entries."""
    tree.write("/etc/a.crt")
    entry, value = tree.files.entry("/etc/a.crt"), tree.value("/etc/a.crt")
    calls = Calls(monkeypatch)
    tree.files.refresh(None)
    assert tree.files.entry("/etc/a.crt") is entry
    assert tree.value("/etc/a.crt") is value
    assert calls.paths("lstat") == ["etc", "a.crt"]
    assert not calls.paths("open")


def same_size_and_time(tree: Tree, how: str) -> None:
    path = tree.write("/a.crt", b"one")
    settle(path)
    assert tree.value("/a.crt") == b"<one>"
    state = path.stat()
    if how == "in place":
        path.write_bytes(b"two")
    else:
        tree.replace("/a.crt", b"two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_mtime_ns == state.st_mtime_ns


@pytest.mark.parametrize("how", ["in place", "by rename"])
def test_a_replacement_of_the_same_size_and_time_is_detected(tree: Tree, how: str, long_ago: None) -> None:
    """A restored backup, or a tool that sets the time back, is detected by the change of the inode (ctime)."""
    same_size_and_time(tree, how)
    tree.files.refresh(None)
    assert tree.value("/a.crt") == b"<two>"


def test_two_changes_within_one_clock_tick_are_detected(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's timestamps are coarse: a recently written file is not trusted by them alone."""
    without_times(monkeypatch)
    path = tree.write("/a.crt", b"one")
    assert tree.value("/a.crt") == b"<one>"
    path.write_bytes(b"two")
    tree.files.refresh(None)
    assert tree.value("/a.crt") == b"<two>"


def test_a_fresh_file_is_read_once_more_and_then_trusted(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entry stays the same object, for nothing has changed."""
    written = tree.write("/a.crt", b"one").stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: written)
    entry, value = tree.files.entry("/a.crt"), tree.value("/a.crt")
    calls = Calls(monkeypatch)
    monkeypatch.setattr(time, "time_ns", lambda: written + 10**9)
    for _ in range(3):
        tree.files.refresh(None)
        assert tree.files.entry("/a.crt") is entry
        assert tree.value("/a.crt") is value
    assert calls.paths("open") == ["a.crt"]
    assert tree.parse.seen == [b"one"]


@pytest.mark.parametrize("link", ["real.crt", "/etc/pki/real.crt", "../pki/./real.crt"])
def test_a_rewrite_in_place_behind_a_link_is_detected(tree: Tree, link: str) -> None:
    """The directory of the target reports it."""
    tree.write("/etc/pki/real.crt", b"one")
    tree.link("/etc/pki/current.pem", link)
    assert tree.value("/etc/pki/current.pem") == b"<one>"
    tree.write("/etc/pki/real.crt", b"two")
    tree.files.refresh(tree.touched("/etc/pki/real.crt"))
    assert tree.value("/etc/pki/current.pem") == b"<two>"


def test_a_link_that_moves_to_another_file_is_detected(tree: Tree) -> None:
    """The kubelet moves it after a renewal."""
    tree.write("/pki/1.pem", b"one")
    tree.write("/pki/2.pem", b"two")
    tree.link("/pki/current.pem", "/pki/1.pem")
    assert tree.value("/pki/current.pem") == b"<one>"
    tree.link("/pki/new", "/pki/2.pem")
    tree.at("/pki/new").rename(tree.at("/pki/current.pem"))
    tree.files.refresh(tree.touched("/pki/current.pem", "/pki/new"))
    assert tree.value("/pki/current.pem") == b"<two>"
    assert tree.interest()["/pki"] == frozenset({"current.pem", "2.pem"})


def test_the_swap_of_a_projected_volume_is_detected(tree: Tree) -> None:
    """`tls.crt -> ..data/tls.crt`, `..data -> ..2026_1`: one rename moves all files, and touches none of them."""
    for version in ("1", "2"):
        for name in ("tls.crt", "ca.crt"):
            tree.write(f"/vol/..2026_{version}/{name}", f"{name} {version}".encode())
    tree.link("/vol/..data", "..2026_1")
    for name in ("tls.crt", "ca.crt"):
        tree.link(f"/vol/{name}", f"..data/{name}")
        assert tree.value(f"/vol/{name}") == f"<{name} 1>".encode()
    tree.link("/vol/..data_tmp", "..2026_2")
    tree.at("/vol/..data_tmp").rename(tree.at("/vol/..data"))
    tree.files.refresh(tree.touched("/vol/..data", "/vol/..data_tmp"))
    assert [tree.value(f"/vol/{name}") for name in ("tls.crt", "ca.crt")] == [b"<tls.crt 2>", b"<ca.crt 2>"]


def test_a_change_of_mode_or_owner_is_detected_without_a_parse(tree: Tree) -> None:
    """The entry is new, and the value is the same: nothing is parsed."""
    path = tree.write("/a.crt")
    entry, value = tree.files.entry("/a.crt"), tree.value("/a.crt")
    path.chmod(0o640)
    tree.files.refresh(tree.touched("/a.crt"))
    after = tree.files.entry("/a.crt")
    assert after is not entry
    assert after.mode == 0o640
    assert after.status is not None
    assert (after.status.uid, after.status.gid) == (os.getuid(), path.stat().st_gid)
    assert tree.value("/a.crt") is value
    assert tree.parse.seen == [b"x"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a file")
def test_the_user_and_the_group_of_a_file_are_separate(tree: Tree) -> None:
    """The status of an entry has the UID and the GID that the kernel reports, up to the largest ID."""
    os.chown(tree.write("/a.crt"), 1234, 4294967294)
    status = tree.files.entry("/a.crt").status
    assert status is not None
    assert (status.uid, status.gid) == (1234, 4294967294)


@pytest.mark.parametrize("how", ["in place", "by rename", "touched", "by a link"])
def test_equal_bytes_are_no_news(tree: Tree, how: str) -> None:
    """A file that was rewritten as it was keeps its value, and is not parsed again."""
    path = tree.write("/a.crt", b"same")
    value = tree.value("/a.crt")
    if how == "in place":
        path.write_bytes(b"same")
    elif how == "by rename":
        tree.replace("/a.crt", b"same")
    elif how == "touched":
        path.touch()
    else:
        tree.write("/b.crt", b"same")
        tree.link("/a.crt", "b.crt")
    tree.files.refresh(tree.touched("/a.crt"))
    assert tree.value("/a.crt") is value
    assert tree.parse.seen == [b"same"]


def test_a_file_may_be_read_in_several_ways(tree: Tree) -> None:
    """Each parser has its value. All values are computed again when the content changes, whichever parser detected
    it.
    """
    path = tree.write("/a.crt", b"one")
    first, second = Reader(), Reader()
    assert tree.files.value("/a.crt", first) == b"<one>"
    path.write_bytes(b"two")
    assert tree.files.value("/a.crt", second) == b"<two>"
    tree.files.refresh(tree.touched("/a.crt"))
    assert [tree.files.value("/a.crt", parse) for parse in (first, second)] == [b"<two>", b"<two>"]
    path.write_bytes(b"three")
    tree.files.refresh(None)
    assert [tree.files.value("/a.crt", parse) for parse in (first, second)] == [b"<three>", b"<three>"]
    assert (first.seen, second.seen) == ([b"one", b"two", b"three"], [b"two", b"three"])


def test_two_ways_of_reading_the_same_content_leave_each_other_alone(tree: Tree) -> None:
    """The second does not make the first do its work again."""
    tree.write("/a.crt", b"one")
    first, second = Reader(), Reader()
    value = tree.files.value("/a.crt", first)
    assert tree.files.value("/a.crt", second) == value
    assert tree.files.value("/a.crt", first) is value
    assert (first.seen, second.seen) == ([b"one"], [b"one"])


def test_files_with_the_same_parsers_share_them(tree: Tree) -> None:
    """The list of parsers takes memory only once, unless it contains a password."""
    paths = "/a.crt", "/b.crt"
    for path in paths:
        tree.write(path)
    assert [tree.value(path) for path in paths] == [b"<x>", b"<x>"]
    first, second = (tree.files.entry(path).parsers for path in paths)
    assert first is second
    secret = PasswordParser(lambda data, path, password: data, b"secret")
    assert [tree.files.value(path, secret) for path in paths] == [b"x", b"x"]
    first, second = (tree.files.entry(path).parsers for path in paths)
    assert first == second == (tree.parse, secret)
    assert first is not second


def test_a_former_password_is_forgotten(tree: Tree) -> None:
    """An entry keeps the result for the last password, and results of parsers without a password. With an equal
    password, certmond does not parse the file again. After a change of the file, no former password is tried.
    """
    tried = list[tuple[bytes, bytes]]()

    def decrypt(data: bytes, path: str, password: bytes) -> bytes:
        tried.append((data, password))
        return data + password

    tree.write("/x", b"1")
    for number in range(20):
        assert tree.files.value("/x", PasswordParser(decrypt, b"%d" % (number // 2))) == b"1%d" % (number // 2)
        assert tree.value("/x") == b"<1>"
    assert tried == [(b"1", b"%d" % number) for number in range(10)]
    tree.write("/x", b"2")
    tree.files.refresh(tree.touched("/x"))
    assert tree.files.value("/x", PasswordParser(decrypt, b"9")) == b"29"
    assert tree.value("/x") == b"<2>"
    assert tried[10:] == [(b"2", b"9")]
    assert tree.files.entry("/x").values == (b"<2>", b"29")


def test_a_password_is_not_in_the_representation_of_its_parser() -> None:
    """A message or a traceback can contain the representation of a parser."""
    assert "secret" not in repr(PasswordParser(lambda data, path, password: data, b"secret"))


def test_a_file_that_goes_while_it_is_looked_at_is_missing(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between following the path and asking for its state."""
    path = tree.write("/a.crt")
    lstat = os.lstat

    def late(place: str) -> os.stat_result:
        path.unlink(missing_ok=True)
        return lstat(place)

    monkeypatch.setattr(os, "lstat", late)
    assert tree.fault("/a.crt") == "missing: … does not exist"


def test_a_directory_that_comes_later_is_found(tree: Tree) -> None:
    """Its nearest parent tells; so it does when one goes and comes back as another."""
    assert tree.fault("/var/lib/kubelet/pki/a.pem").startswith("missing")
    assert tree.interest() == {"/": {"var"}}
    tree.at("/var/lib").mkdir(parents=True)
    tree.files.refresh(tree.touched("/var"))
    assert tree.fault("/var/lib/kubelet/pki/a.pem").startswith("missing")
    assert tree.interest() == {"/": {"var"}, "/var": {"lib"}, "/var/lib": {"kubelet"}}
    tree.write("/var/lib/kubelet/pki/a.pem", b"one")
    tree.files.refresh(tree.touched("/var/lib/kubelet"))
    assert tree.value("/var/lib/kubelet/pki/a.pem") == b"<one>"
    tree.at("/var/lib/kubelet").rename(tree.at("/var/lib/old"))
    tree.write("/var/lib/kubelet/pki/a.pem", b"two")
    tree.files.refresh(tree.touched("/var/lib/kubelet", "/var/lib/old"))
    assert tree.value("/var/lib/kubelet/pki/a.pem") == b"<two>"


def test_the_directory_itself_stands_for_all_in_it(tree: Tree) -> None:
    """The watcher reports it bare where it was not watched before: a change in it may have gone unseen."""
    tree.write("/etc/a.crt", b"one")
    tree.write("/b.crt", b"one")
    assert tree.value("/etc/a.crt") == tree.value("/b.crt") == b"<one>"
    tree.write("/etc/a.crt", b"two")
    tree.write("/b.crt", b"two")
    tree.files.refresh(frozenset({str(tree.at("/etc"))}))
    assert tree.value("/etc/a.crt") == tree.value("/b.crt") == b"<two>"
    tree.write("/b.crt", b"three")
    tree.files.refresh(frozenset({str(tree.root)}))
    assert tree.value("/b.crt") == b"<three>"


def test_an_unused_path_is_dropped(tree: Tree) -> None:
    """Volumes of Pods come and go for years: removed ones use neither memory nor watches."""
    for number in range(50):
        tree.write(f"/pods/{number}/tls.crt")
        tree.value(f"/pods/{number}/tls.crt")
    kept = set()
    for touched in (None, None, tree.touched("/pods/7/tls.crt")):
        kept = {entry.path for entry in reachable(tree.files) if isinstance(entry, Entry)}
        tree.files.refresh(touched)
        tree.value("/pods/7/tls.crt")
    assert kept == {"/pods/7/tls.crt"}
    assert tree.interest() == {"/": {"pods"}, "/pods": {"7"}, "/pods/7": {"tls.crt"}}


def test_paths_that_a_file_no_longer_names_are_dropped(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file names other paths after each change, such as a kubeconfig. The number of entries and of watched names
    stays below a limit, although each pass reports only this file.
    """
    monkeypatch.setattr("certmond.files.cache._MAX_UNUSED", 20)
    tree.write("/names")
    watched, looks = list[int](), list[int]()
    for number in range(20):
        tree.write("/names", b"%d" % number)
        tree.files.refresh(tree.touched("/names"))
        looks.append(tree.files.dropped is None)
        for path in ("/names", "/stays", *(f"/{number}-{each}" for each in range(10))):
            tree.files.entry(path)
        watched.append(sum(f"/{old}-0"[1:] in tree.interest()["/"] for old in range(number + 1)))  # type: ignore[operator]
    assert max(watched) <= 6
    assert 3 <= sum(looks) <= 10


@pytest.mark.parametrize("news", [(0, 0, 0, 0), (100, 0, 0, 0)])
def test_many_used_paths_lead_to_at_most_one_check(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, news: tuple[int, ...]
) -> None:
    """If many paths stay in use, passes do not check all entries again and again."""
    monkeypatch.setattr("certmond.files.cache._MAX_UNUSED", 20)
    tree.write("/names")
    paths, checks = ["/names", *(f"/old-{each}" for each in range(50))], list[bool]()
    tree.files.refresh(None)
    for number, new in enumerate((0, *news, 0)):
        for path in paths:
            tree.files.entry(path)
        paths += [f"/new-{number}-{each}" for each in range(new)]
        tree.files.refresh(tree.touched("/names"))
        checks.append(tree.files.dropped is None)
    assert sum(checks) <= 1
    assert not checks[-1]


def test_old_targets_of_a_link_are_dropped(tree: Tree) -> None:
    """A user who moves a link again and again, or creates links to the same file, does not fill the memory."""
    tree.write("/target")
    for number in range(50):
        tree.link("/turned", f"none-{number}")
        tree.link(f"/made-{number}", "target")
        tree.link("/other", "target")
        for path in ("/turned", f"/made-{number}", "/other"):
            tree.value(path)
        tree.at(f"/made-{number}").unlink()
        tree.files.refresh(tree.touched("/turned", f"/made-{number}"))
    kept = {str(each).removeprefix(str(tree.root)) for each in reachable(tree.files) if isinstance(each, str)}
    assert not {path for path in kept if path.startswith(("/none-", "/made-"))} - {"/none-49", "/made-49"}
    tree.write("/target", b"new")
    tree.files.refresh(tree.touched("/target"))
    assert tree.value("/other") == b"<new>"


def reachable(start: object) -> Iterator[object]:
    """Every object that can be reached from one through containers and attributes, without types and modules."""
    seen, pending = {id(start)}, [start]
    while pending:
        current = pending.pop()
        yield current
        for other in gc.get_referents(current):
            of_module = isinstance(other, dict) and "__builtins__" in other
            if id(other) not in seen and not of_module and not isinstance(other, type):
                seen.add(id(other))
                pending.append(other)


# --- listings ---------------------------------------------------------------------------------------------------------


def test_a_listing_is_sorted_and_read_once(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until something in the directory is reported. All names in it are of interest from then on."""
    for name in ("b", "a", "c"):
        tree.write(f"/etc/{name}")
    calls = Calls(monkeypatch)
    assert tree.files.listing("/etc") == tree.files.listing("/etc/") == ("a", "b", "c")
    assert calls.paths("listdir") == ["etc"]
    assert tree.interest() == {"/": {"etc"}, "/etc": None}
    tree.write("/etc/d")
    tree.files.refresh(tree.touched("/other/x"))
    assert tree.files.listing("/etc") == ("a", "b", "c")
    tree.files.refresh(tree.touched("/etc/d"))
    assert tree.files.listing("/etc") == ("a", "b", "c", "d")


def test_a_listing_is_the_same_object_until_a_name_comes_or_goes(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is replaced changes no listing, so that the directory is not read again for it."""
    tree.write("/etc/a")
    tree.write("/etc/b")
    first = tree.files.listing("/etc")
    tree.replace("/etc/a", b"another")
    tree.files.refresh(tree.touched("/etc/a", "/etc/a.new"))
    calls = Calls(monkeypatch)
    assert tree.files.listing("/etc") is first
    assert calls.paths("listdir") == []
    tree.files.refresh(None)
    assert tree.files.listing("/etc") is first
    assert calls.paths("listdir") == ["etc"]
    tree.at("/etc/b").unlink()
    tree.files.refresh(tree.touched("/etc/b"))
    assert tree.files.listing("/etc") == ("a",)


def test_a_wildcard_selects_the_names_that_are_kept_and_watched(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory can contain 400,000 other names: certmond keeps none of them, and no change of one causes a pass."""
    for name in ("b.crt", "a.crt", "a.tmp", "ca.key"):
        tree.write(f"/etc/{name}")
    assert list(tree.files.names("/etc", "*.crt").sorted) == ["a.crt", "b.crt"]
    assert tree.value("/etc/a.crt") is not None
    assert tree.value("/etc/ca.key") is not None
    watched = MatchingNames(frozenset({"ca.key"}), frozenset({"*.crt"}))
    assert tree.interest() == {"/": {"etc"}, "/etc": watched}
    for name in ("c.crt", "c.tmp"):
        tree.write(f"/etc/{name}")
    calls = Calls(monkeypatch)
    tree.files.refresh(tree.touched("/etc/c.crt", "/etc/c.tmp"))
    assert list(tree.files.names("/etc", "*.crt").sorted) == ["a.crt", "b.crt", "c.crt"]
    assert tree.interest()["/etc"] == watched
    assert calls.paths("lstat") == ["c.crt"], "one look, at the name that the wildcard matches"
    assert tree.files.listing("/etc") == ("a.crt", "a.tmp", "b.crt", "c.crt", "c.tmp", "ca.key")
    assert tree.interest()["/etc"] is None
    assert calls.paths("listdir") == ["etc"], "a caller that wants all names makes certmond read the directory again"


def test_a_directory_that_cannot_be_listed_has_no_names(tree: Tree) -> None:
    """It is not there, it is a file, it is a loop; and it is listed when it comes."""
    tree.write("/file")
    tree.link("/loop", "loop")
    assert tree.files.listing("/none/at/all") == tree.files.listing("/file") == tree.files.listing("/loop") == ()
    tree.write("/none/at/all/a")
    tree.files.refresh(tree.touched("/none"))
    assert tree.files.listing("/none/at/all") == ("a",)


def test_the_root_can_be_listed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below another root and on this node."""
    tree.write("/a")
    assert tree.files.listing("") == ("a",)
    assert tree.interest() == {"/": None}
    names = ["etc"]
    monkeypatch.setattr(os, "listdir", lambda place: list(names) if place == "/" else [])
    own = Files("/")
    assert own.listing("") == ("etc",)
    assert own.interest == {"/": None}
    names.append("var")
    own.refresh(frozenset({"/var"}))
    assert own.listing("") == ("etc", "var")


def test_a_listing_follows_links(tree: Tree) -> None:
    """Of interest are the link and where it leads."""
    tree.write("/data/v1/a")
    tree.link("/etc/certs", "/data/v1")
    assert tree.files.listing("/etc/certs") == ("a",)
    assert tree.interest() == {"/": {"etc", "data"}, "/etc": {"certs"}, "/data": {"v1"}, "/data/v1": None}


# --- watched directories ----------------------------------------------------------------------------------------------


def test_every_hop_is_of_interest(tree: Tree) -> None:
    """Each directory in which a name was looked up: of the link, of every link on the way, of the target, and above
    them, since a directory can be moved as well."""
    tree.write("/srv/store/v2/real.pem")
    tree.link("/srv/current", "store/v2")
    tree.link("/opt/pki/link.pem", "/srv/current/real.pem")
    tree.link("/etc/pki", "/opt/pki")
    assert tree.value("/etc/pki/link.pem") is not None
    assert tree.interest() == {
        "/": {"etc", "opt", "srv"},
        "/etc": {"pki"},
        "/opt": {"pki"},
        "/opt/pki": {"link.pem"},
        "/srv": {"current", "store"},
        "/srv/store": {"v2"},
        "/srv/store/v2": {"real.pem"},
    }


def test_interest_without_a_root_has_the_paths_of_this_host() -> None:
    """The directories have their names on this host."""
    files = Files("/")
    assert files.entry("/certmond-test-none/a.crt").missing
    assert files.interest == {"/": frozenset({"certmond-test-none"})}


ABSENT = st.sampled_from(["/x", "/d/x", "/d/e/x", "/l/x", "/m"])
CHANGES = st.one_of(
    st.tuples(st.just("write"), ABSENT),
    st.tuples(st.just("remove"), ABSENT),
    st.tuples(st.just("mkdir"), st.sampled_from(["/d", "/d/e", "/f"])),
    st.tuples(st.just("move"), st.sampled_from([("/d", "/f"), ("/f", "/d"), ("/d/e", "/e"), ("/e", "/d/e")])),
    st.tuples(
        st.just("link"), st.sampled_from([("/l", "d"), ("/l", "/d/e"), ("/m", "/l/x"), ("/m", "d/x"), ("/d/x", "../m")])
    ),
)


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(changes=st.lists(CHANGES, min_size=1, max_size=12))
def test_a_look_at_what_was_reported_sees_what_a_look_at_all_sees(changes: list[Any], tmp_path_factory: Any) -> None:
    """Whatever is written, removed, moved or linked: with the events in the directories of interest, and those alone,
    every path is known as by a fresh look."""
    root = tmp_path_factory.mktemp("root")
    tree = Tree(root)
    paths = ["/x", "/d/x", "/d/e/x", "/l/x", "/m", "/f/x"]
    for path in paths:
        tree.value(path)
    for number, (kind, what) in enumerate(changes):
        events = change(tree, kind, what, b"%d" % number)
        wanted = tree.files.interest
        seen = set()
        for event in events:
            place, name = os.path.split(event)
            if place in wanted and ((names := wanted[place]) is None or name in names):
                seen.add(event)
        tree.files.refresh(frozenset(seen))
        fresh = Tree(root)
        assert [tree.value(path) for path in paths] == [fresh.value(path) for path in paths]
        assert [tree.files.entry(path).is_link for path in paths] == [fresh.files.entry(path).is_link for path in paths]
        assert tree.files.interest == fresh.files.interest


@pytest.mark.long
@pytest.mark.filterwarnings(FORKS)
@settings(max_examples=50, deadline=None)
@given(changes=st.lists(CHANGES, min_size=1, max_size=8))
def test_what_a_second_process_saw_is_known_as_by_ones_own_look(changes: list[Any], tmp_path_factory: Any) -> None:
    """All that is known of a path, its value, and which directories are of interest: at first and after each change."""
    root = tmp_path_factory.mktemp("root")
    paths = ["/x", "/d/x", "/d/e/x", "/l/x", "/m", "/f/x", "/d"]
    for number, (kind, what) in enumerate(changes):
        change(Tree(root), kind, what, b"%d" % number)
    tree, alone = Tree(root), Tree(root)
    with elsewhere() as brought:
        tree.parse_all(*paths)
    assert len(brought) == len(paths)
    assert tree.parse.seen == [], "all of it is done there"
    alone.parse_all(*paths)
    assert known(tree, paths) == known(alone, paths)
    for number, (kind, what) in enumerate(changes):
        touched = frozenset(change(tree, kind, what, b"again %d" % number))
        for each in (tree, alone):
            each.files.refresh(touched)
        assert known(tree, paths) == known(alone, paths)


def known(tree: Tree, paths: list[str]) -> object:
    """Everything that is known of the paths; a time after which a file is trusted may have passed in between."""
    tree.parse_all(*paths)
    entries = [tree.files.entry(path) for path in paths]
    names = [name for name in Entry.__slots__ if name not in {"values", "parsers", "settled"}]
    return [
        [[getattr(entry, name) for name in names] for entry in entries],
        [entry.values for entry in entries],
        tree.files.interest,
    ]


@pytest.mark.filterwarnings(FORKS)
def test_a_known_file_is_not_read_elsewhere(tree: Tree) -> None:
    """An entry stays the same object, however it is requested again."""
    paths = [tree.write(f"/{name}").name for name in "abc"]
    first, second = (tree.files.entry(f"/{name}") for name in "ab")
    with elsewhere() as brought:
        tree.parse_all(*(f"/{path}" for path in (*paths, *paths)))
    assert len(brought) == 1
    assert [tree.files.entry("/a"), tree.files.entry("/b")] == [first, second]
    assert [tree.value(f"/{path}") for path in paths] == [b"<x>"] * 3
    tree.replace("/c", b"other")
    tree.files.refresh(None)
    with elsewhere() as brought:
        tree.parse_all(*(f"/{path}" for path in paths))
    assert brought == [], "what was known before is compared with what is there now"
    assert tree.value("/c") == b"<other>"


@pytest.mark.filterwarnings(FORKS)
def test_a_file_that_was_read_meanwhile_keeps_its_entry(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller may read a file that is parsed later: it has one entry, which is dropped when it changes."""
    worthwhile(monkeypatch)
    paths = [f"/{tree.write(f'/{name}').name}" for name in "abc"]
    os.mkfifo(tmp_path / "gate")
    here, waited = os.getpid(), list[bytes]()

    def parse(data: bytes, _: str) -> bytes:
        if os.getpid() != here and not waited:
            waited.append((tmp_path / "gate").read_bytes())  # until it is opened there, and closed again
        return data

    parts = tree.files.parsed(paths, parse)
    assert [*next(parts)] == []
    assert next(parts) == ["/a"]
    entry, value = tree.files.entry("/c"), tree.files.value("/c", parse)
    (tmp_path / "gate").write_bytes(b"")
    assert [*parts] == [["/b"], ["/c"]]
    assert (tree.files.entry("/c"), value) == (entry, b"x")
    tree.replace("/c", b"other")
    tree.files.refresh(tree.touched("/c"))
    assert tree.files.dropped == frozenset({entry})
    assert tree.files.value("/c", parse) == b"other"


@pytest.mark.filterwarnings(FORKS)
@pytest.mark.parametrize(("age", "settled"), [(0, False), (10**12, True)])
def test_the_freshness_of_a_file_comes_from_the_second_process(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, age: int, settled: bool
) -> None:
    """A recently written file is not trusted by its timestamps alone, whichever process read it."""
    written = tree.write("/a").stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: written + age)
    with elsewhere():
        tree.parse_all("/a")
    assert tree.files.entry("/a").settled is settled


class Found:
    """A value, and how many others there were in its process when it was made."""

    made: ClassVar[WeakSet[Found]] = WeakSet()

    def __init__(self) -> None:
        self.others = len(self.made)
        self.made.add(self)


@pytest.mark.filterwarnings(FORKS)
def test_the_second_process_keeps_no_result_after_it_sent_it(tree: Tree) -> None:
    """Whatever the number of files, it uses no more memory than for one piece."""
    paths = [f"/{tree.write(f'/{number}').name}" for number in range(20)]
    with elsewhere():
        for _ in tree.files.parsed(paths, found := lambda _data, _path: Found()):
            pass
    others = [value.others for path in paths if (value := tree.files.value(path, found))]
    assert len(others) == 20
    assert max(others) <= 1, "the one before, until the next is made"


@pytest.mark.filterwarnings(FORKS)
def test_a_path_that_leads_straight_there_is_in_memory_once(tree: Tree) -> None:
    """Ten thousand are a megabyte."""
    path = tree.write("/a").name
    with elsewhere():
        tree.parse_all(f"/{path}")
    entry = tree.files.entry("/a")
    assert entry.real is entry.path


def change(tree: Tree, kind: str, what: Any, content: bytes) -> set[str]:
    """Make a change, if that can be made; the paths whose directories report it, by their real names."""

    def real(path: str) -> str:
        return os.path.join(os.path.realpath(tree.at(path).parent), os.path.basename(path))

    try:
        if kind == "write":
            events = {real(what)}
            if tree.at(what).is_symlink():
                return set()
            tree.at(what).write_bytes(content)
        elif kind == "remove":
            events = {real(what)}
            tree.at(what).unlink()
        elif kind == "mkdir":
            events = {real(what)}
            tree.at(what).mkdir()
        elif kind == "move":
            events = {real(what[0]), real(what[1])}
            tree.at(what[0]).rename(tree.at(what[1]))
        else:
            events = {real(what[0])}
            tree.at(what[0]).unlink(missing_ok=True)
            tree.at(what[0]).symlink_to(what[1])
    except OSError:
        return set()
    return events


# --- another user -----------------------------------------------------------------------------------------------------


def unprivileged(act: Callable[[], str]) -> str:
    """Return the result of `act` in a child process without privileges."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(write, act().encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(
    ("mode", "directory", "detail"), [(0o000, 0o755, "…"), (0o644, 0o000, "…"), (0o644, 0o755, "")]
)
def test_what_may_not_be_read_is_unreadable(mode: int, directory: int, detail: str) -> None:
    """The file, or a directory on the way to it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        tree = Tree(Path(root))
        tree.root.chmod(0o755)
        tree.write("/etc/a.crt").chmod(mode)
        tree.at("/etc").chmod(directory)
        fact = f"certmond cannot check {detail}, because user 65534 is not permitted to read this path"
        expected = f"not_permitted: {fact}" if detail else ""
        assert unprivileged(lambda: tree.fault("/etc/a.crt")) == expected
        assert unprivileged(lambda: str(len(tree.files.listing("/etc")))) == ("0" if directory == 0 else "1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_file_that_becomes_readable_again_is_read() -> None:
    """chmod 000 and back."""
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        tree = Tree(Path(root))
        tree.root.chmod(0o755)
        path = tree.write("/a.crt")
        os.chown(path, 65534, 65534)

        def faults() -> str:
            reported = []
            for mode in (0o600, 0o000, 0o000, 0o600):
                path.chmod(mode)
                tree.files.refresh(tree.touched("/a.crt"))
                reported.append(tree.fault("/a.crt").partition(":")[0])
            return ",".join(reported)

        assert unprivileged(faults) == ",not_permitted,not_permitted,"


# --- writers ----------------------------------------------------------------------------------------------------------


def test_a_writer_that_is_interrupted(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has just changed is read again after a while: half of a write does not count as content."""
    path = tree.write("/a.crt", b"A" * 3000)
    with path.open("r+b") as half:
        half.write(b"B" * 1500)
    monkeypatch.setattr("certmond.files.consistent_read.TICK", 10**12)
    rest = [b"B" * 3000]
    monkeypatch.setattr("certmond.files.consistent_read.time.sleep", lambda _: rest and path.write_bytes(rest.pop()))
    assert (tree.value("/a.crt") or b"")[1:-1] == b"B" * 3000


def test_a_scan_waits_for_a_limited_number_of_writers(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of known files that have just changed, a scan waits for the writers of twenty. It reads the others at once, and
    names them for the next scan, which waits for twenty of them.
    """
    paths = [f"/{number}.crt" for number in range(50)]
    for path in paths:
        tree.write(path, b"A")
        tree.value(path)
    pauses = list[float]()
    for module in ("consistent_read", "cache_entry"):
        monkeypatch.setattr(f"certmond.files.{module}.TICK", 10**15)
    monkeypatch.setattr("certmond.files.consistent_read.time.sleep", pauses.append)
    for path in paths:
        tree.write(path, b"B")
    left = [30, 10, 0]
    touched = tree.touched(*paths)
    for expected in left:
        tree.files.refresh(touched)
        assert [tree.value(path) for path in paths] == [tree.value(paths[0])] * 50
        touched = frozenset(tree.files.unfinished)
        assert len(touched) == expected
    assert len(pauses) == 50
    assert (tree.value("/0.crt") or b"")[1:-1] == b"B"


@pytest.mark.long
def test_two_hundred_reads_beside_a_writer_in_place(tree: Tree) -> None:
    """Every value is one of the contents that were written, whole; else there is a fault, or nothing was there yet."""
    contents = [bytes([65 + number]) * 3000 for number in range(8)]
    path = tree.write("/a.crt", contents[0])
    done = threading.Event()

    def rewrite() -> None:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            while not done.is_set():
                for content in contents:
                    os.pwrite(descriptor, content, 0)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, contents[0], 0)
        finally:
            os.close(descriptor)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(200):
            tree.files.refresh(tree.touched("/a.crt"))
            value = tree.value("/a.crt")
            assert value is None or value[1:-1] in (b"", *contents)
            assert (value is None) == (tree.files.entry("/a.crt").fault is not None)
    finally:
        done.set()
        writer.join()
    tree.files.refresh(tree.touched("/a.crt"))
    assert (tree.value("/a.crt") or b"")[1:-1] == path.read_bytes()
