"""Faults of the daemon's environment: limits, clocks, a stop, a lost state. The daemon continues, and recovers on its
own.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.daemon.loop import Daemon
from certmond.errors import WriteError
from certmond.expose.metrics.exposition import Renderer
from certmond.notify.event_log import Journal
from tests import hurried_certmond
from tests.builders import DAY, YEAR, make_leaf
from tests.conftest import real_part, unavailable
from tests.daemon.test_enforcer import Shifted, at_rest, enforcing, in_process, well
from tests.daemon_harness import Running
from tests.documents import ROOT
from tests.test_renewal import ENTRIES, Host, now

HOLD = "/run/upgrade"
CRT, KEY = ENTRIES["apiserver"]["path"], ENTRIES["apiserver"]["key"]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host", now=now())


@pytest.fixture
def waiting(tmp_path: Path) -> Host:
    """Return a node on which all is due, but not critical, so that it waits until HOLD is removed."""
    host = Host(tmp_path / "host", "apiserver", "etcd-server", "admin.conf", now=now())
    host.settings["hold"] = {"unsynchronised_clock": False, "file": HOLD}
    host.put(HOLD, b"")
    return host


@pytest.mark.long
@pytest.mark.parametrize("obstacle", ["full", "gone"])
def test_a_full_or_closed_log_does_not_stop_the_daemon(host: Host, tmp_path: Path, obstacle: str) -> None:
    """If its log goes to a full disk or to a journal that has ended, the daemon does its work and exits normally. The
    page has its last messages.
    """
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(host.document()))
    (tmp_path / "run").mkdir()
    if obstacle == "full":
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, output = os.pipe()
        os.close(reading)
    command = [sys.executable, "-m", "certmond", "--root", str(host.root), "--config", str(config)]
    process = subprocess.Popen(
        [*command, "--state-dir", str(host.state), "run", "--runtime-dir", str(tmp_path / "run"), "--log", "json"],
        stdout=output, stderr=output, text=True,
    )  # fmt: skip
    os.close(output)
    daemon = Running(process, tmp_path / "run", Path(os.devnull))
    try:
        daemon.until(lambda: at_rest(daemon, host), "at rest")
        assert {entry["event"] for entry in daemon.activity()["events"]} >= {"step_done"}
        assert daemon.stop() == 0
    finally:
        process.kill()
        process.wait()
    well(host)


@pytest.mark.long
def test_stopped_for_a_while(host: Host) -> None:
    """The daemon detects the changes made while its process was stopped (SIGSTOP, a suspended machine) when it
    continues.
    """
    host.settings["mode"] = "observe"
    with enforcing(host, before=("env",)) as daemon:  # a child of this process, which sees its stop
        daemon.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, daemon.process.pid, os.WSTOPPED | os.WNOWAIT)
        host.at(KEY).chmod(0o644)
        passes = daemon.passes()
        daemon.process.send_signal(signal.SIGCONT)
        daemon.until(lambda: "too_open" in daemon.reasons("apiserver"), "seen")
        assert daemon.passes() > passes


@pytest.mark.long
@pytest.mark.parametrize("limit", [8, 16])
def test_no_descriptors_left(waiting: Host, limit: int) -> None:
    """With too few descriptors (RLIMIT_NOFILE) nothing ends and no file of the node is harmed; with more of them again,
    all that is due is done, without a restart.
    """
    times = json.dumps({"certmond.daemon.reconciler:FAILURE_INTERVAL": 3})
    with enforcing(waiting, program=hurried_certmond.PROGRAM, HURRY=times) as daemon:
        usual = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (limit, usual[1]))
        waiting.at(HOLD).unlink()
        daemon.until(lambda: "Too many open files" in daemon.log.read_text(), "reported")
        assert "Traceback" not in daemon.log.read_text()
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, usual)
        daemon.until(lambda: at_rest(daemon, waiting), "at rest")  # after FAILURE_INTERVAL
    well(waiting)


@pytest.mark.long
@pytest.mark.real("unshare")
@pytest.mark.parametrize("limit", ["instances", "watches"])
def test_no_watches_left(host: Host, limit: str) -> None:
    """Without an inotify instance or watch the daemon reports it and polls: it detects changes and renews."""
    setting = f"/proc/sys/user/max_inotify_{limit}"  # of a separate user namespace: no other process is limited
    alone = (real_part("unshare"), "--map-root-user", "sh", "-c", f'echo 0 >{setting} && exec "$@"', "sh")
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        unavailable("no user namespace can be made here")
    with enforcing(host, before=alone) as daemon:
        daemon.until(lambda: "watch_degraded" in daemon.log.read_text(), "reported")
        daemon.until(lambda: at_rest(daemon, host), "renewed")
        host.at(KEY).chmod(0o644)
        daemon.until(lambda: "too_open" in daemon.reasons("apiserver"), "seen")
        host.at(KEY).chmod(0o600)


def lose(directory: Path) -> None:
    """Rename the directory before its removal, because the daemon writes into it at the same time."""
    gone = directory.with_name(f"{directory.name}.gone")
    directory.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


@pytest.mark.long
def test_the_runtime_directory_is_lost(waiting: Host) -> None:
    """If the runtime directory is removed, the daemon reports it once and continues. When the directory exists again,
    the daemon publishes all files again.
    """
    before = waiting.serials()
    with enforcing(waiting) as daemon:
        lose(daemon.runtime)
        waiting.at(HOLD).unlink()
        daemon.until(lambda: before.items().isdisjoint(waiting.serials().items()), "renewed")
        daemon.until(lambda: "publish_failed" in daemon.log.read_text(), "reported")
        daemon.runtime.mkdir()
        os.utime(waiting.at(CRT))
        daemon.until(lambda: at_rest(daemon, waiting), "published")
        daemon.until((daemon.runtime / "heartbeat.json").exists, "alive")
        assert daemon.log.read_text().count('"publish_failed"') == 1
        assert "Traceback" not in daemon.log.read_text()


@pytest.mark.long
def test_it_ends_cleanly_without_its_runtime_directory(waiting: Host) -> None:
    """If the path of the runtime directory has another file, the stopped daemon exits 0."""
    with enforcing(waiting) as daemon:
        lose(daemon.runtime)
        daemon.runtime.write_text("something else")
        assert daemon.stop() == 0


# The state directory


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00{]" * 20)


def _other(path: Path) -> None:
    path.write_text('{"schema": 1, "attempts": [1, {"a": null}], "when": "never", "files": 3}')


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def _gone(path: Path) -> None:
    path.unlink()


DAMAGES = [_truncated, _garbage, _other, _directory, _link, _gone]


@pytest.mark.long
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_state_that_is_damaged(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Whichever file of the state directory is truncated, garbage, another document, a directory, a link or missing:
    certmond renews what is due, or keeps the old certificate and names the file. After that file is moved away, it
    renews the certificate.
    """
    original = Host(tmp_path / "original", "apiserver")
    original.start()
    names = [str(path.relative_to(original.state)) for path in original.state.rglob("*") if path.is_file()]
    assert len(names) >= 5
    for number, name in enumerate(sorted(names)):
        host = original.copy(tmp_path / str(number))
        host.now += YEAR
        damage(host.state / name)
        before = host.serials()
        try:
            [outcome] = host.start_once()
            said = "" if outcome.result == "done" else outcome.message
        except WriteError as error:
            said = str(error)
        assert (said == "") == (host.serials() != before), name
        if said:
            assert str(host.state / name) in said
            path = host.state / name
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
            host.now += DAY
            host.start()
        assert host.unwell() == [], name
        assert host.serials() != before
        shutil.rmtree(host.place)


@pytest.mark.long
def test_the_state_directory_is_lost(waiting: Host) -> None:
    """If the state directory is removed, even while the daemon runs, the daemon creates it again and renews what is
    due.
    """
    with enforcing(waiting) as daemon:
        waiting.state.rename(waiting.state.with_name("lost"))  # at once, although the daemon writes meanwhile
        waiting.at(HOLD).unlink()
        daemon.until(lambda: at_rest(daemon, waiting), "renewed")
        assert "Traceback" not in daemon.log.read_text()
    assert sorted(path.name for path in waiting.state.iterdir() if path.suffix != ".json") >= [".lock", "archive"]
    well(waiting)


# The clock


@pytest.mark.parametrize("year", [2038, 2039, 2049, 2050, 2106, 2107, 9980])
def test_whatever_the_year(tmp_path: Path, year: int) -> None:
    """After 2038-01-19 (32 bits with a sign), after 2049 (UTCTime) and after 2106 (32 bits), certificates are renewed
    and are valid, and the messages have the exact second.
    """
    host = Host(tmp_path / "host", "apiserver", "admin.conf", now=datetime(year, 2, 8, 12, tzinfo=UTC))
    assert [outcome.result for outcome in host.start()] == ["done", "done"]
    assert host.unwell() == []
    assessment = host.look()
    ends = [each.certificate.not_after for each in assessment.certificates if each.certificate]
    assert all(end > host.now for end in ends)
    reported = re.findall(
        r"^certmond_certificate_not_after_timestamp_seconds\S+ (\S+)$", Renderer().metrics(assessment), re.MULTILINE
    )
    assert sorted(map(float, reported)) == sorted(end.timestamp() for end in ends)


@pytest.mark.long
def test_a_certificate_without_an_end(host: Host) -> None:
    """9999-12-31T23:59:59Z (RFC 5280, 4.1.2.5) is watched as any other, never due, and its second is in the metrics."""
    leaf = make_leaf(
        host.ca, "forever", not_before=host.now - DAY, not_after=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    )
    host.settings["mode"] = "observe"
    host.entries = {"forever": {"path": "/etc/forever.crt", "ca": "ca", "usages": ["client auth"]}}
    host.put("/etc/forever.crt", leaf.pem)
    with enforcing(host) as daemon:
        assert daemon.series("certmond_certificate_not_after_timestamp_seconds", "forever") == [253402300799.0]
        assert daemon.reasons("forever") == {"outlives_ca"}


@pytest.mark.parametrize("leap", [YEAR, -YEAR])
def test_a_clock_that_leaps(tmp_path: Path, leap: timedelta) -> None:
    """If the clock leaps a year forward or back, the daemon judges by its clock. When the clock is right again, so is
    the daemon.
    """
    host = Host(tmp_path / "host", "apiserver", mode="observe")
    runtime = tmp_path / "run"
    clock = Shifted(host.now)
    daemon = Daemon(
        lambda: parse([Source("test", yaml.safe_dump(host.document()))]), root=str(host.root), runtime_dir=runtime,
        state_dir=host.state, journal=Journal("none"), clock=clock,
    )  # fmt: skip
    sleeper = subprocess.Popen(["sleep", "infinity"], text=True)
    seen = Running(sleeper, runtime, Path(os.devnull))
    wrong = {"expired"} if leap > timedelta(0) else {"not_yet_valid"}

    def script() -> None:
        usual = seen.until(lambda: seen.reasons("apiserver"), "looked")
        clock.instant = host.now + leap * 1.1
        os.utime(host.at(CRT))
        seen.until(lambda: seen.reasons("apiserver") >= wrong, "by its clock")
        clock.instant = host.now
        os.utime(host.at(CRT))
        seen.until(lambda: seen.reasons("apiserver") == usual, "right again")

    try:
        with in_process(daemon, script):
            pass
    finally:
        sleeper.kill()
        sleeper.wait()


# The table


def test_each_promise_names_a_test() -> None:
    """Every row of docs/faults.md has the test that shows it, by a name that is there."""
    rows = [line for line in (ROOT / "docs/faults.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    promises = [line for line in rows if not line.startswith("| fault |")]
    assert len(promises) > 20
    for line in promises:
        named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", line.split("|")[3])
        assert named, line
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text("utf-8"), f"{file} has no {test}"
