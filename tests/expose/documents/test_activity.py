"""The activity that a real daemon publishes: its plan, and the last events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certmond.expose.documents.activity import activity_document
from certmond.notify.event_log import RECENT, Event, Journal
from certmond.pki.planning.steps import Plan
from tests.daemon_harness import Running, running
from tests.node import PKI, Node


def events(daemon: Running) -> list[str]:
    return [each["event"] for each in daemon.activity()["events"]]


@pytest.mark.long
def test_events_of_a_daemon(node: Node, tmp_path: Path) -> None:
    """The events are those of the journal, the newest first, from the start to the stop."""
    with running(node.root, tmp_path) as daemon:
        daemon.until(lambda: "started" in events(daemon), "the start")
        node.reissue(f"{PKI}/apiserver")
        daemon.until(lambda: "certificate_changed" in events(daemon), "the change")
        changed = next(each for each in daemon.activity()["events"] if each["event"] == "certificate_changed")
        assert changed["message"] in daemon.log.read_text()
        assert changed["level"] == "info"
        assert changed["at"].endswith("Z")
        assert daemon.stop() == 0
        assert events(daemon)[0] == "stopped"


@pytest.mark.long
def test_the_plan_of_a_daemon(node: Node, tmp_path: Path) -> None:
    """The plan is there, in observe mode as well, and follows what is due."""
    with running(node.root, tmp_path) as daemon:
        assert [step["target"] for step in daemon.activity()["plan"]["steps"]] == []
        now = datetime.now(UTC)
        node.reissue(f"{PKI}/apiserver", start=now - timedelta(days=340), end=now + timedelta(days=25))
        daemon.until(
            lambda: [step["target"] for step in daemon.activity()["plan"]["steps"]] == ["apiserver"], "what is due"
        )
        assert daemon.activity()["rotation"] is None


def test_no_more_than_fifty() -> None:
    """The document has the last fifty events, one line each, with control characters escaped."""
    journal = Journal("none")
    for number in range(RECENT + 7):
        journal.tell(Event.FINDING_RAISED, f"number {number}\n", "warning")
    reported = activity_document(Plan(), None, (), None, journal.recent)["events"]
    assert len(reported) == RECENT == 50
    assert reported[0].items() >= {"event": "finding_raised", "level": "warning", "message": "number 56\\n"}.items()
