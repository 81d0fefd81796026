"""The files of staged CAs: all or none, with modes, and the state of an unfinished replacement."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.errors import RefusedError, WriteError
from certmond.rotation.distribution_ca_files import DistributionCAFiles, require_server
from certmond.rotation.distribution_ca_generation import contents, generate_distribution_ca
from certmond.transaction.commit import Transactions
from tests.builders import NOW, YEAR
from tests.distributions import MAKERS, Tree

SERVER = "/var/lib/rancher/k3s/server"
STAGED = f"{SERVER}/rotate-ca/tls"
NAMES = {"client-ca", "server-ca", "request-header-ca", "etcd/server-ca", "etcd/peer-ca"}


class Bed:
    """A server of k3s, and its staged CAs."""

    def __init__(self, tree: Tree) -> None:
        self.tree, self.state = tree, tree.at("/state")
        self.files = DistributionCAFiles(parse((), profile="k3s"), str(tree.root), self.state)

    def stage(self, now: datetime = NOW) -> None:
        made = [(each, generate_distribution_ca(each, now, 10 * YEAR)) for each in self.files.present()]
        with Transactions(str(self.tree.root), self.state).lock() as writer:
            self.files.write(contents(made), writer)

    def remove(self) -> tuple[str, ...]:
        with Transactions(str(self.tree.root), self.state).lock() as writer:
            return self.files.remove(writer)

    def install(self) -> None:
        """Write the CAs as the next start of k3s does."""
        for each in self.files.staged():
            self.tree.write(each.present_path, self.tree.at(each.path).read_bytes())


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(MAKERS["k3s"](tmp_path))


def test_the_new_files(bed: Bed) -> None:
    """Each file has mode 0600, and each directory 0700. No present file changes. The label of a CA in etcd names
    etcd.
    """
    before = {path: path.read_bytes() for path in bed.tree.at(f"{SERVER}/tls").rglob("*.*")}
    assert bed.files.staged() == ()
    bed.stage()
    assert {path: path.read_bytes() for path in bed.tree.at(f"{SERVER}/tls").rglob("*.*")} == before
    place = bed.tree.at(STAGED)
    found = {str(each.relative_to(place)): each for each in place.rglob("*") if each.is_file()}
    assert found.keys() == {f"{name}.{suffix}" for name in NAMES for suffix in ("crt", "key")}
    assert {each.stat().st_mode & 0o777 for each in found.values()} == {0o600}
    directories = (place, place.parent, place / "etcd")
    assert {each.stat().st_mode & 0o777 for each in directories} == {0o700}
    subjects = {each.new[0].subject.partition("@")[0] for each in bed.files.staged()}
    assert subjects == {f"CN=k3s-{name.removesuffix('-ca').replace('/', '-')}-ca" for name in NAMES}
    assert bed.files.problems(bed.files.staged(), NOW) == ()


def test_an_interrupted_write_leaves_nothing(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next write creates all files."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("certmond.transaction.commit._stage", fail)
        with pytest.raises(WriteError):
            bed.stage()
    assert bed.files.staged() == ()
    bed.stage()
    assert len(bed.files.staged()) == len(NAMES)


def test_the_removal(bed: Bed) -> None:
    """The directories go, too, unless they contain another file, such as a file of the script of k3s."""
    bed.stage()
    other = f"{STAGED}/client-root.key"
    bed.tree.write(other, b"")
    assert bed.remove() == (other,)
    assert [each.name for each in bed.tree.at(STAGED).iterdir()] == ["client-root.key"]
    bed.tree.at(other).unlink()
    assert bed.remove() == ()
    assert not bed.tree.at(f"{SERVER}/rotate-ca").exists()
    assert bed.remove() == ()


def test_the_next_step(bed: Bed) -> None:
    """The record changes the sentence only for the CAs that the command has received."""
    step: Callable[[], str | None] = lambda: bed.files.next_step(NOW)  # noqa: E731
    assert step() is None
    bed.tree.at(STAGED).mkdir(parents=True)
    assert step() is None
    bed.stage()
    staged = f"new CAs are staged in {STAGED}"
    assert step() == f"{staged}; run: certmond root-ca rotate"
    bed.files.record(bed.files.staged(), NOW, stored=False)
    assert not bed.files.is_stored(bed.files.staged())
    bed.files.record(bed.files.staged(), NOW + timedelta(days=1), stored=True)
    assert bed.files.is_stored(bed.files.staged())
    at = f"{NOW:%Y-%m-%d %H:%M:%S} UTC"
    installs = f"{staged}, and the next start of k3s installs them (received at {at}); run: certmond root-ca rotate"
    assert step() == installs
    bed.install()
    assert step() == f"this node has the new CAs, but {STAGED} still exists; run: certmond root-ca rotate"
    bed.tree.write(f"{STAGED}/client-ca.crt", b"x")
    assert "certmond root-ca stage --force" in str(step())
    bed.tree.write("/state/distribution-cas.json", "{")
    bed.tree.at("/state/distribution-cas.json").chmod(0o600)
    assert "distribution-cas.json" in str(step())


def test_the_copies_for_the_agent(bed: Bed) -> None:
    """A server has copies of two CAs. Until they follow, they are outdated. One of them has the published content."""
    agent = "/var/lib/rancher/k3s/agent"
    assert bed.files.outdated_copies(bed.files.authorities()) == ()
    assert bed.files.published(bed.files.authorities()).keys() == {
        f"{SERVER}/tls/server-ca.crt", f"{agent}/server-ca.crt",
    }  # fmt: skip
    bed.stage()
    bed.install()
    outdated = bed.files.outdated_copies(bed.files.authorities())
    assert outdated == (f"{agent}/client-ca.crt", f"{agent}/server-ca.crt")
    for path in outdated:
        bed.tree.write(path, bed.tree.at(path.replace(agent, f"{SERVER}/tls")).read_bytes())
    assert bed.files.outdated_copies(bed.files.authorities()) == ()


def test_a_changed_ca_is_a_different_one(bed: Bed) -> None:
    bed.stage()
    first = bed.files.staged()
    bed.files.record(first, NOW, stored=True)
    bed.stage(NOW + timedelta(days=1))
    assert bed.files.received_at(first)
    assert bed.files.received_at(bed.files.staged()) is None
    assert not bed.files.is_stored(bed.files.staged())


def test_an_empty_file_is_like_a_missing_one(bed: Bed) -> None:
    """The command keeps the present file then, and the present key can belong to the new certificates."""
    bed.stage()
    bed.install()
    for each in bed.files.staged():
        bed.tree.write(each.key_path.replace(STAGED, f"{SERVER}/tls"), bed.tree.at(each.key_path).read_bytes())
        bed.tree.write(each.key_path, b"")
    assert bed.files.problems(bed.files.staged(), NOW) == ()
    for each in bed.files.staged():
        bed.tree.write(each.path, b"")
    assert bed.files.staged() == ()


def test_an_agent_has_no_such_ca(tmp_path: Path) -> None:
    tree = MAKERS["k3s"](tmp_path)
    tree.remove(SERVER)
    files = DistributionCAFiles(parse((), profile="k3s"), str(tree.root), tree.at("/state"))
    assert files.entries == ()
    assert files.authorities().keys() == {"agent-client-ca", "agent-server-ca"}
    with pytest.raises(RefusedError, match="so it is not a server"):
        require_server(files)


def test_without_the_section_nothing_is_read(tmp_path: Path) -> None:
    assert DistributionCAFiles(Config(), str(tmp_path), tmp_path).next_step(NOW) is None


def test_an_exposed_directory_is_named(bed: Bed) -> None:
    assert bed.files.exposed() is None
    bed.tree.at(SERVER).chmod(0o777)
    assert "certmond writes no private key to" in str(bed.files.exposed())


@pytest.mark.parametrize("place", ["server-ca.key", "etcd", "", ".."])
def test_a_symlink_to_a_present_ca_changes_no_present_file(bed: Bed, place: str) -> None:
    """Neither a write nor a removal follows the symlink. The message names the symlink."""
    link = bed.tree.at(posixpath.normpath(f"{STAGED}/{place}"))
    link.parent.mkdir(parents=True, exist_ok=True)
    target = SERVER if place == ".." else posixpath.normpath(f"{SERVER}/tls/{place}")
    link.symlink_to(bed.tree.at(target))
    before = {path: path.read_bytes() for path in bed.tree.at(f"{SERVER}/tls").rglob("*.*")}
    real = posixpath.normpath(f"{STAGED}/{place}")
    for act in (bed.stage, bed.remove):
        with pytest.raises(RefusedError, match=f"^{real} is a symlink"):
            act()
    assert any(problem.startswith(f"{real} is a symlink") for problem in bed.files.problems((), NOW))
    assert {path: path.read_bytes() for path in bed.tree.at(f"{SERVER}/tls").rglob("*.*")} == before


def test_files_that_another_user_can_change(bed: Bed) -> None:
    """A readable file in a directory of root is safe. A file of another user, or in a shared directory, is not."""
    bed.stage()
    key = bed.tree.at(f"{STAGED}/client-ca.key")
    key.chmod(0o644)
    assert bed.files.replaceable() == ()
    key.chmod(0o666)
    (problem,) = bed.files.replaceable()
    assert problem.startswith(f"{STAGED}/client-ca.key: ")
    key.chmod(0o600)
    bed.tree.at(f"{STAGED}/etcd").chmod(0o777)
    assert len(bed.files.replaceable()) == 4


def test_a_private_key_in_a_certificate_file(bed: Bed) -> None:
    """k3s publishes server-ca.crt without authentication, with every block of the file."""
    bed.stage()
    for name in ("server-ca", "etcd/peer-ca"):
        key = bed.tree.at(f"{STAGED}/{name}.key").read_bytes()
        file = bed.tree.at(f"{STAGED}/{name}.crt")
        file.write_bytes(file.read_bytes() + key)
    problems = bed.files.problems(bed.files.staged(), NOW)
    assert [problem.partition(",")[0] for problem in problems] == [
        f"{STAGED}/{name}.crt contains a private key" for name in ("server-ca", "etcd/peer-ca")
    ]
    assert problems[0].endswith(f"; move the key to {STAGED}/server-ca.key")
