"""A copy of a kubeconfig that another user can change: the users of the copy would run and trust what it names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from certmond.formats.kubeconfig_edit import Embedded, new_kubeconfig
from certmond.pki.catalog.derived import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec
from certmond.renewal.derived_file_state import Absent, State, Unready
from certmond.renewal.derived_files import Derivations
from certmond.transaction.node_files import NodeFiles
from tests.builders import make_ca, make_leaf
from tests.owned_tree import OTHERS, THEIRS, OwnedTree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

SOURCE, COPY = "/srv/config", "/root/config"
CA = make_ca()
LEAF = make_leaf(CA, "user")
CONTENT = new_kubeconfig(
    cluster="kubernetes", server="https://127.0.0.1:6443", user="user", trust_pem=CA.pem,
    credentials=Embedded(LEAF.pem, LEAF.key_pem),
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> OwnedTree:
    """A node with a kubeconfig of root, and a directory for its copy."""
    made = OwnedTree(tmp_path / "root")
    made.root.mkdir()
    made.put(SOURCE, CONTENT)
    made.at("/root").mkdir()
    return made


def state(tree: OwnedTree, owner: int | None = None) -> State:
    entry = CertificateSpec.model_validate({"name": "user", "kind": "kubeconfig", "path": SOURCE, "owner": str(THEIRS)})
    copy = DerivedSpec(name="copy", kind="kubeconfig", source="user", path=COPY, owner=str(owner) if owner else None)
    return Derivations([copy], [entry], NodeFiles(str(tree.root))).states()["copy"]


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
        assert found.message.startswith(f"{COPY} is not written: {what} belongs to user {THEIRS}, who could choose")
        assert f"let only root write {SOURCE}" in found.message


def test_a_user_has_a_copy_of_their_own_kubeconfig(tree: OwnedTree) -> None:
    """The owner of the copy may be able to change its source: by the derived entry, or as the owner of the file."""
    os.chown(tree.at(SOURCE), THEIRS, THEIRS)
    assert state(tree, THEIRS) == Absent(CONTENT)
    tree.put(COPY, CONTENT, owner=THEIRS)
    assert not isinstance(state(tree), Unready)
