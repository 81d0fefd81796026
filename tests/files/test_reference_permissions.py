"""The references of a kubeconfig that other users can write are followed only to files that these users can read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from certmond.files.cache import Files
from certmond.files.cache_entry import Entry
from certmond.files.catalog_observer import Store
from certmond.files.path_resolution import ALL_USERS, Referrer
from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Reason
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.steps import Issue
from certmond.pki.services.staleness import files_of
from tests.assessments import status_in
from tests.builders import DAY, NOW, make_ca, make_leaf
from tests.conftest import unavailable
from tests.files.test_catalog_observer import cluster, kubeconfig, reported, row, user
from tests.owned_tree import OTHERS, THEIRS, OwnedTree

ROOT = make_ca()
LEAF = make_leaf(ROOT, "client")
CONF = row("conf", "/home/x.conf", kind="kubeconfig", embedded_ca="ca")
SENTENCE = (
    "unreadable: {} is named in /home/x.conf, which user 65534 can change, "
    "and leads to no file that these users own or that all users can read"
)


class Node(OwnedTree):
    """A node with the home directory of a user, a closed directory of root's and an open one."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.directory("/home", 0o755, THEIRS)
        self.directory("/vault", 0o700)
        self.directory("/public", 0o755)
        self.put("/vault/tls.crt", LEAF.pem, 0o644)
        self.put("/vault/tls.key", LEAF.key_pem, 0o600)
        self.put("/vault/shadow", b"root:$6$secret:19000:0:99999:7:::\n", 0o600)
        self.put("/public/tls.crt", LEAF.pem, 0o644)
        self.put("/public/ca.crt", ROOT.pem, 0o644)

    def directory(self, path: str, mode: int, owner: int = 0) -> None:
        self.at(path).mkdir(parents=True)
        self.at(path).chmod(mode)
        os.chown(self.at(path), owner, owner)

    def names(self, certificate: str, key: str = "/vault/tls.key", ca: str = "/public/ca.crt") -> bytes:
        credentials = user("a", client_certificate=certificate, client_key=key)
        return kubeconfig([credentials], [cluster("c", certificate_authority=ca)], ("a", "c"))

    def look(self) -> Observation:
        return Store((CONF,), str(self.root)).observe().observations[0]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    return Node(tmp_path / "node")


@pytest.mark.parametrize(
    "target",
    ["/vault/tls.crt", "/vault/shadow", "/vault/none", "/vault", "/vault/tls.crt/x", "/none", "/public",
     "/home/own/fifo", "/home/link", "../vault/tls.crt", "/public/../vault/tls.crt", "/home/own/none"],
)  # fmt: skip
def test_a_reference_to_what_its_writer_cannot_read_tells_nothing(node: Node, target: str) -> None:
    """Whatever is there, a user's kubeconfig that names it as certificate, key and CA gives one sentence for each, and
    neither a certificate nor a key, a mode, an owner or a place.
    """
    node.directory("/home/own", 0o755, THEIRS)
    os.mkfifo(node.at("/home/own/fifo"))
    node.link("/home/link", "/vault/tls.crt")
    node.put("/home/x.conf", node.names(target, target, target), owner=THEIRS)
    path = os.path.normpath(os.path.join("/home", target))
    seen = node.look()
    assert reported(seen) == [SENTENCE.format(path)]
    assert (seen.certificates, seen.key, seen.key_unknown, seen.embedded) == ((), None, True, ())
    assert (seen.key_path, seen.key_file, seen.certificate_file) == (path, None, "/home/x.conf")
    assert [each.path for each in seen.permissions] == ["/home/x.conf"]
    findings = assess_one(node)
    assert findings == [(Reason.UNREADABLE, f"{reported(seen)[0].removeprefix('unreadable: ')}; {REMEDY}")]


REMEDY = "let only root write /home/x.conf and its directories, or name the file in a separate entry"


def assess_one(node: Node) -> list[tuple[Reason, str]]:
    status = assess(Store((CONF,), str(node.root)).observe(), NOW).statuses[0]
    return [(item.reason, item.message) for item in status.findings]


def test_a_writer_can_refer_to_own_and_public_files(node: Node) -> None:
    """A key of the user with mode 0600, and a certificate and a CA that all users can read, are followed."""
    node.put("/home/own.key", LEAF.key_pem, 0o600, THEIRS)
    node.put("/home/x.conf", node.names("../public/tls.crt", "own.key"), owner=THEIRS)
    seen = node.look()
    assert (reported(seen), seen.certificates, seen.key) == ([], (LEAF.facts,), LEAF.facts.key)
    assert not seen.renewable
    assert [each.certificates for each in seen.embedded] == [(ROOT.facts,)]
    assert [(each.path, each.mode) for each in seen.permissions] == [("/home/x.conf", 0o600), ("/home/own.key", 0o600)]


def give(path: str, owner: int) -> Callable[[Node], None]:
    return lambda node: os.lchown(node.at(path), owner, owner)


def mode(path: str, bits: int) -> Callable[[Node], None]:
    return lambda node: node.at(path).chmod(bits)


def behind_a_link(node: Node) -> None:
    node.at("/home/x.conf").rename(node.at("/public/x.conf"))
    node.link("/home/x.conf", "/public/x.conf", OTHERS)


def through_a_directory(node: Node) -> None:
    """Root's link into a directory of another user."""
    node.directory("/public/theirs", 0o755, OTHERS)
    node.at("/home/x.conf").rename(node.at("/public/theirs/x.conf"))
    node.link("/home/x.conf", "/public/theirs/x.conf", 0)


@pytest.mark.parametrize(
    ("change", "writers"),
    [
        (lambda _: None, set()),
        (give("/home/x.conf", OTHERS), {OTHERS}),
        (give("/home", OTHERS), {OTHERS}),
        (mode("/home/x.conf", 0o620), {ALL_USERS}),
        (mode("/home/x.conf", 0o602), {ALL_USERS}),
        (mode("/home", 0o775), {ALL_USERS}),
        (mode("/home", 0o1777), set()),
        (behind_a_link, {OTHERS}),
        (through_a_directory, {OTHERS}),
    ],
    ids=["root", "file", "directory", "group", "others", "group of the directory", "sticky", "link", "link of root"],
)
def test_who_can_change_a_kubeconfig(node: Node, change: Callable[[Node], None], writers: set[int]) -> None:
    """They are the owners of the file, of each directory and of each symlink on its path, and every user where the
    group or others may write. Only a kubeconfig without such users has its references read with certmond's rights.
    """
    os.chown(node.at("/home"), 0, 0)
    node.put("/home/x.conf", node.names("/vault/tls.crt"))
    change(node)
    assert Files(str(node.root)).entry("/home/x.conf").writers == writers
    seen = node.look()
    assert (seen.certificates, bool(seen.faults)) == (((), True) if writers else ((LEAF.facts,), False))


def test_every_writer_has_to_be_able_to_read_the_target(node: Node) -> None:
    """A kubeconfig of one user in the directory of another, or in one with an open mode, leads to public files only."""
    node.put("/home/own.crt", LEAF.pem, 0o600, OTHERS)
    node.put("/home/x.conf", node.names("own.crt", "own.crt"), owner=OTHERS)
    assert (
        "which user 65533 and user 65534 can change, and leads to no file that these users own"
        in reported(node.look())[0]
    )
    os.chown(node.at("/home"), 0, 0)
    assert node.look().certificates == (LEAF.facts,)
    node.at("/home").chmod(0o777)
    assert "which user 65533 and other users can change, and leads to no file that" in reported(node.look())[0]


def test_a_chain_of_a_reference_and_a_symlink(node: Node) -> None:
    """A reference to a symlink has to lead to what the writer of the one and the owner of the other can read; root's
    symlink lends a reference nothing.
    """
    node.put("/home/x.conf", node.names("/public/hop", "/public/hop"), owner=THEIRS)
    node.link("/public/hop", "/vault/tls.crt", 0)
    assert reported(node.look()) == [SENTENCE.format("/public/hop")]
    node.at("/public/hop").unlink()
    node.put("/home/own.crt", LEAF.pem, 0o600, THEIRS)
    node.link("/public/hop", "/home/own.crt", OTHERS)
    assert reported(node.look()) == [SENTENCE.format("/public/hop")]
    os.lchown(node.at("/public/hop"), 0, 0)
    assert node.look().certificates == (LEAF.facts,)


@pytest.mark.parametrize("first", ["root's", "theirs"])
def test_a_reference_of_root_is_read_whatever_other_users_refer_to(node: Node, first: str) -> None:
    """A closed file is read for an entry and for a kubeconfig of root, and refused for a kubeconfig of a user, in any
    order and number of reads.
    """
    node.put("/home/x.conf", node.names("/vault/tls.crt"), owner=THEIRS)
    node.put("/vault/root.conf", node.names("/vault/tls.crt"))
    specs = [row("conf", "/vault/root.conf", kind="kubeconfig", embedded_ca="ca"),
             row("leaf", "/vault/tls.crt", key="/vault/tls.key"), CONF]  # fmt: skip
    specs = specs[::-1] if first == "theirs" else specs
    store = Store(specs, str(node.root))
    for touched in (None, frozenset({str(node.at("/vault/tls.crt"))}), None):
        found = {seen.path: (seen.certificates, seen.key) for seen in store.observe(touched).observations}
        assert found == {
            "/vault/root.conf": ((LEAF.facts,), LEAF.facts.key),
            "/vault/tls.crt": ((LEAF.facts,), LEAF.facts.key),
            "/home/x.conf": ((), None),
        }
        node.put("/vault/tls.crt", LEAF.pem + b"\n", 0o644)


def test_a_reference_is_read_again_when_its_permissions_change(node: Node) -> None:
    """`chown root` of the kubeconfig, a target with a wider mode, and a directory that is closed each change the
    result, in a pass that only this change causes.
    """
    node.put("/home/x.conf", node.names("/public/tls.key", "/public/tls.key"), owner=THEIRS)
    node.put("/public/tls.key", LEAF.pem + LEAF.key_pem, 0o600)
    store = Store((CONF,), str(node.root))

    def certificates(*touched: str) -> int:
        paths = frozenset(str(node.at(path)) for path in touched)
        assert all(os.path.basename(path) in (store.interest[os.path.dirname(path)] or ()) for path in paths)
        return len(store.observe(paths if touched else None).observations[0].certificates)

    assert certificates() == 0
    node.at("/public/tls.key").chmod(0o644)
    assert certificates("/public/tls.key") == 1
    node.at("/public").chmod(0o711)
    assert certificates("/public") == 1
    node.at("/public").chmod(0o700)
    assert certificates("/public") == 0
    os.chown(node.at("/home/x.conf"), 0, 0)
    assert certificates("/home/x.conf") == 0
    os.chown(node.at("/home"), 0, 0)
    assert certificates("/home") == 1


def test_no_closed_directory_is_watched_for_another_user(node: Node) -> None:
    """On the path to a refused target, certmond watches only directories that the writer can read."""
    node.directory("/vault/deep", 0o755)
    node.put("/home/x.conf", node.names("/vault/deep/tls.crt", "/home/none.key", "/none/ca.crt"), owner=THEIRS)
    store = Store((CONF,), str(node.root))
    store.observe()
    inside = {place.removeprefix(str(node.root)): names for place, names in store.interest.items()}
    assert not any(place.startswith(("/vault", "/none")) for place in inside)
    assert "none.key" in (inside["/home"] or ())
    assert all(name in (inside[""] or ()) for name in ("vault", "none"))


def test_the_metadata_of_a_refused_target_are_not_kept(node: Node) -> None:
    """A directory and a large file that the writer can read are refused without their mode, owner and size."""
    node.put("/public/large", bytes(2 << 20), 0o644)
    files, referrer = Files(str(node.root)), Referrer("/home/x.conf", frozenset({THEIRS}))
    for path in ("/public", "/public/large"):
        entry = files.entry(path, referrer)
        assert entry.fault is not None
        assert (entry.status, entry.mode, entry.size) == (None, 0, None)


@pytest.mark.parametrize("owner", [0, THEIRS])
def test_a_token_and_a_program_are_not_read(node: Node, owner: int) -> None:
    """certmond does not use the files of `tokenFile` and `exec`, whatever the owner of the kubeconfig. The CA has the
    only entry.
    """
    command = {"command": "/public/program", "args": ["/public/argument"]}
    users = [user("a", tokenFile="/public/token", exec=command)]
    node.put("/home/x.conf", kubeconfig(users, [cluster("c", ROOT)], ("a", "c")), owner=owner)
    store = Store((CONF,), str(node.root))
    assert [seen.name for seen in store.observe().observations] == ["conf#ca:c"]
    assert not any(place.endswith("/public") for place in store.interest)


def test_a_file_that_takes_the_place_of_the_admitted_one_is_not_read(node: Node) -> None:
    """A user who renames a closed directory of root's over an open one, between the look and the opening, reads
    nothing.
    """
    node.directory("/home/app", 0o755, THEIRS)
    node.put("/home/app/tls.crt", b"own", 0o600, THEIRS)
    node.directory("/home/closed", 0o700)
    node.put("/home/closed/tls.crt", b"secret", 0o600)
    files, referrer = Files(str(node.root)), Referrer("/home/x.conf", frozenset({THEIRS}))
    entry = files.entry("/home/app/tls.crt", referrer)
    assert entry.fault is None
    node.at("/home/app").rename(node.at("/home/was"))
    node.at("/home/closed").rename(node.at("/home/app"))
    assert files.value("/home/app/tls.crt", lambda data, _: data, referrer) is None
    again = files.entry("/home/app/tls.crt", referrer).fault
    assert again
    assert again.detail == SENTENCE.removeprefix("unreadable: ").format("/home/app/tls.crt")


def test_a_file_that_only_root_can_change_is_no_referrer(node: Node) -> None:
    """What it names has the entry that the path itself has."""
    files = Files(str(node.root))
    entries: list[Entry] = [files.entry("/vault/tls.crt", each) for each in (None, Referrer("/x", frozenset()))]
    assert entries[0] is entries[1]


@pytest.mark.parametrize(("certificate", "key"), [("/public/tls.crt", "own.key"), ("own.crt", "/public/tls.key")])
def test_another_user_blocks_no_renewal(node: Node, certificate: str, key: str) -> None:
    """A kubeconfig that names the certificate or key of another entry beside another file shares nothing with
    that entry, which is renewed. The named key is no file of the kubeconfig.
    """
    node.put("/home/own.crt", LEAF.pem, 0o600, THEIRS)
    node.put("/home/own.key", make_leaf(ROOT).key_pem, 0o600, THEIRS)
    node.put("/home/x.conf", node.names(certificate, key), owner=THEIRS)
    node.put("/public/tls.key", LEAF.key_pem)
    node.put("/public/ca.key", ROOT.key_pem)
    specs = (row("ca", "/public/ca.crt", key="/public/ca.key", authority=True),
             row("leaf", "/public/tls.crt", key="/public/tls.key", ca="ca"), CONF)  # fmt: skip
    at = LEAF.facts.not_after - DAY
    assessment = assess(Store(specs, str(node.root)).observe(), at)
    made = plan(assessment, Policy(), {}, Circumstances(), None)
    assert [step.target for step in made.steps if isinstance(step, Issue)] == ["leaf"]
    assert files_of(status_in(assessment, "conf", "/home/x.conf").seen) == ("/home/x.conf",)


@pytest.mark.parametrize("first", ["root's", "theirs"])
@pytest.mark.parametrize("way", ["file", "directory", "both"])
def test_a_link_of_another_user_blocks_no_renewal(node: Node, way: str, first: str) -> None:
    """A symlink of a user to the certificate of another entry, with a key of the user or with that entry's, makes that
    certificate no file of the user's entry: the other entry is renewed, whichever is first.
    """
    node.put("/public/tls.key", LEAF.key_pem, 0o644 if way == "both" else 0o600)
    node.put("/public/ca.key", ROOT.key_pem)
    node.put("/home/own.key", make_leaf(ROOT).key_pem, 0o600, THEIRS)
    path, key = "/home/tls.crt", "/home/own.key"
    if way == "directory":
        node.link("/home/open", "/public")
        path = "/home/open/tls.crt"
    else:
        node.link("/home/tls.crt", "/public/tls.crt")
    if way == "both":
        node.link("/home/tls.key", "/public/tls.key")
        key = "/home/tls.key"
    specs = [row("leaf", "/public/tls.crt", key="/public/tls.key", ca="ca"), row("link", path, key=key, ca="ca")]
    specs = [
        row("ca", "/public/ca.crt", key="/public/ca.key", authority=True),
        *specs[:: 1 if first == "root's" else -1],
    ]
    assessment = assess(Store(specs, str(node.root)).observe(), LEAF.facts.not_after - DAY)
    seen = status_in(assessment, "link", path).seen
    assert (seen.certificates, seen.pair) == ((LEAF.facts,), (path, key))
    made = plan(assessment, Policy(), {}, Circumstances(), None)
    assert "leaf" in [step.target for step in made.steps if isinstance(step, Issue)]
    assert not any("shares its" in each.because for each in made.held)


def test_a_users_symlink_to_their_own_file_is_another_name_of_it(node: Node) -> None:
    """Two entries that lead to one certificate of the user's, one by a symlink of that user, have one pair."""
    node.put("/home/own.pem", LEAF.pem + LEAF.key_pem, 0o600, THEIRS)
    node.link("/home/link.pem", "own.pem")
    specs = [row("own", "/home/own.pem"), row("link", "/home/link.pem")]
    assert {seen.pair for seen in Store(specs, str(node.root)).observe().observations} == {("/home/own.pem",) * 2}


@pytest.mark.parametrize("names", [True, False])
def test_a_link_of_another_user_behind_a_reference_of_root_shares_nothing(node: Node, names: bool) -> None:
    """If a kubeconfig of root names a user's symlink, or is behind one, it has no file of another entry."""
    node.link("/home/tls.crt", "/public/tls.crt")
    node.put("/public/root.conf", node.names("/home/tls.crt", "/home/tls.crt"), 0o644)
    node.link("/home/y.conf", "/public/root.conf")
    path = "/public/root.conf" if names else "/home/y.conf"
    (seen,) = Store((row("conf", path, kind="kubeconfig", embedded_ca="ca"),), str(node.root)).observe().observations
    assert seen.pair == (("/home/tls.crt" if names else "/home/y.conf"),) * 2


@pytest.mark.parametrize("path", ["/vault/out/tls.crt", "/vault/none/tls.crt", "/vault/tls.crt"])
def test_a_reference_through_a_closed_directory_tells_nothing(node: Node, path: str) -> None:
    """Where a symlink in a closed directory leads to an open file, a reference through it is refused as one through a
    name that is not there; and no name of that directory is watched.
    """
    node.link("/vault/out", "/public", 0)
    node.put("/home/x.conf", node.names(path, path), owner=THEIRS)
    store = Store((CONF,), str(node.root))
    assert reported(store.observe().observations[0]) == [SENTENCE.format(path)]
    assert not any(place.endswith("/vault") for place in store.interest)


@pytest.mark.parametrize("certificate", ["tls.crt", "/vault/app/tls.crt"])
def test_a_reference_beside_its_kubeconfig_needs_no_open_directory_above(node: Node, certificate: str) -> None:
    """A user's kubeconfig below a closed directory, as in /var/lib/private of systemd, names the user's own files that
    are beside it, and none that is in the closed directory itself.
    """
    node.directory("/vault/app", 0o755, THEIRS)
    node.put("/vault/app/tls.crt", LEAF.pem, 0o600, THEIRS)
    node.put("/vault/own.key", LEAF.key_pem, 0o600, THEIRS)
    node.put("/vault/app/x.conf", node.names(certificate, "../own.key"), owner=THEIRS)
    node.link("/public/app", "../vault/app", 0)
    for place in ("/vault/app", "/public/app") if certificate == "tls.crt" else ("/vault/app",):
        spec = row("conf", f"{place}/x.conf", kind="kubeconfig", embedded_ca="ca")
        (seen,) = Store((spec,), str(node.root)).observe().observations
        assert (seen.certificates, seen.key) == ((LEAF.facts,), None)
