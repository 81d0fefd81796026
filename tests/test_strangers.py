"""What somebody gains who may write in a directory that is watched, and is neither root nor certmond: nothing."""

from __future__ import annotations

import json
import os
import stat
import threading
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest

from certmond.cli.output_file import replace_file
from certmond.errors import WriteError
from certmond.expose.metrics.exposition import write
from certmond.files.cache import Files
from certmond.files.glob import expand
from certmond.notify.audit import Audit
from certmond.notify.journal import Journal
from certmond.renewal.bootstrap import Bootstrapper
from certmond.state.archive import Archive
from certmond.transaction.commit import Transactions
from tests.conftest import unavailable
from tests.owned_tree import OTHERS, THEIRS, OwnedTree

REFUSED = (
    "unreadable: … is behind a symlink of user 65534, "
    "and is not a file that this user can reach and owns, or that all users can read"
)


class Shared(OwnedTree):
    """A node with a directory `/shared` that somebody else owns, and a secret of root's."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.at("/shared").mkdir(parents=True)
        os.chown(self.at("/shared"), THEIRS, THEIRS)
        self.at("/vault").mkdir(mode=0o700)
        self.put("/vault/tls.key", b"secret", 0o600)
        self.files = Files(str(root))

    def seen(self, path: str) -> bytes | str:
        """The content, or what is wrong."""
        value = self.files.value(path, lambda data, _: data)
        fault = self.files.entry(path).fault
        return f"{fault.reason}: {fault.detail.replace(path, '…')}" if fault else value or b""


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    return Shared(tmp_path / "node")


@pytest.mark.parametrize(
    "target", ["/vault/tls.key", "/vault/none", "/vault", "/vault/tls.key/x", "/none", "loop", "/dev/null", "/large"]
)
def test_a_strangers_link_tells_nothing_of_what_it_leads_to(shared: Shared, target: str) -> None:
    """Of whoever is neither root nor certmond, a symlink to what is not his is refused, and with the same words
    whatever is there: not even that something is there, of what kind and how large, is told.
    """
    shared.put("/large", bytes(2 << 20), 0o600)
    shared.link("/shared/loop", "loop")
    shared.link("/shared/tls.key", target)
    assert shared.seen("/shared/tls.key") == REFUSED
    entry = shared.files.entry("/shared/tls.key")
    assert (entry.mode, entry.uid, entry.state, entry.real) == (0, 0, None, None)


@pytest.mark.parametrize("name", ["tls.key", "none"])
def test_a_directory_behind_a_strangers_link_is_refused_as_well(shared: Shared, name: str) -> None:
    """Where the link is in the path matters not; and links may follow on each other."""
    shared.link("/shared/hop", "/vault")
    shared.link("/shared/current", "hop")
    assert shared.seen(f"/shared/current/{name}") == REFUSED


def test_no_name_of_a_closed_directory_is_told(shared: Shared) -> None:
    """A pattern does not list what a stranger's link leads to, for its matches are told by name."""
    shared.link("/shared/current", "/vault")
    assert expand(shared.files, "/shared/*/*", ()).paths == ()
    assert shared.files.listing("/shared/current") == ()


@pytest.mark.parametrize("first", ["/vault", "/shared/current"])
def test_a_closed_directory_has_its_names_for_who_needs_no_link(shared: Shared, first: str) -> None:
    """Whichever of two patterns is looked at first: a stranger's link hides nothing of a directory from a row that
    names it, and learns nothing by it.
    """
    shared.link("/shared/current", "/vault")
    expected = {"/vault": ("tls.key",), "/shared/current": ()}
    for _ in range(2):
        assert {path: shared.files.listing(path) for path in sorted(expected, key=first.__ne__)} == expected
        shared.files.refresh(None)


def test_links_that_root_vouches_for_are_followed(shared: Shared) -> None:
    """An operator's link in somebody's directory, and the kubelet's to its dated PEM, lead wherever they lead."""
    shared.link("/shared/tls.key", "/vault/tls.key", owner=0)
    assert shared.seen("/shared/tls.key") == b"secret"


def test_whose_the_link_is_his_is_the_file(shared: Shared) -> None:
    """As in a volume of a program's own, `tls.crt -> ..data/tls.crt` with `..data -> ..2026_1`."""
    shared.put("/shared/..2026_1/tls.crt", b"own", 0o600, THEIRS)
    shared.link("/shared/..data", "..2026_1")
    shared.link("/shared/tls.crt", "..data/tls.crt")
    assert shared.seen("/shared/tls.crt") == b"own"


def test_a_stranger_may_lead_to_what_everybody_may_read(shared: Shared) -> None:
    """To the CA bundle of the system, say; but not if a directory on the way is closed, or if it is another's link."""
    shared.put("/public/ca.crt", b"public", 0o644)
    shared.put("/vault/ca.crt", b"not public", 0o644)
    shared.link("/shared/ca.crt", "/public/ca.crt")
    shared.link("/shared/closed.crt", "/vault/ca.crt")
    assert shared.seen("/shared/ca.crt") == b"public"
    assert shared.seen("/shared/closed.crt") == REFUSED


def test_two_strangers_do_not_lend_each_other_their_files(shared: Shared) -> None:
    """Each link has to lead to what its owner may read; only the owner of the first is told."""
    shared.put("/shared/theirs", b"theirs", 0o600, OTHERS)
    shared.link("/shared/second", "theirs", OTHERS)
    shared.link("/shared/first", "second")
    assert shared.seen("/shared/first") == REFUSED
    assert shared.seen("/shared/second") == b"theirs"


PIECES = ("public", "vault", "shared", "out", "in", "file", "own", "..", "mine")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_strangers_link_shows_what_linux_shows_that_stranger(shared: Shared) -> None:
    """Of every link of up to four names, with `..`, symlinks, closed directories and files among them, certmond reads
    what the kernel lets the owner of the link read there, and refuses the rest in one sentence.
    """
    shared.put("/public/file", b"public", 0o644)
    shared.put("/vault/file", b"closed", 0o644)
    shared.put("/shared/own", b"own", 0o600, THEIRS)
    shared.at("/shared/mine").mkdir(mode=0o700)
    os.chown(shared.at("/shared/mine"), THEIRS, THEIRS)
    shared.put("/shared/mine/file", b"mine", 0o600, THEIRS)
    shared.link("/vault/out", "/public", 0)
    shared.link("/public/in", "../vault", 0)
    shared.link("/shared/out", "../public")
    names = [part for depth in range(1, 5) for part in product(PIECES, repeat=depth)]
    chosen = {*names[: len(PIECES) + len(PIECES) ** 2], *names[len(PIECES) :: 5]}
    targets = ["/".join(part) for part in sorted(chosen)]
    targets += ["/vault/out/../../public/file", "/vault/none/../../public/file", "/vault/file/../../public/file"]
    for number, target in enumerate(targets):
        shared.link(f"/shared/{number}.crt", target)
    paths = [f"/shared/{number}.crt" for number, _ in enumerate(targets)]
    theirs = read_as(THEIRS, shared.root, paths)
    assert {path: shared.seen(path) for path in paths} == theirs
    assert {REFUSED, b"public", b"own", b"mine"} < {*theirs.values()}


def read_as(user: int, root: Path, paths: list[str]) -> dict[str, bytes | str]:
    """What is to be seen at each of the paths below `root`, as far as this user can read what is there."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.chroot(root)
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            os.write(writer, json.dumps({path: content_of(path) for path in paths}).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        read = json.load(stream)
    os.waitpid(child, 0)
    told: dict[str, str] = {"": REFUSED, "directory": "unreadable: … is a directory, not a regular file"}
    return {path: told.get(read[path], read[path].encode()) for path in paths}


def content_of(path: str) -> str:
    """What this process can read at the path: "" where that is nothing."""
    try:
        return Path(path).read_text("utf-8")
    except IsADirectoryError:
        return "directory"
    except OSError:
        return ""


@pytest.mark.parametrize("name", ["there", "none", "file", "link"])
def test_what_is_watched_for_a_strangers_link_tells_nothing(shared: Shared, name: str) -> None:
    """No name in a closed directory is looked up for a stranger, so that no change there makes certmond look again."""
    shared.at("/vault/there").mkdir()
    shared.put("/vault/file", b"", 0o644)
    shared.put("/public/ca.crt", b"public", 0o644)
    shared.link("/vault/link", "/public/ca.crt", 0)
    shared.link("/shared/tls.crt", f"/vault/{name}/../../public/ca.crt")
    shared.link("/shared/straight.crt", f"/vault/{name}")
    assert [shared.seen(path) for path in ("/shared/tls.crt", "/shared/straight.crt")] == [REFUSED, REFUSED]
    assert not any(place.endswith("/vault") for place in shared.files.interest)


def test_every_stranger_on_the_way_has_to_be_able_to_go_it(shared: Shared) -> None:
    """Where the link of one user leads to that of another one, the rest of the way is closed to none of them."""
    shared.put("/public/ca.crt", b"public", 0o644)
    shared.at("/shared/mine").mkdir(mode=0o700)
    os.chown(shared.at("/shared/mine"), THEIRS, THEIRS)
    shared.link("/shared/mine/out", "/public", 0)
    shared.link("/shared/second", "mine/out/ca.crt", OTHERS)
    shared.link("/shared/first", "second")
    shared.link("/shared/alone", "mine/out/ca.crt")
    assert shared.seen("/shared/alone") == b"public"
    assert [shared.seen(f"/shared/{name}") for name in ("first", "second")] == [
        REFUSED, REFUSED.replace(str(THEIRS), str(OTHERS))
    ]  # fmt: skip


def test_a_users_place_below_a_closed_directory_is_no_secret(shared: Shared) -> None:
    """As in /var/lib/private of systemd: what a user's link names in its own directory is followed, by a relative
    target or an absolute one; the other names in the closed directory are not looked up.
    """
    shared.at("/vault/app").mkdir()
    os.chown(shared.at("/vault/app"), THEIRS, THEIRS)
    shared.put("/vault/app/own.crt", b"own", 0o600, THEIRS)
    shared.put("/vault/their.crt", b"theirs", 0o600, THEIRS)
    targets = {"own.crt": b"own", "/vault/app/own.crt": b"own", "../their.crt": REFUSED, "/vault/their.crt": REFUSED,
               "../app/own.crt": b"own"}  # fmt: skip
    for number, target in enumerate(targets):
        shared.link(f"/vault/app/{number}", target)
    assert [shared.seen(f"/vault/app/{number}") for number in range(len(targets))] == [*targets.values()]


def test_a_link_of_roots_goes_up_from_directories_alone(shared: Shared) -> None:
    """`..` after a file leads nowhere, as for Linux, and through a closed directory it leads wherever it leads."""
    shared.put("/public/ca.crt", b"public", 0o644)
    shared.at("/vault/there").mkdir()
    shared.link("/shared/up", "/vault/there/../../public/ca.crt", 0)
    shared.link("/shared/file", "/public/ca.crt/../ca.crt", 0)
    assert shared.seen("/shared/up") == b"public"
    assert shared.seen("/shared/file") == "missing: … does not exist"


def test_a_directory_that_becomes_a_link_between_look_and_opening_leads_nowhere(shared: Shared) -> None:
    """What was looked at is what is opened: a stranger who swaps a directory for a link in between gains nothing."""
    shared.put("/shared/app/tls.key", b"own", 0o600, THEIRS)
    shared.files.entry("/shared/app/tls.key")
    shared.at("/shared/app").rename(shared.at("/shared/was"))
    shared.link("/shared/app", "../vault")
    assert shared.seen("/shared/app/tls.key") == "missing: … does not exist"
    shared.files.refresh(None)
    assert shared.seen("/shared/app/tls.key") == REFUSED


def test_who_swaps_again_and_again_never_wins(shared: Shared) -> None:
    """Two thousand looks while a directory and a link to the vault take turns: never is the secret read."""
    shared.put("/shared/app/tls.key", b"own", 0o600, THEIRS)
    shared.link("/shared/evil", "../vault")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for one, other in (("app", "was"), ("evil", "app"), ("app", "evil"), ("was", "app")):
                shared.at(f"/shared/{one}").rename(shared.at(f"/shared/{other}"))

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        seen = set()
        for _ in range(2000):
            shared.files.refresh(None)
            seen.add(shared.seen("/shared/app/tls.key"))
    finally:
        done.set()
        thread.join()
    assert b"secret" not in seen
    shared.files.refresh(None)
    assert shared.seen("/shared/app/tls.key") == b"own"


def test_what_is_exported_goes_to_no_file_that_a_stranger_chose(shared: Shared) -> None:
    """`-o` into a directory of somebody else's: his symlink is refused, and the file that it leads to stays."""
    shared.link("/shared/ca.pem", "../vault/tls.key")
    with pytest.raises(WriteError, match="is a symlink of user 65534"):
        replace_file(shared.at("/shared/ca.pem"), b"new")
    assert shared.at("/vault/tls.key").read_bytes() == b"secret"


@pytest.mark.parametrize("planted", ["hard link", "FIFO", "symlink", "open to him"])
def test_what_is_rendered_is_written_to_a_file_of_our_own(shared: Shared, planted: str) -> None:
    """Whatever a stranger has put where the metrics are written first (node_exporter's directory is often another's):
    it is not waited for, not written to, and not what is put in place.
    """
    draft = shared.at("/shared/.node.prom.new")
    keeper = None
    match planted:
        case "hard link":
            draft.hardlink_to(shared.at("/vault/tls.key"))
        case "FIFO":
            os.mkfifo(draft)
            keeper = os.open(draft, os.O_RDWR | os.O_NONBLOCK)  # else the writer would wait for a reader
        case "symlink":
            draft.symlink_to(shared.at("/vault/tls.key"))
        case _:
            shared.put("/shared/.node.prom.new", b"", 0o666, THEIRS)
    write(shared.at("/shared"), "node.prom", "new\n")
    if keeper is not None:
        os.close(keeper)
    status = shared.at("/shared/node.prom").lstat()
    assert (stat.S_ISREG(status.st_mode), stat.S_IMODE(status.st_mode), status.st_uid) == (True, 0o644, 0)
    assert shared.at("/shared/node.prom").read_text() == "new\n"
    assert shared.at("/vault/tls.key").read_bytes() == b"secret"
    assert sorted(path.name for path in shared.at("/shared").iterdir()) == ["node.prom"]


def test_the_archive_keeps_nothing_that_a_stranger_swapped_in(shared: Shared, tmp_path: Path) -> None:
    """What was found is what is kept: a directory that has become a link since is not followed."""
    shared.put("/shared/app/tls.key", b"own", 0o600, THEIRS)
    real = Transactions(str(shared.root), tmp_path / "state").real("/shared/app/tls.key")
    shared.at("/shared/app").rename(shared.at("/shared/was"))
    shared.link("/shared/app", "../vault")
    archive = Archive(tmp_path / "state")
    with pytest.raises(WriteError, match=r"/shared/app/tls\.key cannot be read"):
        archive.store("app", {"/shared/app/tls.key": real}, datetime.now(UTC), {})
    assert archive.ids("app") == ()


def test_a_directory_that_is_made_for_a_node_opens_no_other(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who swaps the new directory for a link before its mode is set does not have that of another one set."""
    mkdir = os.mkdir

    def swapped(name: str, mode: int, **where: int) -> None:
        mkdir(name, mode, **where)
        if name.endswith("pki"):
            shared.at("/shared/pki").rename(shared.at("/shared/was"))
            shared.link("/shared/pki", "../vault")

    monkeypatch.setattr(os, "mkdir", swapped)
    audit = Audit(Journal("none"), tmp_path / "state", "init")
    maker = Bootstrapper(
        root=str(shared.root), state_dir=tmp_path / "state", audit=audit, clock=lambda: datetime.now(UTC)
    )
    with pytest.raises(WriteError, match="/shared/pki could not be written"):
        maker.make_directory("/shared/pki")
    assert stat.S_IMODE(shared.at("/vault").stat().st_mode) == 0o700
