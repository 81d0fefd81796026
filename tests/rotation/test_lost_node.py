"""A node that is lost while real daemons complete a rotation, is excluded, and returns."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.rotation.cluster import WITHIN, Cluster, Daemon, cluster

pytestmark = [
    *(pytest.mark.real(part) for part in ("cgroup", "go", "openssl", "unshare")),
    pytest.mark.long,
    pytest.mark.sampled("cluster"),
    pytest.mark.timeout(900),
]

AWAY = 3
"""Seconds in which the phase would have ended without the lost node."""


def lost(made: Cluster, name: str, phase: str) -> Daemon:
    """Begin a rotation, and lose the node in this phase, which stops and names it. Exclude it, and wait until the
    others complete the rotation.
    """
    bed = made.bed
    daemon, first = next(each for each in made.daemons if each.node.name == name), made.daemons[0]
    bed.backend.unreported[name] = {phase}  # the phase lasts until the node is lost
    made.begin()
    daemon.running.until(lambda: daemon.phase == phase, f"is in {phase}", within=WITHIN)
    daemon.kill()
    bed.lose(daemon.node)
    bed.backend.unreported.clear()
    first.running.until(
        lambda: f"{name} has reached" in first.says() and made.phase == phase, "names who is lost", within=WITHIN
    )
    signal.sigtimedwait([], AWAY)
    assert made.phase == phase
    made.begin("--exclude", name)
    made.ends()
    return daemon


def files(daemon: Daemon) -> dict[str, bytes]:
    """Return all files in /etc/kubernetes of the node."""
    top = daemon.node.at("/etc/kubernetes")
    return {str(path): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


def test_a_worker(programs: Path, tmp_path: Path) -> None:
    """A worker that is lost stops the phase, which names it, until it is excluded. Then the others complete the
    rotation without a refused connection. When it returns with a certificate of the old CA, it changes nothing, and
    reports that it is cut off, with the remedy.
    """
    with cluster(programs, tmp_path) as made:
        mark = made.bed.settled()
        daemon = lost(made, "node-3", "detach")
        made.check(mark)
        before = files(daemon)
        made.bed.find(daemon.node)
        daemon.start()
        daemon.running.until(lambda: "kubeadm reset" in daemon.says(), "tells what to do", within=WITHIN)
        (found,) = [each for each in daemon.findings() if each["severity"] == "critical"]
        assert found["reason"] == "cut_off"
        assert files(daemon) == before


def test_a_control_plane(programs: Path, tmp_path: Path) -> None:
    """The same holds for a control plane. When it returns, its API server accepts it, and the new CA is staged there:
    it completes the rotation without a refused connection of another node, and is part of the cluster again.
    """
    with cluster(programs, tmp_path) as made:
        bed, mark = made.bed, made.bed.settled()
        daemon = lost(made, "node-2", "trust")
        assert not bed.failures(mark)
        bed.find(daemon.node)
        daemon.start()
        daemon.running.until(lambda: daemon.over, "follows", within=WITHIN)
        assert not [each for each in bed.failures(mark) if "node-2/" not in "".join(each.direction)]
        bed.belongs(daemon.node)
        bed.settled()  # the others have read its earlier reports
        made.check(bed.settled())
