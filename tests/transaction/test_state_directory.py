"""A state directory that another user can change, or that a later certmond has written, is refused before its use."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import StateError
from certmond.formats.private_key import make_key
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.services.restart_episode import Past
from certmond.restart.history import History
from certmond.services.content_times import Changes
from certmond.state.archive import Archive
from certmond.state.json_file import Memory
from certmond.state.pending_requests import Pending
from certmond.state.renewals import Ledger
from certmond.state.rotation_record import RotationRecord
from certmond.transaction import commit as transaction
from certmond.transaction.commit import NewFile, Transactions
from certmond.transaction.node_lock import ACTING, COMMAND, WRITING
from certmond.transaction.state_directory import VERSION, refuse_exposed, refuse_unfit, understood, versioned
from tests.builders import DAY, make_server
from tests.conftest import unavailable
from tests.rotation_node import RotatingNode, root_ca

ANOTHER = 12345
WEB = ("web", "/web.crt")


@pytest.fixture(scope="module")
def renewed(tmp_path_factory: pytest.TempPathFactory) -> RotatingNode:
    """Return a node whose certificate `web` was renewed once, so that the state directory exists."""
    made = RotatingNode(tmp_path_factory.mktemp("renewed") / "place", hurried=False)
    (made.place / "var").mkdir(mode=0o755)
    made.state = made.place / "var/state"
    assert made.certmond("renew", "web").returncode == 0
    return made


@pytest.fixture
def node(renewed: RotatingNode, tmp_path: Path) -> RotatingNode:
    """A copy of it."""
    made = renewed.copy(tmp_path / "place")
    made.state = made.place / "var/state"
    return made


LOCKS = {ACTING, COMMAND, WRITING}


def contents(state: Path) -> dict[str, str]:
    """Return the digest of every file of the state directory except the locks, by its name."""
    paths = [path for path in sorted(state.rglob("*")) if path.is_file() and path.name not in LOCKS]
    return {str(path.relative_to(state)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


# --- changes by another user ----------------------------------------------------------------------------------------


def state_open_to_all(node: RotatingNode) -> None:
    node.state.chmod(0o777)


def state_open_to_a_group(node: RotatingNode) -> None:
    node.state.chmod(0o770)


def state_of_another(node: RotatingNode) -> None:
    os.chown(node.state, ANOTHER, ANOTHER)


def parent_open_to_all(node: RotatingNode) -> None:
    node.state.parent.chmod(0o777)


def archive_open_to_all(node: RotatingNode) -> None:
    (node.state / "archive").chmod(0o777)


def staged_key_open_to_all(node: RotatingNode) -> None:
    node.stage(root_ca())
    (node.state / "rotation/new.key").chmod(0o666)


def staged_key_of_another(node: RotatingNode) -> None:
    node.stage(root_ca())
    os.chown(node.state / "rotation/new.key", ANOTHER, ANOTHER)


def staged_key_that_others_read(node: RotatingNode) -> None:
    node.stage(root_ca())
    (node.state / "rotation/new.key").chmod(0o644)


def record_of_another(node: RotatingNode) -> None:
    os.chown(node.state / "renewals.json", ANOTHER, ANOTHER)


@pytest.mark.long
@pytest.mark.parametrize(
    "expose",
    [
        state_open_to_all, state_open_to_a_group, state_of_another, parent_open_to_all, archive_open_to_all,
        staged_key_open_to_all, staged_key_of_another, staged_key_that_others_read, record_of_another,
    ],
)  # fmt: skip
def test_what_another_user_can_change_is_refused(node: RotatingNode, expose: Callable[[RotatingNode], None]) -> None:
    """Exit 3 and the command that puts it right; state and node have not changed. After it, the renewal is done."""
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    expose(node)
    before = node.tree(), contents(node.state)
    refused = node.certmond("renew", "web")
    assert refused.returncode == 3, refused
    assert (node.tree(), contents(node.state)) == before
    remedy = re.search(r"; run: (ch(?:mod|own) [^;]+);", refused.stderr)
    assert remedy, refused.stderr
    subprocess.run(shlex.split(remedy[1]), check=True)
    assert node.certmond("renew", "web").returncode == 0


def test_an_ordinary_user_does_not_take_the_directory_of_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remedy for an ordinary user is root, not chown: the daemon could no longer use the directory."""
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    monkeypatch.setattr("certmond.transaction.state_directory._service", lambda: frozenset({ANOTHER}))
    monkeypatch.setattr("os.geteuid", lambda: ANOTHER + 1)
    (state := tmp_path / "state").mkdir(mode=0o755)
    as_root = "run certmond as root, or give --state-dir"
    for owner, remedy in ((ANOTHER, as_root), (ANOTHER + 2, f"run: chown {ANOTHER + 1} ")):
        os.chown(state, owner, owner)
        with pytest.raises(StateError, match=f"{state} belongs to user .*; {remedy}"):
            refuse_exposed(state)


def test_a_parent_with_the_sticky_bit_is_no_obstacle(node: RotatingNode) -> None:
    """An example is /tmp: others add names there, and cannot replace the state directory."""
    node.state.parent.chmod(0o1777)
    refuse_unfit(node.state)


@pytest.mark.long
def test_a_new_state_directory_is_valid_under_any_umask(node: RotatingNode) -> None:
    """With the umask 0002 of many distributions, a state directory that certmond creates has the required mode."""
    node.state = node.place / "var/other"
    before = os.umask(0o002)
    try:
        for _ in range(2):
            assert node.certmond("renew", "web").returncode == 0
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o077 for path in (node.state, *node.state.rglob("*"))} == {0}


@pytest.mark.long
@pytest.mark.parametrize(
    "words", ["plan", "forecast", "root-ca rotate", "root-ca show", "archive list", "restart --stale"]
)
def test_each_verb_that_uses_the_state_refuses_one_open_to_all(node: RotatingNode, words: str) -> None:
    """Exit 3, and the sentence names the directory, its mode and the remedy."""
    node.state.chmod(0o777)
    refused = node.certmond(*words.split())
    said = f"certmond: other users can write {node.state} (mode 0777); run: chmod go-w {node.state}; until then"
    assert (refused.returncode, refused.stderr[: len(said)]) == (3, said)


# --- records of a later certmond --------------------------------------------------------------------------------------


def renewals(node: RotatingNode) -> Path:
    Ledger(node.state).store(WEB, Attempt(datetime.now(UTC), 1, "no"))
    return node.state / "renewals.json"


def restarts(node: RotatingNode) -> Path:
    History(node.state).store(Past("web"))
    return node.state / "restarts.json"


def changes(node: RotatingNode) -> Path:
    Changes(node.state, keeps=True).contents([("/web.crt", "1", 5)], datetime.now(UTC))
    return node.state / "changes.json"


def subjects(node: RotatingNode) -> Path:
    Memory(node.state, "subjects.json", dict[str, str]).write({"web": "CN=web"})
    return node.state / "subjects.json"


def anchors(node: RotatingNode) -> Path:
    RotationRecord(node.state).accept({"ca": (node.old.facts,)})
    return node.state / "anchors.json"


def rotation(node: RotatingNode) -> Path:
    node.begin(root_ca())
    return node.state / "rotation/record.json"


def last_rotation(node: RotatingNode) -> Path:
    RotationRecord(node.state).close(node.begin(root_ca()))
    return node.state / "rotation/last.json"


def closed_rotations(node: RotatingNode) -> Path:
    last_rotation(node)
    return node.state / "rotation/closed.json"


def hook(node: RotatingNode) -> Path:
    Memory(node.state / "hooks", "pager.json", tuple[str, ...]).write(("told",))
    return node.state / "hooks/pager.json"


def waiting_key(node: RotatingNode) -> Path:
    Pending(node.state).keep(WEB, make_key(KeyAlgorithm.ECDSA_P256), b"request", "00" * 32)
    renewals(node)
    Ledger(node.state).store(WEB, Attempt(datetime.now(UTC), cookie="1"))
    return next((node.state / "pending").glob("*.for"))


def interrupted(node: RotatingNode) -> Path:
    """A replacement of web.crt that was decided upon, by a process that was killed right after it."""
    if child := os.fork():
        os.waitpid(child, 0)
        return next((node.state / "transactions").glob("*.commit.json"))
    try:
        pytest.MonkeyPatch().setattr(transaction, "settle", lambda *_: os._exit(0))
        with Transactions("/", node.state).lock() as writer:
            path, content = str(node.files / "web.crt"), node.read("web.crt")
            new = NewFile(path, content + b"\n", expected=hashlib.sha256(content).hexdigest())
            writer.commit([new], verify=lambda _: None)
    finally:
        os._exit(1)


RECORDS = [
    renewals, restarts, changes, subjects, anchors, rotation, last_rotation, closed_rotations, hook, waiting_key,
    interrupted,
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("record", RECORDS)
def test_a_record_of_a_later_version_is_refused_by_name(
    node: RotatingNode, record: Callable[[RotatingNode], Path]
) -> None:
    """The error has the path, both versions and the remedy, and the exit code is 3. No byte of node and state changes.
    With the record of this version, certmond continues.
    """
    path = record(node)
    own = path.read_text()
    assert json.loads(own)["version"] == VERSION
    path.write_text(json.dumps({**json.loads(own), "version": 99}))
    before = node.tree(), contents(node.state)
    for words in (("plan",), ("renew", "web")):
        refused = node.certmond(*words)
        assert (words, refused.returncode) == (words, 3), refused
        assert refused.stderr.strip() == (
            f"certmond: {path} has the format version 99 of a later version of certmond, but this version reads only "
            "1; install the later version again, or move the file away"
        )
    assert (node.tree(), contents(node.state)) == before
    path.write_text(own)
    assert node.certmond("renew", "web").returncode in {0, 1, 2}  # during a rotation of the CA it may be held
    assert node.belongs("web.crt")


@pytest.mark.parametrize("record", [renewals, anchors, hook])
def test_a_record_of_a_later_version_is_never_written_over(
    node: RotatingNode, record: Callable[[RotatingNode], Path]
) -> None:
    """The rule also covers a record that is written without the lock: the write fails, and the error names the file."""
    path = record(node)
    path.write_text(later := json.dumps({**json.loads(path.read_text()), "version": 99}))
    memory = Memory(path.parent, path.name, tuple[str, ...])
    assert memory.read() is None
    with pytest.raises(StateError, match=re.escape(str(path))):
        memory.load()
    with pytest.raises(StateError, match=re.escape(str(path))):
        memory.write(())
    assert path.read_text() == later


@pytest.mark.parametrize("record", [record for record in RECORDS if record is not interrupted])
def test_a_record_without_a_version_is_version_1(node: RotatingNode, record: Callable[[RotatingNode], Path]) -> None:
    """A record from before versions existed is read unchanged."""
    path = record(node)
    document = json.loads(path.read_text())
    assert document.pop("version") == VERSION
    bare = document["content"] if document.keys() == {"content"} else document
    path.write_text(bare if isinstance(bare, str) else json.dumps(bare))
    known = RotationRecord(node.state)
    refuse_unfit(node.state)
    match record.__name__:
        case "renewals":
            assert WEB in Ledger(node.state).attempts()
        case "restarts":
            assert History(node.state).all() == {"web": Past("web")}
        case "anchors":
            assert known.anchors() == {"ca": (node.old.facts,)}
        case "rotation":
            assert known.load() is not None
        case "last_rotation" | "closed_rotations":
            assert known.closed()
        case "waiting_key":
            assert Pending(node.state).replaces(WEB) == "00" * 32
        case _:
            assert json.loads(path.read_text()) == bare


@pytest.mark.long
def test_a_generation_of_a_later_version_is_refused_by_name(node: RotatingNode) -> None:
    """The generation is neither listed nor restored, and the certificate is not renewed over it: no generation is
    removed. With this version of the record, both work.
    """
    path = next((node.state / "archive/web").glob("*/description.json"))
    own = path.read_text()
    path.write_text(json.dumps({**json.loads(own), "version": 99}))
    before = node.tree()
    for words, code in (("archive list web", 3), (f"archive restore web {path.parent.name}", 3), ("renew web", 2)):
        refused = node.certmond(*words.split())
        assert (refused.returncode, f"{path} has the format version 99" in refused.stderr) == (code, True)
    assert node.tree() == before
    assert Archive(node.state).ids("web") == (path.parent.name,)
    path.write_text(own)
    assert node.certmond("archive", "restore", "web", path.parent.name).returncode == 0
    assert len(Archive(node.state).ids("web")) == 2


@pytest.mark.long
def test_the_daemon_reports_a_later_version_and_does_not_act(node: RotatingNode) -> None:
    """A due certificate stays as it is, the finding names the file; with its own record again, the daemon renews."""
    anchors(node)
    path = renewals(node)
    own = path.read_text()
    now = datetime.now(UTC)
    due = make_server(node.old, "web", names=["DNS:web"], not_before=now - 80 * DAY, not_after=now + 2 * DAY)
    node.put("web.crt", due.pem)
    node.put("web.key", due.key_pem)
    path.write_text(json.dumps({**json.loads(own), "version": 99}))
    before = node.tree()

    def reported(document: dict[str, Any]) -> bool:
        found = [each for entry in document["certificates"] for each in entry["findings"]]
        return any(each["reason"] == "rotation_frozen" and str(path) in each["message"] for each in found)

    with node.daemon() as running:
        running.until(lambda: reported(running.status()), "reports it")
        running.until(lambda: str(path) in running.log.read_text(), "has it in the journal")
        assert node.tree() == before
        draft = path.with_name("draft")
        draft.write_text(own)
        draft.chmod(0o600)
        draft.rename(path)
        node.put("web.crt", due.pem)  # an event, so that the test does not wait for the next pass
        running.until(lambda: node.read("web.crt") != due.pem, "is renewed")
    assert node.belongs("web.crt")


@pytest.mark.long
@pytest.mark.parametrize("words", ["check", "metrics"])
def test_check_and_metrics_report_it(node: RotatingNode, words: str) -> None:
    """`check` and `metrics` have the critical finding at the anchor. Without an anchor they exit 3."""
    node.state.chmod(0o777)
    said = f"other users can write {node.state} (mode 0777); run: chmod go-w {node.state}"
    looked = node.certmond(words)
    assert (looked.returncode, "rotation_frozen" in looked.stdout) == (2 if words == "check" else 0, True)
    assert words == "metrics" or said in looked.stdout
    config = node.place / "config.yaml"
    document = yaml.safe_load(config.read_text())
    web = {**document["certificates"][1], "ca": []}
    config.write_text(yaml.safe_dump({**document, "certificates": [web]}))
    looked = node.certmond(words)
    assert (looked.returncode, said in looked.stderr) == (3, True)


@pytest.mark.long
def test_the_daemon_that_observes_reports_it_at_its_start(node: RotatingNode) -> None:
    """The journal has the file, the fact and the remedy, though nothing is written in that mode."""
    node.configure(mode="observe")
    node.state.chmod(0o777)
    with node.daemon() as running:
        said = f"other users can write {node.state} (mode 0777); run: chmod go-w {node.state}"
        running.until(lambda: said in running.log.read_text(), "reports it")


@pytest.mark.parametrize("padding", [0, 1 << 17])
def test_a_valid_record_is_read_again_after_a_change(tmp_path: Path, padding: int) -> None:
    """A large record is not parsed in each pass, but a later version and a chmod are detected."""
    path = tmp_path / "renewals.json"
    memory = Memory(tmp_path, path.name, tuple[str, ...])
    memory.write(("x" * padding,))
    for _ in range(2):
        refuse_unfit(tmp_path)
    path.chmod(0o666)
    with pytest.raises(StateError, match="mode 0666"):
        refuse_unfit(tmp_path)
    path.chmod(0o600)
    refuse_unfit(tmp_path)
    path.write_text(json.dumps({"content": ["x" * padding], "version": 99}))
    with pytest.raises(StateError, match="version 99"):
        refuse_unfit(tmp_path)
    with pytest.raises(StateError, match="version 99"):
        memory.write(())


NUMBERS = st.integers() | st.booleans() | st.none() | st.text(max_size=3) | st.floats(allow_nan=False)
DOCUMENTS = st.recursive(
    NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(DOCUMENTS | st.builds(lambda number, content: {"version": number, "content": content}, NUMBERS, DOCUMENTS))
def test_any_document_is_accepted_or_refused(document: Any) -> None:
    """A document without a number as its version is accepted, and one with a later version is refused."""
    number = document.get("version") if isinstance(document, dict) else None
    if type(number) is int and number > VERSION:
        with pytest.raises(StateError, match=str(number)):
            understood(document, "/it")
    else:
        understood(document, "/it")


@given(st.dictionaries(st.text(max_size=9), st.lists(st.text()), max_size=3) | st.lists(st.text()))
def test_what_is_written_is_understood(content: Any) -> None:
    """Each document gets a version, and has the same content without it."""
    document = versioned(content)
    assert document["version"] == VERSION
    assert understood(json.loads(json.dumps(document)), "/it") == content


def test_a_missing_state_directory_is_no_obstacle(tmp_path: Path) -> None:
    """A missing directory is not used."""
    refuse_unfit(tmp_path / "none")
    assert not (tmp_path / "none").exists()
