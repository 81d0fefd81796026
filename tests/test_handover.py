"""What a command shows of the work of the process that acts: each wait with the command that ends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from certmond.handover import Handover
from certmond.host.rotation_record import RotationRecord
from certmond.pki.restart import Episode, Stage, Target, Terms
from certmond.pki.rotation import Mode, Phase, Rotation
from certmond.wait import Progress
from tests.builders import NOW, make_ca

ROTATION = Rotation("r1", "ca", Mode.OVERLAP, (make_ca().facts,), make_ca().facts, Phase.TRUST, NOW)
EPISODE = Episode("web", (Target("ca", "/ca.crt", {}),), "it is older", NOW, Stage.PROVE, acted_at=NOW)
ABORT, STATUS = "; to end it: certmond root-ca abort)", "; see: certmond status)"


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
def test_an_abort_is_offered_only_where_it_is_not_refused(
    tmp_path: Path, handover: Handover, capsys: pytest.CaptureFixture[str], fields: dict[str, object], end: str
) -> None:
    """That goes for what a phase waits for, and for a service of it that is not well. A file of the former CA, put back
    alone, would only stop the rotation: that is not offered.
    """
    rotation = noted(tmp_path, replace(ROTATION, **fields))  # type: ignore[arg-type]
    handover.tell_rotation_wait(rotation, "web is older")
    handover.tell_episode(replace(EPISODE, trouble="web does not run"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith(end) for line in lines] == [True, True], lines


def test_a_restart_without_a_rotation_offers_the_archive_where_it_is_not_well(
    handover: Handover, capsys: pytest.CaptureFixture[str]
) -> None:
    """As long as nothing is wrong, nobody has to do anything."""
    handover.tell_episode(EPISODE)
    handover.tell_episode(replace(EPISODE, trouble="web does not run"))
    well, ill = capsys.readouterr().out.splitlines()
    assert well.endswith(STATUS)
    assert ill.endswith("; to end it: certmond archive restore ca)")
