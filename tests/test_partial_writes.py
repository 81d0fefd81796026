"""A key that does not match its certificate, a moment after it was written: in `check`, and in the daemon."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from certmond.cli.options import assess_node
from certmond.config.parser import parse
from certmond.daemon.loop import Daemon
from certmond.notify.event_log import Event
from certmond.pki.assessment.key_mismatch_delay import WAIT
from certmond.pki.findings import Reason
from tests.daemon.test_enforcer import Shifted, in_process
from tests.daemon_harness import Output
from tests.deadline import DEADLINE
from tests.node import PKI, Node
from tests.test_flapping import Recorder

API = f"{PKI}/apiserver"
SECOND = timedelta(seconds=1)


class Clock:
    """A clock that advances only by the time that the code waits."""

    def __init__(self) -> None:
        self.now, self.waited = datetime.now(UTC), list[float]()

    def __call__(self) -> datetime:
        return self.now

    def pause(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += timedelta(seconds=seconds)


def reasons(node: Node, clock: Clock, at: datetime | None = None, finish: bytes | None = None) -> set[Reason]:
    """The findings of the API server's certificate. `finish` is the key that its writer puts there meanwhile."""

    def pause(seconds: float) -> None:
        clock.pause(seconds)
        if finish is not None:
            node.replace(f"{API}.key", finish)

    assessment = assess_node(parse(()), str(node.root), at, state_dir=node.root, clock=clock, pause=pause)
    status = next(each for each in assessment.statuses if each.seen.name == "apiserver")
    return {item.reason for item in status.findings}


def changed_at(path: Path) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=path.stat().st_ctime_ns // 1000)


def test_a_check_waits_for_the_rest_of_the_time(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong key that was written a second ago is read again a second later, and is a finding then. Meanwhile standard
    error names what `check` waits for.
    """
    node.replace(f"{API}.key", node.read(f"{PKI}/etcd/peer.key"))
    clock = Clock()
    clock.now = changed_at(node.path(f"{API}.key")) + SECOND
    assert reasons(node, clock) == {Reason.KEY_MISMATCH}
    assert clock.waited == [(WAIT - SECOND).total_seconds()]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "certmond: /etc/kubernetes/pki/apiserver.key is not the private key of /etc/kubernetes/pki/apiserver.crt; "
        "certmond waits, because a process might still be writing these files\n"
    )


def test_a_check_ignores_a_writer_that_finishes_in_time(node: Node) -> None:
    """The second read counts."""
    good = node.read(f"{API}.key")
    node.replace(f"{API}.key", node.read(f"{PKI}/etcd/peer.key"))
    clock = Clock()
    clock.now = changed_at(node.path(f"{API}.key"))
    assert reasons(node, clock, finish=good) == set()
    assert clock.waited == [WAIT.total_seconds()]


def test_an_older_mismatch_or_another_time_is_not_waited_for(node: Node) -> None:
    """A mismatch of two seconds ago is a finding at once, and so is any mismatch with `--at`."""
    node.replace(f"{API}.key", node.read(f"{PKI}/etcd/peer.key"))
    clock = Clock()
    written = changed_at(node.path(f"{API}.key"))
    clock.now = written + WAIT
    assert reasons(node, clock) == {Reason.KEY_MISMATCH}
    assert reasons(node, clock, at=written + SECOND) == {Reason.KEY_MISMATCH}
    assert clock.waited == []


@pytest.mark.long
def test_the_command_exits_with_2_right_after_a_wrong_key(node: Node, tmp_path: Path) -> None:
    """A script that checks right after it has installed a wrong key gets the exit code 2."""
    command = [sys.executable, "-m", "certmond", "--root", str(node.root), "--state-dir", str(tmp_path), "check"]
    assert subprocess.run(command, capture_output=True, timeout=DEADLINE, check=False).returncode == 0
    node.replace(f"{API}.key", node.read(f"{PKI}/etcd/peer.key"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 2
    assert "is not the private key of" in done.stdout


@pytest.mark.long
def test_the_daemon_reports_keys_that_alternate(node: Node, tmp_path: Path) -> None:
    """A good key and a wrong one that replace each other every 0.7 seconds are a finding in each of fourteen samples.
    When the good key stays, the finding ends.
    """
    good, wrong = node.read(f"{API}.key"), node.read(f"{PKI}/etcd/peer.key")
    clock, journal, seen = Shifted(datetime.now(UTC)), Recorder(), Output(tmp_path / "run")
    daemon = Daemon(
        lambda: parse(()), root=str(node.root), runtime_dir=seen.runtime, state_dir=tmp_path / "state", journal=journal,
        clock=clock,
    )  # fmt: skip

    def script() -> None:
        seen.until(lambda: seen.entry("apiserver"), "the first pass")
        node.replace(f"{API}.key", wrong)
        seen.until(reported, "reported")
        for number in range(14):
            clock.instant += 0.7 * SECOND
            node.replace(f"{API}.key", wrong if number % 2 else good)
            read = "apiserver.key is not" if number % 2 else "apiserver.key was not"
            seen.until(partial(says, seen, f"{read} the private key"), f"sample {number}")
            assert seen.reasons("apiserver") == {"key_mismatch"}
        assert cleared() == 0
        node.replace(f"{API}.key", good)
        seen.until(lambda: says(seen, "apiserver.key was not the private key"), "the good key is read")
        clock.instant += WAIT
        seen.until(lambda: not seen.reasons("apiserver"), "cleared")

    def reported() -> bool:
        clock.instant += SECOND  # until the daemon has read the wrong key, and for the wait after that
        return says(seen, "apiserver.key is not the private key")

    def cleared() -> int:
        return journal.counts[Event.FINDING_CLEARED, "apiserver"]

    with in_process(daemon, script):
        pass
    assert cleared() == 1


def says(seen: Output, words: str) -> bool:
    """Return whether a finding of the API server's certificate contains `words`."""
    entry = seen.entry("apiserver")
    return entry is not None and any(words in item["message"] for item in entry["findings"])
