"""A user who can write in a watched directory, and is neither root nor the user of certmond, gains nothing."""

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
from certmond.expose.metrics.exposition import replace_runtime_file
from certmond.files.cache import Files
from certmond.files.glob import expand
from certmond.notify.audit import Audit
from certmond.notify.event_log import Journal
from certmond.renewal.bootstrap import Bootstrapper
from certmond.state.archive import Archive
from certmond.transaction.commit import Transactions
from tests.conftest import unavailable
from tests.owned_tree import OTHERS, THEIRS, OwnedTree

REFUSED = (
    "unreadable: … is behind a symlink of user 65534, "
    "and leads to no file that this user owns or that all users can read"
)


class Shared(OwnedTree):
    """A node with a directory `/shared` of another user, and a secret file of root."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.at("/shared").mkdir(parents=True)
        os.chown(self.at("/shared"), THEIRS, THEIRS)
        self.at("/vault").mkdir(mode=0o700)
        self.put("/vault/tls.key", b"secret", 0o600)
        self.files = Files(str(root))

    def seen(self, path: str) -> bytes | str:
        """Return the content, or the error."""
        value = self.files.value(path, lambda data, _: data)
        fault = self.files.entry(path).fault
        return f"{fault.reason}: {fault.detail.replace(path, '…')}" if fault else value or b""


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    return Shared(tmp_path / "node")


@pytest.mark.parametrize(
    "target",
    ["/vault/tls.key", "/vault/none", "/vault", "/vault/tls.key/x", "/none", "loop", "/dev/null", "/large"],
)
def test_a_link_of_another_user_reveals_nothing_of_its_target(shared: Shared, target: str) -> None:
    """certmond refuses a symlink of another user to a file of a third user. The sentence is the same whether or not the
    target exists, and whatever its type and size.
    """
    shared.put("/large", bytes(2 << 20), 0o600)
    shared.link("/shared/loop", "loop")
    shared.link("/shared/tls.key", target)
    assert shared.seen("/shared/tls.key") == REFUSED
    entry = shared.files.entry("/shared/tls.key")
    assert (entry.mode, entry.status, entry.state, entry.real) == (0, None, None, None)


@pytest.mark.parametrize("name", ["tls.key", "none"])
def test_a_directory_behind_a_link_of_another_user_is_refused(shared: Shared, name: str) -> None:
    """The refusal also covers a link in the middle of the path, and a link to a link."""
    shared.link("/shared/hop", "/vault")
    shared.link("/shared/current", "hop")
    assert shared.seen(f"/shared/current/{name}") == REFUSED


def test_no_name_of_a_closed_directory_is_reported(shared: Shared) -> None:
    """A pattern does not list the target of another user's link, because its matches are reported by name."""
    shared.link("/shared/current", "/vault")
    assert expand(shared.files, "/shared/*/*", ()).paths == ()
    assert shared.files.listing("/shared/current") == ()


@pytest.mark.parametrize("first", ["/vault", "/shared/current"])
def test_a_closed_directory_is_listed_for_entries_without_a_link(shared: Shared, first: str) -> None:
    """The order of two patterns does not matter: a link of another user hides no name from an entry that names the
    directory, and gets none through it.
    """
    shared.link("/shared/current", "/vault")
    expected = {"/vault": ("tls.key",), "/shared/current": ()}
    for _ in range(2):
        assert {path: shared.files.listing(path) for path in sorted(expected, key=first.__ne__)} == expected
        shared.files.refresh(None)


def test_links_that_root_vouches_for_are_followed(shared: Shared) -> None:
    """A link of root in another user's directory, and the kubelet's link to its dated PEM, are followed anywhere."""
    shared.link("/shared/tls.key", "/vault/tls.key", owner=0)
    assert shared.seen("/shared/tls.key") == b"secret"


def test_a_link_to_a_file_of_the_same_owner_is_followed(shared: Shared) -> None:
    """An example is a projected volume: `tls.crt -> ..data/tls.crt` with `..data -> ..2026_1`."""
    shared.put("/shared/..2026_1/tls.crt", b"own", 0o600, THEIRS)
    shared.link("/shared/..data", "..2026_1")
    shared.link("/shared/tls.crt", "..data/tls.crt")
    assert shared.seen("/shared/tls.crt") == b"own"


def test_a_link_of_another_user_may_lead_to_a_file_that_all_can_read(shared: Shared) -> None:
    """An example is the CA bundle of the system. The link is refused if a directory on the path is closed, or if a
    further link belongs to another user.
    """
    shared.put("/public/ca.crt", b"public", 0o644)
    shared.put("/vault/ca.crt", b"not public", 0o644)
    shared.link("/shared/ca.crt", "/public/ca.crt")
    shared.link("/shared/closed.crt", "/vault/ca.crt")
    assert shared.seen("/shared/ca.crt") == b"public"
    assert shared.seen("/shared/closed.crt") == REFUSED


def test_links_of_two_users_do_not_grant_each_other_access(shared: Shared) -> None:
    """The owner of each link must be able to read its target. The message names only the owner of the first."""
    shared.put("/shared/theirs", b"theirs", 0o600, OTHERS)
    shared.link("/shared/second", "theirs", OTHERS)
    shared.link("/shared/first", "second")
    assert shared.seen("/shared/first") == REFUSED
    assert shared.seen("/shared/second") == b"theirs"


PIECES = ("public", "vault", "shared", "out", "in", "file", "own", "..", "mine")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_link_of_another_user_shows_what_linux_shows_that_user(shared: Shared) -> None:
    """Of each link of up to four names, with `..`, symlinks, closed directories and files among them, certmond reads
    what the kernel lets the owner of the link read there. It refuses the rest with one sentence.
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
    """Return what this user can read at each of the paths below `root`."""
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
    reported: dict[str, str] = {"": REFUSED, "directory": "unreadable: … is a directory, not a regular file"}
    return {path: reported.get(read[path], read[path].encode()) for path in paths}


def content_of(path: str) -> str:
    """Return what this process can read at the path, or ""."""
    try:
        return Path(path).read_text("utf-8")
    except IsADirectoryError:
        return "directory"
    except OSError:
        return ""


@pytest.mark.parametrize("name", ["there", "none", "file", "link"])
def test_watches_for_a_link_of_another_user_reveal_nothing(shared: Shared, name: str) -> None:
    """certmond looks up no name of a closed directory for another user, so no change there causes a pass."""
    shared.at("/vault/there").mkdir()
    shared.put("/vault/file", b"", 0o644)
    shared.put("/public/ca.crt", b"public", 0o644)
    shared.link("/vault/link", "/public/ca.crt", 0)
    shared.link("/shared/tls.crt", f"/vault/{name}/../../public/ca.crt")
    shared.link("/shared/straight.crt", f"/vault/{name}")
    assert [shared.seen(path) for path in ("/shared/tls.crt", "/shared/straight.crt")] == [REFUSED, REFUSED]
    assert not any(place.endswith("/vault") for place in shared.files.interest)


def test_every_owner_of_a_link_on_the_path_can_traverse_it(shared: Shared) -> None:
    """If the link of one user leads to that of another, each owner must be able to traverse the rest of the path."""
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


def test_a_directory_of_a_user_below_a_closed_one_is_readable(shared: Shared) -> None:
    """An example is /var/lib/private of systemd: the target of a user's link in its own directory is followed, relative
    or absolute. The other names in the closed directory are not looked up.
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


def test_a_link_of_root_goes_up_from_directories_only(shared: Shared) -> None:
    """`..` after a file does not resolve, as in Linux. Through a closed directory it resolves to any target."""
    shared.put("/public/ca.crt", b"public", 0o644)
    shared.at("/vault/there").mkdir()
    shared.link("/shared/up", "/vault/there/../../public/ca.crt", 0)
    shared.link("/shared/file", "/public/ca.crt/../ca.crt", 0)
    assert shared.seen("/shared/up") == b"public"
    assert shared.seen("/shared/file") == "missing: … does not exist"


def test_a_directory_that_becomes_a_link_before_open_is_not_followed(shared: Shared) -> None:
    """certmond opens the file that it checked. A user who swaps a directory for a link in between gains nothing."""
    shared.put("/shared/app/tls.key", b"own", 0o600, THEIRS)
    shared.files.entry("/shared/app/tls.key")
    shared.at("/shared/app").rename(shared.at("/shared/was"))
    shared.link("/shared/app", "../vault")
    assert shared.seen("/shared/app/tls.key") == "missing: … does not exist"
    shared.files.refresh(None)
    assert shared.seen("/shared/app/tls.key") == REFUSED


def test_a_user_who_swaps_repeatedly_never_wins(shared: Shared) -> None:
    """In two thousand reads while a directory and a link to the vault alternate, the secret is never read."""
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


def test_an_export_refuses_a_link_of_another_user(shared: Shared) -> None:
    """`-o` into a directory of another user refuses the symlink of that user, and its target is unchanged."""
    shared.link("/shared/ca.pem", "../vault/tls.key")
    with pytest.raises(WriteError, match="is a symlink of user 65534"):
        replace_file(shared.at("/shared/ca.pem"), b"new")
    assert shared.at("/vault/tls.key").read_bytes() == b"secret"


@pytest.mark.parametrize("planted", ["hard link", "FIFO", "symlink", "open to the user"])
def test_metrics_are_written_through_a_draft_of_certmond(shared: Shared, planted: str) -> None:
    """Whatever another user puts at the draft of the metrics (the directory of node_exporter often belongs to another
    user), certmond does not wait for it, does not write to it, and does not rename it to the target.
    """
    draft = shared.at("/shared/.node.prom.new")
    keeper = None
    match planted:
        case "hard link":
            draft.hardlink_to(shared.at("/vault/tls.key"))
        case "FIFO":
            os.mkfifo(draft)
            keeper = os.open(draft, os.O_RDWR | os.O_NONBLOCK)  # otherwise the writer would wait for a reader
        case "symlink":
            draft.symlink_to(shared.at("/vault/tls.key"))
        case _:
            shared.put("/shared/.node.prom.new", b"", 0o666, THEIRS)
    replace_runtime_file(shared.at("/shared"), "node.prom", "new\n")
    if keeper is not None:
        os.close(keeper)
    status = shared.at("/shared/node.prom").lstat()
    assert (stat.S_ISREG(status.st_mode), stat.S_IMODE(status.st_mode), status.st_uid) == (True, 0o644, 0)
    assert shared.at("/shared/node.prom").read_text() == "new\n"
    assert shared.at("/vault/tls.key").read_bytes() == b"secret"
    assert sorted(path.name for path in shared.at("/shared").iterdir()) == ["node.prom"]


def test_the_archive_stores_nothing_through_a_swapped_directory(shared: Shared, tmp_path: Path) -> None:
    """The archive stores the file that was found. It does not follow a directory that has become a link since."""
    shared.put("/shared/app/tls.key", b"own", 0o600, THEIRS)
    real = Transactions(str(shared.root), tmp_path / "state").real("/shared/app/tls.key")
    shared.at("/shared/app").rename(shared.at("/shared/was"))
    shared.link("/shared/app", "../vault")
    archive = Archive(tmp_path / "state")
    with pytest.raises(WriteError, match=r"/shared/app/tls\.key is unreadable"):
        archive.store("app", {"/shared/app/tls.key": real}, datetime.now(UTC), {})
    assert archive.ids("app") == ()


def test_a_directory_that_is_made_for_a_node_opens_no_other(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who swaps the new directory for a link before its mode is set does not change the mode of another
    directory.
    """
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
