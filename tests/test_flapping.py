"""Files that break and recover repeatedly do not fill the journal or the audit log, and do not keep a hook busy."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.daemon import reconciler as acting
from certmond.daemon.loop import Daemon
from certmond.daemon.reconciler import Reconciler
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.notify.change_log import EACH
from certmond.notify.event_log import Event, Journal
from certmond.notify.hook_worker import EACH as RUNS
from tests.builders import YEAR, make_leaf
from tests.daemon.test_enforcer import in_process
from tests.deadline import DEADLINE
from tests.test_renewal import Host, now

FLAPS = 20
NAMES = tuple(f"leaf-{number}" for number in range(3))


class Recorder(Journal):
    """A journal that counts entries and records their times."""

    def __init__(self) -> None:
        super().__init__("none")
        self.written = threading.Condition()
        self.counts = Counter[tuple[Event, str]]()
        self.summaries: list[str] = []

    def tell(self, event: Event, message: str, level: str = "info", **fields: object) -> None:
        super().tell(event, message, level, **fields)
        with self.written:
            self.counts[event, str(fields.get("certificate") or fields.get("target"))] += 1
            if event is Event.LEFT_OUT:
                self.summaries.append(message)
            self.written.notify_all()

    def until(self, holds: Any, what: str) -> None:
        with self.written:
            assert self.written.wait_for(holds, DEADLINE), what


class Hand:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Published:
    """The published state of the daemon after each pass."""

    def __init__(self, runtime: Path) -> None:
        self._status = runtime / "status.json"

    def reasons(self) -> dict[str, set[str]]:
        document = json.loads(self._status.read_text()) if self._status.exists() else {"certificates": []}
        return {each["name"]: {item["reason"] for item in each["findings"]} for each in document["certificates"]}

    def until(self, holds: Any, what: str) -> None:
        pause, end = threading.Event(), int(DEADLINE / 0.01)
        for _ in range(end):
            if holds():
                return
            pause.wait(0.01)
        raise AssertionError(what)


@pytest.mark.long
def test_files_that_flap_fill_no_journal_and_keep_no_hook_busy(tmp_path: Path) -> None:
    """Each pass publishes the current state. The journal has the first changes of each file, and the hook runs for the
    first ones. Then a summary counts what was omitted, and both get the current state.
    """
    host = Host(tmp_path / "host", "apiserver", now=now())
    (log := tmp_path / "events").touch()
    program = tmp_path / "hook"
    program.write_text(f'#!/bin/sh\nread -r line\necho "$line" >>{log}\n')
    program.chmod(0o755)
    leaves = {name: make_leaf(host.ca, name, not_before=host.now - timedelta(days=1), not_after=host.now + YEAR).pem
              for name in NAMES}  # fmt: skip
    for name, content in leaves.items():
        host.put(f"/leaves/{name}.crt", content)
    document = host.document() | {
        "mode": "observe",
        "hooks": [{"name": "hook", "command": [str(program)], "at_least": "critical"}],
        "certificates": [{"name": name, "path": f"/leaves/{name}.crt"} for name in NAMES],
    }
    text = yaml.safe_dump(document)
    journal, clock, published = Recorder(), Hand(), Published(host.place / "run")
    daemon = Daemon(
        lambda: parse([Source("test", text)]), root=str(host.root), runtime_dir=host.place / "run",
        state_dir=host.state, journal=journal, monotonic=clock,
    )  # fmt: skip

    def reported() -> Counter[str]:
        return Counter(json.loads(line)["certificate"] for line in log.read_text().splitlines())

    def put(content: bytes | None, broken: bool) -> None:
        for name in NAMES:
            host.put(f"/leaves/{name}.crt", leaves[name] if content is None else content)
        seen = all if broken else lambda flags: not any(flags)
        published.until(
            lambda: seen(["malformed" in published.reasons().get(name, set()) for name in NAMES]),
            f"{broken} is reported",
        )

    def script() -> None:
        published.until(lambda: set(NAMES) <= published.reasons().keys(), "looked")
        for _ in range(FLAPS):
            put(b"broken", broken=True)
            put(None, broken=False)
        put(b"broken", broken=True)
        for name in NAMES:
            raised, cleared = (journal.counts[event, name] for event in (Event.FINDING_RAISED, Event.FINDING_CLEARED))
            assert EACH.burst <= raised + cleared <= 2 * EACH.burst
            assert reported()[name] <= RUNS.burst
        assert journal.summaries == []
        clock.seconds += 61
        host.put("/leaves/leaf-0.crt", b"broken again")
        journal.until(omitted, "the summary")
        published.until(lambda: all(last(name) == "raised" for name in NAMES), "the hook has the current state")

    def omitted() -> bool:
        """Return whether the log has counted its omissions. The summary of the hook can come earlier."""
        said = r"certmond did not log \d+ further changes of 3 certificates in the last minute"
        return any(re.match(said, each) for each in journal.summaries)

    def last(name: str) -> str | None:
        events = [json.loads(line) for line in log.read_text().splitlines()]
        return next((each["event"] for each in reversed(events) if each["certificate"] == name), None)

    with in_process(daemon, script):
        pass
    standing = {name: journal.counts[Event.FINDING_RAISED, name] > journal.counts[Event.FINDING_CLEARED, name]
                for name in NAMES}  # fmt: skip
    assert standing == dict.fromkeys(NAMES, True)
    metrics = (host.place / "run" / "metrics.prom").read_text()
    assert "certmond_changes_not_logged_total" in metrics
    assert "certmond_changes_not_logged_total 0.0" not in metrics


def test_a_hold_that_flaps_does_not_fill_the_audit_log(tmp_path: Path) -> None:
    """A held step is recorded ten times for one file, then once a minute. A brief hold is counted in a summary. An
    action of certmond is always recorded.
    """
    host = Host(tmp_path / "host", "apiserver")
    host.settings["hold"] = {"file": "/hold", "unsynchronised_clock": False}
    enforcer, journal, clock = host.enforcer(), Recorder(), Hand()
    made = Reconciler(enforcer, journal, Telemetry("enforce"), enforcing=True, stopping=lambda: False, monotonic=clock)

    def look() -> None:
        assessment, around = enforcer.see()
        made.make_plan(assessment, around)
        made.record_plan(assessment)

    def notes(event: Event) -> int:
        return sum(entry["event"] == event.value for entry in host.audit())

    hold = host.at("/hold")
    for _ in range(15):
        hold.touch()
        look()
        hold.unlink()
        look()
    assert notes(Event.STEP_HELD) == acting.HELD_EACH.burst
    assert notes(Event.STEP_PLANNED) == 15
    clock.seconds += 60
    hold.touch()
    look()
    assert notes(Event.STEP_HELD) == acting.HELD_EACH.burst + 1
    assert journal.summaries == [
        "certmond did not log 5 short holds of steps for 1 files in the last minute; see: certmond plan"
    ]
    hold.unlink()
    look()
    made.execute()
    assert (notes(Event.STEP_BEGUN), notes(Event.STEP_DONE)) == (1, 1)
