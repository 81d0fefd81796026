"""The files of one step of a rotation, on a real kubeadm node: all as they are wanted, or all as they were."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.errors import CertmondError, KeyUnusableError, RefusedError, WriteError
from certmond.formats.private_key import load_key
from certmond.pki.planning.steps import AbsentFile, Bundle, FileChange, Flags, KeyOf, Rotate, Trusting
from certmond.pki.rotation.trust_anchor_state import SIGNING_FLAGS
from certmond.pki.x509.certificate import Certificate, to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.rotation.staged_ca import Part, Staging
from certmond.rotation.step_files import StepFiles
from certmond.state.archive import Archive
from certmond.transaction.commit import Transactions
from certmond.transaction.node_file_reader import NodeFiles
from tests.builders import Issued, make_ca
from tests.conftest import unavailable
from tests.node import Node

PKI = "/etc/kubernetes/pki"
CRT, KEY = f"{PKI}/ca.crt", f"{PKI}/ca.key"
APART = (f"{PKI}/signing-ca.crt", f"{PKI}/signing-ca.key")
MANIFEST = "/etc/kubernetes/manifests/kube-controller-manager.yaml"
ADMIN = "/etc/kubernetes/admin.conf"


class Arranged:
    """A node, its state directory, and the object that makes the files of a step there."""

    def __init__(self, node: Node, state: Path) -> None:
        state.mkdir()
        self.node, self.state, self.new = node, state, make_ca()
        self.staging = Staging(state)
        self._files, self._archive = NodeFiles(str(node.root)), Archive(state)
        entries = parse([Source("test", "profile: kubeadm")]).certificates
        self._arrangement = StepFiles(entries, self._files, self.staging, self._archive)
        (self.old,) = self.certificates(CRT)

    def stage(self, ca: Issued | None = None) -> None:
        ca = ca or self.new
        self.staging.put(Part.NEW, "ca", ca.facts, load_key(ca.key_pem, ""))

    def make(
        self,
        *wants: FileChange,
        meanwhile: Callable[[], object] = lambda: None,
        target: tuple[str, str] = ("ca", CRT),
        known: tuple[Certificate, ...] = (),
    ) -> str:
        """Make one step; `meanwhile` is called when all drafts are written."""
        transactions = Transactions(str(self.node.root), self.state)

        def real(path: str) -> Path:
            found = transactions.real(path)
            meanwhile()
            return found

        with transactions.lock() as writer:
            step = Rotate(*target, "all wants are required", wants, known=known)
            return self._arrangement.replace(step, writer, datetime.now(UTC), real)

    def read(self, path: str) -> bytes:
        return self.node.read(path[1:])

    def mode(self, path: str) -> int:
        return self.node.path(path[1:]).stat().st_mode & 0o777

    def certificates(self, path: str) -> tuple[Certificate, ...]:
        return decode(self.read(path), path).certificates

    def tree(self) -> dict[Path, str]:
        """Return the hash of every file below /etc/kubernetes, including drafts of certmond."""
        root = self.node.path("etc/kubernetes")
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}

    def archived(self) -> list[Path]:
        return sorted(path for path in (self.state / "archive").rglob("*") if path.is_file())


@pytest.fixture
def arranged(node: Node, tmp_path: Path) -> Arranged:
    return Arranged(node, tmp_path / "state")


def test_the_keys_of_tokens(arranged: Arranged) -> None:
    """The key and the public keys have the required state, and the key is closed to others. The old key is stored with
    the rotation, and its public half in the archive.
    """
    pub, key, new = f"{PKI}/sa.pub", f"{PKI}/sa.key", arranged.new.facts.key
    (old,), mode = decode(arranged.read(pub), pub).public_keys, arranged.mode(pub)
    arranged.staging.put(Part.NEW, "sa", new, load_key(arranged.new.key_pem, ""))
    arranged.make(KeyOf(key, new), Bundle(pub, (new, old)), target=("sa", pub))
    assert decode(arranged.read(pub), pub).public_keys == (new, old)
    assert decode(arranged.read(key), key).key == new
    assert [arranged.mode(path) for path in (key, pub)] == [0o600, mode]
    assert (kept := arranged.staging.read(Part.OLD))
    assert (kept.family, kept.anchor, kept.key, kept.fault) == ("sa", old, old, None)
    assert any(decode(path.read_bytes(), "").public_keys == (old,) for path in arranged.archived())
    assert not any(b"PRIVATE" in path.read_bytes() for path in arranged.archived())


def test_everything_at_once(arranged: Arranged) -> None:
    """Key, certificates and flags have the required state. Keys are closed to others, and the manifest changes only in
    its flags. The replaced certificate is archived, and its key is stored only with the rotation.
    """
    arranged.stage()
    old, new = arranged.old, arranged.new.facts
    manifest = yaml.safe_load(arranged.read(MANIFEST))
    said = arranged.make(
        KeyOf(APART[1], new), Bundle(APART[0], (new,)), KeyOf(KEY, new), Bundle(CRT, (new, old)),
        Flags(MANIFEST, "kube-controller-manager", tuple(zip(SIGNING_FLAGS, APART, strict=True))),
    )  # fmt: skip
    assert "done" in said
    assert arranged.certificates(CRT) == (new, old)
    assert arranged.certificates(APART[0]) == (new,)
    assert [decode(arranged.read(path), path).key for path in (KEY, APART[1])] == [new.key, new.key]
    assert [arranged.mode(path) for path in (KEY, APART[1], CRT, APART[0])] == [0o600, 0o600, 0o644, 0o644]
    command = manifest["spec"]["containers"][0]["command"]
    for flag, before, after in zip(SIGNING_FLAGS, (CRT, KEY), APART, strict=True):
        command[command.index(f"--{flag}={before}")] = f"--{flag}={after}"
    assert yaml.safe_load(arranged.read(MANIFEST)) == manifest
    kept = arranged.staging.read(Part.OLD)
    assert kept is not None
    assert (kept.anchor, kept.key, kept.fault) == (old, old.key, None)
    assert any(decode(path.read_bytes(), "").certificates == (old,) for path in arranged.archived())
    assert not [path for path in arranged.archived() if b"PRIVATE KEY" in path.read_bytes()]
    assert list((arranged.state / "transactions").glob("*")) == []


def test_an_abort_restores_the_key(arranged: Arranged) -> None:
    """During an abort the old key is restored from the rotation's files, and the new one is stored there."""
    arranged.stage()
    old, new = arranged.old, arranged.new.facts
    before = decode(arranged.read(KEY), KEY).key
    arranged.make(KeyOf(KEY, new), Bundle(CRT, (new, old)))
    arranged.make(KeyOf(KEY, old), Bundle(CRT, (old, new)))
    assert decode(arranged.read(KEY), KEY).key == before
    assert arranged.certificates(CRT) == (old, new)
    kept = [arranged.staging.read(part) for part in Part]
    assert [each.anchor for each in kept if each] == [new, old]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("old.key", make_ca().key_pem, "old.key is not the key of "),
        ("old.key", b"rubbish", "old.key is not the key of "),
        ("old.crt", make_ca().pem, "old.key is not the key of "),
        ("new.key", b"rubbish", "new.key is not the key of "),
        ("whole", b"", "old.key contains another key"),
    ],
)
def test_a_stored_key_is_never_destroyed_for_another_one(
    arranged: Arranged, name: str, content: bytes, said: str
) -> None:
    """A key is removed only where a complete copy is stored. If another or an unreadable file is in its place, all
    files stay, and the error names the file.
    """
    arranged.stage()
    other, back = make_ca(), name == "new.key"
    arranged.staging.put(Part.OLD, "ca", other.facts, load_key(other.key_pem, ""))
    if back:  # during an abort the new CA's key is removed
        for path, its in ((CRT, arranged.new.pem), (KEY, arranged.new.key_pem)):
            arranged.node.path(path[1:]).write_bytes(its)
    elif name == "old.key":
        (arranged.staging.directory / "old.crt").write_bytes(to_pem(arranged.old))
    if name != "whole":
        (arranged.staging.directory / name).write_bytes(content)
    wanted = other.facts if back else arranged.new.facts
    before, kept = arranged.tree(), {each: each.read_bytes() for each in arranged.staging.directory.iterdir()}
    with pytest.raises(WriteError, match=f"{said}.*; certmond does not replace {KEY}, because"):
        arranged.make(KeyOf(KEY, wanted), Bundle(CRT, (wanted,)))
    assert arranged.tree() == before
    assert {each: each.read_bytes() for each in arranged.staging.directory.iterdir()} == kept


def test_a_kubeconfig_trusts_both(arranged: Arranged) -> None:
    """Its trust is replaced, and all else in it stays, including its mode."""
    before = yaml.safe_load(arranged.read(ADMIN))
    mode = arranged.mode(ADMIN)
    arranged.make(Trusting(ADMIN, (arranged.old, arranged.new.facts)))
    after = yaml.safe_load(arranged.read(ADMIN))
    (cluster,) = after["clusters"]
    trusted = base64.b64decode(cluster["cluster"].pop("certificate-authority-data"))
    before["clusters"][0]["cluster"].pop("certificate-authority-data")
    assert decode(trusted, "").certificates == (arranged.old, arranged.new.facts)
    assert (after, arranged.mode(ADMIN)) == (before, mode)


def test_each_cluster_of_a_kubeconfig_trusts_both(arranged: Arranged) -> None:
    """Every cluster that embeds an anchor of the rotation gets the required anchors, and keeps its other CAs. A cluster
    without one of them stays, as does everything else.
    """
    other = make_ca()
    document = yaml.safe_load(arranged.read(ADMIN))
    embedded = {"direct": (arranged.old,), "beside": (other.facts, arranged.old), "elsewhere": (other.facts,)}
    for name, trust in embedded.items():
        data = base64.b64encode(b"".join(map(to_pem, trust))).decode()
        entry = {"server": f"https://{name}:6443", "certificate-authority-data": data}
        document["clusters"].append({"name": name, "cluster": entry})
    arranged.node.write(ADMIN[1:], yaml.safe_dump(document).encode())
    both = (arranged.old, arranged.new.facts)
    arranged.make(Trusting(ADMIN, both, frozenset(both)))
    after = yaml.safe_load(arranged.read(ADMIN))
    found = [
        decode(base64.b64decode(each["cluster"].pop("certificate-authority-data")), "").certificates
        for each in after["clusters"]
    ]
    assert found == [both, both, (*both, other.facts), (other.facts,)]
    for each in document["clusters"]:
        each["cluster"].pop("certificate-authority-data")
    assert after == document


def test_an_unwanted_file_is_removed(arranged: Arranged) -> None:
    """A file that is no longer required is removed. A missing one is no error."""
    for path in APART:
        arranged.node.write(path[1:], b"former")
    arranged.make(*map(AbsentFile, APART))
    assert not [path for path in APART if arranged.node.path(path[1:]).exists()]
    before = arranged.tree()
    arranged.make(*map(AbsentFile, APART))
    assert arranged.tree() == before


def test_the_same_once_more_changes_nothing_that_can_be_read(arranged: Arranged) -> None:
    """A step that is done again leaves the same files."""
    arranged.stage()
    wants = KeyOf(KEY, arranged.new.facts), Bundle(CRT, (arranged.new.facts, arranged.old))
    arranged.make(*wants)
    before, kept = arranged.tree(), arranged.staging.read(Part.OLD)
    arranged.make(*wants)
    assert (arranged.tree(), arranged.staging.read(Part.OLD)) == (before, kept)


def spoil_nothing(_: Arranged) -> None:
    """The new key is nowhere."""


def another_key_in_place(arranged: Arranged) -> None:
    arranged.stage()
    arranged.node.write(KEY[1:], make_ca().key_pem)


def a_damaged_key_in_place(arranged: Arranged) -> None:
    arranged.stage()
    arranged.node.write(KEY[1:], b"-----BEGIN PRIVATE KEY-----\n")


def no_directory(arranged: Arranged) -> None:
    arranged.stage()
    arranged.node.path(MANIFEST[1:]).unlink()


REFUSED: dict[str, tuple[Callable[[Arranged], None], type[CertmondError], str]] = {
    "the key is nowhere": (
        spoil_nothing, KeyUnusableError, "is not on this node; stage it: certmond root-ca stage"
    ),
    "the key in place is another one's": (
        another_key_in_place, WriteError, f"{KEY} matches no certificate or public key in {CRT}; restore the"
    ),
    "the key in place is damaged": (a_damaged_key_in_place, CertmondError, KEY),
    "there is no manifest": (no_directory, CertmondError, MANIFEST),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_an_impossible_step_is_not_begun(arranged: Arranged, what: str) -> None:
    """If one part of a step is impossible, no file changes, and the error has the remedy."""
    spoil, kind, sentence = REFUSED[what]
    spoil(arranged)
    before = arranged.tree()
    new = arranged.new.facts
    with pytest.raises(kind) as caught:
        arranged.make(
            Bundle(APART[0], (new,)), KeyOf(KEY, new), Bundle(CRT, (new, arranged.old)),
            Flags(MANIFEST, "kube-controller-manager", tuple(zip(SIGNING_FLAGS, APART, strict=True))),
        )  # fmt: skip
    assert sentence in str(caught.value)
    assert arranged.tree() == before
    assert list((arranged.state / "transactions").glob("*")) == []


@pytest.mark.parametrize("what", ["both", "key", "certificate"])
def test_a_foreign_pair_stays(arranged: Arranged, what: str) -> None:
    """certmond does not replace another pair that was installed after the plan, nor one half of it."""
    arranged.stage()
    new, theirs = arranged.new.facts, make_ca()
    for path, content in ((KEY, theirs.key_pem), (CRT, theirs.pem)):
        if what in {"both", "key" if path == KEY else "certificate"}:
            arranged.node.replace(path[1:], content)
    before = arranged.tree()
    with pytest.raises(WriteError, match=r"another process has changed .* since the plan"):
        arranged.make(KeyOf(KEY, new), Bundle(CRT, (new, arranged.old)), known=(arranged.old, new))
    assert arranged.tree() == before
    assert arranged.staging.read(Part.OLD) is None


@pytest.mark.parametrize("path", APART)
def test_a_foreign_signer_stays(arranged: Arranged, path: str) -> None:
    """If the separate files of the controller-manager must be removed, another CA's certificate or key is neither
    replaced nor removed.
    """
    theirs = make_ca()
    arranged.node.write(path[1:], theirs.pem if path == APART[0] else theirs.key_pem)
    before, old, known = arranged.tree(), arranged.old, (arranged.old, arranged.new.facts)
    for wants in ((KeyOf(APART[1], old), Bundle(APART[0], (old,))), (AbsentFile(APART[0]), AbsentFile(APART[1]))):
        with pytest.raises(WriteError, match=f"another process has changed {path} since the plan"):
            arranged.make(*wants, known=known)
    assert arranged.tree() == before


@pytest.mark.parametrize("path", [CRT, KEY])
def test_a_concurrent_write_stays(arranged: Arranged, path: str) -> None:
    """A file that changed since it was read is not overwritten, whichever it is."""
    arranged.stage()
    new, theirs = arranged.new.facts, make_ca()
    content = theirs.pem if path == CRT else theirs.key_pem
    with pytest.raises(WriteError, match=path):
        arranged.make(
            KeyOf(KEY, new), Bundle(CRT, (new, arranged.old)),
            meanwhile=lambda: arranged.node.replace(path[1:], content),
        )  # fmt: skip
    assert arranged.read(path) == content


@pytest.mark.parametrize("apart", [False, True])
def test_a_key_beside_certificates_of_others_is_refused(arranged: Arranged, apart: bool) -> None:
    """A step that would leave a CA beside the key of another one changes nothing. The same holds for a separate
    signer.
    """
    arranged.stage()
    path, key = APART if apart else (CRT, KEY)
    wants: tuple[FileChange, ...] = (Bundle(path, (arranged.new.facts,)),)
    if apart:
        wants = (KeyOf(key, arranged.new.facts), Bundle(path, (arranged.old,)))
    before = arranged.tree()
    with pytest.raises(
        RefusedError,
        match=f"not match: {key} matches no certificate or public key in {path}$",
    ):
        arranged.make(*wants)
    assert arranged.tree() == before


def test_no_key_of_a_ca_where_another_user_can_take_it(arranged: Arranged) -> None:
    """If another user can replace the file of the key, the step does nothing, and no copy of a key is made."""
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    arranged.stage()
    os.chown(arranged.node.path(PKI[1:]), 64_998, 64_998)
    before = arranged.tree()
    with pytest.raises(WriteError, match=f"certmond writes no private key to {KEY}: {PKI} belongs to user 64998"):
        arranged.make(Bundle(CRT, (arranged.new.facts,)), KeyOf(KEY, arranged.new.facts))
    assert arranged.tree() == before
    assert arranged.staging.read(Part.OLD) is None


def test_nothing_is_copied_through_a_link_of_another_user(arranged: Arranged) -> None:
    """A kubeconfig behind a symlink of another user is not read."""
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    conf = arranged.node.path(ADMIN[1:])
    conf.rename(conf.with_name("moved.conf"))
    conf.symlink_to("/etc/kubernetes/moved.conf")
    os.chown(conf, 64_998, 64_998, follow_symlinks=False)
    both = (arranged.old, arranged.new.facts)
    with pytest.raises(WriteError, match=r"could not be read .*is a symlink of user 64998"):
        arranged.make(Trusting(ADMIN, both, frozenset(both)))
