"""A rotation of the service-account keys on one node: the real program, on real files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.public_key import PublicKey
from certmond.rotation.staged_ca import Part, Staging
from tests.builders import HOUR, Issued, make_ca
from tests.rotation_node import RotatingNode, secret_lines
from tests.sampling import sample
from tests.tracing import kill_at, record

STOPS = 4
"""The number of stops of a rotation at which it is killed."""
SA = ("--family", "sa")
FILES = {"sa.pub", "sa.key"}


class TokenNode(RotatingNode):
    """A node that signs and verifies tokens, too; `served` decides whether a service reads the keys."""

    def __init__(self, place: Path, *, served: bool = False) -> None:
        self.pair = make_ca(key="ec")
        super().__init__(place, served=served, root_ca={"overlap": "1s", "token_overlap": "3h"})
        self._pace = 50_000  # a day passes in a second or two
        self.put("sa.key", self.pair.key_pem)
        self.put("sa.pub", self.pair.public_pem)
        (self.files / "sa.pub").chmod(0o644)

    def configure(self, **more: Any) -> None:
        super().configure(**more)
        path = self.place / "config.yaml"
        document = yaml.safe_load(path.read_text())
        used = {"consumers": ["web"]} if document["services"] else {}
        pair = {"name": "sa", "kind": "key-pair", "path": str(self.files / "sa.pub"), "key": str(self.files / "sa.key")}
        document["certificates"].append(pair | used)
        path.write_text(yaml.safe_dump(document))

    def bring(self, new: Issued) -> str:
        """A key as an operator brings it, in a file that is not the node's."""
        path = self.place / "brought.key"
        path.touch(0o600)
        path.write_bytes(new.key_pem)
        return str(path)

    def staged_now(self, new: Issued) -> None:
        done = self.hurry("root-ca", "stage", self.bring(new), *SA)
        assert done.code == 0, done.err

    def follow(self, new: Issued, mode: Mode = Mode.OVERLAP) -> None:
        """Stage `new` and start a rotation, which the command refuses if no detected service reads the keys."""
        self.staged_now(new)
        old, to, now = (self.pair.facts.key,), new.facts.key, self.clock()
        self.enforcer().rotating.start(Rotation("20261124T120000Z-abcdef", "sa", mode, old, to, Phase.PREPARE, now))

    def pub(self) -> tuple[PublicKey, ...]:
        return decode(self.read("sa.pub"), "sa.pub").public_keys

    def sign(self) -> tuple[bytes, bytes]:
        """Return a token: a payload and its signature with the installed key."""
        key: Any = load_pem_private_key(self.read("sa.key"), None)
        return b"a token", key.sign(b"a token", ec.ECDSA(hashes.SHA256()))

    def accepts(self, token: tuple[bytes, bytes]) -> bool:
        """Return whether it verifies by one of the installed public keys."""
        for text in self.read("sa.pub").split(b"-----END PUBLIC KEY-----\n")[:-1]:
            key: Any = load_pem_public_key(text + b"-----END PUBLIC KEY-----\n")
            try:
                key.verify(token[1], token[0], ec.ECDSA(hashes.SHA256()))
            except Exception:  # noqa: BLE001, S112 - whatever it says, the next one may take it
                continue
            return True
        return False

    def amiss(self, own: Issued) -> list[str]:
        """Return all deviations from the state in which `own` is the only key and no rotation runs."""
        problems = [] if self.pub() == (own.facts.key,) else ["sa.pub has other keys"]
        problems += [] if decode(self.read("sa.key"), "").key == own.facts.key else ["sa.key is another one"]
        problems += [] if (self.files / "sa.pub").stat().st_mode & 0o777 == 0o644 else ["sa.pub cannot be read"]
        return problems + self.unwell(self.old)


def key() -> Issued:
    return make_ca(key="ec")


def differing(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


@pytest.mark.long
def test_a_key_follows_another(tmp_path: Path) -> None:
    """After staging and rotation by commands, the new key is the only one, no other file has changed, and the only key
    is at its path. During the rotation a token of either key is accepted until its end, and no longer.
    """
    node, new = TokenNode(tmp_path / "place"), key()
    before, former = node.tree(), node.sign()
    node.follow(new)
    assert node.tree() == before
    seen = list[tuple[str, bool, bool]]()

    def look() -> bool:
        seen.append((str(node.phase), node.accepts(former), node.accepts(node.sign())))
        return False

    node.walk(look, passes=20000)
    assert all(own for _, _, own in seen)
    assert {phase for phase, old, _ in seen if old} >= {"prepare", "trust", "issue"}
    assert node.amiss(new) == []
    assert not node.accepts(former)
    assert differing(before, node.tree()) == FILES
    assert list(dict.fromkeys(node.phases())) == ["prepare", "trust", "issue", "distrust", "done"]
    assert node.findings() == {}
    again = node.hurry("root-ca", "rotate", *SA)
    assert again.code == 3
    assert "no new key is staged for sa" in again.err


@pytest.mark.long
def test_services_that_read_the_keys_are_restarted_in_each_phase(tmp_path: Path) -> None:
    """They restart once in each phase that changes a file, because they read it at their start only. The command
    reports its wait.
    """
    node, new = TokenNode(tmp_path / "place", served=True), key()
    node.staged_now(new)
    done = node.hurry("root-ca", "rotate", *SA)
    assert (done.code, done.err) == (0, ""), done.out
    assert node.amiss(new) == []
    assert node.restarts() == 3
    assert "every API server accepts the tokens of both keys now" in done.out
    assert "the new key signs all tokens now, but the tokens of the old key must still expire" in done.out
    assert done.out.splitlines()[-1] == "done"


@pytest.mark.long
def test_the_time_of_the_last_tokens_is_kept(tmp_path: Path) -> None:
    """The record has the time of the last tokens, so that another process counts from the same instant and skips no
    time.
    """
    node = TokenNode(tmp_path / "place")

    def published() -> datetime | None:
        return node.record.published if node.record else None

    node.follow(key())
    node.walk(lambda: node.phase is Phase.ISSUE and published() is not None, passes=20000)
    noted = published()
    assert noted
    node.walk(lambda: node.phase is Phase.DISTRUST, passes=20000)
    assert (record := node.record)
    assert record.since >= noted + 3 * HOUR
    assert record.published is None


def reach(node: TokenNode, phase: Phase) -> None:
    """Walk to the point at which the files of the phase are written."""
    node.walk(lambda: node.phase is phase, passes=20000)
    node.step()


@pytest.mark.long
@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.TRUST, Phase.ISSUE])
def test_it_can_be_aborted(tmp_path: Path, phase: Phase) -> None:
    """After an abort before the old key is distrusted, that one is the only one again. Tokens that the new one has
    signed meanwhile are accepted as long as the others would have been.
    """
    node, new = TokenNode(tmp_path / "place"), key()
    node.follow(new)
    reach(node, phase)
    token = node.sign()
    assert node.hurry("root-ca", "abort", "--no-wait").code == 0
    accepted = set[str]()

    def look() -> bool:
        accepted.update([str(node.phase)] if node.accepts(token) else [])
        return False

    node.walk(look, passes=20000)
    assert accepted >= ({"issue"} if phase is Phase.ISSUE else {"distrust"} if phase is Phase.TRUST else set())
    assert node.amiss(node.pair) == []
    assert node.findings() == {}


@pytest.mark.long
def test_there_is_a_point_of_no_return(tmp_path: Path) -> None:
    """From the point of no return, an abort is refused with the reason."""
    node, new = TokenNode(tmp_path / "place"), key()
    node.follow(new)
    reach(node, Phase.DISTRUST)
    refused = node.hurry("root-ca", "abort")
    assert refused.code == 2
    assert "a node might distrust the old public key already; let the rotation continue to its end" in refused.err
    assert node.hurry("root-ca", "rotate", *SA).code == 0
    assert node.amiss(new) == []


def test_at_once(tmp_path: Path) -> None:
    """Without an overlap the new key is alone from the first change of files."""
    node, new = TokenNode(tmp_path / "place"), key()
    node.follow(new, Mode.REPLACE)
    done = node.hurry("root-ca", "rotate", *SA)
    assert (done.code, done.err) == (0, "")
    assert node.amiss(new) == []
    assert list(dict.fromkeys(node.phases())) == ["prepare", "issue", "done"]


STRANGE: dict[str, tuple[str, Callable[[TokenNode], bytes], str]] = {
    "a third public key": (
        "sa.pub", lambda node: node.read("sa.pub") + make_ca().public_pem, "sa.pub contains the public key "
    ),
    "no public key": ("sa.pub", lambda _: b"", "sa.pub contains no public key; restore the file"),
    "another key": (
        "sa.key", lambda _: key().key_pem, "sa.key is the key of neither the old nor the new public key"
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.TRUST, Phase.ISSUE, Phase.DISTRUST])
def test_a_foreign_key_stops_the_rotation(tmp_path: Path, phase: Phase) -> None:
    """A key of another process is critical, and certmond changes no file. After the key is restored, the rotation
    continues to its end.
    """
    node, new = TokenNode(tmp_path / "place"), key()
    node.follow(new)
    reach(node, phase)
    for what, (name, spoil, sentence) in STRANGE.items():
        good = node.read(name)
        node.put(name, spoil(node))
        before, rotation = node.tree(), node.record
        assert sentence in node.findings().get("rotation_frozen", ""), what
        assert [node.step() for _ in range(3)] == [None, None, None], what
        stopped = node.hurry("root-ca", "rotate", *SA)
        assert (stopped.code, sentence in stopped.out + stopped.err) == (2, True), what
        assert (node.tree(), node.record) == (before, rotation), what
        node.put(name, good)
    node.walk(passes=20000)
    assert node.amiss(new) == []


@pytest.mark.long
def test_a_replaced_pair_begins_no_rotation(tmp_path: Path) -> None:
    """No file shows which key was there before. certmond reports no rotation and begins none."""
    node, other = TokenNode(tmp_path / "place"), key()
    node.walk((node.state / "anchors.json").exists)
    node.put("sa.key", other.key_pem)
    node.put("sa.pub", other.public_pem)
    before = node.tree()
    assert [node.step() for _ in range(5)] == [None] * 5
    assert (node.record, node.findings(), node.tree()) == (None, {}, before)
    node.put("sa.pub", node.pair.public_pem)
    assert [node.step() for _ in range(3)] == [None] * 3
    assert list(node.findings()) == ["service_account_key_mismatch"]


def test_only_one_rotation_at_a_time(tmp_path: Path) -> None:
    """During the rotation of the keys no CA is rotated, and a staged one stays."""
    node, new = TokenNode(tmp_path / "place"), key()
    node.follow(new)
    refused = node.hurry("root-ca", "stage", "--generate", "--force")
    assert refused.code == 2
    assert "a rotation is in progress (family sa, phase prepare), and needs the staged files" in refused.err
    assert Staging(node.state).read(Part.NEW)
    assert node.hurry("root-ca", "stage", node.bring(new), "--force", *SA).code == 0  # the very same


# Killed


class Watched:
    """The invariants of a node at every moment, checked from outside."""

    def __init__(self, node: TokenNode, new: Issued) -> None:
        self._node, self._old, self._new = node, node.pair.facts.key, new.facts.key
        self.problems: list[str] = []
        self.looks = 0

    def look(self, stop: str) -> None:
        if stop.startswith("exit") and stop != "exit fsync":
            self.looks += 1
            self.problems += [f"{self.looks}, {stop}: {problem}" for problem in self._wrong()]

    def _wrong(self) -> list[str]:
        node, pub, own = self._node, self._node.pub(), decode(self._node.read("sa.key"), "").key
        kept = {each.anchor for part in Part if (each := Staging(node.state).read(part)) and each.key}
        problems = node.readable()
        problems += [] if own in pub else ["what sa.key signs is not accepted"]
        problems += [] if self._old in pub or pub == (self._new,) else ["sa.pub has lost the old key"]
        problems += [] if self._new not in pub or self._new in {own, *kept} else ["the new private key is nowhere"]
        problems += [] if self._old not in pub or self._old in {own, *kept} else ["the former private key is nowhere"]
        return problems


def rotates(node: TokenNode) -> None:
    done = node.hurry("root-ca", "rotate", *SA)
    assert done.code == 0, done


@pytest.fixture
def staged(tmp_path: Path) -> tuple[TokenNode, Issued]:
    node, new = TokenNode(tmp_path / "original"), key()
    node.follow(new)
    return node, new


@pytest.mark.long
@pytest.mark.real("openssl")
def test_killed_anywhere(tmp_path: Path, staged: tuple[TokenNode, Issued]) -> None:
    """At every system call a new token is accepted, no key is lost while it is needed, and none is readable by others.
    After a kill at any of them, the next run of the command completes the rotation without leftovers.
    """
    original, new = staged
    whole = original.copy(tmp_path / "whole")
    watched, phases = Watched(whole, new), list[str]()

    def look(stop: str) -> None:
        watched.look(stop)
        phases.append(str(whole.phase))

    stops = record(partial(rotates, whole), look)
    assert watched.problems == []
    assert watched.looks > 100
    tried = sample(range(len(stops)), STOPS, "a rotation of tokens", kind=lambda n: phases[n])
    assert {phases[n] for n in tried} >= {"trust", "issue", "distrust"}
    for n in tried:
        node = original.copy(tmp_path / "twin")
        where = f"killed at {n}, {kill_at(partial(rotates, node), n)}"
        again = node.hurry("root-ca", "rotate", *SA)
        over = again.code == 3 and "no new key is staged" in again.err  # it was killed at its end
        assert again.code == 0 or over, (where, again)
        assert node.amiss(new) == [], where
        assert node.findings() == {}, where
        shutil.rmtree(node.place)


@pytest.mark.long
def test_no_output_contains_a_key(tmp_path: Path) -> None:
    """No line of any private key, old or new, is in the output, the rendered files or the log of a command, in any
    phase.
    """
    node, new = TokenNode(tmp_path / "place"), key()
    keys = node.secrets() | {"new": new.key_pem}
    said = dict[str, str]()

    def note(name: str, *words: str) -> None:
        done = node.certmond("-v", *words)
        said[f"{name} {node.phase}"] = done.stdout + done.stderr
        keys.update(node.secrets())

    note("stage", "root-ca", "stage", node.bring(new), *SA)
    node.follow(new)
    for phase in (Phase.TRUST, Phase.ISSUE, Phase.DISTRUST):
        reach(node, phase)
        note("show", "root-ca", "show", *SA, "-o", "json")
        note("check", "check", "-o", "json")
        note("plan", "root-ca", "rotate", "--plan", *SA)
    said["rotate"] = "".join(node.hurry("-v", "root-ca", "rotate", *SA)[1:])
    for path in (node.state / "audit.log", node.state / "anchors.json", *node.state.glob("rotation/*.json")):
        said[path.name] = path.read_text()
    assert node.amiss(new) == []
    assert len(said) >= 12
    public = node.pair.public_pem + new.public_pem  # an EC private key has its public half in it
    secret = {line for line in secret_lines(keys) if line not in public}
    assert any(line in node.read("sa.key") for line in secret)  # the search can find them
    assert {name for name, text in said.items() if any(line in text.encode() for line in secret)} == set()
    assert not [name for name, text in said.items() if "PRIVATE KEY" in text or "Traceback" in text]
