"""Hooks: each finding runs a hook once when it is raised and once when it is cleared, whatever happens in between."""

from __future__ import annotations

import json
import os
import queue
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certmond.notify.event_log import Journal
from certmond.notify.hook_worker import Hook, PassResult
from certmond.notify.hooks import Hooks
from certmond.pki.assessment.hook_events import Key, Notice
from certmond.pki.catalog.settings import HookSpec
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Severity
from tests.builders import DAY, NOW
from tests.conftest import no_thread_left
from tests.deadline import DEADLINE

SETTLED, UNSETTLED = PassResult("node-1", NOW, settled=True), PassResult("node-1", NOW, settled=False)
SCRIPT = """#!/bin/sh
# Appends its input to $LOG; fails while $LOG.fails is there, hangs while $LOG.hangs is.
[ ! -e "$LOG.fails" ] || { echo "no, $LOG.fails is there" >&2; exit 7; }
[ ! -e "$LOG.hangs" ] || { : >"$LOG.hung"; sleep 60; }
cat >>"$LOG"
echo "written to $LOG"
"""


def notice(name: str = "a", severity: Severity = Severity.WARNING, reason: str = "too_open") -> Notice:
    return Notice(name, f"/{name}", reason, severity, f"{name} is bad", NOW, NOW + DAY)


def known(*notices: Notice) -> dict[Key, Notice]:
    return {each.key: each for each in notices}


class HookRecorder:
    """A program that records its input, and the hook that runs it."""

    def __init__(self, work: Path) -> None:
        self.work, self.log = work, work / "log"
        self.program = work / "program"
        self.program.write_text(SCRIPT)
        self.program.chmod(0o755)
        self.results: queue.Queue[tuple[str, str]] = queue.Queue()

    def spec(self, **fields: Any) -> HookSpec:
        environment = {"LOG": str(self.log)}
        given = {"name": "hook", "command": [str(self.program)], "environment": environment, "time_limit": "10m"}
        return validated(HookSpec, given | fields)

    @contextmanager
    def running(self, **fields: Any) -> Iterator[Hook]:
        more = {"most": fields.pop("most", 1000), "monotonic": fields.pop("monotonic", time.monotonic)}
        journal = fields.pop("journal", None) or Journal("plain")
        hook = Hook(self.spec(**fields), self.work, journal, self.count, pauses=(0.05, 0.2), **more)
        try:
            yield hook
        finally:
            hook.stop()
            hook.join(DEADLINE)

    def count(self, hook: str, result: str) -> None:
        self.results.put((hook, result))

    def until(self, *results: str) -> None:
        """Wait until the hook has ended so often, each time like that."""
        assert [self.results.get(timeout=DEADLINE)[1] for _ in results] == list(results)

    def heard(self) -> list[tuple[str, str, str]]:
        documents = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return [(each["event"], each["certificate"], each["finding"]["severity"]) for each in documents]


@pytest.fixture
def recorder(tmp_path: Path) -> HookRecorder:
    return HookRecorder(tmp_path)


RAISED, CLEARED = ("raised", "a", "warning"), ("cleared", "a", "warning")


def test_a_hook_reads_one_document_of_what_was_raised(recorder: HookRecorder) -> None:
    """The program gets JSON on standard input: schema, event, node, finding, certificate, path, at, not_after."""
    with recorder.running() as hook:
        hook.deliver(known(notice()), SETTLED)
        recorder.until("told")
    assert json.loads(recorder.log.read_text()) == {
        "schema": 1, "event": "raised", "node": "node-1", "certificate": "a", "path": "/a",
        "finding": {"reason": "too_open", "severity": "warning", "message": "a is bad"},
        "at": "2026-11-24T12:00:00Z", "not_after": "2026-11-25T12:00:00Z",
    }  # fmt: skip


def test_a_hook_runs_once_for_raised_and_once_for_cleared(recorder: HookRecorder) -> None:
    """However often a finding is observed, it is raised once and cleared once."""
    with recorder.running() as hook:
        for found in (known(notice()), known(notice()), known(notice(), notice("b"))):
            hook.deliver(found, SETTLED)
        recorder.until("told", "told")
        hook.deliver(known(notice("b")), SETTLED)
        recorder.until("told")
    assert recorder.heard() == [RAISED, ("raised", "b", "warning"), CLEARED]


def test_a_hook_without_a_thread_runs_later(recorder: HookRecorder, capsys: pytest.CaptureFixture[str]) -> None:
    """If no thread can be started, that is reported once, and nothing is lost: the hook runs when a thread can be
    started.
    """
    with recorder.running() as hook:
        with no_thread_left():
            hook.deliver(known(notice()), SETTLED)
            hook.deliver(known(notice()), SETTLED)
        hook.deliver(known(notice()), SETTLED)
        recorder.until("told")
    assert recorder.heard() == [RAISED]
    assert capsys.readouterr().err.count("cannot start a thread") == 1
    with no_thread_left(), recorder.running() as hook:
        hook.deliver(known(notice()), SETTLED)  # and a hook without a thread ends


def test_a_restart_of_certmond_sends_nothing_again(recorder: HookRecorder) -> None:
    """After a start the hook runs only for open findings that it has not received, and for those that ended
    meanwhile.
    """
    with recorder.running() as hook:
        hook.deliver(known(notice(), notice("b")), SETTLED)
        recorder.until("told", "told")
    with recorder.running() as hook:
        hook.deliver(known(notice()), UNSETTLED)  # b may not have been looked for yet
        hook.deliver(known(notice(), notice("c")), SETTLED)
        recorder.until("told", "told")
    assert recorder.heard()[2:] in (
        [("cleared", "b", "warning"), ("raised", "c", "warning")],
        [("raised", "c", "warning"), ("cleared", "b", "warning")],
    )


def test_only_the_owner_can_read_the_record(recorder: HookRecorder) -> None:
    """The record of a hook is readable only for its owner."""
    with recorder.running() as hook:
        hook.deliver(known(notice()), SETTLED)
        recorder.until("told")
    memory = recorder.work / "hooks/hook.json"
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert stat.S_IMODE(memory.parent.stat().st_mode) == 0o700


def test_a_hook_that_fails_is_run_again(recorder: HookRecorder, capfd: pytest.CaptureFixture[str]) -> None:
    """A failed run is repeated until it succeeds. Each failure is counted and reported with the first line of its
    output.
    """
    fails = Path(f"{recorder.log}.fails")
    fails.touch()
    with recorder.running() as hook:
        hook.deliver(known(notice()), SETTLED)
        recorder.until("failed", "failed")
        assert hook.waiting == 1
        fails.unlink()
        while recorder.results.get(timeout=DEADLINE)[1] != "told":
            pass
    assert recorder.heard() == [RAISED]
    assert (
        f"ended with status 7 (no, {fails} is there); certmond runs the hook again in 0.05 s" in capfd.readouterr().err
    )


def test_one_failing_event_does_not_block_others(recorder: HookRecorder) -> None:
    """Another event follows before the failed one is repeated."""
    recorder.program.write_text(
        '#!/bin/sh\nread -r line\ncase $line in *\'"a"\'*) exit 1 ;; esac\necho "$line" >>"$LOG"\n'
    )
    with recorder.running() as hook:
        hook.deliver(known(notice("a", Severity.CRITICAL), notice("b")), SETTLED)
        recorder.until("failed", "told")
    assert recorder.heard() == [("raised", "b", "warning")]


def test_a_finding_that_ended_before_its_run_is_skipped(
    recorder: HookRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    """A finding that is cleared before the hook ran is never sent. That is counted and reported."""
    fails = Path(f"{recorder.log}.fails")
    fails.touch()
    with recorder.running() as hook:
        hook.deliver(known(notice()), SETTLED)
        recorder.until("failed")
        hook.deliver(known(notice("b")), SETTLED)
        while recorder.results.get(timeout=DEADLINE)[1] != "passed_over":
            pass
        fails.unlink()
        results = list(iter(lambda: recorder.results.get(timeout=DEADLINE)[1], "told"))
    assert "passed_over" not in results
    assert recorder.heard() == [("raised", "b", "warning")]
    assert "the finding too_open of /a was cleared before hook hook received this notice" in capfd.readouterr().err


def test_a_flood_has_a_limit_and_is_reported(recorder: HookRecorder, capfd: pytest.CaptureFixture[str]) -> None:
    """At most a limited number of findings is sent, the most severe first. The others follow when some of these are
    cleared.
    """
    bad, good = notice("bad", Severity.CRITICAL), notice("good")
    with recorder.running(most=1) as hook:
        hook.deliver(known(good, bad), SETTLED)
        recorder.until("told")
        hook.deliver(known(good), SETTLED)
        recorder.until("told", "told")
    assert [each[:2] for each in recorder.heard()] == [("raised", "bad"), ("cleared", "bad"), ("raised", "good")]
    assert "receives 1 findings; 1 other findings wait" in capfd.readouterr().err


def test_a_hook_that_hangs_is_killed(recorder: HookRecorder) -> None:
    """A run that exceeds its time limit is killed, and has failed."""
    hangs = Path(f"{recorder.log}.hangs")
    hangs.touch()
    with recorder.running(time_limit="1s") as hook:
        hook.deliver(known(notice()), SETTLED)
        recorder.until("failed")
        hangs.unlink()


def test_a_hanging_program_does_not_block_the_caller(recorder: HookRecorder) -> None:
    """While a program hangs, the caller returns at once. A stop ends the program, and the next start runs it again."""
    hangs = Path(f"{recorder.log}.hangs")
    hangs.touch()
    hook = Hook(recorder.spec(), recorder.work, Journal("none"), recorder.count)
    hook.deliver(known(notice()), SETTLED)
    hook.deliver(known(notice()), SETTLED)
    hook.stop()
    hook.join(0)
    hangs.unlink()
    assert recorder.heard() == []
    with recorder.running() as hook:
        hook.deliver(known(notice()), SETTLED)
        recorder.until("told")
    assert recorder.heard() == [RAISED]


def test_a_program_that_others_can_write_is_not_run(recorder: HookRecorder, capfd: pytest.CaptureFixture[str]) -> None:
    """If another user could have changed the program, the run fails with the remedy."""
    recorder.program.chmod(0o757)
    with recorder.running() as hook:
        hook.deliver(known(notice()), SETTLED)
        recorder.until("failed")
    assert recorder.heard() == []
    assert f"chmod go-w {recorder.program}" in capfd.readouterr().err


def test_an_open_finding_is_repeated_on_request(recorder: HookRecorder) -> None:
    """With `repeat` the same finding is raised again and again while it is open."""
    with recorder.running() as hook:
        hook.spec = replace(hook.spec, repeat=timedelta(milliseconds=50))
        hook.deliver(known(notice()), SETTLED)
        recorder.until("told", "told", "told")
    assert set(recorder.heard()) == {RAISED}


@pytest.mark.parametrize("written", ["", "[]", '{"a": 1}', "[{}]", '[{"certificate": 1}]', "\x00"])
def test_an_unreadable_record_counts_as_empty(recorder: HookRecorder, written: str) -> None:
    """An event is sent twice rather than never."""
    (recorder.work / "hooks").mkdir()
    (recorder.work / "hooks/hook.json").write_text(written)
    with recorder.running() as hook:
        hook.deliver(known(notice()), SETTLED)
        recorder.until("told")


def test_hooks_follow_a_new_configuration(recorder: HookRecorder) -> None:
    """An unchanged hook continues. A changed one continues from the record of its predecessor."""
    hooks = Hooks(recorder.work, Journal("none"), recorder.count)
    hooks.configure([recorder.spec(), recorder.spec(name="other")])
    other = hooks._hooks["other"]  # the test checks that the thread is the same
    for hook in hooks._hooks.values():
        hook.deliver(known(notice()), SETTLED)
    recorder.until("told", "told")
    hooks.configure([recorder.spec(environment={"LOG": f"{recorder.log}2"}), recorder.spec(name="other")])
    assert hooks._hooks["other"] is other
    assert hooks.waiting.keys() == {"hook", "other"}
    hooks._hooks["hook"].deliver(known(notice(), notice("b")), SETTLED)
    recorder.until("told")
    hooks.configure([])
    hooks.close()
    assert json.loads(Path(f"{recorder.log}2").read_text())["certificate"] == "b"


def test_a_stop_also_ends_the_program_of_a_former_configuration(
    recorder: HookRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an operator changes a hook because its program hangs, certmond stops as fast as with the first configuration,
    not after the time limit of the program.
    """
    monkeypatch.setattr("certmond.notify.hooks.GRACE", 0.0)
    Path(f"{recorder.log}.hangs").touch()
    started = Path(f"{recorder.log}.hung")
    os.mkfifo(started)
    hooks = Hooks(recorder.work, Journal("none"), recorder.count)
    for number in range(3):
        hooks.configure([recorder.spec(repeat=f"{number + 1}h")])
        hooks._hooks["hook"].deliver(known(notice()), SETTLED)
        if not number:
            started.read_bytes()  # until the program opens this file
    hooks.close()
    assert recorder.heard() == []  # the program was killed


def test_a_reload_kills_no_program_before_its_time_limit(recorder: HookRecorder) -> None:
    """A run in progress continues after a reload, also if a later configuration has a shorter time limit."""
    Path(f"{recorder.log}.hangs").touch()
    recorder.program.write_text(SCRIPT.replace("sleep 60", 'read -r _ <"$LOG.go"'))
    started, go = Path(f"{recorder.log}.hung"), Path(f"{recorder.log}.go")
    for each in (started, go):
        os.mkfifo(each)
    hooks = Hooks(recorder.work, Journal("none"), recorder.count)
    for number, limit in enumerate(("10m", "1s", "10m")):
        hooks.configure([recorder.spec(repeat=f"{number + 1}h", time_limit=limit)])
        hooks._hooks["hook"].deliver(known(notice()), SETTLED)
        if not number:
            started.read_bytes()  # until the program opens this file
    first = hooks._hooks["hook"]._with_predecessors()[0]
    assert first._thread
    first._thread.join(2)  # longer than the limit of the second configuration
    assert first._thread.is_alive()
    Path(f"{recorder.log}.hangs").unlink()
    go.write_bytes(b"\n")
    recorder.until("told")
    hooks.close()
    assert recorder.heard() == [RAISED]


# The rate of runs


class Hand:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


CRITICAL = notice("a", Severity.CRITICAL)


def test_a_flapping_finding_runs_a_hook_a_few_times_and_then_once_a_minute(recorder: HookRecorder) -> None:
    """However often a finding changes, the hook runs four times for it, and then once a minute for the current state,
    so that it ends with the current one.
    """
    clock, journal = Hand(), Journal("none")
    with recorder.running(monotonic=clock, journal=journal) as hook:
        for _ in range(2):
            hook.deliver(known(notice()), SETTLED)
            recorder.until("told")
            hook.deliver({}, SETTLED)
            recorder.until("told")
        for _ in range(5):  # each is waited for: the hook has seen it, and passes it over
            hook.deliver(known(notice()), SETTLED)
            hook.deliver({}, SETTLED)
            recorder.until("passed_over")
        hook.deliver(known(notice()), SETTLED)
        clock.seconds += 60
        hook.deliver(known(notice()), SETTLED)
        recorder.until("told")
    assert recorder.heard() == [RAISED, CLEARED, RAISED, CLEARED, RAISED]
    said = [each for each in journal.recent if "before hook hook received" in each["message"]]
    left_out = [each["message"] for each in said if each["event"] == "left_out"]
    assert left_out == [
        (
            "3 changes of 1 findings were reverted before hook hook received them, and certmond did not log these "
            "changes; see: certmond status"
        )
    ]
    assert len(said) == 3


def test_a_finding_that_is_cleared_for_a_moment_sends_nothing(recorder: HookRecorder) -> None:
    """A finding that was sent, and is cleared and raised again before the next run, stays open for the hook. The
    skipped change is counted.
    """
    clock = Hand()
    with recorder.running(monotonic=clock) as hook:
        for found in (known(notice()), {}, known(notice()), {}, known(notice("b"))):
            hook.deliver(found, SETTLED)
            recorder.until("told")
        hook.deliver(known(notice("b"), notice()), SETTLED)
        clock.seconds += 60
        hook.deliver(known(notice("b"), notice()), SETTLED)
        recorder.until("told")
        hook.deliver(known(notice("b")), SETTLED)
        hook.deliver(known(notice("b"), notice("c")), SETTLED)
        recorder.until("told")  # c; a has to wait
        hook.deliver(known(notice("b"), notice("c"), notice()), SETTLED)
        recorder.until("passed_over")
    assert [each[:2] for each in recorder.heard()][-2:] == [("raised", "a"), ("raised", "c")]


def test_many_findings_have_a_bounded_rate_and_critical_ones_run_at_once(recorder: HookRecorder) -> None:
    """A hook runs at most a hundred times at once, and then twice a second. For a critical finding that has not changed
    repeatedly it still runs at once.
    """
    recorder.program.write_text('#!/bin/sh\nread -r line\necho "$line" >>"$LOG"\n')
    clock, many = Hand(), known(*(notice(f"n{number}") for number in range(110)))
    with recorder.running(monotonic=clock) as hook:
        hook.deliver(many, SETTLED)
        recorder.until(*["told"] * 100)
        hook.deliver(many | known(CRITICAL), SETTLED)
        recorder.until("told")
        assert recorder.heard()[-1] == ("raised", "a", "critical")
        assert recorder.results.empty()
        clock.seconds += 1
        hook.deliver(many | known(CRITICAL), SETTLED)
        recorder.until("told", "told")
        clock.seconds += 4
        hook.deliver(many | known(CRITICAL), SETTLED)
        recorder.until(*["told"] * 8)
    assert len(recorder.heard()) == 111
