"""Workers follow one after the other while real daemons carry a rotation through, and stop where one is silent."""

from __future__ import annotations

import signal
from itertools import pairwise
from pathlib import Path

import pytest

from certmond.pki.rotation.worker_batches import place
from tests.control_plane import PKI
from tests.rotation.cluster import WITHIN, Daemon, cluster

pytestmark = [
    *(pytest.mark.real(part) for part in ("cgroup", "go", "openssl", "unshare")),
    pytest.mark.long,
    pytest.mark.sampled("cluster"),
    pytest.mark.timeout(900),
]

AWAY = 6
"""Seconds in which the next workers would have begun without the hold."""


def acts(worker: Daemon, phase: str) -> list[str]:
    """Return when the worker began and ended its work in this phase, by its audit log."""
    found, there = list[str](), False
    for entry in worker.node.trail():
        if entry["event"] == "rotation":
            there = entry["phase"] == phase
        elif there and entry["event"] in {"step_begun", "step_done"}:
            found.append(str(entry["at"]))
    return found


def one_after_the_other(workers: list[Daemon], phase: str) -> None:
    """Each began with the phase when the one before had done with it."""
    spans = [acts(each, phase) for each in workers]
    assert all(spans), spans
    assert all(before[-1] < after[0] for before, after in pairwise(spans)), spans


def test_workers_follow_one_after_the_other(programs: Path, tmp_path: Path) -> None:
    """Each worker restarts its kubelet when the one before has reported the phase, without an additional delay. A
    worker with a dead daemon stops the phase and is named, and nothing changes on the next ones. After it is excluded
    they continue, and no connection is refused, also when it returns.
    """
    with cluster(programs, tmp_path, control_planes=1, workers=3, spread="1h") as made:
        leader, mark = made.daemons[0], made.bed.settled()
        first, second, third = sorted(made.daemons[1:], key=lambda each: place(each.node.name))
        made.bed.backend.unreported[first.node.name] = {"issue"}  # the phase lasts until the worker has no daemon
        made.begin()
        leader.running.until(lambda: made.phase == "issue", "is in issue", within=WITHIN)
        one_after_the_other([first, second, third], "trust")
        first.kill()
        made.bed.backend.unreported.clear()
        said = f"{first.node.name} has reached trust, but not issue yet (3 workers: 1 released, 0 acknowledged)"
        leader.running.until(lambda: said in leader.says(), "names who is silent", within=WITHIN)
        signal.sigtimedwait([], AWAY)
        assert made.phase == "issue"
        for each in (second, third):
            assert acts(each, "issue") == []
            assert each.node.read(f"{PKI}/ca.crt") == made.old.pem + made.new.pem
            assert "the batch of this worker has not begun" in each.says()
        made.begin("--exclude", first.node.name)
        second.running.until(lambda: acts(second, "issue"), "begins", within=WITHIN)
        first.start()
        made.ends()
        for phase in ("issue", "distrust"):
            one_after_the_other([second, third], phase)
        made.check(mark)
