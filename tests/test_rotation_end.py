"""The last writes of a rotation: after a kill at any of them, the next process completes them.

docs/decisions/0040 has their order. `CERTMOND_EVERY_STOP=1` tries every state of the disk with all possible successors.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import yaml

from certmond.errors import BusyError, RotationError
from certmond.pki.rotation.phases import Mode, Phase, Rotation, abort
from certmond.pki.x509.certificate_file_parser import decode
from certmond.rotation.staged_ca import Part, Staging
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.commit import Transactions
from tests.builders import DAY, Issued, reissue
from tests.controllers.test_rotation import brought, cat, walk_into
from tests.daemon_harness import Running
from tests.deadline import DEADLINE
from tests.rotation_node import RotatingNode, root_ca, with_manager
from tests.sampling import EVERY_STOP, sample
from tests.tracing import kill_at, record

pytestmark = pytest.mark.real("openssl")

STOPS = 3
"""The number of stops of each end at which it is killed, unless every stop is tested."""
LEFT = {"closed.json", "last.json"}
"""The files that a rotation leaves in its directory."""


def to_the_last_phase(node: RotatingNode) -> None:
    node.walk(lambda: node.phase is Phase.DONE)


def commands(node: RotatingNode) -> None:
    """Run the command, which continues the rotation or finds no rotation."""
    done = node.hurry("root-ca", "rotate")
    back = done.code == 2 and "was aborted" in done.err
    over = done.code == 3 and "no new CA is staged" in done.err
    assert done.code == 0 or back or over, done


@dataclass(frozen=True)
class Ending:
    """A node whose rotation is about to end, with `ca` as the only one, and a copy of that state."""

    node: RotatingNode
    ca: Issued
    rotation: Rotation

    def again(self) -> RotatingNode:
        """Restore the node as it was below the same paths, because its state refers to them."""
        kept = self.node.place.with_name("kept")
        if not kept.exists():
            shutil.copytree(self.node.place, kept, symlinks=True)
        shutil.rmtree(self.node.place)
        shutil.copytree(kept, self.node.place, symlinks=True)
        return self.node

    @property
    def stops(self) -> list[tuple[int, str]]:
        """Return the stops at which it is killed: those at which the disk differs from the one before."""
        node, found, phases = self.again(), list[dict[str, str]](), list[str]()

        def look(_: str) -> None:
            found.append(on_disk(node))
            phases.append(str(node.phase))

        all_of_them = record(partial(commands, node), look)
        changing = [(n, stop) for n, stop in enumerate(all_of_them) if n == 0 or found[n] != found[n - 1]]
        assert len(changing) > STOPS
        return sample(changing, STOPS, "the end of a rotation", kind=lambda stop: phases[stop[0]])


def on_disk(node: RotatingNode) -> dict[str, str]:
    """Return every file of the node and of its state directory, with its content."""
    paths = (path for top in (node.files, node.state, node.place / "manifests") for path in top.rglob("*"))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def forth(node: RotatingNode) -> Issued:
    new = root_ca()
    node.begin(new)
    walk_into(node, Phase.ATTACH, reached=True)
    return new


def back(node: RotatingNode) -> Issued:
    node.begin(root_ca())
    walk_into(node, Phase.ISSUE, reached=True)
    begun = node.record
    assert begun
    enforcer = node.enforcer()
    enforcer.see()
    enforcer.rotating.change(abort(begun, node.clock()))
    walk_into(node, Phase.ATTACH, reached=True)
    return node.old


def given_up(node: RotatingNode) -> Issued:
    begun = node.begin(root_ca())
    enforcer = node.enforcer()
    enforcer.see()
    enforcer.rotating.change(abort(begun, node.clock()))
    return node.old


def found(node: RotatingNode) -> Issued:
    new = root_ca()
    cat(node, new)
    node.step()
    walk_into(node, Phase.ATTACH, reached=True)
    return new


def same_key(node: RotatingNode) -> Issued:
    new = reissue(node.old, not_before=node.old.facts.not_before, not_after=node.old.facts.not_after.replace(year=2099))
    node.begin(new, Mode.REISSUE)
    walk_into(node, Phase.DISTRUST, reached=True)
    return new


def at_once(node: RotatingNode) -> Issued:
    new = root_ca()
    node.begin(new, Mode.REPLACE)
    walk_into(node, Phase.ISSUE, reached=True)
    return new


def with_a_signer(node: RotatingNode) -> Issued:
    """Add a controller-manager, whose separate files are removed at the end."""
    with_manager(node)
    new = forth(node)
    assert (node.files / "signing-ca.key").exists()
    return new


WAYS: dict[str, Callable[[RotatingNode], Issued]] = {
    "forth": forth, "back": back, "given up": given_up, "found": found, "the same key": same_key, "at once": at_once,
    "a signer": with_a_signer,
}  # fmt: skip


@pytest.fixture(params=WAYS)
def ending(request: pytest.FixtureRequest, quick: Path, monkeypatch: pytest.MonkeyPatch) -> Ending:
    return made(quick, request.param, monkeypatch)


@pytest.fixture
def plain(quick: Path, monkeypatch: pytest.MonkeyPatch) -> Ending:
    return made(quick, "forth", monkeypatch)


def made(place: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> Ending:
    node = RotatingNode(place / "place")
    monkeypatch.setattr("certmond.files.catalog_observer._KUBERNETES", str(node.place))
    node.step()  # it records its CA
    ca = WAYS[way](node)
    rotation = node.record
    assert rotation
    return Ending(node, ca, rotation)


def wrong(ending: Ending) -> Iterator[str]:
    """Yield the states that a kill may not leave: each write requires those before it."""
    node, records = ending.node, RotationRecord(ending.node.state)
    now, lived_by, ended = node.record, records.anchors().get("ca"), records.closed()
    whole = [each for each in map(Staging(node.state).read, Part) if each and each.key and not each.fault]
    kept = len(whole) == len([each for each in Part if f"{each}.key" in node.staged])
    trusted = (node.trust(), decode(node.read("ca.key"), "ca.key").key)
    if trusted != ((ending.ca.facts,), ending.ca.facts.key):
        yield "the CA is not the only one, with its key"
    if now is None:
        if node.staged:
            yield f"the record does not exist, and {node.staged} are left"
        if ending.rotation.id not in ended:
            yield "the record does not exist, and the rotation is not among those that were closed"
    elif not kept and not now.over:
        yield f"what is kept is being destroyed in the phase {now.phase}"
    if (now is None or not kept) and lived_by != (ending.ca.facts,):
        yield f"the node has not accepted its CA, and {node.staged} are left"


def passes(node: RotatingNode) -> None:
    """The daemon is started again: pass after pass of processes that have just begun."""
    node.walk()


def is_cut_again(node: RotatingNode) -> None:
    """The process that continues is killed as well, and another one follows."""
    kept = node.place.with_name("once")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(node.place, kept, symlinks=True)
    stops = record(partial(commands, node))
    shutil.rmtree(node.place)
    shutil.copytree(kept, node.place, symlinks=True)
    kill_at(partial(commands, node), 3 * len(stops) // 5)
    node.walk()


FOLLOWERS: tuple[Callable[[RotatingNode], None], ...] = (commands, passes, is_cut_again)


def ended(ending: Ending, where: str) -> None:
    """Assert that the rotation has ended without leftovers or findings, and that the next one can begin."""
    node = ending.node
    assert node.unwell(ending.ca) == [], where
    assert list(wrong(ending)) == [], where
    left = {path.name for path in (node.state / "rotation").iterdir()}
    assert left == LEFT, where
    assert node.findings() == {}, where
    assert ending.rotation.id in RotationRecord(node.state).closed(), where
    following = root_ca()
    assert node.hurry("root-ca", "stage", *brought(node, following)).code == 0, where
    begun = node.hurry("root-ca", "rotate", "--no-wait")
    assert begun.code == 0, (where, begun)
    assert node.record, where
    assert node.record.new == following.facts, where


@pytest.mark.sampled("end")
@pytest.mark.long
def test_the_end_is_whole_at_every_moment(ending: Ending) -> None:
    """At each system call, the record exists as long as a key is stored, and no key is destroyed before the phase is
    `done` and the node has accepted its CA.
    """
    node, problems = ending.again(), list[str]()
    stops = record(partial(commands, node), lambda stop: problems.extend(f"{stop}: {each}" for each in wrong(ending)))
    assert problems == []
    assert len(stops) > 80
    ended(ending, "not cut off")


@pytest.mark.sampled("end")
@pytest.mark.long
def test_an_end_that_is_cut_off_is_ended(ending: Ending) -> None:
    """If the end is killed at any of its writes, a command, a daemon, or one that is killed as well completes it. No
    record, staged file, draft or finding remains, and another rotation can begin.
    """
    seen = set[str]()
    for number, (n, stop) in enumerate(ending.stops):
        for follow in FOLLOWERS if EVERY_STOP else (FOLLOWERS[number % len(FOLLOWERS)],):
            node, where = ending.again(), f"killed at {n}, {stop}, and then {follow.__name__}"
            kill_at(partial(commands, node), n)
            assert list(wrong(ending)) == [], where
            seen.add(str(node.phase))
            follow(node)
            ended(ending, where)
    assert {"done", "None"} <= seen


@pytest.mark.long
def test_nothing_is_staged_before_the_end_is_complete(plain: Ending) -> None:
    """As long as the record exists, its end would destroy a newly staged CA. `stage` is refused with the command that
    ends the rotation, and `show` reports the rotation. After that command, `stage` works.
    """
    refusals = 0
    for n, stop in plain.stops:
        node, following = plain.again(), root_ca()
        kill_at(partial(commands, node), n)
        if node.record is None:
            continue
        refusals += 1
        shown = json.loads(node.hurry("root-ca", "show", "-o", "json").out)["rotation"]
        assert (shown["id"], shown["phase"]) == (plain.rotation.id, node.record.phase), stop
        before, kept = node.record, node.staged
        for more in ((), ("--force",)):
            refused = node.hurry("root-ca", "stage", *brought(node, following), *more)
            assert refused.code == 2, (stop, refused)
            assert "a rotation is in progress (family ca, " in refused.err, stop
            if before.over:
                assert "complete it first: certmond root-ca rotate --family ca" in refused.err, stop
        assert (node.record, node.staged) == (before, kept), stop
        assert node.hurry("root-ca", "rotate", "--family", "ca").code == 0, stop
        ended(plain, stop)
    assert refusals


class Beside:
    """Another process, which makes some passes while the first one is stopped at its n-th stop."""

    def __init__(self, node: RotatingNode, n: int) -> None:
        self._node, self._left, self.outcome = node, n, "has not come"

    def __call__(self, _: str) -> None:
        self._left -= 1
        if self._left == -1:
            try:
                for _pass in range(3):
                    self._node.step()
                self.outcome = "has acted"
            except BusyError:
                self.outcome = "kept out"


@pytest.mark.long
def test_two_who_end_it_at_the_same_time(plain: Ending) -> None:
    """While one process is stopped at any of its writes, with or without the lock, another makes a pass: it waits for
    the lock or ends the rotation. The first one then continues and ends without an error.
    """
    outcomes = set[str]()
    for n, stop in plain.stops:
        node = plain.again()
        beside = Beside(node, n)
        record(partial(commands, node), beside)
        outcomes.add(beside.outcome)
        ended(plain, f"another acted at {n}, {stop}")
    assert outcomes == {"kept out", "has acted"}


@pytest.mark.long
def test_a_record_that_comes_back_is_ended_again(plain: Ending) -> None:
    """If a power cut brings the deleted record back, in phase `done` without any CA, the next command or pass ends the
    rotation again.
    """
    for follow in (commands, passes):
        node = plain.again()
        path = node.state / "rotation/record.json"
        to_the_last_phase(node)
        content = path.read_bytes()
        node.walk()
        path.write_bytes(content)
        path.chmod(0o600)
        assert (node.phase, node.staged) == (Phase.DONE, [])
        follow(node)
        ended(plain, follow.__name__)


@pytest.mark.long
def test_another_rotation_does_not_replace_one_that_has_not_ended(plain: Ending) -> None:
    """No other rotation replaces a record in `done`: its stored keys would be assigned to the wrong rotation."""
    node, following = plain.again(), root_ca()
    to_the_last_phase(node)
    before, kept = node.record, node.staged
    assert before
    other = replace(before, id="r2", old=(plain.ca.facts,), new=following.facts, phase=Phase.PREPARE)
    with pytest.raises(
        RotationError, match=r"is in progress, in the phase done; .*certmond root-ca rotate --family ca"
    ):
        node.enforcer().rotating.start(other)
    assert (node.record, node.staged) == (before, kept)


@pytest.mark.long
def test_an_anchor_that_left_the_configuration_is_reported(plain: Ending) -> None:
    """If the configuration no longer names the anchor of an unfinished rotation, a critical finding names the entry to
    restore. No file is removed, and with the entry the rotation ends.
    """
    node = plain.again()
    to_the_last_phase(node)
    path, kept = node.place / "config.yaml", node.staged
    text = path.read_text()
    document = yaml.safe_load(text)
    for each in document["certificates"]:
        each.update({name: "site-ca" for name in ("name", "ca", "embedded_ca") if each.get(name) == "ca"})
    path.write_text(yaml.safe_dump(document))
    reported = node.findings()["rotation_frozen"]
    assert f"{plain.rotation.name} is in progress, in the phase done, but the configuration has no entry ca" in reported
    assert [node.step() for _ in range(2)] == [None, None]
    assert (node.phase, node.staged) == (Phase.DONE, kept)
    path.write_text(text)
    node.walk()
    ended(plain, "named again")


@pytest.mark.long
def test_a_clock_that_was_set_back_keeps_no_record(plain: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the start of the phase is in the future, the process counts from the time at which it found the phase, and
    ends it long before the clock reaches that start.
    """
    node = plain.again()
    to_the_last_phase(node)
    forward, begun = node.clock, plain.node.clock()
    monkeypatch.setattr(node, "clock", lambda: forward() - 10 * DAY)
    enforcer = node.enforcer()
    for _ in range(20):
        assessment, around = enforcer.see()
        enforcer.rotate(assessment, around, enforcer.plan(assessment, around=around))
    assert node.clock() < begun
    assert (node.record, node.staged) == (None, [])


# By the daemon


@pytest.fixture
def timely(quick: Path) -> Ending:
    """Use the time of day, like the real program."""
    node = RotatingNode(quick / "place", hurried=False, resync="24h")
    node.step()  # it records its CA
    ca = forth(node)
    rotation = node.record
    assert rotation
    return Ending(node, ca, rotation)


def is_over(node: RotatingNode, daemon: Running) -> bool:
    """Return whether the rotation is over, also by the daemon's report."""
    idle = daemon.number('certmond_rotation_phase{phase="idle"}') == 1
    return node.record is None and node.staged == [] and idle and not daemon.reasons("ca")


@pytest.mark.long
def test_a_daemon_ends_what_was_cut_off(timely: Ending) -> None:
    """A daemon that starts after a kill at any of the last writes ends the rotation without an event, and shows no
    phase afterwards.
    """
    stops = timely.stops
    for n, stop in stops if EVERY_STOP else stops[len(stops) // 3 :: 3]:
        node = timely.again()
        kill_at(partial(commands, node), n)
        with node.daemon() as daemon:
            daemon.until(partial(is_over, node, daemon), f"killed at {n}, {stop}, it is over")
        assert "Traceback" not in daemon.log.read_text(), stop
        ended(timely, stop)


@pytest.mark.long
def test_a_daemon_that_is_kept_out_ends_it_later(timely: Ending) -> None:
    """While another process holds the lock, the daemon touches nothing; then it ends the rotation."""
    node = timely.again()
    to_the_last_phase(node)
    kept, log = node.staged, node.place / "log"
    with ExitStack() as stack:
        held = stack.enter_context(ExitStack())
        held.enter_context(Transactions("/", node.state).lock())
        daemon = stack.enter_context(node.daemon("-v"))
        daemon.until(lambda: log.read_text().count("a pass (retry;") >= 2, "has tried again")
        assert (node.phase, node.staged) == (Phase.DONE, kept)
        held.close()
        daemon.until(partial(is_over, node, daemon), "it is over")
    ended(timely, "kept out")


@pytest.mark.long
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_daemon_that_observes_leaves_it(timely: Ending, by_hand: bool) -> None:
    """In observe mode it shows the phase `done` and touches nothing. Both ways out end it: the command in a terminal,
    and `mode: enforce` with a reload.
    """
    node = timely.again()
    to_the_last_phase(node)
    node.configure(mode="observe")
    kept = node.staged
    with node.daemon() as daemon:
        daemon.until(lambda: "rotation_under_way" in daemon.reasons("ca"), "shows it")
        daemon.until(lambda: daemon.number('certmond_rotation_phase{phase="done"}') == 1, "shows the phase")
        passes = daemon.passes()
        node.put("web.crt", node.read("web.crt"))
        daemon.until(lambda: daemon.passes() > passes, "has looked again")
        assert (node.phase, node.staged) == (Phase.DONE, kept)
        if by_hand:
            assert node.certmond("root-ca", "rotate").returncode == 0
        else:
            node.configure(mode="enforce")
            daemon.process.send_signal(signal.SIGHUP)
        daemon.until(partial(is_over, node, daemon), "it is over")
    node.configure(mode="enforce")
    ended(timely, "observed")


@pytest.mark.long
@pytest.mark.parametrize("survivor", ["daemon", "command"])
def test_a_command_and_a_daemon_that_are_killed_while_both_end_it(timely: Ending, survivor: str) -> None:
    """Whichever of the two is killed when the last writes begin, the other ends the rotation."""
    node = timely.again()
    words = node.command("root-ca", "rotate")
    with (
        node.daemon() as daemon,
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command,
    ):
        daemon.until(lambda: node.phase is not Phase.ATTACH, "the last writes begin")
        if survivor == "daemon":
            command.kill()
            daemon.until(partial(is_over, node, daemon), "it is over")
        else:
            daemon.process.kill()
            assert command.wait(DEADLINE) in {0, 3}  # 3: the daemon had ended it before the command read it
    ended(timely, survivor)
