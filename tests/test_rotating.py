"""A Root CA that is followed by another on one node: the real program, on real files, left alone and disturbed."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from certmond.errors import WriteError
from certmond.host.staged import Part, Staging
from certmond.pki.encoding import decode
from certmond.pki.rotation import Mode, Phase
from tests.builders import DAY, HOUR, Issued, bundle, make_ca, make_intermediate, make_leaf, make_server, reissue
from tests.conftest import unavailable
from tests.rotating_node import RotatingNode, hurried, root_ca, secret_lines
from tests.tracing import kill_at, record

STOPS = 40
"""Of more than a thousand system calls in a rotation at which it could be killed, so many are tried."""

pytestmark = pytest.mark.real("openssl")


def real_time() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: what is written a thousand times need not wait for a disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    place = memory / f"certmond-test-{tmp_path.parent.name}-{tmp_path.name}"
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place)


def brought(node: RotatingNode, new: Issued, key: bytes | None = None) -> tuple[str, str]:
    """A CA as an operator brings it: its certificate and its key, in files that are not the node's."""
    certificate, secret = node.place / "brought.crt", node.place / "brought.key"
    certificate.write_bytes(new.pem)
    secret.touch(0o600)
    secret.write_bytes(new.key_pem if key is None else key)
    return str(certificate), str(secret)


def restarts_by_phase(node: RotatingNode) -> Counter[str]:
    """In which phase the service was restarted, and how often."""
    found, phase = Counter[str](), "none"
    for entry in node.audit():
        if entry["event"] == "rotation":
            phase = entry["phase"]
        elif entry.get("step") == "restart" and entry["event"] == "step_begun":
            found[phase] += 1
    return found


# By hand


@pytest.mark.slow
def test_a_ca_follows_another(quick: Path) -> None:
    """Staged and rotated by hand, the new CA is the only one that is trusted, what the old one signed is accepted no
    more, each phase that concerns a service has restarted it once, and no CA's key is left but the one in its place.
    """
    node, new = RotatingNode(quick / "place", served=True, clock=real_time), root_ca()
    old_leaf, old_user = node.read("web.crt"), node.user()
    staged = node.certmond("root-ca", "stage", *brought(node, new))
    assert staged.returncode == 0, staged.stderr
    done = node.certmond("root-ca", "rotate")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.splitlines()[-1] == "done"
    assert node.unwell(new) == []
    assert not node.verifies(old_leaf, new)
    assert not node.verifies(old_user, new)
    assert node.embedded() == (new.facts,)
    assert restarts_by_phase(node) == {"trust": 1, "issue": 1, "distrust": 1}
    assert node.restarts() == 3
    assert node.phases() == ["prepare", "detach", "trust", "issue", "distrust", "attach", "done", "done"]
    again = node.certmond("root-ca", "rotate")
    assert again.returncode == 3
    assert "no CA is staged that could follow ca; give one with `certmond root-ca stage`" in again.stderr


def test_a_plan_changes_nothing(quick: Path) -> None:
    """It names every phase with its files and restarts, and neither the node nor the record is another for it."""
    node = RotatingNode(quick / "place", served=True)
    node.stage(root_ca())
    before, state = node.tree(), sorted(map(str, node.state.rglob("*")))
    planned = node.certmond("root-ca", "rotate", "--plan")
    assert planned.returncode == 0
    told = {line.split()[0]: line for line in planned.stdout.splitlines() if not line.startswith(" ")}
    assert list(told) == ["PHASE", *map(str, Phase)]
    restarted = {phase for phase in Phase if told[phase].split()[-1] == "web"}
    assert restarted == {Phase.TRUST, Phase.ISSUE, Phase.DISTRUST}
    assert "ca.key is to be the key of the new CA" in told[Phase.ISSUE]
    assert (node.tree(), sorted(map(str, node.state.rglob("*")))) == (before, state)
    assert (node.record, node.restarts()) == (None, 0)


@pytest.mark.slow
def test_the_same_key_with_other_dates(quick: Path) -> None:
    """Where only dates change, leaves and keys stay as they are, and one restart does."""
    node = RotatingNode(quick / "place", served=True, clock=real_time)
    before, user = node.tree(), node.user()
    staged = node.certmond("root-ca", "stage", "--reuse-key", "--validity", "3y")
    assert staged.returncode == 0, staged.stderr
    done = node.certmond("root-ca", "rotate")
    assert done.returncode == 0, done.stdout + done.stderr
    after = node.tree()
    assert {name for name in before if before[name] != after[name]} == {"ca.crt", "user.conf"}
    assert node.user() == user
    (now,) = node.trust()
    assert (now.key, now.subject_key_id) == (node.old.facts.key, node.old.facts.subject_key_id)
    assert now.not_after > node.old.facts.not_after
    assert node.embedded() == (now,)
    assert node.unwell(reissued(node)) == []
    assert node.phases() == ["prepare", "distrust", "done", "done"]
    assert restarts_by_phase(node) == {"distrust": 1}


def reissued(node: RotatingNode) -> Issued:
    """The CA that is in place, as the builders have it."""
    (now,) = node.trust()
    return Issued(now.der, node.old.key, node.old.subject, node.old.subject_key_id, node.old.names)


def test_at_once(quick: Path) -> None:
    """Without an overlap the new CA stands alone from the first change of files on."""
    node, new = RotatingNode(quick / "place"), root_ca()
    node.stage(new)
    done = node.hurry("root-ca", "rotate", "--at-once")
    assert (done.code, done.err) == (0, "")
    assert node.unwell(new) == []
    assert node.phases() == ["prepare", "issue", "done", "done"]
    assert "and the former CA" not in done.out


PHASES_BACK = (Phase.PREPARE, Phase.DETACH, Phase.TRUST, Phase.ISSUE)


@pytest.mark.parametrize("reached", [False, True], ids=["begun", "reached"])
@pytest.mark.parametrize("phase", PHASES_BACK)
def test_a_rotation_goes_back(quick: Path, phase: Phase, reached: bool) -> None:
    """Aborted in any phase before the former CA is distrusted, at its beginning or at its end: that one is the only
    one again, everything verifies, and no staged key is left.
    """
    node = RotatingNode(quick / "place")
    node.begin(root_ca())
    walk_into(node, phase, reached=reached)
    done = node.hurry("root-ca", "abort")
    assert (done.code, done.err) == (0, ""), done.out
    assert f"was in the phase {phase}, and goes back" in done.out
    assert node.unwell(node.old) == []
    assert node.findings() == {}


def walk_into(node: RotatingNode, phase: Phase, *, reached: bool) -> None:
    """To the first moment of a phase, or to where its files are written."""
    node.walk(lambda: node.phase is phase)
    while reached and (assessed := node.enforcer()):
        assessment, around = assessed.see()
        if not assessed.plan(assessment, around=around).writes:
            return
        node.step()


@pytest.mark.parametrize("phase", [Phase.DISTRUST, Phase.ATTACH])
def test_there_is_a_point_of_no_return(quick: Path, phase: Phase) -> None:
    """From then on an abort is refused, with the reason, and the rotation goes on to its end."""
    node, new = RotatingNode(quick / "place"), root_ca()
    node.begin(new)
    walk_into(node, phase, reached=True)
    before, rotation = node.tree(), node.record
    refused = node.hurry("root-ca", "abort")
    assert refused.code == 2
    assert f"is in the phase {phase}, from which there is no way back" in refused.err
    assert "the former CA is distrusted already somewhere; let it go on to its end" in refused.err
    assert (node.tree(), node.record) == (before, rotation)
    assert node.hurry("root-ca", "rotate").code == 0
    assert node.unwell(new) == []


def test_what_goes_back_goes_back_once(quick: Path) -> None:
    """Neither a rotation that goes back nor none at all can be aborted."""
    node = RotatingNode(quick / "place")
    assert "no rotation is under way; there is nothing to abort" in node.hurry("root-ca", "abort").err
    node.begin(root_ca())
    node.walk(lambda: node.phase is Phase.ISSUE)
    assert node.hurry("root-ca", "abort", "--no-wait").code == 0
    again = node.hurry("root-ca", "abort")
    assert again.code == 2
    assert "is on its way back already" in again.err
    node.walk()
    assert node.unwell(node.old) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_ended_goes_on(quick: Path, how: signal.Signals) -> None:
    """Ended in the middle, by a key or a kill, and begun again, the command finishes what it found."""
    node, new = RotatingNode(quick / "place", clock=real_time, root_ca={"overlap": "2s"}), root_ca()
    node.stage(new)
    process = subprocess.Popen(node.command("root-ca", "rotate"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    assert any("trust is reached" in line or "both CAs are trusted" in line for line in process.stdout)
    process.send_signal(how)
    said = process.communicate()[0]
    assert process.returncode == (130 if how is signal.SIGINT else -how)
    assert "Traceback" not in said
    rotation = node.record
    assert rotation is not None
    done = node.certmond("root-ca", "rotate")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert node.unwell(new) == []
    assert {entry["rotation"] for entry in node.audit() if entry["event"] == "rotation"} == {rotation.id}


# By itself


def cat(node: RotatingNode, new: Issued) -> None:
    node.put("ca.key", new.key_pem)
    node.put("ca.crt", new.pem)


def renamed(node: RotatingNode, new: Issued) -> None:
    node.rename("ca.key", new.key_pem)
    node.rename("ca.crt", new.pem)


def certificate_first(node: RotatingNode, new: Issued) -> None:
    node.put("ca.crt", new.pem)
    node.put("ca.key", new.key_pem)


PUT: dict[str, Callable[[RotatingNode, Issued], None]] = {
    "cat": cat, "rename": renamed, "certificate first": certificate_first,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", PUT)
def test_a_ca_that_somebody_put_there_is_rotated(quick: Path, how: str) -> None:
    """However its certificate and key came: it is noticed, trusted beside the former one, and is alone in the end."""
    node, new = RotatingNode(quick / "place", clock=real_time), root_ca()
    with node.daemon() as daemon:
        PUT[how](node, new)
        daemon.until(lambda: len(node.trust()) == 2 or "distrust" in node.phases(), "both are trusted")
        daemon.until(lambda: node.phases()[-2:] == ["done", "done"], "done")
        daemon.until(lambda: not daemon.reasons("ca"), "nothing is told any more")
    assert node.unwell(new) == []
    assert node.phases() == ["trust", "issue", "distrust", "attach", "done", "done"]
    log = daemon.log.read_text()
    assert "holds another CA than this node lives by" in log
    assert "Traceback" not in log


# Disturbed


DISTURBED = {
    "a stranger in the bundle": ("ca.crt", lambda content: content + root_ca().pem, "is neither the former nor the new"),
    "a third key": ("ca.key", lambda _: root_ca().key_pem, "is the key of neither the former nor the new CA"),
    "no certificate": ("ca.crt", lambda _: b"", "ca.crt holds no CA certificate"),
    "a damaged key": ("ca.key", lambda _: b"-----BEGIN PRIVATE KEY-----\n", "cannot be read as a key"),
}  # fmt: skip


@pytest.mark.parametrize("phase", Phase)
def test_what_is_strange_stops_it(quick: Path, phase: Phase) -> None:
    """In any phase, somebody else's certificate or key in the place of the CA's is told as critical at the first look,
    and nothing is touched; put right, the rotation goes on to its end.
    """
    node, new = RotatingNode(quick / "place"), root_ca()
    node.begin(new)
    walk_into(node, phase, reached=False)
    for what, (name, spoil, sentence) in DISTURBED.items():
        good = node.read(name)
        node.put(name, spoil(good))
        before, rotation = node.tree(), node.record
        assert sentence in node.findings().get("rotation_frozen", ""), what
        assert [node.step() for _ in range(3)] == [None, None, None], what
        stopped = node.hurry("root-ca", "rotate")
        assert stopped.code == 2, what
        assert sentence in stopped.out + stopped.err, what
        assert (node.tree(), node.record) == (before, rotation), what
        node.put(name, good)
        assert "rotation_frozen" not in node.findings(), what
    node.walk()
    assert node.unwell(new) == []
    assert node.findings() == {}


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00garbage", b'{"id": 1}', None], ids=repr)
def test_a_record_that_cannot_be_read_stops_it(quick: Path, content: bytes | None) -> None:
    """Where nobody can tell how far a rotation is, that is critical, and nothing is touched until it can be told."""
    node, new = RotatingNode(quick / "place"), root_ca()
    node.begin(new)
    walk_into(node, Phase.ISSUE, reached=False)
    path = node.state / "rotation/record.json"
    good = path.read_bytes()
    if content is None:
        path.unlink()
        path.mkdir(mode=0o700)
    else:
        path.write_bytes(content)
    before = node.tree()
    told = node.findings()["rotation_frozen"]
    assert f"{path} cannot be read, so that nobody knows how far a rotation is; put it back from a backup" in told
    assert [node.step() for _ in range(3)] == [None, None, None]
    for words in (("rotate",), ("abort",), ("stage", "--generate", "--force")):
        refused = node.hurry("root-ca", *words)
        assert refused.code in {2, 3}, words
        assert refused.err, words
    assert node.tree() == before
    assert node.staged
    if content is None:
        path.rmdir()
    path.write_bytes(good)
    node.walk()
    assert node.unwell(new) == []


def make_due(node: RotatingNode) -> None:
    """The leaf is due for its renewal, whatever becomes of its CA."""
    now = node.clock()
    leaf = make_server(node.old, "web", names=["DNS:web"], not_before=now - 80 * DAY, not_after=now + 2 * DAY)
    node.put("web.key", leaf.key_pem)
    node.put("web.crt", leaf.pem)


@pytest.mark.parametrize("what", ["alarm", "unfit", "frozen", "a broken record"])
def test_nothing_is_signed_that_nobody_may_trust(quick: Path, what: str) -> None:
    """A certificate that is due stays as it is while the CA in place is not known to be trusted, and the plan says
    why; the daemon renews it when that is settled.
    """
    node = RotatingNode(quick / "place", root_ca={"overlap": "1s", "on_change": "alarm"})
    good = node.read("ca.crt"), node.read("ca.key")
    node.step()
    record = node.state / "rotation/record.json"
    noted = b""
    if what == "alarm":
        cat(node, root_ca())
    elif what == "unfit":
        cat(node, root_ca(key="rsa-1024"))
    else:
        node.begin(root_ca())
        walk_into(node, Phase.TRUST, reached=True)
        good, noted = (node.read("ca.crt"), node.read("ca.key")), record.read_bytes()
        if what == "frozen":
            node.put("ca.crt", good[0] + root_ca().pem)
        else:
            record.write_bytes(b"{}")
    make_due(node)
    before = node.tree()
    assert [node.step() for _ in range(3)] == [None, None, None]
    assert node.tree() == before
    enforcer = node.enforcer()
    (held,) = (each for each in enforcer.plan(enforcer.see()[0]).held if each.target == "web")
    assert re.search("nothing is touched|is alarm|stands still|cannot be read", held.because)
    node.put("ca.crt", good[0])
    node.put("ca.key", good[1])
    if noted:
        record.write_bytes(noted)
    node.step()
    assert node.read("web.crt") and node.tree()["web.crt"] != before["web.crt"]


def test_a_found_ca_signs_nothing_before_it_is_trusted(quick: Path) -> None:
    """A certificate that is due when somebody replaces the CA is not issued from the new one until both are trusted."""
    node, new = RotatingNode(quick / "place"), root_ca()
    node.step()
    cat(node, new)
    make_due(node)
    before = node.tree()["web.crt"]
    seen = set[Phase]()
    while node.tree()["web.crt"] == before:
        node.step()
        seen |= {node.phase} if node.phase else set()
        assert len(seen) < len(Phase)
    assert seen == {Phase.TRUST, Phase.ISSUE}
    node.walk()
    assert node.unwell(new) == []
