"""The archive on a real file system: a generation is complete or absent, unchanged, and readable only for root."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import stat
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from certmond.errors import MalformedError, WriteError
from certmond.state.archive import Archive, Generation
from tests.conftest import unavailable
from tests.tracing import distinct, kill_at, record

KEY, CRT = "/etc/kubernetes/pki/apiserver.key", "/etc/kubernetes/pki/apiserver.crt"
SECRET = b"-----BEGIN PRIVATE KEY-----\n\x00\xff\n-----END PRIVATE KEY-----"
WHEN = datetime(2026, 12, 1, 12, 30, 15, 123456, tzinfo=UTC)


class Host:
    def __init__(self, place: Path) -> None:
        self.state = place / "state"
        self.archive = Archive(self.state)
        self.files = {KEY: place / "apiserver.key", CRT: place / "apiserver.crt"}
        place.mkdir()
        self.files[KEY].write_bytes(SECRET)
        self.files[KEY].chmod(0o640)
        self.files[CRT].write_bytes(b"certificate")
        self.files[CRT].chmod(0o644)

    def store(self, why: str = "it is due", when: datetime = WHEN, name: str = "apiserver") -> Generation:
        self.files[CRT].write_bytes(f"certificate: {why}".encode())  # another old one each time
        return self.keep(why, when, name)

    def keep(self, why: str = "it is due", when: datetime = WHEN, name: str = "apiserver") -> Generation:
        return self.archive.store(name, self.files, when, {"serial": "1f", "why": why})

    def generations(self, name: str = "apiserver") -> tuple[Generation, ...]:
        return tuple(self.archive.generation(name, each) for each in self.archive.ids(name))

    def reasons(self, name: str = "apiserver") -> list[str]:
        return [generation.description["why"] for generation in self.generations(name)]

    def directory(self, generation: Generation) -> Path:
        return self.state / "archive" / generation.name / generation.id


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


def test_stored_files_are_loaded_unchanged(host: Host) -> None:
    """Every file is loaded byte for byte, with its mode and owner, in the order of storing."""
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    os.chown(host.files[KEY], 12, 34)
    generation = host.store()
    for real in host.files.values():
        real.unlink()
    found = host.archive.load("apiserver", generation.id)
    assert [(file.path, file.content, file.mode, file.owner) for file in found] == [
        (KEY, SECRET, 0o640, (12, 34)),
        (CRT, b"certificate: it is due", 0o644, (0, 0)),
    ]
    assert "PRIVATE" not in repr(found)


def test_description(host: Host) -> None:
    """A generation has its time, reason and files. Its description has digests, and no part of the content."""
    generation = host.store(when=WHEN.astimezone(timezone(timedelta(hours=5))))
    assert host.generations() == (generation,)
    assert generation.id == "000001-20261201T123015Z"
    assert generation.when == WHEN
    assert generation.description == {"serial": "1f", "why": "it is due"}
    assert generation.paths == (KEY, CRT)
    text = (host.directory(generation) / "description.json").read_text()
    key = {"path": KEY, "stored": "0-apiserver.key", "mode": 0o640, "uid": os.getuid(), "gid": os.getgid(),
           "sha256": hashlib.sha256(SECRET).hexdigest()}  # fmt: skip
    assert json.loads(text)["files"][0] == key
    assert "PRIVATE" not in text


def test_only_root_can_read_it(host: Host) -> None:
    """No other user may enter a directory of the archive or read a file in it, whatever the mode of the original."""
    host.store()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in host.state.rglob("*") if path.is_dir()}
    assert modes == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in host.state.rglob("*") if path.is_file()} == {0o600}


def test_only_the_last_generations_stay(host: Host) -> None:
    """The last `keep` generations of each certificate stay, in the order of storing, whatever the clock was."""
    host.store("another", name="etcd-server")
    for number in range(5):
        host.store(str(number), when=WHEN - timedelta(days=number))
    assert host.reasons() == ["2", "3", "4"]
    assert host.reasons("etcd-server") == ["another"]
    assert len(os.listdir(host.state / "archive/apiserver")) == 3


def test_what_is_kept_already_is_not_kept_again(host: Host) -> None:
    """Files that are as in the newest generation push no older one out, however often they are stored; another mode is
    another state, and so is what comes back after something else.
    """
    *_, last = [host.store(why) for why in ("1", "2", "3")]
    for number in range(4):
        assert host.keep(f"again {number}") == last
    assert host.reasons() == ["1", "2", "3"]
    host.files[CRT].chmod(0o600)
    host.keep("closed")
    host.store("2")
    assert host.reasons() == ["3", "closed", "2"]


def test_a_damaged_generation_is_stored_again(host: Host) -> None:
    """The newest generation does not count for files that it cannot restore."""
    (host.directory(host.store("1")) / "0-apiserver.key").write_bytes(b"")
    host.keep("2")
    assert host.reasons() == ["1", "2"]


def test_a_long_name_is_kept(host: Host) -> None:
    """A file whose name is as long as a name can be is stored and loaded as any other, under the name that it has."""
    path = "/etc/" + "\u00e4" * 125 + ".pem\udcff"
    assert len(os.fsencode(path.rpartition("/")[2])) == 255
    host.files = {path: host.files[CRT]}
    generation = host.keep()
    assert [file.path for file in host.archive.load("apiserver", generation.id)] == [path]


@pytest.mark.parametrize("keep", [0, 1])
def test_the_one_just_stored_is_kept(host: Host, keep: int) -> None:
    """Whatever `keep` says, what was just stored stays."""
    host.archive = Archive(host.state, keep=keep)
    host.store("first")
    host.store("second")
    assert host.reasons() == ["second"]


def test_names(host: Host) -> None:
    """Every certificate of which something is kept is named; where nothing is, there is nothing to tell."""
    assert host.archive.names() == ()
    assert host.generations() == ()
    host.store(name="etcd-server")
    host.store()
    (host.state / "archive" / "empty").mkdir()
    assert host.archive.names() == ("apiserver", "etcd-server")


@pytest.mark.parametrize("name", ["", ".", "..", "../etc", "a/b", ".hidden", "-x", "a" * 64, "a\n", "Ärger", "a b"])
def test_unsafe_name(host: Host, name: str) -> None:
    """What is no safe name of a file is refused, and nothing is written."""
    with pytest.raises(WriteError, match="cannot be a name in the archive"):
        host.store(name=name)
    with pytest.raises(WriteError):
        host.archive.load(name, "000001-20261201T123015Z")
    assert not host.state.exists()


def test_file_that_cannot_be_kept(host: Host) -> None:
    """Where one file cannot be read, nothing is stored, and the error names it as the node does."""
    host.files[CRT].unlink()
    with pytest.raises(WriteError, match=rf"^{CRT} is unreadable \(No such file or directory\)"):
        host.keep()
    assert host.generations() == ()


def test_attempts_that_fail_do_not_pile_up(host: Host) -> None:
    """However often a file cannot be read, nothing is left of the attempts to store it."""
    host.files[CRT].unlink()
    for _ in range(3):
        with pytest.raises(WriteError):
            host.keep()
    assert os.listdir(host.state / "archive/apiserver") == []


def test_a_symlink_is_not_stored(host: Host) -> None:
    """A symlink in place of the real file is refused, so that no user redirects the copy."""
    host.files[CRT].unlink()
    host.files[CRT].symlink_to(host.files[KEY])
    with pytest.raises(WriteError, match="so certmond cannot archive it"):
        host.keep()


@pytest.mark.parametrize("generation", ["..", "", "000009-20261201T123015Z", "../apiserver/000001-20261201T123015Z"])
def test_no_such_generation(host: Host, generation: str) -> None:
    """Only what is listed can be loaded."""
    host.store()
    with pytest.raises(MalformedError, match="has no generation"):
        host.archive.load("apiserver", generation)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"files": [{}], "when": 1}', b"\xff"])
def test_damaged_description(host: Host, content: bytes) -> None:
    """A damaged description is reported as such, and the next generations are stored."""
    (host.directory(host.store()) / "description.json").write_bytes(content)
    with pytest.raises(MalformedError, match=r"description\.json is damaged"):
        host.generations()
    for number in "123":
        host.store(number)
    assert host.reasons() == ["1", "2", "3"]


@pytest.mark.parametrize(
    "facts",
    [
        {"files": [5]}, {"files": 5}, {"files": {"a": 1}}, {"when": 5.5e300}, {"when": "2026-12-01T12:30:15"},
        {"when": "0001-01-01T00:00:00+05:00"}, {"description": {"why": 5}}, {"description": [["why", ["x"]]]},
    ],
)  # fmt: skip
def test_a_description_of_other_types(host: Host, facts: dict[str, object]) -> None:
    """A description that is JSON, but not what was written, is damaged."""
    where = host.directory(host.store()) / "description.json"
    where.write_text(json.dumps(json.loads(where.read_text()) | facts))
    with pytest.raises(MalformedError, match=r"description\.json is damaged"):
        host.generations()


@pytest.mark.parametrize(
    "fact",
    [
        {"path": 5}, {"path": "etc/x"}, {"path": "/etc/\0"}, {"path": "/\ud800"}, {"stored": 5},
        {"stored": None}, {"mode": "rw"}, {"mode": 1e400}, {"mode": 0o10000}, {"mode": -1}, {"uid": -1},
        {"uid": 1 << 32}, {"uid": (1 << 32) - 1}, {"gid": True}, {"gid": []}, {"sha256": 5},
    ],
)  # fmt: skip
def test_a_file_described_with_other_types(host: Host, fact: dict[str, object]) -> None:
    """So is one that says of a file what none can have: it is neither listed nor handed out."""
    generation = host.store()
    where = host.directory(generation) / "description.json"
    facts = json.loads(where.read_text())
    where.write_text(json.dumps(facts | {"files": [facts["files"][0] | fact]}))
    with pytest.raises(MalformedError, match=r"description\.json is damaged"):
        host.generations()
    with pytest.raises(MalformedError):
        host.archive.load("apiserver", generation.id)


def test_one_damaged_generation_harms_no_other(host: Host) -> None:
    """It is reported, and the others are listed, described, loaded, and found for a restore."""
    first, second = host.store("1"), host.store("2")
    (host.directory(first) / "description.json").write_bytes(b"{}")
    assert host.archive.ids("apiserver") == (first.id, second.id)
    assert host.archive.generation("apiserver", second.id) == second
    assert host.archive.load("apiserver", second.id)[0].content == SECRET
    assert [generation for generation, _ in host.archive.complete_generations("apiserver")] == [second]
    with pytest.raises(MalformedError, match=rf"{first.id}/description\.json is damaged"):
        host.archive.load("apiserver", first.id)


def test_a_description_without_end(host: Host) -> None:
    """Nor is one that nests deeper than can be read."""
    (host.directory(host.store()) / "description.json").write_text("[" * 100_000)
    with pytest.raises(MalformedError, match=r"description\.json is damaged"):
        host.generations()


def test_a_pipe_in_the_archive(host: Host) -> None:
    """certmond does not wait for a writer: a pipe in place of a file is damage, and another one is ignored."""
    generation = host.store()
    os.mkfifo(host.state / "archive" / "pipe")
    assert host.archive.names() == ("apiserver",)
    for name in ("0-apiserver.key", "description.json"):
        (host.directory(generation) / name).unlink()
        os.mkfifo(host.directory(generation) / name)
        with pytest.raises(MalformedError, match="is damaged"):
            host.archive.load("apiserver", generation.id)


@pytest.mark.parametrize("damage", ["content", "missing", "link"])
def test_damaged_file(host: Host, damage: str) -> None:
    """A file that differs from the stored one in any byte is never returned."""
    generation = host.store()
    stored = host.directory(generation) / "0-apiserver.key"
    if damage == "content":
        stored.write_bytes(SECRET[:-1])
    else:
        stored.unlink()
    if damage == "link":
        stored.symlink_to(host.files[KEY])
    with pytest.raises(MalformedError, match=f"{generation.id} is damaged"):
        host.archive.load("apiserver", generation.id)


@pytest.mark.long
def test_killed_anywhere(tmp_path: Path) -> None:
    """Killed at any system call, the archive holds the old generations or the new one as well, each complete.

    What was being built or removed is swept away by the next `store`; at no moment could others read a key.
    """
    numbers = itertools.count()

    def prepared() -> Host:
        host = Host(tmp_path / str(next(numbers)))
        for why in ("1", "2", "3"):
            host.store(why)
        return host

    first = prepared()

    def watch(stop: str) -> None:
        for path in first.state.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, f"{path} at {stop}"

    stops = record(lambda: first.store("4"), watch)
    assert first.reasons() == ["2", "3", "4"]
    seen = set()
    for n in distinct(stops):
        host = prepared()
        kill_at(lambda: host.store("4"), n)  # noqa: B023 - it is called at once
        reasons = host.reasons()
        seen.add("".join(reasons))
        for each in host.generations():
            content = [file.content for file in host.archive.load("apiserver", each.id)]
            assert content == [SECRET, f"certificate: {each.description['why']}".encode()]
        host.store("5")
        assert host.reasons() == [*reasons, "5"][-3:]
        assert len(os.listdir(host.state / "archive/apiserver")) == 3
    assert seen == {"123", "1234", "234"}
