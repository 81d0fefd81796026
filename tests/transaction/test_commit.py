"""Transactions on a real file system are atomic: after a kill, a full disk, a denied access, or a write by another
process.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.errors import BusyError, CertmondError, WriteError
from certmond.state.archive import Archive
from certmond.transaction.commit import Change, NewFile, NewLink, Outcome, Recovery, Removed, Transactions
from certmond.transaction.dirfd import Directories, reason
from certmond.transaction.journal import Records
from certmond.transaction.node_file_reader import NodeFiles
from tests.conftest import real_part, unavailable
from tests.deadline import DEADLINE
from tests.sampling import sample
from tests.tracing import distinct, kill_at, record

PKI = "/etc/kubernetes/pki"
KEY, CRT = f"{PKI}/apiserver.key", f"{PKI}/apiserver.crt"
KUBELET = "/var/lib/kubelet/pki"
CURRENT, DATED = f"{KUBELET}/kubelet-client-current.pem", f"{KUBELET}/kubelet-client-2026-12-01.pem"
PODS = "/etc/kubernetes/manifests"
MANIFEST = f"{PODS}/kube-controller-manager.yaml"
POD, NEW_POD = b"kind: Pod # old\n", b"kind: Pod # new\n"
SIGNING_KEY, SIGNING_CRT = f"{PKI}/signing-ca.key", f"{PKI}/signing-ca.crt"
SECRET = b"-----BEGIN PRIVATE KEY-----\n%s\n-----END PRIVATE KEY-----\n"
OLD, NEW = {KEY: SECRET % b"old", CRT: b"old certificate"}, {KEY: SECRET % b"new", CRT: b"new certificate"}
WHEN = datetime(2026, 12, 1, tzinfo=UTC)

Snapshot = Mapping[str, tuple[object, ...]]


class Host:
    """The files of a node below `root`, and the state directory of certmond."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.root, self.state = place / "root", place / "state"
        for directory in (f"{PKI}/etcd", PODS, KUBELET):
            self.at(directory).mkdir(parents=True)
        self.at(MANIFEST).write_bytes(POD)
        self.at(MANIFEST).chmod(0o600)
        for path, content in OLD.items():
            self.at(path).write_bytes(content)
        self.at(KEY).chmod(0o600)
        self.at(CRT).chmod(0o644)
        self.at(f"{KUBELET}/kubelet-client-2026-06-01.pem").write_bytes(SECRET % b"old kubelet")
        self.at(f"{KUBELET}/kubelet-client-2026-06-01.pem").chmod(0o600)
        self.at(CURRENT).symlink_to("kubelet-client-2026-06-01.pem")
        self.transactions = Transactions(str(self.root), self.state)
        self.archive = Archive(self.state)

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def new(self, path: str, content: bytes, mode: int = 0o600, owner: tuple[int, int] | None = None) -> NewFile:
        """Return a file that replaces the present one."""
        real = self.transactions.real(path)
        expected = hashlib.sha256(real.read_bytes()).hexdigest() if real.is_file() else None
        return NewFile(path, content, mode, owner, expected)

    def pair(self) -> list[Change]:
        return [self.new(path, content) for path, content in NEW.items()]

    def manifest(self, path: str = MANIFEST, content: bytes = NEW_POD) -> NewFile:
        return replace(self.new(path, content), manifest=True)

    def removed(self, path: str) -> Removed:
        return Removed(path, hashlib.sha256(self.at(path).read_bytes()).hexdigest())

    def signing(self) -> list[Change]:
        """Return the changes that end a separate signing CA: the flags are restored, then its two files are removed."""
        for path, content in ((SIGNING_KEY, SECRET % b"signing"), (SIGNING_CRT, b"signing certificate")):
            self.at(path).write_bytes(content)
            self.at(path).chmod(0o600)
        return [self.manifest(), self.removed(SIGNING_KEY), self.removed(SIGNING_CRT)]

    def commit(
        self,
        changes: Sequence[Change],
        verify: Callable[[Mapping[str, bytes]], None] = lambda _: None,
        before_rename: Callable[[], object] = lambda: None,
    ) -> None:
        with self.transactions.lock() as writer:
            writer.commit(changes, verify=verify, before_rename=lambda: void(before_rename()))

    def renew(self, changes: Sequence[Change]) -> None:
        """Commit like a renewal: recovery first, and replaced files are archived; removed ones are not."""

        def keep() -> None:
            replaced = [change.path for change in changes if not isinstance(change, Removed)]
            files = {path: self.transactions.real(path) for path in replaced}
            there = {path: real for path, real in files.items() if real.is_file()}
            self.archive.store("apiserver", there, WHEN, {"why": "it is a test"})

        with self.transactions.lock() as writer:
            writer.recover()
            writer.commit(changes, verify=lambda _: None, before_rename=keep)

    def recover(self) -> tuple[Recovery, ...]:
        with self.transactions.lock() as writer:
            found = writer.recover()
        assert all(recovery.message.isprintable() and recovery.message for recovery in found)
        return found

    def error(self, changes: Sequence[Change], **hooks: Callable[..., None]) -> str:
        """Return the error of a commit, after asserting that it changed nothing."""
        before = self.snapshot()
        with pytest.raises(WriteError) as raised:
            self.commit(changes, **hooks)
        assert self.snapshot() == before
        assert self.records() == []
        return str(raised.value)

    def snapshot(self) -> Snapshot:
        """Return every name below the root with the attributes that must be preserved."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            status = path.lstat()
            content: object = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(self.root))] = (status.st_mode, status.st_uid, status.st_gid, content)
        return found

    def records(self) -> list[str]:
        return sorted(path.name for path in self.state.glob("transactions/*"))

    def write_record(self, state: str, staged: Mapping[str, bytes], new: Mapping[str, bytes] = NEW) -> None:
        """Write the record of a process that was killed in this state, with these of the staged files."""
        identity = "0123456789abcdef"
        entries = []
        for number, (path, content) in enumerate(new.items()):
            name = f".certmond-{identity}-{number}"
            old = hashlib.sha256(OLD[path]).hexdigest() if path in OLD else None
            digest = hashlib.sha256(content).hexdigest()
            entries.append({"path": path, "real": path, "staged": name, "old": old, "new": digest})
            if path in staged:
                self.at(path).with_name(name).write_bytes(staged[path])
        self.put_record(f"{identity}.{state}.json", json.dumps({"entries": entries}).encode())

    def put_record(self, name: str, content: bytes) -> None:
        (self.state / "transactions").mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.state / "transactions" / name).write_bytes(content)


def void(_: object) -> None:
    """Discard the value: tests use expressions where a hook uses statements."""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


@pytest.fixture
def root() -> None:
    if os.geteuid() != 0:
        unavailable("only root can give files away and mount")


# Written content


def test_replaced(host: Host) -> None:
    """The new content is at the old path, and no draft and no record remain."""
    before = host.snapshot()
    host.commit(host.pair())
    after = host.snapshot()
    assert {path: host.at(path).read_bytes() for path in NEW} == NEW
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {KEY[1:], CRT[1:]}
    assert host.records() == []


def test_verify_gets_what_was_read_back(host: Host) -> None:
    """`verify` gets every new file's content, by the path of the caller, before anything is replaced."""
    seen: list[Mapping[str, bytes]] = []

    def verify(staged: Mapping[str, bytes]) -> None:
        assert host.at(KEY).read_bytes() == OLD[KEY]
        seen.append(staged)

    host.commit([*host.pair(), NewLink(f"{PKI}/link", "apiserver.crt")], verify=verify)
    assert seen == [NEW]


def test_order_of_the_hooks(host: Host) -> None:
    """`before_rename` comes after `verify`, and still finds the old files."""
    calls: list[object] = []
    host.commit(
        host.pair(),
        verify=lambda _: calls.append("verify"),
        before_rename=lambda: calls.append(host.at(KEY).read_bytes()),
    )
    assert calls == ["verify", OLD[KEY]]


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return a POSIX ACL (tag, permissions, id) in the form of the kernel."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def set_attribute(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        unavailable(f"{name} cannot be set here: {error}")


UNPRIVILEGED = (65534, 65534)
READABLE_BY_1234 = acl((1, 6, 2**32 - 1), (2, 4, 1234), (4, 0, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1))


@pytest.mark.usefixtures("root")
def test_attributes_are_kept(host: Host) -> None:
    """A replaced file keeps its mode, owner, ACL, SELinux label and other extended attributes, whatever the change
    requests.
    """
    attributes = {"user.note": b"mine", "security.selinux": b"system_u:object_r:cert_t:s0\0",
                  "system.posix_acl_access": READABLE_BY_1234}  # fmt: skip
    os.chown(host.at(KEY), *UNPRIVILEGED)
    for name, value in attributes.items():
        set_attribute(host.at(KEY), name, value)
    before = host.at(KEY).stat()
    host.commit([host.new(KEY, NEW[KEY], mode=0o777, owner=(1, 1))])
    after = host.at(KEY).stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, *UNPRIVILEGED)
    assert {name: os.getxattr(host.at(KEY), name) for name in os.listxattr(host.at(KEY))} == attributes


def test_an_acl_opens_nothing_before_its_time(host: Host) -> None:
    """If an ACL made the old key readable, no other user can read the new key before it is complete. Then only the
    users of the ACL whom the entry permits can read it: here none.
    """
    open_to_all = (*READABLE_BY_1234[:-8], *acl((32, 4, 2**32 - 1))[4:])
    set_attribute(host.at(KEY), "system.posix_acl_access", bytes(open_to_all))
    change = replace(host.new(KEY, NEW[KEY]), at_most=0o600)
    staged: list[str] = []

    def look(stop: str) -> None:
        found = host.at(PKI).glob(".certmond-*")
        staged.extend(f"{path} has mode {stat.S_IMODE(path.stat().st_mode):o} at {stop}" for path in found)

    record(lambda: host.commit([change]), look)
    assert staged
    assert [each for each in staged if "mode 600" not in each] == []
    assert stat.S_IMODE(host.at(KEY).stat().st_mode) == 0o600
    kept = os.getxattr(host.at(KEY), "system.posix_acl_access")
    assert (2, 4, 1234) in list(struct.iter_unpack("<HHI", kept[4:]))


def test_hash_of_the_old_content_is_not_kept(host: Host) -> None:
    """A signature of the kernel over the old content is not copied to the new one."""
    set_attribute(host.at(KEY), "security.ima", b"\x04\x04" + bytes(32))
    host.commit(host.pair())
    assert "security.ima" not in os.listxattr(host.at(KEY))


def test_default_acl_gives_nothing_to_a_replaced_file(host: Host) -> None:
    """A directory's default ACL opens no file to a user who could not read the old one."""
    set_attribute(host.at(PKI), "system.posix_acl_default", READABLE_BY_1234)
    host.at(KEY).chmod(0o640)
    host.commit(host.pair())
    assert "system.posix_acl_access" not in os.listxattr(host.at(KEY))
    assert stat.S_IMODE(host.at(KEY).stat().st_mode) == 0o640


@pytest.mark.usefixtures("root")
def test_a_new_file_has_the_requested_mode_and_owner(host: Host) -> None:
    """A new file gets the requested mode and owner. Without them, only root can read it."""
    reported, unreported = f"{PKI}/reported.crt", f"{PKI}/unreported.key"
    host.commit([NewFile(reported, b"crt", 0o644, UNPRIVILEGED), NewFile(unreported, NEW[KEY])])
    found = [host.at(path).stat() for path in (reported, unreported)]
    assert [(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) for status in found] == [
        (0o644, *UNPRIVILEGED), (0o600, 0, 0),
    ]  # fmt: skip


@pytest.mark.usefixtures("root")
def test_the_owner_of_the_root_directory_counts_as_root(host: Host) -> None:
    """In a directory that represents the root of a node, a file of root belongs to the owner and the group of this
    directory. A file of another user does not. On the host itself, root is root.
    """
    os.chown(host.root, 4321, 4322)
    host.commit([host.new("/etc/a", b"a", owner=(0, 0)), host.new("/etc/b", b"b", owner=(5, 0))])
    owners = [(status.st_uid, status.st_gid) for status in (host.at("/etc/a").stat(), host.at("/etc/b").stat())]
    assert owners == [(4321, 4322), (5, 4322)]
    assert NodeFiles(str(host.root)).real_owner((0, 6)) == (4321, 6)
    assert NodeFiles("/").real_owner((0, 0)) == (0, 0)


@pytest.mark.usefixtures("root")
def test_a_new_file_is_not_given_to_the_owner_of_its_directory(host: Host) -> None:
    """If no owner is requested, a new file belongs to the user of certmond, and its directory gives it no ACL."""
    os.chown(host.at(KEY).parent, 12, 34)
    set_attribute(host.at(KEY).parent, "system.posix_acl_default", READABLE_BY_1234)
    path = f"{os.path.dirname(KEY)}/another.key"
    host.commit([host.new(path, b"content", mode=0o640)])
    found = host.at(path).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 0, 0)
    assert "system.posix_acl_access" not in os.listxattr(host.at(path))


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("before", ["a file", "nothing"])
def test_owner_and_acl_are_those_of_the_checked_file(host: Host, before: str) -> None:
    """A file that appears at the path while the new one is staged gives it neither owner nor ACL."""
    key, other = host.at(KEY), host.at(KEY).with_name("other")
    other.write_bytes(b"")
    os.chown(other, *UNPRIVILEGED)
    set_attribute(other, "system.posix_acl_access", READABLE_BY_1234)
    if before == "nothing":
        key.unlink()
    staged = list[tuple[int, int]]()

    def look(_: str) -> None:
        found = [each for each in key.parent.glob(".certmond-*") if each.is_file()]
        if found and other.exists():
            other.rename(key)
        for each in found:
            staged.append((each.stat().st_uid, len(os.listxattr(each))))

    def commit() -> None:
        with suppress(WriteError):  # a file that appeared meanwhile is not overwritten
            host.commit([host.new(KEY, NEW[KEY])])

    record(commit, look)
    assert not other.exists()
    assert {*staged} == {(0, 0)}


def test_content_is_not_shown() -> None:
    """The content of a new file is in no representation of it."""
    assert "PRIVATE" not in repr(NewFile(KEY, NEW[KEY]))


# Paths


@pytest.mark.parametrize("target", ["../../../data/real.key", "/data/real.key", "/../../data/./real.key"])
def test_symlink_stays(host: Host, target: str) -> None:
    """A symlink is followed, below the root, and stays. Its target is replaced."""
    host.at("/data").mkdir()
    host.at(KEY).rename(host.at("/data/real.key"))
    host.at(KEY).symlink_to(target)
    host.commit(host.pair())
    assert host.at(KEY).readlink() == Path(target)
    assert host.at("/data/real.key").read_bytes() == NEW[KEY]
    assert os.listdir(host.at("/data")) == ["real.key"]


def test_symlinked_directory(host: Host) -> None:
    """A symlink on the path is followed as well."""
    host.at(PKI).rename(host.at("/pki"))
    host.at(PKI).symlink_to("/pki")
    host.commit(host.pair())
    assert host.at("/pki/apiserver.key").read_bytes() == NEW[KEY]


def test_dangling_symlink(host: Host) -> None:
    """A symlink to nothing is a name for the file that is created there."""
    host.at(f"{PKI}/front.key").symlink_to("etcd/back.key")
    host.commit([NewFile(f"{PKI}/front.key", NEW[KEY])])
    assert host.at(f"{PKI}/etcd/back.key").read_bytes() == NEW[KEY]
    assert host.at(f"{PKI}/front.key").is_symlink()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("link", ["/home/ops/.kube", "/home/ops/.kube/config"])
def test_symlink_of_another_user(host: Host, link: str) -> None:
    """Nothing is written or archived at the target of a user's symlink, because that user may not write there. Links of
    root are followed.
    """
    path = "/home/ops/.kube/config"
    host.at("/cron.d").mkdir()
    host.at(link).parent.mkdir(parents=True)
    host.at(link).symlink_to("/cron.d" if link != path else "/cron.d/config")
    os.chown(host.at(link), 1000, 1000, follow_symlinks=False)
    message = host.error([NewFile(path, b"evil")])
    assert message == (
        f"{path} could not be written ({link} is a symlink of user 1000): configure the path of its target, "
        "or chown the symlink to root"
    )
    with pytest.raises(WriteError, match="a symlink of user 1000"):
        host.transactions.real(path)
    assert NodeFiles(str(host.root)).read(path) is None
    os.chown(host.at(link), 0, 0, follow_symlinks=False)
    host.commit([NewFile(path, b"good")])
    assert host.at("/cron.d/config").read_bytes() == b"good"


@pytest.mark.usefixtures("root")
def test_a_new_link_replaces_the_link_of_a_user(host: Host) -> None:
    """A user's symlink that is replaced is not followed, and so blocks no write."""
    os.chown(host.at(CURRENT), 1000, 1000, follow_symlinks=False)
    host.commit([NewLink(CURRENT, "new.pem")])
    assert host.at(CURRENT).readlink() == Path("new.pem")


def test_link_is_replaced(host: Host) -> None:
    """A new link replaces the old one, and the old target stays."""
    host.commit([NewFile(DATED, NEW[KEY]), NewLink(CURRENT, os.path.basename(DATED))])
    assert host.at(CURRENT).readlink() == Path(os.path.basename(DATED))
    assert host.at(CURRENT).read_bytes() == NEW[KEY]
    assert host.at(f"{KUBELET}/kubelet-client-2026-06-01.pem").read_bytes() == SECRET % b"old kubelet"


def test_file_becomes_a_link(host: Host) -> None:
    """A link replaces a file only if it is the one of the decision."""
    expected = hashlib.sha256(OLD[CRT]).hexdigest()
    for wrong in (None, hashlib.sha256(b"something else").hexdigest()):
        assert f"{CRT} is not a symlink" in host.error([NewLink(CRT, "etcd/a.crt", wrong)])
    host.commit([NewLink(CRT, "etcd/a.crt", expected)])
    assert host.at(CRT).readlink() == Path("etcd/a.crt")


# Refusals


def test_all_problems_at_once(host: Host) -> None:
    """One error reports every obstacle, with file, fact and remedy, before anything is written."""
    host.at(f"{PKI}/loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.bind(str(host.at(f"{PKI}/socket")))
    stale = hashlib.sha256(b"something else").hexdigest()
    changes: list[Change] = [
        NewFile(KEY, NEW[KEY], expected=stale), NewFile(CRT, b"new"), NewFile(f"{PKI}/gone.crt", b"", expected=stale),
        NewFile("/etc/nowhere/deep/a.key", b""), NewFile(f"{PKI}/etcd", b""), NewFile(f"{PKI}/socket", b""),
        NewFile(f"{PKI}/loop", b""), NewLink(CRT, "target"), NewFile(f"{CRT}/below", b""), NewFile("/", b""),
    ]  # fmt: skip
    problems = host.error(changes).split("\n")
    facts = [
        (KEY, "was changed by another process"), (CRT, "was changed by another process"),
        (f"{PKI}/gone.crt", "was changed by another process"),
        ("/etc/nowhere/deep/a.key", "(/etc/nowhere/deep: No such file or directory): create the directory"),
        (f"{PKI}/etcd", "is not a regular file"), (f"{PKI}/socket", "is not a regular file"),
        (f"{PKI}/loop", "Too many levels of symbolic links"), (CRT, f"and {CRT} are the same file"),
        (CRT, "is not a symlink"), (f"{CRT}/below", "Not a directory"), ("/", "Is a directory"),
    ]  # fmt: skip
    assert [(line.split(" ", 1)[0], fact in line) for line, (_, fact) in zip(problems, facts, strict=True)] == [
        (path, True) for path, _ in facts
    ]
    assert os.listdir(host.state) == [".lock", "transactions"] or set(os.listdir(host.state)) == {
        ".lock",
        "transactions",
    }


@pytest.mark.parametrize(
    ("path", "link", "target"),
    [
        ("/etc/kubernetes/manifests/a.yaml", None, ""),
        ("/etc/kubernetes/pki/manifests/a.yaml", None, ""),
        ("/etc/./kubernetes/pki/../manifests/a.yaml", None, ""),
        (f"{PKI}/a.yaml", f"{PKI}/a.yaml", "../manifests/a.yaml"),
        (f"{PKI}/a.yaml", f"{PKI}/a.yaml", "manifests/a.yaml"),
        ("/pods/a.yaml", "/etc/kubernetes/manifests", "/pods"),
        ("/etc/kubernetes/pki/manifests/a.yaml", PKI, "/pods"),
    ],
)
def test_static_pods(host: Host, path: str, link: str | None, target: str) -> None:
    """No file is created where the kubelet would start it, under any path."""
    for directory in (f"{PKI}/manifests", "/pods/manifests"):
        host.at(directory).mkdir(parents=True)
    if link:
        if host.at(link).is_dir():
            host.at(link).rename(host.at("/away"))
        host.at(link).symlink_to(target)
    assert "is in a directory of static Pods" in host.error([NewFile(path, b"kind: Pod")])


@pytest.mark.parametrize("path", [MANIFEST, "/etc/kubernetes/pki/manifests/etcd.yaml"])
def test_no_static_pod_is_removed(host: Host, path: str) -> None:
    """No file is removed where the kubelet would stop it either."""
    host.at(path).parent.mkdir(exist_ok=True)
    host.at(path).write_bytes(POD)
    assert "is in a directory of static Pods" in host.error([host.removed(path)])


def test_same_file_twice(host: Host) -> None:
    """One file under two names is not replaced twice. The error reports that they are one file."""
    host.at(f"{PKI}/other.key").symlink_to("apiserver.key")
    said = f"{PKI}/other.key and {KEY} are the same file, {KEY}; configure separate files"
    assert host.error([host.new(KEY, b"a"), host.new(f"{PKI}/other.key", b"b")]) == said


class RefusedError(CertmondError):
    pass


def refuse(*_: object) -> None:
    raise RefusedError("no")


@pytest.mark.parametrize("hook", ["verify", "before_rename"])
@pytest.mark.parametrize("failure", [RefusedError("no"), KeyboardInterrupt()])
def test_hook_that_raises(host: Host, hook: str, failure: BaseException) -> None:
    """An exception of a hook propagates, and everything is unchanged."""

    def fail(*_: object) -> None:
        raise failure

    before = host.snapshot()
    with pytest.raises(type(failure)):
        host.commit(host.pair(), **{hook: fail})
    assert host.snapshot() == before
    assert host.records() == []


def test_message_is_printable(host: Host) -> None:
    """The message escapes the control characters of a name."""
    assert host.error([NewFile("/etc/\x1b[2J/a.key", b"")]).isprintable()
    with pytest.raises(WriteError) as raised, Transactions("/", host.place / "\x1b[2J" / "state").lock():
        pass
    assert str(raised.value).isprintable()


# The manifest of a static pod

RKE2 = "/var/lib/rancher/rke2/agent/pod-manifests"


def test_a_manifest_is_replaced(host: Host) -> None:
    """A transaction replaces a manifest from the parent of its directory, with owner and mode of the old one. It leaves
    no draft there.
    """
    above = sorted(os.listdir(host.at("/etc/kubernetes")))
    before = host.at(MANIFEST).stat()
    waiting: list[bytes] = []

    def look() -> None:
        waiting.extend(path.read_bytes() for path in host.at("/etc/kubernetes").glob(".certmond-*"))

    with closing(Notices(host.at(PODS))) as notices:
        host.commit([replace(host.manifest(), mode=0o644)], before_rename=look)
        assert notices.read() == [REPLACED]
    after = host.at(MANIFEST).stat()
    assert (host.at(MANIFEST).read_bytes(), waiting) == (NEW_POD, [NEW_POD])
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert sorted(os.listdir(host.at("/etc/kubernetes"))) == above


@pytest.mark.parametrize(("link", "target"), [(None, ""), (RKE2, "/data"), (os.path.dirname(RKE2), "/data")])
def test_any_manifest_directory_of_the_kubelet(host: Host, link: str | None, target: str) -> None:
    """The caller declares a manifest, not its path. For a directory behind a symlink the real one counts."""
    directory = host.at(RKE2 if link is None else RKE2.replace(link, target))
    directory.mkdir(parents=True)
    if link:
        host.at(link).parent.mkdir(parents=True)
        host.at(link).symlink_to(target)
    (directory / os.path.basename(MANIFEST)).write_bytes(POD)
    with closing(Notices(directory)) as notices:
        path = f"{RKE2}/{os.path.basename(MANIFEST)}"
        host.commit([NewFile(path, NEW_POD, expected=hashlib.sha256(POD).hexdigest(), manifest=True)])
        assert notices.read() == [REPLACED]
    assert (directory / os.path.basename(MANIFEST)).read_bytes() == NEW_POD
    assert list(host.root.rglob(".certmond-*")) == []


def test_a_manifest_is_never_created(host: Host) -> None:
    """certmond creates no manifest, because the operator who stopped the Pod decides when it starts."""
    host.at(MANIFEST).unlink()
    assert f"{MANIFEST} does not exist, and certmond does not start Pods" in host.error([host.manifest()])
    message = host.error([replace(host.manifest(), expected=hashlib.sha256(POD).hexdigest())])
    assert f"{MANIFEST} does not exist, and certmond does not start Pods" in message


@pytest.mark.parametrize("decided", [False, True])
def test_a_manifest_that_is_removed_meanwhile_is_not_created(host: Host, decided: bool) -> None:
    """However far the transaction was, the removed manifest stays away. The other files are old, or new if the
    transaction was decided.
    """
    changes: list[Change] = [*host.pair(), host.manifest()]
    if decided:
        renames = [n for n, stop in enumerate(record(lambda: host.commit(changes))) if stop == "exit renameat"]
        host = Host(host.place / "killed")
        changes = [*host.pair(), host.manifest()]
        kill_at(lambda: host.commit(changes), renames[2])  # announced, decided, the key
        host.at(MANIFEST).unlink()
        [found] = host.recover()
        assert found.outcome is Outcome.FROZEN
        assert found.message.startswith(f"another process wrote {MANIFEST}")
        assert {path: host.at(path).read_bytes() for path in NEW} == NEW
    else:
        with pytest.raises(WriteError, match=f"^another process wrote {MANIFEST}"):
            host.commit(changes, before_rename=lambda: host.at(MANIFEST).unlink())
        assert {path: host.at(path).read_bytes() for path in NEW} == OLD
    assert os.listdir(host.at(PODS)) == []
    assert list(host.root.rglob(".certmond-*")) == []
    assert host.records() == []


def test_a_manifest_that_changed_meanwhile_stays(host: Host) -> None:
    """The rule is that of any other file, before the decision and after it."""
    stale = host.manifest()
    host.at(MANIFEST).write_bytes(b"theirs")
    assert "after certmond read the file; repeat the command" in host.error([stale])
    with pytest.raises(WriteError, match="another process wrote"):
        host.commit([host.manifest()], before_rename=lambda: host.at(MANIFEST).write_bytes(b"theirs, too"))
    assert host.at(MANIFEST).read_bytes() == b"theirs, too"


@pytest.mark.parametrize("target", ["other.yaml", "/data/pod.yaml", "../pod.yaml"])
def test_a_manifest_that_is_a_symlink(host: Host, target: str) -> None:
    """A manifest that is a symlink is not followed and stays, because the kubelet would get no event for its target."""
    host.at("/data").mkdir()
    host.at(MANIFEST).unlink()
    host.at(MANIFEST).symlink_to(target)
    led_to = host.at(target if target.startswith("/") else f"{PODS}/{target}")
    led_to.write_bytes(POD)
    expected = hashlib.sha256(POD).hexdigest()
    message = host.error([NewFile(MANIFEST, NEW_POD, expected=expected, manifest=True)])
    assert (
        message == f"{MANIFEST} is a symlink, and certmond does not write its target; replace the symlink with a file"
    )


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_manifests_directory_of_its_own_mount(host: Host, mount: Mount, kind: str) -> None:
    """A manifest directory that is a separate mount accepts no rename, also on the same file system. The error comes
    before any write.
    """
    if kind == "tmpfs":
        mount("-t", "tmpfs", "tmpfs", on=host.at(PODS))
        host.at(MANIFEST).write_bytes(POD)
    else:
        mount("--bind", str(host.at(PODS)), on=host.at(PODS))
    assert host.error([*host.pair(), host.manifest()]) == (
        f"{MANIFEST} could not be replaced atomically ({PODS} and /etc/kubernetes are different mounts): "
        "move both to one file system, under one mount"
    )


@pytest.mark.parametrize("path", [f"{PODS}/deep/a.yaml", "/etc/kubernetes/x/manifests/deep/a.yaml", "/a.yaml"])
def test_a_manifest_never_waits_among_static_pods(host: Host, path: str) -> None:
    """If the parent directory also starts Pods, or does not exist, the commit is refused."""
    host.at(path).parent.mkdir(parents=True, exist_ok=True)
    host.at(path).write_bytes(POD)
    assert "for the staged file, is in a directory of static Pods" in host.error([host.manifest(path)])


def test_no_other_file_comes_beside_a_manifest(host: Host) -> None:
    """A directory with a manifest is one of static pods, whatever it is called."""
    host.at(RKE2).mkdir(parents=True)
    for name in ("a.yaml", "b.yaml"):
        host.at(f"{RKE2}/{name}").write_bytes(POD)
    manifest = host.manifest(f"{RKE2}/a.yaml")
    others: list[Change] = [
        host.new(f"{RKE2}/b.yaml", b"b"), host.removed(f"{RKE2}/b.yaml"), NewLink(f"{RKE2}/c", "a.yaml"),
        host.new(f"{RKE2}/c", b"c"),
    ]  # fmt: skip
    for other in others:
        assert host.error([other, manifest]).startswith(f"{other.path} is in a directory of static Pods")
    host.commit([manifest, host.manifest(f"{RKE2}/b.yaml", b"b")])
    assert host.at(f"{RKE2}/b.yaml").read_bytes() == b"b"


# Removals


def test_removed(host: Host) -> None:
    """The file is removed and no copy of it remains. All other files are unchanged."""
    *_, key, crt = host.signing()
    before = host.snapshot()
    host.commit([key, crt])
    after = host.snapshot()
    assert before.keys() - after.keys() == {SIGNING_KEY[1:], SIGNING_CRT[1:]}
    assert after.items() <= before.items()
    assert host.records() == []
    assert not any(b"signing" in path.read_bytes() for path in host.place.rglob("*") if path.is_file())


def test_verify_gets_nothing_of_a_removed_file(host: Host) -> None:
    """Only new files are read back. Until the rename the old file exists."""
    seen: list[Mapping[str, bytes]] = []
    changes = host.signing()
    host.commit(changes, verify=seen.append, before_rename=lambda: host.at(SIGNING_KEY).stat())
    assert seen == [{MANIFEST: NEW_POD}]


def test_only_the_expected_file_is_removed(host: Host) -> None:
    """certmond leaves a file that was changed, is missing, is a symlink or is no regular file, and with it the
    others.
    """
    key = host.removed(KEY)
    host.at("/data").mkdir()
    for make, fact in (
        (lambda: host.at(KEY).write_bytes(b"theirs"), "was changed by another process"),
        (lambda: host.at(KEY).unlink(), "was changed by another process"),
        (lambda: host.at(KEY).mkdir(), "is not a regular file"),
        (lambda: host.at(KEY).rmdir(), "was changed by another process"),
        (lambda: host.at(KEY).symlink_to("/data/key"), "is a symlink, and certmond does not write its target"),
        (lambda: host.at("/data/key").write_bytes(OLD[KEY]), "is a symlink, and certmond does not write its target"),
    ):
        make()
        assert f"{KEY} {fact}" in host.error([host.removed(CRT), key])


@pytest.mark.parametrize("undone", [False, True])
def test_a_removal_keeps_a_file_that_another_process_wrote(host: Host, undone: bool) -> None:
    """The file of the other process stays. Before the first change nothing is changed; after it the rest completes, and
    the error reports it.
    """
    changes = [host.removed(KEY), host.removed(CRT)]
    if undone:
        with pytest.raises(
            WriteError,
            match=f"^another process wrote {CRT} during .* keeps the file of that process; compare .* check$",
        ):
            host.commit(changes, before_rename=lambda: host.at(CRT).write_bytes(b"theirs"))
        assert {path: host.at(path).read_bytes() for path in NEW} == {**OLD, CRT: b"theirs"}
        return
    decided = [n for n, stop in enumerate(record(lambda: host.commit(changes))) if stop == "exit renameat"][1]
    host = Host(host.place / "killed")
    changes = [host.removed(KEY), host.removed(CRT)]
    kill_at(lambda: host.commit(changes), decided + 2 + 2)  # its fsync, then the first file
    assert (host.at(KEY).exists(), host.at(CRT).exists()) == (False, True)
    host.at(CRT).write_bytes(b"theirs")
    [found] = host.recover()
    assert found.outcome is Outcome.FROZEN
    assert found.message.startswith(f"another process wrote {CRT}")
    assert f"and {KEY} is removed" in found.message
    assert host.at(CRT).read_bytes() == b"theirs"


@pytest.mark.parametrize("first", [MANIFEST, SIGNING_KEY])
def test_a_file_that_another_process_removed_stops_the_transaction(host: Host, first: str) -> None:
    """If a file that the transaction removes is already missing, certmond leaves the other files, also if its removal
    comes later.
    """
    manifest, key, crt = host.signing()
    changes = [manifest, key, crt] if first == MANIFEST else [key, crt, manifest]

    def meddle() -> None:
        host.at(MANIFEST).write_bytes(b"theirs")
        host.at(SIGNING_CRT).unlink()

    with pytest.raises(WriteError, match=f"^another process wrote {MANIFEST}"):
        host.commit(changes, before_rename=meddle)
    assert host.at(SIGNING_KEY).exists()
    assert host.at(MANIFEST).read_bytes() == b"theirs"
    assert host.records() == []


def test_a_removal_needs_no_space(host: Host, mount: Mount) -> None:
    """A full disk, or one without inodes, does not block a removal."""
    mount("-t", "tmpfs", "-o", "size=512k,nr_inodes=20", "tmpfs", on=host.at(KUBELET))
    host.at(f"{KUBELET}/a.key").write_bytes(SECRET)
    for number in range(17):
        host.at(f"{KUBELET}/{number}").touch()
    fill(host.at(KUBELET), leave=0)
    host.commit([host.removed(f"{KUBELET}/a.key")])
    assert not host.at(f"{KUBELET}/a.key").exists()


@pytest.mark.real("chattr")
def test_removal_of_an_immutable_file(host: Host) -> None:
    """An immutable file is an error before any change. If it becomes immutable during the transaction, nothing else is
    done, or the next start completes it.
    """
    with attribute("i", host.at(CRT)) as give:
        with pytest.raises(WriteError, match="the old files are unchanged"):
            host.commit([host.removed(CRT), host.removed(KEY)], before_rename=give)
        assert "immutable" in host.error([host.removed(KEY), host.removed(CRT)])
        assert host.at(KEY).exists()


# Other processes


@pytest.mark.parametrize("path", [KEY, CRT])
def test_changed_between_staging_and_renaming(host: Host, path: str) -> None:
    """A file that another process writes while certmond stages its own stays, and the rest of the pair stays old."""
    with pytest.raises(WriteError, match=f"^another process wrote {path}"):
        host.commit(host.pair(), before_rename=lambda: host.at(path).write_bytes(b"theirs"))
    assert {p: host.at(p).read_bytes() for p in NEW} == {**OLD, path: b"theirs"}
    assert sorted(os.listdir(host.at(PKI))) == ["apiserver.crt", "apiserver.key", "etcd"]
    assert host.records() == []


def test_created_between_staging_and_renaming(host: Host) -> None:
    """A file that another process creates in the meantime stays, too."""
    path = f"{PKI}/etcd/server.key"
    with pytest.raises(WriteError, match="another process wrote"):
        host.commit([NewFile(path, NEW[KEY])], before_rename=lambda: host.at(path).write_bytes(b"theirs"))
    assert host.at(path).read_bytes() == b"theirs"
    assert os.listdir(host.at(f"{PKI}/etcd")) == ["server.key"]
    assert host.records() == []


def test_directory_swapped_for_a_symlink(host: Host) -> None:
    """A user who swaps the directory for a symlink after the check gets no file: it is written to the checked
    directory.
    """

    def swap() -> None:
        host.at(PKI).rename(host.at("/etc/kubernetes/moved"))
        host.at(PKI).symlink_to("/var/lib/kubelet")

    host.commit(host.pair(), before_rename=swap)
    assert host.at("/etc/kubernetes/moved/apiserver.key").read_bytes() == NEW[KEY]
    assert os.listdir(host.at("/var/lib/kubelet")) == ["pki"]


def test_busy(host: Host) -> None:
    """While one process writes, another waits for its limit and then gets an error with the holder. After that the lock
    is free.
    """
    who = rf"^another command \(process {os.getpid()}\) is writing on this node; .*, run: ps -fp {os.getpid()}$"
    with host.transactions.lock():
        with pytest.raises(BusyError, match=who), host.transactions.lock(0.1):
            pass
        with pytest.raises(BusyError), Transactions(str(host.root), host.state).lock():
            pass
    with host.transactions.lock():
        assert stat.S_IMODE((host.state / ".lock").stat().st_mode) == 0o600


def test_a_process_that_waits_gets_the_lock(host: Host) -> None:
    """A process that waits gets the lock when the holder releases it."""
    with ExitStack() as first:
        first.enter_context(host.transactions.lock())
        threading.Timer(0.15, first.pop_all().close).start()
        with host.transactions.lock(DEADLINE) as writer:
            writer.commit(host.pair(), verify=lambda _: None)
    assert host.at(KEY).read_bytes() == NEW[KEY]


def test_only_root_can_enter_the_state_directory(host: Host) -> None:
    """Only root can enter the state directory or read a record. A record has no file content."""
    seen: list[tuple[int, bytes]] = []

    def look() -> None:
        for path in (host.state, host.state / "transactions"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        seen.extend((path.stat().st_mode, path.read_bytes()) for path in (host.state / "transactions").iterdir())

    host.commit(host.pair(), before_rename=look)
    [(mode, content)] = seen
    assert stat.S_IMODE(mode) == 0o600
    assert not any(word in content for word in (b"PRIVATE", b"new certificate"))


def test_records_that_are_no_directory(host: Host) -> None:
    """If another file has the name of the records' directory, the error names it and the remedy."""
    host.state.mkdir(mode=0o700)
    (host.state / "transactions").write_text("")
    with pytest.raises(WriteError, match=r"/transactions could not be written \(Not a directory\): a part of its path"):
        host.recover()


@pytest.mark.parametrize("name", ["a\0", "\ud800"])
def test_an_impossible_path_is_reported_as_such(host: Host, name: str) -> None:
    """A name that the kernel does not accept is an error with the reason, for reading and for writing."""
    with pytest.raises(WriteError, match=r"could not be read \(a file cannot have this name\): correct its path"):
        NodeFiles(str(host.root)).read(f"/etc/{name}/b")
    assert "a file cannot have this name" in host.error([NewFile(f"/etc/{name}", b"")])


def test_state_directory_without_a_parent(host: Host) -> None:
    """If the state directory cannot be created, the error names it."""
    transactions = Transactions(str(host.root), host.place / "no" / "state")
    with pytest.raises(WriteError, match="/no/state could not be written"), transactions.lock():
        pass


# Killed


def test_stop_is_before_or_after_the_call(tmp_path: Path) -> None:
    """The harness: killed at the entry of a call, a process has not made it; killed at its exit, it has."""
    reading = tmp_path / "read"
    reading.touch()

    def change() -> None:
        reading.read_bytes()  # which is no change
        (tmp_path / "a").mkdir()
        (tmp_path / "b").touch()

    names = ["entry mkdir", "exit mkdir", "entry openat", "exit openat", "entry exit_group"]
    seen: list[tuple[str, int]] = []
    assert record(change, lambda stop: seen.append((stop, len(os.listdir(tmp_path))))) == names
    assert seen == list(zip(names, [1, 2, 2, 3, 3], strict=True))
    for n, left in enumerate([["read"], ["a", "read"], ["a", "read"], ["a", "b", "read"], ["a", "b", "read"]]):
        for name in ("a", "b"):
            subprocess.run(["rm", "-rf", tmp_path / name], check=True)
        assert kill_at(change, n) == names[n]
        assert sorted(os.listdir(tmp_path)) == left


def test_harness_tells_what_went_wrong(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The harness: a child that fails, a stop that is not reached and an observer that objects are no success."""
    with pytest.raises(AssertionError, match="the child failed"):
        record(refuse)
    assert "RefusedError: no" in capfd.readouterr().err
    with pytest.raises(AssertionError, match="there are only 3 stops"):
        kill_at((tmp_path / "a").mkdir, 3)
    with pytest.raises(RefusedError):
        record((tmp_path / "b").mkdir, refuse)
    assert not (tmp_path / "b").exists()


def changes_of(host: Host, scenario: str) -> list[Change]:
    """Return the changes of a renewal."""
    if scenario == "pair":
        return host.pair()
    if scenario == "pod":
        manifest, key, _ = host.signing()
        return [*host.pair(), manifest, key]
    if scenario == "kubelet":
        return [host.new(DATED, SECRET % b"new kubelet"), NewLink(CURRENT, os.path.basename(DATED))]
    created = {f"{PKI}/etcd/server.key": NEW[KEY], f"{PKI}/etcd/server.crt": NEW[CRT]}
    return [host.new(path, content) for path, content in created.items()]


class Watcher:
    """Checks all files at each stop of the writer."""

    def __init__(self, host: Host, changes: Sequence[Change]) -> None:
        self.host = host
        self.old = [self._content(change.path) for change in changes]
        self.new = [link_or_content(change) for change in changes]
        self.paths = [change.path for change in changes]
        self.removed = [isinstance(change, Removed) for change in changes]

    def __call__(self, stop: str) -> None:
        everything = list(self._files())
        for path, content in everything:
            closed = stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0
            assert closed or b"PRIVATE KEY" not in content, f"{path} can be read by others at {stop}"
        contents = [content for _, content in everything]
        for old, new, name, removed in zip(self.old, self.new, self.paths, self.removed, strict=True):
            assert self._content(name) in {old, new}, f"{name} is neither old nor new at {stop}"
            if removed:
                assert contents.count(old or b"") == (self._content(name) is not None), f"{name} has a copy at {stop}"
            elif old is not None and name != CURRENT:
                assert old in contents, f"the old {name} is nowhere at {stop}"
        assert os.listdir(self.host.at(PODS)) == [os.path.basename(MANIFEST)], f"the kubelet finds more at {stop}"
        if any(name.endswith(".commit.json") for name in self.host.records()):
            lost = [name for new, name in zip(self.new, self.paths, strict=True) if new not in {*contents, None}]
            assert lost in ([], [CURRENT]), f"the new content is nowhere at {stop}"

    def _content(self, path: str) -> bytes | None:
        there = self.host.at(path)
        if there.is_symlink():
            return os.fsencode(there.readlink())
        return there.read_bytes() if there.exists() else None

    def _files(self) -> Iterator[tuple[Path, bytes]]:
        for path in self.host.place.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()


def link_or_content(change: Change) -> bytes | None:
    if isinstance(change, Removed):
        return None
    return change.content if isinstance(change, NewFile) else os.fsencode(change.target)


class Notices:
    """The inotify(7) events of a directory, as the kubelet watches it: all except those of reading."""

    MOVED_TO = 0x80
    _READING = 0x1 | 0x10 | 0x20  # IN_ACCESS, IN_CLOSE_NOWRITE, IN_OPEN
    _ALL = 0xFFF

    def __init__(self, directory: Path, *, reading: bool = False) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        watch = libc.inotify_add_watch(
            self._descriptor, os.fsencode(directory), self._ALL if reading else self._ALL & ~self._READING
        )
        assert watch >= 0, os.strerror(ctypes.get_errno())

    def close(self) -> None:
        os.close(self._descriptor)

    def read(self) -> list[tuple[int, str]]:
        """Return (event, name) of each event since the last call, in their order. The kernel queues them at once."""
        found = []
        with suppress(BlockingIOError):
            while data := os.read(self._descriptor, 1 << 16):
                while data:
                    _, mask, _, length = struct.unpack_from("iIII", data)
                    found.append((mask, data[16 : 16 + length].rstrip(b"\0").decode()))
                    data = data[16 + length :]
        return found


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A FIFO, a device or a symlink is refused without being opened, which would have side effects."""
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").write_bytes(b"content")
    with Directories(str(tmp_path)) as directories, closing(Notices(tmp_path, reading=True)) as notices:
        for name in ("fifo", "device", "link"):
            with pytest.raises(OSError, match=r"not a regular file|Too many levels"):
                directories.place(f"/{name}").read()
        assert {name for _, name in notices.read()} <= {""}
        assert directories.place("/file").read() == b"content"
        assert {name for _, name in notices.read()} == {"file"}


REPLACED = (Notices.MOVED_TO, os.path.basename(MANIFEST))


def fresh_hosts(place: Path) -> Iterator[Host]:
    return (Host(place / str(number)) for number in itertools.count())


SCENARIOS = ["pair", "kubelet", "created", "pod"]


@pytest.mark.long
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_anywhere(tmp_path: Path, scenario: str) -> None:
    """After a kill at any system call and recovery, a renewal is complete: all files are old or all are new, without
    any leftover.

    At no moment can others read a private key, is a file incomplete, or is the old or the new content lost, except for
    removed files, which have no copy. A process that watches the static Pods gets exactly one replacement of a
    manifest.
    """
    hosts = fresh_hosts(tmp_path)
    host = next(hosts)
    changes = changes_of(host, scenario)
    before = host.snapshot()
    with closing(Notices(host.at(PODS))) as notices:
        stops = record(lambda: host.renew(changes), Watcher(host, changes))
        assert notices.read() == [REPLACED] * (scenario == "pod")
    after = host.snapshot()
    assert after != before
    ends = {False: 0, True: 0}
    chosen = sample(distinct(stops), 24, f"a commit, {scenario}", kind=lambda n: stops[n])
    for n in chosen:
        host = next(hosts)
        changes = changes_of(host, scenario)
        watch = Watcher(host, changes)
        with closing(Notices(host.at(PODS))) as notices:
            watch(kill_at(lambda: host.renew(changes), n))  # noqa: B023 - it is called at once
            outcomes = [recovery.outcome for recovery in host.recover()]
            found = host.snapshot()
            reported = notices.read()
        assert found in (before, after), f"after {n}: {stops[n]}"
        assert host.records() == []
        assert outcomes in ([], [Outcome.FINISHED if found == after else Outcome.UNDONE])
        assert host.recover() == ()
        manifest_replaced = before[MANIFEST[1:]] != found[MANIFEST[1:]]
        assert reported == [REPLACED] * manifest_replaced, f"the kubelet received another report after {n}: {stops[n]}"
        ends[found == after] += 1
        if found == before:
            host.renew(changes)
            assert host.snapshot() == after
            assert not [name for name in os.listdir(host.state / "archive/apiserver") if name.startswith(".")]
    assert all(ends.values())


@pytest.mark.long
@pytest.mark.parametrize("scenario", ["pair", "pod"])
def test_recovery_killed_anywhere(tmp_path: Path, scenario: str) -> None:
    """Recovery may also be killed at any system call. The next one completes it."""
    hosts = fresh_hosts(tmp_path)
    host = next(hosts)
    changes = changes_of(host, scenario)
    before = host.snapshot()
    stops = record(lambda: host.renew(changes))
    after = host.snapshot()
    announced, archived, decided, *replaced = [n for n, stop in enumerate(stops) if stop == "exit renameat"]
    ends = {announced: before, archived: before, decided: after, **dict.fromkeys(replaced, after)}
    if scenario == "pod":  # the part before the manifest equals that of a pair
        removed = stops.index("exit unlinkat", replaced[-1])
        ends = {decided: after, replaced[-1]: after, removed: after}

    def interrupted(n: int) -> tuple[Host, Watcher]:
        host = next(hosts)
        changes = changes_of(host, scenario)
        watch = Watcher(host, changes)
        kill_at(lambda: host.renew(changes), n)
        return host, watch

    for n, end in ends.items():
        host, watch = interrupted(n)
        recovering = record(host.recover, watch)
        for m in sample(distinct(recovering), 8, f"a recovery, {scenario} {n}", kind=lambda m: recovering[m]):  # noqa: B023
            host, watch = interrupted(n)
            with closing(Notices(host.at(PODS))) as notices:
                watch(kill_at(host.recover, m))
                host.recover()
                assert notices.read() in ([], [REPLACED])
            assert host.snapshot() == end
            assert host.records() == []


@pytest.mark.long
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_killed_with_any_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """For any files, old or new, and a kill of writer and recovery at any point: all or none."""
    hosts = fresh_hosts(tmp_path_factory.mktemp("any"))
    sizes = data.draw(st.lists(st.tuples(st.booleans(), st.integers(0, 9000)), min_size=1, max_size=4))
    at = data.draw(st.integers(0, len(sizes)))

    def prepared() -> tuple[Host, list[Change]]:
        host = next(hosts)
        paths = [f"{PKI if number % 2 else KUBELET}/{number}.key" for number in range(len(sizes))]
        for path, (exists, _) in zip(paths, sizes, strict=True):
            if exists:
                host.at(path).write_bytes(SECRET % b"old")
                host.at(path).chmod(0o600)
        changes = [
            host.removed(path) if size % 3 == 0 and exists else host.new(path, SECRET * size)
            for path, (exists, size) in zip(paths, sizes, strict=True)
        ]
        changes.insert(at, host.manifest())
        return host, [*changes, NewLink(f"{PKI}/a link", "0.key")]

    def interrupted(n: int) -> Host:
        host, changes = prepared()
        kill_at(lambda: host.renew(changes), n)
        return host

    host, changes = prepared()
    before = host.snapshot()
    stops = record(lambda: host.renew(changes))
    after = host.snapshot()
    n = data.draw(st.integers(0, len(stops) - 1))
    stops = record(interrupted(n).recover)
    host = interrupted(n)
    kill_at(host.recover, data.draw(st.integers(0, len(stops) - 1)))
    host.recover()
    assert host.snapshot() in (before, after)
    assert host.records() == []


def test_order_on_the_disk(host: Host) -> None:
    """Every step is on the disk before the next: this is the order of all calls that change anything."""
    with host.transactions.lock():
        pass

    def commit() -> None:
        with host.transactions.lock() as writer:
            writer.commit(changes, verify=lambda _: None)

    changes = host.pair()
    calls = [stop.removeprefix("entry ") for stop in record(commit) if stop.startswith("entry ")]
    staging = ["openat", "write", "fchown", "fsync", "fchmod", "fsync"]
    assert calls == [
        "mkdir", "mkdir", "openat", "ftruncate", "pwrite64",  # the state directory; the lock, and its holder
        "unlinkat", "unlinkat",  # may these be replaced? checked with rmdir, which fails for files
        "openat", "write", "fsync", "renameat", "fsync",  # announced
        *staging, *staging, "fsync",  # staged, and their directory
        "renameat", "fsync",  # decided
        "renameat", "renameat", "fsync",  # replaced, in this order
        "unlinkat", "unlinkat", "fsync",  # no staged file is left
        "unlinkat", "unlinkat", "fsync",  # nor a record or its draft
        "exit_group",
    ]  # fmt: skip


def test_order_on_the_disk_of_a_manifest_and_a_removal(host: Host) -> None:
    """Both directories, of the draft and of the manifest, reach the disk before the record is deleted."""
    changes = host.signing()[:2]
    with host.transactions.lock():
        pass
    calls = [stop.removeprefix("entry ") for stop in record(lambda: host.commit(changes)) if stop.startswith("entry ")]
    decided = calls.index("renameat", calls.index("renameat") + 1)
    assert calls[decided:] == [
        "renameat", "fsync",  # decided
        "renameat", "unlinkat", "fsync", "fsync", "fsync",  # replaced and removed; manifests/, /etc/kubernetes and pki/
        "unlinkat", "unlinkat", "fsync", "fsync", "fsync",  # no staged file is left
        "unlinkat", "unlinkat", "fsync",  # nor a record or its draft
        "exit_group",
    ]  # fmt: skip


class Interruption(BaseException):
    """Raised by a signal handler, like Ctrl-C."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("call", ["decide", "rename"])
def test_signal_waits(host: Host, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, call: str) -> None:
    """From the decision on, a signal is delivered when all files are in place, to the handler that was there before."""

    def interrupt(_: int, __: object) -> None:
        raise Interruption

    def interrupted(*arguments: Any, **names: Any) -> Any:
        os.kill(os.getpid(), number)
        return original(*arguments, **names)

    owner: Any = Records if call == "decide" else os
    original = getattr(owner, call)
    changes = host.pair()
    before = signal.signal(number, interrupt)
    try:
        with host.transactions.lock() as writer, pytest.raises(Interruption):
            writer.commit(
                changes, verify=lambda _: None, before_rename=lambda: monkeypatch.setattr(owner, call, interrupted)
            )
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    assert {path: host.at(path).read_bytes() for path in NEW} == NEW
    assert host.records() == []


def test_signal_before_the_decision(host: Host) -> None:
    """Until then it is heard at once, and the old files stay."""
    changes = host.pair()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process of a shell ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            host.commit(changes, before_rename=lambda: signal.raise_signal(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert {path: host.at(path).read_bytes() for path in NEW} == OLD
    assert host.records() == []


# Found by the next process


def test_nothing_to_recover(host: Host) -> None:
    """Without leftovers, recovery changes and reports nothing."""
    before = host.snapshot()
    assert host.recover() == ()
    assert host.snapshot() == before


@pytest.mark.parametrize("path", [KEY, CRT])
def test_recovery_keeps_a_file_that_another_process_wrote(host: Host, path: str) -> None:
    """Before the first replacement, a file of another process stops the transaction: that file stays, and the others
    stay old.
    """
    host.write_record("commit", staged=NEW)
    host.at(path).write_bytes(b"theirs")
    [found] = host.recover()
    assert (found.outcome, found.paths) == (Outcome.FROZEN, (KEY, CRT))
    assert found.message.startswith(f"another process wrote {path}")
    assert "is new" not in found.message
    assert {p: host.at(p).read_bytes() for p in NEW} == {**OLD, path: b"theirs"}
    assert sorted(os.listdir(host.at(PKI))) == ["apiserver.crt", "apiserver.key", "etcd"]
    assert host.records() == []


def test_recovery_of_a_partial_replacement_keeps_a_foreign_file(host: Host) -> None:
    """After the first replacement, the file of another process stays, and all other files become new. The message names
    them.
    """
    extra = f"{PKI}/etcd/extra.crt"
    host.write_record("commit", {CRT: NEW[CRT], extra: b"extra"}, {**NEW, extra: b"extra"})
    host.at(KEY).write_bytes(NEW[KEY])  # renamed before the crash
    host.at(CRT).write_bytes(b"theirs")
    [found] = host.recover()
    assert found.outcome is Outcome.FROZEN
    assert found.message.startswith(f"another process wrote {CRT}")
    assert f"and {KEY} is new, and {extra} is new" in found.message
    contents = [host.at(path).read_bytes() for path in (KEY, CRT, extra)]
    assert contents == [NEW[KEY], b"theirs", b"extra"]
    assert len(os.listdir(host.at(PKI))) + len(os.listdir(host.at(f"{PKI}/etcd"))) == 4
    assert host.records() == []


def test_an_incomplete_staged_file(host: Host) -> None:
    """A staged file that differs from the verified one is never installed."""
    host.write_record("commit", staged={KEY: NEW[KEY], CRT: NEW[CRT][:-1]})
    assert [recovery.outcome for recovery in host.recover()] == [Outcome.FROZEN]
    assert {path: host.at(path).read_bytes() for path in NEW} == OLD
    assert host.records() == []


def test_undecided_is_undone(host: Host) -> None:
    """The files of an undecided transaction are removed, however many exist."""
    before = host.snapshot()
    host.write_record("intent", staged={KEY: NEW[KEY][:5]})
    [found] = host.recover()
    assert (found.outcome, found.paths) == (Outcome.UNDONE, (KEY, CRT))
    assert host.snapshot() == before
    assert host.records() == []


ENTRY = {"path": KEY, "real": KEY, "staged": ".certmond-0123456789abcdef-0", "old": None, "new": "00"}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe", b"[]", b"null", b"{}", b'{"entries": 1}', b'{"entries": [{}]}',
        json.dumps({"entries": [ENTRY | {"staged": "apiserver.key"}]}).encode(),
        json.dumps({"entries": [ENTRY | {"staged": "../../.certmond-0123456789abcdef-0"}]}).encode(),
        json.dumps({"entries": [ENTRY | {"real": "/etc/../../../apiserver.key"}]}).encode(),
        json.dumps({"entries": [ENTRY | {"real": "apiserver.key"}]}).encode(),
        json.dumps({"entries": [ENTRY | {"real": "/etc/a\0"}]}).encode(),
        json.dumps({"entries": [ENTRY | {"real": "/etc\0/a"}]}).encode(),
        json.dumps({"entries": [ENTRY | {"real": "/etc/\ud800"}]}).encode(),
        json.dumps({"entries": [ENTRY | {"path": "/etc/\ud800"}]}).encode(),
        json.dumps({"entries": [ENTRY | {"old": 5}]}).encode(),
        json.dumps({"entries": [ENTRY | {"new": 5}]}).encode(),
        json.dumps({"entries": [ENTRY | {"manifest": "no"}]}).encode(),
        json.dumps({"entries": [ENTRY | {"more": "fields"}]}).encode(),
        json.dumps({"entries": [ENTRY]}).encode()[:-20],
        b"[" * 100_000,
        json.dumps({"root": 5, "entries": [ENTRY]}).encode(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("state", ["intent", "commit"])
def test_damaged_record(host: Host, content: bytes, state: str) -> None:
    """An invalid record is renamed and reported once. It changes no file, and further transactions work."""
    before = host.snapshot()
    host.put_record(f"0123456789abcdef.{state}.json", content)
    [found] = host.recover()
    assert found.outcome is Outcome.DAMAGED
    assert f"0123456789abcdef.{state}.json.damaged" in found.message
    assert host.records() == [f"0123456789abcdef.{state}.json.damaged"]
    assert host.snapshot() == before
    assert host.recover() == ()
    host.commit(host.pair())


def test_damaged_record_is_never_passed_over(host: Host) -> None:
    """A process that writes without recovery also reports a damaged record, once."""
    host.put_record("0123456789abcdef.commit.json", b"{")
    with pytest.raises(WriteError, match="is damaged, and certmond renamed it"):
        host.commit(host.pair())
    assert {path: host.at(path).read_bytes() for path in NEW} == OLD
    host.commit(host.pair())


@pytest.mark.parametrize("decided", [False, True])
def test_a_transaction_below_another_root_is_left_to_it(host: Host, tmp_path: Path, decided: bool) -> None:
    """A process with another root neither completes nor deletes the transaction, reports that root, and may write its
    own files. A process with that root completes it.
    """
    before = host.snapshot()
    renames = [n for n, stop in enumerate(record(lambda: host.commit(host.pair()))) if stop == "exit renameat"]
    host = Host(tmp_path / "killed")
    before = host.snapshot()
    kill_at(lambda: host.commit(host.pair()), renames[1 if decided else 0])
    half_done, kept = host.snapshot(), host.records()
    other = Host(tmp_path / "other")
    other.transactions = Transactions(str(other.root), host.state)
    [found] = other.recover()
    assert (found.outcome, found.paths) == (Outcome.PENDING, (KEY, CRT))
    assert f"start certmond with `--root {host.root}`" in found.message
    other.commit(other.pair())
    assert (host.snapshot(), host.records()) == (half_done, kept)
    [found] = host.recover()
    assert found.outcome is (Outcome.FINISHED if decided else Outcome.UNDONE)
    assert (host.snapshot() == before, host.records()) == (not decided, [])


def test_what_is_moved_as_a_whole_is_ended_there(host: Host) -> None:
    """A node's files and its state that are found below another directory, as in a container, are one as before."""
    renames = [n for n, stop in enumerate(record(lambda: host.commit(host.pair()))) if stop == "exit renameat"]
    for path, content in OLD.items():
        host.at(path).write_bytes(content)
    kill_at(lambda: host.commit(host.pair()), renames[1])
    moved = host.place.rename(f"{host.place}-moved")
    with Transactions(str(moved / "root"), moved / "state").lock() as writer:
        [found] = writer.recover()
    assert found.outcome is Outcome.FINISHED


def test_other_files_among_the_records(host: Host) -> None:
    """Other files among the records stay, except the draft of a record."""
    host.put_record("notes.txt", b"mine")
    host.put_record(".0123456789abcdef", b"{")
    assert host.recover() == ()
    assert host.records() == ["notes.txt"]


@pytest.mark.parametrize("state", ["intent", "commit"])
def test_a_missing_directory(host: Host, state: str) -> None:
    """While a directory is missing, such as that of an unmounted disk, its transaction waits. Then it completes."""
    host.write_record(state, staged=NEW)
    host.at(PKI).rename(host.at("/away"))
    assert [recovery.outcome for recovery in host.recover()] == [Outcome.PENDING]
    assert len(host.records()) == 1
    host.at("/away").rename(host.at(PKI))
    assert [recovery.outcome for recovery in host.recover()] == [
        Outcome.FINISHED if state == "commit" else Outcome.UNDONE
    ]
    assert {path: host.at(path).read_bytes() for path in NEW} == (NEW if state == "commit" else OLD)


@pytest.mark.parametrize("state", ["commit", "intent"])
def test_recovery_follows_no_symlink(host: Host, state: str) -> None:
    """A directory that has become a symlink counts as missing: nothing is replaced or removed at its target."""
    host.write_record(state, NEW)
    host.at(PKI).rename(host.at("/elsewhere"))
    host.at(PKI).symlink_to("/elsewhere")
    before = host.snapshot()
    assert [recovery.outcome for recovery in host.recover()] == [Outcome.PENDING]
    assert host.snapshot() == before


def test_pending_files_are_not_written_again(host: Host) -> None:
    """A pending transaction is not repeated. Other files may be replaced."""
    host.write_record("commit", staged=NEW)
    with pytest.raises(WriteError, match=f"{KEY} is part of an unfinished replacement"):
        host.commit(host.pair()[:1])
    host.commit([NewFile(f"{PKI}/etcd/server.key", NEW[KEY])])
    host.recover()
    assert {path: host.at(path).read_bytes() for path in NEW} == NEW


# Failing disks


@pytest.fixture
def mount(root: None) -> Iterator[Callable[..., None]]:
    """Mount file systems until the end of the test."""
    with ExitStack() as mounted:

        def make(*arguments: str, on: Path) -> None:
            done = subprocess.run(["mount", *arguments, on], capture_output=True, text=True, check=False)
            if done.returncode:
                unavailable(f"nothing can be mounted here: {done.stderr}")
            mounted.callback(lambda: subprocess.run(["umount", on], check=True))

        yield make


Mount = Callable[..., None]


def fill(directory: Path, leave: int) -> None:
    """Leave so many bytes free."""
    (directory / "filler").unlink(missing_ok=True)
    free = os.statvfs(directory)
    with (directory / "filler").open("wb") as filler:
        filler.write(bytes(free.f_bavail * free.f_frsize - leave))


def test_full_disk_is_detected_beforehand(host: Host, mount: Mount) -> None:
    """On a full disk nothing begins, and the error has the file system and the missing bytes. On a disk with enough
    room the transaction completes.
    """
    mount("-t", "tmpfs", "-o", "size=512k", "tmpfs", on=host.at(KUBELET))
    key, crt = f"{KUBELET}/a.key", f"{KUBELET}/a.crt"
    host.commit([NewFile(key, SECRET), NewFile(crt, b"old")])
    changes = [host.new(key, SECRET * 200), host.new(crt, b"new" * 2000)]
    for free in range(0, 64 << 10, 8 << 10):
        fill(host.at(KUBELET), leave=free)
        message = host.error([*host.pair(), *changes])
        assert message == f"{key} could not be written (less than 86016 bytes are free); free space on its file system"
    fill(host.at(KUBELET), leave=88 << 10)
    host.commit(changes)
    assert host.at(crt).read_bytes() == b"new" * 2000


@pytest.mark.parametrize("leave", [0, 4096, 8192, 12288, 16384, 20480])
def test_disk_that_fills_up_meanwhile(host: Host, mount: Mount, leave: int) -> None:
    """Whenever the disk with certmond's own state fills up, all is done or nothing is; the decision needs no room."""
    host.state.mkdir()
    mount("-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", on=host.state)
    before = host.snapshot()

    def keep() -> None:
        fill(host.state, leave)
        host.archive.store("apiserver", {path: host.at(path) for path in OLD}, WHEN, {})

    if leave > 8192:
        host.commit(host.pair(), before_rename=keep)
        assert {path: host.at(path).read_bytes() for path in NEW} == NEW
    else:
        with pytest.raises(WriteError, match=r"\(No space left on device\): free space on its file system"):
            host.commit(host.pair(), before_rename=keep)
        assert host.snapshot() == before
    assert host.records() == []
    (host.state / "filler").unlink()
    fill(host.state, 0)
    assert host.recover() == ()


def test_no_inodes(host: Host, mount: Mount) -> None:
    """A file system without free inodes is reported as such, and nothing begins."""
    mount("-t", "tmpfs", "-o", "nr_inodes=20", "tmpfs", on=host.at(KUBELET))
    for number in range(11):
        host.at(f"{KUBELET}/{number}").touch()
    message = host.error([NewFile(f"{KUBELET}/a.key", SECRET)])
    assert message == f"{KUBELET}/a.key could not be written (its file system has no inodes left); remove files from it"
    host.at(f"{KUBELET}/0").unlink()
    host.at(f"{KUBELET}/1").unlink()
    host.commit([NewFile(f"{KUBELET}/a.key", SECRET)])


def test_read_only(host: Host, mount: Mount) -> None:
    """On a read-only file system nothing is begun, and other files are no exception."""
    mount("-o", "bind,ro", str(host.at(PKI)), on=host.at(PKI))
    problems = host.error([*host.pair(), NewFile(f"{PKI}/a.key", b"")]).split("\n")
    assert problems == [
        f"{path} could not be written (Read-only file system): mount its file system writable"
        for path in (KEY, CRT, f"{PKI}/a.key")
    ]


def test_read_only_state(host: Host, mount: Mount) -> None:
    """Without a record, certmond writes nothing."""
    host.commit([])
    mount("-o", "bind,ro", str(host.state), on=host.state)
    with pytest.raises(WriteError, match=r"state/\.lock could not be written \(Read-only file system\)"):
        host.commit(host.pair())


def test_file_that_is_a_mount_point(host: Host, mount: Mount) -> None:
    """A mounted file cannot be replaced. The error comes before any change, not between key and certificate."""
    (host.place / "other").write_bytes(OLD[CRT])
    mount("--bind", str(host.place / "other"), on=host.at(CRT))
    assert "it is a mount point" in host.error(host.pair())


@contextmanager
def attribute(letter: str, path: Path) -> Iterator[Callable[[], None]]:
    """Return a function that sets this attribute of the file (chattr), which is removed at the end."""
    chattr = real_part("chattr")

    def give() -> None:
        done = subprocess.run([chattr, f"+{letter}", path], capture_output=True, text=True, check=False)
        if done.returncode:
            unavailable(f"no file can be made immutable here: {done.stderr}")

    try:
        yield give
    finally:
        subprocess.run([chattr, f"-{letter}", path], check=True)


@pytest.mark.real("chattr")
@pytest.mark.parametrize("letter", ["i", "a"])
@pytest.mark.parametrize("path", [CRT, PKI])
def test_immutable(host: Host, letter: str, path: str) -> None:
    """An immutable or append-only file or directory is reported before any change, with the command that changes the
    attribute.
    """
    with attribute(letter, host.at(path)) as give:
        give()
        message = host.error(host.pair())
    assert f"{CRT} could not be written" in message
    assert "immutable" in message


@pytest.mark.real("chattr")
def test_first_rename_fails(host: Host) -> None:
    """If the first file cannot be replaced, everything is undone at once, and the old files stay."""
    before = host.snapshot()
    with (
        attribute("i", host.at(KEY)) as give,
        pytest.raises(
            WriteError, match=r"could not be replaced \(Operation not permitted\): .*; the old files are unchanged"
        ),
    ):
        host.commit(host.pair(), before_rename=give)
    assert host.snapshot() == before
    assert host.records() == []


@pytest.mark.real("chattr")
def test_second_rename_fails(host: Host) -> None:
    """If the second rename fails, the transaction can only go forward. The error reports it, and the next start
    completes it.
    """
    with attribute("i", host.at(CRT)) as give:
        with pytest.raises(WriteError, match="the next start of certmond tries again"):
            host.commit(host.pair(), before_rename=give)
        assert [recovery.outcome for recovery in host.recover()] == [Outcome.PENDING]
        assert {path: host.at(path).read_bytes() for path in NEW} == {**OLD, KEY: NEW[KEY]}
    assert [recovery.outcome for recovery in host.recover()] == [Outcome.FINISHED]
    assert {path: host.at(path).read_bytes() for path in NEW} == NEW
    assert host.records() == []


def test_file_system_without_attributes_and_limits(host: Host, mount: Mount) -> None:
    """A file system without extended attributes and without a limit of blocks and inodes works."""
    mount("-t", "ramfs", "ramfs", on=host.at(KUBELET))
    host.commit([NewFile(f"{KUBELET}/a.key", b"old")])
    host.commit([host.new(f"{KUBELET}/a.key", NEW[KEY])])
    assert host.at(f"{KUBELET}/a.key").read_bytes() == NEW[KEY]


def test_too_large(host: Host) -> None:
    """A file that is too large for a certificate is not replaced."""
    host.at(CRT).write_bytes(bytes(2 << 20))
    assert f"{CRT} could not be written (File too large)" in host.error(host.pair())


WRITER = """
import hashlib, sys
from pathlib import Path
from certmond.errors import WriteError
from certmond.transaction.commit import NewFile, Transactions

root, state, *pairs = sys.argv[1:]
changes = []
for path, content in zip(pairs[::2], pairs[1::2]):
    expected = hashlib.sha256(Path(root + path).read_bytes()).hexdigest()
    changes.append(NewFile(path, content.encode(), expected=expected))
try:
    with Transactions(root, Path(state)).lock() as writer:
        writer.commit(changes, verify=lambda _: None)
except WriteError as error:
    print(error)
    sys.exit(3)
"""


def inject(host: Host, call: str, fault: str) -> subprocess.CompletedProcess[str]:
    """Replace the pair in a separate process whose system calls fail as requested."""
    words = [word for path, content in NEW.items() for word in (path, content.decode())]
    quickly = [real_part("strace"), "-f", "--seccomp-bpf", "-o", "/dev/null"]  # it ignores the other calls
    command = [*quickly, "-e", f"trace={call}", "-e", f"inject={call}:{fault}",
               sys.executable, "-c", WRITER, str(host.root), str(host.state), *words]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONDONTWRITEBYTECODE": "1"},
                          cwd=Path(__file__).parents[2])  # fmt: skip


def calls_of_a_commit(host: Host) -> Mapping[str, int]:
    """Return how often each system call is made into which an error can be injected."""
    changes = host.pair()
    stops = [stop.removeprefix("entry ") for stop in record(lambda: host.commit(changes)) if stop.startswith("entry ")]
    return {call: stops.count(call) for call in stops if call not in {"exit_group", "openat"}}


@pytest.mark.long
@pytest.mark.real("strace")
@pytest.mark.parametrize("error", ["EIO", "EDQUOT"])
def test_any_call_fails_once(tmp_path: Path, error: str) -> None:
    """Whichever call fails, with any error: all is new, or all is old with a reason. No leftover remains."""
    hosts = fresh_hosts(tmp_path)
    host = next(hosts)
    before = host.snapshot()
    calls = calls_of_a_commit(host)
    after = host.snapshot()
    failed = 0
    kinds = {"EIO": calls.keys(), "EDQUOT": {"write", "mkdir", "fsync"}}[error]
    faults = [(kind, n + 1) for kind in kinds for n in range(calls[kind])]
    for call, n in sample(faults, 3 * len(kinds), f"any call, {error}", kind=lambda fault: fault[0]):
        host = next(hosts)
        done = inject(host, call, f"error={error}:when={n}")
        assert done.returncode in {0, 3}, done.stderr
        found = host.snapshot()
        left = len(host.records())
        assert (found == after) is (done.returncode == 0), f"{call} {n}: {done.stdout}"
        if done.returncode:
            assert found == before, f"{call} {n}"
            assert {"EIO": "Input/output error", "EDQUOT": "Disk quota exceeded"}[error] in done.stdout
            failed += 1
        assert left == 0, f"{call} {n}"
    assert failed > len(kinds)


@pytest.mark.long
@pytest.mark.real("strace")
def test_a_disk_that_keeps_failing(tmp_path: Path) -> None:
    """A disk that keeps failing leaves the old files, or a state that the next start completes. The error reports
    which.
    """
    hosts = fresh_hosts(tmp_path)
    host = next(hosts)
    before = host.snapshot()
    calls = calls_of_a_commit(host)
    after = host.snapshot()
    waiting = 0
    for call, n in [(kind, n + 1) for kind in ("renameat", "fsync", "unlinkat") for n in range(calls[kind])]:
        host = next(hosts)
        done = inject(host, call, f"error=EROFS:when={n}+")
        assert done.returncode == 3, done.stderr
        if "the next start of certmond tries again" in done.stdout:
            waiting += 1
            host.recover()
            assert host.snapshot() in (before, after)
        else:
            assert {path: host.at(path).read_bytes() for path in NEW} == OLD
            host.recover()
            assert host.snapshot() == before
        assert host.records() == []
    assert waiting >= 3


@pytest.mark.real("strace")
def test_a_disk_that_returns_other_bytes(host: Host) -> None:
    """A file that is read back with other bytes is never installed, although every call succeeded."""
    host.commit([])  # the state directory is there
    before = host.snapshot()
    done = inject(host, "write", f"retval={len(NEW[KEY])}:when=2")
    assert (done.returncode, done.stdout.count("its content differs from the written content")) == (3, 1)
    assert host.snapshot() == before
    assert host.records() == []


@pytest.mark.real("strace")
def test_no_extended_attributes(host: Host) -> None:
    """A file system that reports no support of extended attributes is written to."""
    done = inject(host, "flistxattr", "error=EOPNOTSUPP")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: host.at(path).read_bytes() for path in NEW} == NEW


def test_a_path_below_the_root_directory_has_one_slash(tmp_path: Path) -> None:
    """With the root `/` each message has a path with one leading slash."""
    assert str(Transactions("/", tmp_path).real("/etc/passwd")) == "/etc/passwd"
    (tmp_path / "etc").mkdir()
    assert str(Transactions(str(tmp_path), tmp_path).real("/etc/passwd")) == f"{tmp_path}/etc/passwd"


@pytest.mark.parametrize(
    ("number", "user", "remedy"),
    [
        (errno.EACCES, 0, "add the directory to ReadWritePaths= of the unit of certmond"),
        (errno.EPERM, 0, "remove the immutable attribute (lsattr, chattr -i)"),
        (errno.EACCES, 1000, "run certmond as root"),
        (errno.EPERM, 1000, "run certmond as root"),
        (errno.ENOSPC, 1000, "free space on its file system"),
    ],
)
def test_a_missing_permission_has_the_remedy_of_the_user(
    monkeypatch: pytest.MonkeyPatch, number: int, user: int, remedy: str
) -> None:
    """Root lacks a permission only in a unit, or for an immutable file. Any other user runs certmond as root."""
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert reason(OSError(number, os.strerror(number))) == f"({os.strerror(number)}): {remedy}"
