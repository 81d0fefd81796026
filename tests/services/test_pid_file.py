"""The PID file of a service names the process whose start certmond compares with the files of the service."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certmond.services.pid_file import service_state

HOUR = timedelta(hours=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the PID file of this process, written now."""
    path = tmp_path / "web.pid"
    path.write_text(f"{os.getpid()}\n")
    return path


def test_a_pid_file_shows_the_start_of_its_process(file: Path) -> None:
    """The state has the start time of the process, and an instance that another process does not have."""
    before = datetime.now(UTC)
    with subprocess.Popen(["sleep", "infinity"]) as child:
        after = datetime.now(UTC)
        file.write_text(f"  {child.pid} 7\n8\n")
        seen = service_state(str(file))
        child.kill()
    assert seen.running
    assert seen.started_at
    assert before - timedelta(seconds=1) < seen.started_at < after + timedelta(seconds=1)
    file.write_text(str(os.getpid()))
    own = service_state(str(file))
    assert own.running
    assert own.instance not in {"", seen.instance}
    assert own.instance == service_state(str(file)).instance


@pytest.mark.parametrize("name", ["no.pid", "web.pid/no.pid"])
def test_without_its_pid_file_a_service_does_not_run(file: Path, name: str) -> None:
    """The service is not in an outage: a standby controller has no PID file of HAProxy."""
    seen = service_state(str(file.parent / name))
    assert (seen.running, seen.problem, seen.demanded_by, seen.idle_since) == (False, None, "", None)


def test_a_pid_file_of_an_ended_process_is_reported(file: Path) -> None:
    """The service does not run since the last write to the file at the latest, and the problem names the process."""
    with subprocess.Popen(["true"]) as child:
        child.wait()
    file.write_text(str(child.pid))
    seen = service_state(str(file))
    assert (seen.running, seen.instance, seen.demanded_by) == (False, "", str(file))
    assert seen.problem == f"{file} names the process {child.pid}, which is not in /proc"
    assert seen.idle_since == datetime.fromtimestamp(file.stat().st_mtime, UTC)


def test_a_process_that_started_after_the_pid_file_is_another_process(file: Path) -> None:
    """The kernel has used the PID again: certmond does not take the start of this process for that of the service."""
    old = time.time() - 10 * 365 * 86400
    os.utime(file, (old, old))
    seen = service_state(str(file))
    assert seen.running is None
    assert seen.started_at is None
    assert seen.instance  # a restart must end this process, whatever the file says later
    assert seen.problem
    assert f"but the process {os.getpid()} started at" in seen.problem
    assert "another process has this PID now" in seen.problem
    assert seen.idle_since  # the start of the node, which is later than the file


@pytest.mark.parametrize("content", ["", "0\n", "-5\n", "five\n", "12x\n", "9999999999\n", "\0\0"])
def test_a_file_without_a_pid_leaves_the_state_unknown(file: Path, content: str) -> None:
    """An empty file, as during the start of a service, is no proof that the service does not run."""
    file.write_text(content)
    seen = service_state(str(file))
    assert (seen.running, seen.problem) == (None, f"{file} contains no PID")
    assert seen.idle_since == datetime.fromtimestamp(file.stat().st_mtime, UTC)


def test_a_pid_file_that_is_not_readable_leaves_the_state_unknown(file: Path, tmp_path: Path) -> None:
    """The problem names the file and the cause."""
    directory, loop, pipe = tmp_path / "directory", tmp_path / "loop", tmp_path / "pipe"
    directory.mkdir()
    loop.symlink_to(loop)
    os.mkfifo(pipe, 0o600)
    for path in (directory, loop, pipe):
        seen = service_state(str(path))
        assert seen.running is None
        assert seen.problem
        assert seen.problem.startswith(f"{path} is not readable (")


def test_a_pid_file_that_other_users_can_write_is_not_used(file: Path) -> None:
    """Another user could name a younger process, so that certmond would restart the service no longer."""
    file.chmod(0o666)
    seen = service_state(str(file))
    assert (seen.running, seen.started_at) == (None, None)
    assert seen.problem == f"other users can write {file} (mode 0666); run: chmod go-w {file}"


def test_a_malformed_process_is_no_process(file: Path, tmp_path: Path) -> None:
    """A start time that is out of range or malformed never raises an exception."""
    directory = tmp_path / "proc" / str(os.getpid())
    directory.mkdir(parents=True)
    for stat in ("", f"1 (x) S 1 {'0 ' * 17} {10**30}", "1 (x) S 1"):
        (directory / "stat").write_text(stat)
        seen = service_state(str(file), str(tmp_path / "proc"))
        assert seen.running is False
        assert seen.problem
