"""Real inotify, real mounts, real limits. No test sleeps: it awaits the expected event, and proves silence by a later
event that arrives alone (one inotify instance preserves the order of its events).

A scene that needs a namespace or another user is a function that `apart` runs in a separate process.
"""

import contextlib
import errno
import itertools
import mmap
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyFD, Mask, WatchDescriptor

from certmond.files import directory_watch as watch
from certmond.files import mount_table
from certmond.files.directory_names import MatchingNames
from certmond.files.directory_watch import Changes, Interest, Watcher, affects
from certmond.files.mount_table import Mount, filesystem_type, is_eventless, parse_mounts
from tests.conftest import no_thread_left
from tests.deadline import DEADLINE

ROOT = Path(__file__).parents[2]
GENEROUS = DEADLINE


class Eyes:
    """A watcher, and one more directory in which a fence is put up: when it is reported, all before it was."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.home = str(home)
        self.yard = str(home / "yard")
        os.mkdir(self.yard)
        self.woken = threading.Event()
        self.wakes = 0
        self.watcher = Watcher(self.wake)

    def wake(self) -> None:
        self.wakes += 1
        self.woken.set()

    def follow(self, interest: Interest) -> None:
        """Follow these directories, and discard the events of the first watch."""
        self.look_at(interest)
        self.reported()
        self.wakes = 0

    def look_at(self, interest: Interest) -> None:
        self.watcher.set_interest({**interest, self.yard: frozenset({"fence"})})

    def reported(self) -> Changes:
        """All that happened until now."""
        fence = os.path.join(self.yard, "fence")
        stake = os.path.join(self.home, "stake")
        Path(stake).touch()
        os.rename(stake, fence)
        changes = Changes(everything=False, paths=frozenset(), cause="inotify")
        while fence not in changes.paths and not changes.everything:
            changes = merged(changes, self.next())
        return Changes(changes.everything, changes.paths - {fence, self.yard}, changes.cause)

    def next(self) -> Changes:
        while True:
            assert self.woken.wait(GENEROUS), "nothing was reported"
            self.woken.clear()
            if changes := self.watcher.take_changes():
                return changes


class Holder:
    """A callback that, when the watcher calls it, blocks the calling thread until it may continue."""

    def __init__(self) -> None:
        self.holds = False
        self.held, self.go_on = threading.Event(), threading.Event()

    def wake(self) -> None:
        if self.holds:
            self.held.set()
            self.go_on.wait(GENEROUS)


def merged(one: Changes, other: Changes) -> Changes:
    return Changes(
        one.everything or other.everything,
        one.paths | other.paths,
        max(one.cause, other.cause, key=("inotify", "overflow", "mount").index),
    )


@pytest.fixture
def eyes(tmp_path: Path) -> Iterator[Eyes]:
    eyes = Eyes(tmp_path / "eyes")
    yield eyes
    eyes.watcher.close()


@pytest.fixture
def pki(tmp_path: Path) -> str:
    (tmp_path / "pki").mkdir()
    return str(tmp_path / "pki")


def put(directory: str, name: str, content: str = "certificate") -> str:
    """What every careful writer does: write beside, then rename."""
    path = os.path.join(directory, name)
    beside = os.path.join(directory, f".{name}.new")
    Path(beside).write_text(content)
    os.rename(beside, path)
    return path


# Reported changes


def appears(path: str) -> None:
    os.symlink("elsewhere", path)  # without a write or a close


def is_replaced(path: str) -> None:
    put(os.path.dirname(path), os.path.basename(path))


def is_rewritten(path: str) -> None:
    Path(path).write_text("new")


def is_truncated(path: str) -> None:
    os.truncate(path, 0)


def is_written_through_a_mapping(path: str) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[0:1] = b"x"


def is_forbidden(path: str) -> None:
    os.chmod(path, 0)


def is_touched(path: str) -> None:
    os.utime(path)


def is_removed(path: str) -> None:
    os.unlink(path)


def is_moved_away(path: str) -> None:
    os.rename(path, os.path.join(os.path.dirname(path), "old"))


@pytest.mark.parametrize(
    "happens",
    [
        is_replaced,
        is_rewritten,
        is_truncated,
        is_written_through_a_mapping,
        is_forbidden,
        is_touched,
        is_removed,
        is_moved_away,
    ],
    ids=lambda happens: str(happens.__name__),
)
def test_an_event_reports_only_its_path(eyes: Eyes, pki: str, happens: Callable[[str], None]) -> None:
    """Whatever happens to a watched file, its path is reported, and no other."""
    path = put(pki, "ca.crt")
    eyes.follow({pki: frozenset({"ca.crt"})})
    happens(path)
    assert eyes.reported() == Changes(everything=False, paths=frozenset({path}), cause="inotify")


def test_reports_a_name_that_appears(eyes: Eyes, pki: str) -> None:
    """A name can be waited for before it exists."""
    path = os.path.join(pki, "ca.crt")
    eyes.follow({pki: frozenset({"ca.crt"})})
    appears(path)
    assert eyes.reported().paths == {path}


def test_reports_a_writer_that_keeps_the_file_open(eyes: Eyes, pki: str) -> None:
    """A write is reported when it is made, not when the writer at last closes the file."""
    path = put(pki, "ca.crt")
    with open(path, "r+b", buffering=0) as file:
        eyes.follow({pki: frozenset({"ca.crt"})})
        file.write(b"new")
        assert eyes.reported().paths == {path}


@pytest.mark.parametrize("link", ["kubelet-client-current.pem", "..data"])
def test_reports_a_link_that_is_turned(eyes: Eyes, pki: str, link: str) -> None:
    """A link that is replaced by another, as the kubelet does with its own PEM and with projected volumes, is news."""
    path = os.path.join(pki, link)
    os.symlink("kubelet-client-2025.pem", path)
    eyes.follow({pki: frozenset({link})})
    os.symlink("kubelet-client-2026.pem", f"{path}.tmp")
    os.rename(f"{path}.tmp", path)
    assert eyes.reported().paths == {path}


def test_names_that_are_not_text(eyes: Eyes, pki: str) -> None:
    """A name is bytes; one that is no UTF-8 is reported as Python spells it."""
    name = os.fsdecode(b"caf\xe9.pem")
    eyes.follow({pki: frozenset({name})})
    path = put(pki, name)
    assert eyes.reported().paths == {path}


def test_the_root_directory_has_no_double_slash(eyes: Eyes) -> None:
    """What is in / is called /name, not //name."""
    eyes.watcher.set_interest({"/": frozenset({"etc"})})
    eyes.next()
    eyes.watcher.set_interest({"/": frozenset({"etc", "var"})})
    assert eyes.next().paths == {"/var"}


def test_other_names_are_silent(eyes: Eyes, pki: str) -> None:
    """An event of an unwatched name wakes no caller."""
    eyes.follow({pki: frozenset({"ca.crt"})})
    before = eyes.watcher.events
    for name in ("apiserver.crt", "ca.crt.bak", "ca", "CA.CRT"):
        os.chmod(put(pki, name), 0o600)
    os.mkdir(os.path.join(pki, "etcd"))
    put(os.path.join(pki, "etcd"), "ca.crt")
    assert eyes.reported().paths == frozenset()
    assert (eyes.wakes, eyes.watcher.events - before) == (1, 1), "the fence alone"


def test_every_name(eyes: Eyes, pki: str) -> None:
    """If every name is watched, every name is reported, because a pattern may match it."""
    eyes.follow({pki: None})
    put(pki, "a.pem")
    os.mkdir(os.path.join(pki, "etcd"))
    assert eyes.reported().paths == {os.path.join(pki, name) for name in (".a.pem.new", "a.pem", "etcd")}


def test_a_wildcard_reports_only_the_names_that_it_matches(eyes: Eyes, pki: str) -> None:
    """A program that writes other names into a directory with certificates does not wake the daemon."""
    eyes.follow({pki: MatchingNames(frozenset({"ca.key"}), frozenset({"*.crt"}))})
    before = eyes.watcher.events
    for name in ("a.tmp", "a.crt.bak", "ca.pem"):
        Path(pki, name).touch()
    assert eyes.reported().paths == frozenset()
    assert (eyes.wakes, eyes.watcher.events - before) == (1, 1), "the fence alone"
    put(pki, "a.crt")
    put(pki, "ca.key")
    assert eyes.reported().paths == {os.path.join(pki, "a.crt"), os.path.join(pki, "ca.key")}


def test_taking_empties(eyes: Eyes, pki: str) -> None:
    """Reported changes are not reported again, and without an event there is no change."""
    eyes.follow({pki: frozenset({"ca.crt"})})
    assert eyes.watcher.take_changes() is None
    put(pki, "ca.crt")
    eyes.reported()
    assert eyes.watcher.take_changes() is None


def test_what_is_to_be_looked_at_again_counts_as_changed(eyes: Eyes, pki: str) -> None:
    """A request for another look at paths wakes the loop, which finds them among the changes; no path, no wake-up."""
    eyes.follow({pki: frozenset({"a.crt"})})
    eyes.watcher.report_changed(frozenset())
    assert eyes.watcher.take_changes() is None
    assert eyes.wakes == 0
    eyes.watcher.report_changed(frozenset({f"{pki}/a.crt"}))
    assert eyes.watcher.take_changes() == Changes(everything=False, paths=frozenset({f"{pki}/a.crt"}), cause="inotify")
    assert eyes.wakes == 1


def test_directory_changes_itself(eyes: Eyes, pki: str) -> None:
    """A directory that becomes more open, or closed, is reported itself."""
    eyes.follow({pki: frozenset({"ca.crt"})})
    os.chmod(pki, 0o700)
    assert eyes.reported().paths == {pki}


# Following.


def test_a_new_directory_counts_as_changed(eyes: Eyes, pki: str) -> None:
    """A directory is read before it is watched. A change in between must not be lost."""
    eyes.follow({})
    put(pki, "ca.crt")
    eyes.look_at({pki: frozenset({"ca.crt"})})
    assert eyes.reported().paths == {pki}


def test_new_names_count_as_changed(eyes: Eyes, pki: str) -> None:
    """A name is looked up before it is watched. A change in between made no event for the watcher."""
    eyes.follow({pki: frozenset({"ca.crt"})})
    put(pki, "ca.key")
    eyes.look_at({pki: frozenset({"ca.key"})})
    assert eyes.reported().paths == {os.path.join(pki, "ca.key")}
    eyes.look_at({pki: None})
    assert eyes.reported().paths == {pki}
    eyes.look_at({pki: frozenset({"ca.crt"})})
    assert eyes.reported().paths == frozenset(), "of every name before"
    eyes.look_at({pki: MatchingNames(frozenset({"ca.crt", "ca.key"}), frozenset({"*.pem"}))})
    assert eyes.reported().paths == {pki}, "a wildcard can match a name that has come in between"
    eyes.look_at({pki: MatchingNames(frozenset({"ca.key", "sa.key"}), frozenset({"*.pem"}))})
    assert eyes.reported().paths == {os.path.join(pki, "sa.key")}


def test_following_the_same_again_is_silent(eyes: Eyes, pki: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To follow what is followed already does nothing: no report, no call into inotify."""
    interest = {pki: frozenset({"ca.crt"}), os.path.join(pki, "etcd"): None}
    eyes.follow(interest)

    def unneeded(*_: object) -> None:
        raise AssertionError("asked for a watch again")

    monkeypatch.setattr(InotifyFD, "add_callback", unneeded)
    monkeypatch.setattr(InotifyFD, "remove_callbacks", unneeded)
    eyes.look_at(interest)
    assert eyes.watcher.take_changes() is None
    assert (eyes.watcher.watched, eyes.watcher.polled) == (2, frozenset())


def test_exactly_these(eyes: Eyes, pki: str) -> None:
    """A directory that is no longer watched is silent, and its watch is removed."""
    eyes.follow({pki: None})
    assert eyes.watcher.watched == 2
    eyes.follow({})
    assert (eyes.watcher.watched, kernel_watches()) == (1, 1)
    put(pki, "ca.crt")
    assert eyes.reported().paths == frozenset()


def kernel_watches() -> int:
    """The inotify watches that this process holds, by the kernel's own account."""
    texts = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:inotify":
                texts.append(Path(f"/proc/self/fdinfo/{descriptor}").read_text())
        except FileNotFoundError:
            continue
    return sum(text.count("inotify wd:") for text in texts)


def test_directory_that_is_gone(eyes: Eyes, pki: str) -> None:
    """A directory that is not there is neither watched nor polled, and no error: its parent tells when it comes."""
    etcd = os.path.join(pki, "etcd")
    absent = [etcd, put(pki, "file"), os.path.join(pki, "x" * 300), os.path.join(pki, "nul\0l"), "\ud800"]
    os.symlink("loop", os.path.join(pki, "loop"))
    absent.append(os.path.join(pki, "loop"))
    eyes.follow({pki: frozenset({"etcd"}), **dict.fromkeys(absent)})
    assert (eyes.watcher.watched, eyes.watcher.polled) == (2, frozenset())

    os.mkdir(etcd)
    assert eyes.reported().paths == {etcd}
    eyes.follow({pki: frozenset({"etcd"}), etcd: None})
    put(etcd, "ca.crt")
    assert os.path.join(etcd, "ca.crt") in eyes.reported().paths


def test_directory_removed_and_back(eyes: Eyes, pki: str) -> None:
    """A directory that is removed and made again is reported, and followed again as the new one that it is."""
    interest = {pki: frozenset({"ca.crt"})}
    eyes.follow(interest)
    os.rmdir(pki)
    assert eyes.reported().paths == {pki}
    eyes.look_at(interest)
    assert (eyes.reported().paths, eyes.watcher.watched) == (frozenset(), 1)
    os.mkdir(pki)
    eyes.look_at(interest)
    assert eyes.reported().paths == {pki}
    path = put(pki, "ca.crt")
    assert eyes.reported().paths == {path}


def test_directory_removed_and_back_at_once(eyes: Eyes, pki: str) -> None:
    """The same holds without a scan in between, whether or not the inode number is the old one."""
    interest = {pki: frozenset({"ca.crt"})}
    eyes.follow(interest)
    for _ in range(20):
        os.rmdir(pki)
        os.mkdir(pki)
        eyes.look_at(interest)
        while pki in eyes.reported().paths:
            eyes.look_at(interest)
        path = put(pki, "ca.crt")
        assert eyes.reported().paths == {path}
        os.unlink(path)
        eyes.reported()


def test_directory_removed_while_it_is_followed(eyes: Eyes, pki: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that is lost in the very moment in which it is had is known to be lost."""
    eyes.follow({})
    heard = threading.Event()
    add, hear = InotifyFD.add_callback, Watcher.on_watch_deleted

    def add_too_late(inotify: InotifyFD, path: bytes, mask: Mask, callback: Watcher, number: CallbackId) -> int:
        watch = add(inotify, path, Mask(mask & ~InotifyConstants.IN_DELETE_SELF), callback, number)
        os.rmdir(path)
        assert heard.wait(GENEROUS)
        return watch

    def hears(watcher: Watcher, watch: WatchDescriptor) -> None:
        heard.set()
        hear(watcher, watch)

    monkeypatch.setattr(InotifyFD, "add_callback", add_too_late)
    monkeypatch.setattr(Watcher, "on_watch_deleted", hears)
    eyes.look_at({pki: None})
    assert eyes.reported().paths == {pki}
    assert eyes.watcher.watched == 1


def test_directory_moved_away(eyes: Eyes, pki: str) -> None:
    """A directory that is moved away is reported; from the next look on nothing in it is, until it is back."""
    interest = {pki: frozenset({"ca.crt"})}
    eyes.follow(interest)
    away = f"{pki}.away"
    os.rename(pki, away)
    assert eyes.reported().paths == {pki}
    eyes.follow(interest)
    assert eyes.watcher.watched == kernel_watches() == 1
    put(away, "ca.crt")
    assert eyes.reported().paths == frozenset()
    os.rename(away, pki)
    eyes.look_at(interest)
    assert eyes.reported().paths == {pki}


def test_parent_of_the_directory_moved_away(eyes: Eyes, tmp_path: Path) -> None:
    """No event says that a directory vanished with the one above it; the next look does."""
    pki = str(tmp_path / "kubernetes" / "pki")
    os.makedirs(pki)
    eyes.follow({pki: None})
    os.rename(tmp_path / "kubernetes", tmp_path / "kubernetes.old")
    assert eyes.reported().paths == frozenset()
    eyes.look_at({pki: None})
    assert eyes.reported().paths == {pki}
    assert eyes.watcher.watched == 1


def test_directory_replaced(eyes: Eyes, pki: str) -> None:
    """Where another directory takes the place by a rename, that one is followed and the old one is not."""
    interest = {pki: frozenset({"ca.crt"})}
    eyes.follow(interest)
    os.mkdir(f"{pki}.new")
    os.rename(pki, f"{pki}.old")
    os.rename(f"{pki}.new", pki)
    eyes.look_at(interest)
    assert eyes.reported().paths == {pki}
    put(f"{pki}.old", "ca.crt")
    path = put(pki, "ca.crt")
    assert eyes.reported().paths == {path}
    assert eyes.watcher.watched == kernel_watches() == 2


def test_directory_followed_at_its_new_place(eyes: Eyes, pki: str) -> None:
    """The kernel gives the same watch for a directory that was moved: it is reported under its new path."""
    eyes.follow({pki: None})
    moved = f"{pki}.moved"
    os.rename(pki, moved)
    eyes.follow({moved: frozenset({"ca.crt"})})
    path = put(moved, "ca.crt")
    assert eyes.reported().paths == {path}
    assert eyes.watcher.watched == kernel_watches() == 2


# Storms.


@pytest.mark.long
def test_storm(eyes: Eyes, pki: str) -> None:
    """A caller that reads only the reported paths has the current state after 10,000 renames."""
    names = [f"{number}.pem" for number in range(100)]
    eyes.follow({pki: frozenset(names)})
    storm = threading.Thread(target=lambda: [put(pki, name, str(turn)) for turn in range(100) for name in names])
    storm.start()
    known: dict[str, str] = {}

    def look(changes: Changes) -> None:
        for path in [os.path.join(pki, name) for name in names] if changes.everything else changes.paths:
            if path.startswith(pki) and os.path.exists(path):
                known[os.path.basename(path)] = Path(path).read_text()

    while storm.is_alive():
        if eyes.woken.wait(0.1):  # in the end there may be nothing more to come
            eyes.woken.clear()
            if changes := eyes.watcher.take_changes():
                look(changes)
    look(eyes.reported())
    assert known == dict.fromkeys(names, "99")
    assert eyes.watcher.events >= len(names)


def test_too_many_to_name(eyes: Eyes, pki: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no caller takes the changes, their memory is bounded, and then all paths must be read."""
    monkeypatch.setattr(watch, "_MAX_PATHS", 100)
    eyes.follow({pki: None})
    for number in range(101):
        os.symlink("x", os.path.join(pki, str(number)))
    eyes.reported()
    put(pki, "ca.crt")
    paths, wanted = set[str](), os.path.join(pki, "ca.crt")
    while wanted not in paths:  # the draft and its new name can be two reports
        changes = eyes.reported()
        assert not changes.everything, "after it was taken, names again"
        paths |= changes.paths


def test_too_many_to_name_means_everything(tmp_path: Path, pki: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More changes than can be named are reported as everything, without a name."""
    monkeypatch.setattr(watch, "_MAX_PATHS", 100)
    woken = threading.Semaphore(0)
    watcher = Watcher(woken.release)
    try:
        watcher.set_interest({pki: None})
        for number in range(100):
            os.symlink("x", os.path.join(pki, str(number)))
        for _ in range(101):
            assert woken.acquire(timeout=GENEROUS)
        assert watcher.take_changes() == Changes(everything=True, paths=frozenset(), cause="inotify")
    finally:
        watcher.close()


def test_overflow(tmp_path: Path, pki: str) -> None:
    """Events that the kernel had to drop are reported as everything, and every watch is made sure of again."""
    reading, go_on, reported = threading.Event(), threading.Event(), threading.Event()

    def wake() -> None:
        reading.set()
        go_on.wait(GENEROUS)
        reported.set()

    room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    etcd = os.path.join(pki, "etcd")
    os.mkdir(etcd)
    interest: Interest = {pki: None, etcd: None}
    go_on.set()
    watcher = Watcher(wake)
    try:
        watcher.set_interest(interest)
        watcher.take_changes()
        reading.clear()
        go_on.clear()
        name = put(pki, "0")
        assert reading.wait(GENEROUS)
        for number in range(room // 2 + 2048):  # each makes two; the reader holds some itself
            os.rename(name, name := os.path.join(pki, str(number + 1)))
        os.rmdir(etcd)  # the event that this watch has ended has no room
        os.mkdir(etcd)
        reported.clear()
        go_on.set()
        changes = Changes(everything=False, paths=frozenset(), cause="inotify")
        while not changes.everything or changes.cause != "overflow":
            assert reported.wait(GENEROUS)
            reported.clear()
            changes = merged(changes, watcher.take_changes() or changes)
        assert watcher.overflows == 1, "once, for however many directories"

        watcher.set_interest(interest)
        path = put(etcd, "ca.crt")
        while path not in changes.paths:
            assert reported.wait(GENEROUS)
            reported.clear()
            changes = merged(changes, watcher.take_changes() or changes)
        assert watcher.watched == kernel_watches() == 2
        watcher.set_interest({})
        assert watcher.watched == kernel_watches() == 0
    finally:
        go_on.set()
        watcher.close()


@pytest.mark.long
@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=25))
@example([0, 3, 9, 4, 9, 0, 5, 9, 8, 2, 9])
@example([1, 7, 10, 9, 6, 1, 7, 10])
def test_any_sequence_of_changes(steps: list[int]) -> None:
    """Directories appear, disappear, move and are replaced between two scans, in any order: a caller that reads only
    the reported paths has the current state at the end.
    """
    with tempfile.TemporaryDirectory() as home:
        eyes = Eyes(Path(home, "eyes"))
        tree = os.path.join(home, "tree")
        os.mkdir(tree)
        try:
            play(eyes, tree, steps)
        finally:
            eyes.watcher.close()


def play(eyes: Eyes, tree: str, steps: list[int]) -> None:
    directories = [os.path.join(tree, name) for name in ("a", "b", "a/c")]
    files = [os.path.join(directory, name) for directory in directories for name in ("x", "y")]
    interest: Interest = {
        tree: frozenset({"a", "b"}),
        directories[0]: frozenset({"c", "x", "y"}),
        directories[1]: None,
        directories[2]: frozenset({"x", "y"}),
    }
    known: dict[str, str | None] = {}
    a, b, c = directories
    counter = itertools.count()

    def content(path: str) -> str | None:
        try:
            return Path(path).read_text()
        except OSError:
            return None

    def refresh(changes: Changes) -> None:
        for file in files:
            if changes.everything or any(file == path or file.startswith(f"{path}/") for path in changes.paths):
                known[file] = content(file)

    def look() -> None:
        eyes.look_at(interest)
        refresh(eyes.reported())

    def attempt(act: Callable[[], object]) -> None:
        with contextlib.suppress(OSError):  # the world may be in another state: then nothing happens
            act()

    actions: list[Callable[[], object]] = [
        lambda: os.mkdir(a),
        lambda: os.mkdir(b),
        lambda: os.mkdir(c),
        lambda: os.rename(a, b),
        lambda: os.rename(b, a),
        lambda: shutil.rmtree(a),
        lambda: shutil.rmtree(b),
        lambda: put(a, "x", str(next(counter))),
        lambda: put(c, "y", str(next(counter))),
        look,
        lambda: put(b, "x", str(next(counter))),
        lambda: Path(b, "x").write_text(str(next(counter))),
        lambda: os.rename(os.path.join(a, "x"), os.path.join(b, "y")),
    ]

    for step in steps:
        attempt(actions[step])
    for _ in range(2):  # one look sees what happened and follows what is new; the second has nothing left to find
        look()
    assert {file: known.get(file) for file in files} == {file: content(file) for file in files}


# What inotify does not report: scenes that need a separate process.


def apart(scene: Callable[[Path], None], home: Path, *wrapper: str) -> None:
    """Run a scene in a separate process, in the namespaces that the wrapper creates."""
    if wrapper and (refusal := subprocess.run([*wrapper, "true"], capture_output=True, text=True, check=False).stderr):
        pytest.skip(f"this machine cannot create namespaces: {refusal.strip()}")
    result = subprocess.run(
        [*wrapper, sys.executable, "-W", "error", __file__, scene.__name__, str(home)],
        # Not measured: a scene that gives up its rights could not write its coverage.
        env={key: value for key, value in os.environ.items() if not key.startswith("COV")} | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr


OWN_MOUNTS = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--mount")
OWN_LIMITS = ("unshare", "--map-root-user")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def until(eyes: Eyes, cause: str) -> Changes:
    """Another thread reports mounts than files, so that no fence tells when."""
    changes = eyes.next()
    while changes.cause != cause:
        changes = merged(changes, eyes.next())
    return changes


def a_mount_covers(home: Path) -> None:
    pki = str(home / "pki")
    os.mkdir(pki)
    put(pki, "ca.crt")
    interest: Interest = {pki: frozenset({"ca.crt"})}
    eyes = Eyes(home / "eyes")
    eyes.follow(interest)

    mount("-t", "tmpfs", "tmpfs", pki)
    assert until(eyes, "mount") == Changes(everything=True, paths=frozenset(), cause="mount")
    eyes.look_at(interest)
    assert eyes.reported().paths == {pki}, "it is another directory now"
    path = put(pki, "ca.crt")
    assert eyes.reported().paths == {path}

    subprocess.run(["umount", pki], check=True)
    assert until(eyes, "mount").everything
    eyes.look_at(interest)
    assert pki in eyes.reported().paths
    eyes.follow(interest)
    put(pki, "ca.crt")
    assert eyes.reported().paths == {path}
    assert eyes.watcher.watched == 2
    eyes.watcher.close()


@pytest.mark.long
def test_mount(tmp_path: Path) -> None:
    """A filesystem that is mounted over a directory, or taken off it, is reported as everything, and followed."""
    apart(a_mount_covers, tmp_path, *OWN_MOUNTS)


def a_mount_covers_a_file(home: Path) -> None:
    pki = str(home / "pki")
    os.mkdir(pki)
    path = put(pki, "ca.crt")
    eyes = Eyes(home / "eyes")
    eyes.follow({pki: frozenset({"ca.crt"})})
    mount("--bind", put(str(home), "other.crt"), path)
    assert until(eyes, "mount").everything
    mount("-t", "tmpfs", "tmpfs", str(home))
    assert until(eyes, "mount").everything
    eyes.watcher.close()


@pytest.mark.long
def test_mount_of_a_file_and_above(tmp_path: Path) -> None:
    """A single file that is covered, and a directory above that is, are reported as everything too."""
    apart(a_mount_covers_a_file, tmp_path, *OWN_MOUNTS)


def held_by_whom_it_woke(home: Path) -> None:
    mount_table.JOIN_TIMEOUT = 0.01
    before = descriptors()
    holder = Holder()
    watcher = Watcher(holder.wake)
    watcher.set_interest({str(home): None})
    sleeper = next(thread for thread in own_threads() if thread.name == "certmond-mounts")
    holder.holds = True
    mount("-t", "tmpfs", "tmpfs", str(home))
    assert holder.held.wait(GENEROUS)
    watcher.close()
    assert sleeper.is_alive()
    holder.go_on.set()
    sleeper.join(GENEROUS)
    assert descriptors() == before


@pytest.mark.long
def test_the_mount_reader_closes_its_descriptors(tmp_path: Path) -> None:
    """The thread that reads the mounts closes its descriptors at its end, although no caller waits for it."""
    apart(held_by_whom_it_woke, tmp_path, *OWN_MOUNTS)


def pods_come_and_go(home: Path) -> None:
    pki, pods = str(home / "pki"), str(home / "pods")
    os.mkdir(pki)
    eyes = Eyes(home / "eyes")
    eyes.follow({pki: frozenset({"ca.crt"}), str(home): frozenset({"pki"})})
    for number in range(5):
        os.makedirs(f"{pods}/{number}")
        mount("-t", "tmpfs", "tmpfs", f"{pods}/{number}")
    mount("-t", "tmpfs", "tmpfs", pki)
    assert until(eyes, "mount").everything
    assert eyes.wakes == 1
    eyes.watcher.close()


@pytest.mark.long
def test_mounts_of_others_are_silent(tmp_path: Path) -> None:
    """A node mounts and unmounts for each of its Pods. If no watched path is concerned, no caller is woken."""
    apart(pods_come_and_go, tmp_path, *OWN_MOUNTS)


def idling(home: Path) -> None:
    eyes = Eyes(home / "eyes")
    eyes.follow({})
    sleeper = next(thread for thread in own_threads() if thread.name == "certmond-mounts")

    def switches() -> list[str]:
        status = Path(f"/proc/self/task/{sleeper.native_id}/status").read_text()
        return re.findall(r"ctxt_switches:\s*(\d+)", status)

    def rests() -> bool:
        before = switches()
        for _ in range(100):
            eyes.reported()
        return switches() == before

    assert any(rests() for _ in range(5))  # the thread may first have to become idle
    eyes.watcher.close()


@pytest.mark.long
def test_idle(tmp_path: Path) -> None:
    """A thread that waits for mounts does not run meanwhile."""
    apart(idling, tmp_path, *OWN_MOUNTS)


def one_directory_twice(home: Path) -> None:
    one, two = str(home / "one"), str(home / "two")
    os.mkdir(one)
    os.mkdir(two)
    mount("--bind", one, two)
    eyes = Eyes(home / "eyes")
    eyes.follow({one: None, two: frozenset({"ca.crt"})})
    put(one, "ca.crt")
    assert eyes.reported().paths >= {f"{one}/ca.crt", f"{two}/ca.crt"}
    assert (eyes.watcher.watched, kernel_watches()) == (3, 2)
    eyes.follow({two: None})
    put(one, "ca.key")
    assert eyes.reported().paths == {f"{two}/ca.key", f"{two}/.ca.key.new"}
    eyes.follow({})
    assert kernel_watches() == 1
    eyes.watcher.close()


@pytest.mark.long
def test_one_directory_at_two_paths(tmp_path: Path) -> None:
    """A directory that is bound to a second path is reported under each path that is followed."""
    apart(one_directory_twice, tmp_path, *OWN_MOUNTS)


def an_overlay(home: Path) -> None:
    mount("-t", "tmpfs", "tmpfs", str(home))
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(home / name)
    merged = str(home / "merged")
    mount("-t", "overlay", "overlay", "-o", f"lowerdir={home}/lower,upperdir={home}/upper,workdir={home}/work", merged)
    eyes = Eyes(home / "eyes")
    eyes.follow({merged: frozenset({"ca.crt"}), str(home): frozenset()})
    assert eyes.watcher.polled == {merged}
    path = put(merged, "ca.crt")
    assert eyes.reported().paths == {path}
    eyes.watcher.close()


@pytest.mark.long
def test_overlay(tmp_path: Path) -> None:
    """A layered filesystem is polled, for its lower layers make no events, and watched for what is done through it."""
    apart(an_overlay, tmp_path, *OWN_MOUNTS)


def few_watches(home: Path) -> None:
    limit = Path("/proc/sys/user/max_inotify_watches")
    limit.write_text("3")
    directories = [str(home / str(number)) for number in range(10)]
    for directory in directories:
        os.mkdir(directory)
    eyes = Eyes(home / "eyes")
    eyes.watcher.set_interest(dict.fromkeys([eyes.yard, *directories]))
    assert eyes.watcher.polled == set(directories[2:])
    assert eyes.watcher.watched == kernel_watches() == 3
    path = put(directories[1], "ca.crt")
    assert path in eyes.reported().paths

    eyes.watcher.set_interest(dict.fromkeys([eyes.yard, *directories[1:]]))
    assert eyes.watcher.polled == set(directories[3:]), "a watch that is given back serves another"
    os.rename(directories[1], home / "old")
    os.mkdir(directories[1])
    eyes.watcher.set_interest(dict.fromkeys([eyes.yard, *directories[1:]]))
    eyes.watcher.set_interest(dict.fromkeys([eyes.yard, *directories[1:]]))
    assert eyes.watcher.watched == kernel_watches() == 3
    assert eyes.watcher.polled == set(directories[3:]), "and so does one that led to a directory which was replaced"
    assert eyes.reported().paths >= {directories[1]}

    os.rename(directories[1], home / "older")
    os.mkdir(directories[1])
    for _ in range(2):
        eyes.watcher.set_interest(dict.fromkeys([eyes.yard, *reversed(directories[1:])]))
    eyes.reported()
    put(str(home / "older"), "ca.crt")
    assert eyes.reported().paths == frozenset(), "and it is given back even where others wait for one"

    limit.write_text("100")
    eyes.follow(dict.fromkeys(directories))
    assert (eyes.watcher.polled, eyes.watcher.watched) == (frozenset(), 11)
    eyes.watcher.close()


@pytest.mark.long
def test_no_watches_left(tmp_path: Path) -> None:
    """Directories for which the user has no watch left are polled, until there is one."""
    apart(few_watches, tmp_path, *OWN_LIMITS)


def no_instance(home: Path) -> None:
    limit = Path("/proc/sys/user/max_inotify_instances")
    limit.write_text("0")
    pki = str(home / "pki")
    os.mkdir(pki)
    eyes = Eyes(home / "eyes")
    interest: Interest = {pki: None, str(home / "gone"): None}
    eyes.look_at(interest)
    assert eyes.watcher.polled == {pki, eyes.yard}
    assert eyes.watcher.watched == 0
    assert eyes.watcher.take_changes() is None
    limit.write_text("1")
    eyes.look_at(interest)
    assert (eyes.watcher.polled, eyes.watcher.watched) == (frozenset(), 2)
    assert eyes.reported().paths == {pki}
    eyes.watcher.close()


@pytest.mark.long
def test_no_instance_left(tmp_path: Path) -> None:
    """Where the user has no inotify instance left, everything is polled, until there is one."""
    apart(no_instance, tmp_path, *OWN_LIMITS)


def no_descriptor(home: Path) -> None:
    pki = str(home / "pki")
    os.mkdir(pki)
    eyes = Eyes(home / "eyes")
    eyes.watcher.close()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for room in range(4):
        before = len(os.listdir("/proc/self/fd")) - 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + room, hard))
        watcher = Watcher(eyes.wake)
        watcher.set_interest({pki: None})
        assert watcher.polled == {pki}
        assert watcher.watched == 0
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        watcher.set_interest({pki: None})
        assert watcher.watched == 1
        watcher.close()


@pytest.mark.long
def test_no_descriptor_left(tmp_path: Path) -> None:
    """A process that may open nothing more still gets its answer: everything is polled."""
    apart(no_descriptor, tmp_path)


def forbidden_directories(home: Path) -> None:
    pki, unreadable, closed = (str(home / name) for name in ("pki", "unreadable", "closed"))
    etcd = os.path.join(closed, "etcd")
    for directory in (pki, unreadable, closed, etcd):
        os.mkdir(directory)
    eyes = Eyes(home / "eyes")
    if os.geteuid() == 0:
        for path in (home, *home.rglob("*")):
            os.chown(path, 65534, 65534)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    interest: Interest = {pki: None, unreadable: None, closed: None, etcd: None}
    os.chmod(unreadable, 0o300)
    os.chmod(closed, 0o000)
    eyes.look_at(interest)
    assert eyes.watcher.polled == {unreadable, closed, etcd}
    assert -1 not in vars(eyes.watcher._inotify)["_watch_for_wd"], "where watchdog keeps what it was refused"
    assert eyes.watcher.watched == 2
    os.chmod(unreadable, 0o700)
    os.chmod(closed, 0o700)
    eyes.look_at(interest)
    assert (eyes.watcher.polled, eyes.watcher.watched) == (frozenset(), 5)
    eyes.reported()
    os.chmod(closed, 0o000)
    assert closed in eyes.reported().paths
    eyes.look_at(interest)
    assert eyes.watcher.polled == {etcd}, "the path to it is closed; the watch on the closed one itself stays"
    os.chmod(closed, 0o700)
    eyes.watcher.close()


@pytest.mark.long
def test_forbidden_directory() -> None:
    """A directory that may not be read, and one that may not be reached, are polled until they may."""
    with tempfile.TemporaryDirectory() as home:  # not below pytest's own
        os.chmod(home, 0o711)  # noqa: S103  # another user must pass through
        apart(forbidden_directories, Path(home))


# Threads and descriptors.


def test_no_thread_left(tmp_path: Path, pki: str) -> None:
    """If no thread can be started, all paths are polled, and no descriptor stays open. When one can, all are
    watched.
    """
    before = descriptors()
    with no_thread_left():
        eyes = Eyes(tmp_path / "eyes")
        eyes.look_at({pki: None})
        assert eyes.watcher.polled == {pki, eyes.yard}
        assert descriptors() == before
    with contextlib.closing(eyes.watcher):
        eyes.follow({pki: None})
        assert eyes.watcher.polled == frozenset()
        put(pki, "a.crt")
        assert os.path.join(pki, "a.crt") in eyes.reported().paths


def descriptors() -> set[tuple[str, str]]:
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add((descriptor, os.readlink(f"/proc/self/fd/{descriptor}")))
        except FileNotFoundError:
            continue
    return found


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("certmond-")]


@pytest.mark.parametrize("follows", [True, False])
def test_close(pki: str, follows: bool) -> None:
    """Closing ends the threads and gives back every descriptor; a second time it does nothing, nor does following."""
    before = descriptors()
    for _ in range(20):
        woken = threading.Event()
        watcher = Watcher(woken.set)
        if follows:
            watcher.set_interest({pki: None})
            put(pki, "ca.crt")
            assert woken.wait(GENEROUS)
        assert all(thread.daemon for thread in own_threads())
        assert len(own_threads()) == 2 * follows, "two threads, for however many directories; none before"
        watcher.close()
        assert own_threads() == []
        assert descriptors() == before
        watcher.close()
        watcher.set_interest({pki: None})
        assert own_threads() == []


def test_close_causes_no_event(eyes: Eyes, pki: str) -> None:
    """The end of the watches at closing is no change."""
    eyes.follow({pki: None})
    eyes.watcher.close()
    assert (eyes.wakes, eyes.watcher.take_changes()) == (0, None)


def test_close_does_not_hang(pki: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is held by whom it woke does not hold up the end."""
    monkeypatch.setattr(watch, "JOIN_TIMEOUT", 0.01)
    holder = Holder()
    watcher = Watcher(holder.wake)
    watcher.set_interest({pki: None})
    holder.holds = True
    put(pki, "ca.crt")
    assert holder.held.wait(GENEROUS)
    reader = next(thread for thread in own_threads() if thread.name == "certmond-inotify")
    watcher.close()
    assert reader.is_alive()
    holder.go_on.set()
    reader.join(GENEROUS)
    assert not reader.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_reader_that_died_is_replaced(pki: str) -> None:
    """If the reader ever dies, the next look starts another and everything that it followed counts as changed."""
    woken = threading.Event()
    fail = False

    def wake() -> None:
        woken.set()
        if fail:
            raise RuntimeError("an accident")

    before = descriptors()
    watcher = Watcher(wake)
    watcher.set_interest({pki: None})
    fail = True
    reader = next(thread for thread in own_threads() if thread.name == "certmond-inotify")
    put(pki, "ca.crt")
    reader.join(GENEROUS)
    assert not reader.is_alive()
    fail = False
    watcher.set_interest({pki: None})
    changes = watcher.take_changes()
    assert changes is not None
    assert pki in changes.paths
    woken.clear()
    put(pki, "ca.key")
    assert woken.wait(GENEROUS)
    assert watcher.watched == kernel_watches() == 1
    watcher.close()
    assert descriptors() == before


def test_another_trouble_of_the_kernel_is_polled(eyes: Eyes, pki: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the kernel answers, the directory is polled and nothing is raised."""

    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(InotifyFD, "add_callback", no_memory)
    eyes.watcher.set_interest({pki: None})
    assert eyes.watcher.polled == {pki}
    assert eyes.watcher.watched == 0


# The mount table.

TABLE = rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
36 22 0:25 / /var/lib/kubelet/pods/a\040b/vol\134x rw master:1 propagate_from:2 - tmpfs tmpfs rw,size=4k
37 22 0:26 / /srv/nfs rw - nfs4 server:/export rw,vers=4.2
38 37 0:27 /certs /srv/nfs/certs rw - fuse.sshfs host:/ rw
39 22 0:28 / /mnt rw - autofs systemd-1 rw
40 39 0:29 / /mnt rw - cifs //host/share rw
nonsense
41 22 0:30 / relative rw - ext4 /dev/vdb rw
42 22 0:31 / /no/separator rw ext4 /dev/vdb rw
43 22 0:31 / /no/type rw -"""


def test_mounts_are_parsed() -> None:
    """Each line of the mount table is a mount, with its escapes undone; lines without sense are left out."""
    mounts = parse_mounts(TABLE)
    assert [(mount.point, mount.type) for mount in mounts] == [
        ("/", "ext4"),
        ("/var/lib/kubelet/pods/a b/vol\\x", "tmpfs"),
        ("/srv/nfs", "nfs4"),
        ("/srv/nfs/certs", "fuse.sshfs"),
        ("/mnt", "autofs"),
        ("/mnt", "cifs"),
    ]
    assert mounts[3] == Mount("38", "0:27", "/certs", "/srv/nfs/certs", "fuse.sshfs", read_only=False)


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/", "ext4"),
        ("/etc/kubernetes", "ext4"),
        ("/srv", "ext4"),
        ("/srv/nfs", "nfs4"),
        ("/srv/nfs/certs.d", "nfs4"),
        ("/srv/nfs-other", "ext4"),
        ("/srv/nfs/certs/x", "fuse.sshfs"),
        ("/mnt/pki", "cifs"),
        ("/var/lib/kubelet/pods/a b/vol\\x/pki", "tmpfs"),
    ],
)
def test_filesystem(directory: str, kind: str) -> None:
    """A directory is on the nearest mount point above it, and there on what was mounted last."""
    assert filesystem_type(directory, {mount.point: mount.type for mount in parse_mounts(TABLE)}) == kind


def test_filesystem_is_not_known() -> None:
    """Without a mount table, or for a path that does not begin at the root, no filesystem is known."""
    assert filesystem_type("/etc", {}) is None
    assert filesystem_type("etc", {"/": "ext4"}) is None


def test_filesystem_as_findmnt_says(tmp_path: Path) -> None:
    """On this machine, util-linux has the same result."""
    if shutil.which("findmnt") is None:
        pytest.skip("no findmnt here")
    types = {mount.point: mount.type for mount in parse_mounts(Path("/proc/self/mountinfo").read_bytes())}
    for directory in ("/", "/proc", "/proc/sys", "/sys/kernel", "/dev/shm", str(tmp_path)):
        found = subprocess.run(
            ["findmnt", "-no", "FSTYPE", "-T", directory], capture_output=True, text=True, check=True
        )
        assert filesystem_type(directory, types) == found.stdout.split()[-1]


@given(st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass")))
@example(b"1 2 3:4 / /\\777 rw - ext4 x rw")
@example(TABLE.replace(b" ", b"\r"))
@example(b"\n \n - \n  -  ")
def test_any_mount_table_is_parsed(table: bytes) -> None:
    """Any content of the mount table is parsed."""
    for mount in parse_mounts(table):
        assert mount.point.startswith("/")
        assert mount.type


@given(st.binary(min_size=1).map(lambda name: b"/" + name.replace(b"\0", b"")))
def test_any_path_can_be_a_mount_point(path: bytes) -> None:
    """A path that is written as the kernel writes it is read as it is."""
    written = re.sub(rb"[ \t\n\\#]", lambda byte: b"\\%03o" % byte[0][0], path)
    (mount,) = parse_mounts(b"36 22 0:25 / " + written + b" rw - tmpfs tmpfs rw\n")
    assert os.fsencode(mount.point) == path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        *((kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "fuse.sshfs", "fuse.ceph-fuse")),
        *((kind, True) for kind in ("fuseblk", "ceph", "afs", "gfs2", "ocfs2", "lustre", "beegfs", "virtiofs")),
        *((kind, True) for kind in ("overlay", None)),
        *((kind, False) for kind in ("ext4", "xfs", "btrfs", "zfs", "tmpfs", "vfat", "fusectl", "nfsd", "autofs")),
    ],
)
def test_filesystems_without_events(kind: str | None, expected: bool) -> None:
    """Filesystems that others can change behind this kernel's back are known, and the unknown is trusted no more."""
    assert is_eventless(kind) is expected


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("/etc/kubernetes/pki", True),
        ("/etc/kubernetes", True),
        ("/", True),
        ("/etc/kubernetes/pki/ca.crt", True),
        ("/var/lib/any", True),
        ("/etc/kubernetes/pki/etcd", False),
        ("/etc/kubernetes/pk", False),
        ("/var/lib/kubelet/pods/1/volumes", False),
        ("/run/netns/cni-1", False),
    ],
)
def test_mounts_that_concern_us(point: str, expected: bool) -> None:
    """A mount concerns us where it covers a followed directory, one above it, or a name that is looked up in one."""
    assert affects(point, {"/etc/kubernetes/pki": frozenset({"ca.crt"}), "/var/lib": None}) is expected


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
