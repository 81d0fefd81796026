"""The times at which the daemon writes the condition of its Node."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import pytest

from certmond.controllers.cluster_objects.node_condition import NodeConditionReport
from certmond.errors import RefusedError, UnreachableError
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.assessment.node_condition import NodeCondition
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from tests.builders import DAY, NOW, make_ca

CA = make_ca(not_after=NOW + 3000 * DAY)


def assessed(count: int = 1, **facts: str) -> Assessment:
    """Return the assessment of a node with so many CAs."""
    names = [f"ca-{number}" for number in range(count)]
    seen = [
        Observation(name, CertificateSpec(name=name, path="/ca", authority=True), "/ca", (CA.facts,)) for name in names
    ]
    return assess(Inventory(tuple(seen), facts), NOW)


class Scene:
    """A report with a clock of the test. `written` has the names of the Nodes and the conditions."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.written: list[tuple[str, NodeCondition]] = []
        self.events: list[str] = []
        self.error: Exception | None = None
        self.refused: Exception | None = None  # the answer to an event
        self.report = NodeConditionReport(
            lambda: "/kubelet.conf", node="host", alive=lambda: None,
            clock=lambda: NOW + timedelta(seconds=self.seconds), monotonic=lambda: self.seconds,
        )  # fmt: skip

    def write(self, access: Any, name: str, condition: NodeCondition, now: Any) -> bool:
        if self.error:
            raise self.error
        former = self.written[-1][1] if self.written else None
        self.written.append((name, condition))
        return former != condition

    def announce(self, access: Any, name: str, condition: NodeCondition, now: Any) -> None:
        if self.refused:
            raise self.refused
        self.events.append(condition.message)

    @property
    def next_in(self) -> float:
        """The seconds until the next write."""
        assert self.report.until
        return (self.report.until - NOW).total_seconds() - self.seconds


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene()
    monkeypatch.setattr("certmond.cluster.node_condition_writer.write_condition", made.write)
    monkeypatch.setattr("certmond.cluster.node_condition_writer.create_event", made.announce)
    return made


def test_an_unchanged_condition_is_repeated_every_five_minutes(scene: Scene) -> None:
    """The time of the last heartbeat shows that the daemon runs."""
    for seconds, count in ((1000.0, 1), (1299.0, 1), (1300.0, 2)):
        scene.seconds = seconds
        assert scene.report.report(assessed()) is None
        assert len(scene.written) == count
    assert scene.next_in == 300


def test_a_change_is_written_at_once(scene: Scene) -> None:
    """Changes that follow in less than ten seconds are written together at their end."""
    scene.report.report(assessed(1))
    scene.seconds += 11
    scene.report.report(assessed(2))
    for count in (3, 4):
        scene.seconds += 1
        scene.report.report(assessed(count))
        assert scene.next_in == 12 - count
    scene.seconds += 8
    scene.report.report(assessed(4))
    assert [each[1].message.split()[0] for each in scene.written] == ["1", "2", "4"]


@pytest.mark.parametrize("error", [RefusedError("no right"), UnreachableError("no answer")])
def test_a_failed_write_is_reported_once_and_repeated(scene: Scene, error: Exception) -> None:
    """The next attempt follows after a minute. After a success, the same failure is reported again."""
    scene.error = error
    assert scene.report.report(assessed()) == str(error)
    assert scene.next_in == 60
    scene.seconds += 60
    assert scene.report.report(assessed()) is None
    scene.error = None
    scene.seconds += 60
    assert scene.report.report(assessed()) is None
    assert len(scene.written) == 1
    scene.error = error
    scene.seconds += 300
    assert scene.report.report(assessed()) == str(error)


def test_the_name_of_the_node_is_that_of_its_files(scene: Scene) -> None:
    """If no file of the node has its name, certmond uses the configured name."""
    scene.report.report(assessed(node_name="node-1"))
    scene.seconds += 300
    scene.report.report(assessed())
    assert [name for name, _ in scene.written] == ["node-1", "host"]


def test_without_the_extra_the_remedy_is_reported(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """lightkube is optional."""
    monkeypatch.setitem(sys.modules, "certmond.cluster.node_condition_writer", None)
    assert (
        scene.report.report(assessed())
        == "the package lightkube is missing; run: pip install lightkube lightkube-models"
    )


def test_a_refused_event_does_not_delay_the_condition(scene: Scene) -> None:
    """certmond writes the condition first, and repeats only an event that the API server has refused."""
    scene.refused = RefusedError("no right to create events")
    assert scene.report.report(assessed(1)) == "no right to create events"
    scene.seconds += 60
    assert scene.report.report(assessed(2)) is None
    assert [each[1].message.split()[0] for each in scene.written] == ["1", "2"]
    scene.refused = None
    scene.seconds += 60
    scene.report.report(assessed(2))
    scene.seconds += 300
    scene.report.report(assessed(2))
    assert [each.split()[0] for each in scene.events] == ["2"]
