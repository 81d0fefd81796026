"""Copies of kubeconfigs: a source that another user can change, and a copy that an operator has made."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from certmond.formats.kubeconfig_edit import Embedded, new_kubeconfig
from certmond.pki.catalog.derived_file_spec import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.validator import validated
from certmond.renewal.derived_file_state import Absent, Current, Stale, State, Unmanaged, Unready
from certmond.renewal.derived_files import Derivations
from certmond.transaction.commit import Writer
from certmond.transaction.node_file_reader import NodeFiles
from tests.builders import DAY, Issued, make_ca, make_leaf
from tests.owned_tree import OTHERS, THEIRS, OwnedTree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

SOURCE, COPY = "/srv/config", "/root/config"
CA = make_ca()
LEAF = make_leaf(CA, "user")


def kubeconfig(leaf: Issued = LEAF, *, server: str = "127.0.0.1", trust: bytes = CA.pem) -> bytes:
    return new_kubeconfig(
        cluster="kubernetes", server=f"https://{server}:6443", user="user", trust_pem=trust,
        credentials=Embedded(leaf.pem, leaf.key_pem),
    )  # fmt: skip


CONTENT = kubeconfig()
OLD = kubeconfig(make_leaf(CA, "user", not_after=LEAF.facts.not_after - DAY))
UNUSED = cast(Writer, None)
"""The writer of a derived file that certmond does not write."""


@pytest.fixture
def tree(tmp_path: Path) -> OwnedTree:
    """A node with a kubeconfig of root, and a directory for its copy."""
    made = OwnedTree(tmp_path / "root")
    made.root.mkdir()
    made.put(SOURCE, CONTENT)
    made.at("/root").mkdir()
    return made


def state(tree: OwnedTree, owner: int | None = None, *, write: str = "always") -> State:
    return derivations(tree, owner, write=write).states()["copy"]


def derivations(tree: OwnedTree, owner: int | None = None, *, write: str, own: bool = False) -> Derivations:
    entry = validated(CertificateSpec, {"name": "user", "kind": "kubeconfig", "path": SOURCE, "owner": str(THEIRS)})
    copy = {"name": "copy", "kind": "kubeconfig", "source": "user", "path": COPY, "write": write}
    spec = validated(DerivedSpec, copy | {"owner": str(owner) if owner is not None else None})
    specs = [spec, replace(spec, name="own", write="always")] if own else [spec]
    return Derivations(specs, [entry], NodeFiles(str(tree.root)))


def test_a_kubeconfig_that_root_alone_can_change_is_copied(tree: OwnedTree) -> None:
    """The copy of a kubeconfig that no other user can change is made."""
    assert state(tree) == Absent(CONTENT)


@pytest.mark.parametrize("what", [SOURCE, "/srv"])
def test_a_kubeconfig_that_another_user_can_change_is_not_copied(tree: OwnedTree, what: str) -> None:
    """No copy is made of a kubeconfig that another user than root can change or replace, the owner of its entry
    included; the sentence names that user and the file.
    """
    os.chown(tree.at(what), THEIRS, THEIRS)
    for owner in (None, OTHERS):
        found = state(tree, owner)
        assert isinstance(found, Unready)
        assert found.message.startswith(f"certmond does not write {COPY}: {what} belongs to user {THEIRS}, and")
        assert f"let only root write {SOURCE}" in found.message


def test_a_user_has_a_copy_of_their_own_kubeconfig(tree: OwnedTree) -> None:
    """The owner of the copy may be able to change its source: by the derived entry, or as the owner of the file."""
    os.chown(tree.at(SOURCE), THEIRS, THEIRS)
    assert state(tree, THEIRS) == Absent(CONTENT)
    tree.put(COPY, CONTENT, owner=THEIRS)
    assert not isinstance(state(tree), Unready)


def test_an_existing_copy_that_is_out_of_date_is_replaced(tree: OwnedTree) -> None:
    """With `write: existing`, certmond replaces a copy with an older certificate, or with a part of the CAs."""
    both = CA.pem + make_ca().pem
    tree.put(SOURCE, kubeconfig(trust=both))
    for content in (OLD, CONTENT):
        tree.put(COPY, content)
        assert state(tree, 0, write="existing") == Stale(kubeconfig(trust=both))


@pytest.mark.parametrize(
    "content",
    [CONTENT, CONTENT + b"# a note\n", kubeconfig(make_leaf(CA, "user", not_after=LEAF.facts.not_after + DAY))],
    ids=["equal", "comment", "newer"],
)
def test_an_existing_copy_that_is_current_is_not_written(tree: OwnedTree, content: bytes) -> None:
    """A copy with the certificate of the source, or a newer one, keeps its bytes."""
    tree.put(COPY, content)
    assert state(tree, 0, write="existing") == Current()


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"{",
        kubeconfig(make_leaf(CA, "other", not_after=LEAF.facts.not_after - DAY)),
        OLD.replace(b"127.0.0.1", b"192.0.2.1"),
        kubeconfig(trust=make_ca().pem),
        OLD.replace(b"preferences: {}", b"extensions: [{name: a, extension: {}}]"),
        OLD.replace(b"    user: user\n", b"    user: user\n    namespace: own\n"),
        OLD + b"- name: second\n  user: {token: secret}\n",
    ],
    ids=["absent", "empty", "broken", "subject", "server", "CA", "extension", "namespace", "second user"],
)
def test_an_operators_own_content_is_left(tree: OwnedTree, content: bytes | None) -> None:
    """With `write: existing`, certmond creates no copy, and replaces none with another subject, server or CA, or with
    any content that the source lacks. The plan has no hold for it, and a direct request changes no byte.
    """
    if content is not None:
        tree.put(COPY, content)
    made = derivations(tree, 0, write="existing")
    assert made.states()["copy"] == Unmanaged()
    assert made.make("copy", UNUSED) == f"{COPY} is left unchanged"
    assert NodeFiles(str(tree.root)).read(COPY) == content


def test_a_copy_that_is_no_file_of_root_is_left(tree: OwnedTree) -> None:
    """certmond replaces neither the target of a symlink, nor a file of another user."""
    tree.put("/srv/other", OLD)
    tree.at(COPY).symlink_to("/srv/other")
    assert state(tree, 0, write="existing") == Unmanaged()
    tree.at(COPY).unlink()
    tree.at(COPY).symlink_to(SOURCE)
    assert state(tree, 0, write="existing") == Unmanaged()
    tree.at(COPY).unlink()
    tree.put(COPY, OLD, owner=THEIRS)
    assert state(tree, 0, write="existing") == Unmanaged()


def test_a_copy_with_write_never_is_left(tree: OwnedTree) -> None:
    """certmond only reports that such a copy is out of date."""
    tree.put(COPY, OLD)
    assert state(tree, 0, write="never") == Unmanaged()


def test_a_missing_source_is_no_hold_for_an_existing_copy(tree: OwnedTree) -> None:
    """A worker has no admin.conf, and its plan does not name the copy of the profile."""
    tree.put(COPY, OLD)
    tree.at(SOURCE).unlink()
    assert state(tree, 0, write="existing") == Unmanaged()


def test_an_entry_of_the_operator_has_precedence(tree: OwnedTree) -> None:
    """If the operator's own derived file has the path of an existing copy, certmond writes only the former."""
    tree.put(COPY, OLD)
    made = derivations(tree, 0, write="existing", own=True)
    assert made.states() == {"copy": Unmanaged(), "own": Stale(CONTENT)}
