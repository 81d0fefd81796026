"""A Root CA that is followed by another on one node: the real program, on real files, left alone and disturbed."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import PrivateFormat

from certmond.errors import RotationError, WriteError
from certmond.pki.rotation.phases import Mode, Phase, Rotation, abort
from certmond.pki.x509.certificate_file_parser import decode
from certmond.rotation.staged_ca import Part, Staging
from tests.builders import DAY, Issued, make_intermediate, make_leaf, make_server, reissue
from tests.conftest import unavailable
from tests.daemon_harness import Running
from tests.idle_process import asleep, needs_poll
from tests.rotation_node import RotatingNode, kubeconfig, root_ca, secret_lines
from tests.sampling import sample
from tests.tracing import kill_at, record

STOPS, SHARES = 8, 2
"""The number of stops of a rotation, out of more than a thousand, at which it is killed, and the number of tests."""

pytestmark = pytest.mark.real("openssl")


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


# By commands


@pytest.mark.long
def test_a_ca_follows_another(quick: Path) -> None:
    """After staging and rotation by commands, only the new CA is trusted, certificates of the old one are refused, each
    phase that concerns a service has restarted it once, and the only key of a CA is at its path.
    """
    node, new = RotatingNode(quick / "place", served=True, hurried=False), root_ca()
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
    assert "no new CA is staged for ca; run: certmond root-ca stage" in again.stderr


@pytest.mark.long
def test_a_plan_changes_nothing(quick: Path) -> None:
    """It names every phase with its files and restarts, and changes neither the node nor the record."""
    node = RotatingNode(quick / "place", served=True)
    node.stage(root_ca())
    before, state = node.tree(), sorted(map(str, node.state.rglob("*")))
    planned = node.certmond("root-ca", "rotate", "--plan")
    assert planned.returncode == 0
    reported = {line.split()[0]: line for line in planned.stdout.splitlines() if not line.startswith(" ")}
    assert list(reported) == ["PHASE", *map(str, Phase)]
    restarted = {phase for phase in Phase if reported[phase].split()[-1] == "web"}
    assert restarted == {Phase.TRUST, Phase.ISSUE, Phase.DISTRUST}
    assert "ca.key will be the key of the new CA" in reported[Phase.ISSUE]
    assert (node.tree(), sorted(map(str, node.state.rglob("*")))) == (before, state)
    assert (node.record, node.restarts()) == (None, 0)


@pytest.mark.long
def test_the_same_key_with_other_dates(quick: Path) -> None:
    """If only the dates change, leaves and keys stay, and one restart suffices."""
    node = RotatingNode(quick / "place", served=True, hurried=False)
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


@pytest.mark.long
def test_the_same_key_after_everything_has_expired(quick: Path) -> None:
    """If the CA and all its certificates have expired, one rotation to the same key makes all valid again."""
    node, now = RotatingNode(quick / "place", served=True, hurried=False), datetime.now(UTC)
    dates: Any = {"not_before": now - 90 * DAY, "not_after": now - DAY}
    node.old = reissue(node.old, not_before=now - 900 * DAY, not_after=now - DAY)
    web = make_server(node.old, "web", names=["DNS:web"], **dates)
    node.put("ca.crt", node.old.pem)
    node.put("web.crt", web.pem)
    node.put("web.key", web.key_pem)
    node.put("user.conf", kubeconfig(node.old, make_leaf(node.old, "user", **dates)))
    assert node.certmond("check").returncode == 2
    assert node.certmond("root-ca", "stage", "--reuse-key").returncode == 0
    done = node.certmond("root-ca", "rotate")
    assert done.returncode == 0, done.stdout + done.stderr
    assert node.unwell(reissued(node)) == []
    assert node.certmond("check").returncode == 0
    assert restarts_by_phase(node) == {"distrust": 1}


def reissued(node: RotatingNode) -> Issued:
    """Return the installed CA as a value of the builders."""
    (now,) = node.trust()
    return Issued(now.der, node.old.key, node.old.subject, node.old.subject_key_id, node.old.names)


@pytest.mark.long
def test_at_once(quick: Path) -> None:
    """Without an overlap the new CA is alone from the first change of files on."""
    node, new = RotatingNode(quick / "place"), root_ca()
    node.stage(new)
    done = node.hurry("root-ca", "rotate", "--at-once")
    assert (done.code, done.err) == (0, "")
    assert node.unwell(new) == []
    assert node.phases() == ["prepare", "issue", "done", "done"]
    assert "and the old CA" not in done.out


PHASES_BACK = (Phase.PREPARE, Phase.DETACH, Phase.TRUST, Phase.ISSUE)


@pytest.mark.long
@pytest.mark.parametrize("reached", [False, True], ids=["begun", "reached"])
@pytest.mark.parametrize("phase", PHASES_BACK)
def test_a_rotation_can_be_aborted(quick: Path, phase: Phase, reached: bool) -> None:
    """After an abort in any phase before the old CA is distrusted, at its start or its end, that CA is the only one
    again, everything verifies, and no staged key is left.
    """
    node = RotatingNode(quick / "place")
    node.begin(root_ca())
    walk_into(node, phase, reached=reached)
    done = node.hurry("root-ca", "abort")
    assert (done.code, done.err) == (0, ""), done.out
    assert f"was in the phase {phase}; its abort begins with" in done.out
    assert node.unwell(node.old) == []
    assert node.findings() == {}


def walk_into(node: RotatingNode, phase: Phase, *, reached: bool) -> None:
    """Walk to the first moment of a phase, or to the point at which its files are written."""
    node.walk(lambda: node.phase is phase)
    while reached:
        enforcer = node.enforcer()
        assessment, around = enforcer.see()
        if not enforcer.plan(assessment, around=around).writes:
            return
        node.step()


@pytest.mark.long
def test_a_service_that_fails_with_the_new_ca_gets_an_abort(quick: Path) -> None:
    """The failure blocks the rotation, but not the abort, which installs other files."""
    node, new = RotatingNode(quick / "place", served=True), root_ca()
    line = node.old.pem.split()[2].decode()
    node.program(f"head -n 2 {node.files}/ca.crt | grep -qF '{line}'")
    node.stage(new)
    failed = node.hurry("root-ca", "rotate")
    assert (failed.code, node.phase) == (2, Phase.ISSUE), failed.out
    assert "see: certmond explain restart_failed" in " ".join(failed.out.split())
    done = node.hurry("root-ca", "abort")
    assert (done.code, done.err) == (0, ""), done.out
    assert node.unwell(node.old) == []
    assert node.findings() == {}


@pytest.mark.long
@pytest.mark.parametrize("phase", [Phase.DISTRUST, Phase.ATTACH])
def test_there_is_a_point_of_no_return(quick: Path, phase: Phase) -> None:
    """From the point of no return, an abort is refused with the reason, and the rotation continues to its end."""
    node, new = RotatingNode(quick / "place"), root_ca()
    node.begin(new)
    walk_into(node, phase, reached=True)
    before, rotation = node.tree(), node.record
    refused = node.hurry("root-ca", "abort")
    assert refused.code == 2
    assert f"is in the phase {phase} and cannot be aborted" in refused.err
    assert "a node might distrust the old CA already; let the rotation continue to its end" in refused.err
    assert (node.tree(), node.record) == (before, rotation)
    assert node.hurry("root-ca", "rotate").code == 0
    assert node.unwell(new) == []


@pytest.mark.long
def test_an_abort_cannot_be_aborted(quick: Path) -> None:
    """Neither an aborted rotation nor a missing one can be aborted."""
    node = RotatingNode(quick / "place")
    assert "no rotation is in progress; there is nothing to abort" in node.hurry("root-ca", "abort").err
    node.begin(root_ca())
    node.walk(lambda: node.phase is Phase.ISSUE)
    assert node.hurry("root-ca", "abort", "--no-wait").code == 0
    again = node.hurry("root-ca", "abort")
    assert again.code == 2
    assert "is an abort already" in again.err
    node.walk()
    assert node.unwell(node.old) == []


@pytest.mark.long
def test_a_rotation_that_was_aborted_is_not_done(quick: Path) -> None:
    """The command that waits for the new CA reports, also by its exit code, that another process aborted the
    rotation.
    """
    node = RotatingNode(quick / "place")
    node.begin(root_ca())
    node.walk(lambda: node.phase is Phase.ISSUE)
    assert node.hurry("root-ca", "abort", "--no-wait").code == 0
    done = node.hurry("root-ca", "rotate")
    assert done.code == 2
    assert done.err.endswith("-back of ca was aborted: the old CA is in use, not the new CA\n")
    assert node.unwell(node.old) == []


@pytest.mark.long
def test_a_command_that_was_interrupted_continues(quick: Path) -> None:
    """After Ctrl-C in the middle, the next run of the command completes the rotation that it finds."""
    node, new = RotatingNode(quick / "place", root_ca={"overlap": "1m"}), root_ca()
    node.stage(new)
    # The host's clock counts: a minute suffices to interrupt it. A shell that began this in the background ignores
    # SIGINT.
    command = ["env", "--default-signal=INT", *node.command("root-ca", "rotate")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        assert any("detach is reached" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
    assert process.returncode == 130
    assert "Traceback" not in said
    rotation = node.record
    assert rotation is not None
    done = node.hurry("root-ca", "rotate")
    assert (done.code, done.err) == (0, ""), done.out
    assert node.unwell(new) == []
    assert {entry["rotation"] for entry in node.audit() if entry["event"] == "rotation"} == {rotation.id}


# By the daemon


def cat(node: RotatingNode, new: Issued) -> None:
    node.put("ca.key", new.key_pem)
    node.put("ca.crt", new.pem)


def has_looked(daemon: Running, since: float) -> bool:
    """Return whether it has made a pass."""
    return daemon.passes() > since


def in_place(node: RotatingNode, new: Issued, _: Callable[[], None]) -> None:
    cat(node, new)


def renamed(node: RotatingNode, new: Issued, _: Callable[[], None]) -> None:
    node.rename("ca.key", new.key_pem)
    node.rename("ca.crt", new.pem)


def key_first(node: RotatingNode, new: Issued, meanwhile: Callable[[], None]) -> None:
    node.put("ca.key", new.key_pem)
    meanwhile()
    node.put("ca.crt", new.pem)


def certificate_first(node: RotatingNode, new: Issued, meanwhile: Callable[[], None]) -> None:
    node.rename("ca.crt", new.pem)
    meanwhile()
    node.rename("ca.key", new.key_pem)


PUT: dict[str, Callable[[RotatingNode, Issued, Callable[[], None]], None]] = {
    "in place": in_place, "renamed": renamed, "key first": key_first, "certificate first": certificate_first,
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("how", PUT)
def test_a_ca_that_was_installed_by_hand_is_rotated(quick: Path, how: str) -> None:
    """In whatever way its certificate and key were written, and although a pass sees half of the pair first: it is
    detected, trusted beside the old one, and alone at the end.
    """
    node, new = RotatingNode(quick / "place", hurried=False), root_ca()
    with node.daemon() as daemon:
        before = daemon.passes()
        PUT[how](node, new, partial(daemon.until, lambda: daemon.passes() > before, "a pass ran after the first half"))
        daemon.until(lambda: len(node.trust()) == 2 or "distrust" in node.phases(), "both are trusted")
        daemon.until(lambda: node.phases()[-2:] == ["done", "done"], "done")
        daemon.until(lambda: not daemon.reasons("ca"), "no finding remains")
    assert node.unwell(new) == []
    assert node.phases() == ["trust", "issue", "distrust", "attach", "done", "done"]
    log = daemon.log.read_text()
    assert "contains a CA other than the CA of this node's certificates" in log
    assert "Traceback" not in log


@pytest.mark.long
def test_a_missing_or_wrong_key_is_waited_for(quick: Path) -> None:
    """A certificate without its key, or with another one, is critical and changes nothing. When the right key is there,
    the CA is rotated.
    """
    node, new = RotatingNode(quick / "place", hurried=False), root_ca()
    with node.daemon() as daemon:
        node.put("ca.crt", new.pem)
        daemon.until(lambda: "root_ca_changed" in daemon.reasons("ca"), "reported")
        node.put("ca.key", root_ca().key_pem)
        before = node.tree()
        for _ in range(3):
            passes = daemon.passes()
            node.put("ca.crt", new.pem)  # written again, so that it is read
            daemon.until(partial(has_looked, daemon, passes), "looked again")
        assert (node.tree(), node.phases()) == (before, [])
        assert "ca.key is not the private key of" in daemon.log.read_text()
        node.put("ca.key", new.key_pem)
        daemon.until(lambda: node.phases()[-2:] == ["done", "done"], "done")
    assert node.unwell(new) == []


@pytest.mark.long
def test_replaced_at_once(quick: Path) -> None:
    """With `on_change: replace` the old CA is not trusted from the first change of files on."""
    node, new = (
        RotatingNode(quick / "place", hurried=False, root_ca={"on_change": "replace"}),
        root_ca(subject="site"),
    )
    with node.daemon() as daemon:
        cat(node, new)
        daemon.until(lambda: node.phases()[-2:] == ["done", "done"], "done")
    assert node.unwell(new) == []
    assert node.phases() == ["issue", "done", "done"]


@pytest.mark.long
def test_only_an_alarm(quick: Path) -> None:
    """With `on_change: alarm` the finding has both remedies, and no file changes. When the old CA is restored, the
    finding ends.
    """
    node, new = RotatingNode(quick / "place", hurried=False, root_ca={"on_change": "alarm"}), root_ca()
    with node.daemon() as daemon:
        cat(node, new)
        before = node.tree()
        daemon.until(lambda: "root_ca_changed" in daemon.reasons("ca"), "reported")
        remedy = "`root_ca.on_change` is alarm: restore the old CA and its key, or run: certmond root-ca rotate"
        daemon.until(lambda: remedy in daemon.log.read_text(), "logged")
        passes = daemon.passes()
        node.put("ca.crt", new.pem)
        daemon.until(lambda: daemon.passes() > passes, "looked again")
        assert (node.tree(), node.phases()) == (before, [])
        cat(node, node.old)
        daemon.until(lambda: not daemon.reasons("ca"), "cleared")
    assert node.unwell(node.old) == []


@pytest.mark.long
@pytest.mark.parametrize("at_once", [False, True])
def test_after_an_alarm_it_is_begun_by_hand(quick: Path, at_once: bool) -> None:
    """As the alarm describes, `root-ca rotate` starts from the CA that an operator installed, in every mode."""
    node, new = RotatingNode(quick / "place", root_ca={"overlap": "1s", "on_change": "alarm"}), root_ca()
    node.step()
    cat(node, new)
    assert "or run: certmond root-ca rotate" in node.findings()["root_ca_changed"]
    before = node.tree()
    planned = node.hurry("root-ca", "rotate", "--plan", *["--at-once"] * at_once)
    assert (planned.code, node.tree(), node.record) == (0, before, None)
    done = node.hurry("root-ca", "rotate", *["--at-once"] * at_once)
    assert (done.code, done.err) == (0, ""), done.out
    assert node.unwell(new) == []
    assert node.phases()[0] == ("issue" if at_once else "trust")


@pytest.mark.sampled("phase")
@pytest.mark.long
@pytest.mark.parametrize("reached", [False, True], ids=["begun", "reached"])
@pytest.mark.parametrize("phase", [Phase.TRUST, Phase.ISSUE, Phase.DISTRUST, Phase.DONE])
@pytest.mark.parametrize("first", ["ca.crt", "ca.key"])
def test_restoring_the_old_pair_reverses_a_found_ca(quick: Path, phase: Phase, first: str, reached: bool) -> None:
    """Restoring the old pair, in any phase and order, and also with a pass in between, begins a rotation back. At the
    end the old CA is alone, and certificates of the other one are issued again.
    """
    node = RotatingNode(quick / "place")
    node.step()
    cat(node, root_ca())
    node.step()
    walk_into(node, phase, reached=reached)
    files = {"ca.crt": node.old.pem, "ca.key": node.old.key_pem}
    node.put(first, files.pop(first))
    node.step()
    for name, content in files.items():
        node.put(name, content)
    node.walk()
    assert node.unwell(node.old) == []
    assert node.findings() == {}
    rotations = {entry["rotation"] for entry in node.audit() if entry["event"] == "rotation"}
    assert {each.endswith("-back") for each in rotations} == {True, False}


@pytest.mark.long
def test_observe_mode_changes_nothing(quick: Path) -> None:
    """In observe mode a changed CA is critical, and neither the node nor the state directory changes."""
    node = RotatingNode(quick / "place", hurried=False, mode="observe")
    with node.daemon() as daemon:
        cat(node, root_ca())
        before = node.tree()
        daemon.until(lambda: "root_ca_changed" in daemon.reasons("ca"), "reported")
        remedy = "restore the old CA and its key, or set `mode: enforce`"
        daemon.until(lambda: remedy in daemon.log.read_text(), "logged")
        passes = daemon.passes()
        node.put("web.crt", node.read("web.crt"))
        daemon.until(lambda: daemon.passes() > passes, "looked again")
    assert {name: entry for name, entry in node.tree().items() if before[name] != entry} == {}
    assert not (node.state / "rotation").exists()


@pytest.mark.long
def test_a_ca_that_ends_before_its_leaves(quick: Path) -> None:
    """Its certificates end with it at the latest. A command prints a warning before, and continues."""
    now = datetime.now(UTC)
    node, short = RotatingNode(quick / "place"), root_ca(not_after=now + 60 * DAY)
    staged = node.hurry("root-ca", "stage", *brought(node, short))
    assert staged.code == 0
    assert re.search("^warning: .* new certificates, which would otherwise end on", staged.err, re.MULTILINE)
    done = node.hurry("root-ca", "rotate")
    assert done.code == 0
    assert re.search(
        "^warning: the staged CA ends on .* and shortens new certificates, which would otherwise end on",
        done.err,
        re.MULTILINE,
    )
    assert node.unwell(short) == []
    assert [leaf.not_after for leaf in node.trust("web.crt")] == [short.facts.not_after]


@pytest.mark.long
def test_the_daemon_reports_a_blocked_rotation(quick: Path) -> None:
    """A foreign certificate in the bundle is critical in the first pass, and no longer when it is removed. The activity
    of the daemon has the waiting phase and its reason.
    """
    node, new = RotatingNode(quick / "place", hurried=False, root_ca={"overlap": "1h"}), root_ca()
    with node.daemon() as daemon:
        cat(node, new)
        daemon.until(lambda: len(node.trust()) == 2 == len(node.embedded()), "both are trusted")
        good = node.read("ca.crt")
        node.put("ca.crt", good + root_ca().pem)
        daemon.until(lambda: "rotation_frozen" in daemon.reasons("ca"), "reported")
        assert "rotation_under_way" not in daemon.reasons("ca")
        node.put("ca.crt", good)
        daemon.until(lambda: "rotation_under_way" in daemon.reasons("ca"), "under way")
        assert "rotation_frozen" not in daemon.reasons("ca")
        rotation = daemon.until(
            lambda: (reported := daemon.activity()["rotation"]) and reported["until"] and reported, "it waits"
        )
        assert (rotation["family"], rotation["phase"], rotation["aborted"]) == ("ca", "trust", False)
        assert rotation["waits"]
        assert rotation["phases"] == ["prepare", "trust", "issue", "distrust", "attach", "done"]
        assert (rotation["old"], rotation["new"]) == ([node.old.facts.sha256], new.facts.sha256)
    assert node.phase is Phase.TRUST


@pytest.mark.long
@pytest.mark.parametrize("phase", [Phase.TRUST, Phase.ISSUE, Phase.DISTRUST, Phase.DONE])
def test_no_key_is_lost_if_the_key_of_the_ca_is_missing(quick: Path, phase: Phase) -> None:
    """Without ca.key, such as after its mount disappeared, a node that signs does not count as a worker. The rotation
    is blocked, the stored keys stay, and it continues when the key is back.
    """
    node, new = RotatingNode(quick / "place"), root_ca()
    node.begin(new)
    walk_into(node, phase, reached=False)
    key, kept = node.read("ca.key"), node.staged
    (node.files / "ca.key").unlink()
    assert "is missing, but this node signs with this key" in node.findings().get("rotation_frozen", "")
    for _ in range(5):
        node.step()
    assert (node.phase, node.staged) == (phase, kept)
    node.put("ca.key", key)
    node.walk()
    assert node.unwell(new) == []


def test_a_decision_concerns_the_record_that_was_read(quick: Path) -> None:
    """Of two concurrent decisions, the later one fails because the record has changed, and the first one stays."""
    node, new = RotatingNode(quick / "place"), root_ca()
    node.begin(new)
    walk_into(node, Phase.TRUST, reached=False)
    early, late = node.enforcer(), node.enforcer()
    for each in (early, late):
        each.see()
    seen = late.rotation_state.rotation
    assert seen
    early.rotating.change(abort(seen, node.clock()))
    with pytest.raises(RotationError, match="another process has changed the rotation"):
        late.rotating.change(replace(seen, excluded=("node-9",)))
    assert node.record
    assert node.record.aborted


@pytest.mark.long
@pytest.mark.parametrize("key", [None, root_ca().key_pem, b"rubbish"], ids=["none", "another's", "damaged"])
def test_a_missing_key_of_the_new_ca_can_be_staged(quick: Path, key: bytes | None) -> None:
    """A rotation that waits for the new CA's key, which is missing or another one, reports the remedy, and continues
    after it. No other CA can be staged meanwhile.
    """
    node, new = RotatingNode(quick / "place"), root_ca()
    node.begin(new)
    Staging(node.state).put(Part.NEW, "ca", new.facts, None)
    if key is not None:
        (node.state / "rotation/new.key").write_bytes(key)
        (node.state / "rotation/new.key").chmod(0o600)
    enforcer = node.enforcer()
    assessment, around = enforcer.see()
    assert enforcer.rotate(assessment, around, enforcer.plan(assessment, around=around)) is None
    assert "stage it: certmond root-ca stage" in enforcer.rotating.waits[0]
    other = node.hurry("root-ca", "stage", *brought(node, root_ca()), "--force")
    assert other.code == 2
    assert "a rotation is in progress (family ca, phase prepare), and needs the staged files" in other.err
    given = node.hurry("root-ca", "stage", *brought(node, new), "--force")
    assert given.code == 0, given.err
    node.walk()
    assert node.unwell(new) == []


@pytest.mark.long
def test_a_kubeconfig_of_two_clusters_trusts_the_new_ca_in_both(quick: Path) -> None:
    """At the end the old CA is trusted for no cluster of the file, whether or not it is in the current context."""
    node, new = RotatingNode(quick / "place"), root_ca()
    document = yaml.safe_load(node.read("user.conf"))
    document["clusters"].append({"name": "direct", "cluster": dict(document["clusters"][0]["cluster"])})
    node.put("user.conf", yaml.safe_dump(document).encode())
    node.begin(new)
    node.walk()
    trusted = [
        each["cluster"]["certificate-authority-data"] for each in yaml.safe_load(node.read("user.conf"))["clusters"]
    ]
    assert [decode(base64.b64decode(each), "").certificates for each in trusted] == [(new.facts,), (new.facts,)]
    assert node.unwell(new) == []


@pytest.mark.long
def test_an_old_ca_is_not_restored_from_the_archive(quick: Path) -> None:
    """`archive restore` refuses a CA, whichever generation is named, also with `--dry-run`: the generation has no key
    and may be distrusted. No file changes, and the message has the remedy.
    """
    node, new = RotatingNode(quick / "place"), root_ca()
    node.begin(new)
    node.walk()
    kept = [line.split()[1] for line in node.hurry("archive", "list", "ca").out.splitlines()]
    assert kept
    before = node.tree()
    for words in ((), ("--dry-run",), *((each,) for each in kept)):
        refused = node.hurry("archive", "restore", "ca", *words)
        assert (refused.code, refused.out) == (3, ""), words
        assert re.search("never restores ca from the archive.*together by hand, and then start", refused.err), words
    assert node.tree() == before
    assert node.unwell(new) == []
    assert node.hurry("archive", "restore", "nonsense").code == 3
    (node.state / "archive/ca").rename(node.state / "archive/former-name")
    assert "never restores former-name from the archive" in node.hurry("archive", "restore", "former-name").err
    assert node.tree() == before
    node.configure(profile="kubeadm")
    refused = node.hurry("archive", "restore", "sa")
    assert (refused.code, "sa is a CA or a key pair without a certificate" in refused.err) == (3, True)


# Disturbed


DISTURBED: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "an unrelated CA in the bundle": ("ca.crt", lambda old: old + root_ca().pem, ", which is neither the old nor the"),
    "a third key": ("ca.key", lambda _: root_ca().key_pem, "is the key of neither the old nor the new CA"),
    "no certificate": ("ca.crt", lambda _: b"", "ca.crt contains no CA"),
    "a damaged key": ("ca.key", lambda _: b"-----BEGIN PRIVATE KEY-----\n", "is encrypted, or is not a private key"),
}  # fmt: skip


@pytest.mark.sampled("phase")
@pytest.mark.long
@pytest.mark.parametrize("phase", Phase)
def test_a_foreign_file_stops_the_rotation(quick: Path, phase: Phase) -> None:
    """In any phase, a foreign certificate or key in place of the CA's is critical in the first pass, and no file
    changes. After it is restored, the rotation continues to its end.
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


@pytest.mark.long
@pytest.mark.parametrize("content", [b"", b"{}", b"\x00garbage", b'{"id": 1}', None], ids=repr)
def test_an_unreadable_record_stops_the_rotation(quick: Path, content: bytes | None) -> None:
    """An unreadable record is critical, because the progress is unknown. No file changes until it is readable."""
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
    reported = node.findings()["rotation_frozen"]
    assert reported.startswith(f"certmond cannot read {path} (")
    assert "), so the phase of a rotation is unknown; restore the file from a backup" in reported
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


@pytest.mark.long
@pytest.mark.parametrize("what", ["alarm", "unfit", "frozen", "a broken record"])
def test_nothing_is_signed_by_a_ca_of_unknown_trust(quick: Path, what: str) -> None:
    """A certificate that is due stays while the trust in the installed CA is unknown, and the plan has the reason. The
    daemon renews it when the state is known.
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
    assert re.search("certmond changes no file|is alarm|is frozen|certmond cannot (read|use)", held.because)
    node.put("ca.crt", good[0])
    node.put("ca.key", good[1])
    if noted:
        record.write_bytes(noted)
    node.step()
    assert node.tree()["web.crt"] != before["web.crt"]


@pytest.mark.long
def test_a_found_ca_signs_nothing_before_it_is_trusted(quick: Path) -> None:
    """A certificate that is due when the CA is replaced is issued from the new one only after both are trusted."""
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


# Refused


Unfit = tuple[bytes, bytes | None, str]
"""The certificate, the key beside it, and the message about them."""


def _intermediate() -> Unfit:
    other, now = root_ca(), datetime.now(UTC)
    made = make_intermediate(other, "kubernetes", not_before=now - 10 * DAY, not_after=now + 800 * DAY)
    return made.pem, made.key_pem, "is not self-signed"


def _leaf() -> Unfit:
    now = datetime.now(UTC)
    made = make_server(root_ca(), "web", not_before=now - DAY, not_after=now + 90 * DAY)
    return made.pem, made.key_pem, "lacks basicConstraints CA:TRUE"


def _another_key() -> Unfit:
    return root_ca().pem, root_ca().key_pem, "ca.key is not the private key of"


def _no_key() -> Unfit:
    return root_ca().pem, None, "the key of the new CA is not on this node"


def _encrypted() -> Unfit:
    made = root_ca()
    locked = made.key_as(PrivateFormat.PKCS8, b"secret")
    return made.pem, locked, "certmond cannot read a key from .*ca.key"


def _made(sentence: str, **modifiers: Any) -> Callable[[], Unfit]:
    def make() -> Unfit:
        dates = {name: datetime.now(UTC) + value for name, value in modifiers.items() if name.startswith("not_")}
        made = root_ca(**modifiers | dates)
        return made.pem, made.key_pem, sentence

    return make


UNFIT: dict[str, Callable[[], Unfit]] = {
    "an intermediate": _intermediate,
    "a leaf": _leaf,
    "another's key": _another_key,
    "no key": _no_key,
    "an encrypted key": _encrypted,
    "expired": _made("expired on", not_after=-DAY),
    "not valid yet": _made("is not valid before", not_before=60 * DAY),
    "a weak key": _made("has the key RSA-1024", key="rsa-1024"),
    "no keyCertSign": _made("has a keyUsage without keyCertSign", usages=["digital signature"]),
}


@pytest.mark.long
@pytest.mark.parametrize("what", UNFIT)
def test_an_unfit_ca_is_not_rotated(quick: Path, what: str) -> None:
    """A CA that no cluster can use, installed in place of the node's, is critical with all its defects, for the daemon
    and for `check`, and nothing is written. After the old one is restored, no finding remains.
    """
    node = RotatingNode(quick / "place")
    node.step()
    certificate, key, sentence = UNFIT[what]()
    good = node.read("ca.crt"), node.read("ca.key")
    node.put("ca.crt", certificate)
    if key is None:
        (node.files / "ca.key").unlink()
    else:
        node.put("ca.key", key)
    before = node.tree()
    reported = node.findings()["root_ca_changed"]
    waits = "certmond rotates to the new CA at .* UTC" if what == "not valid yet" else "certmond changes no file"
    said = f"{sentence}.*{waits}" if what == "not valid yet" else f"{waits}: .*{sentence}"
    assert re.search(f"contains a CA other than the CA of this node's certificates .*{said}", reported), reported
    assert re.search("(; or restore the old CA and its key|, restore it and its key)$", reported)
    assert [node.step() for _ in range(3)] == [None, None, None]
    checked = node.hurry("check")
    assert checked.code == 2
    assert "[root_ca_changed]" in checked.out
    assert (node.tree(), node.record, node.staged) == (before, None, [])
    node.put("ca.crt", good[0])
    node.put("ca.key", good[1])
    node.step()
    assert (node.findings(), node.hurry("check").code) == ({}, 0)
    assert node.unwell(node.old) == []


@pytest.mark.long
def test_a_found_ca_that_may_not_sign_the_leaves_is_not_rotated(quick: Path) -> None:
    """A CA whose name constraints forbid a leaf of this node is refused with the leaf's file, and nothing is written.
    After the old one is restored, no finding remains.
    """
    node = RotatingNode(quick / "place")
    node.step()
    good = node.read("ca.crt"), node.read("ca.key")
    cat(node, root_ca(permitted=["DNS:other.example"]))
    before = node.tree()
    reported = node.findings()["root_ca_changed"]
    assert re.search(
        "; certmond changes no file: .* cannot sign .*web.crt .*; give a CA whose constraints allow these certificates",
        reported,
    )
    assert [node.step() for _ in range(3)] == [None, None, None]
    assert (node.tree(), node.record) == (before, None)
    node.put("ca.crt", good[0])
    node.put("ca.key", good[1])
    node.step()
    assert node.findings() == {}


@pytest.mark.long
def test_a_found_ca_beside_a_third_one_is_not_rotated(quick: Path) -> None:
    """If the file has a third CA, the finding reports it, no rotation begins, and no step fails."""
    node, new, third = RotatingNode(quick / "place"), root_ca(), root_ca()
    node.step()
    node.put("ca.crt", new.pem + third.pem)
    node.put("ca.key", new.key_pem)
    before = node.tree()
    reported = node.findings()["root_ca_changed"]
    assert f"{third.facts.sha256[:16]}…), which is neither the old nor the new CA; remove it" in reported
    assert [node.step() for _ in range(3)] == [None, None, None]
    assert (node.tree(), node.record) == (before, None)


@pytest.mark.long
def test_a_found_ca_that_ends_before_its_leaves_is_reported(quick: Path) -> None:
    """It is rotated like a staged one, and its short lifetime is reported in the first pass and by the commands."""
    node, short = RotatingNode(quick / "place"), root_ca(not_after=datetime.now(UTC) + 60 * DAY)
    node.step()
    cat(node, short)
    sentence = "ends on .* and shortens new certificates, which would otherwise end on .*; give a CA with a later end"
    said = node.findings()["root_ca_changed"]
    assert re.search(f"; certmond rotates to the new CA now; {node.files}/ca.crt {sentence}", said)
    done = node.hurry("root-ca", "rotate")
    assert done.code == 0
    assert re.search(f"^warning: {node.files}/ca.crt {sentence}", done.err, re.MULTILINE), done.err
    assert node.unwell(short) == []


@pytest.mark.parametrize("what", UNFIT)
def test_an_unfit_ca_is_not_staged(quick: Path, what: str) -> None:
    """The same CA from an operator is refused, and neither stored nor rotated to."""
    node = RotatingNode(quick / "place")
    certificate, key, sentence = UNFIT[what]()
    paths = node.place / "ca.crt", node.place / "ca.key"
    for path, content in zip(paths, (certificate, key or b""), strict=True):
        path.touch(0o600)
        path.write_bytes(content)
    before = node.tree()
    refused = node.hurry("root-ca", "stage", *map(str, paths[: 1 if key is None else 2]))
    assert refused.code == 2
    sentence = {"no key": "give the private key of", "an encrypted key": "ca.key is encrypted"}.get(what, sentence)
    assert re.search(f"^refused: .*{sentence}", refused.err, re.MULTILINE), refused.err
    assert (node.tree(), node.staged) == (before, [])
    assert node.hurry("root-ca", "rotate").code == 3
    assert (node.tree(), node.record) == (before, None)


@pytest.mark.parametrize("place", ["certificate", "key"])
def test_a_damaged_staged_ca_is_not_begun(quick: Path, place: str) -> None:
    """If the files of a staged CA were damaged, the command reports it, and no rotation begins."""
    node = RotatingNode(quick / "place")
    node.stage(root_ca())
    path = node.state / "rotation" / f"new.{'crt' if place == 'certificate' else 'key'}"
    path.write_bytes(root_ca().pem if place == "certificate" else root_ca().key_pem)
    refused = node.hurry("root-ca", "rotate")
    assert refused.code == 3
    assert "new.key is not the key of" in refused.err
    assert node.record is None


def _with_a_passphrase(node: RotatingNode) -> None:
    node.put("ca.key", node.old.key_as(PrivateFormat.PKCS8, b"secret"))


def _elsewhere(node: RotatingNode) -> None:
    (node.files / "ca.key").unlink()


def _of_three(node: RotatingNode) -> None:
    manifests = node.place / "manifests"
    manifests.mkdir()
    members = ",".join(f"control-{n}=https://192.0.2.{n}:2380" for n in (1, 2, 3))
    container = {"name": "etcd", "image": "etcd", "command": ["etcd", f"--initial-cluster={members}"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "etcd"}, "spec": {"containers": [container]}}
    (manifests / "etcd.yaml").write_text(yaml.safe_dump(pod))


HINDERED: dict[str, tuple[Callable[[RotatingNode], None], str]] = {
    "an encrypted key": (_with_a_passphrase, "ca.key is encrypted, or is not a private key; replace "),
    "a CA elsewhere": (_elsewhere, "no other signer issues .*web.crt.*; set `signer` in these entries to "),
    "other members": (_of_three, "etcd has 3 members, so .*; configure `cluster:` on every node"),
}  # fmt: skip


@pytest.mark.parametrize("what", HINDERED)
def test_an_impossible_rotation_is_not_begun(quick: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Neither a terminal nor another caller can begin it: the error has the obstacle, nothing is recorded, and the plan
    has it too.
    """
    node, new = RotatingNode(quick / "place"), root_ca()
    monkeypatch.setattr("certmond.files.catalog_observer._KUBERNETES", str(node.place))
    node.stage(new)
    hinder, sentence = HINDERED[what]
    hinder(node)
    before, staged = node.tree(), node.staged
    refused = node.hurry("root-ca", "rotate")
    assert (refused.code, refused.out) == (2, "")
    assert re.search(f"^refused: .*{sentence}", refused.err, re.MULTILINE), refused.err
    assert re.search(sentence, node.hurry("root-ca", "rotate", "--plan").err)
    made = Rotation("r1", "ca", Mode.OVERLAP, (node.old.facts,), new.facts, Phase.PREPARE, node.clock())
    enforcer = node.enforcer()
    enforcer.see()
    with pytest.raises(RotationError, match=sentence):
        enforcer.rotating.start(made)
    assert (node.tree(), node.staged, node.record) == (before, staged, None)


@pytest.mark.long
def test_a_rotation_without_workload_checks_is_announced(quick: Path) -> None:
    """Without `cluster:` one line names who must restart Pods, and when: at the beginning, with each command that
    continues the rotation in time, and in a plan on standard error, so that standard output stays a document.
    """
    node = RotatingNode(quick / "place")
    node.stage(root_ca())
    planned = node.hurry("root-ca", "rotate", "--plan", "-o", "json")
    reported = "^note: without `cluster:` in the configuration, .*; before the phase trust ends, restart the Pods"
    assert len(re.findall(reported, planned.err, re.MULTILINE)) == 1
    assert json.loads(planned.out)["family"] == "ca"
    begun = node.hurry("root-ca", "rotate", "--no-wait")
    assert (begun.code, begun.err) == (0, "")
    assert len(re.findall(reported, begun.out, re.MULTILINE)) == 1
    walk_into(node, Phase.TRUST, reached=True)
    assert re.search(reported, node.hurry("root-ca", "rotate", "--no-wait").out, re.MULTILINE)
    walk_into(node, Phase.ISSUE, reached=False)
    assert not re.search(reported, node.hurry("root-ca", "rotate", "--no-wait").out, re.MULTILINE)


@pytest.mark.long
@pytest.mark.parametrize("words", [("--family", "etcd-ca"), ("--at-once",)], ids=" ".join)
def test_a_running_rotation_does_not_satisfy_another_request(quick: Path, words: tuple[str, ...]) -> None:
    """While one rotation runs, a command for another family or for a rotation at once is refused and advances nothing,
    also with `--plan`. The same command as before continues it, and `--at-once` is no other if the rotation is at once
    already.
    """
    node, new = RotatingNode(quick / "place"), root_ca()
    node.begin(new)
    walk_into(node, Phase.TRUST, reached=False)
    before, rotation = node.tree(), node.record
    for more in ((), ("--plan",), ("--no-wait",)):
        refused = node.hurry("root-ca", "rotate", *words, *more)
        assert (refused.code, refused.out) == (2, ""), more
        assert re.search(
            "^refused: the rotation .* of ca is in progress, in the mode overlap and .*; complete it first", refused.err
        )
        assert (node.tree(), node.record) == (before, rotation), more
    assert node.hurry("root-ca", "rotate").code == 0
    at_once = root_ca()
    node.old = new
    node.begin(at_once, Mode.REPLACE)
    assert node.hurry("root-ca", "rotate", "--at-once").code == 0
    assert node.unwell(at_once) == []


@pytest.mark.long
def test_the_reason_of_a_phase_is_not_reported_for_another_one(quick: Path) -> None:
    """After another process aborted the rotation, the reason for which an earlier phase waited is no longer
    reported.
    """
    node = RotatingNode(quick / "place", root_ca={"overlap": "9000h"})
    node.begin(root_ca())
    node.walk(lambda: node.phase is Phase.TRUST)
    enforcer = node.enforcer()
    for _ in range(9):
        assessment, around = enforcer.see()
        made = enforcer.plan(assessment, around=around)
        enforcer.executor.execute(made)
        enforcer.rotate(assessment, around, made)
    (wait,) = enforcer.rotating.waits
    assert wait.startswith("all nodes trust both CAs until")
    record = node.record
    assert record is not None
    other = node.enforcer()
    other.see()
    other.rotating.change(abort(record, node.clock()))
    for _ in range(2):
        assessment, around = enforcer.see()
        reported = [
            f.message for each in assessment.statuses for f in each.findings if f.reason.value == "rotation_under_way"
        ]
        assert len(reported) == 1
        assert "has been in the phase distrust" in reported[0]
        assert "it waits" not in reported[0]
        assert enforcer.rotating.waits == ()


@pytest.mark.parametrize("what", ["an encrypted key", "another CA"])
def test_a_rotation_that_has_changed_nothing_can_be_aborted(quick: Path, what: str) -> None:
    """An abort ends a blocked rotation that has changed nothing, whatever the obstacle. Renewals by its CA are held
    only if that CA is not the previous one.
    """
    node, new, other = RotatingNode(quick / "place"), root_ca(), root_ca()
    node.begin(new)
    if what == "another CA":
        cat(node, other)
    else:
        _with_a_passphrase(node)
    assert "is frozen" in node.findings()["rotation_frozen"]
    before = node.tree()
    for _ in range(2):
        enforcer = node.enforcer()
        enforcer.see()
        assert ("ca" in enforcer.rotation_state.unsure) is (what == "another CA")
        found = enforcer.rotation_state.rotation
        assert found is not None
        if not found.aborted:
            enforcer.rotating.change(abort(found, node.clock()))
    assert "rotation_frozen" not in node.findings()
    node.step()
    assert (node.record, node.staged) == (None, [])
    assert node.tree() == before


def test_an_unreadable_key_is_not_destroyed(quick: Path) -> None:
    """If a rotation would end and the installed key is not that of its CA, an unreadable stored key may be the only
    copy. The finding names it, and all files stay until an operator repairs it.
    """
    node, new, other = RotatingNode(quick / "place"), root_ca(), root_ca()
    begun = node.begin(new)
    cat(node, other)
    enforcer = node.enforcer()
    enforcer.see()
    enforcer.rotating.change(abort(begun, node.clock()))
    kept = node.state / "rotation/new.key"
    right = kept.read_bytes()
    kept.write_bytes(b"rubbish")
    before, staged = node.tree(), node.staged
    assessment, around = enforcer.see()
    for _ in range(2):
        assert enforcer.rotate(assessment, around, enforcer.plan(assessment, around=around)) is None
    (said,) = enforcer.rotating.waits
    fault = (
        f"{kept} is not the key of {kept.with_suffix('.crt')}: the staged CA is incomplete or damaged; stage the CA "
        "again: certmond root-ca stage"
    )
    destroys = "certmond destroys no key until you restore the private key of the new CA"
    assert said == f"{node.files}/ca.key is not the private key of the installed CA, and {fault}; {destroys}"
    assert (node.tree(), node.staged, node.phase) == (before, staged, Phase.DONE)
    kept.write_bytes(right)
    node.step()
    assert (node.record, node.staged) == (None, [])


# Killed


class Watched:
    """The invariants of a node at every moment of a rotation, checked from outside."""

    def __init__(self, node: RotatingNode, new: Issued) -> None:
        self._node, self._old, self._new = node, node.old, new
        self.problems: list[str] = []
        self.looks = 0

    def look(self, stop: str) -> None:
        """Check after a call has changed something: at the entry of the next, and after a sync, the state is the
        same.
        """
        if stop.startswith("exit") and stop != "exit fsync":
            self.looks += 1
            self.problems += [f"{self.looks}, {stop}: {problem}" for problem in self._wrong()]

    def _wrong(self) -> Iterator[str]:
        node = self._node
        yield from node.readable()
        trust, key = node.trust(), decode(node.read("ca.key"), "ca.key").key
        whole = bool(trust) and trust[0].key == key
        if not whole and not list((node.state / "transactions").glob("*.commit.json")):
            yield "ca.crt and ca.key do not belong together, and no message names the next command"
        kept = {each.anchor for part in Part if (each := Staging(node.state).read(part)) and each.key}
        kept |= {trust[0]} if whole else set()
        kept |= {each.facts for each in (self._old, self._new) if each.facts.key == key}
        if self._new.facts not in kept and self._new.facts in trust:
            yield "the new CA is trusted, and its key is nowhere"
        if self._old.facts not in kept and trust != (self._new.facts,):
            yield "the old CA is not gone, and its key is"
        for name in ("web.crt", "user.conf"):
            if not node.belongs(name) and not list((node.state / "transactions").glob("*.commit.json")):
                yield f"{name} does not belong to its key"


def rotates(node: RotatingNode) -> None:
    """The command, from its beginning to its end, in this process."""
    done = node.hurry("root-ca", "rotate")
    assert done.code == 0, done


@pytest.fixture
def staged(quick: Path) -> tuple[RotatingNode, Issued]:
    """Return a node with a staged CA."""
    node, new = RotatingNode(quick / "original"), root_ca()
    node.stage(new)
    node.step()
    return node, new


@pytest.mark.long
def test_consistent_at_every_moment(staged: tuple[RotatingNode, Issued]) -> None:
    """From the first system call of a rotation to its last, pairs match or will be completed, no CA's key is lost while
    it is needed, and none is readable by others.
    """
    node, new = staged
    watched = Watched(node, new)
    record(partial(rotates, node), watched.look)
    assert watched.problems == []
    assert watched.looks > 200
    assert node.unwell(new) == []


@pytest.mark.sampled("kill")
@pytest.mark.long
@pytest.mark.parametrize("share", range(SHARES))
def test_killed_anywhere(quick: Path, staged: tuple[RotatingNode, Issued], share: int) -> None:
    """After a kill at any changing system call, the next run of the command completes the rotation without
    leftovers.
    """
    original, new = staged
    whole, phases = original.copy(quick / "whole"), list[str]()
    stops = record(partial(rotates, whole), lambda _: phases.append(str(whole.phase)))
    seen = set[str]()
    for n in sample(range(share, len(stops), SHARES), STOPS // SHARES, f"a rotation {share}", kind=lambda n: phases[n]):
        node = original.copy(quick / "twin")
        where = f"killed at {n}, {kill_at(partial(rotates, node), n)}"
        watched = Watched(node, new)
        watched.look("exit")
        seen.add(str(node.phase))
        again = node.hurry("root-ca", "rotate")
        over = again.code == 3 and "no new CA is staged" in again.err  # it was killed at its end
        assert again.code == 0 or over, (where, again)
        assert watched.problems == [], where
        assert node.unwell(new) == [], where
        assert node.findings() == {}, where
        shutil.rmtree(node.place)
    assert seen >= {"issue", "distrust", "done"}


# A full disk


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mounts a small file system, until the end of the test."""
    if os.geteuid() != 0:
        unavailable("only root can mount")
    with ExitStack() as mounted:

        def make(size: str, mode: int, on: Path) -> None:
            options = f"size={size},mode={mode:o}"
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(on)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                unavailable(f"nothing can be mounted here: {done.stderr}")
            mounted.callback(lambda: subprocess.run(["umount", on], check=False))

        yield make


def on_a_small_disk(directory: Path, mount: Callable[..., None]) -> None:
    """Move the directory to its own file system of 512 KiB."""
    kept = directory.with_name(f"{directory.name}.kept")
    mode = directory.stat().st_mode & 0o777
    directory.rename(kept)
    directory.mkdir(mode=mode)
    mount("512k", mode, directory)
    shutil.copytree(kept, directory, symlinks=True, dirs_exist_ok=True)
    directory.chmod(mode)
    shutil.rmtree(kept)


def fill(directory: Path) -> Path:
    filler = directory / "filler"
    filler.touch(0o600)
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return filler


@pytest.mark.sampled("phase")
@pytest.mark.long
@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.TRUST, Phase.ISSUE, Phase.DISTRUST, Phase.DONE])
@pytest.mark.parametrize("place", ["node", "state"])
def test_a_full_disk_loses_nothing(quick: Path, mount: Callable[..., None], place: str, phase: Phase) -> None:
    """If the disk of the node's files or of the state directory is full, nothing is lost, and the finding reports it.
    With free space the rotation continues.
    """
    node, new = RotatingNode(quick / "place"), root_ca()
    node.begin(new)
    walk_into(node, phase, reached=False)
    directory = node.files if place == "node" else node.state
    on_a_small_disk(directory, mount)
    filler = fill(directory)
    before, kept, rotation = node.tree(), node.staged, node.record
    if place == "state" or phase in {Phase.TRUST, Phase.ISSUE, Phase.DISTRUST}:
        reported = list[str]()
        for _ in range(2):
            try:
                reported.append(node.step() or "")
            except WriteError as error:
                reported.append(str(error))
        assert re.search("free space", reported[0]), reported
        assert (node.tree(), node.record) == (before, rotation)
        assert set(node.staged) >= set(kept)
        assert [path for path in node.files.iterdir() if path.name.startswith(".")] == []
    filler.unlink()
    node.walk()
    assert node.unwell(new) == []
    assert node.readable() == []


@pytest.mark.long
def test_a_command_on_a_full_disk(quick: Path, mount: Callable[..., None]) -> None:
    """The command ends and names the full file system. The next run continues."""
    node, new = RotatingNode(quick / "place"), root_ca()
    node.stage(new)
    on_a_small_disk(node.state, mount)
    filler = fill(node.state)
    refused = node.hurry("root-ca", "rotate")
    assert refused.code == 3
    assert "free space" in refused.err
    assert node.record is None
    filler.unlink()
    assert node.hurry("root-ca", "rotate").code == 0
    assert node.unwell(new) == []


# Secrets


@pytest.mark.long
def test_no_output_contains_a_key(quick: Path) -> None:
    """No line of any private key, old or new, is in a log, a rendered file, or the input of a child process, in any
    phase. Only root can read the state directory at every check.
    """
    node, new = RotatingNode(quick / "place", served=True, hurried=False), root_ca()
    said = dict[str, bytes]()
    keys = node.secrets() | {"new": new.key_pem}
    problems = list[str]()

    def note(name: str, *reported: str | bytes) -> None:
        said[name] = b"".join(each.encode() if isinstance(each, str) else each for each in reported)

    def look() -> None:
        keys.update(node.secrets())
        problems.extend(node.readable())

    def noted() -> Iterator[tuple[str, bytes]]:
        for path in (*node.state.rglob("*"), *(node.place / "run").rglob("*"), node.place / "processes"):
            name = str(path.relative_to(node.state)) if path.is_relative_to(node.state) else ""
            secret = re.fullmatch(r"(rotation/\.?(new|old)\.key|(former|archive|pending|transactions)/.*)", name)
            with suppress(FileNotFoundError):
                if path.is_file() and not secret:
                    yield f"{path} {node.phase}", path.read_bytes()

    staged = node.certmond("-v", "root-ca", "stage", *brought(node, new))
    note("stage", staged.stdout, staged.stderr)
    look()
    with node.daemon("-v") as daemon:
        command = node.command("-v", "root-ca", "rotate", "--at-once")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout
            for number, line in enumerate(process.stdout):
                note(f"rotate {number}", line)
                look()
                with suppress(ProcessLookupError):  # the process may have ended after its last line
                    note("rotate cmdline", Path(f"/proc/{process.pid}/cmdline").read_bytes())
                    note("rotate environ", Path(f"/proc/{process.pid}/environ").read_bytes())
                for name, content in noted():
                    note(name, content)
        assert process.returncode == 0
        for words in (("root-ca", "show", "-o", "json"), ("check", "-o", "json"), ("status",), ("metrics",)):
            runtime = ("--runtime-dir", str(node.place / "run")) if words == ("status",) else ()
            done = node.certmond("-v", *words, *runtime)
            note(words[0], done.stdout, done.stderr)
        look()
        note("daemon", Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes())
    note("log", daemon.log.read_bytes())
    assert node.unwell(new) == []
    assert problems == []
    secrets = secret_lines(keys)
    assert len(keys) >= 6
    assert any(line in node.read("ca.key") for line in secrets)  # the search can find them
    for kind in (
        "metrics.prom",
        "status.json",
        "audit.log",
        "record.json",
        "anchors.json",
        "processes",
        "last.json",
        "environ",
    ):
        assert any(kind in name for name in said), kind
    assert {
        name for name, text in said.items() if b"PRIVATE KEY" in text or any(line in text for line in secrets)
    } == set()
    assert not [name for name, text in said.items() if b"Traceback" in text]


@pytest.mark.long
@needs_poll
def test_a_command_that_waits_for_an_instant_makes_no_scan(quick: Path) -> None:
    """While both CAs are trusted, `rotate` has reported the end of the wait, and sleeps until then or for minutes,
    without an event.
    """
    node, new = RotatingNode(quick / "place", hurried=False, root_ca={"overlap": "10m"}), root_ca()
    node.stage(new)
    with subprocess.Popen(
        node.command("root-ca", "rotate"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as command:
        try:
            assert command.stdout
            said = next(line for line in iter(command.stdout.readline, "") if line.startswith("waiting: [trust] "))
            assert "all nodes trust both CAs until " in said
            assert said.endswith("; to end the wait: certmond root-ca abort)\n")
            asleep(command.pid, 60_000)
        finally:
            command.kill()
