"""A rotation with a hold waits before any key is exchanged, and reports the reason before and meanwhile."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from certmond.controllers.host_holds import HostHolds
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.rotation.phases import Mode, Phase
from certmond.pki.services.restart_episode import Past, Result
from certmond.restart.history import History
from certmond.state.renewals import Ledger
from tests.rotation_node import RotatingNode, root_ca

End = Callable[[], object]
"""Ends the hold."""


def unsynchronised(node: RotatingNode, patched: pytest.MonkeyPatch) -> End:
    node.configure(hold={"unsynchronised_clock": True})
    patched.setattr("certmond.controllers.host_holds.clock_is_synchronised", lambda: False)
    return lambda: patched.setattr("certmond.controllers.host_holds.clock_is_synchronised", lambda: True)


def a_file(node: RotatingNode, _: pytest.MonkeyPatch) -> End:
    path = node.place / "upgrade"
    path.touch()
    node.configure(hold={"unsynchronised_clock": False, "file": str(path)})
    return path.unlink


def a_command(node: RotatingNode, _: pytest.MonkeyPatch) -> End:
    path = node.place / "quiet"
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    node.configure(hold={"unsynchronised_clock": False, "command": [str(path)]})
    return lambda: path.write_text("#!/bin/sh\nexit 1\n")


def a_failed_restart(node: RotatingNode, _: pytest.MonkeyPatch) -> End:
    enforcer = node.enforcer()
    around = enforcer.see()[1]
    path = str(node.files / "web.crt")
    contents = {path: around.contents[path].sha256}
    bad = Past("web", None, node.clock(), Result.FAILED, "web did not come up", ("web",), "", contents)
    enforcer.restarting.record_new_services(*enforcer.see())
    History(node.state).store(bad)
    return lambda: History(node.state).store(Past("web", None, node.clock(), Result.SEEN, "", contents=contents))


def a_failed_renewal(node: RotatingNode, _: pytest.MonkeyPatch) -> End:
    identity = ("web", str(node.files / "web.crt"))
    attempt = Attempt(node.clock(), 30, "no room", wait_until=node.clock() + timedelta(days=9))
    Ledger(node.state).store(identity, attempt)
    return lambda: Ledger(node.state).remove(identity)


HOLDS: dict[str, tuple[Callable[[RotatingNode, pytest.MonkeyPatch], End], str]] = {
    "unsynchronised_clock": (unsynchronised, "timedatectl set-ntp true"),
    "hold_file": (a_file, "rm /.*/upgrade"),
    "hold_command": (a_command, "/.*/quiet"),
    "restart_failed": (a_failed_restart, "certmond restart web"),
    "renewal_failed": (a_failed_renewal, "certmond renew web"),
}


@pytest.mark.long
@pytest.mark.parametrize("mode", [Mode.OVERLAP, Mode.REPLACE])
@pytest.mark.parametrize("reason", HOLDS)
def test_a_hold_keeps_a_rotation_in_prepare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, mode: Mode
) -> None:
    """The plan of a rotation names each hold with its reason and the command that ends it, as a table and as JSON.
    After its start the rotation stays in `prepare` without a changed file, and the finding has the reason. It continues
    when the hold ends.
    """
    node, new = RotatingNode(tmp_path / "place", served=True), root_ca()
    hold, command = HOLDS[reason]
    end = hold(node, monkeypatch)
    node.begin(new, mode) if mode is Mode.REPLACE else node.stage(new)
    words = ["root-ca", "rotate", "--plan"] + ["--at-once"] * (mode is Mode.REPLACE)
    table = node.hurry(*words)
    reported = " ".join(table.out.split())
    assert "the rotation waits in prepare and replaces no key, because of these holds:" in reported
    assert re.search(f"run: {command}", reported), reported
    (found,) = json.loads(node.hurry(*words, "-o", "json").out)["holds"]
    assert found["reason"] == reason
    assert re.fullmatch(command, found["command"])
    assert found["message"].startswith(found["fact"])
    assert found["depends_on"]
    if mode is Mode.OVERLAP:
        node.begin(new)
    before, enforcer = node.tree(), node.enforcer()
    for _ in range(3):
        assessment, around = enforcer.see()
        assert enforcer.rotate(assessment, around, enforcer.plan(assessment, around=around)) is None
    assert (node.phase, node.tree()) == (Phase.PREPARE, before)
    said = [each for found in enforcer.see()[1].findings.values() for each in found]
    assert [each.reason.value for each in said] == ["rotation_under_way"]
    assert "in the phase prepare since" in said[0].message
    assert found["message"].partition(",")[0] in said[0].message
    end()
    for _ in range(3):
        node.step()
    assert node.phase is not Phase.PREPARE


@pytest.mark.long
def test_a_hold_that_comes_later_keeps_a_rotation_in_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the clock loses its synchronization while both CAs are trusted, the old key stays until the clock is
    synchronized.
    """
    node, new = RotatingNode(tmp_path / "place"), root_ca()
    node.begin(new)
    node.walk(lambda: node.phase is Phase.TRUST and len(node.trust()) == 2)
    end = unsynchronised(node, monkeypatch)
    key = node.read("ca.key")
    for _ in range(9):
        node.step()
    assert (node.phase, node.read("ca.key")) == (Phase.TRUST, key)
    end()
    node.walk()
    assert node.unwell(new) == []


def test_the_hold_command_runs_once_per_poll(tmp_path: Path) -> None:
    """While a rotation waits, the program of `hold.command` runs once in a `poll`, not in each pass."""
    ran, program = tmp_path / "ran", tmp_path / "quiet"
    program.write_text(f"#!/bin/sh\necho run >>{ran}\nexit 1\n")
    program.chmod(0o755)
    node = RotatingNode(tmp_path / "place", poll="10s")
    node.configure(hold={"unsynchronised_clock": False, "command": [str(program)]})
    seconds = iter([0.0, 5.0, 9.0, 10.0, 10.0, 11.0, 3.0, 3.0, 4.0])
    host = HostHolds(node.config, "/", lambda: None, lambda: next(seconds))
    counted = list[int]()
    for _ in range(6):
        assert host.recent() == (None, None)
        counted.append(len(ran.read_text().split()))
    assert counted == [1, 1, 1, 2, 2, 3]  # the last time the clock was set back
