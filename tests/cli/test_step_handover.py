"""The view of a command on the process that acts: each wait with the command that ends it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from certmond.cli.step_handover import Handover
from certmond.cli.wait_progress import Events, Progress
from certmond.errors import BusyError
from certmond.expose.metrics.exposition import ACTIVITY, HEARTBEAT
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.rotation.rotation_holds import Hold, HoldReason
from certmond.pki.services.restart_episode import Episode, Stage, Target, Terms
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.node_lock import ACTING, NodeLock
from tests.builders import HOUR, NOW, make_ca

ROTATION = Rotation("r1", "ca", Mode.OVERLAP, (make_ca().facts,), make_ca().facts, Phase.TRUST, NOW)
EPISODE = Episode("web", (Target("ca", "/ca.crt", {}),), "it is older", NOW, Stage.PROVE, acted_at=NOW)
ABORT, STATUS = "; to end the wait: certmond root-ca abort)", "; see: certmond status)"


@pytest.fixture
def handover(tmp_path: Path) -> Iterator[Handover]:
    with Handover(tmp_path, Progress(), Terms()) as made:
        yield made


def noted(tmp_path: Path, rotation: Rotation) -> Rotation:
    (tmp_path / "rotation").mkdir(exist_ok=True)
    RotationRecord(tmp_path).save(rotation)
    return rotation


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({}, ABORT),
        ({"phase": Phase.ISSUE}, ABORT),
        ({"phase": Phase.DISTRUST}, STATUS),
        ({"phase": Phase.ATTACH}, STATUS),
        ({"aborted": True}, STATUS),
        ({"found": True}, STATUS),
        ({"mode": Mode.REPLACE, "phase": Phase.ISSUE}, STATUS),
    ],
)
def test_an_abort_is_offered_only_if_it_is_possible(
    tmp_path: Path, handover: Handover, capsys: pytest.CaptureFixture[str], fields: dict[str, object], end: str
) -> None:
    """The rule covers the reason of a phase, and an unhealthy service in it. The restore of a single file of the old CA
    is not offered, because it would only block the rotation.
    """
    rotation = noted(tmp_path, replace(ROTATION, **fields))  # type: ignore[arg-type]
    handover.show_rotation_wait(rotation, "web is older")
    handover.show_restart(replace(EPISODE, trouble="web does not run"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith(end) for line in lines] == [True, True], lines


@pytest.mark.parametrize("fields", [{}, {"found": True}])
def test_a_hold_offers_the_one_command_that_ends_it(
    tmp_path: Path, handover: Handover, capsys: pytest.CaptureFixture[str], fields: dict[str, Any]
) -> None:
    """The line has the start of the hold, and neither an abort nor the start of the phase."""
    held = Hold(HoldReason.FILE, "held while /hold is there", "who keeps it", "rm /hold", NOW - HOUR, NOW + HOUR)
    handover.show_rotation_wait(noted(tmp_path, replace(ROTATION, **fields)), held.sentence, 1)
    (line,) = capsys.readouterr().out.splitlines()
    end = "the end of this hold depends on who keeps it"
    fact = f"held while /hold is there, until 2026-11-24 13:00:00 UTC at the latest; {end}"
    assert line == f"waiting: [trust] {fact} (and 1 more) (since 2026-11-24 11:00:00 UTC; to end the wait: rm /hold)"
    without = replace(held, since=None, until=None)
    handover.show_rotation_wait(ROTATION, without.sentence)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(
        "; the end of this hold depends on who keeps it (since 2026-11-24 12:00:00 UTC; to end the wait: rm /hold)"
    )


def test_a_restart_without_a_rotation_offers_the_archive_if_it_is_unhealthy(
    handover: Handover, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the service is healthy, no command is offered. `archive restore` restores one entry in each command."""
    (target,) = EPISODE.targets
    both = (target, replace(target, name="web"))
    handover.show_restart(EPISODE)
    handover.show_restart(replace(EPISODE, trouble="web does not run"))
    handover.show_restart(replace(EPISODE, trouble="web is ill", targets=both))
    well, ill, worse = capsys.readouterr().out.splitlines()
    assert well.endswith(STATUS)
    assert ill.endswith("; to end the wait: certmond archive restore ca)")
    assert worse.endswith("; to end the wait: certmond archive restore ca && certmond archive restore web)")


TURN = "web waits for the restart lock: the Kubernetes API cannot be reached"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """Hold the lock of the acting daemon. Yield the file in which it publishes its activity."""
    (tmp_path / "run").mkdir()
    lock = NodeLock(tmp_path, ACTING)
    assert lock.take(tmp_path / "run")
    yield tmp_path / "run" / ACTIVITY
    lock.release()


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([("step_held", TURN)], f"waiting: [trust] {TURN} (since "),
        ([("step_held", "/web.crt: not so soon"), ("step_held", TURN)], f"waiting: [trust] {TURN} (since "),
        ([("step_held", TURN), ("step_done", "before")], f"waiting: [trust] {TURN} (since "),
        ([("step_done", "web uses the new ca"), ("step_held", TURN)], "waiting: [trust] web is older (since "),
        ([("step_held", "other waits: no step plans it")], "waiting: [trust] web is older (since "),
    ],
)
def test_the_obstacle_of_a_restart_is_the_reason_of_a_phase(
    tmp_path: Path, daemon: Path, capsys: pytest.CaptureFixture[str], events: list[tuple[str, str]], said: str
) -> None:
    """The stale service is a reason as long as the restart lasts. If the restart cannot begin, its obstacle is the
    reason: another node holds the lock, or the API does not answer.
    """
    rotation = noted(tmp_path, ROTATION)
    reported = [{"at": f"{number}", "event": event, "message": text} for number, (event, text) in enumerate(events)]
    activity = {
        "plan": {"steps": [{"step": "restart", "target": "web"}], "held": []},
        "rotation": {"id": "r1", "phase": "trust", "waits": ["web is older"]},
        "events": reported,
    }
    daemon.write_text(json.dumps(activity))
    with Handover(tmp_path, Progress(), Terms()) as handover:
        handover.watch_rotation(rotation, rotation)
        handover.watch_restarts(["web"], NOW)
    of_phase, of_restart = capsys.readouterr().out.splitlines()[1:]
    assert of_phase.startswith(said)
    assert (TURN in of_restart) == (TURN in said)


def test_a_daemon_that_hangs_is_waited_for_until_an_instant(
    tmp_path: Path, daemon: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped daemon has no heartbeat. The command reports it with the command that ends the stop, and gives up at
    the instant that it named. The test moves the clock: each wait lasts as long as the command permits.
    """
    clock = [1000.0]

    def wait(_: Events, until: datetime | None = None, *, at_most: float) -> bool:
        assert until is None
        clock[0] += at_most
        return False

    monkeypatch.setattr("certmond.cli.step_handover.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(Events, "wait", wait)
    daemon.with_name(HEARTBEAT).write_text(
        json.dumps({"alive_at": 1.0, "pass_at": 1.0, "resync": 600.0, "ready": True})
    )
    rotation = noted(tmp_path, ROTATION)

    def follow(made: Handover, restarts: bool) -> None:
        while True:
            if restarts:
                made.watch_restarts(["web"], NOW)
            else:
                made.watch_rotation(rotation, rotation)

    for restarts in (False, True):
        with Handover(tmp_path, Progress(), Terms()) as made, pytest.raises(BusyError, match="no heartbeat for 120 s"):
            follow(made, restarts)
        said = [line for line in capsys.readouterr().out.splitlines() if "writes no heartbeat (since " in line]
        assert len(said) == 1
        assert said[0].endswith("; to end the wait: systemctl restart certmond)")
