"""certmond writes no file of an entry through a symlink to a file of a CA, of another entry, or of another program."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certmond.errors import WriteError
from certmond.pki.catalog.entries import CertificateSpec
from certmond.renewal.symlink_target_check import SymlinkTargets
from certmond.transaction.node_file_reader import NodeFiles
from tests.builders import DAY, make_leaf
from tests.test_renewal import CA, ENTRIES, Host
from tests.test_repairs import kinds, whole

API = ENTRIES["apiserver"]
PASSWD = "/etc/passwd"


def linked(path: str, target: str) -> Callable[[Host], None]:
    """Return a function that replaces the file `path` with a symlink of root to `target`, like a wrong `ln -s`."""

    def link(host: Host) -> None:
        host.at(path).unlink()
        host.at(path).symlink_to(target)

    return link


def moved(host: Host, path: str, target: str) -> None:
    """Move the file `path` to `target`, and replace it with a symlink to `target`."""
    real = host.at(target if target.startswith("/") else f"{os.path.dirname(path)}/{target}")
    real.parent.mkdir(parents=True, exist_ok=True)
    host.at(path).rename(real)
    host.at(path).symlink_to(target)


WRONG_LINKS = {
    "key to the CA's key": (API["key"], linked(API["key"], "ca.key"), CA["key"]),
    "certificate to the CA's": (API["path"], linked(API["path"], "ca.crt"), CA["path"]),
    "key to another program's file": (API["key"], linked(API["key"], PASSWD), PASSWD),
}


@pytest.mark.long
@pytest.mark.parametrize("archived", [True, False])
@pytest.mark.parametrize("how", WRONG_LINKS)
def test_certmond_does_not_write_through_a_wrong_symlink(tmp_path: Path, how: str, archived: bool) -> None:
    """The daemon, `renew` and `archive restore` do not change the target of such a symlink. They name the symlink, its
    target and the remedy. After the symlink is removed, certmond repairs the pair.
    """
    path, link, target = WRONG_LINKS[how]
    host = whole(tmp_path, "apiserver", archived=archived)
    host.put(PASSWD, b"root:x:0:0::/:/bin/sh\n")
    before = {each: host.at(each).read_bytes() for each in (CA["path"], CA["key"], PASSWD)}
    link(host)
    said = f"{path} refers through a symlink to {target}, "
    assert host.start_once() == ()
    (held,) = host.plan().held
    assert said in held.because
    assert held.because.endswith(f"; remove the symlink: rm {path}")
    requested = host.enforcer().plan(host.look(), frozenset({"apiserver"}))
    assert requested.steps == ()
    assert said in requested.held[0].because
    assert any(said in each for each in host.unwell())
    if archived:
        with pytest.raises(WriteError, match="refers through a symlink"):
            host.restoration().restore("apiserver", None, dry_run=True)
        with pytest.raises(WriteError, match="refers through a symlink"):
            host.restoration().restore("apiserver", None, dry_run=False)
    assert {each: host.at(each).read_bytes() for each in before} == before
    host.at(path).unlink()
    assert kinds(host.start_once()) == [("restore" if archived else "issue", "done")]
    assert {each: host.at(each).read_bytes() for each in before} == before


def test_a_restored_key_does_not_break_the_pair_of_another_entry(tmp_path: Path) -> None:
    """Another entry has a symlink to the key. certmond does not restore a generation with a different key, because the
    certificate and the key of the other entry would no longer match.
    """
    host = whole(tmp_path, "apiserver", archived=True)
    second = {"path": "/etc/kubernetes/pki/second.crt", "key": "/etc/kubernetes/pki/second.key"}
    host.entries["second"] = {"name": "second", "subject": "CN=second", "usages": ["client auth"], **second}
    key: Any = load_pem_private_key(host.at(API["key"]).read_bytes(), None)
    leaf = make_leaf(host.ca, "second", key=key, not_before=host.now - DAY, not_after=host.now + 90 * DAY)
    host.put(second["path"], leaf.pem)
    host.at(second["key"]).symlink_to("apiserver.key")
    before = host.at(API["key"]).read_bytes()
    host.at(API["path"]).write_bytes(b"x")
    (outcome,) = host.start_once()
    assert (outcome.result, host.at(API["key"]).read_bytes()) == ("failed", before)
    assert "the certificate and the key of second would not match" in outcome.message


TARGETS = {
    "in the same directory": "apiserver-2026.key",
    "in a directory of generations": "2026-11/apiserver.key",
    "in another directory": "/srv/keys/apiserver.key",
}


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"-----BEGIN PRIVATE KEY-----\ncut", None])
@pytest.mark.parametrize("where", TARGETS)
def test_certmond_writes_through_a_symlink_to_a_file_of_the_entry(
    tmp_path: Path, where: str, content: bytes | None
) -> None:
    """certmond repairs the target and does not change the symlink. The target is below the directory of the entry, or
    elsewhere if it is missing, empty, or a truncated key.
    """
    host = whole(tmp_path, "apiserver", archived=False)
    moved(host, API["key"], TARGETS[where])
    if content is None:
        host.real(API["key"]).unlink()
    else:
        host.real(API["key"]).write_bytes(content)
    assert kinds(host.start_once()) == [("issue", "done")]
    assert host.unwell() == []
    assert os.readlink(host.at(API["key"])) == TARGETS[where]


def test_certmond_writes_into_a_directory_behind_a_symlink(tmp_path: Path) -> None:
    """If the PKI directory is a symlink, certmond repairs the files in its target."""
    host = whole(tmp_path, "apiserver", archived=False)
    moved(host, "/etc/kubernetes/pki", "/srv/pki")
    host.real(API["key"]).write_bytes(b"")
    assert kinds(host.start_once()) == [("issue", "done")]
    assert host.unwell() == []


def spec(name: str, path: str, key: str | None = None, **more: Any) -> CertificateSpec:
    return CertificateSpec(name=name, path=path, key=key, **more)


def test_two_entries_may_have_one_pair_by_two_paths(tmp_path: Path) -> None:
    """certmond writes such a pair for each of the entries. It does not write the pair of a CA, or one file of another
    pair. If both entries name the same path, the configuration permits the write.
    """
    own = spec("web", "/a/web.crt", "/a/web.key")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a/web.crt").symlink_to("/b/x.crt")
    (tmp_path / "a/web.key").symlink_to("/b/x.key")
    files, paths = NodeFiles(str(tmp_path)), ("/a/web.key", "/a/web.crt")

    def objection(*others: CertificateSpec) -> str | None:
        return SymlinkTargets([own, *others], files).objection(paths, own)

    assert objection() is None
    assert objection(spec("other", "/b/x.crt", "/b/x.key")) is None
    assert "/b/x.key, a file of ca;" in str(objection(spec("ca", "/b/x.crt", "/b/x.key", authority=True)))
    assert "/b/x.key, a file of other;" in str(objection(spec("other", "/b/y.crt", "/b/x.key")))
    assert objection(spec("other", "/b/y.crt", "/a/web.key")) is None


def test_the_remedy_does_not_remove_a_file_of_the_ca(tmp_path: Path) -> None:
    """If a parent directory is a symlink that leads to the file of a CA, the remedy has no `rm` command, which would
    remove this file.
    """
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki/etcd").symlink_to(".")
    own, ca = spec("leaf", "/pki/etcd/ca.crt"), spec("ca", "/pki/ca.crt", "/pki/ca.key", authority=True)
    said = SymlinkTargets([own, ca], NodeFiles(str(tmp_path))).objection(["/pki/etcd/ca.crt"], own)
    assert said == (
        "/pki/etcd/ca.crt refers through a symlink to /pki/ca.crt, a file of ca; "
        "store the files of the entry in a separate directory"
    )
