"""Copies of a certificate and its key in existing directories: their state, and their replacement together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from certmond.errors import WriteError
from certmond.pki.catalog.derived_file_spec import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.planning.steps import Held, Plan
from certmond.pki.x509.certificate_file_parser import decode
from certmond.renewal.certificate_copy_writer import CopiedPair
from certmond.renewal.derived_file_holds import circumstances_of, hold_reasons_of, unwritten_files
from certmond.renewal.derived_file_state import Current, Foreign, Stale, Unmanaged, Unready
from certmond.renewal.derived_files import Derivations
from certmond.transaction.commit import NewFile, Transactions
from certmond.transaction.node_file_reader import NodeFiles
from tests.builders import YEAR, Issued, make_ca, make_leaf
from tests.rotation_node import RotatingNode, root_ca
from tests.sampling import sample
from tests.test_renewal import PKI, Host, copies, readable
from tests.tracing import distinct, kill_at, record

CA = make_ca()
NEW, OLD, OTHER = make_leaf(CA, "etcd-server"), make_leaf(CA, "etcd-server"), make_leaf(CA, "other")
SOURCE = CertificateSpec(name="server", path="/etc/etcd/server.crt", key="/etc/etcd/server.key")
SPEC = DerivedSpec(name="copies", kind="copy", source="server", path="/opt/config/*/etcd")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node with the pair, and directories of two releases, of which one has an older pair."""
    for directory in ("etc/etcd", "opt/config/1/etcd", "opt/config/2/etcd", "opt/config/3"):
        (tmp_path / directory).mkdir(parents=True)
    put(tmp_path, "etc/etcd", NEW.pem, NEW.key_pem)
    put(tmp_path, "opt/config/1/etcd", OLD.pem, OLD.key_pem)
    return tmp_path


def put(root: Path, directory: str, certificate: bytes, key: bytes) -> None:
    for name, content in (("server.crt", certificate), ("server.key", key)):
        (root / directory / name).write_bytes(content)
        (root / directory / name).chmod(0o600)


def copied(root: Path) -> CopiedPair:
    return CopiedPair(SPEC, SOURCE, NodeFiles(str(root)))


def make(root: Path) -> str:
    with Transactions(str(root), root / "state").lock() as writer:
        return Derivations([SPEC], [SOURCE], NodeFiles(str(root))).make("copies", writer)


def test_both_files_are_written_in_each_directory_that_exists(root: Path) -> None:
    """certmond writes certificate and key into the directory of each release, and creates no directory. A file of
    another name stays.
    """
    (root / "opt/config/1/etcd/ca.crt").write_bytes(CA.pem)
    assert copied(root).state() == Stale(b"")
    assert make(root) == "/opt/config/*/etcd is written from server"
    for release in "12":
        directory = root / f"opt/config/{release}/etcd"
        assert (directory / "server.crt").read_bytes() == NEW.pem
        assert (directory / "server.key").read_bytes() == NEW.key_pem
        assert {path.stat().st_mode & 0o777 for path in directory.glob("server.*")} == {0o600}
    assert (root / "opt/config/1/etcd/ca.crt").read_bytes() == CA.pem
    assert not (root / "opt/config/3/etcd").exists()
    assert copied(root).state() == Current()
    assert make(root) == "/opt/config/*/etcd is equal to server"


def test_without_a_directory_nothing_is_planned(root: Path) -> None:
    """Where no directory matches, as on a worker, the copies are no part of the plan."""
    for release in "12":
        (root / f"opt/config/{release}").rename(root / f"opt/{release}")
    states = Derivations([SPEC], [SOURCE], NodeFiles(str(root))).states()
    assert states == {"copies": Unmanaged()}
    assert not circumstances_of([SPEC], states).derived
    assert make(root) == "/opt/config/*/etcd is equal to server"


def test_a_pair_that_does_not_match_is_not_copied(root: Path) -> None:
    """A source whose key is of another certificate, or is missing, is not copied, and the sentence names the file."""
    put(root, "etc/etcd", NEW.pem, OLD.key_pem)
    found = copied(root).state()
    assert isinstance(found, Unready)
    assert "/etc/etcd/server.key" in found.message
    with pytest.raises(WriteError, match="certmond does not write"):
        make(root)
    (root / "etc/etcd/server.crt").unlink()
    assert isinstance(copied(root).state(), Unready)
    assert (root / "opt/config/1/etcd/server.crt").read_bytes() == OLD.pem


def obstruct(root: Path, how: str) -> None:
    """Change the directory of release 2, so that certmond may not write in it."""
    directory = root / "opt/config/2/etcd"
    match how:
        case "subject":
            put(root, "opt/config/2/etcd", OTHER.pem, OTHER.key_pem)
        case "writable":
            directory.chmod(0o777)
        case "owner":
            put(root, "opt/config/2/etcd", OLD.pem, OLD.key_pem)
            directory.rename(root / "elsewhere")
            (root / "elsewhere").rename(directory)
            os.chown(directory, 1234, -1)
        case "symlink":
            (root / "victim").write_text("kept")
            (directory / "server.key").symlink_to("/victim")
        case _:
            (directory / "server.crt").mkdir()


def tree(directory: Path) -> dict[str, tuple[int, int, bytes | str]]:
    """Return the inode, the owner and the content of each file in the directory."""
    return {
        path.name: (
            path.lstat().st_ino,
            path.lstat().st_uid,
            str(path.readlink()) if path.is_symlink() else "a directory" if path.is_dir() else path.read_bytes(),
        )
        for path in directory.iterdir()
    }


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs the rights to give a directory to another user")
OBSTACLES = {
    "subject": "/server.crt contains a certificate of CN=other, not of CN=etcd-server, so certmond",
    "writable": "can be written by every user",
    "owner": "belongs to user 1234",
    "symlink": "/server.key is a symlink, so certmond does not replace its target; run: rm /opt",
    "unreadable": "/server.crt",
}


@pytest.mark.parametrize("how", [each if each != "owner" else pytest.param(each, marks=AS_ROOT) for each in OBSTACLES])
def test_one_directory_does_not_stop_the_copies_in_the_others(root: Path, how: str) -> None:
    """If certmond may not write in one directory, it decides so before it writes, changes nothing there, and writes the
    copies in the other directories. The plan holds this directory, with the next command.
    """
    obstruct(root, how)
    before = tree(root / "opt/config/2/etcd")
    found = copied(root).state()
    assert isinstance(found, Stale)
    ((place, message),) = ((each.path, each.message) for each in found.refused)
    assert place == "/opt/config/2/etcd"
    assert OBSTACLES[how] in message
    assert "; " in message
    assert circumstances_of([SPEC], {"copies": found}).stale
    assert make(root) == "/opt/config/*/etcd is written from server, except in /opt/config/2/etcd"
    assert tree(root / "opt/config/2/etcd") == before
    assert (root / "opt/config/1/etcd/server.key").read_bytes() == NEW.key_pem
    assert not (root / "victim").exists() or (root / "victim").read_text() == "kept"
    after = copied(root).state()
    assert after == Current(found.refused)
    assert not circumstances_of([SPEC], {"copies": after}).stale
    assert list(unwritten_files([SPEC], {"copies": after})) == [Held("copies", place, message)]
    assert make(root) == "/opt/config/*/etcd is equal to server, except in /opt/config/2/etcd"


def test_a_refused_directory_holds_no_restart(root: Path) -> None:
    """A service of the source restarts although certmond may not write one of the copies."""
    obstruct(root, "writable")
    states = Derivations([SPEC], [SOURCE], NodeFiles(str(root))).states()
    made = Plan(held=(*unwritten_files([SPEC], states),))
    assert hold_reasons_of([SPEC], states, made) == {}
    waits = Held("copies", SPEC.path, "the last write failed")
    assert hold_reasons_of([SPEC], states, replace(made, held=(*made.held, waits))) == {"server": waits.because}


def test_without_a_directory_to_write_nothing_is_planned(root: Path) -> None:
    """If certmond may write in none of the directories, the plan has no step, and holds each directory."""
    obstruct(root, "subject")
    put(root, "opt/config/1/etcd", OTHER.pem, OTHER.key_pem)
    found = copied(root).state()
    assert isinstance(found, Foreign)
    assert not circumstances_of([SPEC], {"copies": found}).derived
    held = list(unwritten_files([SPEC], {"copies": found}))
    assert [each.path for each in held] == [SPEC.path, "/opt/config/2/etcd"]
    assert [each.because.partition("/server.crt")[0] for each in held] == ["/opt/config/1/etcd", "/opt/config/2/etcd"]
    with pytest.raises(WriteError, match="does not replace it"):
        make(root)


def test_an_unreadable_source_is_not_ready(root: Path) -> None:
    """A directory in the place of the certificate is no source."""
    (root / "etc/etcd/server.crt").unlink()
    (root / "etc/etcd/server.crt").mkdir()
    found = copied(root).state()
    assert isinstance(found, Unready)
    assert found.message.startswith("certmond does not write /opt/config/*/etcd: ")


def test_a_source_that_changes_during_the_write_is_not_copied(root: Path) -> None:
    """If another program replaces the source after certmond has read it, certmond writes no file, and retries."""

    copies = copied(root)
    with Transactions(str(root), root / "state").lock() as writer:
        commit = writer.commit

        def replacing(changes: list[NewFile], *, verify: Callable[[Mapping[str, bytes]], None]) -> None:
            put(root, "etc/etcd", OLD.pem, OLD.key_pem)
            commit(changes, verify=verify)

        writer.commit = replacing  # type: ignore[method-assign,assignment]
        with pytest.raises(WriteError, match="server changed in the meantime; certmond tries again"):
            copies.make(writer)
    assert not (root / "opt/config/2/etcd/server.crt").exists()


# The copy of a CA

OLD_CA, NEW_CA = make_ca("etcd"), make_ca("etcd")
AUTHORITY = CertificateSpec(name="ca", path="/etc/etcd/ca.crt", key="/etc/etcd/ca.key", authority=True)


def authority(root: Path, trust: Sequence[Issued], signing: Issued, copied: Sequence[Issued]) -> CopiedPair:
    """Write the file of a CA and its key, and an older copy. Return its copies."""
    contents = {"etc/etcd/ca.crt": trust, "opt/config/1/etcd/ca.crt": copied}
    for path, anchors in contents.items():
        (root / path).write_bytes(b"".join(each.pem for each in anchors))
    (root / "etc/etcd/ca.key").write_bytes(signing.key_pem)
    spec = replace(SPEC, source="ca")
    return CopiedPair(spec, AUTHORITY, NodeFiles(str(root)))


@pytest.mark.parametrize(
    ("trust", "signing", "copied"),
    [
        ([OLD_CA, NEW_CA], OLD_CA, [OLD_CA]),
        ([OLD_CA, NEW_CA], NEW_CA, [OLD_CA, NEW_CA]),
        ([NEW_CA], NEW_CA, [OLD_CA, NEW_CA]),
        ([NEW_CA], NEW_CA, []),
    ],
    ids=["trust", "issue", "distrust", "absent"],
)
def test_the_copy_of_a_ca_follows_each_phase(
    root: Path, trust: list[Issued], signing: Issued, copied: list[Issued]
) -> None:
    """The key may match any certificate of the CA's file. certmond writes the copy if one certificate is in both."""
    pair = authority(root, trust, signing, copied)
    assert pair.state() == Stale(b"")
    with Transactions(str(root), root / "state").lock() as writer:
        pair.make(writer)
    assert (root / "opt/config/1/etcd/ca.crt").read_bytes() == (root / "etc/etcd/ca.crt").read_bytes()
    assert (root / "opt/config/1/etcd/ca.key").read_bytes() == signing.key_pem
    assert pair.state() == Current()


def test_the_copy_of_another_ca_stays(root: Path) -> None:
    """A CA of the same subject without a common certificate is not replaced. The sentence has the command that does."""
    found = authority(root, [NEW_CA], NEW_CA, [OLD_CA]).state()
    assert isinstance(found, Stale)
    assert found.refused[0].message == (
        "/opt/config/1/etcd/ca.crt contains no certificate of /etc/etcd/ca.crt, so certmond does not replace it; "
        "run: cp /etc/etcd/ca.crt /etc/etcd/ca.key /opt/config/1/etcd/"
    )
    found = authority(root, [NEW_CA], OLD_CA, [NEW_CA]).state()
    assert isinstance(found, Unready)
    assert "/etc/etcd/ca.key matches no certificate" in found.message


@pytest.mark.long
def test_the_copies_follow_a_whole_rotation(quick: Path) -> None:
    """After each phase of a rotation, the copies of the CA, the leaf and their keys are equal to the originals, and a
    rotation to its end needs no other command.
    """
    node = RotatingNode(quick / "rotating")
    backup = node.place / "backup"
    backup.mkdir()
    names = [f"{name}.{part}" for name in ("ca", "web") for part in ("crt", "key")]
    for name in names:
        (backup / name).write_bytes(node.read(name))
        (backup / name).chmod(0o600)
    derived = [
        {"name": f"{each}-copies", "kind": "copy", "source": each, "path": str(backup)} for each in ("ca", "web")
    ]
    node.configure(derived=derived)
    new, seen = root_ca(), set[tuple[int, bool]]()
    node.step()
    node.begin(new)

    def observe() -> bool:
        while any((backup / name).read_bytes() != node.read(name) for name in names):
            done = node.step()
            assert done, "a copy differs, and certmond has nothing to do"
            assert "failed" not in done
        seen.add((len(node.trust()), decode(node.read("ca.key"), "ca.key").key == new.facts.key))
        return False

    node.walk(until=observe)
    assert seen == {(1, False), (2, False), (2, True), (1, True)}
    assert node.unwell(new) == []
    assert all((backup / name).read_bytes() == node.read(name) for name in names)


# Killed


@pytest.mark.long
def test_killed_at_any_call_of_the_copy(quick: Path) -> None:
    """After a kill before or after any system call that changes something, each file in the directory is whole. The
    pair is the old or the new one, or has the new key until the next start, which completes it.
    """
    copied = {"name": "copies", "kind": "copy", "source": "apiserver", "path": "/opt/config/*/pki"}
    host = Host(quick / "original", "apiserver", derived=[copied])
    source = tuple(host.at(f"{PKI}/apiserver.{part}").read_bytes() for part in ("crt", "key"))
    old = make_leaf(host.ca, "kube-apiserver")
    for part, content in (("crt", old.pem), ("key", old.key_pem)):
        host.put(f"/opt/config/1/pki/apiserver.{part}", content, 0o600)
    host.settings["mode"] = "enforce"
    whole = {"old": (old.pem, old.key_pem), "between": (source[0], old.key_pem), "key": (old.pem, source[1]),
             "new": source}  # fmt: skip

    def present(twin: Host) -> tuple[bytes, bytes]:
        found = [twin.at(f"/opt/config/1/pki/apiserver.{part}").read_bytes() for part in ("crt", "key")]
        return found[0], found[1]

    host.now -= YEAR / 2  # the source is not due, so the copy is the only step
    twins = copies(host, quick)
    twin, states = next(twins), list[tuple[bytes, bytes]]()
    stops = record(twin.start, lambda _: states.append(present(twin)))
    met = set()
    for n in sample(distinct(stops), 12, "a copied pair", kind=lambda n: states[n]):
        twin = next(twins)
        where = f"killed at {n}, {kill_at(twin.start, n)}"
        state = [name for name, pair in whole.items() if pair == present(twin)]
        assert state, where
        met |= {*state}
        assert readable(twin) == [], where
        twin.start()
        assert present(twin) == source, where
        assert twin.temporary() == [], where
        assert twin.serials() == host.serials(), where
    assert met == {"old", "key", "new"}
