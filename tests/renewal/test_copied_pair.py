"""Copies of a certificate and its key in existing directories: their state, and their replacement together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from certmond.errors import WriteError
from certmond.pki.catalog.derived import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec
from certmond.renewal.copied_pair import CopiedPair
from certmond.renewal.derived_file_holds import circumstances_of
from certmond.renewal.derived_file_state import Current, Foreign, Left, Stale, Unready
from certmond.renewal.derived_files import Derivations
from certmond.transaction.commit import NewFile, Transactions
from certmond.transaction.node_files import NodeFiles
from tests.builders import make_ca, make_leaf

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
    assert states == {"copies": Left()}
    assert not circumstances_of([SPEC], states).derived
    assert make(root) == "/opt/config/*/etcd is equal to server"


def test_a_pair_that_does_not_match_is_not_copied(root: Path) -> None:
    """A source whose key is of another certificate, or is missing, is not copied, and the sentence names the file."""
    put(root, "etc/etcd", NEW.pem, OLD.key_pem)
    found = copied(root).state()
    assert isinstance(found, Unready)
    assert "/etc/etcd/server.key" in found.message
    with pytest.raises(WriteError, match="is not written"):
        make(root)
    (root / "etc/etcd/server.crt").unlink()
    assert isinstance(copied(root).state(), Unready)
    assert (root / "opt/config/1/etcd/server.crt").read_bytes() == OLD.pem


def test_a_certificate_of_another_subject_stays(root: Path) -> None:
    """certmond does not replace a certificate with another subject, in any of the directories."""
    put(root, "opt/config/2/etcd", OTHER.pem, OTHER.key_pem)
    found = copied(root).state()
    assert isinstance(found, Foreign)
    assert found.message.startswith(
        "/opt/config/2/etcd/server.crt has a certificate of CN=other, not of CN=etcd-server"
    )
    with pytest.raises(WriteError, match="does not replace it"):
        make(root)


def test_a_directory_that_other_users_can_write_has_no_copy(root: Path) -> None:
    """A user who can write in the directory could read the key, so certmond writes no key there."""
    (root / "opt/config/1/etcd").chmod(0o777)
    assert isinstance(copied(root).state(), Foreign | Unready)


def test_an_unreadable_source_is_not_ready(root: Path) -> None:
    """A directory in the place of the certificate is no source."""
    (root / "etc/etcd/server.crt").unlink()
    (root / "etc/etcd/server.crt").mkdir()
    found = copied(root).state()
    assert isinstance(found, Unready)
    assert found.message.startswith("/opt/config/*/etcd is not written: ")


def test_a_source_that_changes_during_the_write_is_not_copied(root: Path) -> None:
    """If another program replaces the source after certmond has read it, certmond writes no file, and retries."""

    copies = copied(root)
    with Transactions(str(root), root / "state").lock() as writer:
        commit = writer.commit

        def replacing(changes: list[NewFile], *, verify: Callable[[Mapping[str, bytes]], None]) -> None:
            put(root, "etc/etcd", OLD.pem, OLD.key_pem)
            commit(changes, verify=verify)

        writer.commit = replacing  # type: ignore[method-assign,assignment]
        with pytest.raises(WriteError, match="server changed meanwhile; certmond retries it"):
            copies.make(writer)
    assert not (root / "opt/config/2/etcd/server.crt").exists()
