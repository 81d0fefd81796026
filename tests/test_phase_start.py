"""The start of a phase: it begins after all checks that can delay it."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from certmond.controllers.rotation import RotationController
from certmond.controllers.rotation_state import PhaseProgress
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.state.rotation_record import RotationRecord
from tests.builders import NOW, make_ca

ROTATION = Rotation("r1", "ca", Mode.OVERLAP, (make_ca().facts,), make_ca().facts, Phase.TRUST, NOW)
TAKES = timedelta(minutes=5)


def test_a_phase_begins_when_the_checks_of_the_cluster_are_over(tmp_path: Path) -> None:
    """The checks may take minutes: a certificate is signed, and workloads restart. The overlap of the next phase counts
    from its start, and is not shortened by the time of the checks.
    """
    now = [NOW]

    def clock() -> datetime:
        return now[0]

    def slow(*_: object) -> Gate:
        now[0] += TAKES
        return Gate()

    record = RotationRecord(tmp_path)
    (tmp_path / "rotation").mkdir()
    record.save(ROTATION)
    standing: Any = SimpleNamespace(
        broken=None, elsewhere=None, rotation=ROTATION, own=ROTATION, back=None, ground=None, at=None,
        followed=lambda: ROTATION, reach=lambda *_: PhaseProgress(ROTATION), report=lambda *_: None,
        leads=lambda _: False,
    )  # fmt: skip
    conductor: Any = SimpleNamespace(ask=lambda: None, gate=slow, publish=lambda _: None)
    others: Any = SimpleNamespace(writing=nullcontext, conclude=lambda *_, **__: None)
    look: Any = SimpleNamespace(taken_at=NOW)
    rotating = RotationController(
        others, others, standing, files=others, record=record, staging=others, coordinator=conductor, audit=others,
        clock=clock,
    )  # fmt: skip
    rotating.advance(look, look, look)
    found = record.load()
    assert found
    assert (found.phase, found.since) == (Phase.ISSUE, NOW + TAKES)
