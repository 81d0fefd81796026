"""No write for an entry goes through a symlink into a file of a CA, of another entry, or of another program."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certmond.errors import WriteError
from certmond.host.destination import Destinations
from certmond.host.node_files import NodeFiles
from certmond.pki.catalog import CertificateSpec
from tests.builders import DAY, make_leaf
from tests.test_renewal import CA, ENTRIES, Host
from tests.test_repairs import kinds, whole

API = ENTRIES["apiserver"]
PASSWD = "/etc/passwd"


def linked(path: str, target: str) -> Callable[[Host], None]:
    """Root's symlink in the place of a file, to another one, as by a mistyped `ln -s`."""

    def link(host: Host) -> None:
        host.at(path).unlink()
        host.at(path).symlink_to(target)

    return link


def moved(host: Host, path: str, target: str) -> None:
    """The file elsewhere, and a symlink to it in its place."""
    real = host.at(target if target.startswith("/") else f"{os.path.dirname(path)}/{target}")
    real.parent.mkdir(parents=True, exist_ok=True)
    host.at(path).rename(real)
    host.at(path).symlink_to(target)


ASTRAY = {
    "key to the CA's key": (API["key"], linked(API["key"], "ca.key"), CA["key"]),
    "certificate to the CA's": (API["path"], linked(API["path"], "ca.crt"), CA["path"]),
    "key to another program's file": (API["key"], linked(API["key"], PASSWD), PASSWD),
}


@pytest.mark.parametrize("archived", [True, False])
@pytest.mark.parametrize("how", ASTRAY)
def test_a_symlink_astray_is_not_followed(tmp_path: Path, how: str, archived: bool) -> None:
    """The daemon, `renew` and `archive restore` leave the target of such a symlink alone and name symlink, target and
    remedy; when the symlink is removed, the pair is put right.
    """
    path, link, target = ASTRAY[how]
    host = whole(tmp_path, "apiserver", archived=archived)
    host.put(PASSWD, b"root:x:0:0::/:/bin/sh\n")
    before = {each: host.at(each).read_bytes() for each in (CA["path"], CA["key"], PASSWD)}
    link(host)
    said = f"{path} leads through a symlink to {target}, "
    assert host.start_once() == ()
    (held,) = host.plan().held
    assert said in held.because
    assert held.because.endswith(f"; remove the symlink: rm {path}")
    asked = host.enforcer().plan(host.look(), frozenset({"apiserver"}))
    assert asked.steps == ()
    assert said in asked.held[0].because
    assert any(said in each for each in host.unwell())
    if archived:
        with pytest.raises(WriteError, match="leads through a symlink"):
            host.restoration().restore("apiserver", None, dry_run=True)
        with pytest.raises(WriteError, match="leads through a symlink"):
            host.restoration().restore("apiserver", None, dry_run=False)
    assert {each: host.at(each).read_bytes() for each in before} == before
    host.at(path).unlink()
    assert kinds(host.start_once()) == [("restore" if archived else "issue", "done")]
    assert {each: host.at(each).read_bytes() for each in before} == before


def test_a_shared_key_behind_a_symlink_tears_no_pair(tmp_path: Path) -> None:
    """A generation of the archive with another key is not put back where the pair of another entry, which has a symlink
    to that key, would no longer belong together.
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
    assert "the files of second would not belong together" in outcome.message


ELSEWHERE = {
    "in the same directory": "apiserver-2026.key",
    "in a directory of generations": "2026-11/apiserver.key",
    "in a directory of its own": "/srv/keys/apiserver.key",
}


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"-----BEGIN PRIVATE KEY-----\ncut", None])
@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_symlink_to_a_file_of_the_entry_is_followed(tmp_path: Path, where: str, content: bytes | None) -> None:
    """A file behind a symlink is put right where it is, and the symlink stays: below the directory of the entry, and
    elsewhere what is missing, empty, or a part of a key.
    """
    host = whole(tmp_path, "apiserver", archived=False)
    moved(host, API["key"], ELSEWHERE[where])
    if content is None:
        host.real(API["key"]).unlink()
    else:
        host.real(API["key"]).write_bytes(content)
    assert kinds(host.start_once()) == [("issue", "done")]
    assert host.unwell() == []
    assert os.readlink(host.at(API["key"])) == ELSEWHERE[where]


def test_a_directory_behind_a_symlink_is_a_directory(tmp_path: Path) -> None:
    """Where the whole directory of the PKI is a symlink, its files are put right as anywhere."""
    host = whole(tmp_path, "apiserver", archived=False)
    moved(host, "/etc/kubernetes/pki", "/srv/pki")
    host.real(API["key"]).write_bytes(b"")
    assert kinds(host.start_once()) == [("issue", "done")]
    assert host.unwell() == []


def spec(name: str, path: str, key: str | None = None, **more: Any) -> CertificateSpec:
    return CertificateSpec(name=name, path=path, key=key, **more)


def test_one_pair_by_two_paths_is_one_pair(tmp_path: Path) -> None:
    """A pair that two entries have by different paths may be written by each of them; the pair of a CA, and a half of
    another pair, may not. By one and the same path, the configuration has it so.
    """
    own = spec("web", "/a/web.crt", "/a/web.key")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a/web.crt").symlink_to("/b/x.crt")
    (tmp_path / "a/web.key").symlink_to("/b/x.key")
    files, paths = NodeFiles(str(tmp_path)), ("/a/web.key", "/a/web.crt")

    def astray(*others: CertificateSpec) -> str | None:
        return Destinations([own, *others], files).astray(paths, own)

    assert astray() is None
    assert astray(spec("other", "/b/x.crt", "/b/x.key")) is None
    assert "/b/x.key, a file of ca;" in str(astray(spec("ca", "/b/x.crt", "/b/x.key", authority=True)))
    assert "/b/x.key, a file of other;" in str(astray(spec("other", "/b/y.crt", "/b/x.key")))
    assert astray(spec("other", "/b/y.crt", "/a/web.key")) is None


def test_a_directory_that_leads_to_the_ca_is_not_removed_by_advice(tmp_path: Path) -> None:
    """Where a symlink on the way leads to the file of a CA, the remedy does not name a command that removes the file of
    the CA.
    """
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki/etcd").symlink_to(".")
    own, ca = spec("leaf", "/pki/etcd/ca.crt"), spec("ca", "/pki/ca.crt", "/pki/ca.key", authority=True)
    said = Destinations([own, ca], NodeFiles(str(tmp_path))).astray(["/pki/etcd/ca.crt"], own)
    assert said == (
        "/pki/etcd/ca.crt leads through a symlink to /pki/ca.crt, a file of ca; give it a directory of its own"
    )
