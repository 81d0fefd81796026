"""Real daemons complete a rotation on a bed whose components connect to each other all the time."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import SupportsIndex

import pytest

from certmond.cluster.node_api import ANNOTATION, Acknowledgement
from tests.builders import Issued
from tests.cluster.api_server import Fault
from tests.control_plane import PKI
from tests.rotation.bed import Bed
from tests.rotation.cluster import HELD, QUICK, WITHIN, Cluster, Daemon, cluster, publish, reported, successor
from tests.rotation.phase_script import joins
from tests.rotation.refusals import API, old_clients

pytestmark = [pytest.mark.real(part) for part in ("cgroup", "go", "openssl", "unshare")]

AWAY = 3
"""Seconds without an API, several times as long as the interval of its calls."""


class Cut(list[Fault]):
    """The API answers only 503 while this replaces its faults."""

    def __init__(self) -> None:
        super().__init__([Fault(503)])

    def pop(self, index: SupportsIndex = -1) -> Fault:
        return self[index]


def put(daemon: Daemon, new: Issued) -> None:
    """Install another CA in place of the one that the daemon has recorded."""
    node = daemon.node
    daemon.running.until((node.state / "anchors.json").exists, "knows its anchors")
    node.replace(f"{PKI}/ca.key", new.key_pem)
    node.replace(f"{PKI}/ca.crt", new.pem)


@pytest.mark.long
@pytest.mark.sampled("node")
def test_a_replaced_ca(programs: Path, tmp_path: Path) -> None:
    """On one node, the daemon alone rotates a CA that replaced another one. From the moment at which both are trusted
    no connection is refused, and at the end only certificates of the old CA are.
    """
    with Bed(tmp_path, programs, control_planes=1, interval=50.0, settings=HELD) as bed:
        bed.start()
        (node,) = bed.nodes
        old, new = node.authority(), successor()
        publish(bed, (old, new))
        with Daemon(node) as daemon:
            mark = bed.settled()
            put(daemon, new)
            daemon.running.until(lambda: node.read(f"{PKI}/ca.crt").count(b"BEGIN") == 2, "trusts both")
            bed.settled()  # the API server has read it, too
            both = bed.settled()
            daemon.reconfigure(**QUICK)
            daemon.running.until(lambda: daemon.over, "comes to its end", within=WITHIN)
            bed.settled()
        assert not bed.failures(both), reported(bed, mark)
        assert not old_clients(bed, "ca", old, new)
        assert node.read(f"{PKI}/ca.crt") == new.pem


@pytest.mark.long
@pytest.mark.sampled("cluster")
@pytest.mark.parametrize("verified", [False, True], ids=["by-default", "kubelets-verified"])
def test_a_cluster(programs: Path, tmp_path: Path, verified: bool) -> None:
    """On three nodes, from the first phase to the last, no connection is refused, whether or not API servers verify the
    kubelets. At the end every server refuses a certificate of the old CA, and so does every client that verifies. No
    key of a CA was sent through the API or is on the worker.
    """
    with cluster(programs, tmp_path, verified=verified) as made:
        mark = made.bed.settled()
        made.begin()
        made.ends()
        print("\n" + made.bed.figures(mark))  # noqa: T201 - how much was tried is worth to be known
        made.check(mark)


def holds(first: Daemon) -> bool:
    """Without an answer of the API, this node reports that it stays in its phase."""
    said = first.says()
    return "this node stays in its phase" in said or "it waits" in said


def names_the_last(first: Daemon) -> bool:
    """The phase that this node is in is not left, because the last one is not in it."""
    said = first.says()
    return "node-3 has not reported" in said or ("node-3 has" in said and f"not {first.phase} yet" in said)


def acknowledged(made: Cluster) -> str | None:
    """Return the phase that the last node has reported."""
    said = made.bed.backend.store.get("nodes", "node-3")["metadata"].get("annotations", {}).get(ANNOTATION, "")
    return found.phase if (found := Acknowledgement.parse(said)) else None


@pytest.mark.long
@pytest.mark.sampled("cluster")
def test_failures_in_each_phase(programs: Path, tmp_path: Path) -> None:
    """In any phase: a node is away since before it, and the others wait for it and name it. Daemons are killed, and the
    API is away for a while, in which every node holds. The rotation continues, and no connection is refused.
    """
    chosen = random.Random(5)  # noqa: S311 - when a daemon is killed is no secret
    with cluster(programs, tmp_path) as made:
        bed, mark = made.bed, made.bed.settled()
        first, last = made.daemons[0], made.daemons[-1]
        last.kill()
        made.begin()
        phases = ("prepare", "detach", "trust", "issue", "distrust", "attach")
        for number, phase in enumerate(phases, 1):
            first.running.until(lambda: first.phase == phase, f"is in {phase}", within=WITHIN)  # noqa: B023 - at once
            bed.backend.faults = Cut()
            held = {phase, made.phase}  # another node may have advanced just before, and this one may have read it
            for each in made.daemons[:-1]:
                signal.sigtimedwait([], chosen.uniform(0, 2))
                each.kill()
                each.start()
            first.running.until(lambda: holds(first), "reports that it holds", within=WITHIN)
            signal.sigtimedwait([], AWAY)
            assert first.phase in held
            bed.backend.faults = []
            first.running.until(lambda: names_the_last(first), "names who is away", within=WITHIN)
            stopped = made.phase
            signal.sigtimedwait([], AWAY)
            assert made.phase == stopped
            bed.backend.unreported["node-3"] = phases[number:]
            last.start()
            if phase != "attach":  # the node is lost after its report, and is away in the next phase
                last.running.until(lambda: acknowledged(made) == phase, f"has come to {phase}", within=WITHIN)  # noqa: B023
                last.kill()
        made.ends()
        made.check(mark)


@pytest.mark.long
@pytest.mark.sampled("cluster")
def test_at_once_in_a_cluster(programs: Path, tmp_path: Path) -> None:
    """Without an overlap, control planes are down only while they restart. A worker is cut off and reports it. It is
    excluded, and after it gets CA and kubeconfig by hand, it completes the rotation.
    """
    with cluster(programs, tmp_path) as made:
        bed, (first, _, lost), mark = made.bed, made.daemons, made.bed.settled()
        made.begin("--at-once")
        lost.running.until(lambda: "cut_off" in lost.reasons(), "says that it is cut off", within=WITHIN)
        first.running.until(lambda: "node-3 has reached prepare" in first.says(), "waits for it", within=WITHIN)
        made.begin("--exclude", "node-3")
        for each in made.daemons[:-1]:
            each.running.until(lambda each=each: each.over, "comes to its end", within=WITHIN)  # type: ignore[misc]
        there = [each.at for each in bed.failures(mark) if "node-3/" not in "".join(each.direction)]
        print(f"\nat once: an outage of {there[-1] - there[0]:.1f} s between control planes")  # noqa: T201 - asked for
        failing = [each.direction for each in bed.failures(bed.settled())]
        assert all(
            "node-3/" in "".join(each) for each in failing
        )  # in both directions, or where it trusts already in one
        assert {each.to for each in failing if each.by == "node-3/kubelet"} == {
            f"node-{number}/{API}" for number in (1, 2)
        }
        joins(lost.node, made.new)
        lost.running.until(lambda: lost.over, "comes to its end", within=WITHIN)
        bed.settled()
        made.check(bed.settled())


@pytest.mark.long
@pytest.mark.sampled("node")
def test_at_once(programs: Path, tmp_path: Path) -> None:
    """Without an overlap there is an outage, and it ends: then each component trusts only the new CA."""
    with Bed(tmp_path, programs, control_planes=1, interval=50.0, settings=QUICK) as bed:
        bed.start()
        (node,) = bed.nodes
        node.configure(root_ca={"on_change": "replace"})
        old, new = node.authority(), successor()
        publish(bed, (old, new))
        with Daemon(node) as daemon:
            mark = bed.settled()
            put(daemon, new)
            daemon.running.until(lambda: daemon.over, "comes to its end", within=WITHIN)
        failures = bed.failures(mark)
        assert failures
        print(f"\nat once: an outage of {failures[-1].at - failures[0].at:.1f} s")  # noqa: T201 - a result
        after = bed.settled()
        assert not bed.failures(after)
        assert not old_clients(bed, "ca", old, new)
